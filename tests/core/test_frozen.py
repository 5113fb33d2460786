"""The frozen network by triton, in its interpreter, against the layers in float64; on a GPU: tests/segmentation."""

from __future__ import annotations

import pytest
import torch

from surrogate import frozen
from surrogate.approximator import Surrogate


def test_value_and_slope_are_those_of_the_layers(interpreted):
    code = """
        import copy
        import torch
        from surrogate import frozen
        from surrogate.approximator import Surrogate

        def both(surrogate, stats):
            stats = stats.clone().requires_grad_()
            value = surrogate(stats)
            (value * torch.arange(1.0, len(stats) + 1)).sum().backward()
            return value.detach(), stats.grad

        torch.manual_seed(0)
        for rows, columns, depth, width in ((21, 6, 4, 100), (17, 9, 2, 16), (3, 1, 1, 128)):
            names = [f"s{k}" for k in range(columns)]
            surrogate = Surrogate(names, inputs=names[::-1], depth=depth, width=width)
            surrogate.standardise(torch.rand(50, columns) * 3 - 1)
            stats = torch.rand(rows, columns) * 3 - 1
            assert not frozen.runs(surrogate, stats)  # it may be fitted still
            expected = both(copy.deepcopy(surrogate).double(), stats)
            surrogate.requires_grad_(False)
            assert frozen.runs(surrogate, stats)
            for found, truth in zip(both(surrogate, stats), expected):
                torch.testing.assert_close(found.double(), truth.double(), rtol=1e-5, atol=1e-5)
            other = Surrogate(names, inputs=names[::-1], depth=depth, width=width)
            twin = copy.deepcopy(surrogate)
            surrogate.load_state_dict(other.state_dict())  # as a refresh does
            torch.testing.assert_close(surrogate(stats), other(stats))
            twin.load_state_dict(other.state_dict(), assign=True)
            torch.testing.assert_close(twin(stats), other(stats))
    """
    interpreted(code)


@pytest.mark.parametrize("options", [{}, {"width": 129}, {"activation": "relu"}, {"directions": (1, -1)}])
def test_what_is_left_to_the_layers(monkeypatch, options):
    monkeypatch.setattr(frozen, "_has_kernel", lambda _: True)
    surrogate = Surrogate(["a", "b"], **options).requires_grad_(False)
    assert frozen.runs(surrogate, torch.rand(3, 2)) == (not options)
    assert not frozen.runs(surrogate, torch.rand(0, 2))
    assert not frozen.runs(surrogate.double(), torch.rand(3, 2, dtype=torch.float64))


def test_a_cpu_keeps_the_layers(monkeypatch):
    monkeypatch.delenv("TRITON_INTERPRET", raising=False)
    frozen._has_kernel.cache_clear()
    assert not frozen.runs(Surrogate(["a"]).requires_grad_(False), torch.rand(3, 1))
