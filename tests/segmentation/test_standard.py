"""The standard statistics: right by hand, and enough for metrics that nobody here has named."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import torch
from scipy.ndimage import label
from sklearn import metrics as sklearn_metrics
from torch import Generator, Tensor, nn
from torch.nn.functional import interpolate, one_hot

import surrogate_segmentation
from surrogate import collect, moves
from surrogate.engine import Engine
from surrogate.fit import fit
from surrogate.from_function import measure_from_function
from surrogate.recipe import build
from surrogate.store import StatsStore, StoreSpec, StoreWriter
from surrogate_segmentation.standard import standard

CLASSES, VOID = 7, 255


# --- by hand ---


def test_statistics_of_an_image_by_hand() -> None:
    """Four pixels, the last one void: a hit of class 0, class 1 taken for 0, a hit of class 1; class 2 is absent."""
    p = torch.tensor([[0.8, 0.6, 0.1, 0.3], [0.1, 0.3, 0.7, 0.3], [0.1, 0.1, 0.2, 0.4]])
    made = standard(level="sample", num_classes=3, ignore_index=VOID).views["labels"]
    stats = made.stats(p.log()[None, :, None], torch.tensor([[[0, 1, 1, VOID]]]))
    found = dict(zip(made.columns, stats[0].tolist(), strict=True))
    assert len(found) == len(made.columns), "names do not repeat"
    sharp = p.double() ** 4 / (p.double() ** 4).sum(0)
    shares = {}
    for how, q in (("soft", p.double()), ("sharp", sharp)):
        tp = [q[0, 0], q[1, 1] + q[1, 2], 0.0]
        fp = [q[0, 1] + q[0, 2], q[1, 0], q[2, :3].sum()]
        fn = [1 - q[0, 0], 2 - q[1, 1] - q[1, 2], 0.0]
        for name, counted in (("tp", tp), ("fp", fp), ("fn", fn)):
            shares |= {f"{name}_{how}_{k}": float(counted[k]) / 3 for k in range(3)}
        shares[f"tp_{how}"] = float(sum(tp)) / 3
    recall, own = [1.0, 0.7 / 1.4], float(sharp[0, 0])  # of sorted ones: class 1 has 0.7 of a hit and 0.7 of a miss
    expected = shares | {
        "mean_present_recall": sum(recall) / 2,
        "mean_seen_precision": (0.8 / 1.4 + 1.0) / 2,
        "rare_recall": (recall[0] * 1 + recall[1] / 2) / 1.5,
        "recall_1": float(sharp[1, 1] + sharp[1, 2]) / 2,
        "recall_2": 0.0,
        "dice_0": 2 * own / (2 * own + float(sharp[0, 1] + sharp[0, 2]) + 1 - own),
        "root_min_present_recall": (recall[1] + 1e-4) ** 0.5,
        "share_present": 2 / 3,
        "share_seen": 2 / 3,
        "share_found": 1.0,
        "size_1": 2 / 3,
    }
    assert {name: found[name] for name in expected} == pytest.approx(expected, rel=1e-5)


def test_the_least_ratio_is_none_where_nothing_is_found() -> None:
    """However probable: a class that is never predicted has no hit."""
    p = torch.tensor([[0.6, 0.6], [0.4, 0.4]])
    made = standard(level="sample", num_classes=2, ignore_index=VOID).views["labels"]
    stats = made.stats(p.log()[None, :, None], torch.tensor([[[0, 1]]]))
    found = dict(zip(made.columns, stats[0].tolist(), strict=True))
    assert found["root_min_present_iou"] == pytest.approx(0.01), "the root of 1e-4, which is 0 here"
    assert found["share_found"] == 0.5
    assert found["iou_1"] == pytest.approx(16 / 97 / (1 + 16 / 97)), "0.4^4 of 0.6^4 + 0.4^4 in hits and false alarms"


@pytest.mark.parametrize("offset", [-15.0, -22.0, -24.0, -25.0, -26.0, -28.0, -30.0, -100.0])
def test_a_class_that_is_next_to_impossible_has_no_precision_and_a_finite_gradient(offset: float) -> None:
    logits = torch.randn(2, 3, 16, 16, generator=Generator().manual_seed(0))
    logits[:, 2] += offset
    labels = torch.randint(3, (2, 16, 16), generator=Generator().manual_seed(1))
    made = standard(level="batch", num_classes=3, ignore_index=VOID).views["labels"]
    stats = made.stats(logits.requires_grad_(), labels)
    assert stats[0, made.columns.index("precision_2")] < 1e-3
    for name, value in zip(made.columns, stats[0], strict=True):
        (gradient,) = torch.autograd.grad(65536.0 * value, logits, retain_graph=True)  # as a loss scale would
        assert gradient.isfinite().all(), name


@pytest.mark.parametrize(
    ("dtype", "large"), [(torch.float16, 20000.0), (torch.bfloat16, 3e38), (torch.float32, 1e38), (torch.float32, 0.0)]
)
def test_logits_as_large_as_their_dtype_takes(dtype: torch.dtype, large: float) -> None:
    """Four times a large one would be infinite; and void pixels may be filled with the least number of all."""
    logits = torch.randn(1, 3, 4, 4, generator=Generator().manual_seed(0))
    logits[0, 0, 0, 0] = large
    logits[0, :, 1, 1] = torch.finfo(dtype).min
    labels = torch.randint(3, (1, 4, 4), generator=Generator().manual_seed(1))
    labels[0, 1, 1] = VOID
    logits = logits.to(dtype).requires_grad_()
    made = standard(level="sample", num_classes=3, ignore_index=VOID).views["labels"]
    stats = made.stats(logits, labels)
    (gradient,) = torch.autograd.grad(stats.sum(), logits)
    assert stats.isfinite().all()
    assert gradient.isfinite().all()


def test_what_one_class_loses_another_gains() -> None:
    """A hit that is about to tip over moves the counts of both classes; sorted ones would know of one alone."""
    logits = torch.tensor([2.0, 1.9, 0.0])[None, :, None, None].requires_grad_()
    made = standard(level="sample", num_classes=3, ignore_index=VOID).views["labels"]
    stats = made.stats(logits, torch.tensor([[[0]]]))[0]
    expected = {"tp_sharp_0": [1, -1], "fn_sharp_0": [-1, 1], "fp_sharp_1": [-1, 1], "fp_soft_1": [-1, 1]}
    for name, signs in expected.items():
        (way,) = torch.autograd.grad(stats[made.columns.index(name)], logits, retain_graph=True)
        assert way[0, :2, 0, 0].sign().tolist() == signs, name


def test_a_batch_is_the_image_of_all_its_pixels() -> None:
    logits = torch.randn(2, 3, 4, 5, generator=Generator().manual_seed(0))
    labels = torch.randint(3, (2, 4, 5), generator=Generator().manual_seed(1))
    batch, sample = (
        standard(level=level, num_classes=3, ignore_index=VOID).views["labels"].stats for level in ("batch", "sample")
    )
    both = sample(torch.cat(list(logits), 2)[None], torch.cat(list(labels), 1)[None])
    assert torch.allclose(batch(logits, labels), both, atol=1e-6)


# --- fits ---


class Outputs:
    """Outputs for labels of the embedded data, as of a model that knows some classes well and others hardly."""

    def __init__(self, size: int) -> None:
        app = surrogate_segmentation.app
        self.task = app.open(build(app.recipe, {"data": {"size": f"{size}x{size}"}}, where="test"))
        split, generator = self.task.dataset("train"), Generator().manual_seed(0)
        self.labels = torch.stack([split.load(i, None)[1] for i in range(len(split))])
        truth = one_hot(torch.where(self.labels == VOID, 0, self.labels).long(), CLASSES).movedim(-1, 1).float()
        known = 8 * torch.rand(len(truth), CLASSES, 1, 1, generator=generator)
        blurs = torch.randn(len(truth), CLASSES, size // 4, size // 4, generator=generator)
        noise = torch.randn(truth.shape, generator=generator)
        self.logits = truth * known + 2 * interpolate(blurs, size=size, mode="bilinear") + noise
        self.logits[:, 0] += 2.0

    def __len__(self) -> int:
        return len(self.labels)

    def load(self, index: int, generator: Generator | None) -> tuple[Tensor, Tensor]:  # noqa: ARG002
        return self.logits[index], self.labels[index]

    def name(self, index: int) -> str:
        return str(index)


def ended(stage: Any) -> Any:
    """What a stage returns."""
    while True:
        try:
            next(stage)
        except StopIteration as end:
            return end.value


def fidelity(
    function: Callable[..., Any],
    folder: Path,
    *,
    size: int,
    bounds: tuple[float, float] = (0.0, 1.0),
    epochs: int = 200,
    takes: str = "labels",
) -> dict[str, Any]:
    """What `surrogate fit` would report, by the default recipe."""
    outputs = Outputs(size)
    recipe = outputs.task.recipe
    factory = measure_from_function(function, app="segmentation", bounds=bounds, takes=takes)
    measure = factory(num_classes=CLASSES, ignore_index=VOID)
    spec = StoreSpec(
        app="segmentation",
        measure="own",
        measure_version=1,
        level=measure.level,
        columns=measure.columns,
        regimes=recipe.collect.regimes,
        policies={},
    )
    moved = dataclasses.replace(spec, columns=collect.move_columns(measure), regimes=moves.KINDS)
    writers = {
        name: StoreWriter(folder / name, of, shard_rows=65536) for name, of in (("rows", spec), ("moves", moved))
    }
    perfect, settings = outputs.task.perfect, recipe.collect
    engine = Engine(recipe.model_copy(update={"device": "cpu"}))
    ended(collect.collect(engine, nn.Identity(), outputs, measure, perfect, **writers, settings=settings, seed=0))
    stores = ([StatsStore.open(folder / name)] for name in writers)
    settings = recipe.fit.model_copy(update={"epochs": epochs})
    fitting = fit(*stores, settings=settings, seed=0, device=torch.device("cpu"), state=folder / "state")
    return ended(fitting)[1]


def geometric_mean_of_recalls(prediction: Tensor, target: Tensor) -> float:
    recalls = torch.stack([(prediction[target == k] == k).float().mean() for k in target.unique()])
    return float(recalls.clamp_min(0.01).log().mean().exp())


def worst_iou(prediction: Tensor, target: Tensor) -> float:
    pairs = [(prediction == k, target == k) for k in target.unique()]
    return min(float((p & t).sum() / (p | t).sum()) for p, t in pairs)


def foreground_dice(prediction: Tensor, target: Tensor) -> float:
    hits = (prediction == target) & (target > 0)
    return float(2 * hits.sum() / ((prediction > 0).sum() + (target > 0).sum()))


def recall_of_objects(prediction: Tensor, target: Tensor) -> float:
    """Mean over the connected masks of the foreground of the share that is found; NaN where there is none."""
    numbered, count = label((target > 0) & (target != VOID))
    found = (prediction > 0).numpy()
    return sum(found[numbered == k].mean() for k in range(1, count + 1)) / count if count else float("nan")


F2_OF_TWO = partial(sklearn_metrics.fbeta_score, beta=2, labels=[2, 5], average="macro", zero_division=0)


def test_perfect_outputs_are_never_less_confident_than_the_model() -> None:
    labels = torch.tensor([[[0, 1, 2, VOID]]])
    outputs = 30.0 * torch.randn(1, CLASSES, 1, 4, generator=torch.Generator().manual_seed(0))
    outputs[0, 3, 0, 1] = -torch.inf  # a masked class
    ideal = Outputs(32).task.perfect(outputs, labels)
    top = ideal.topk(2, dim=1)
    assert top.indices[0, 0, 0, :3].tolist() == [0, 1, 2]
    pairs = outputs.topk(2, dim=1).values
    assert ((top.values[:, 0] - top.values[:, 1] - (pairs[:, 0] - pairs[:, 1]))[..., [0, 2]] >= 0).all()
    assert ideal[..., :3].isfinite().all()
    assert torch.equal(ideal[..., 3], outputs[..., 3])


def test_a_metric_nobody_named_fits(tmp_path: Path) -> None:
    found = fidelity(geometric_mean_of_recalls, tmp_path, size=32, epochs=60)
    assert found["spearman"] >= 0.95
    assert found["wrong_sign"] <= 0.02


def test_a_metric_of_objects_fits(tmp_path: Path) -> None:
    found = fidelity(recall_of_objects, tmp_path, size=32, epochs=60, takes="objects")
    assert found["spearman"] >= 0.95
    assert found["wrong_sign"] <= 0.02


@pytest.mark.slow
@pytest.mark.parametrize(
    ("function", "bounds"),
    [
        (worst_iou, (0.0, 1.0)),
        (foreground_dice, (0.0, 1.0)),
        (F2_OF_TWO, (0.0, 1.0)),
        (sklearn_metrics.matthews_corrcoef, (-1.0, 1.0)),
    ],
)
def test_more_of_them(function: Callable[..., Any], bounds: tuple[float, float], tmp_path: Path) -> None:
    found = fidelity(function, tmp_path, size=48, bounds=bounds)
    assert found["spearman"] >= 0.95
    assert found["wrong_sign"] <= 0.02
