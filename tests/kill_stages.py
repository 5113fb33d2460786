"""Kills a stage at random instants, checks what is left, resumes it, and compares bytes; a program for `test_kill.py`.

    python tests/kill_stages.py STAGE BEFORE REFERENCE KILLS SEED

Each try copies the folder BEFORE, forks, runs the stage on the copy, kills it with SIGKILL after a random part of the
time that the undisturbed run took, reads everything that is there, runs the stage to its end and compares the folder
with REFERENCE. Prints how many of the kills hit a stage that was still running. Forking spares each try the imports.
"""

from __future__ import annotations

import json
import os
import random
import shutil
import signal
import sys
import time
from pathlib import Path

import torch
from safetensors import safe_open

from surrogate import pipeline
from surrogate.progress import finish
from surrogate.store import StatsStore

OVERRIDES = (
    ("data.train", 600),
    ("data.test", 64),
    ("fit.epochs", 22),
    ("fit.batch_size", 512),
    ("finetune.epochs", 3),
    ("finetune.refresh", 1),
    ("collect.shard_rows", 100),
    ("collect.batch_size", 16),
)


def run_stage(stage: str, run: Path) -> None:
    finish(getattr(pipeline, stage)(pipeline.Request(app="toy", run=run, overrides=OVERRIDES)))


def in_child(stage: str, run: Path) -> int:
    pid = os.fork()
    if pid == 0:
        status = 1
        try:
            run_stage(stage, run)
            status = 0
        finally:
            os._exit(status)
    return pid


def files(folder: Path) -> dict[str, bytes]:
    return {str(path.relative_to(folder)): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


def read_everything(run: Path) -> None:
    """Raises where a file that a killed stage left under its real name cannot be read."""
    for path in run.rglob("*"):
        if path.name == "manifest.json":
            StatsStore.open(path.parent).read()
        elif path.suffix == ".json":
            json.loads(path.read_text())
        elif path.suffix == ".jsonl":
            [json.loads(line) for line in path.read_text().splitlines()]
        elif path.suffix == ".safetensors":
            with safe_open(path, framework="pt") as file:
                [file.get_tensor(name) for name in file.keys()]  # noqa: SIM118


def main(stage: str, before: str, reference: str, kills: str, seed: str) -> None:
    torch.set_num_threads(1)
    chance = random.Random(int(seed))
    work, whole = Path("run"), Path(reference)  # the same relative path each time: it is written into the results
    shutil.copytree(before, work)
    start = time.monotonic()
    assert os.waitpid(in_child(stage, work), 0)[1] == 0
    took = time.monotonic() - start
    shutil.move(work, whole)
    expected = files(whole)
    hits = 0
    for number in range(int(kills)):
        shutil.copytree(before, work)
        pid = in_child(stage, work)
        time.sleep(chance.random() * took)
        os.kill(pid, signal.SIGKILL)
        hits += os.WIFSIGNALED(os.waitpid(pid, 0)[1])
        read_everything(work)
        assert os.waitpid(in_child(stage, work), 0)[1] == 0, f"kill {number}: {stage} does not resume"
        found = files(work)
        differing = sorted(name for name in expected.keys() | found.keys() if expected.get(name) != found.get(name))
        assert not differing, f"kill {number}: {stage} resumed to other bytes in {differing}"
        shutil.rmtree(work)
    print(json.dumps({"stage": stage, "kills": int(kills), "hits": hits}))


if __name__ == "__main__":
    main(*sys.argv[1:])
