"""The project's own bars: what must hold (gate) and what would be a headline (stretch)."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from statistics import median

from benchmarks.rows import Row


@dataclass(frozen=True, slots=True)
class Goal:
    """A bar for all rows of one kind; the worst of them decides."""

    text: str
    subject: str
    what: str
    gate: float
    stretch: float
    anchor: str = ""
    device: str = "cpu"
    case: str = ""
    """Only rows whose case holds all of these words."""
    least: bool = True
    """Whether less is better."""

    def rows(self, rows: Sequence[Row]) -> list[Row]:
        """The rows it speaks of that have a value."""
        words = self.case.split()
        return [
            r
            for r in rows
            if (r.subject, r.what, r.anchor) == (self.subject, self.what, self.anchor)
            and all(word in r.case for word in words)
            and r.value is not None
        ]

    def bar(self, limit: float) -> str:
        return f"{'<=' if self.least else '>='} {limit:g}"

    def found(self, rows: Sequence[Row]) -> str:
        """The median with its interval; of several rows their median and range."""
        if not rows:
            return "not measured"
        values = [r.value for r in rows if r.value is not None]
        noisy = ", *noisy*" if any(r.noisy for r in rows) else ""
        if len(rows) == 1:
            return interval(rows[0]) + noisy
        return f"{median(values):.3g} ({min(values):.3g} to {max(values):.3g}, {len(values)} cases){noisy}"

    def verdict(self, rows: Sequence[Row]) -> str:
        values = [r.value for r in rows if r.value is not None]
        if not values:
            return "not measured"
        worst = max(values) if self.least else min(values)

        def holds(limit: float) -> bool:
            return worst <= limit if self.least else worst >= limit

        return "**stretch**" if holds(self.stretch) else "holds" if holds(self.gate) else "missed"


def interval(row: Row) -> str:
    """A row's value, with its 95 % interval where it has one.

    >>> interval(Row("loss", "", "", value=1.2, low=1.1, high=1.25))
    '1.2 [1.1, 1.25]'
    """
    if row.value is None:
        return "not measured"
    spread = "" if row.low is None or row.high is None else f" [{row.low:.3g}, {row.high:.3g}]"
    return f"{row.value:.3g}{spread}"


CE, MONAI, FORWARD = "eager CE", "MONAI Dice", "forward pass"

GOALS: tuple[Goal, ...] = (
    Goal("loss forward + backward, default path", "loss", "loss, auto", 1.5, 1.0, CE),
    Goal("the same, native path", "loss", "loss, auto", 0.85, 0.5, CE),
    Goal("the same, native path", "loss", "loss, auto", 1.35, 1.0, "compiled CE"),
    Goal("the same, fp32", "loss", "loss, auto", 0.60, 0.45, CE, device="cuda", case="16x21x512x512 fp32"),
    Goal("the same, bf16", "loss", "loss, auto", 0.30, 0.20, CE, device="cuda", case="16x21x512x512 bf16"),
    Goal(
        "the same, fp32, device time", "loss", "loss, auto, device time", 0.60, 0.45, CE,
        device="cuda", case="16x21x512x512 fp32",
    ),
    Goal(
        "the same, bf16, device time", "loss", "loss, auto, device time", 0.30, 0.20, CE,
        device="cuda", case="16x21x512x512 bf16",
    ),
    Goal("peak memory above the logits", "loss", "peak memory above the logits, auto", 0.40, 0.34, CE),
    Goal("peak memory above the logits", "loss", "peak memory above the logits, auto", 0.40, 0.34, CE, device="cuda"),
    Goal("loss against Dice", "loss", "loss, auto", 0.30, 0.15, MONAI),
    Goal("loss against Lovasz", "loss", "loss, auto", 0.08, 0.04, "Lovasz (ours)"),
    Goal("whole finetuning step", "step", "whole finetuning step", 1.10, 1.0, "step with CE"),
    Goal("whole finetuning step", "step", "whole finetuning step", 1.03, 1.0, "step with CE", device="cuda"),
    Goal("frozen MLP in the step, us of device time", "step", "frozen MLP, forward + backward", 30, 15, device="cuda"),
    Goal("collect, regime model", "collect", "collect, regime model", 1.10, 1.01, FORWARD),
    Goal("collect, regime model", "collect", "collect, regime model", 1.03, 1.01, FORWARD, device="cuda"),
    Goal("store append, M rows/s", "store", "append in blocks of 4096", 5, 10, least=False),
    Goal("store read, time (0.7 of the speed)", "store", "read, time", 1 / 0.7, 1.0, "np.load of .npy"),
    Goal("fit, times faster", "fit", "fit, values alone, times faster", 1.4, 1.8, "MLPRegressor", least=False),
    Goal("fit, times faster", "fit", "fit, values alone, times faster", 1.9, 4.0, "DataLoader loop", least=False),
    Goal(
        "fit, times faster", "fit", "fit, values alone, times faster", 2.0, 4.0, "DataLoader loop",
        device="cuda", least=False,
    ),
    Goal("import surrogate.loss, s", "imports", "import surrogate.loss", 0.5, 0.2),
    Goal("import surrogate.pipeline, s", "imports", "import surrogate.pipeline", 0.5, 0.2),
    Goal("surrogate --help, s", "imports", "surrogate --help", 0.5, 0.2),
)  # fmt: skip
