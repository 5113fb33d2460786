"""What the fit minimises: what moves ask of the slope, and how far a slope falls short of it."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor, nn

from surrogate.approximator import Surrogate
from surrogate.moves import KINDS
from surrogate.objective import Asked, asked, censored_error, objective, scale_of, slope_errors
from surrogate.recipe import FitRecipe
from surrogate.store import Rows


def moved(changes: dict[str, list[float]]) -> Rows:
    """Moves of one statistic, which always goes up by 1, and their changes under noise; the others are the opposite."""
    value = torch.tensor([change for kind in changes.values() for change in kind])
    kind = torch.tensor([KINDS.index(name) for name, kind in changes.items() for _ in kind], dtype=torch.int16)
    stats = torch.cat([torch.tensor([[0.5, 1.0]]).repeat(len(value), 1), value.unsqueeze(1)], 1)
    return Rows(stats, -value, torch.arange(len(value)), kind)


def everything(moves: Rows) -> Tensor:
    return torch.ones(len(moves.value), dtype=torch.bool)


def test_rows_at_a_bound_are_content_with_anything_beyond_it() -> None:
    latent = torch.tensor([-3.0, 5.0, 0.5])
    assert censored_error(latent, torch.tensor([0.0, 1.0, 0.5])) == 0.0
    inside = censored_error(torch.tensor([0.1, 0.9]), torch.tensor([0.0, 1.0]))
    torch.testing.assert_close(inside, torch.tensor(0.12).square())  # 0.02 beyond the bound is asked for


def test_a_bound_is_a_bound_though_rounding_missed_it() -> None:
    third = torch.tensor(1.0, dtype=torch.float64) / 3
    value = torch.stack([1 - third - third - third, third + third + third]).float()
    assert value[0] != 0.0
    assert censored_error(torch.tensor([-3.0, 5.0]), value) == 0.0


def test_a_rank_is_the_share_of_the_fitted_losses_below() -> None:
    losses = torch.rand(2000, generator=torch.Generator().manual_seed(0)) ** 3  # crowded near the best
    asked_for = torch.tensor([0.001, 0.01, 0.1, 0.5, 0.9])
    share = (losses < asked_for.unsqueeze(1)).float().mean(1)
    torch.testing.assert_close(scale_of(losses, least=0.0).rank_of(asked_for), share, rtol=0, atol=0.02)


@pytest.mark.parametrize("ties", [0.0, 1.0])
def test_ranks_of_mirrored_losses_are_mirrored_ties_and_all(ties: float) -> None:
    losses = torch.cat([torch.full((90,), ties), torch.linspace(0.2, 0.8, 11)])
    scale, mirrored = scale_of(losses, least=0.0), scale_of(1.0 - losses, least=0.0)
    at = torch.linspace(0.0, 1.0, 101)
    torch.testing.assert_close(scale.rank_of(at), 1.0 - mirrored.rank_of(1.0 - at), rtol=0, atol=0.02)
    assert float((scale.rank_of(torch.tensor(ties)) - ties).abs()) == pytest.approx(0.45, abs=0.02)


def test_losses_beyond_the_bounds_rank_as_at_the_bounds() -> None:
    """As `Surrogate.forward` clamps; a metric may be out of its bounds by a little."""
    scale = scale_of(torch.tensor([-0.5, 0.0, 0.3, 0.6, 1.0, 2.5]), least=0.0)
    assert (float(scale.loss[0]), float(scale.loss[-1])) == (0.0, 1.0)
    assert scale.rank_of(torch.tensor(1.2)) == scale.rank_of(torch.tensor(2.5))


def test_ranks_are_flat_beyond_the_fitted_losses_and_rise_within() -> None:
    scale = scale_of(torch.tensor([0.2, 0.4, 0.4, 0.4, 0.9]), least=0.0)
    loss = torch.tensor([-1.0, 0.2, 0.3, 0.4, 0.5, 0.9, 7.0], requires_grad=True)
    ranks = scale.rank_of(loss)
    (slope,) = torch.autograd.grad(ranks.sum(), loss)
    assert (ranks.diff() >= 0).all()
    assert ranks[0] == ranks[1]
    assert ranks[5] == ranks[6]
    assert slope[[0, 6]].tolist() == [0.0, 0.0]
    assert (slope[[2, 4]] > 0).all()


def test_losses_that_are_alike_have_no_ranks() -> None:
    for losses in (torch.full((9,), 0.5), 0.5 + 1e-5 * torch.arange(9)):
        scale = scale_of(losses, least=1e-3)
        assert (scale.spread, len(scale.loss)) == (1e-3, 1)
        rows, nothing = (torch.zeros(9, 1), losses), Asked(torch.empty(0, 1), *torch.empty(3, 0, 1))
        value, whole = objective(Line(1.0), rows, nothing, FitRecipe(), scale=scale)
        torch.testing.assert_close(whole, value / 1e-6)


def test_an_error_where_losses_crowd_costs_more_by_rank() -> None:
    """Two fits off by 0.01, one where 95 of 100 losses are and one where five are; by value alone they are as good."""
    crowded = torch.cat([torch.linspace(0.0, 0.02, 95), torch.linspace(0.2, 1.0, 5)])
    scale, nothing = scale_of(crowded, least=0.0), Asked(torch.empty(0, 1), *torch.empty(3, 0, 1))

    def error(at: float, weight: float) -> float:
        rows = torch.tensor([[at + 0.01]]), torch.tensor([at])
        return float(objective(Line(1.0), rows, nothing, FitRecipe(order_weight=weight), scale=scale)[1])

    assert error(0.005, 0.0) == pytest.approx(error(0.6, 0.0), rel=1e-3)
    assert error(0.005, 1.0) > 50 * error(0.6, 1.0)


def test_where_a_kind_is_one_sided_moves_that_change_nothing_have_its_sign() -> None:
    moves = moved({"towards": [-0.2, 0.0] * 50, "away": [0.0, 0.3] * 50, "mend": [0.1, 0.0, -0.1] * 50, "reach": [0.0]})
    assert asked(moves, everything(moves)).sign.tolist() == [-1] * 100 + [1] * 100 + [1, 0, -1] * 50 + [0]


def test_it_takes_fifty_changes_to_say_that_a_kind_is_one_sided() -> None:
    for number, sign in ((49, 0), (50, -1)):
        moves = moved({"towards": [0.0, *[-0.1] * number]})
        assert asked(moves, everything(moves)).sign[0] == sign


def test_what_is_held_out_has_no_say() -> None:
    moves = moved({"towards": [-0.1] * 60 + [0.0], "away": [0.2, 0.4]})
    known = everything(moves)
    known[:20] = False
    known[-1] = False
    found = asked(moves, known)
    assert found.sign[60] == 0
    torch.testing.assert_close(found.change[-2:], torch.tensor([1.0, 2.0]))


def test_a_few_changes_of_the_other_sign_keep_their_own() -> None:
    changes = [-0.1] * 200 + [0.1, 0.0]
    few, many = moved({"towards": changes}), moved({"towards": changes + [0.1] * 20})
    assert asked(few, everything(few)).sign.tolist() == [-1] * 200 + [1, -1]
    assert asked(many, everything(many)).sign[201] == 0


def test_changes_are_in_units_of_what_their_kind_does() -> None:
    moves = moved({"towards": [-0.03, 0.04], "reach": [-3.0, -4.0]})
    found = asked(moves, everything(moves))
    by_kind = found.change.view(2, 2)
    torch.testing.assert_close(by_kind.square().mean(1), torch.ones(2))
    size = torch.tensor([0.00125, 12.5]).sqrt()  # root mean square of 0.03 and 0.04, of 3 and 4
    torch.testing.assert_close(found.velocity.view(2, 2), (1 / size).unsqueeze(1).expand(2, 2))


class Line(nn.Module):
    """A surrogate of one statistic whose slope is given, of inputs that are spread by 0.1."""

    def __init__(self, slope: float) -> None:
        super().__init__()
        self.slope, self.index, self.scale = slope, torch.tensor([0]), torch.tensor([0.1])

    def latent(self, stats: Tensor) -> Tensor:
        return self.slope * stats[:, 0]


@pytest.mark.parametrize(
    ("slope", "sign", "short"),
    [(0.0, 1, 1.0), (0.5, 1, 0.0), (9.0, 1, 0.0), (-0.5, 1, 4.0), (0.25, 1, 0.25), (4.5, -1, 36.0), (-0.5, 0, 0.0)],
)
def test_the_sign_error_is_a_hinge_squared_and_then_linear_in_units_of_the_least_slope(
    slope: float, sign: int, short: float
) -> None:
    """0.05 per spread of the inputs is a slope of 0.5 here; how far the move goes does not matter."""
    for far in (1.0, -1.0, 1e-3):
        moves = Asked(torch.zeros(1, 1), torch.tensor([[far]]), torch.zeros(1), torch.tensor([sign * far]).sign())
        line: Surrogate = Line(slope)  # type: ignore[assignment]
        size, error = slope_errors(line, moves, least=0.05)
        assert float(error) == pytest.approx(short, abs=1e-6)
        assert float(size) == pytest.approx((slope * far) ** 2)


def test_a_move_that_moves_no_input_asks_for_no_sign() -> None:
    moves = Asked(torch.zeros(1, 1), torch.zeros(1, 1), torch.ones(1), torch.ones(1))
    line: Surrogate = Line(-1.0)  # type: ignore[assignment]
    size, error = slope_errors(line, moves, least=0.05)
    assert (float(size), float(error)) == (1.0, 0.0)
