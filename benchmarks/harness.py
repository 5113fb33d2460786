"""Timing by paired rounds: absolute times drift on a shared machine, ratios taken side by side do not."""

from __future__ import annotations

import itertools
import random
import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray

Call = Callable[[], object]

ENOUGH = 0.05
"""A comparison may stop when its 95 % intervals are this wide, as a share of the median."""
NOISY = 0.10
"""Beyond this width a ratio is marked noisy."""


_LAUNCHES = 20_000_000
"""Clock cycles in which a run can be launched: some ten milliseconds."""


@dataclass(frozen=True, slots=True)
class Case:
    """One contestant: what is timed, and what makes it ready again, untimed, before each run."""

    run: Call
    reset: Call = lambda: None


@dataclass(frozen=True, slots=True)
class Plan:
    """How long a comparison goes on."""

    rounds: int = 30
    least: int = 8
    """Rounds before it may stop early, because it is sure or because its time is up."""
    seconds: float = 8.0
    """What the rounds of one comparison may take, warm-up not counted."""
    seed: int = 0


@dataclass(frozen=True, slots=True)
class Summary:
    """The median of paired values, its 95 % interval, the middle 60 % of the values, and their number."""

    median: float
    low: float
    high: float
    p20: float
    p80: float
    n: int

    @property
    def noisy(self) -> bool:
        """Whether the interval is too wide to speak of the second digit."""
        return self.high - self.low > NOISY * abs(self.median)


def summary(values: list[float], *, resamples: int = 2000) -> Summary:
    """Median of the values with its percentile bootstrap interval (Efron and Tibshirani 1993, Ch. 13); seeded."""
    array: NDArray[np.float64] = np.asarray(values, np.float64)
    drawn = np.random.default_rng(0).integers(len(array), size=(resamples, len(array)))
    low, high = np.percentile(np.median(array[drawn], axis=1), [2.5, 97.5])
    p20, median, p80 = np.percentile(array, [20, 50, 80])
    return Summary(float(median), float(low), float(high), float(p20), float(p80), len(array))


def seconds(cases: Mapping[str, Case], plan: Plan, *, anchor: str) -> dict[str, list[float]]:
    """Seconds of each case in each round; all cases run once a round, in random order, after two runs to warm up."""
    for case in [*cases.values()] * 2:
        timed(case)
    order, taken = list(cases), {name: list[float]() for name in cases}
    dice, began = random.Random(plan.seed), time.perf_counter()
    for number in range(1, plan.rounds + 1):
        dice.shuffle(order)
        for name in order:
            taken[name].append(timed(cases[name]))
        late = time.perf_counter() - began > plan.seconds
        if number >= plan.least and (late or _sure(taken, anchor)):
            break
    return taken


def ratios(taken: Mapping[str, list[float]], *, anchor: str) -> dict[str, Summary]:
    """Each case over the anchor, round by round."""
    return {
        name: summary([ours / theirs for ours, theirs in zip(times, taken[anchor], strict=True)])
        for name, times in taken.items()
        if name != anchor
    }


def timed(case: Case) -> float:
    """Seconds of one run, from an idle device to an idle device."""
    case.reset()
    _settle()
    began = time.perf_counter()
    case.run()
    _settle()
    return time.perf_counter() - began


def device_seconds(case: Case) -> float:
    """Seconds that a GPU works on one run when all its launches wait for it, as they do within a training step."""
    case.reset()
    began, ended = (torch.cuda.Event(enable_timing=True) for _ in range(2))
    _settle()
    torch.cuda._sleep(_LAUNCHES)
    began.record()
    case.run()
    ended.record()
    _settle()
    return began.elapsed_time(ended) / 1e3


def slope(sizes: list[float], costs: list[float]) -> float:
    """The exponent of cost ~ size^k: least squares through the logarithms."""
    return float(np.polyfit(np.log(sizes), np.log(costs), 1)[0])


def sweep(start: int, stop: int, factor: int) -> Iterator[int]:
    """start, start * factor, ... up to stop."""
    return itertools.takewhile(lambda size: size <= stop, (start * factor**k for k in itertools.count()))


def _sure(taken: Mapping[str, list[float]], anchor: str) -> bool:
    found = ratios(taken, anchor=anchor) or {anchor: summary(taken[anchor])}
    return all(s.high - s.low <= ENOUGH * s.median for s in found.values())


def _settle() -> None:
    if torch.cuda.is_available():
        torch.cuda.synchronize()
