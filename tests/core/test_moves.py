"""Moves of the outputs: the recorded speed against finite differences, the recorded change against the metric."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from torch import Tensor

from surrogate.moves import KINDS, direction, move
from surrogate.protocols import Dataset, Measure


@pytest.fixture
def scene(scenes: Dataset) -> tuple[Tensor, Tensor, Tensor]:
    """Outputs, targets and a way to move, in float64; the last of the five images is unknown altogether."""
    generator = torch.Generator().manual_seed(3)
    outputs, way = torch.randn(2, 5, 2, 6, 6, generator=generator, dtype=torch.float64)
    targets = torch.stack([scenes.load(i, None)[1] for i in range(5)])
    targets[4] = -1
    return outputs, targets, way


def test_velocity_is_the_derivative_of_the_statistics(measure: Measure, scene: tuple[Tensor, Tensor, Tensor]) -> None:
    outputs, targets, way = scene
    found = move(measure, outputs, targets, way, step=0.05)
    epsilon = 1e-6
    ahead, behind = (measure.stats(outputs + sign * epsilon * way, targets) for sign in (1, -1))
    torch.testing.assert_close(found.velocity[:4], ((ahead - behind) / (2 * epsilon))[:4], rtol=1e-6, atol=1e-8)
    assert torch.equal(found.stats[:4], measure.stats(outputs, targets)[:4])
    assert not found.stats.requires_grad
    assert not found.velocity.requires_grad


@pytest.mark.parametrize("higher_is_better", [True, False])
def test_change_is_the_difference_of_the_true_loss(
    higher_is_better: bool, measure: Measure, scene: tuple[Tensor, Tensor, Tensor]
) -> None:
    scaled = Measure(
        metric=lambda o, t, /: 100.0 * measure.metric(o, t),
        stats=measure.stats,
        columns=measure.columns,
        bounds=(0.0, 100.0),
        higher_is_better=higher_is_better,
    )
    outputs, targets, way = scene
    found = move(scaled, outputs, targets, way, step=1.0)
    difference = measure.metric(outputs + way, targets) - measure.metric(outputs, targets)
    torch.testing.assert_close(found.change[:4], -difference[:4] if higher_is_better else difference[:4])
    assert (found.change[:4] != 0).any()
    assert found.change[4].isnan()


def test_moves_work_where_gradients_are_off(measure: Measure, scene: tuple[Tensor, Tensor, Tensor]) -> None:
    outputs, targets, way = scene
    with torch.no_grad():
        found = move(measure, outputs, targets, way, step=0.05)
    assert (found.velocity[:4] != 0).all()


@pytest.mark.parametrize(("kind", "sign"), [("towards", -1), ("mend", -1), ("reach", -1), ("away", 1), ("lose", 1)])
def test_mending_lowers_the_loss_and_losing_raises_it(
    kind: str,
    sign: int,
    measure: Measure,
    perfect: Callable[[Tensor, Tensor], Tensor],
    scene: tuple[Tensor, Tensor, Tensor],
) -> None:
    outputs, targets, _ = scene
    way = direction(kind, outputs, perfect(outputs, targets), torch.Generator().manual_seed(0))
    change = move(measure, outputs, targets, way, step=1.0).change[:4]
    assert (sign * change >= 0).all()
    assert (sign * change > 0).any()


@pytest.mark.parametrize("shape", [(6, 3, 4, 5), (40, 1), (1, 1)])
def test_directions_have_the_shape_and_the_spread_of_the_outputs(shape: tuple[int, ...]) -> None:
    generator = torch.Generator().manual_seed(0)
    outputs, perfect = 20.0 * torch.randn(shape, generator=generator), torch.zeros(shape)
    for kind in KINDS:
        draws = [direction(kind, outputs, perfect, torch.Generator().manual_seed(seed)) for seed in (1, 1, 2)]
        assert draws[0].shape == outputs.shape
        assert draws[0].isfinite().all()
        assert torch.equal(draws[0], draws[1])
        if len(outputs) > 1:
            assert not torch.equal(draws[0], draws[2])
            assert 1.0 < draws[0].std(correction=0) < 60.0


def test_wrong_places_are_mended_and_right_ones_lost_with_all_their_channels() -> None:
    dice = torch.Generator().manual_seed(0)
    outputs = torch.randn(40, 3, 20, 20, generator=dice)
    true = torch.randint(3, (40, 20, 20), generator=dice)
    perfect = 9.0 * torch.nn.functional.one_hot(true, 3).permute(0, 3, 1, 2).float()
    right = outputs.argmax(1) == true
    anywhere = torch.ones_like(right)
    kinds = (
        ("towards", 1, anywhere),
        ("away", -1, anywhere),
        ("mend", 1, ~right),
        ("reach", 1, ~right),
        ("lose", -1, right),
    )
    for kind, sign, may_move in kinds:
        way = direction(kind, outputs, perfect, torch.Generator().manual_seed(1))
        places = (way != 0).sum(1)
        assert set(places.unique().tolist()) == {0, 3}
        assert not places[~may_move].any()
        assert (sign * way * (perfect - outputs) >= 0).all()
        still = torch.stack([~(places[true == c] > 0).any() for c in range(3)])
        assert not still.any(), "each class moves somewhere"
        kept = [any(not places[i][true[i] == c].any() for c in range(3)) for i in range(40)]
        assert (sum(kept) > 10) == (kind in ("mend", "reach")), "in many samples some class is not mended"


def test_with_one_channel_every_element_is_moved_either_way() -> None:
    outputs, perfect = torch.randn(40, 1, generator=torch.Generator().manual_seed(0)), torch.ones(40, 1)
    mend, lose = (direction(kind, outputs, perfect, torch.Generator().manual_seed(1)) for kind in ("mend", "lose"))
    assert torch.equal(mend, -lose)
    assert (mend != 0).any()


def test_nothing_is_left_to_move_where_the_outputs_are_perfect() -> None:
    outputs = torch.randn(4, 3, 6, 6)
    assert not direction("mend", outputs, outputs, torch.Generator()).any()


def test_at_the_worst_value_only_a_long_move_is_asked(
    measure: Measure, perfect: Callable[[Tensor, Tensor], Tensor], scene: tuple[Tensor, Tensor, Tensor]
) -> None:
    outputs, targets, _ = scene
    ideal = perfect(outputs, targets)
    outputs[0] = ideal[0].flip(0)  # all wrong
    assert measure.metric(outputs, targets)[0] == 0.0
    small, long = (move(measure, outputs, targets, ideal - outputs, step=step).change for step in (0.05, 1.0))
    assert small.isnan().tolist() == [True, False, False, False, True]
    assert long.isnan().tolist() == [False, False, False, False, True]
    assert long[0] == -1.0
