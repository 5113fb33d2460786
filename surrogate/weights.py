"""The weights of a network in a file, and back: every tensor has its place, or the file is refused.

Weights come from strangers, and a pickle can run code. `.safetensors` holds tensors only; a `.pt` file is
given to PyTorch's restricted unpickler, which refuses anything else.
"""

from __future__ import annotations

import pickle
import re
from collections.abc import Mapping, Sequence
from pathlib import Path

import safetensors.torch
import torch
from torch import Tensor, nn

from surrogate.atomic import write_atomic
from surrogate.errors import DataError

WRAPPERS = ("state_dict", "model")
"""Keys under which training scripts put the weights beside other things."""


def save_weights(path: Path, model: nn.Module) -> None:
    """The model's weights and buffers alone, as `.safetensors`; for `--weights` and for other programs."""
    write_atomic(path, safetensors.torch.save(plain(model.state_dict())))


def plain(tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """As safetensors takes them, sorted by name."""
    return {name: tensor.detach().cpu().contiguous().clone() for name, tensor in sorted(tensors.items())}


def load_weights(path: Path, model: nn.Module) -> None:
    """Loads all of a model's weights and buffers, in place, whatever device it is on.

    Args:
        path: a `.safetensors` file, or a `.pt` or `.pth` file of a state_dict, bare or in a dict under the
            key `state_dict` or `model`.
        model: a network built as the one that was saved; it is unchanged where the file is refused.

    Raises:
        DataError: the file is missing, damaged, holds more than tensors, or does not match the model exactly.
    """
    found = _read(path)
    expected = model.state_dict()
    _check_names(path, found, expected, type(model).__name__)
    _check_shapes(path, found, expected)
    model.load_state_dict(found)


def _read(path: Path) -> Mapping[str, Tensor]:
    if path.suffix not in {".safetensors", ".pt", ".pth"}:
        raise DataError(f"{path}: weights end in {path.suffix!r}; expected .safetensors, .pt or .pth")
    if not path.is_file():
        raise DataError(f"{path}: no such file; make it with `surrogate train`, or name other weights by --weights")
    try:
        if path.suffix == ".safetensors":
            return safetensors.torch.load_file(path)
        content = torch.load(path, map_location="cpu", weights_only=True)
    except pickle.UnpicklingError as error:
        raise DataError(f"{path}: {_refusal(error)}") from None
    except Exception as error:  # damaged bytes surface as nearly any type
        raise DataError(f"{path}: damaged, or not a file of weights ({_in_one_line(error)})") from None
    return _unwrapped(path, content)


def _refusal(error: pickle.UnpicklingError) -> str:
    foreign = re.search(r"GLOBAL (\S+)", str(error))
    if foreign is None:
        return "damaged, or more than tensors; expected what torch.save(model.state_dict(), file) writes"
    return f"holds {foreign[1]}, and only tensors are loaded, as code could hide in it; save model.state_dict()"


def _unwrapped(path: Path, content: object) -> Mapping[str, Tensor]:
    """The state_dict in what a `.pt` file holds."""
    if isinstance(content, Mapping):
        content = next((content[key] for key in WRAPPERS if isinstance(content.get(key), Mapping)), content)
    if not isinstance(content, Mapping):
        kind = type(content).__name__
        raise DataError(f"{path}: holds one {kind}; expected a state_dict, of tensors by name")
    for name, value in content.items():
        if not isinstance(value, Tensor):
            kind = type(value).__name__
            raise DataError(f"{path}: {name!r} is of type {kind}; expected a state_dict, of tensors by name")
    return content


def _check_names(path: Path, found: Mapping[str, Tensor], expected: Mapping[str, Tensor], kind: str) -> None:
    missing = [name for name in expected if name not in found]
    unexpected = [name for name in found if name not in expected]
    if missing or unexpected:
        raise DataError(
            f"{path}: not the weights of this {kind}: of {len(expected)} tensors, {_few(missing)} missing, "
            f"{_few(unexpected)} unexpected; are the settings of the model those of the file?"
        )


def _check_shapes(path: Path, found: Mapping[str, Tensor], expected: Mapping[str, Tensor]) -> None:
    differing = [name for name in expected if found[name].shape != expected[name].shape]
    if differing:
        name = differing[0]
        here, there = tuple(expected[name].shape), tuple(found[name].shape)
        raise DataError(
            f"{path}: {name!r} has the shape {there}, the model expects {here} ({len(differing)} of its "
            f"{len(expected)} tensors differ); are the settings of the model, and the data, those of the file?"
        )


def _few(names: Sequence[str]) -> str:
    """How many, and the first three by name."""
    if not names:
        return "none"
    return f"{len(names)} ({', '.join(map(str, names[:3]))}{', ...' if len(names) > 3 else ''})"


def _in_one_line(error: Exception) -> str:
    first = str(error).strip().partition("\n")[0]
    return f"{type(error).__name__}: {first}" if first else type(error).__name__
