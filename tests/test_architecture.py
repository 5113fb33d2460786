"""The arrows: CLI and apps look at the core and never at each other, the core at neither; and what the wheel holds."""

from __future__ import annotations

import ast
import configparser
import subprocess
import sys
import zipfile
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]
CORE, CLI = ROOT / "surrogate", ROOT / "cli" / "surrogate_cli"
APPS = {folder.name: folder for folder in sorted((ROOT / "apps").glob("*/surrogate_*"))}
SCREEN = {"typer", "rich", "click"}


def files(package: Path) -> list[Path]:
    found = sorted(package.rglob("*.py"))
    assert found, package
    return found


def imported(package: Path) -> Iterator[tuple[Path, str]]:
    """Each file with the first name of each of its imports, wherever in the file; relative ones stay inside."""
    for path in files(package):
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            if isinstance(node, ast.Import):
                yield from ((path, alias.name.split(".")[0]) for alias in node.names)
            elif isinstance(node, ast.ImportFrom):
                depth = len(path.relative_to(package).parts)
                assert node.level <= depth, f"{path}: a relative import leaves {package.name}"
                if node.module and not node.level:
                    yield path, node.module.split(".")[0]


def offenders(package: Path, forbidden: set[str]) -> list[str]:
    return [f"{path.relative_to(ROOT)} imports {name}" for path, name in imported(package) if name in forbidden]


def loaded_by(code: str) -> set[str]:
    """The first names of all modules that a fresh interpreter has after the code."""
    report = "\nimport sys\nsys.stderr.write(' '.join({name.split('.')[0] for name in sys.modules}))"
    done = subprocess.run([sys.executable, "-c", code + report], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    return set(done.stderr.split())


# --- who imports whom ---


def test_the_apps_are_the_ones_this_file_looks_at() -> None:
    assert set(APPS) == {"surrogate_segmentation", "surrogate_tabular", "surrogate_toy"}


def test_the_core_imports_no_app_no_cli_and_nothing_of_the_screen() -> None:
    assert offenders(CORE, {*APPS, "surrogate_cli", *SCREEN}) == []


@pytest.mark.parametrize("name", APPS)
def test_an_app_imports_no_other_app_no_cli_and_nothing_of_the_screen(name: str) -> None:
    assert offenders(APPS[name], {*APPS, "surrogate_cli", *SCREEN} - {name}) == []


def test_the_cli_imports_no_app() -> None:
    assert offenders(CLI, set(APPS)) == []


def test_the_core_never_prints() -> None:
    calls = [
        f"{path.relative_to(ROOT)}:{node.lineno}"
        for path in files(CORE)
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8")))
        if isinstance(node, ast.Name) and node.id == "print"
    ]
    assert calls == []


# --- what is in memory then ---


@pytest.mark.parametrize("module", ["surrogate", "surrogate.loss", "surrogate.testing", *APPS])
def test_an_import_leaves_the_screen_and_the_plugins_out(module: str) -> None:
    loaded = loaded_by(f"import {module}")
    assert module.split(".")[0] in loaded
    assert not loaded & ({*APPS, "surrogate_cli", *SCREEN} - {module})


def test_the_pipeline_needs_nothing_of_the_screen_and_no_app() -> None:
    """It is in memory all the same: scikit-learn takes rich where it finds it. So here it is not found."""
    absent = sorted({*APPS, "surrogate_cli", *SCREEN})
    loaded_by(f"import sys; sys.modules.update(dict.fromkeys({absent})); import surrogate.pipeline")


def test_help_does_not_import_torch() -> None:
    shown = "import sys; sys.argv = ['surrogate', '--help']\nfrom surrogate_cli.main import app\n"
    loaded = loaded_by(shown + "try:\n    app()\nexcept SystemExit as end:\n    assert not end.code")
    assert "surrogate_cli" in loaded
    assert not loaded & {"torch", "numpy", "pydantic", *APPS}


# --- what is installed ---


@pytest.fixture(scope="module")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> Iterator[zipfile.ZipFile]:
    """Built from the working tree by the build backend itself, which needs no network."""
    folder = tmp_path_factory.mktemp("wheel")
    build = [sys.executable, "-m", "hatchling", "build", "-t", "wheel", "-d", str(folder)]
    done = subprocess.run(build, cwd=ROOT, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    (path,) = folder.glob("*.whl")
    with zipfile.ZipFile(path) as archive:
        yield archive


def test_the_wheel_brings_five_names_that_are_ours(wheel: zipfile.ZipFile) -> None:
    names = {name.split("/")[0] for name in wheel.namelist()}
    metadata = {name for name in names if name.endswith(".dist-info")}
    assert names - metadata == {"surrogate", *APPS, "surrogate_cli"}
    assert len(metadata) == 1


@pytest.mark.parametrize("package", [CORE, CLI, *APPS.values()], ids=lambda path: path.name)
def test_the_wheel_holds_every_module_and_recipe(wheel: zipfile.ZipFile, package: Path) -> None:
    sources = [path for path in package.rglob("*") if path.suffix in (".py", ".toml")]
    assert {path.relative_to(package.parent).as_posix() for path in sources} <= set(wheel.namelist())


def test_the_wheel_holds_shipped_recipes(wheel: zipfile.ZipFile) -> None:
    assert "surrogate_segmentation/recipes/voc-fcn8s.toml" in wheel.namelist()


def test_the_wheel_announces_program_apps_and_measures(wheel: zipfile.ZipFile) -> None:
    (name,) = (name for name in wheel.namelist() if name.endswith(".dist-info/entry_points.txt"))
    points = configparser.ConfigParser()
    points.read_string(wheel.read(name).decode())
    assert dict(points["console_scripts"]) == {"surrogate": "surrogate_cli.main:app"}
    known = ("segmentation", "tabular", "toy")
    assert dict(points["surrogate.apps"]) == {app: f"surrogate_{app}:app" for app in known}
    for app in known:
        targets = list(points[f"surrogate.measures.{app}"].values())
        assert targets
        assert all(target.startswith(f"surrogate_{app}.") for target in targets)
