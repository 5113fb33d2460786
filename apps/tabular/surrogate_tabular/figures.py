"""ROC and precision-recall curves of models beside each other; no file without matplotlib."""

from __future__ import annotations

import importlib.util
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING

from torch import Tensor

from surrogate_tabular import exact

if TYPE_CHECKING:
    from matplotlib.axes import Axes

INK, PALE, RULE = "#24292f", "#7d8590", "#e3e6ea"
MODELS = ("#b6bdc6", "#0072b2", "#e69f00", "#009e73", "#cc79a7", "#d55e00")
"""Of models in their order, begun again after the last (Okabe and Ito, "Color Universal Design", 2008)."""


def curves(path: Path, scores: Mapping[str, Tensor], positive: Tensor, *, of: str = "") -> list[Path]:
    """Draws `(N,)` scores of each model against `(N,)` bool truth, as a PNG; `of` follows the titles.

    The marks are the decisions at a probability of 0.5; areas are in the legends. Nothing is drawn without both
    classes.
    """
    both = bool(positive.any()) and not bool(positive.all())
    if importlib.util.find_spec("matplotlib") is None or not both:
        return []
    from matplotlib.figure import Figure
    from sklearn.metrics import precision_recall_curve, roc_curve

    figure = Figure(figsize=(10.0, 4.6), dpi=130, facecolor="white", layout="constrained")
    left, right = figure.subplots(1, 2)
    truth = positive.numpy()
    for number, (name, score) in enumerate(scores.items()):
        colour, ranked = MODELS[number % len(MODELS)], exact.ranking(score, positive)
        predicted = score > 0
        hits = int((predicted & positive).sum())
        recall, alarms = hits / int(positive.sum()), int((predicted & ~positive).sum()) / int((~positive).sum())
        fpr, tpr, _ = roc_curve(truth, score.numpy(), drop_intermediate=False)
        left.plot(fpr, tpr, color=colour, linewidth=2.0, label=f"{name}: AUROC {float(exact.auroc(ranked)):.4f}")
        left.plot(alarms, recall, "o", color=colour, markersize=7, clip_on=False)
        precision, sensitivity, _ = precision_recall_curve(truth, score.numpy())
        area = float(exact.average_precision(ranked))
        label = f"{name}: average precision {area:.4f}"
        right.step(sensitivity, precision, where="post", color=colour, linewidth=2.0, label=label)
        if predicted.any():
            right.plot(recall, hits / int(predicted.sum()), "o", color=colour, markersize=7, clip_on=False)
    _style(left, "false-positive rate", "true-positive rate", f"ROC{of}", legend="lower right")
    _style(right, "recall", "precision", f"precision and recall{of}", legend="lower left")
    figure.savefig(path, metadata={"Software": None})
    return [path]


def _style(axes: Axes, across: str, up: str, title: str, *, legend: str) -> None:
    axes.set(xlim=(0, 1), ylim=(0, 1.02))
    axes.set_title(title, fontsize=11, color=INK, loc="left")
    axes.set_xlabel(across, fontsize=10, color=INK)
    axes.set_ylabel(up, fontsize=10, color=INK)
    axes.grid(color=RULE, linewidth=0.8)
    axes.set_axisbelow(True)
    axes.tick_params(length=0, labelcolor=PALE, labelsize=9)
    axes.spines[["top", "right"]].set_visible(False)
    axes.spines[["left", "bottom"]].set_color(PALE)
    axes.legend(loc=legend, frameon=False, fontsize=9, labelcolor=INK)
