"""What a user brings by the name `pkg.mod:factory`: a network, or a hand-made loss to compare with."""

from __future__ import annotations

import importlib
import sys
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from surrogate.errors import SurrogateError, UsageError
from surrogate.plugins import asked
from surrogate.statistics import wide


def build(name: str, facts: Mapping[str, Any], *, kind: str) -> nn.Module:
    """The module that a factory makes, installed or in the current folder.

    Args:
        name: `pkg.mod:factory`.
        facts: what the factory may ask for, each by a parameter of that name.
        kind: what it is to be, for messages: "model", "loss".

    Raises:
        UsageError: the factory cannot be imported, does not run, or gives no `nn.Module`.
    """
    module_name, _, attribute = name.partition(":")
    with _importable_from_here():
        try:
            module = importlib.import_module(module_name)
        except Exception as error:
            raise UsageError(f"{kind} {name!r}: cannot import {module_name!r} ({_line(error)})") from error
        try:
            factory = getattr(module, attribute)
        except AttributeError:
            raise UsageError(f"{kind} {name!r}: module {module_name!r} has no {attribute!r}") from None
        call = attribute
        try:
            given = {} if getattr(factory, "__init__", None) is nn.Module.__init__ else asked(factory, facts)
            call = f"{attribute}({', '.join(f'{key}={value!r}' for key, value in given.items())})"
            made = factory(**given)
        except Exception as error:
            raise UsageError(f"{kind} {name!r}: {call} failed ({_line(error)})") from error
    if not isinstance(made, nn.Module):
        raise UsageError(f"{kind} {name!r}: returned a {type(made).__name__}; expected a torch.nn.Module")
    return made


class OwnLoss(nn.Module):
    """A loss of the user's own, which is given outputs in fp32 or wider, and classes as int64.

    Raises:
        UsageError: it raised something, or gave no scalar.
    """

    def __init__(self, name: str, facts: Mapping[str, Any]) -> None:
        super().__init__()
        self.name, self.loss = name, build(name, facts, kind="loss")

    def forward(self, outputs: Tensor, targets: Tensor) -> Tensor:
        """Outputs and targets to a scalar."""
        given = f"given outputs of shape {tuple(outputs.shape)} and targets of {tuple(targets.shape)}"
        try:
            value = self.loss(wide(outputs), targets if targets.is_floating_point() else targets.long())
        except (SurrogateError, torch.OutOfMemoryError):
            raise
        except Exception as error:
            raise UsageError(f"loss {self.name!r} raised {_line(error)}, {given}") from error
        if not isinstance(value, Tensor):
            raise UsageError(f"loss {self.name!r} gave a {type(value).__name__}, {given}; expected a scalar tensor")
        if value.ndim:
            raise UsageError(f"loss {self.name!r} gave a shape of {tuple(value.shape)}, {given}; expected a scalar")
        if outputs.requires_grad and torch.is_grad_enabled() and not value.requires_grad:
            raise UsageError(
                f"loss {self.name!r} has no gradient; compute it from the outputs without argmax or detach"
            )
        return value


@contextmanager
def _importable_from_here() -> Iterator[None]:
    """The current folder comes first in imports, as under `python -m`; an installed command leaves it out."""
    here = str(Path.cwd())
    sys.path.insert(0, here)
    try:
        yield
    finally:
        with suppress(ValueError):
            sys.path.remove(here)


def _line(error: Exception) -> str:
    return f"{type(error).__name__}: {' '.join(str(error).split())}"
