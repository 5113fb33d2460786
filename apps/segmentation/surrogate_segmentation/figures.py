"""The figures of a run: IoU by class, and label maps side by side. They need matplotlib, the extra `[plot]`.

matplotlib is imported inside the functions, and only its object-oriented half: no window, no global state.
The bytes of a PNG follow from what is drawn and from the version of matplotlib.
"""

from __future__ import annotations

import importlib.util
from collections.abc import Mapping, Sequence
from math import ceil
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from torch import Tensor

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

WIDTH, DPI = 10.0, 130
"""Of every figure, in inches and in pixels per inch."""
INK, PALE, RULE = "#24292f", "#7d8590", "#e3e6ea"
BEFORE, BETWEEN, AFTER = "#b6bdc6", ("#e69f00", "#56b4e9", "#cc79a7", "#009e73"), "#0072b2"
LOST = "#b3430b"
VOID = "#d5d9de"
PALETTE = (
    *("#332288", "#e69f00", "#009e73", "#cc3311", "#56b4e9", "#f0e442", "#cc79a7", "#0072b2"),
    *("#40261a", "#a6cc99", "#a659ff", "#660d4d", "#ff4066", "#736640", "#26ccd9", "#f2a6bf"),
    *("#008033", "#cc008c", "#263333", "#f28c4d", "#8099ff", "#8cf299", "#732600", "#73b399"),
)
"""Colours by class id, begun again after the last. The first ones follow Okabe and Ito, "Color Universal
Design", 2008; the rest lie far from them and from each other in CIELAB, to colour-blind eyes too."""
LEGEND_COLUMNS = 7


def available() -> bool:
    """Whether matplotlib is installed; the other functions raise ImportError without it."""
    return importlib.util.find_spec("matplotlib") is not None


def iou_bars(
    path: Path,
    scores: Mapping[str, Mapping[str, float | None]],
    *,
    spec: str,
    spreads: Mapping[str, Mapping[str, float]] | None = None,
) -> Path:
    """Draws the IoU of each class under each model, and apart from them the means, as a PNG; returns `path`.

    `scores` is model -> class -> IoU in [0, 1], None where undefined, for one to six models, the one to
    compare with first. A mean is over the classes defined for its model. The number above the bars is the
    gain of the last model over the first, in points. `spec` says how the numbers are to be read, and stands
    on the figure. `spreads` is model -> class, or "mean", -> standard deviation over seeds, drawn as whiskers.
    """
    classes = list(dict.fromkeys(name for ious in scores.values() for name in ious))
    table = np.array([_with_mean([ious.get(name) for name in classes]) for ious in scores.values()])
    places = np.array([*range(len(classes)), len(classes) + 0.5])
    fontsize = 10 if len(classes) <= 12 else 8

    figure = _figure(4.4, layout="constrained")
    axes = figure.add_subplot()
    spread = np.array(
        [[100 * (spreads or {}).get(name, {}).get(part, 0.0) for part in [*classes, "mean"]] for name in scores]
    )
    _draw_bars(axes, places, table, spread, list(scores))
    if len(scores) > 1:
        _draw_gains(axes, places, table, np.nan_to_num(table + spread).max(axis=0), fontsize)
    axes.axvline(len(classes) - 0.25, color=RULE, linewidth=1.5)
    _style_axes(axes, places, [*classes, "mean"], fontsize)
    axes.legend(loc="lower left", bbox_to_anchor=(-0.01, 1), ncols=3, frameon=False, fontsize=10, labelcolor=INK)
    axes.text(1, 1.03, spec, transform=axes.transAxes, ha="right", fontsize=8, color=PALE, parse_math=False)
    return _save(figure, path)


def strip(path: Path, columns: Mapping[str, Sequence[Tensor]], *, classes: Sequence[str], ignore_index: int) -> Path:
    """Draws images and label maps side by side, one row for each image, as a PNG; returns `path`.

    Every column holds one tensor a row, all of one height and width: images `(3, H, W)` float in [0, 1], or
    label maps `(H, W)` of any integer dtype, in [0, len(classes)) or `ignore_index`, which is grey. The
    legend names the classes that occur.
    """
    rows = list(zip(*columns.values(), strict=True))
    title, gap, line = 0.32, 0.06, 0.25  # inches, as all lengths here
    width = (WIDTH - gap * (len(columns) - 1)) / len(columns)
    height = width * rows[0][0].shape[-2] / rows[0][0].shape[-1]
    entries = _legend_entries([tensor for row in rows for tensor in row], classes, ignore_index)
    legend = line * ceil(len(entries) / LEGEND_COLUMNS) + gap
    total = title + len(rows) * (height + gap) + legend

    figure = _figure(total)
    for r, row in enumerate(rows):
        for (c, name), tensor in zip(enumerate(columns), row, strict=True):
            left, bottom = c * (width + gap), total - title - r * (height + gap) - height
            axes = figure.add_axes((left / WIDTH, bottom / total, width / WIDTH, height / total))
            axes.imshow(_pixels(tensor, ignore_index), interpolation="nearest" if tensor.ndim == 2 else None)
            axes.set_axis_off()
            if r == 0:
                axes.set_title(name, fontsize=12, color=INK, pad=5, parse_math=False)
    _draw_legend(figure.add_axes((0, 0, 1, legend / total)), entries)
    return _save(figure, path)


