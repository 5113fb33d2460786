"""The command line driven as a user drives it, in this process."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import textwrap
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


@pytest.fixture
def interpreted() -> Callable[[str], None]:
    """Runs a program that may launch Triton kernels without a GPU, and fails where it does.

    In a process of its own: whether kernels are interpreted is settled when they are defined.
    """
    pytest.importorskip("triton", reason="triton is not installed")

    def run(code: str) -> None:
        done = subprocess.run(
            [sys.executable, "-c", textwrap.dedent(code)],
            env={**os.environ, "TRITON_INTERPRET": "1"},
            capture_output=True,
            text=True,
            check=False,
        )
        assert done.returncode == 0, done.stderr

    return run


@pytest.fixture
def own_module(tmp_path, monkeypatch):
    """Writes a module into the current folder, under a name that no other test has imported."""
    monkeypatch.chdir(tmp_path)

    def write(name, source):
        (tmp_path / f"{name}.py").write_text(source)
        monkeypatch.delitem(sys.modules, name, raising=False)

    yield write
    for path in tmp_path.glob("*.py"):
        sys.modules.pop(path.stem, None)


@pytest.fixture(autouse=True, scope="session")
def _one_thread() -> None:
    """Tests are many and small, and bytes are compared: one thread is quicker and always the same."""
    torch.set_num_threads(1)
