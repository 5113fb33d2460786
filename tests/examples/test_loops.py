"""The loops of `examples/`, each run as a stranger runs it: a few steps in a fresh interpreter."""

from __future__ import annotations

import importlib.util
import math
import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

EXAMPLES = Path(__file__).resolve().parents[2] / "examples"
NEEDS = {
    "pytorch": "torch",
    "accelerate": "accelerate",
    "lightning": "lightning",
    "monai": "monai",
    "trainer": "transformers",
}
STEPS = 4


def run(loop: str, *arguments: str, folder: Path) -> list[float]:
    """The losses that a loop prints. Its libraries may warn: they run in their own process, by their own rules."""
    own = {"OMP_NUM_THREADS": "1", "HF_HUB_OFFLINE": "1", "PYTHONWARNINGS": "default"}
    command = [sys.executable, str(EXAMPLES / f"loop_{loop}.py"), *arguments, "--steps", str(STEPS)]
    done = subprocess.run(command, cwd=folder, env={**os.environ, **own}, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    return [float(found) for found in re.findall(r"^(?:step \d+ )?loss (\S+)$", done.stdout, re.MULTILINE)]


@pytest.fixture(scope="session")
def surrogate_file(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, list[float]]:
    """The file that the plain loop fits when it is given none, and the losses of that loop."""
    folder = tmp_path_factory.mktemp("examples")
    losses = run("pytorch", folder=folder)
    return folder / "runs" / "examples" / "surrogate.safetensors", losses


def test_a_loop_goes_on_after_the_last_batch(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.syspath_prepend(EXAMPLES)
    from scenes import taken

    assert list(taken(5, [1, 2])) == [1, 2, 1, 2, 1]


def test_every_loop_is_run_here() -> None:
    assert {path.stem for path in EXAMPLES.glob("loop_*.py")} == {f"loop_{name}" for name in NEEDS}


@pytest.mark.parametrize("loop", NEEDS)
def test_a_loop_trains(loop: str, surrogate_file: tuple[Path, list[float]], tmp_path: Path) -> None:
    if importlib.util.find_spec(NEEDS[loop]) is None:
        pytest.skip(f"{NEEDS[loop]} is not installed; pip install '.[examples]'")
    path, losses = surrogate_file
    if loop != "pytorch":
        losses = run(loop, str(path), folder=tmp_path)
        assert not (tmp_path / "runs").exists(), "a loop that is given a surrogate fits none"
    assert len(losses) == STEPS
    assert all(math.isfinite(loss) for loss in losses)
    assert losses[-1] < losses[0]


@pytest.mark.parametrize("path", sorted(EXAMPLES.glob("*.py")), ids=lambda path: path.stem)
def test_an_example_is_short(path: Path) -> None:
    assert len(path.read_text(encoding="utf-8").splitlines()) < 80
