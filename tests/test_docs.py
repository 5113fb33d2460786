"""Every command and snippet of README and docs runs, or says in a comment before it why not.

A block ```sh or ```python may stand under one of two markers:

<!-- not run: needs VOC -->      never run; the reason is for the reader of the source
<!-- run: slow -->               run by `make test-all`
<!-- file: surrogate_labels.py -->   written into the folder; of a pyproject.toml (```toml) the package is there, as
                                     if installed

The blocks of a page run in order, in one folder and one namespace. `runs/segmentation` is there, fitted; `images`,
`logits` and `labels` are what its model takes and gives. Commands run on a handful of small images, for an epoch.
"""

from __future__ import annotations

import configparser
import re
import shlex
import shutil
import subprocess
import sys
import tomllib
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import torch
from PIL import Image

from surrogate_segmentation.data.digits import CLASSES, DigitScenes

ROOT = Path(__file__).resolve().parents[1]
PAGES = [ROOT / "README.md", *sorted((ROOT / "docs").rglob("*.md"))]
STAGES = ("fit", "train", "collect", "finetune")
SETTLED = (". .venv/bin/activate",)
"""Lines that only prepare what a test has already."""
QUICK = (
    "train.epochs=1",
    "train.batch_size=16",
    "collect.batch_size=16",
    'collect.regimes=["model", "towards"]',
    "fit.epochs=2",
    "fit.width=16",
    "finetune.epochs=1",
    "finetune.batch_size=16",
    "finetune.max_wrong_sign=1",
    "finetune.min_spearman=-1",
)
SMALL = {
    "segmentation": ("data.size=32x32", "data.layout=folder", "model.width=4"),
    "tabular": (),
}
"""More for an app, where a command names one; what a run folder was made with is in its recipe."""


@dataclass(frozen=True)
class Block:
    """A fenced block: where it stands, its language, its text, and the marker before it."""

    page: str
    line: int
    language: str
    text: str
    marker: str

    @property
    def run(self) -> bool:
        return not self.marker.startswith("not run: ")

    @property
    def file(self) -> str:
        return self.marker.removeprefix("file: ") if self.marker.startswith("file: ") else ""


def blocks(path: Path) -> Iterator[Block]:
    """The blocks of a page that are commands, Python or a file."""
    text = path.read_text(encoding="utf-8")
    for found in re.finditer(r"(?:<!--(.*?)-->\n)?^```(sh|python|toml)\n(.*?)^```$", text, re.MULTILINE | re.DOTALL):
        line = text.count("\n", 0, found.start(2)) + 1
        block = Block(path.name, line, found[2], found[3], (found[1] or "").strip())
        if block.language != "toml" or block.file:
            yield block


def commands(text: str) -> Iterator[list[str]]:
    """The words of each command of a block; comments and continued lines are those of a shell."""
    for line in text.replace("\\\n", " ").splitlines():
        words = shlex.split(line, comments=True)
        if words and line.strip().split("  ")[0] not in SETTLED:
            yield words


def write(block: Block) -> None:
    """A file of the page; with a pyproject.toml the metadata of its package beside it, as installing writes it."""
    Path(block.file).write_text(block.text, encoding="utf-8")
    if block.file == "pyproject.toml":
        project = tomllib.loads(block.text)["project"]
        name, version = project["name"], project["version"]
        metadata = Path(f"{name.replace('-', '_')}-{version}.dist-info")
        metadata.mkdir()
        (metadata / "METADATA").write_text(f"Metadata-Version: 2.1\nName: {name}\nVersion: {version}\n")
        points = configparser.ConfigParser()
        points.read_dict(project["entry-points"])
        with (metadata / "entry_points.txt").open("w") as file:
            points.write(file)


def at_a_tiny_size(words: list[str], data: Path) -> list[str]:
    """A command of `surrogate` with settings after its own, which win."""
    if words[0] not in STAGES:
        return words
    app = words[words.index("--app") + 1] if "--app" in words else ""
    settings = [*QUICK, *SMALL.get(app, ()), *([f"data.path={data}"] if app == "segmentation" else [])]
    return [*words, "--quiet", *(part for setting in settings for part in ("--set", setting))]


def execute(words: list[str], data: Path) -> None:
    from surrogate_cli.exits import exit_code
    from surrogate_cli.main import cli

    program, *rest = words
    assert program == "surrogate", f"a test cannot run {program!r}; mark the block with <!-- not run: why -->"
    assert exit_code(cli, at_a_tiny_size(rest, data)) == 0


