"""The learned loss in a stranger's loop: what it promises of undefined rows, precision, gradients and its file."""

from __future__ import annotations

import json
import pickle
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import safetensors.torch
import torch
from torch import Tensor, nn

from surrogate.approximator import Card, Surrogate, save
from surrogate.errors import DataError, UsageError
from surrogate.loss import SurrogateLoss
from surrogate.protocols import Dataset, Measure

PLUGIN = """
import torch
from surrogate.protocols import Measure

def accuracy(*, num_classes, sharpness=1.0):
    def stats(outputs, targets, /):
        known = targets >= 0
        pixels = known.sum((1, 2))
        probability = (sharpness * outputs).softmax(1)
        truth = probability.gather(1, targets.clamp_min(0).unsqueeze(1)).squeeze(1)
        sums = torch.stack([(w * known).sum((1, 2)) for w in (truth, probability.square().sum(1))], 1)
        return torch.where((pixels > 0).unsqueeze(1), sums / pixels.clamp_min(1).unsqueeze(1), torch.nan)

    return Measure(metric=lambda outputs, targets, /: 0.0, stats=stats, columns=("truth", "sure"))
"""
Batch = tuple[Tensor, Tensor]


@pytest.fixture
def loss(measure: Measure, surrogate: Surrogate) -> SurrogateLoss:
    return SurrogateLoss(measure, surrogate)


@pytest.fixture
def batch(scenes: Dataset) -> Batch:
    """Logits of four images, wanting a gradient, and their targets."""
    outputs = torch.randn(4, 2, 6, 6, generator=torch.Generator().manual_seed(0)).requires_grad_()
    return outputs, torch.stack([scenes.load(i, None)[1] for i in range(4)])


def test_it_is_the_mean_predicted_loss_of_the_rows(loss: SurrogateLoss, measure: Measure, batch: Batch) -> None:
    value = loss(*batch)
    assert value.shape == ()
    torch.testing.assert_close(value, torch.tanh(1.0 - measure.stats(*batch)[:, 0]).mean())


@pytest.mark.parametrize("precision", [torch.bfloat16, torch.float32])
def test_a_plain_loop_lowers_the_true_loss(
    precision: torch.dtype, loss: SurrogateLoss, measure: Measure, scenes: Dataset, net: Callable[[], nn.Module]
) -> None:
    """As a stranger writes it, under autocast on the CPU."""
    samples = [scenes.load(i, None) for i in range(len(scenes))]
    inputs, targets = (torch.stack(part) for part in zip(*samples, strict=True))
    model = net()

    def error() -> float:
        with torch.no_grad():
            return float(1.0 - measure.metric(model.eval()(inputs), targets).mean())

    before = error()
    frozen = {name: tensor.clone() for name, tensor in loss.state_dict().items()}
    optimizer = torch.optim.Adam(model.parameters(), lr=0.02)
    for _ in range(40):
        model.train()
        loss.train()
        with torch.autocast("cpu", dtype=precision, enabled=precision != torch.float32):
            outputs = model(inputs)
            value = loss(outputs, targets)
        assert outputs.dtype == precision
        assert value.dtype == torch.float32
        optimizer.zero_grad()
        value.backward()
        optimizer.step()
    assert error() < before - 0.2
    assert all(torch.equal(tensor, frozen[name]) for name, tensor in loss.state_dict().items())


def test_statistics_are_taken_in_fp32_of_outputs_in_bf16(surrogate: Surrogate, batch: Batch) -> None:
    seen = []

    def stats(outputs: Tensor, targets: Tensor, /) -> Tensor:  # noqa: ARG001
        seen.append((outputs.dtype, (outputs.flatten(1) @ outputs.flatten(1).T).dtype))
        return outputs.flatten(1)[:, :2].sigmoid()

    lazy = Measure(metric=lambda o, t, /: o.sum(), stats=stats, columns=("truth", "sure"))  # noqa: ARG005
    with torch.autocast("cpu", dtype=torch.bfloat16):
        SurrogateLoss(lazy, surrogate)(batch[0].bfloat16(), batch[1]).backward()
    assert seen == [(torch.float32, torch.float32)]
    assert batch[0].grad is not None


