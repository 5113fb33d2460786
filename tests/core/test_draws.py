"""Random numbers where they are used."""

from __future__ import annotations

import pytest
import torch

from surrogate import draws


@pytest.mark.parametrize(("draw", "plain"), [(draws.normal, torch.randn), (draws.uniform, torch.rand)])
def test_a_cpu_takes_them_from_the_generator(draw, plain):
    generator = torch.Generator().manual_seed(3)
    expected = plain((2, 5), generator=torch.Generator().manual_seed(3))
    assert torch.equal(draw((2, 5), torch.zeros(1, dtype=torch.float64), generator), expected)


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
@pytest.mark.parametrize("draw", [draws.normal, draws.uniform])
def test_a_gpu_draws_the_same_each_time_and_anew_each_call(draw):
    generators = [torch.Generator().manual_seed(3) for _ in range(2)]
    like = torch.zeros(1, device="cuda")
    first, again = (draw((2, 5), like, generator) for generator in generators)
    assert first.device == like.device
    assert torch.equal(first, again)
    assert not torch.equal(draw((2, 5), like, generators[0]), first)
