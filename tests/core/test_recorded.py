"""A run's own statistics, surrogate and results: what is used again, made again or refused. On the toy, in seconds."""

from __future__ import annotations

import dataclasses
import json
import re
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from safetensors import safe_open
from safetensors.torch import load_file, save_file

from surrogate import pipeline, plugins
from surrogate.errors import DataError, UsageError
from surrogate.pipeline import Request
from surrogate.progress import Stage, finish
from surrogate.protocols import Measure

SMALL = (
    ("device", "cpu"),
    ("data.train", 300),
    ("data.test", 32),
    ("train.epochs", 1),
    ("fit.epochs", 3),
    ("finetune.epochs", 2),
    ("finetune.max_wrong_sign", 1.0),
)


def request(run: Path, *changes: tuple[str, Any]) -> Request:
    return Request(app="toy", run=run, overrides=(*SMALL, *changes))


def told(stage: Stage[dict[str, Any]]) -> str:
    """What a stage says on its way to the end."""
    return "\n".join(progress.message for progress in stage if progress.message)


@pytest.fixture(scope="module")
def fitted(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run folder after `fit`; copy it before changing it."""
    run = tmp_path_factory.mktemp("recorded") / "run"
    finish(pipeline.fit(request(run)))
    return run


@pytest.fixture
def run(fitted: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(fitted, tmp_path / "run"))


@pytest.fixture
def newer(monkeypatch: pytest.MonkeyPatch) -> None:
    """The measure grows a version."""
    load = plugins.load_measure

    def load_newer(*args: Any, **kwargs: Any) -> Measure:
        return dataclasses.replace(load(*args, **kwargs), version=2)

    monkeypatch.setattr(plugins, "load_measure", load_newer)


@pytest.mark.usefixtures("newer")
def test_complete_statistics_of_an_older_measure_are_refused(run: Path) -> None:
    with pytest.raises(UsageError, match=r"stats and .*moves: .* another measure_version .* delete both .* --run"):
        finish(pipeline.collect(request(run)))
    for folder in ("stats", "moves"):
        shutil.rmtree(run / folder)
    assert finish(pipeline.collect(request(run)))["rows"] > 0


@pytest.mark.usefixtures("newer")
def test_moves_alone_of_an_older_measure_are_refused(run: Path, tmp_path: Path) -> None:
    finish(pipeline.collect(request(tmp_path / "newer")))
    shutil.rmtree(run / "stats")
    shutil.copytree(tmp_path / "newer" / "stats", run / "stats")
    with pytest.raises(UsageError, match="another measure_version"):
        finish(pipeline.collect(request(run)))


def deleted(path: Path) -> None:
    path.unlink()


def damaged(path: Path) -> None:
    path.write_bytes(path.read_bytes()[:-100])


def of_an_older_version(path: Path) -> None:
    with safe_open(path, framework="pt") as file:
        card = file.metadata()["surrogate"]
    assert '"version": 1' in card
    save_file(load_file(path), path, metadata={"surrogate": card.replace('"version": 1', '"version": 0')})


@pytest.mark.parametrize("spoil", [deleted, damaged, of_an_older_version])
def test_a_surrogate_that_is_no_use_is_fitted_again(run: Path, spoil: Callable[[Path], None]) -> None:
    path = run / "surrogate.safetensors"
    whole = path.read_bytes()
    spoil(path)
    assert f"made again: {path}" in told(pipeline.fit(request(run)))
    assert path.read_bytes() == whole
    assert told(pipeline.fit(request(run))) == ""


def test_two_finetunings_at_once_keep_both_results(run: Path) -> None:
    first = pipeline.finetune(request(run, ("finetune.loss", "mse")))
    next(progress for progress in first if progress.stage.startswith("finetune"))
    finish(pipeline.finetune(request(run)))
    assert set(finish(first)["losses"]) == {"mse", "surrogate"}


def test_a_stage_sweeps_its_own_folder_and_no_other(run: Path) -> None:
    folders = run / "finetune-mse" / "checkpoint", run / "finetune-surrogate" / "checkpoint", run
    partials = [folder / ".file.0123abcd.partial" for folder in folders]
    for path in partials:
        path.parent.mkdir(parents=True, exist_ok=True)
        path.touch()
    finish(pipeline.finetune(request(run)))
    assert [path.exists() for path in partials] == [True, False, True]
    finish(pipeline.finetune(request(run, ("finetune.loss", "mse"))))
    assert [path.exists() for path in partials] == [False, False, True]
    (run / "fit.json").unlink()
    finish(pipeline.fit(request(run)))
    assert [path.exists() for path in partials] == [False, False, False]


def test_a_refresh_of_another_runs_surrogate_keeps_its_network(run: Path, tmp_path: Path) -> None:
    """Weights of one activation in the layers of another would foretell nothing, and nobody would notice."""
    other = tmp_path / "tanh"
    shutil.copytree(run, other)
    for path in (other / "surrogate.safetensors", other / "fit.json", other / "recipe.toml"):
        path.unlink()
    network = (("fit.activation", "tanh"), ("fit.depth", 2), ("fit.width", 7), ("fit.epochs", 20))
    finish(pipeline.fit(request(other, *network)))
    named = ("finetune.surrogate", str(other / "surrogate.safetensors"))
    third = tmp_path / "relu"
    each = (("fit.epochs", 20), ("finetune.refresh", 1), ("finetune.epochs", 2))
    assert "refresh after epoch 1" in told(pipeline.finetune(request(third, named, *each)))
    lines = (third / "finetune-surrogate" / "metrics.jsonl").read_text().splitlines()
    assert json.loads(lines[-1])["val"]["surrogate"]["spearman"] > 0.5


def test_a_finetuning_is_of_one_surrogate(run: Path) -> None:
    finish(pipeline.finetune(request(run)))
    assert told(pipeline.finetune(request(run))) == ""
    other = run.parent / "other"
    shutil.copytree(run, other)
    for path in (other / "surrogate.safetensors", other / "fit.json", other / "recipe.toml"):
        path.unlink()
    finish(pipeline.fit(request(other, ("fit.width", 7))))
    shutil.copy(other / "surrogate.safetensors", run)
    with pytest.raises(UsageError, match=r"finetune-surrogate: was trained through another surrogate .* delete"):
        finish(pipeline.finetune(request(run)))


def test_a_finetuning_under_way_is_not_claimed_for_another_recipe(run: Path) -> None:
    """The second process waits, and is refused then: before, it took the first one's numbers for its own."""
    first = pipeline.finetune(request(run, ("finetune.loss", "mse"), ("finetune.lr", 0.01)))
    next(progress for progress in first if progress.stage == "evaluate")  # its start: nothing is written yet
    with pytest.raises(UsageError, match="a stage of this process is still at work there"):  # another one would wait
        finish(pipeline.finetune(request(run, ("finetune.loss", "mse"), ("finetune.lr", 0.5))))
    assert "lr = 0.01" in (run / "finetune-mse" / "recipe.toml").read_text()
    finish(first)


def test_other_data_in_the_same_place_is_told(run: Path) -> None:
    before = json.loads((run / "data.json").read_text())
    (run / "data.json").write_text(json.dumps({**before, "train": {**before["train"], "samples": 299}}))
    with pytest.raises(DataError, match="was made with 299 samples in train, now 300; bring that data back, or name"):
        finish(pipeline.fit(request(run)))
    (run / "data.json").write_text(json.dumps({**before, "val": {**before["val"], "names": "others"}}))
    with pytest.raises(DataError, match="was made with other samples in val"):
        finish(pipeline.fit(request(run)))


@pytest.mark.parametrize(
    ("change", "shares"),
    [
        (("data.seed", 0), [2, 3]),  # the other run's rows count as its own would
        (("collect.regimes", ["noisy"]), [1, 2]),  # rows of another kind do not
        (("collect.pools", 7), [1, 2]),  # nor those of samples in other pools: what is held out there is fitted here
        (("seed", 1), [1, 2]),
    ],
)
def test_a_refresh_has_the_old_rows_beside_also_those_of_another_run(
    run: Path, tmp_path: Path, change: tuple[str, Any], shares: list[int]
) -> None:
    once = finish(pipeline.collect(request(run)))["rows"]
    named = ("finetune.surrogate", str(run / "surrogate.safetensors"))
    each = (("finetune.refresh", 1), ("finetune.epochs", 3))
    said = told(pipeline.finetune(request(tmp_path / "other", change, named, *each)))
    assert re.findall(r"refresh after epoch .: fitted to (\d+) rows", said) == [str(share * once) for share in shares]
