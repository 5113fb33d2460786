"""The order of the data: a function of the seed and the epoch alone."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Generator, Tensor

from surrogate.batches import chunks, generator_of, load_batches, seed_of, shuffled, steps
from surrogate.protocols import Dataset

PARTS = st.lists(st.integers(0, 2**31 - 1), min_size=3, max_size=3)


class Numbers:
    """Sample i is the number i, next to a number drawn for its augmentation; `before` runs ahead of each load."""

    def __init__(self, count: int, before: Callable[[int], None] = lambda _: None) -> None:
        self.count, self.before = count, before

    def __len__(self) -> int:
        return self.count

    def load(self, index: int, generator: Generator | None) -> tuple[Tensor, Tensor]:
        self.before(index)
        drawn = torch.zeros(()) if generator is None else torch.rand((), generator=generator)
        return torch.tensor(index), drawn

    def name(self, index: int) -> str:
        return str(index)


@given(PARTS, PARTS)
def test_seeds_are_equal_for_equal_parts_only(one: list[int], other: list[int]) -> None:
    assert seed_of(*one) == seed_of(*one)
    assert 0 <= seed_of(*one) < 2**63
    assert (seed_of(*one) == seed_of(*other)) == (one == other)


def test_seed_is_the_same_on_every_machine() -> None:
    """A recorded value: a run that is continued elsewhere has to see the same order."""
    assert seed_of(1, 2, 3) == 6530208866956668065


@given(st.integers(0, 50), st.integers(0, 100))
def test_shuffled_is_a_permutation_drawn_from_the_parts(count: int, seed: int) -> None:
    items = [7 * i for i in range(count)]
    assert sorted(shuffled(items, seed, 1)) == items
    assert shuffled(items, seed, 1) == shuffled(items, seed, 1)
    if count > 20:  # by chance equal once in 20! times
        assert shuffled(items, seed, 1) != shuffled(items, seed, 2)


@given(st.integers(0, 50), st.integers(1, 9))
def test_steps_hold_every_item_once_and_none_alone(items: int, size: int) -> None:
    plan = steps(range(items), size)
    assert [item for step in plan for item in step] == list(range(items))
    assert all(len(step) > 1 for step in plan) or size == 1 or items == 1
    assert all(len(step) == size for step in plan[:-1])


def test_the_global_generator_is_neither_read_nor_moved() -> None:
    torch.manual_seed(1)
    state = torch.get_rng_state()
    first = shuffled(range(10), 3), list(load_batches(Numbers(4), [[0, 1], [2, 3]], augment=(5,)))
    assert torch.equal(torch.get_rng_state(), state)
    torch.manual_seed(2)
    second = shuffled(range(10), 3), list(load_batches(Numbers(4), [[0, 1], [2, 3]], augment=(5,)))
    assert first[0] == second[0]
    assert all(torch.equal(a[1], b[1]) for a, b in zip(first[1], second[1], strict=True))


@given(st.lists(st.integers()), st.integers(1, 10))
def test_chunks_keep_order_and_size(items: list[int], size: int) -> None:
    cut = chunks(items, size)
    assert [item for chunk in cut for item in chunk] == items
    assert all(len(chunk) == size for chunk in cut[:-1])
    assert all(0 < len(chunk) <= size for chunk in cut[-1:])


def test_batches_come_in_the_order_asked_for_whichever_thread_is_first() -> None:
    slow_at_first = Numbers(40, before=lambda index: time.sleep(0.02 if index < 2 else 0.0))
    plan = chunks(range(40), 2)
    assert [inputs.tolist() for inputs, _ in load_batches(slow_at_first, plan)] == plan


def test_batches_are_stacked_samples(scenes: Dataset) -> None:
    ((inputs, targets),) = load_batches(scenes, [[3, 1]])
    assert inputs.shape == (2, 3, 6, 6)
    assert targets.shape == (2, 6, 6)
    assert torch.equal(inputs[1], scenes.load(1, None)[0])


def test_augmentation_depends_on_seed_epoch_and_sample_and_not_on_its_batch() -> None:
    def drawn(plan: list[list[int]], *parts: int) -> dict[int, float]:
        batches = load_batches(Numbers(6), plan, augment=parts)
        return {int(i): float(x) for inputs, draws in batches for i, x in zip(inputs, draws, strict=True)}

    alone = drawn([[i] for i in range(6)], 8, 1)
    assert drawn([[5, 0, 3], [2, 4, 1]], 8, 1) == alone
    assert len(set(alone.values())) == 6
    assert alone[4] == float(torch.rand((), generator=generator_of(8, 1, 4)))
    assert not set(alone.values()) & set(drawn([list(range(6))], 8, 2).values())
    assert not set(alone.values()) & set(drawn([list(range(6))], 9, 1).values())


def test_without_parts_samples_come_as_they_are() -> None:
    assert all((draws == 0).all() for _, draws in load_batches(Numbers(4), [[0, 1], [2, 3]]))


@pytest.mark.parametrize("bad", [0, 19, 39])
def test_an_error_of_the_data_set_arrives_after_the_batches_before_it(bad: int) -> None:
    def fail(index: int) -> None:
        if index == bad:
            raise OSError("no such image")

    seen = []
    with pytest.raises(OSError, match="no such image"):
        for inputs, _ in load_batches(Numbers(40, before=fail), chunks(range(40), 2)):
            seen += inputs.tolist()
    assert seen == list(range(bad - bad % 2))


def test_closing_early_stops_the_threads_and_does_not_load_the_rest() -> None:
    loaded = []
    threads = threading.active_count()
    batches = load_batches(Numbers(1000, before=loaded.append), chunks(range(1000), 1))
    next(batches)
    batches.close()  # type: ignore[attr-defined]
    assert threading.active_count() == threads
    assert len(loaded) < 100
    assert list(batches) == []


def test_no_batches_of_no_samples() -> None:
    assert list(load_batches(Numbers(0), [])) == []
