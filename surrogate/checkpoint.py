"""The state of a training run in one safetensors file, so that it is whole or not there. No pickle."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import safetensors.torch
import torch
from safetensors import SafetensorError, safe_open
from torch import Tensor, nn

from surrogate.atomic import write_atomic
from surrogate.errors import DataError
from surrogate.weights import plain


def save_state(path: Path, model: nn.Module, optimizer: torch.optim.Optimizer, notes: dict[str, Any]) -> None:
    """Model, optimizer and notes (ready for JSON) as one file; the same state gives the same bytes."""
    state = optimizer.state_dict()
    tensors = {f"model.{name}": tensor for name, tensor in model.state_dict().items()}
    for number, entry in state["state"].items():
        tensors |= {
            f"optimizer.{number}.{name}": torch.as_tensor(value) for name, value in entry.items() if value is not None
        }
    text = json.dumps({"groups": state["param_groups"], "notes": notes}, sort_keys=True)
    write_atomic(path, safetensors.torch.save(plain(tensors), metadata={"state": text}))


def load_state(path: Path, model: nn.Module, optimizer: torch.optim.Optimizer) -> dict[str, Any]:
    """Puts a saved state back into model and optimizer and returns its notes; raises `DataError` when damaged."""
    try:
        with safe_open(path, framework="pt") as file:
            text = json.loads(file.metadata()["state"])
            tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
        model.load_state_dict({n.removeprefix("model."): t for n, t in tensors.items() if n.startswith("model.")})
        entries: dict[int, dict[str, Tensor]] = {}
        for name, tensor in tensors.items():
            if name.startswith("optimizer."):
                _, number, key = name.split(".", 2)
                entries.setdefault(int(number), {})[key] = tensor
        optimizer.load_state_dict({"state": entries, "param_groups": text["groups"]})
        notes: dict[str, Any] = text["notes"]
    except (SafetensorError, OSError, KeyError, TypeError, ValueError, RuntimeError) as error:
        reason = str(error).splitlines()[0]
        raise DataError(f"{path}: damaged checkpoint ({reason}); delete it and run the command again") from None
    return notes
