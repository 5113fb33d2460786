"""The fidelity report as a picture: foretold against true losses, and against true changes."""

from __future__ import annotations

import importlib.util
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING

import torch
from torch import Tensor, nn

from surrogate.fidelity import fidelity, wrong_sign
from surrogate.heldout import HeldOut
from surrogate.moves import KINDS

if TYPE_CHECKING:
    from matplotlib.axes import Axes

_MOST = 4000
"""Points of a panel; of more rows as many are drawn by lot: they take turns, so every n-th may be of one regime."""
_INK, _RULE, _WRONG = "#24292f", "#e3e6ea", "#fbe3e4"
_COLOURS = ("#24292f", "#e69f00", "#009e73", "#cc3311", "#56b4e9", "#0072b2", "#cc79a7", "#a6761d", "#f0e442")
"""Of the groups of a panel, after Okabe and Ito, "Color Universal Design", 2008; begun again after the last."""


def draw_fidelity(path: Path, held: HeldOut, models: Mapping[str, nn.Module]) -> list[Path]:
    """Draws a panel of held-out rows for each model, and one of the small moves for the first, as a PNG.

    Models are by name, the surrogate first, its hand-made rival after it where there is one. None without matplotlib.
    """
    if importlib.util.find_spec("matplotlib") is None:
        return []
    from matplotlib.figure import Figure

    figure = Figure(figsize=(4.6 * (len(models) + 1), 4.9), dpi=130, layout="constrained")
    *panels, last = figure.subplots(1, len(models) + 1)
    for axes, (name, model) in zip(panels, models.items(), strict=True):
        _values(axes, held, model, name)
    panels[0].legend(frameon=False, fontsize=8, markerscale=2.5, loc="upper left")
    _moves(last, held, next(iter(models.values())))
    figure.savefig(path, format="png", metadata={"Software": None})
    return [path]


def _values(axes: Axes, held: HeldOut, model: nn.Module, name: str) -> None:
    rows = held.rows
    with torch.no_grad():
        predicted = model(rows.stats)
    _scatter(axes, rows.value, predicted, rows.regime, held.regimes)
    axes.plot([0, 1], [0, 1], color=_INK, linewidth=0.8, zorder=1)
    rank = fidelity(predicted, rows.value, rows.sample)["spearman"]
    told = "undefined" if rank is None else f"{rank:.3f}"
    _labelled(axes, f"{name}, held-out rows: Spearman {told}", "true loss, 0 best", "foretold loss")


def _moves(axes: Axes, held: HeldOut, model: nn.Module) -> None:
    moves, slope = held.moves, held.foretold(model)
    counted = held.small & (moves.value != 0)
    true, slope, kind = moves.value[counted], slope[counted], moves.regime[counted]
    title = "small moves: none changed the metric"
    if len(true):
        title = f"{len(true)} small moves: {100 * (wrong_sign(slope, true) or 0.0):.1f} % wrong (shaded)"
        # The few that go further than all others are drawn on the border.
        right, top = (1.05 * float(values.abs().quantile(0.99).clamp_min(1e-9)) for values in (true, slope))
        axes.set(xlim=(-right, right), ylim=(-top, top))
        axes.fill_between([-right, 0], 0, top, color=_WRONG, linewidth=0, zorder=0)
        axes.fill_between([0, right], -top, 0, color=_WRONG, linewidth=0, zorder=0)
        _scatter(axes, true.clamp(-right, right), slope.clamp(-top, top), kind, KINDS)
        axes.legend(frameon=False, fontsize=8, markerscale=2.5, loc="upper left")
    axes.axhline(0, color=_INK, linewidth=0.8, zorder=1)
    axes.axvline(0, color=_INK, linewidth=0.8, zorder=1)
    _labelled(axes, title, "true change of the loss after a move of the outputs", "change that the slope foretells")


def _scatter(axes: Axes, x: Tensor, y: Tensor, group: Tensor, names: tuple[str, ...]) -> None:
    drawn = torch.randperm(len(x), generator=torch.Generator().manual_seed(0))[:_MOST].sort().values
    x, y, group = x[drawn], y[drawn], group[drawn]
    for number, name in enumerate(names):
        of = group == number
        if of.any():
            colour = _COLOURS[number % len(_COLOURS)]
            axes.scatter(x[of], y[of], s=6, alpha=0.55, linewidths=0, color=colour, label=name, zorder=2)


def _labelled(axes: Axes, title: str, x: str, y: str) -> None:
    axes.set_title(title, fontsize=10, color=_INK)
    axes.set_xlabel(x)
    axes.set_ylabel(y)
    axes.grid(color=_RULE)
    axes.set_axisbelow(True)
    axes.spines[["top", "right"]].set_visible(False)
