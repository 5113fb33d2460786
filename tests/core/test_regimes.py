"""Changed outputs: what each regime promises, for maps of logits and for single numbers."""

from __future__ import annotations

import pytest
import torch
from torch import Generator, Tensor

from surrogate.errors import UsageError
from surrogate.regimes import REGIMES, change

SHAPES = [(4, 3, 5, 6), (7, 1), (1, 1), (2, 3)]


def seeded(seed: int = 0) -> Generator:
    return torch.Generator().manual_seed(seed)


def outputs_of(shape: tuple[int, ...]) -> tuple[Tensor, Tensor]:
    generator = seeded(5)
    return torch.randn(shape, generator=generator), 8.0 * torch.randn(shape, generator=generator)


@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize("name", REGIMES)
def test_a_regime_keeps_shape_and_dtype_and_depends_on_the_generator_alone(name: str, shape: tuple[int, ...]) -> None:
    for dtype in (torch.float32, torch.float64):
        outputs, perfect = (tensor.to(dtype) for tensor in outputs_of(shape))
        kept = outputs.clone()
        torch.manual_seed(1)
        changed = change(name, outputs, perfect, seeded())
        torch.manual_seed(2)
        assert torch.equal(changed, change(name, outputs, perfect, seeded()))
        assert changed.shape == outputs.shape
        assert changed.dtype == dtype
        assert changed.isfinite().all()
        assert torch.equal(outputs, kept)


@pytest.mark.parametrize("name", sorted(set(REGIMES) - {"model", "perfect"}))
def test_another_draw_changes_the_outputs_otherwise(name: str) -> None:
    outputs, perfect = outputs_of((4, 3, 5, 6))
    first, second = (change(name, outputs, perfect, seeded(seed)) for seed in (0, 1))
    assert not torch.equal(first, outputs)
    assert not torch.equal(first, second)


def test_model_leaves_the_outputs_as_they_are() -> None:
    outputs, perfect = outputs_of((4, 3, 5, 6))
    assert change("model", outputs, perfect, seeded()) is outputs


@pytest.mark.parametrize("name", ["sharper", "softer"])
def test_confidence_changes_and_the_predicted_class_does_not(name: str) -> None:
    outputs, perfect = outputs_of((4, 3, 5, 6))
    changed = change(name, outputs, perfect, seeded())
    assert torch.equal(changed.argmax(1), outputs.argmax(1))
    surer = changed.softmax(1).amax(1) > outputs.softmax(1).amax(1)
    assert surer.all() if name == "sharper" else not surer.any()


def test_amounts_are_drawn_for_each_sample() -> None:
    factors = change("sharper", torch.ones(50, 2, 3, 3), torch.zeros(50, 2, 3, 3), seeded())
    assert torch.equal(factors, factors[:, :1, :1, :1].expand_as(factors))
    assert len(factors[:, 0, 0, 0].unique()) == 50
    assert 1.2 <= factors.min() < factors.max() <= 4.0


def test_noise_is_of_the_size_of_the_spread_and_a_shift_is_one_number_for_a_channel() -> None:
    outputs, perfect = outputs_of((200, 3, 8, 8))
    for scale in (1.0, 100.0):
        added = change("noisy", scale * outputs, perfect, seeded()) - scale * outputs
        assert 0.1 * scale < added.std() < scale
        assert abs(added.mean()) < 0.05 * scale
    shift = change("shifted", outputs, perfect, seeded()) - outputs
    assert torch.allclose(shift, shift[:, :, :1, :1].expand_as(shift), atol=1e-5)
    assert shift[:, :, 0, 0].std(1).min() > 0


def test_towards_and_away_lie_on_the_line_through_the_perfect_outputs() -> None:
    outputs, perfect = torch.zeros(500, 2, 3), torch.ones(500, 2, 3)
    way = change("towards", outputs, perfect, seeded())
    assert 0.0 <= way.min() < 0.05 < 0.95 < way.max() <= 1.0
    back = change("away", outputs, perfect, seeded())
    assert -0.5 <= back.min() < -0.45 < -0.05 < back.max() <= 0.0


def test_a_large_amount_of_towards_is_nearly_perfect() -> None:
    outputs, perfect = outputs_of((2000, 3, 4))
    changed = change("towards", outputs, perfect, seeded())
    left = (changed - perfect).flatten(1).norm(dim=1) / (outputs - perfect).flatten(1).norm(dim=1)
    assert left.min() < 0.01
    assert left.max() <= 1.0 + 1e-5
    nearest = left.argmin()
    assert torch.equal(changed[nearest].argmax(0), perfect[nearest].argmax(0))


def test_perfect_outputs_stay_perfect_on_the_way_to_themselves() -> None:
    _, perfect = outputs_of((4, 3, 5, 6))
    for name in ("towards", "away"):
        assert torch.allclose(change(name, perfect, perfect, seeded()), perfect)


def test_an_unknown_regime_is_named_with_the_nearest() -> None:
    with pytest.raises(UsageError, match=r"no regime 'nosiy'; did you mean 'noisy'\?"):
        change("nosiy", torch.zeros(1, 1), torch.zeros(1, 1), seeded())


def test_perfect_is_perfect() -> None:
    outputs, perfect = outputs_of((4, 3, 5, 6))
    assert torch.equal(change("perfect", outputs, perfect, seeded()), perfect)


def test_empty_gives_nearly_everything_to_one_channel() -> None:
    outputs, perfect = outputs_of((200, 3, 8, 8))
    changed = change("empty", outputs, perfect, seeded())
    share = torch.nn.functional.one_hot(changed.argmax(1), 3).float().mean((1, 2)).amax(1)
    assert share.median() > 0.99
    single = change("empty", torch.randn(200, 1, generator=seeded()), torch.zeros(200, 1), seeded())
    assert (single > 0).float().mean().item() == pytest.approx(0.5, abs=0.15)
