"""A measure of a plain function, of scikit-learn's and of torchmetrics', and what its failures become."""

from __future__ import annotations

import math
from collections.abc import Callable
from functools import partial
from typing import Any

import pytest
import torch
import torchmetrics
from sklearn import metrics as sklearn_metrics
from torch import Generator, Tensor, nn
from torchmetrics.classification import MulticlassJaccardIndex
from torchmetrics.functional.segmentation import hausdorff_distance

from surrogate import plugins
from surrogate.errors import UsageError
from surrogate.from_function import measure_from_function
from surrogate.protocols import Measure
from surrogate.testing import check_measure
from surrogate.testing.measures import measure_outcomes

CLASSES, VOID = 4, 255
LOGITS = 3 * torch.randn(4, CLASSES, 6, 5, generator=Generator().manual_seed(0))
LABELS = torch.randint(CLASSES, (4, 6, 5), generator=Generator().manual_seed(1))
LABELS[0] = LOGITS[0].argmax(0)
LABELS[1, 0], LABELS[2] = VOID, VOID
PERFECT = 9.0 * nn.functional.one_hot(LABELS % VOID, CLASSES).movedim(-1, 1).float()


def recall_of_worst(prediction: Tensor, target: Tensor) -> float:
    """Of the class that is found least."""
    return min(float((prediction[target == k] == k).float().mean()) for k in target.unique())


def made(function: Callable[..., Any], *, options: dict[str, Any] | None = None, **keywords: Any) -> Measure:
    factory = measure_from_function(function, app="segmentation", **keywords)
    return factory(num_classes=CLASSES, ignore_index=VOID, **(options or {}))


def by_hand(function: Callable[[Tensor, Tensor], Any]) -> list[float]:
    """The function over the valid pixels of each image that has some."""
    valid = LABELS != VOID
    return [float(function(LOGITS[b].argmax(0)[valid[b]], LABELS[b][valid[b]])) for b in (0, 1, 3)]


def defined(measure: Measure) -> list[float]:
    values = measure.metric(LOGITS, LABELS)
    assert values.isnan().tolist() == [False, False, True, False]
    return values[~values.isnan()].tolist()


@pytest.mark.parametrize("level", ["sample", "batch"])
@pytest.mark.parametrize(
    "function",
    [
        recall_of_worst,
        sklearn_metrics.balanced_accuracy_score,
        partial(sklearn_metrics.fbeta_score, beta=2, average="macro"),
        MulticlassJaccardIndex,
        torchmetrics.F1Score(task="multiclass", num_classes=CLASSES, average="macro"),
    ],
)
def test_what_people_already_have_keeps_every_contract(function: Callable[..., Any], level: Any) -> None:
    check_measure(made(function, level=level), LOGITS, LABELS, perfect=PERFECT)


def test_a_plain_function_gets_the_valid_pixels_of_an_image() -> None:
    assert defined(made(recall_of_worst)) == pytest.approx(by_hand(recall_of_worst))


def test_scikit_learn_gets_the_truth_first() -> None:
    precision = partial(sklearn_metrics.precision_score, average="macro", zero_division=0)
    expected = by_hand(lambda p, t: precision(t.numpy(), p.numpy()))
    assert expected != pytest.approx(by_hand(lambda p, t: precision(p.numpy(), t.numpy())))
    assert defined(made(precision)) == pytest.approx(expected)


def test_torchmetrics_is_made_from_the_facts_and_keeps_no_state() -> None:
    mine = MulticlassJaccardIndex(CLASSES)
    expected = by_hand(MulticlassJaccardIndex(CLASSES))
    for metric in (mine, MulticlassJaccardIndex):
        measure = made(metric)
        assert defined(measure) == defined(measure) == pytest.approx(expected)
    assert mine.confmat.sum() == 0, "the metric that was handed over is left alone"


