"""What the loops beside this file train on: the embedded digit scenes at 32x32, and a surrogate fitted to them.

In a project of your own, your data and the file that `surrogate fit` wrote for it stand here instead.
"""

import argparse
from collections.abc import Iterable, Iterator
from itertools import count, islice
from pathlib import Path

import torch
from torch import Tensor
from torch.utils.data import DataLoader, Dataset

from surrogate.pipeline import Request, fit
from surrogate.progress import finish
from surrogate_segmentation.data import open_data
from surrogate_segmentation.recipe import DataRecipe

SIZE = "32x32"
CLASSES, VOID = 7, 255
TINY = {
    "data.size": SIZE,
    "model.width": 4,
    "train.epochs": 1,
    "train.lr": 0.005,
    "train.batch_size": 32,
    "collect.batch_size": 32,
    "collect.regimes": ("model", "noisy", "towards"),
    "fit.epochs": 10,
    "fit.width": 32,
    "data.augment": False,
}
"""Settings that fit in seconds, for a demonstration; `surrogate fit` without them for anything else."""


class Scenes(Dataset[tuple[Tensor, Tensor]]):
    """`(3, 32, 32)` float32 image and `(32, 32)` int64 labels in [0, 7), or 255 where void."""

    def __init__(self, split: str) -> None:
        self.split = open_data(DataRecipe(size=SIZE)).splits[split]

    def __len__(self) -> int:
        return len(self.split)

    def __getitem__(self, index: int) -> tuple[Tensor, Tensor]:
        return self.split.load(index, None)


def read_arguments() -> argparse.Namespace:
    """`[SURROGATE] [--steps N]` of the command line; where it names no surrogate, a tiny one is fitted first."""
    parser = argparse.ArgumentParser(description="Train through a learned loss for a few steps.")
    parser.add_argument("surrogate", type=Path, nargs="?", help="a surrogate.safetensors; none: a tiny one is fitted")
    parser.add_argument("--steps", type=int, default=20)
    given = parser.parse_args()
    torch.manual_seed(0)
    given.surrogate = given.surrogate or tiny_surrogate()
    return given


def tiny_surrogate(run: Path = Path("runs/examples")) -> Path:
    """Fits a surrogate of IoU in the run folder, as `surrogate fit` does, unless it is there."""
    request = Request(app="segmentation", run=run, recipe=None, overrides=tuple(TINY.items()))
    return Path(finish(fit(request))["surrogate"])


def training_loader() -> DataLoader[tuple[Tensor, Tensor]]:
    """Batches of 16 training scenes, shuffled."""
    return DataLoader(Scenes("train"), batch_size=16, shuffle=True)


def taken(steps: int, loader: Iterable[tuple[Tensor, Tensor]]) -> Iterator[tuple[Tensor, Tensor]]:
    """So many batches, in as many epochs as that takes."""
    return islice((batch for _ in count() for batch in loader), steps)
