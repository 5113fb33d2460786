"""Networks that are monotone by construction: any weights, every pair of points, and no worse a fit."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from surrogate import approximator
from surrogate.approximator import Card, Surrogate


def drawn(seed: int) -> Surrogate:
    torch.manual_seed(seed)
    made = Surrogate(("up", "down", "free"), depth=3, width=12, directions=(1, -1, 0))
    with torch.no_grad():
        for parameter in made.parameters():
            parameter.copy_(2.0 * torch.randn_like(parameter))
    return made


@given(st.integers(0, 10_000))
@settings(max_examples=30, deadline=None)
def test_it_rises_and_falls_as_told_for_any_weights(seed: int) -> None:
    with torch.random.fork_rng():
        made = drawn(seed).double()
        points, steps = torch.randn(200, 3).double(), torch.rand(200, 1).double()
    for column, direction in ((0, 1), (1, -1)):
        moved = points + steps * torch.eye(3).double()[column]
        assert (direction * (made.latent(moved) - made.latent(points)) >= -1e-9).all()


def test_a_free_input_may_do_both() -> None:
    torch.manual_seed(0)
    grid = torch.linspace(-3, 3, 50)[:, None] * torch.tensor([[0.0, 0.0, 1.0]])
    changes = torch.stack([drawn(seed).latent(grid).diff() for seed in range(20)]).detach()
    assert (changes > 0).any()
    assert (changes < 0).any()


def test_it_fits_a_saddle_free_surface_closely() -> None:
    """A product, which no sum of monotone functions of one input is."""
    torch.manual_seed(0)
    points = torch.rand(2000, 2)
    value = points[:, 0] * (1.0 - points[:, 1])
    made = Surrogate(("up", "down"), depth=2, width=24, directions=(1, -1))
    made.standardise(points)
    optimizer = torch.optim.Adam(made.parameters(), 0.01)
    for _ in range(400):
        loss = (made.latent(points) - value).square().mean()
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    assert 1.0 - float(loss.detach() / value.var()) > 0.95


def test_it_survives_its_file(tmp_path: Path) -> None:
    made = drawn(0)
    card = Card(
        app="none", measure="m", options={}, facts={}, version=1, level="sample", columns=made.columns,
        inputs=made.inputs, depth=3, width=12, activation="tanh", directions=made.directions, fidelity={},
    )  # fmt: skip
    approximator.save(made, card, tmp_path / "s.safetensors")
    again, _ = approximator.load(tmp_path / "s.safetensors")
    points = torch.randn(5, 3)
    assert torch.equal(again(points), made(points))
    assert again.directions == (1, -1, 0)


def test_without_directions_it_is_the_plain_network() -> None:
    assert not Surrogate(("a",)).directions
    with pytest.raises(RuntimeError):  # the wrong number of directions does not fit the inputs
        Surrogate(("a", "b"), directions=(1,)).latent(torch.zeros(1, 2))