def test_a_batch_is_one_row() -> None:
    measure = made(recall_of_worst, options={"level": "batch"})
    valid = LABELS != VOID
    expected = recall_of_worst(LOGITS.argmax(1)[valid], LABELS[valid])
    assert (measure.level, measure.metric(LOGITS, LABELS).tolist()) == ("batch", [pytest.approx(expected)])


def test_views_of_the_outputs() -> None:
    seen: list[tuple[Any, ...]] = []

    def look(prediction: Any, target: Any) -> float:
        seen.append((prediction, target))
        return 0.5

    for takes in ("scores", "maps"):
        assert defined(made(look, takes=takes)) == [0.5] * 3
    (scores, labels), (maps, truth) = seen[1], seen[4]
    assert (scores.shape, labels.shape) == ((25, CLASSES), (25,))
    assert torch.allclose(scores.sum(1), torch.ones(25))
    assert maps.shape == truth.shape == (6, 5)
    assert (maps[0] == VOID).all()
    assert torch.equal(truth, LABELS[1])
    made(look, arrays=True).metric(LOGITS[:1], LABELS[:1])
    assert type(seen[-1][0]).__module__ == "numpy"


def nothing(kind: str) -> float:
    """What there is none of, asked for in a few ways."""
    ways: dict[str, Callable[[], Any]] = {
        "value": lambda: int("none"),
        "zero": lambda: 1 / 0,
        "numpy": lambda: torch.ones(0).numpy().max(),
        "torch": lambda: torch.ones(0).max(),
        "torch by dimension": lambda: torch.ones(0).max(0),
        "torchmetrics": lambda: hausdorff_distance(*torch.tensor([[[[1]]], [[[0]]]]), num_classes=1),
    }
    return float(ways[kind]())


@pytest.mark.parametrize("kind", ["value", "zero", "numpy", "torch", "torch by dimension", "torchmetrics"])
def test_where_it_says_so_or_is_not_finite_a_row_is_undefined(kind: str) -> None:
    def sometimes(prediction: Tensor, target: Tensor) -> float:
        if (prediction == target).all():
            return nothing(kind)
        return math.inf if len(target) < 30 else 1.0

    measure = made(sometimes)
    assert measure.metric(LOGITS, LABELS).nan_to_num(-1.0).tolist() == [-1.0, -1.0, -1.0, 1.0]
    assert measure.stats(LOGITS, LABELS).isnan().all(1).tolist() == [False, False, True, False]
    check_measure(measure, LOGITS, LABELS)


@pytest.mark.parametrize(
    ("error", "to_do"),
    [
        (IndexError("Dimension out of range"), "mend it, or choose another view by takes="),
        (RuntimeError("The size of tensor a (3) must match"), "mend it, or choose another view by takes="),
        (KeyError("sky"), "mend it"),
        (OverflowError("math range error"), "mend it"),
    ],
)
def test_a_mistake_in_some_rows_is_told_with_its_place(error: Exception, to_do: str) -> None:
    def at_fault(prediction: Tensor, target: Tensor) -> float:  # noqa: ARG001
        if len(target) < 30:
            raise error
        return 1.0

    with pytest.raises(UsageError) as caught:
        made(at_fault).metric(LOGITS, LABELS)
    assert str(caught.value) == (
        f"at_fault raised {type(error).__name__}: {error}, at sample 1 of a batch of 4, given a prediction of shape "
        f"(25,) and a target of (25,); {to_do} (a ValueError or NaN says that there is no value)"
    )


def test_where_every_row_is_undefined_by_an_exception_it_is_told() -> None:
    measure = measure_from_function(sklearn_metrics.ndcg_score, app="tabular", takes="scores")()
    classes = torch.tensor([0, 1, 1, 0])
    with pytest.raises(
        AssertionError, match=r"NaN in every row; ndcg_score raised ValueError: Only \(.* at a batch, .*"
    ):
        check_measure(measure, LOGITS[:, :2, 0, 0], classes)
    outcomes = dict(measure_outcomes(measure, LOGITS[:, :2, 0, 0], classes, perfect=LOGITS[:, :2, 0, 0]))
    assert outcomes["rows"] is not None
    assert outcomes["rows"].endswith("a target of (4,); mend it, or choose another view by takes=")


