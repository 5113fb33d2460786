"""The command line driven as a user drives it, in this process."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import pytest
import torch


@dataclass(frozen=True)
class Ended:
    """How a command ended."""

    code: int
    out: str
    err: str

    @property
    def json(self) -> dict[str, Any]:
        return json.loads(self.out)


@pytest.fixture
def surrogate_cli(capfd) -> Callable[..., Ended]:
    """Runs `surrogate` with the given arguments and returns exit code, stdout and stderr."""
    from surrogate_cli.exits import exit_code
    from surrogate_cli.main import cli

    def run(*args: object) -> Ended:
        capfd.readouterr()
        code = exit_code(cli, [str(arg) for arg in args])
        out, err = capfd.readouterr()
        return Ended(code, out, err)

    return run


@pytest.fixture(autouse=True, scope="session")
def _one_thread() -> None:
    """Tests are many and small, and bytes are compared: one thread is quicker and always the same."""
    torch.set_num_threads(1)