def _with_mean(ious: Sequence[float | None]) -> list[float]:
    """IoUs in points and, last, their mean; NaN where undefined."""
    defined = [100 * iou for iou in ious if iou is not None]
    mean = sum(defined) / len(defined) if defined else np.nan
    return [*(np.nan if iou is None else 100 * iou for iou in ious), mean]


def _draw_bars(axes: Axes, places: np.ndarray, table: np.ndarray, spread: np.ndarray, names: Sequence[str]) -> None:
    """A bar for each entry of `table`, `(models, places)`, "n/a" where it is NaN, a whisker where it has a spread."""
    axes.set_ylim(0, max(10.0, 1.1 * np.nan_to_num(table + spread).max()))
    colours = [*(BEFORE, *BETWEEN)[: len(names) - 1], AFTER]
    width = 0.8 / len(names)
    whisker: dict[str, Any] = {"fmt": "none", "ecolor": INK, "elinewidth": 0.9, "capsize": 2, "alpha": 0.7}
    for k, (name, row, colour) in enumerate(zip(names, table, colours, strict=True)):
        at = places + (k - (len(names) - 1) / 2) * width
        drawn = spread[k] > 0
        axes.errorbar(at[drawn], row[drawn], spread[k][drawn], **whisker)
        axes.bar(at, np.nan_to_num(row), 0.94 * width, color=colour, label=f"{name} (mean {row[-1]:.1f})")
        for x in at[np.isnan(row)]:
            axes.annotate("n/a", (x, 0), (0, 3), textcoords="offset points", ha="center", fontsize=7, color=PALE)


def _draw_gains(axes: Axes, places: np.ndarray, table: np.ndarray, tops: np.ndarray, fontsize: int) -> None:
    """Last row of `table` minus the first, above what is drawn; nothing where one of them is NaN."""
    for x, top, gain in zip(places, tops, (table[-1] - table[0]).round(1), strict=True):
        if not np.isnan(gain):
            text = f"{gain + 0.0:+.1f}".replace("-", "\N{MINUS SIGN}")  # + 0.0 for the sign of a zero
            label = axes.annotate(text, (x, top), (0, 3), textcoords="offset points", ha="center")
            label.set(color=AFTER if gain >= 0 else LOST, fontsize=fontsize)
            label.set_fontweight("bold" if x == places[-1] else "normal")


def _style_axes(axes: Axes, places: np.ndarray, names: Sequence[str], fontsize: int) -> None:
    tilted = sum(map(len, names)) > 90
    turn: dict[str, Any] = {"rotation": 40, "ha": "right", "rotation_mode": "anchor"} if tilted else {}
    axes.set_xticks(places, names, fontsize=fontsize, color=INK, parse_math=False, **turn)
    axes.get_xticklabels()[-1].set_fontweight("bold")
    axes.set_xlim(places[0] - 0.6, places[-1] + 0.6)
    axes.set_ylabel("IoU, points", fontsize=10, color=INK)
    axes.grid(axis="y", color=RULE, linewidth=0.8)
    axes.set_axisbelow(True)
    axes.tick_params(length=0)
    axes.tick_params(axis="y", labelcolor=PALE, labelsize=9)
    axes.spines[["left", "right", "top"]].set_visible(False)
    axes.spines["bottom"].set_color(PALE)


def _legend_entries(tensors: Sequence[Tensor], classes: Sequence[str], ignore_index: int) -> list[tuple[str, str]]:
    """Name and colour of the classes in the label maps, by id, void last."""
    seen = {label for tensor in tensors if tensor.ndim == 2 for label in np.unique(tensor.cpu().numpy()).tolist()}
    entries = [(classes[label], PALETTE[label % len(PALETTE)]) for label in sorted(seen - {ignore_index})]
    return entries + [("void", VOID)] * (ignore_index in seen)


def _draw_legend(axes: Axes, entries: Sequence[tuple[str, str]]) -> None:
    """Patches and names by hand: matplotlib's own legend drops names with a leading underscore."""
    from matplotlib.patches import Rectangle

    axes.set(xlim=(0, LEGEND_COLUMNS), ylim=(max(1, ceil(len(entries) / LEGEND_COLUMNS)), 0))
    axes.set_axis_off()
    for k, (name, colour) in enumerate(entries):
        row, column = divmod(k, LEGEND_COLUMNS)
        axes.add_patch(Rectangle((column, row + 0.2), 0.14, 0.6, color=colour))
        axes.text(column + 0.2, row + 0.5, name, va="center", fontsize=10, color=INK, parse_math=False)


def _pixels(tensor: Tensor, ignore_index: int) -> np.ndarray:
    """`(H, W, 3)`: the image as it is, or the colours of a label map as uint8."""
    if tensor.ndim == 3:
        return tensor.detach().float().clamp(0, 1).permute(1, 2, 0).cpu().numpy()
    labels = tensor.long().cpu().numpy()
    colours = np.array([tuple(bytes.fromhex(colour[1:])) for colour in (*PALETTE, VOID)], dtype=np.uint8)
    return colours[np.where(labels == ignore_index, len(PALETTE), labels % len(PALETTE))]


def _figure(height: float, **options: Any) -> Figure:
    from matplotlib.figure import Figure

    return Figure(figsize=(WIDTH, height), dpi=DPI, facecolor="white", **options)


def _save(figure: Figure, path: Path) -> Path:
    figure.savefig(path, format="png", metadata={"Software": None})
    return path
