"""The contracts that plugin authors run: each is broken on purpose and told by its message; the built-in ones hold."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import Any

import pytest
import torch
from torch import Generator, Tensor, nn
from torch.nn.functional import mse_loss

import surrogate_segmentation
import surrogate_toy
from surrogate.additive import additive_measure
from surrogate.errors import UsageError
from surrogate.protocols import Additive, App, Measure, Standard, no_views
from surrogate.recipe import MeasureRecipe, build
from surrogate.testing import apps, check_app, check_measure
from surrogate.testing.measures import measure_outcomes
from surrogate_segmentation.measures import iou
from surrogate_toy.app import ToyApp, ToyScore, ToyTask
from surrogate_toy.data import Points
from surrogate_toy.measures import step

VOID = -1
LOGITS = torch.randn(4, 3, generator=Generator().manual_seed(0))
LABELS = torch.tensor([0, 2, 1, VOID])
NAN = torch.nan


def correct(logits: Tensor, labels: Tensor, /) -> Tensor:
    """(B,) whether each sample is right; undefined where its label is void."""
    return torch.where(labels == VOID, NAN, (logits.argmax(1) == labels).float())


def p_true(logits: Tensor, labels: Tensor, /) -> Tensor:
    """(B, 1) probability of the true class."""
    wide = logits.to(torch.promote_types(logits.dtype, torch.float32))
    p = wide.softmax(1).gather(1, labels.clamp_min(0)[:, None])
    return torch.where(labels[:, None] == VOID, NAN, p)


GOOD = Measure(correct, p_true, columns=("p_true",))


def test_a_good_measure_passes_and_what_it_was_given_is_left_as_it_was() -> None:
    logits, labels = LOGITS.clone(), LABELS.clone()
    check_measure(GOOD, logits, labels, perfect=9.0 * nn.functional.one_hot(labels.clamp_min(0), 3).float())
    assert torch.equal(logits, LOGITS)
    assert torch.equal(labels, LABELS)
    assert logits.grad is None
    assert not logits.requires_grad


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"columns": ()}, r"columns: name at least one"),
        ({"columns": ("p", "p")}, r"columns: names repeat"),
        ({"level": "pixel"}, r"level: 'pixel'; set it to one of sample, batch, dataset"),
        ({"level": "dataset"}, r'level "dataset": has no `additive`; make the measure by .*, or set level="batch"'),
        ({"version": 0}, r"version: 0"),
    ],
)
def test_a_declaration_that_cannot_be(changes: dict[str, Any], message: str) -> None:
    with pytest.raises(AssertionError, match=message):
        check_measure(replace(GOOD, **changes), LOGITS, LABELS)


@pytest.mark.parametrize("bounds", [(1.0, 0.0), (0.5, 0.5), (0.0, torch.inf), (torch.nan, 1.0)])
def test_bounds_that_cannot_be(bounds: tuple[float, float]) -> None:
    with pytest.raises(UsageError, match=r"bounds are .*; expected two finite numbers, the lower one first"):
        replace(GOOD, bounds=bounds)


def void_made_zero(logits: Tensor, labels: Tensor, /) -> Tensor:
    labels[labels == VOID] = 0
    return correct(logits, labels)


@pytest.mark.parametrize(
    ("metric", "message"),
    [
        (lambda o, t: correct(o, t)[:, None], r"metric: shape \(4, 1\); return \(R,\)"),
        (lambda o, t: correct(o, t).nanmean(), r"metric: shape \(\); return \(R,\)"),
        (lambda o, t: correct(o, t)[:3], r"stats: 4 rows, metric has 3"),
        (lambda o, t: (o.argmax(1) == t).long(), r"metric: dtype torch.int64; return floats"),
        (lambda o, t: correct(o, t) * NAN, r"metric: NaN in every row"),
        (lambda o, t: 100.0 * correct(o, t), r"bounds: \(0.0, 1.0\), but the metric lies in \(0.0, 100.0\)"),
        (lambda o, t: (o.argmax(1) == t).float(), r"stats: row 3 is \[nan\] where the metric is 0.0; make all"),
        (lambda o, t: tuple(correct(o, t)), r"metric: gave a tuple; return a tensor"),
        (lambda o, t: None, r"metric: gave a NoneType; return a tensor"),  # noqa: ARG005
        (void_made_zero, r"targets were changed in place; work on a copy"),
    ],
)
def test_a_metric_that_breaks_its_contract(metric: Callable[..., Tensor], message: str) -> None:
    with pytest.raises(AssertionError, match=message):
        check_measure(replace(GOOD, metric=metric), LOGITS, LABELS.clone())


def test_a_metric_that_raises_fails_under_rows() -> None:
    def raises(logits: Tensor, labels: Tensor, /) -> Tensor:  # noqa: ARG001
        raise IndexError("too many indices")

    measure = replace(GOOD, metric=raises)
    outcomes = dict(measure_outcomes(measure, LOGITS, LABELS, perfect=LOGITS))
    assert outcomes["rows"] == "metric or stats raised IndexError: too many indices; mend it"
    assert list(outcomes) == ["example", "declaration", "rows"]


def defined(p: Callable[[Tensor, Tensor], Tensor]) -> Callable[[Tensor, Tensor], Tensor]:
    """Statistics that are undefined where they should be, and else what `p` makes of them."""
    return lambda o, t: torch.where(t[:, None] == VOID, NAN, p(o, t.clamp_min(0)))


def own_softmax(o: Tensor) -> Tensor:
    return o.exp() / o.exp().sum(1, keepdim=True)


def divided_too_late(o: Tensor, t: Tensor) -> Tensor:
    defined = (t != VOID).to(o.dtype)[:, None]
    return p_true(o, t.clamp_min(0)) * defined / defined


def indexed(o: Tensor, t: Tensor) -> Tensor:
    stats = p_true(o, t.clamp_min(0))
    stats[t == VOID] = NAN
    return stats + 0.0 * stats[t != VOID].sum()


@pytest.mark.parametrize(
    ("stats", "message"),
    [
        (lambda o, t: p_true(o, t)[:, 0], r"stats: shape \(4,\); return \(R, 1\)"),
        (lambda o, t: p_true(o, t).expand(-1, 2), r"stats: 2 columns; `columns` names 1"),
        (lambda o, t: p_true(o, t)[:3], r"stats: 3 rows, metric has 4"),
        (lambda o, t: p_true(o, t.clamp_min(0)), r"stats: row 3 is \[0.\d+\] where the metric is nan"),
        (lambda o, t: p_true(o, t) / 0.0, r"infinite; guard the division"),
        (lambda o, t: p_true(o.sub_(o.mean()), t), r"outputs were changed in place"),
        (lambda o, t: p_true(o + 0.1 * torch.randn(o.shape), t), r"two calls differ; draw no random numbers"),
        (lambda o, t: p_true(o - o.mean(0), t), r'level "sample": sample 0 alone has other rows'),
        (lambda o, t: p_true(o, t).float(), r"stats: torch.float32 for torch.float64 outputs, expected torch.float64"),
        (defined(lambda o, t: own_softmax(o).gather(1, t[:, None])), r"stats: torch.bfloat16 for torch.bfloat16"),
        (lambda o, t: p_true(o * float(o.abs().max() > 0), t), r"no \.item\(\), .*\(\w*Error: "),
        (lambda o, t: p_true(o.cpu(), t.cpu()), r"make new tensors with device=outputs.device"),
        (indexed, r"or boolean index \(\w*Error: "),
        (defined(lambda o, t: (p_true(o, t) > 0.5).to(p_true(o, t).dtype)), r"stats: no gradient"),
        (lambda o, t: p_true(o, t).detach() + 0.0 * p_true(o, t), r"gradient is 0 everywhere"),
        (divided_too_late, r"gradient is not finite with the undefined rows masked out; divide by"),
        (lambda o, t: p_true(o, t) * p_true(o, t).detach(), r"finite differences say .*mend the backward pass"),
    ],
)
def test_statistics_that_break_their_contract(stats: Callable[..., Tensor], message: str) -> None:
    with pytest.raises(AssertionError, match=message):
        check_measure(replace(GOOD, stats=stats), LOGITS.clone(), LABELS)


def test_a_row_that_is_undefined_in_part() -> None:
    def half(logits: Tensor, labels: Tensor, /) -> Tensor:
        p = p_true(logits, labels)
        return torch.cat([p, p.nan_to_num(0.0)], 1)

    with pytest.raises(AssertionError, match=r"stats: row 3 is \[nan, 0.0\] where the metric is nan"):
        check_measure(replace(GOOD, stats=half, columns=("a", "b")), LOGITS, LABELS)


def per_class(level: Any) -> Measure:
    """Rows of the classes of a whole batch."""

    def by_class(values: Tensor, labels: Tensor) -> Tensor:
        return torch.stack([torch.where(labels == k, values, 0.0).sum() for k in range(3)]) / len(labels)

    return Measure(
        lambda o, t, /: by_class(correct(o, t), t),
        lambda o, t, /: by_class(p_true(o, t)[:, 0], t)[:, None],
        columns=("p_true",),
        level=level,
    )


def test_rows_of_a_batch_are_not_rows_of_its_samples() -> None:
    check_measure(per_class("batch"), LOGITS, LABELS)
    with pytest.raises(AssertionError, match=r'level "sample": 3 rows for 4 samples; give each sample the same'):
        check_measure(per_class("sample"), LOGITS, LABELS)
    with pytest.raises(AssertionError, match=r'level "sample": sample 0 alone has other rows'):
        check_measure(per_class("sample"), LOGITS[:3], LABELS[:3])


def test_rows_of_samples_are_not_rows_of_their_batch() -> None:
    with pytest.raises(AssertionError, match=r'level "batch": rows depend on the order of the samples'):
        check_measure(replace(GOOD, level="batch"), LOGITS, LABELS)


def right_sums(logits: Tensor, labels: Tensor, /) -> Tensor:
    """(B, 1, 3) hits, soft hits and known labels of each sample."""
    hits, p = correct(logits, labels).nan_to_num(0.0), p_true(logits, labels)[:, 0].nan_to_num(0.0)
    return torch.stack([hits.to(p.dtype), p, (labels != VOID).to(p.dtype)], 1)[:, None]


RIGHT = Additive(
    right_sums,
    metric=lambda sums: sums[:, 0] / sums[:, 2],
    stats=lambda sums: sums[:, 1:2] / sums[:, 2:].clamp_min(1.0),
)


@pytest.mark.parametrize("level", ["sample", "batch", "dataset"])
def test_a_measure_of_sums_keeps_every_contract_at_every_level(level: Any) -> None:
    check_measure(additive_measure(RIGHT, ("p_true",), level=level), LOGITS, LABELS)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"sums": lambda o, t, /: right_sums(o, t)[:, 0]}, r"additive.sums: shape \(4, 3\); return \(B, k, A\)"),
        ({"sums": lambda o, t, /: right_sums(o, t) / len(o)}, r"one by one do not add up to those of the batch"),
        ({"sums": lambda o, t, /: right_sums(o, t).log()}, r"additive.sums: not finite; give 0 where"),
        ({"metric": lambda sums: sums[:, 0] / 4.0}, r"additive.metric: of the sums, it differs from `metric`"),
        ({"stats": lambda sums: sums[:, 1:2]}, r"additive.stats: of the sums, it differs from `stats`"),
    ],
)
def test_sums_that_break_their_contract(changes: dict[str, Any], message: str) -> None:
    measure = additive_measure(RIGHT, ("p_true",), level="dataset")
    with pytest.raises(AssertionError, match=message):
        check_measure(replace(measure, additive=replace(RIGHT, **changes)), LOGITS, LABELS)


def test_statistics_that_cannot_know_where_a_function_raises() -> None:
    def known(logits: Tensor, labels: Tensor, /) -> Tensor:
        return p_true(logits, labels.clamp_min(0))

    check_measure(replace(GOOD, stats=known, stats_know_undefined=False), LOGITS, LABELS)
    with pytest.raises(AssertionError, match=r"stats: row 0 is \[nan\] where the metric is"):
        always = replace(GOOD, metric=lambda o, t, /: correct(o, t).nan_to_num(1.0), stats_know_undefined=False)
        check_measure(replace(always, stats=lambda o, t, /: p_true(o, t).where(t[:, None] > 0, NAN)), LOGITS, LABELS)


def test_perfect_outputs_must_be_at_the_best_bound() -> None:
    perfect = 9.0 * nn.functional.one_hot(LABELS.clamp_min(0), 3).float()
    with pytest.raises(AssertionError, match=r"perfect: left with a loss of 1 of 1, and no better"):
        check_measure(replace(GOOD, higher_is_better=False), LOGITS, LABELS, perfect=perfect)


def test_a_best_bound_that_is_out_of_reach_is_allowed() -> None:
    """As the recall in the top tenth, of an example with more positives than that."""
    perfect = 9.0 * nn.functional.one_hot(LABELS.clamp_min(0), 3).float()
    half = replace(GOOD, metric=lambda o, t, /: correct(o, t) / 2, stats=p_true)
    check_measure(half, LOGITS, LABELS, perfect=perfect)
    with pytest.raises(AssertionError, match="check bounds"):
        check_measure(replace(GOOD, bounds=(0.0, 100.0)), LOGITS, LABELS, perfect=perfect)


@pytest.mark.parametrize("example", [(LOGITS[:1], LABELS[:1]), (LOGITS, LABELS[:2]), (LABELS, LABELS)])
def test_an_example_that_tells_nothing(example: tuple[Tensor, Tensor]) -> None:
    with pytest.raises(AssertionError, match=r"^example: "):
        check_measure(GOOD, *example)


@pytest.mark.parametrize("level", ["sample", "batch"])
@pytest.mark.parametrize("statistics", ["one-vs-rest", "literal", "hinge"])
def test_the_built_in_iou_keeps_every_contract(level: Any, statistics: Any) -> None:
    generator = Generator().manual_seed(1)
    logits = torch.randn(3, 4, 5, 6, generator=generator)
    logits[:, 3] -= 9.0  # a class that is neither predicted nor present
    labels = torch.randint(3, (3, 5, 6), generator=generator)
    labels[0], labels[1, :2] = 255, 255
    perfect = 9.0 * nn.functional.one_hot(labels % 255, 4).movedim(-1, 1).float()
    measure = iou(num_classes=4, ignore_index=255, level=level, statistics=statistics)
    check_measure(measure, logits, labels, perfect=perfect)


def test_the_step_of_the_toy_keeps_every_contract() -> None:
    x = torch.tensor([[0.0], [0.4], [1.3], [2.0]])
    check_measure(step(), x, x, perfect=torch.full_like(x, 0.999))


# --- apps ---


def test_check_app_passes_the_toy() -> None:
    check_app(surrogate_toy.app, build(surrogate_toy.app.recipe, {}, where="test"))


@pytest.mark.parametrize("measure", [{"name": "iou", "level": "sample"}, {"name": "iou", "statistics": "hinge"}])
def test_check_app_passes_segmentation(measure: dict[str, str]) -> None:
    app = surrogate_segmentation.app
    small = {"data": {"size": "32x32"}, "model": {"name": "unet", "width": 4}, "measure": measure}
    check_app(app, build(app.recipe, small, where="test"))


class Vector(nn.MSELoss):
    def forward(self, outputs: Tensor, targets: Tensor) -> Tensor:
        return (outputs - targets).square()


class Constant(nn.Module):
    def forward(self, outputs: Tensor, targets: Tensor) -> Tensor:
        return (outputs - targets).detach().square().mean()


class Unbounded(nn.Module):
    def forward(self, outputs: Tensor, targets: Tensor) -> Tensor:  # noqa: ARG002
        return (0.0 * outputs).log().mean()


class Restless(Points):
    def load(self, index: int, generator: Generator | None) -> tuple[Tensor, Tensor]:
        point, target = super().load(index, generator)
        return point + 0.01 * torch.randn(1), target


class Ragged(Points):
    def load(self, index: int, generator: Generator | None) -> tuple[Tensor, Tensor]:
        point, target = super().load(index, generator)
        return point.expand(1 + (index > 0)), target


class Nameless(Points):
    def name(self, index: int) -> str:  # noqa: ARG002
        return ""


class BatchMean(ToyScore):
    """Averages the means of the batches, though their last one may be small."""

    def compute(self) -> dict[str, Any]:
        return {name: (value or 0.0) / self.points for name, value in super().compute().items()} | {"points": 0}

    def update(self, outputs: Tensor, targets: Tensor) -> None:
        self.sums += float((outputs - targets).abs().max())
        self.points += 1


class NotANumber(ToyScore):
    def compute(self) -> dict[str, Any]:
        return {"f": NAN}


class Keyless(ToyScore):
    def compute(self) -> dict[str, Any]:
        return {"mean": 1.0}


class Mute(ToyScore):
    spec = ""


def with_points(kind: type[Points]) -> dict[str, Any]:
    return {"dataset": lambda self, split: kind(9, seed=0)}  # noqa: ARG005


def with_model(weight: float) -> dict[str, Any]:
    def model(self: ToyTask) -> nn.Module:  # noqa: ARG001
        linear = nn.Linear(1, 1)
        nn.init.constant_(linear.weight, weight)
        return linear

    return {"model": model}


def with_outputs(made: Callable[[Tensor], Tensor]) -> dict[str, Any]:
    """The model's outputs made into others."""

    class Other(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.line = nn.Linear(1, 1)

        def forward(self, points: Tensor) -> Tensor:
            return made(self.line(points))

    return {"model": lambda self: Other()}  # noqa: ARG005


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"facts": {"sizes": (1, 2)}}, r"facts: .* comes back from JSON as .*; use lists"),
        ({"facts": {"kind": torch.float32}}, r"facts: not ready for JSON"),
        (with_points(Restless), r"train: sample 0 loaded twice differs; draw from the generator"),
        (with_points(Ragged), r"train: samples of shapes .*make them equal"),
        (with_points(Nameless), r"train: sample 0 has no name"),
        (with_model(NAN), r"model: outputs are not finite"),
        (with_outputs(lambda x: x[:, 0]), r"model: outputs of shape \(3,\); give \(B, C, ...\), such as \(B, 1\)"),
        ({"perfect": lambda self, o, t: o[:1]}, r"perfect: shape .*1, 1.* for outputs of .*3, 1.*; give it the shape"),  # noqa: ARG005
        ({"perfect": lambda self, o, t: o.double()}, r"perfect: dtype torch.float64 for outputs of torch.float32"),  # noqa: ARG005
        ({"perfect": lambda self, o, t: o / 0.0}, r"perfect: not finite"),  # noqa: ARG005
        ({"baseline": lambda self, name: mse_loss}, r"baseline mse: a function; give a torch.nn.Module"),  # noqa: ARG005
        ({"perfect": lambda self, o, t: 0.0 * o}, r"perfect: left with a loss of 0.9\d+ of 1"),  # noqa: ARG005
        ({"baseline": lambda self, name: Vector()}, r"baseline mse: shape \(3, 1\); return a scalar"),  # noqa: ARG005
        ({"baseline": lambda self, name: Constant()}, r"baseline mse: no gradient"),  # noqa: ARG005
        ({"baseline": lambda self, name: Unbounded()}, r"baseline mse: loss or gradient is not finite"),  # noqa: ARG005
        ({"score": lambda self: NotANumber()}, r"score: not ready for JSON"),  # noqa: ARG005
        ({"score": lambda self: Keyless()}, r"score: \{'f'\} not in compute\(\)"),  # noqa: ARG005
        ({"score": lambda self: Mute()}, r"score: spec is empty"),  # noqa: ARG005
        ({"score": lambda self: BatchMean()}, r"score: depends on the batches"),  # noqa: ARG005
    ],
)
def test_an_app_that_breaks_its_contract(changes: dict[str, Any], message: str) -> None:
    kind = type("Broken", (ToyTask,), changes)

    class BrokenApp(ToyApp):
        def open(self, recipe: Any) -> Any:
            return kind(recipe)

    app = BrokenApp()
    with pytest.raises(AssertionError, match=message):
        check_app(app, build(app.recipe, {}, where="test"))


