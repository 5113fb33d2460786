"""The metric on validation samples against the epochs, a line for each loss (NeuroIoU, Figure 6)."""

from __future__ import annotations

import importlib.util
import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

Histories = Sequence[Sequence[Mapping[str, Any]]]
"""For each seed, for each epoch, the validation scores by name."""


def history(folder: Path) -> list[dict[str, Any]]:
    """Validation scores of each epoch of a finetuning."""
    lines = (folder / "metrics.jsonl").read_text(encoding="utf-8").splitlines()
    return [json.loads(line)["val"] for line in lines]


def draw_curves(path: Path, curves: Mapping[str, Histories], *, key: str, factor: int, first: int = 1) -> list[Path]:
    """Means over the seeds times `factor`, with the range of the seeds as a band, as a PNG; none without matplotlib.

    `first` is the number of the first epoch in the histories; 0 is the start.
    """
    if importlib.util.find_spec("matplotlib") is None:
        return []
    from matplotlib.figure import Figure
    from matplotlib.ticker import MaxNLocator

    figure = Figure(figsize=(8.0, 4.6), dpi=130, layout="constrained")
    axes = figure.add_subplot()
    for number, (name, histories) in enumerate(curves.items()):
        epochs = min(map(len, histories), default=0)
        points = {
            epoch + first: _defined([history[epoch].get(key) for history in histories]) for epoch in range(epochs)
        }
        at = [epoch for epoch, values in points.items() if values]
        values = [points[epoch] for epoch in at]
        style = "--" if number >= 10 else "-"
        (line,) = axes.plot(at, [factor * sum(v) / len(v) for v in values], style, label=name, linewidth=1.8)
        low, high = ([factor * end(v) for v in values] for end in (min, max))
        axes.fill_between(at, low, high, color=line.get_color(), alpha=0.12, linewidth=0)
    axes.set_xlabel("epoch of finetuning" if first else "epoch of finetuning, 0 is the start")
    axes.xaxis.set_major_locator(MaxNLocator(integer=True))
    axes.set_ylabel(f"val {key}" + (", points" if factor == 100 else ""))
    axes.grid(color="#e3e6ea")
    axes.spines[["top", "right"]].set_visible(False)
    axes.legend(frameon=False, fontsize=8, loc="center left", bbox_to_anchor=(1.0, 0.5))
    figure.savefig(path, format="png", metadata={"Software": None})
    return [path]


def _defined(values: Sequence[float | None]) -> list[float]:
    return [value for value in values if value is not None]
