"""Tables: bundled ones and a user's own, made unbalanced, cut into splits and standardised."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from torch import Generator, Tensor

from surrogate.errors import DataError, UsageError
from surrogate_tabular.csvtable import Column, read_csv
from surrogate_tabular.recipe import BUNDLED, TableRecipe

LEAST = 5
"""Samples of each class that a split needs to be judged by."""

IN_A_POOL = 4
"""Samples of each class that a pool of the train split needs, on average. A fit wants both classes in five pools, and
with four of a rare one in each of five, all have it in 95 % of the draws, with two in 54 %."""


class Rows:
    """One split: samples in the order of the table."""

    def __init__(self, inputs: Tensor, targets: Tensor, numbers: list[int], *, noise: float = 0.0) -> None:
        self.inputs, self.targets, self.numbers, self.noise = inputs, targets, numbers, noise

    def __len__(self) -> int:
        return len(self.targets)

    def load(self, index: int, generator: Generator | None) -> tuple[Tensor, Tensor]:
        """`(D,)` float32 standardised input, with noise for a generator, and `()` int64 class."""
        inputs = self.inputs[index]
        if generator is not None and self.noise:
            inputs = inputs + self.noise * torch.randn(inputs.shape, generator=generator)
        return inputs, self.targets[index]

    def name(self, index: int) -> str:
        """Its number in the table, from 1."""
        return f"sample {self.numbers[index] + 1}"


@dataclass(frozen=True)
class Table:
    """A checked table."""

    title: str
    splits: dict[str, Rows]
    contents: str
    """How many inputs, and, of a CSV, what they are made of."""

    @property
    def features(self) -> int:
        """Inputs of a sample."""
        return self.splits["train"].inputs.shape[1]

    def class_counts(self) -> Tensor:
        """`(2,)` int64: negatives and positives of the train split."""
        return torch.bincount(self.splits["train"].targets, minlength=2)


def open_table(recipe: TableRecipe, *, pools: int) -> Table:
    """The table of the recipe: stratified splits, standardised by mean and deviation of the train split.

    Raises:
        DataError: the table cannot be read, or a class has too few samples for the splits and the `pools` of train.
        UsageError: a target or a positive class is named for a bundled table.
    """
    inputs, targets, title, columns = _read(recipe)
    kept = _unbalanced(targets, share=recipe.keep, seed=recipe.seed)
    _check_enough(targets[kept], recipe, pools=pools, title=title)
    numbers = _split(kept, targets, share=recipe.holdout, seed=recipe.seed)
    train = inputs[numbers["train"]]
    spread = train.std(0)
    varies = spread > 1e-12 * np.abs(train).max(0)  # of a constant it is rounding
    scaled = (inputs - train.mean(0)) / np.where(varies, spread, 1.0)
    splits = {
        name: Rows(
            torch.from_numpy(scaled[rows]).float(), torch.from_numpy(targets[rows]), rows.tolist(), noise=recipe.noise
        )
        for name, rows in numbers.items()
    }
    return Table(title, splits, _contents(train.shape[1], columns, numbers["train"]))


def _read(recipe: TableRecipe) -> tuple[np.ndarray, np.ndarray, str, tuple[Column, ...]]:
    """`(N, D)` float64 inputs, `(N,)` int64 classes, what they are, and the columns of a CSV."""
    from sklearn.datasets import load_breast_cancer, load_digits  # here and below: it loads slowly, and rich with it

    for key, value in (("target", recipe.target), ("positive", recipe.positive)):
        if value and recipe.path in BUNDLED:
            raise UsageError(
                f"data.{key} is {value!r}, but the classes of the bundled table {recipe.path!r} are given; name a CSV "
                f"with --data, or leave out data.{key}"
            )
    if recipe.path == "digits":
        inputs, labels = load_digits(return_X_y=True)
        return inputs, (labels == recipe.digit).astype(np.int64), f"digits, {recipe.digit} against the rest", ()
    if recipe.path == "cancer":
        inputs, labels = load_breast_cancer(return_X_y=True)
        return inputs, (labels == 0).astype(np.int64), "breast cancer, malignant against benign", ()
    columns, targets, positive = read_csv(Path(recipe.path), target=recipe.target, positive=recipe.positive)
    inputs = np.concatenate([column.values for column in columns], axis=1)
    return inputs, targets, f"{Path(recipe.path).name}, {positive} against the rest", columns


def _contents(inputs: int, columns: Sequence[Column], train: np.ndarray) -> str:
    """Such as `8 inputs (5 numbers, 1 category of 3)`, and which columns are the same in all samples of train."""
    if not columns:
        return f"{inputs} inputs"
    numbers = sum(not column.category for column in columns)
    words = [column.values.shape[1] for column in columns if column.category]
    kinds = [f"{numbers} number{'s' * (numbers > 1)}"] * (numbers > 0)
    if words:
        kinds.append(f"{len(words)} categor{'ies' if len(words) > 1 else 'y'} of {' + '.join(map(str, words))}")
    same = [column.name for column in columns if (column.values[train] == column.values[train[0]]).all()]
    constant = f"; constant in train: {', '.join(same[:3])}{', ...' * (len(same) > 3)}" if same else ""
    return f"{inputs} input{'s' * (inputs > 1)} ({', '.join(kinds)}){constant}"


def _unbalanced(targets: np.ndarray, *, share: float, seed: int) -> np.ndarray:
    """Numbers of the samples that stay, ascending: all negatives, and a random share of the positives."""
    positives = np.random.default_rng(seed).permutation(np.flatnonzero(targets == 1))
    return np.sort(np.concatenate([np.flatnonzero(targets == 0), positives[: round(share * len(positives))]]))


def _check_enough(targets: np.ndarray, recipe: TableRecipe, *, pools: int, title: str) -> None:
    """Raises `DataError` where the rarer class has too few samples, with what would do."""
    counts = np.bincount(targets, minlength=2)
    least, enough = int(counts.min()), _enough(recipe.holdout, pools)
    if least >= enough:
        return
    fixes = ["bring more data"]
    shares = [share for share in (percent / 100 for percent in range(1, 41)) if least >= _enough(share, pools)]
    if shares:
        fixes.insert(0, f"set data.holdout={min(shares, key=lambda share: abs(share - recipe.holdout)):g}")
    if recipe.keep < 1.0 and counts[1] < counts[0]:
        fixes.insert(0, "raise data.keep")
    raise DataError(
        f"{title}: {least} samples of the rarer class, expected {enough} or more at data.holdout={recipe.holdout:g}: "
        f"{LEAST} each in val and test, and in train {IN_A_POOL} for each of the collect.pools={pools}; "
        f"{' or '.join(fixes)}"
    )


def _enough(share: float, pools: int) -> int:
    """Samples of a class that are enough for val and test of this share each, and for the pools of the rest."""
    return math.ceil(round(max(LEAST / share, IN_A_POOL * pools / (1 - 2 * share)), 6))


def _split(kept: np.ndarray, targets: np.ndarray, *, share: float, seed: int) -> dict[str, np.ndarray]:
    """Sample numbers of train, val and test, ascending, each with the same share of positives."""
    from sklearn.model_selection import train_test_split

    rest, test = train_test_split(kept, test_size=share, stratify=targets[kept], random_state=seed)
    train, val = train_test_split(rest, test_size=share / (1 - share), stratify=targets[rest], random_state=seed)
    return {"train": np.sort(train), "val": np.sort(val), "test": np.sort(test)}
