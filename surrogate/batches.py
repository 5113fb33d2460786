"""The order of the data: a function of seed and epoch alone, so that every loss sees the same and a run resumes."""

from __future__ import annotations

import os
from collections import deque
from collections.abc import Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor

import numpy as np
import torch
from torch import Tensor

from surrogate.protocols import Dataset

Batch = tuple[Tensor, Tensor]


def seed_of(*parts: int) -> int:
    """One 63-bit seed from several numbers; the same parts give the same seed on every machine.

    Their number is a part too: `SeedSequence` alone takes (3,) and (3, 0) for the same.

    >>> seed_of(3) == seed_of(3, 0)
    False
    """
    return int(np.random.SeedSequence((len(parts), *parts)).generate_state(1, np.uint64)[0] >> np.uint64(1))


def generator_of(*parts: int) -> torch.Generator:
    """A CPU generator of its own for each combination of parts."""
    return torch.Generator().manual_seed(seed_of(*parts))


def shuffled(items: Sequence[int], *parts: int) -> list[int]:
    """The items in an order drawn from the parts."""
    order = torch.randperm(len(items), generator=generator_of(*parts))
    return [items[i] for i in order.tolist()]


def chunks(items: Sequence[int], size: int) -> list[list[int]]:
    """Runs of `size` items; the last one may be shorter.

    >>> chunks([5, 6, 7], 2)
    [[5, 6], [7]]
    """
    return [list(items[start : start + size]) for start in range(0, len(items), size)]


def even_chunks(items: Sequence[int], size: int) -> list[list[int]]:
    """As few runs of at most `size` items as can be; their lengths differ by one at most.

    >>> even_chunks([5, 6, 7, 8], 3)
    [[5, 6], [7, 8]]
    """
    runs = -(-len(items) // size)
    return [list(items[len(items) * k // runs : len(items) * (k + 1) // runs]) for k in range(runs)]


def steps(items: Sequence[int], size: int) -> list[list[int]]:
    """`chunks` to train on: a last one of a single item joins the one before, for batch norm cannot train on it.

    >>> steps([5, 6, 7], 2)
    [[5, 6, 7]]
    """
    plan = chunks(items, size)
    if size > 1 and len(plan) > 1 and len(plan[-1]) == 1:
        last = plan.pop()
        plan[-1] += last
    return plan


def load_batches(dataset: Dataset, batches: Sequence[Sequence[int]], *, augment: Sequence[int] = ()) -> Iterator[Batch]:
    """Stacked inputs and targets of the given sample numbers, read ahead by threads, in order.

    `augment` are the parts of a seed from which, with the sample's number, each sample's augmentation is drawn;
    without parts the samples come as they are.
    """

    def load(indices: Sequence[int]) -> list[Batch]:
        generators = [generator_of(*augment, index) if augment else None for index in indices]
        return [dataset.load(i, g) for i, g in zip(indices, generators, strict=True)]

    # Not by the threads: a parallel operation in one of them wakes more.
    def stacked(samples: Sequence[Batch]) -> Batch:
        return torch.stack([s[0] for s in samples]), torch.stack([s[1] for s in samples])

    workers = min(8, os.cpu_count() or 1)
    with ThreadPoolExecutor(workers) as pool:
        waiting: deque[Future[list[Batch]]] = deque()
        try:
            for indices in batches:
                waiting.append(pool.submit(load, indices))
                if len(waiting) > workers:
                    yield stacked(waiting.popleft().result())
            while waiting:
                yield stacked(waiting.popleft().result())
        finally:
            for future in waiting:
                future.cancel()
