"""The engine: the device and the precision of the recipe, whatever an engine before it had."""

from __future__ import annotations

import pytest
import torch

from surrogate.engine import Engine
from surrogate.errors import UsageError
from surrogate.recipe import Recipe


@pytest.mark.parametrize("order", [("fp32", "bf16"), ("bf16", "fp32"), ("fp32", "bf16", "fp32")])
def test_each_engine_computes_in_the_precision_of_its_own_recipe(order: tuple[str, ...], recipe: Recipe) -> None:
    torch.manual_seed(0)
    net, inputs = torch.nn.Conv2d(3, 4, 3), torch.randn(2, 3, 8, 8)
    exact = net(inputs)
    for precision in order:
        model = torch.nn.Conv2d(3, 4, 3)
        model.load_state_dict(net.state_dict())
        outputs = Engine(recipe.model_copy(update={"precision": precision})).prepare(model)(inputs)
        assert outputs.dtype == torch.float32
        error = (outputs - exact).abs().max()
        assert error < 1e-6 if precision == "fp32" else 1e-4 < error < 0.05


@pytest.mark.skipif(torch.cuda.is_available(), reason="there is a CUDA device")
def test_cuda_without_a_device_is_told(recipe: Recipe) -> None:
    with pytest.raises(UsageError, match="no CUDA device found; use --device auto or cpu"):
        Engine(recipe.model_copy(update={"device": "cuda"}))


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
def test_a_gpu_is_found_after_the_cpu(recipe: Recipe) -> None:
    devices = [
        Engine(recipe.model_copy(update={"device": device})).device.type for device in ("cpu", "cuda", "cpu", "auto")
    ]
    assert devices == ["cpu", "cuda", "cpu", "cuda"]
