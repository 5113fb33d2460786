"""Figure 2 of the paper, and the outputs of models beside f; no file without matplotlib."""

from __future__ import annotations

import importlib.util
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from surrogate_toy.measures import JUMP, derivative, f

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

INK, PALE, RULE, SHADE = "#24292f", "#7d8590", "#e3e6ea", "#f4e9d0"
TRUE, FITTED = "#b6bdc6", "#0072b2"
MODELS = ("#e69f00", "#0072b2", "#009e73", "#cc79a7", "#d55e00")
"""Of models in their order, begun again after the last (Okabe and Ito, "Color Universal Design", 2008)."""


def figure2(folder: Path, x: Tensor, fitted: Tensor, slope: Tensor, *, band: float) -> list[Path]:
    """Draws f and f' and their fits over the grid `x`, all `(N,)` float, as `figure2.png` and `figure2.svg`.

    `band` is half the width of the shaded neighbourhood of the jump.
    """
    if not _available():
        return []
    figure = _figure()
    left, right = figure.subplots(1, 2)
    for axes, truth, fit, sign in ((left, f(x), fitted, "f"), (right, derivative(x), slope, "f\N{PRIME}")):
        axes.axvspan(JUMP - band, JUMP + band, color=SHADE, linewidth=0, label=f"|x \N{MINUS SIGN} 1| < {band:g}")
        for number, side in enumerate((x < JUMP, x > JUMP)):
            label = f"true {sign}" if number == 0 else None
            axes.plot(x[side], truth[side], color=TRUE, linewidth=4.5, solid_capstyle="butt", label=label)
        axes.plot(x, fit, color=FITTED, linewidth=1.4, label=f"fitted {sign}")
        _style(axes, "x", f"{sign}(x)")
        _legend(axes)
    left.set_title("(a) the function", fontsize=11, color=INK, loc="left")
    right.set_title("(b) its derivative", fontsize=11, color=INK, loc="left")
    _cut_peak(right, slope)
    return [_save(figure, folder / f"figure2.{kind}") for kind in ("png", "svg")]


def outputs(folder: Path, u: Tensor, models: Mapping[str, Tensor]) -> list[Path]:
    """Draws outputs over the points `u`, and where they lie on f, as `outputs.png`.

    `u` is `(N,)` float, and so are the outputs of each model, by its label.
    """
    if not _available():
        return []
    figure = _figure()
    left, right = figure.subplots(1, 2)
    x = torch.linspace(0.0, 2.0, 400)
    for side in (x < JUMP, x > JUMP):
        right.plot(x[side], f(x[side]), color=TRUE, linewidth=4.5, solid_capstyle="butt")
    left.axhline(JUMP, color=PALE, linewidth=1.0, linestyle=(0, (4, 3)))
    left.annotate("the jump of f", (0.0, JUMP), (0, 4), textcoords="offset points", fontsize=9, color=PALE)
    for number, (label, values) in enumerate(models.items()):
        colour = MODELS[number % len(MODELS)]
        left.plot(u, values, color=colour, linewidth=2.0, label=label)
        right.scatter(values[::8], f(values[::8]), s=14, color=colour, linewidths=0, zorder=3 + number)
    _style(left, "point u", "output x")
    _style(right, "output x", "f(x)")
    _legend(left)
    left.set_title("what the models give", fontsize=11, color=INK, loc="left")
    right.set_title("where it lies on f", fontsize=11, color=INK, loc="left")
    return [_save(figure, folder / "outputs.png")]


def _cut_peak(axes: Axes, slope: Tensor) -> None:
    """Cuts off the peak of the derivative and writes its height: the lines at 1 and -1 are the point."""
    top, peak = 2.5, float(slope.max())
    axes.set_ylim(-1.6, top)
    if peak > top:
        axes.annotate(f"peak {peak:.0f}", (JUMP, top), (8, -12), textcoords="offset points", fontsize=9, color=FITTED)


def _style(axes: Axes, across: str, up: str) -> None:
    axes.set_xlabel(across, fontsize=10, color=INK)
    axes.set_ylabel(up, fontsize=10, color=INK)
    axes.grid(color=RULE, linewidth=0.8)
    axes.set_axisbelow(True)
    axes.tick_params(length=0, labelcolor=PALE, labelsize=9)
    axes.spines[["top", "right"]].set_visible(False)
    axes.spines[["left", "bottom"]].set_color(PALE)


def _legend(axes: Axes) -> None:
    axes.legend(frameon=False, fontsize=9, labelcolor=INK)


def _available() -> bool:
    return importlib.util.find_spec("matplotlib") is not None


def _figure() -> Figure:
    from matplotlib.figure import Figure

    return Figure(figsize=(10.0, 3.8), dpi=130, facecolor="white", layout="constrained")


def _save(figure: Figure, path: Path) -> Path:
    """The same drawing gives the same bytes: no date, no version, no ids drawn at random."""
    import matplotlib

    with matplotlib.rc_context({"svg.hashsalt": path.stem}):
        figure.savefig(path, metadata={"Date": None} if path.suffix == ".svg" else {"Software": None})
    return path
