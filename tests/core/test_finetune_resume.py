"""A finetuning that is killed, wherever it is, and goes on ends in the same bytes."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

import surrogate.finetune
from surrogate.approximator import Surrogate
from surrogate.engine import Engine
from surrogate.evaluate import evaluate
from surrogate.finetune import Selection, finetune
from surrogate.loss import SurrogateLoss
from surrogate.progress import Stage, finish
from surrogate.protocols import Dataset, Measure
from surrogate.recipe import TrainRecipe

FILES = {"checkpoint/state.safetensors", "metrics.jsonl", "model.safetensors"}


class NoScore:
    """The mean of the measure is enough here."""

    spec = "none"

    def update(self, outputs: Tensor, targets: Tensor) -> None: ...

    def compute(self) -> dict[str, Any]:
        return {}


Start = Callable[[Path], Stage[dict[str, Any]]]


@pytest.fixture(params=["adamw", "sgd", "running"])
def start(
    request: pytest.FixtureRequest,
    engine: Engine,
    net: Callable[[], nn.Module],
    scenes: Dataset,
    measure: Measure,
    dataset_measure: Measure,
) -> Start:
    """Begins a finetuning in a folder or goes on with it, as the same command does.

    By either optimizer through cross-entropy, and through a loss that remembers the batches so far.
    """
    running = request.param == "running"
    optimizer = "adamw" if running else request.param
    settings = TrainRecipe(epochs=3, batch_size=5, lr=0.02, optimizer=optimizer, schedule="cosine")

    learned = Surrogate(("truth",), depth=1, width=1, activation="tanh")
    for layer, weight in zip(learned.layers[::2], (-1.0, 1.0), strict=True):  # tanh(1 - truth): its slope varies
        nn.init.constant_(layer.weight, weight)
        nn.init.constant_(layer.bias, 0.5 - 0.5 * weight)

    def begin(folder: Path) -> Stage[dict[str, Any]]:
        return finetune(
            engine,
            net(),
            SurrogateLoss(dataset_measure, learned) if running else nn.CrossEntropyLoss(ignore_index=-1),
            scenes,
            validate=lambda m: evaluate(
                engine, m, scenes, score=NoScore(), measure=measure, key="accuracy", batch_size=8
            ),
            select=Selection("accuracy", higher_is_better=True),
            settings=settings,
            seed=3,
            folder=folder,
        )

    return begin


def contents(folder: Path) -> dict[str, bytes]:
    return {str(path.relative_to(folder)): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


def played(stage: Stage[Any], events: int) -> bool:
    """Lets a stage go on for that many events and kills it then; whether it came to its end before."""
    for _ in range(events):
        if next(stage, None) is None:
            return True
    stage.close()
    return False


def test_killed_at_any_event(start: Start, tmp_path: Path) -> None:
    whole = finish(start(tmp_path / "whole"))
    expected = contents(tmp_path / "whole")
    assert expected.keys() == FILES
    events = len(list(start(tmp_path / "count")))
    assert events == 21  # three of the start, and in each of three epochs three steps, two of validation and the end
    state = torch.get_rng_state()
    for killed in range(events + 1):
        folder = tmp_path / str(killed)
        assert played(start(folder), killed) is False
        assert finish(start(folder)) == whole, f"killed at {killed}"
        assert contents(folder) == expected, f"killed at {killed}"
    assert torch.equal(torch.get_rng_state(), state)


def test_killed_again_and_again(start: Start, tmp_path: Path) -> None:
    finish(start(tmp_path / "whole"))
    lives = 0
    while not played(start(tmp_path / "many"), 10):
        lives += 1
        assert lives < 20
    assert lives > 1
    assert contents(tmp_path / "many") == contents(tmp_path / "whole")


@pytest.mark.parametrize("call", [1, 2, 3])
@pytest.mark.parametrize("writer", ["save_weights", "save_state", "write_atomic"])
def test_killed_between_two_files(
    writer: str, call: int, start: Start, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """An epoch leaves three files; each of them may be the one that is not written any more."""
    finish(start(tmp_path / "whole"))
    write, calls = getattr(surrogate.finetune, writer), []

    def killed(*args: Any) -> None:
        calls.append(args)
        if len(calls) == call:
            raise KeyboardInterrupt
        write(*args)

    with monkeypatch.context() as patch, pytest.raises(KeyboardInterrupt):
        patch.setattr(surrogate.finetune, writer, killed)
        finish(start(tmp_path / "torn"))
    finish(start(tmp_path / "torn"))
    assert contents(tmp_path / "torn") == contents(tmp_path / "whole")


def test_a_finished_run_only_loads_its_best(start: Start, tmp_path: Path) -> None:
    whole = finish(start(tmp_path))
    before = {path: path.stat().st_mtime_ns for path in tmp_path.rglob("*")}
    again = start(tmp_path)
    with pytest.raises(StopIteration) as end:
        next(again)
    assert end.value.value == whole
    assert {path: path.stat().st_mtime_ns for path in tmp_path.rglob("*")} == before
