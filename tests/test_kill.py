"""kill -9 at 20 random instants of each stage: nothing unreadable, and the resumed run ends in the same bytes."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest

DRIVER = Path(__file__).with_name("kill_stages.py")
KILLS = 20


@pytest.fixture(scope="module")
def folder(tmp_path_factory) -> Path:
    """Run folders as each stage finds them: `before-<stage>`; made as the stages are tested, in order."""
    root = tmp_path_factory.mktemp("kill")
    (root / "before-train").mkdir()
    return root


@pytest.mark.parametrize(
    ("stage", "following"), [("train", "collect"), ("collect", "fit"), ("fit", "finetune"), ("finetune", "end")]
)
def test_killed_and_resumed(folder, stage, following):
    before = folder / f"before-{stage}"
    if not before.exists():
        pytest.fail(f"the stage before {stage} did not end")
    args = [stage, str(before), str(folder / f"before-{following}"), str(KILLS), "7"]
    done = subprocess.run([sys.executable, str(DRIVER), *args], cwd=folder, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr[-2000:]
    told = json.loads(done.stdout.splitlines()[-1])
    assert told["kills"] == KILLS
    assert told["hits"] >= KILLS // 2, "the kills came too late to test anything"