def test_a_measure_that_takes_half_precision_gets_it(surrogate: Surrogate, batch: Batch) -> None:
    seen = []

    def stats(outputs: Tensor, targets: Tensor, /) -> Tensor:  # noqa: ARG001
        seen.append(outputs.dtype)
        return outputs.float().flatten(1)[:, :2].sigmoid()

    measure = Measure(lambda o, t, /: o.sum(), stats, ("truth", "sure"), takes_half=True)  # noqa: ARG005
    value = SurrogateLoss(measure, surrogate)(batch[0].bfloat16(), batch[1])
    assert seen == [torch.bfloat16]
    assert value.dtype == torch.float32


def test_the_gradient_is_right(loss: SurrogateLoss, batch: Batch) -> None:
    outputs, targets = batch[0].detach().double().requires_grad_(), batch[1].clone()
    targets[1] = -1
    assert torch.autograd.gradcheck(lambda o: loss.double()(o, targets), outputs)


def test_outputs_in_fp64_are_taken(loss: SurrogateLoss, batch: Batch) -> None:
    wide = batch[0].detach().double().requires_grad_()
    value = loss(wide, batch[1])
    value.backward()
    torch.testing.assert_close(value.float(), loss(*batch))
    assert wide.grad is not None


def test_undefined_rows_are_left_out(loss: SurrogateLoss, batch: Batch) -> None:
    outputs, targets = batch
    with_hole = targets.clone()
    with_hole[1] = -1
    value = loss(outputs, with_hole)
    value.backward()
    kept = [0, 2, 3]
    alone = outputs.detach()[kept].requires_grad_()
    expected = loss(alone, targets[kept])
    expected.backward()
    torch.testing.assert_close(value, expected)
    assert outputs.grad is not None
    torch.testing.assert_close(outputs.grad[kept], alone.grad)
    assert torch.equal(outputs.grad[1], torch.zeros(2, 6, 6))


def test_a_batch_without_a_defined_row_asks_for_nothing(loss: SurrogateLoss, batch: Batch) -> None:
    value = loss(batch[0], torch.full_like(batch[1], -1))
    value.backward()
    assert value.item() == 0.0
    assert torch.equal(batch[0].grad, torch.zeros_like(batch[0]))


def test_so_does_a_batch_of_nothing(loss: SurrogateLoss, batch: Batch) -> None:
    """The last batch of a shard may be one."""
    outputs = batch[0].detach()[:0].requires_grad_()
    value = loss(outputs, batch[1][:0])
    value.backward()
    assert value.item() == 0.0
    assert outputs.grad is not None


@pytest.mark.parametrize("broken", [torch.nan, torch.inf])
@pytest.mark.parametrize("undefined", [False, True])
def test_broken_outputs_do_not_pass_for_undefined_rows(
    broken: float, undefined: bool, loss: SurrogateLoss, batch: Batch
) -> None:
    outputs = batch[0].detach().clone()
    outputs[2, 1, 3, 3] = broken
    targets = torch.full_like(batch[1], -1) if undefined else batch[1]
    assert loss(outputs, targets).isnan()


@pytest.mark.parametrize("masked", [-torch.inf, torch.finfo(torch.float32).min])
def test_a_masked_class_is_no_broken_output(masked: float, loss: SurrogateLoss, batch: Batch) -> None:
    outputs = batch[0].detach().clone()
    outputs[:, 0] = masked
    outputs.requires_grad_()
    value = loss(outputs, torch.ones_like(batch[1]))
    value.backward()
    assert value.isfinite()
    assert outputs.grad is not None
    assert outputs.grad.isfinite().all()


def test_the_surrogate_is_frozen_and_stays_so(measure: Measure, batch: Batch) -> None:
    made = nn.Sequential(nn.Linear(2, 8), nn.Dropout(0.9), nn.Linear(8, 1), nn.Flatten(0))
    loss = SurrogateLoss(measure, made)
    outer = nn.ModuleDict({"loss": loss}).train()
    assert outer["loss"].training
    assert not made.training
    assert torch.equal(loss(*batch), loss(*batch))
    loss(*batch).backward()
    assert all(p.grad is None and not p.requires_grad for p in made.parameters())
    assert not list(filter(lambda p: p.requires_grad, loss.parameters()))


