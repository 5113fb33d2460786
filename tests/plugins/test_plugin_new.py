"""`surrogate plugins new` and `check`: from a name to a package that is installed, checked, tested and fitted."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

Run = Callable[..., Any]


def python(home: Path, *command: str, site: Path | None = None) -> str:
    own = {"OMP_NUM_THREADS": "1", "PIP_DISABLE_PIP_VERSION_CHECK": "1"} | ({"PYTHONPATH": str(site)} if site else {})
    done = subprocess.run(
        [sys.executable, *command], cwd=home, env={**os.environ, **own}, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


def installed(package: Path, site: Path) -> None:
    offline = ("--no-index", "--no-deps", "--no-build-isolation")
    python(package, "-m", "pip", "install", "--quiet", *offline, "--target", str(site), ".")


@pytest.fixture
def site(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder that this process looks for installed packages in."""
    folder = tmp_path / "site"
    folder.mkdir()
    monkeypatch.syspath_prepend(str(folder))
    monkeypatch.chdir(tmp_path)
    return folder


@pytest.mark.parametrize("app", ["segmentation", "toy"])
def test_a_new_package_installs_passes_its_test_and_its_check(
    app: str, site: Path, tmp_path: Path, surrogate_cli: Run
) -> None:
    made = surrogate_cli("plugins", "new", f"own-{app}", "--app", app, "--json").json
    package = tmp_path / made["folder"]
    module = package / f"surrogate_{app}_own_{app}.py"
    assert made["files"] == ["pyproject.toml", module.name, f"tests/test_own_{app}.py", "README.md"]
    assert len(module.read_text().splitlines()) < 30
    readme = (package / "README.md").read_text()
    assert made["install"] == f"pip install -e {made['folder']}"
    assert "pip install -e .    # once" in readme
    assert "`pip install -c constraints.txt -e .` there" in readme
    installed(package, site)
    python(package, "-m", "pytest", "-q", "-p", "no:cacheprovider", site=site)
    checked = surrogate_cli("plugins", "check", f"own-{app}", "--json")
    assert (checked.code, checked.json["ok"], checked.json["app"]) == (0, True, app)
    assert {"rows", "undefined rows", "gradcheck", "samples alone", "perfect"} <= {
        c["check"] for c in checked.json["checks"]
    }


def test_it_fits_at_once(site: Path, tmp_path: Path, surrogate_cli: Run) -> None:
    surrogate_cli("plugins", "new", "close", "--app", "toy", "--folder", "mine")
    installed(tmp_path / "mine", site)
    small = ("--set", "data.train=512", "--set", "data.test=64", "--epochs", "60")
    fitted = surrogate_cli("fit", "--app", "toy", "--measure", "close", *small, "--quiet", "--json").json
    assert fitted["fidelity"]["spearman"] > 0.98
    assert fitted["fidelity"]["wrong_sign"] <= 0.02


BROKEN = """
import torch
from surrogate.from_function import measure_from_function
from surrogate.protocols import Measure

def broken():
    return Measure(lambda x, u, /: x[:, 0], lambda x, u, /: x.detach(), columns=("x",), bounds=(0.0, 0.5))

def shapeless():
    return Measure(lambda x, u, /: x, lambda x, u, /: x, columns=("x",))

def misspelt_metric(prediction, target):
    return prediction.accuracy(target)

misspelt = measure_from_function(misspelt_metric, app="toy")
"""


def test_a_broken_measure_is_told_line_by_line(site: Path, surrogate_cli: Run) -> None:
    info = site / "rough-1.0.dist-info"
    info.mkdir()
    (info / "METADATA").write_text("Metadata-Version: 2.1\nName: rough\nVersion: 1.0\n")
    points = "[surrogate.measures.toy]\nbroken = rough_measures:broken\nshapeless = rough_measures:shapeless\n"
    points += "misspelt = rough_measures:misspelt\n"
    (info / "entry_points.txt").write_text(points)
    (site / "rough_measures.py").write_text(BROKEN)

    ended = surrogate_cli("plugins", "check", "broken", "--json")
    to_do = {c["check"]: c["to_do"] for c in ended.json["checks"]}
    assert ended.code == 5
    assert "set the least and greatest value it can take" in to_do["bounds"]
    assert "compute them from outputs without detach" in to_do["gradient"]
    assert to_do["rows"] is None
    assert ended.err.splitlines()[-1].startswith("error: measure 'broken' breaks bounds, dtypes, gradient")

    ended = surrogate_cli("plugins", "check", "shapeless")
    assert ended.code == 5
    assert "return (R,), one value a row" in ended.out
    assert "gradcheck" not in ended.out, "what builds on rows is not looked at"

    ended = surrogate_cli("plugins", "check", "misspelt")
    assert ended.code == 5
    assert "misspelt_metric raised AttributeError" in ended.out


@pytest.mark.parametrize(
    ("name", "app", "message"),
    [
        ("My-F2", "toy", "not a name for a measure; expected lower-case letters"),
        ("lambda", "toy", "not a name for a measure; it is a word of Python; choose another, such as my-lambda"),
        ("3d", "toy", "not a name for a measure; it must begin with a letter, such as my-3d"),
        ("_f", "toy", "not a name for a measure; it must begin with a letter, such as my-f"),
        ("metric", "toy", "the module has something of that name already"),
        ("step", "toy", "app 'toy' has a measure 'step' already, of package surrogate-loss"),
        ("own", "toi", "no app is called 'toi'; did you mean 'toy'?"),
    ],
)
@pytest.mark.usefixtures("site")
def test_a_bad_name_leaves_nothing_behind(
    name: str, app: str, message: str, tmp_path: Path, surrogate_cli: Run
) -> None:
    ended = surrogate_cli("plugins", "new", name, "--app", app)
    assert (ended.code, ended.out) == (2, "")
    [line] = ended.err.splitlines()
    assert message in line
    assert [path.name for path in tmp_path.iterdir()] == ["site"]


@pytest.mark.usefixtures("site")
def test_a_folder_that_exists_is_left_as_it_is(tmp_path: Path, surrogate_cli: Run) -> None:
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "README.md").write_text("precious")
    ended = surrogate_cli("plugins", "new", "own", "--app", "toy", "--folder", "mine")
    assert ended.code == 2
    assert "mine: exists, and nothing in it is changed; name another folder by --folder" in ended.err
    assert [p.read_text() for p in (tmp_path / "mine").iterdir()] == ["precious"]


def test_an_unknown_measure_is_told_with_the_nearest(surrogate_cli: Run) -> None:
    ended = surrogate_cli("plugins", "check", "stepp")
    assert ended.code == 2
    assert "no installed measure is called 'stepp'; did you mean 'step'?" in ended.err
