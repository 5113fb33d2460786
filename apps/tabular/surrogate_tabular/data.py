"""Tables: bundled ones and a user's own, made unbalanced, cut into splits and standardised."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from torch import Generator, Tensor

from surrogate.errors import DataError
from surrogate_tabular.csvtable import read_csv
from surrogate_tabular.recipe import TableRecipe

LEAST = 5
"""Samples of each class that a split needs to be judged by."""


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

    @property
    def features(self) -> int:
        """Inputs of a sample."""
        return self.splits["train"].inputs.shape[1]

    def class_counts(self) -> Tensor:
        """`(2,)` int64: negatives and positives of the train split."""
        return torch.bincount(self.splits["train"].targets, minlength=2)


def open_table(recipe: TableRecipe) -> Table:
    """The table of the recipe: stratified splits, standardised by mean and deviation of the train split.

    Raises:
        DataError: the table cannot be read, or a class is left with too few samples.
    """
    inputs, targets, title = _read(recipe)
    kept = _unbalanced(targets, share=recipe.keep, seed=recipe.seed)
    numbers = _split(kept, targets, share=recipe.holdout, seed=recipe.seed, title=title)
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
    return Table(title, splits)


def _read(recipe: TableRecipe) -> tuple[np.ndarray, np.ndarray, str]:
    """`(N, D)` float64 inputs, `(N,)` int64 classes, and what they are."""
    from sklearn.datasets import load_breast_cancer, load_digits  # here and below: it loads slowly, and rich with it

    if recipe.path == "digits":
        inputs, labels = load_digits(return_X_y=True)
        return inputs, (labels == recipe.digit).astype(np.int64), f"digits, {recipe.digit} against the rest"
    if recipe.path == "cancer":
        inputs, labels = load_breast_cancer(return_X_y=True)
        return inputs, (labels == 0).astype(np.int64), "breast cancer, malignant against benign"
    inputs, targets, positive = read_csv(Path(recipe.path), target=recipe.target, positive=recipe.positive)
    return inputs, targets, f"{Path(recipe.path).name}, {positive} against the rest"


def _unbalanced(targets: np.ndarray, *, share: float, seed: int) -> np.ndarray:
    """Numbers of the samples that stay, ascending: all negatives, and a random share of the positives."""
    positives = np.random.default_rng(seed).permutation(np.flatnonzero(targets == 1))
    return np.sort(np.concatenate([np.flatnonzero(targets == 0), positives[: round(share * len(positives))]]))


def _split(kept: np.ndarray, targets: np.ndarray, *, share: float, seed: int, title: str) -> dict[str, np.ndarray]:
    """Sample numbers of train, val and test, ascending, each with the same share of positives."""
    from sklearn.model_selection import train_test_split

    least = int(np.bincount(targets[kept], minlength=2).min())
    fewest = int(least * min(share, 1 - 2 * share))
    if fewest < LEAST:
        raise DataError(
            f"{title}: {least} samples of the rarer class leave {fewest} in a split, expected {LEAST} or more; "
            "raise data.keep, change data.holdout, or bring more data"
        )
    rest, test = train_test_split(kept, test_size=share, stratify=targets[kept], random_state=seed)
    train, val = train_test_split(rest, test_size=share / (1 - share), stratify=targets[rest], random_state=seed)
    return {"train": np.sort(train), "val": np.sort(val), "test": np.sort(test)}