def card_of(surrogate: Surrogate, **changes: Any) -> Card:
    settings = {name: getattr(surrogate, name) for name in ("columns", "inputs", "depth", "width", "activation")}
    known = {"app": "nowhere", "measure": "accuracy", "options": {"sharpness": 2.0}, "facts": {"num_classes": 2}}
    return Card(**{**settings, **known, "version": 1, "level": "sample", "fidelity": {}, **changes})


@pytest.fixture
def installed(install: Callable[..., None]) -> None:
    entry = {"surrogate.measures.nowhere": {"accuracy": "nowhere_measures:accuracy"}}
    install("nowhere-plugin", entry, {"nowhere_measures": PLUGIN})


@pytest.mark.usefixtures("installed")
def test_a_loss_from_its_file_is_the_loss_that_was_saved(
    measure: Measure, surrogate: Surrogate, batch: Batch, tmp_path: Path
) -> None:
    surrogate.standardise(torch.rand(20, 2, generator=torch.Generator().manual_seed(0)))
    path = tmp_path / "surrogate.safetensors"
    save(surrogate, card_of(surrogate), path)
    loaded = SurrogateLoss.load(str(path))
    outputs, targets = batch
    assert torch.equal(loaded(outputs, targets), SurrogateLoss(measure, surrogate)(2.0 * outputs, targets))
    assert not any(p.requires_grad for p in loaded.parameters())
    assert not loaded.surrogate.training
    again = pickle.loads(pickle.dumps(loaded))  # as for the workers that others spawn
    assert torch.equal(again(outputs, targets), loaded(outputs, targets))


@pytest.mark.usefixtures("installed")
@pytest.mark.parametrize(
    ("changes", "error", "complaint"),
    [
        ({"version": 2}, DataError, "fitted for version 2 of measure 'accuracy', installed is 1; fit again"),
        ({"level": "batch"}, DataError, "fitted for level batch"),
        ({"columns": ("sure", "truth")}, DataError, "fitted for columns"),
        ({"app": "elsewhere"}, UsageError, "no measure of app 'elsewhere' is called 'accuracy'"),
        ({"measure": "acuracy"}, UsageError, r"did you mean 'accuracy'\?"),
        ({"facts": {}}, UsageError, "asks for 'num_classes'"),
        ({"options": {"sharpnes": 1.0}}, UsageError, r"did you mean 'sharpness'\?"),
    ],
)
def test_a_file_for_another_measure_is_refused(
    changes: dict[str, Any], error: type[Exception], complaint: str, surrogate: Surrogate, tmp_path: Path
) -> None:
    save(surrogate, card_of(surrogate, **changes), tmp_path / "surrogate.safetensors")
    with pytest.raises(error, match=complaint):
        SurrogateLoss.load(tmp_path / "surrogate.safetensors")


def test_what_is_no_surrogate_is_refused(surrogate: Surrogate, tmp_path: Path) -> None:
    path = tmp_path / "surrogate.safetensors"
    with pytest.raises(DataError, match="no such file"):
        SurrogateLoss.load(path)
    safetensors.torch.save_file({"weight": torch.zeros(3)}, path)
    with pytest.raises(DataError, match="not of a surrogate"):
        SurrogateLoss.load(path)
    text = json.dumps(card_of(surrogate).model_dump(mode="json"))
    safetensors.torch.save_file({"weight": torch.zeros(3)}, path, metadata={"surrogate": text})
    with pytest.raises(DataError, match="weights do not fit"):
        SurrogateLoss.load(path)


@pytest.mark.parametrize("cast", ["bfloat16", "half", "double"])
def test_a_parent_that_is_cast_does_not_take_the_surrogate_along(cast: str, loss: SurrogateLoss, batch: Batch) -> None:
    expected = loss(*batch)
    parent = nn.Sequential(nn.Linear(2, 2), loss)
    getattr(parent, cast)()
    assert parent[0].weight.dtype == getattr(torch, cast)
    wide = torch.float64 if cast == "double" else torch.float32
    assert {tensor.dtype for tensor in loss.state_dict().values() if tensor.is_floating_point()} <= {
        wide,
        torch.float32,
    }
    assert loss.surrogate.layers[0].weight.dtype == wide
    assert torch.allclose(loss(*batch).float(), expected, rtol=1e-6, atol=0)


# --- level "dataset" ---