def emptied(prediction: Tensor, target: Tensor) -> float:
    right = float((prediction == target).float().mean())
    prediction[:] = 0
    return right


def emptied_by_numpy(y_true: Any, y_pred: Any) -> float:
    right = float((y_true == y_pred).mean())
    y_true[:] = 0
    return right


@pytest.mark.parametrize("function", [emptied, emptied_by_numpy])
@pytest.mark.parametrize("takes", ["labels", "maps"])
def test_a_function_that_writes_into_its_input_is_told(function: Callable[..., Any], takes: str) -> None:
    outcomes = dict(measure_outcomes(made(function, takes=takes), LOGITS, LABELS.clone(), perfect=PERFECT))
    name = "prediction" if function is emptied else "target"
    expected = f"{name} was changed in place by {function.__name__}; work on a copy, as by .clone()"
    assert outcomes["inputs kept"] == expected


def misspelt(prediction: Tensor, target: Tensor) -> Any:
    return prediction.accuracy(target)


@pytest.mark.parametrize(
    ("function", "keywords", "message"),
    [
        (misspelt, {}, r"misspelt raised AttributeError: .* prediction of shape \(30,\) .*; mend it \(a ValueError"),
        (
            partial(sklearn_metrics.jaccard_score, average="makro"),
            {},
            r"jaccard_score raised InvalidParameterError: The 'average' parameter .*; mend it",
        ),
        (lambda p, t: p == t, {}, r"<lambda> gave a Tensor of shape \(30,\); expected one number, as by an average"),
        (lambda _p, _t: (0.5, 0.1), {}, r"<lambda> gave a tuple; expected one number, as by an average"),
        (lambda _p, _t: None, {}, r"<lambda> gave a NoneType; expected one number"),
        (recall_of_worst, {"takes": "map"}, r"takes='map': no view of app 'segmentation'; did you mean 'maps'\?"),
        (recall_of_worst, {"level": "dataset"}, r"measure.level is 'dataset'; .* knows sample and batch"),
    ],
)
def test_a_mistake_is_told(function: Callable[..., Any], keywords: dict[str, Any], message: str) -> None:
    with pytest.raises(UsageError, match=message):
        made(function, **keywords).metric(LOGITS, LABELS)


@pytest.mark.parametrize(
    ("function", "to_do"),
    [
        (misspelt, "(a ValueError or NaN says that there is no value)"),
        (lambda _p, _t: (0.5, 0.1), "<lambda> gave a tuple; expected one number, as by an average"),
    ],
)
def test_a_mistake_is_told_once_and_under_rows(function: Callable[..., Any], to_do: str) -> None:
    outcomes = dict(measure_outcomes(made(function), LOGITS, LABELS, perfect=PERFECT))
    [(title, failure)] = [(title, failure) for title, failure in outcomes.items() if failure]
    assert title == "rows"
    assert failure.endswith(to_do)
    assert failure.count("mend it") <= 1


def test_one_line_is_a_plugin(install: Callable[..., None]) -> None:
    line = (
        "from sklearn.metrics import jaccard_score; from surrogate.from_function import measure_from_function\n"
        "iou0 = measure_from_function(jaccard_score, app='segmentation', higher_is_better=True)\n"
    )
    install("short", {"surrogate.measures.segmentation": {"iou0": "short_plugin:iou0"}}, {"short_plugin": line})
    facts = {"num_classes": CLASSES, "ignore_index": VOID}
    measure = plugins.load_measure("segmentation", "iou0", facts=facts, options={"level": "batch"})
    assert (measure.level, measure.bounds) == ("batch", (0.0, 1.0))
    with pytest.raises(UsageError, match=r"unknown recipe key 'measure.levle' .* did you mean 'level'\?"):
        plugins.load_measure("segmentation", "iou0", facts=facts, options={"levle": "batch"})
