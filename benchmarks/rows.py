"""What a benchmark gives: rows, each one number with how sure it is of it."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field

import torch

from benchmarks.harness import Case, Plan, Summary, ratios, seconds, summary


@dataclass(frozen=True, slots=True)
class Row:
    """One number of one benchmark. Without a value it was not measured, and `note` says why."""

    subject: str
    """The file that measured it."""
    what: str
    """What was measured, the same for all cases; goals are looked up by it."""
    case: str
    """Under which sizes."""
    anchor: str = ""
    """What it is a ratio to; empty for an absolute number."""
    unit: str = "ratio"
    value: float | None = None
    low: float | None = None
    high: float | None = None
    p20: float | None = None
    p80: float | None = None
    n: int = 0
    noisy: bool = False
    anchor_ms: float | None = None
    """Median milliseconds of the anchor, to see the order of magnitude by."""
    note: str = ""
    points: tuple[tuple[float, float], ...] = ()
    """(size, cost) pairs that a slope was fitted to."""


@dataclass(frozen=True, slots=True)
class Settings:
    """What every benchmark is told."""

    plan: Plan = field(default_factory=Plan)
    device: torch.device = field(default_factory=lambda: torch.device("cpu"))
    tiny: bool = False
    """Sizes of a test: seconds for everything, and numbers that say nothing."""


def compared(
    settings: Settings, subject: str, case: str, cases: Mapping[str, Case], whats: Mapping[tuple[str, str], str]
) -> Iterator[Row]:
    """Runs cases in the same rounds and gives a row for each (candidate, anchor) in `whats`, named by its text."""
    first_anchor = next(anchor for _, anchor in whats)
    taken = seconds(cases, settings.plan, anchor=first_anchor)
    for (candidate, anchor), what in whats.items():
        found = ratios({candidate: taken[candidate], anchor: taken[anchor]}, anchor=anchor)[candidate]
        yield row(subject, what, case, found, anchor=anchor, anchor_ms=1e3 * summary(taken[anchor]).median)


def row(
    subject: str,
    what: str,
    case: str,
    found: Summary,
    *,
    anchor: str = "",
    unit: str = "ratio",
    anchor_ms: float | None = None,
) -> Row:
    """A measured row."""
    return Row(
        subject, what, case, anchor, unit, found.median, found.low, found.high, found.p20, found.p80, found.n,
        found.noisy, anchor_ms,
    )  # fmt: skip


def rate(subject: str, what: str, case: str, taken: list[float], amount: float, *, unit: str) -> Row:
    """A throughput: `amount` of work in each of the measured seconds."""
    return row(subject, what, case, summary([amount / s for s in taken]), unit=unit)