def batches_of(count: int) -> list[tuple[Tensor, Tensor]]:
    generator = torch.Generator().manual_seed(5)
    return [
        (torch.randn(3, 2, 4, 4, generator=generator), torch.randint(-1, 2, (3, 4, 4), generator=generator))
        for _ in range(count)
    ]


def dataset_loss(dataset_measure: Measure) -> SurrogateLoss:
    """Its values are well inside of [0, 1]: at a bound, all would be the same."""
    torch.manual_seed(0)
    made = Surrogate(("truth",), depth=1, width=4)
    nn.init.constant_(made.layers[-1].bias, 0.5)
    return SurrogateLoss(dataset_measure, made)


def test_a_dataset_loss_speaks_of_the_average_of_the_batches_so_far(dataset_measure: Measure) -> None:
    loss, sums = dataset_loss(dataset_measure), []
    for outputs, targets in batches_of(5):
        value = loss(outputs.requires_grad_(), targets)
        sums.append(dataset_measure.additive.sums(outputs, targets).sum(0).detach())
        weights = [0.9**age for age in range(len(sums))][::-1]
        average = sum(w * s for w, s in zip(weights, sums, strict=True)) / sum(weights)
        expected = loss.surrogate(dataset_measure.additive.stats(average)).mean()
        assert value.item() == pytest.approx(expected.item(), rel=1e-5)
        assert 0.0 < value.item() < 1.0


def test_its_gradient_is_that_of_the_batch_at_the_average(dataset_measure: Measure) -> None:
    loss = dataset_loss(dataset_measure)
    (first, second) = batches_of(2)
    loss(first[0].requires_grad_(), first[1])
    outputs = second[0].requires_grad_()
    (found,) = torch.autograd.grad(loss(outputs, second[1]), outputs)
    sums = [dataset_measure.additive.sums(o, t).sum(0) for o, t in (first, second)]
    average = ((0.9 * sums[0] + sums[1]) / 1.9).detach().requires_grad_()
    (slope,) = torch.autograd.grad(loss.surrogate(dataset_measure.additive.stats(average)).mean(), average)
    (expected,) = torch.autograd.grad((sums[1] * slope).sum(), outputs)
    assert torch.allclose(found, expected, rtol=1e-4, atol=1e-8)


def test_a_batch_with_a_nan_is_not_remembered(dataset_measure: Measure) -> None:
    loss, spared = dataset_loss(dataset_measure), dataset_loss(dataset_measure)
    first, broken, last = batches_of(3)
    broken[0][0, 0, 0, 0] = torch.nan
    for each in (loss, spared):
        each(first[0].requires_grad_(), first[1])
    assert loss(broken[0].requires_grad_(), broken[1]).isnan()
    assert spared._sums is not None
    assert loss._sums is not None
    torch.testing.assert_close(loss._sums / loss._weight, spared._sums / spared._weight)
    assert loss(last[0].requires_grad_(), last[1]).isfinite()


def test_nor_is_it_where_it_is_the_first(dataset_measure: Measure) -> None:
    loss, spared = dataset_loss(dataset_measure), dataset_loss(dataset_measure)
    broken, *others = batches_of(3)
    broken[0][0, 0, 0, 0] = torch.nan
    assert loss(broken[0].requires_grad_(), broken[1]).isnan()
    for outputs, targets in others:
        assert torch.equal(loss(outputs, targets), spared(outputs, targets))
    assert torch.equal(loss._weight, spared._weight)


def test_what_it_remembers_survives_a_checkpoint_and_evaluation_adds_nothing(dataset_measure: Measure) -> None:
    loss, again = dataset_loss(dataset_measure), dataset_loss(dataset_measure)
    *before, last = batches_of(4)
    for outputs, targets in before:
        loss(outputs.requires_grad_(), targets)
    again.load_state_dict(loss.state_dict())
    with torch.no_grad():
        again(*last)
    again.eval()(*last)
    again.train()
    outputs = last[0].requires_grad_()
    assert torch.equal(again(outputs, last[1]), loss(outputs, last[1]))
    for more in batches_of(9)[4:]:  # not after one step alone: the weight is remembered to its last bit
        assert torch.equal(again(more[0], more[1]), loss(more[0], more[1]))
    loss.reset()
    assert torch.equal(loss(outputs, last[1]), dataset_loss(dataset_measure)(outputs, last[1]))
