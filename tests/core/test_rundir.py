"""A run folder: its files, whose it is, and which one is the newest."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from surrogate.errors import DataError, UsageError
from surrogate.recipe import Recipe, build, read_toml
from surrogate.rundir import RunDir, claim, newest, read_json, write_json


def test_every_file_lies_in_the_folder_under_a_name_of_its_own(tmp_path: Path) -> None:
    run = RunDir(tmp_path)
    names = [name for name, value in vars(RunDir).items() if isinstance(value, property)]
    paths = [getattr(run, name) for name in names] + [run.finetune("surrogate"), run.finetune("dice")]
    assert {path.parent for path in paths} == {tmp_path}
    assert len(set(paths)) == len(paths)
    assert list(tmp_path.iterdir()) == []


def test_the_newest_run_is_the_one_whose_recipe_was_written_last(tmp_path: Path) -> None:
    for name, seconds in (("a", 300), ("b", 900), ("c", 600)):
        (tmp_path / name).mkdir()
        (tmp_path / name / "recipe.toml").touch()
        os.utime(tmp_path / name / "recipe.toml", (seconds, seconds))
    (tmp_path / "no-run").mkdir()
    assert newest(tmp_path) == RunDir(tmp_path / "b")


def test_no_run_is_told_with_the_way_to_make_one(tmp_path: Path) -> None:
    for parent in (tmp_path, tmp_path / "missing"):
        with pytest.raises(UsageError, match=r"no run in .*; make one with `surrogate fit .* --run"):
            newest(parent)


def test_a_folder_is_for_one_recipe(tmp_path: Path, recipe: Recipe) -> None:
    path = tmp_path / "run" / "recipe.toml"
    claim(path, recipe, None, fix="")
    before = build(Recipe, read_toml(path), where="x")
    assert before == recipe
    written = path.read_bytes()
    claim(path, recipe, before, fix="")

    other = recipe.model_copy(update={"seed": 5, "fit": recipe.fit.model_copy(update={"width": 3})})
    with pytest.raises(
        UsageError, match=rf"{path.parent}: .* differing in fit\.width, seed; name a new folder with --run"
    ):
        claim(path, other, before, fix="name a new folder with --run")
    assert path.read_bytes() == written


def test_json_is_sorted_and_read_back(tmp_path: Path) -> None:
    path = tmp_path / "deep" / "report.json"
    content = {"b": [1, 2.5, None], "a": {"iou": 0.1 + 0.2}}
    write_json(path, content)
    assert read_json(path) == content
    assert path.read_text().splitlines()[1].strip().startswith('"a"')
    assert path.read_bytes().endswith(b"}\n")


def test_json_has_no_nan(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="not JSON compliant"):
        write_json(tmp_path / "a.json", {"miou": float("nan")})
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("content", [b"", b'{"a": 1', b"\xff"])
def test_damaged_json_is_named(content: bytes, tmp_path: Path) -> None:
    path = tmp_path / "a.json"
    with pytest.raises(DataError, match=r"a\.json: unreadable"):
        read_json(path)
    path.write_bytes(content)
    with pytest.raises(DataError, match=r"a\.json: unreadable .* delete it and run the command again"):
        read_json(path)