@pytest.fixture(scope="module")
def home(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with a small data set in `data/` and a fitted run in `runs/segmentation/`; copy it before use."""
    home = tmp_path_factory.mktemp("docs")
    names: dict[str, list[str]] = {}
    for folder in ("images", "masks"):
        (home / "data" / folder).mkdir(parents=True)
    for split, count in (("train", 16), ("val", 8), ("test", 8)):
        scenes = DigitScenes(split, (32, 32))
        names[split] = [f"{split}_{index}" for index in range(count)]
        for index, name in enumerate(names[split]):
            image, label = scenes.read(index)
            Image.fromarray(image).save(home / "data" / "images" / f"{name}.png")
            Image.fromarray(label).save(home / "data" / "masks" / f"{name}.png")
    splits = "".join(f"{split} = {listed}\n" for split, listed in names.items())
    text = f"classes = {list(CLASSES)}\nignore_index = 255\n[splits]\n{splits}"
    (home / "data" / "dataset.toml").write_text(text.replace("'", '"'), encoding="utf-8")
    run = home / "runs" / "segmentation"
    execute(["surrogate", "fit", "--app", "segmentation", "--run", str(run)], home / "data")
    return home


@pytest.fixture
def here(home: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    shutil.copytree(home / "runs", tmp_path / "runs")
    monkeypatch.chdir(tmp_path)
    monkeypatch.syspath_prepend(str(tmp_path))
    yield tmp_path
    for path in tmp_path.glob("*.py"):
        sys.modules.pop(path.stem, None)


def namespace() -> dict[str, Any]:
    """What every page may use without making it."""
    generator = torch.Generator().manual_seed(0)
    images = torch.randn(2, 3, 32, 32, generator=generator)
    logits = torch.randn(2, len(CLASSES), 32, 32, generator=generator).requires_grad_()
    labels = torch.randint(len(CLASSES), (2, 32, 32), generator=generator)
    return {"__name__": "docs", "torch": torch, "images": images, "logits": logits, "labels": labels}


def run_page(path: Path, data: Path, *, slow: bool) -> None:
    names = namespace()
    for block in blocks(path):
        if not block.run or (block.marker == "run: slow" and not slow):
            continue
        try:
            if block.file:
                write(block)
            elif block.language == "python":
                exec(compile(block.text, f"{block.page}:{block.line}", "exec"), names)
            else:
                for words in commands(block.text):
                    execute(words, data)
        except (Exception, SystemExit) as error:
            pytest.fail(f"{block.page}, block at line {block.line}: {type(error).__name__}: {error}")


def with_blocks(*, slow: bool) -> list[Any]:
    """The pages that have a block to run; with slow ones only those that have a slow one."""
    return [
        pytest.param(page, id=page.relative_to(ROOT).as_posix())
        for page in PAGES
        if any(block.run and (block.marker == "run: slow" or not slow) for block in blocks(page))
    ]


@pytest.mark.parametrize("page", with_blocks(slow=False))
def test_what_a_page_shows_runs(page: Path, home: Path, here: Path) -> None:  # noqa: ARG001
    run_page(page, home / "data", slow=False)


@pytest.mark.slow
@pytest.mark.parametrize("page", with_blocks(slow=True))
def test_the_slow_blocks_of_a_page_run_too(page: Path, home: Path, here: Path) -> None:  # noqa: ARG001
    run_page(page, home / "data", slow=True)


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.relative_to(ROOT).as_posix())
def test_a_marker_is_one_that_is_known_and_gives_a_reason(page: Path) -> None:
    for block in blocks(page):
        known = not block.marker or block.marker == "run: slow" or re.fullmatch(r"(not run|file): \S.*", block.marker)
        assert known, f"{block.page}, line {block.line}: marker {block.marker!r}"


def test_the_app_of_its_page_is_under_80_lines_of_code() -> None:
    (app,) = (block for block in blocks(ROOT / "docs" / "bring-your-app.md") if block.file.endswith(".py"))
    assert sum(bool(line.strip()) for line in app.text.splitlines()) < 80


def test_links_between_pages_lead_somewhere() -> None:
    for page in PAGES:
        for target in re.findall(r"\]\(([^)#]+)", page.read_text(encoding="utf-8")):
            if "://" not in target:
                assert (page.parent / target).exists(), f"{page.name}: {target}"


def test_the_page_of_settings_is_of_the_recipes_as_they_are() -> None:
    written = subprocess.run(
        [sys.executable, "docs/settings.py"], cwd=ROOT, capture_output=True, text=True, check=True
    ).stdout
    assert written == (ROOT / "docs" / "settings.md").read_text(encoding="utf-8"), "run the command of its second line"


def test_a_failing_block_fails_its_page(tmp_path: Path) -> None:
    page = tmp_path / "page.md"
    for text in ("```python\n1 / 0\n```\n", "```sh\nmake demo\n```\n", "```sh\nsurrogate fit --no-such\n```\n"):
        page.write_text(text, encoding="utf-8")
        with pytest.raises(pytest.fail.Exception, match=r"page\.md, block at line 1"):
            run_page(page, tmp_path, slow=False)
    page.write_text("<!-- not run: it fails -->\n```python\n1 / 0\n```\n", encoding="utf-8")
    run_page(page, tmp_path, slow=False)
