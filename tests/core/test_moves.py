"""Moves of the outputs: the recorded speed against finite differences, the recorded change against the metric."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import Any

import pytest
import torch
from torch import Tensor

from surrogate.moves import KINDS, STEPS, Speed, direction, move
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


class _OneWay(torch.autograd.Function):
    """exp, by somebody who has thought of training alone."""

    generate_vmap_rule = True

    @staticmethod
    def forward(x: Tensor) -> Tensor:
        return x.exp()

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[Tensor], output: Tensor) -> None:  # noqa: ARG004
        ctx.save_for_backward(output)

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> Tensor:
        return gradient * ctx.saved_tensors[0]


def test_velocity_of_an_operation_without_a_forward_derivative() -> None:
    stats = Measure(
        metric=lambda o, t, /: (o[:, 0] > 0).float(),  # noqa: ARG005
        stats=lambda o, t, /: _OneWay.apply(o),  # noqa: ARG005
        columns=("exp",),
    )
    outputs, way = torch.randn(2, 7, 1, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    found = move(stats, outputs, torch.zeros(7), way, step=0.05)
    torch.testing.assert_close(found.velocity, way * outputs.exp())
    torch.testing.assert_close(found.stats, outputs.exp())


@torch.library.custom_op("surrogate_tests::exponential", mutates_args=())
def _exponential(x: Tensor) -> Tensor:
    return x.exp()


_exponential.register_autograd(
    lambda ctx, gradient: gradient * ctx.saved_tensors[0],
    setup_context=lambda ctx, inputs, output: ctx.save_for_backward(output),  # noqa: ARG005
)


def _weighed(o: Tensor) -> Tensor:
    with torch.no_grad():
        weight = o.sigmoid()
    return weight * o


@pytest.mark.parametrize("spread", [False, True])
@pytest.mark.parametrize(
    ("stats", "slope"),
    [
        (lambda o: torch.cat([_exponential(o), o], 1), lambda o: torch.cat([o.exp(), torch.ones_like(o)], 1)),
        (_weighed, torch.sigmoid),
    ],
    ids=["an operation that seems to stand still", "a weight without gradient"],
)
def test_the_speed_is_that_by_which_training_goes(stats: Any, slope: Any, spread: bool) -> None:
    """Where a forward derivative is not that of going back; and where outputs share memory, which has none."""
    outputs, way = torch.randn(2, 7, 1, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    outputs = outputs[:1].expand(7, 1) if spread else outputs
    columns = ("a", "b")[: stats(outputs).shape[1]]
    measure = Measure(lambda o, t, /: (o[:, 0] > 0).float(), lambda o, t, /: stats(o), columns)  # noqa: ARG005
    speed = Speed()
    for _ in range(2):
        found = move(measure, outputs, torch.zeros(7), way, step=0.05, speed=speed)
        torch.testing.assert_close(found.velocity, slope(outputs) * way)


def test_a_speed_that_is_right_is_looked_at_once(measure: Measure, scene: tuple[Tensor, Tensor, Tensor]) -> None:
    outputs, targets, way = scene
    speed, calls = Speed(), []

    def stats(o: Tensor, t: Tensor, /) -> Tensor:
        calls.append(o)
        return measure.stats(o, t)

    watched = replace(measure, stats=stats)
    found = [move(watched, outputs, targets, way, step=0.05, speed=speed).velocity[:4] for _ in range(3)]
    assert len(calls) == 2 + 1 + 1
    assert torch.equal(found[0], found[1])


def test_a_statistic_that_stands_still_has_no_velocity() -> None:
    still = Measure(
        metric=lambda o, t, /: (o[:, 0] > 0).float(),  # noqa: ARG005
        stats=lambda o, t, /: (o > 0).to(o.dtype),  # noqa: ARG005
        columns=("positive",),
    )
    assert move(still, torch.randn(7, 1), torch.zeros(7), torch.ones(7, 1), step=0.05).velocity.eq(0.0).all()


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


def test_under_noise_the_change_is_between_two_noisy_losses(
    measure: Measure, scene: tuple[Tensor, Tensor, Tensor]
) -> None:
    outputs, targets, way = scene
    noise = torch.randn(outputs.shape, generator=torch.Generator().manual_seed(8), dtype=outputs.dtype)
    found = move(measure, outputs, targets, way, step=1.0, noise=noise)
    bare = move(measure, outputs, targets, way, step=1.0)
    expected = measure.metric(outputs + noise, targets) - measure.metric(outputs + way + noise, targets)
    torch.testing.assert_close(found.smoothed[:4], expected[:4])
    assert not torch.equal(found.smoothed[:4], found.change[:4])
    assert found.smoothed[4].isnan()
    for field in ("stats", "velocity", "change"):  # the certificate is about the metric as it is
        assert torch.equal(getattr(found, field)[:4], getattr(bare, field)[:4])
    assert torch.equal(bare.smoothed[:4], bare.change[:4])


def test_noise_makes_a_slope_of_a_step() -> None:
    """The share of samples above 0: a small move tips none over, under noise as many as the normal density says."""
    step = Measure(
        metric=lambda o, t, /: (o[:, 0] > 0).float().mean(0, keepdim=True),  # noqa: ARG005
        stats=lambda o, t, /: o.mean(0, keepdim=True),  # noqa: ARG005
        columns=("mean",),
        level="batch",
    )
    outputs, targets = torch.full((100_000, 1), 0.5), torch.zeros(100_000)
    noise = torch.randn(outputs.shape, generator=torch.Generator().manual_seed(0))
    found = move(step, outputs, targets, torch.ones_like(outputs), step=0.05, noise=noise)
    assert found.change.item() == 0.0
    density = torch.distributions.Normal(0.0, 1.0).log_prob(torch.tensor(0.525)).exp()
    assert found.smoothed.item() == pytest.approx(-0.05 * density.item(), rel=0.05)


def test_moves_work_where_gradients_are_off(measure: Measure, scene: tuple[Tensor, Tensor, Tensor]) -> None:
    outputs, targets, way = scene
    with torch.no_grad():
        found = move(measure, outputs, targets, way, step=0.05)
    assert (found.velocity[:4] != 0).all()


@pytest.mark.parametrize(("kind", "sign"), [("towards", -1), ("away", 1)])
def test_towards_lowers_the_loss_and_away_raises_it(
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


def test_towards_moves_some_places_with_all_their_channels_and_away_the_opposite_way() -> None:
    outputs, perfect = torch.randn(8, 3, 6, 6, generator=torch.Generator().manual_seed(0)), torch.ones(8, 3, 6, 6)
    toward, away = (direction(kind, outputs, perfect, torch.Generator().manual_seed(1)) for kind in ("towards", "away"))
    assert torch.equal(toward, -away)
    places = (toward != 0).sum(1)
    assert set(places.unique().tolist()) == {0, 3}
    assert (toward * (perfect - outputs) >= 0).all()


def test_nothing_is_left_to_move_where_the_outputs_are_perfect() -> None:
    outputs = torch.randn(4, 3, 6, 6)
    assert not direction("towards", outputs, outputs, torch.Generator()).any()


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


@pytest.mark.parametrize("kind", KINDS)
def test_a_value_is_not_moved_past_the_truth(kind: str) -> None:
    """Outputs that are nearly right, and far from each other: as long as they are spread would be far too long."""
    outputs = torch.linspace(-5.0, 5.0, 200).unsqueeze(1)
    perfect = outputs + 0.1 * torch.randn(200, 1, generator=torch.Generator().manual_seed(0))
    moved = outputs + STEPS[kind] * direction(kind, outputs, perfect, torch.Generator().manual_seed(1))
    share = (moved - outputs) / (perfect - outputs)
    low, high = (-1.0, 0.0) if kind == "away" else (0.0, 1.0)
    assert share.min() >= low - 1e-4
    assert share.max() <= high + 1e-4
    assert (share != 0.0).any()