def no_level() -> Standard:
    return Standard({})


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"baselines": ()}, r"baselines: name one"),
        ({"example": ""}, r"example: is empty, and standard has views; give both"),
        ({"standard": staticmethod(no_views)}, r"standard: has no view; give both, for plain functions, or neither"),
        ({"standard": staticmethod(no_level)}, r"standard: give it a keyword `level` with a default"),
    ],
)
def test_an_app_that_is_not_whole(changes: dict[str, Any], message: str) -> None:
    app = type("BrokenApp", (ToyApp,), changes)()
    with pytest.raises(AssertionError, match=message):
        check_app(app, build(app.recipe, {}, where="test"))


def test_what_an_app_and_its_task_lack_is_named() -> None:
    class Bare:
        recipe, baselines = ToyApp.recipe, ("mse",)

        def open(self, recipe: Any) -> Any:  # noqa: ARG002
            return object()

    recipe = build(ToyApp.recipe, {}, where="test")
    with pytest.raises(AssertionError, match=r"app: has no example, recipes, standard, variants; derive its class"):
        check_app(Bare(), recipe)  # type: ignore[arg-type]
    derived = type("Derived", (Bare, App), {})()
    with pytest.raises(AssertionError, match=r"task: has no about, baseline, dataset, .*; derive its class from Task"):
        check_app(derived, recipe)


