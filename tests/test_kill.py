"""kill -9 at random instants of each stage, refresh included: nothing unreadable, and it resumes to the same bytes."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest

DRIVER = Path(__file__).with_name("kill_stages.py")


@pytest.fixture(scope="module")
def folder(tmp_path_factory) -> Path:
    """Run folders as each stage finds them: `before-<stage>`; made as the stages are tested, in order."""
    root = tmp_path_factory.mktemp("kill")
    (root / "before-train").mkdir()
    return root


@pytest.mark.parametrize(
    ("stage", "following", "kills"),
    [("train", "collect", 10), ("collect", "fit", 20), ("fit", "finetune", 10), ("finetune", "end", 12)],
)
def test_killed_and_resumed(folder, stage, following, kills):
    before = folder / f"before-{stage}"
    if not before.exists():
        pytest.fail(f"the stage before {stage} did not end")
    args = [stage, str(before), str(folder / f"before-{following}"), str(kills), "7"]
    done = subprocess.run([sys.executable, str(DRIVER), *args], cwd=folder, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr[-2000:]
    told = json.loads(done.stdout.splitlines()[-1])
    assert told["kills"] == kills
    assert stage != "finetune" or (folder / "before-end" / "finetune-surrogate" / "refresh" / "1").is_dir()
    assert told["hits"] >= kills // 2, "the kills came too late to test anything"


def test_a_job_that_is_ended_from_outside_ends_as_an_interrupted_one(tmp_path):
    program = [sys.executable, "-c", "from surrogate_cli.main import app; app()"]
    command = [*program, "train", "--app", "toy", "--run", str(tmp_path / "run"), "--epochs", "100000"]
    with subprocess.Popen(command, stderr=subprocess.PIPE, text=True) as job:
        told = job.stderr.readline()  # it has begun
        job.terminate()
        told += job.stderr.read()
    assert job.returncode == 130
    assert told.endswith("interrupted; what was finished is saved; the same command continues it\n")
    assert "Traceback" not in told
