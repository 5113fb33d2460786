"""The state of a training run in a file: put back bit for bit, or refused."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest
import safetensors.torch
import torch
from torch import nn

from surrogate.checkpoint import load_state, save_state
from surrogate.errors import DataError
from surrogate.weights import load_weights, save_weights

Optimizer = Callable[[nn.Module], torch.optim.Optimizer]
NOTES = {"epoch": 3, "best": {"miou": 0.1 + 0.2, "absent": None}, "history": [{"loss": 1e-300}], "error": float("inf")}
OPTIMIZERS: dict[str, Optimizer] = {
    "adamw": lambda model: torch.optim.AdamW(model.parameters(), lr=0.01, weight_decay=0.1),
    "sgd": lambda model: torch.optim.SGD(model.parameters(), lr=0.01),
    "momentum": lambda model: torch.optim.SGD(model.parameters(), lr=0.01, momentum=0.9),
}


def steps(model: nn.Module, optimizer: torch.optim.Optimizer, count: int) -> None:
    for number in range(count):
        optimizer.zero_grad()
        inputs = torch.randn(2, 3, 6, 6, generator=torch.Generator().manual_seed(number))
        model.eval()(inputs).square().mean().backward()
        optimizer.step()


@pytest.mark.parametrize("kind", OPTIMIZERS)
@pytest.mark.parametrize("before", [0, 3])
def test_a_state_is_put_back_bit_for_bit(kind: str, before: int, net: Callable[[], nn.Module], tmp_path: Path) -> None:
    model = net()
    optimizer = OPTIMIZERS[kind](model)
    steps(model, optimizer, before)
    first, second = tmp_path / "checkpoint" / "a.safetensors", tmp_path / "b.safetensors"
    save_state(first, model, optimizer, NOTES)
    save_state(second, model, optimizer, dict(reversed(NOTES.items())))
    assert first.read_bytes() == second.read_bytes()

    other = net()
    other_optimizer = OPTIMIZERS[kind](other)
    steps(other, other_optimizer, 1)
    assert load_state(first, other, other_optimizer) == NOTES
    steps(model, optimizer, 4)
    steps(other, other_optimizer, 4)
    for name, tensor in model.state_dict().items():
        assert torch.equal(tensor, other.state_dict()[name]), name
    save_state(first, model, optimizer, NOTES)
    save_state(second, other, other_optimizer, NOTES)
    assert first.read_bytes() == second.read_bytes()


def test_a_state_is_a_copy(net: Callable[[], nn.Module], tmp_path: Path) -> None:
    model = net()
    path = tmp_path / "weights.safetensors"
    save_weights(path, model)
    steps(model, OPTIMIZERS["sgd"](model), 1)
    again = net()
    load_weights(path, again)
    assert all(torch.equal(a, b) for a, b in zip(again.state_dict().values(), net().state_dict().values(), strict=True))


def test_weights_that_are_shared_or_not_contiguous_are_saved(tmp_path: Path) -> None:
    class Tied(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.one = nn.Linear(3, 4)
            self.two = nn.Linear(3, 4)
            self.two.weight = self.one.weight
            self.register_buffer("turned", torch.arange(6.0).view(2, 3).T)

    model, again = Tied(), Tied()
    again.turned.zero_()
    save_weights(tmp_path / "a.safetensors", model)
    load_weights(tmp_path / "a.safetensors", again)
    assert torch.equal(again.two.weight, model.one.weight)
    assert torch.equal(again.turned, model.turned)


def test_a_damaged_state_is_refused_wherever_it_is_cut(net: Callable[[], nn.Module], tmp_path: Path) -> None:
    model = net()
    optimizer = OPTIMIZERS["adamw"](model)
    steps(model, optimizer, 1)
    path = tmp_path / "state.safetensors"
    save_state(path, model, optimizer, NOTES)
    data = path.read_bytes()
    for length in [0, 1, 8, 50, len(data) // 2, len(data) - 1]:
        path.write_bytes(data[:length])
        with pytest.raises(DataError, match=r"state\.safetensors: damaged checkpoint .* delete it and run"):
            load_state(path, model, optimizer)


@pytest.mark.parametrize(
    "text", [None, "", "{", "[]", "{}", '{"groups": []}', '{"groups": [], "notes": {}}', '{"notes": {}}']
)
def test_a_file_that_is_no_state_is_refused(text: str | None, net: Callable[[], nn.Module], tmp_path: Path) -> None:
    model = net()
    tensors = {f"model.{name}": tensor.contiguous() for name, tensor in model.state_dict().items()}
    path = tmp_path / "state.safetensors"
    safetensors.torch.save_file(tensors, path, metadata=None if text is None else {"state": text})
    with pytest.raises(DataError, match=r"state\.safetensors: damaged checkpoint"):
        load_state(path, model, OPTIMIZERS["sgd"](model))


def test_a_state_without_notes_is_refused(net: Callable[[], nn.Module], tmp_path: Path) -> None:
    model = net()
    optimizer = OPTIMIZERS["sgd"](model)
    path = tmp_path / "state.safetensors"
    save_state(path, model, optimizer, NOTES)
    data = path.read_bytes()
    path.write_bytes(data.replace(b'\\"notes\\"', b'\\"n0tes\\"'))
    with pytest.raises(DataError, match="damaged checkpoint"):
        load_state(path, model, optimizer)


def test_weights_of_another_model_are_refused(net: Callable[[], nn.Module], tmp_path: Path) -> None:
    path = tmp_path / "model.safetensors"
    with pytest.raises(DataError, match=r"model\.safetensors: no such file; make it with `surrogate train`"):
        load_weights(path, net())
    save_weights(path, nn.Linear(2, 2))
    with pytest.raises(DataError, match="not the weights of this") as caught:
        load_weights(path, net())
    assert "\n" not in str(caught.value)
    path.write_bytes(path.read_bytes()[:-1])
    with pytest.raises(DataError, match="damaged, or not a file of weights"):
        load_weights(path, nn.Linear(2, 2))