@pytest.mark.parametrize(
    ("names", "perfect", "message"),
    [(("model", "sharper"), 1.0, "regime sharper"), (("model",), 9.0, "move towards")],
)
def test_a_measure_that_raises_where_a_model_does_not_go(names: tuple[str, ...], perfect: float, message: str) -> None:
    """But collecting does, hours later."""

    def metric(outputs: Tensor, targets: Tensor, /) -> Tensor:
        if outputs.abs().max() > 1.0:
            raise IndexError("no such bin")
        return step().metric(outputs, targets)

    recipe = build(surrogate_toy.app.recipe, {"collect": {"regimes": names}}, where="test")
    outputs = torch.tensor([[-1.0], [1.0]])
    with pytest.raises(AssertionError, match=f"{message}: the measure of it raised IndexError: no such bin"):
        apps._check_changes(replace(step(), metric=metric), outputs, outputs, perfect * outputs, recipe)


def test_a_recipe_of_another_app_or_measure() -> None:
    app = surrogate_toy.app
    with pytest.raises(AssertionError, match=r"recipe: a SegmentationRecipe; give a ToyRecipe"):
        check_app(app, build(surrogate_segmentation.app.recipe, {}, where="test"))
    recipe = build(app.recipe, {}, where="test").model_copy(update={"measure": MeasureRecipe(name="stp")})
    with pytest.raises(UsageError, match="did you mean 'step'"):
        check_app(app, recipe)
