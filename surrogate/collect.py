"""Recording soft statistics of a model's outputs next to the true loss (NeuroIoU, Section 3.1)."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from surrogate.additive import batch_sums, continued, observed
from surrogate.batches import Batch, chunks, even_chunks, generator_of, load_batches, shuffled
from surrogate.draws import normal
from surrogate.engine import Engine
from surrogate.errors import DataError
from surrogate.moves import KINDS, SMALL, STEPS, Speed, direction, move
from surrogate.progress import Progress, Stage
from surrogate.protocols import Dataset, Measure
from surrogate.recipe import CollectRecipe
from surrogate.regimes import change
from surrogate.store import StoreWriter

Perfect = Callable[[Tensor, Tensor], Tensor]

_BEYOND = 3.0
"""How far out of its bounds a metric may be, in units of their width: far from the truth some are by a little."""
_PASSES = 3
_BATCHES = 150
"""At the least, where no number of passes is set and a batch makes the rows of one sample."""


@dataclass(frozen=True, slots=True)
class Item:
    """One batch to record: which samples, and the pool they come from (the sample id of its rows at batch level)."""

    indices: list[int]
    pool: int
    first: bool = False
    """Whether sums begin anew here, at level "dataset"."""


def plan(samples: int, settings: CollectRecipe, *, level: str, seed: int) -> list[Item]:
    """The batches of a collection, in order.

    At sample level each pass goes through the samples as they stand. At the other levels the samples are cut into pools
    first and batches of nearly the same size are drawn within a pool, in a new order each pass, so that no held-out
    batch shares an image with a fitted one, and none is a rest of a few. At level "dataset" the sums add up along a
    pass through a pool: rows speak of few samples and many.
    """
    if level == "sample":
        batches = chunks(range(samples), settings.batch_size)
        return [Item(indices, pool=-1) for _ in range(settings.passes or 1) for indices in batches]
    order = shuffled(range(samples), seed)
    pools = [order[number :: settings.pools] for number in range(settings.pools)]
    batches_of_a_pass = sum(len(even_chunks(pool, settings.batch_size)) for pool in pools)
    passes = settings.passes or max(_PASSES, -(-_BATCHES // max(batches_of_a_pass, 1)))
    return [
        Item(indices, number, first=place == 0)
        for round_ in range(passes)
        for number, pool in enumerate(pools)
        for place, indices in enumerate(even_chunks(shuffled(pool, seed, round_, number), settings.batch_size))
    ]


@torch.no_grad()
def collect(
    engine: Engine,
    model: nn.Module,
    dataset: Dataset,
    measure: Measure,
    perfect: Perfect,
    *,
    rows: StoreWriter,
    moves: StoreWriter,
    settings: CollectRecipe,
    seed: int,
) -> Stage[None]:
    """Writes a row per regime and row of the measure into `rows`, and the recorded moves into `moves`.

    Streams: one batch is in memory at a time. A killed collection continues after its last sealed shards and ends in
    the same bytes.
    """
    items = plan(len(dataset), settings, level=measure.level, seed=seed)
    first = min(rows.cursor, moves.cursor)
    if measure.level == "dataset":  # what has added up by then has to be added up again
        first = max((n for n, item in enumerate(items[: first + 1]) if item.first), default=0)
    running = Running(measure, len(settings.regimes))
    speed = Speed()
    model = engine.prepare(model).eval()
    batches = engine.moved(_loaded(dataset, items, first, settings=settings, seed=seed))
    for number, (inputs, targets) in enumerate(batches, first):
        item = items[number]
        outputs = model(inputs).float()
        ideal = perfect(outputs, targets)
        generator = generator_of(seed, number)
        if item.first:
            running.reset()
        if number >= moves.cursor:
            for kind, stats, change_ in _moves(
                running.measure(), outputs, targets, ideal, settings, seed, number, speed
            ):
                moves.append(stats, change_, sample_ids(item, len(change_)), regime=kind)
            moves.mark(number + 1)
        for regime, name in enumerate(settings.regimes):
            if number < rows.cursor and measure.level != "dataset":
                break
            changed = change(name, outputs, ideal, generator)
            if number >= rows.cursor:
                stats, value = observed(running.measure(regime), changed, targets)
                loss = measure.loss_of(value).cpu()
                _check_bounds(loss, value, measure)
                rows.append(stats, loss, sample_ids(item, len(value)), regime=regime)
            running.add(regime, changed, targets)
        if number >= rows.cursor:
            rows.mark(number + 1)
        yield Progress("collect", number + 1, len(items))
    rows.close()
    moves.close()
    yield Progress("collect", len(items), len(items), message=f"collected statistics of {len(items)} batches")


def _check_bounds(loss: Tensor, value: Tensor, measure: Measure) -> None:
    """Raises `DataError` where a metric is plainly of other bounds than it says, as in per cent: all is by them."""
    beyond = (loss < -_BEYOND) | (loss > 1.0 + _BEYOND)
    if beyond.any():
        worst = float(value.cpu()[beyond][0])
        raise DataError(
            f"metric: {worst:.6g}, out of its bounds {measure.bounds}; set the bounds of the measure to the least and "
            "the greatest value that it can take"
        )


class Running:
    """The sums of each regime so far, at level "dataset"; nothing at the others."""

    def __init__(self, measure: Measure, regimes: int) -> None:
        self._measure = measure
        self._sums: list[Tensor | None] = [None] * regimes

    def reset(self) -> None:
        """Begins anew."""
        self._sums = [None] * len(self._sums)

    def measure(self, regime: int = 0) -> Measure:
        """The measure of a batch together with what came before it in the regime."""
        before = self._sums[regime]
        return self._measure if before is None else continued(self._measure, before)

    def add(self, regime: int, outputs: Tensor, targets: Tensor) -> None:
        """Takes a batch in."""
        if self._measure.level == "dataset":
            sums, before = batch_sums(self._measure, outputs, targets), self._sums[regime]
            self._sums[regime] = sums if before is None else before + sums


def _loaded(dataset: Dataset, items: list[Item], first: int, *, settings: CollectRecipe, seed: int) -> Iterator[Batch]:
    """The batches from number `first` on; augmented ones are drawn anew for each batch."""
    if not settings.augment:
        yield from load_batches(dataset, [item.indices for item in items[first:]])
        return
    for number in range(first, len(items)):
        yield from load_batches(dataset, [items[number].indices], augment=(seed, number, 2))


def move_columns(measure: Measure) -> tuple[str, ...]:
    """Columns of the store of moves: the statistics, their change along the move, to first order, and the change of the
    loss under noise."""
    return (*measure.columns, *(f"d_{name}" for name in measure.columns), "change_under_noise")


def sample_ids(item: Item, rows: int) -> Tensor:
    """`(rows,)` int64: the sample (or, at batch level, the pool) each row of a batch speaks of."""
    if item.pool >= 0:
        return torch.full((rows,), item.pool)
    return torch.tensor(item.indices).repeat_interleave(rows // len(item.indices))


def _moves(
    measure: Measure,
    outputs: Tensor,
    targets: Tensor,
    ideal: Tensor,
    settings: CollectRecipe,
    seed: int,
    number: int,
    speed: Speed,
) -> Iterator[tuple[int, Tensor, Tensor]]:
    generator = generator_of(seed, number, 1)
    for turn in range(settings.moves):
        kind = (number * settings.moves + turn) % len(KINDS)
        step = STEPS[KINDS[kind]]
        start = outputs if kind in SMALL else _anywhere(outputs, ideal, settings.regimes, generator)
        way = direction(KINDS[kind], start, ideal, generator)
        noise = None
        if settings.noise:
            drawn = normal(outputs.shape, outputs, generator_of(seed, number, 3, turn)).to(outputs)
            noise = drawn.mul_(settings.noise * start.std(correction=0))
        found = move(measure, start, targets, way, step=step, noise=noise, speed=speed)
        yield kind, torch.cat([found.stats, step * found.velocity, found.smoothed.unsqueeze(1)], 1), found.change


def _anywhere(outputs: Tensor, ideal: Tensor, regimes: tuple[str, ...], generator: torch.Generator) -> Tensor:
    """The outputs under one of the regimes, drawn at random: where a long move starts.

    The value of a row at its worst leaves the slope free, and small moves ask nothing there. Asked at the outputs of
    the model alone, the slope is anything at the next step, where a lost class is predicted, wrongly at first.
    """
    name = regimes[int(torch.randint(len(regimes), (), generator=generator))]
    return change(name, outputs, ideal, generator)
