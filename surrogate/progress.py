"""How a stage tells what it is doing: it yields `Progress` and returns its result."""

from __future__ import annotations

from collections.abc import Generator, Mapping
from dataclasses import dataclass, field
from typing import TypeVar

T = TypeVar("T")


@dataclass(frozen=True, slots=True)
class Progress:
    """One step of a stage that a user waits for.

    `step` of `total` is how far the stage is (0 <= step <= total). `values` are the numbers of this step, by name.
    A `message` is worth a line of its own in a log; without one, the step only moves a progress bar.
    """

    stage: str
    step: int
    total: int
    message: str = ""
    values: Mapping[str, float] = field(default_factory=dict)


Stage = Generator[Progress, None, T]


def finish(stage: Stage[T]) -> T:
    """Runs a stage to its end, silently, and returns its result."""
    while True:
        try:
            next(stage)
        except StopIteration as end:
            result: T = end.value
            return result
