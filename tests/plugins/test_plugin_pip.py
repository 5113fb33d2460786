"""A newcomer's measure: one file in a package of their own, installed by pip, driven by the command line."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

PYPROJECT = """
[build-system]
requires = ["hatchling"]
build-backend = "hatchling.build"

[project]
name = "surrogate-f2"
version = "0.3.0"
dependencies = ["surrogate-loss"]

[project.entry-points."surrogate.measures.segmentation"]
f2 = "surrogate_f2:f2"

[tool.hatch.build.targets.wheel]
only-include = ["surrogate_f2.py"]
"""

MEASURE = '''
"""F2 of each class of an image: to miss a pixel is worse than to paint one too many."""

import torch
from torch.nn.functional import one_hot

from surrogate.protocols import Measure


def f2(*, num_classes, ignore_index, beta=2.0):
    def counts(share, labels):  # (B, C, H, W) share of each class in a pixel -> (B * C, 3)
        valid = (labels != ignore_index).unsqueeze(1)
        truth = one_hot(torch.where(valid[:, 0], labels, 0).long(), num_classes).movedim(-1, 1) * valid
        tp, painted, present = ((part * valid).flatten(2).sum(2) for part in (share * truth, share, truth))
        return torch.stack([tp, painted - tp, present - tp], -1).flatten(0, 1)

    def metric(logits, labels, /):
        tp, fp, fn = counts(one_hot(logits.argmax(1), num_classes).movedim(-1, 1), labels).unbind(1)
        return (1 + beta**2) * tp / ((1 + beta**2) * tp + beta**2 * fn + fp)  # 0 / 0: NaN, undefined

    def stats(logits, labels, /):
        wide = logits.to(torch.promote_types(logits.dtype, torch.float32))
        soft = counts(wide.softmax(1), labels)
        defined = ~metric(logits, labels).isnan().unsqueeze(1)
        return torch.where(defined, soft / soft.sum(1, keepdim=True).clamp_min(1e-9), torch.nan)

    return Measure(metric, stats, columns=("tp", "fp", "fn"))
'''

CONTRACTS = """
import torch
from surrogate.testing import check_measure
from surrogate_f2 import f2

logits = torch.randn(3, 4, 5, 6, generator=torch.Generator().manual_seed(0))
labels = torch.randint(3, (3, 5, 6), generator=torch.Generator().manual_seed(1))
labels[0], labels[1, 0] = 255, 255
perfect = 9.0 * torch.nn.functional.one_hot(labels % 255, 4).movedim(-1, 1).float()
check_measure(f2(num_classes=4, ignore_index=255), logits, labels, perfect=perfect)
"""

LOOP = """
import sys
import torch
from surrogate.loss import SurrogateLoss

torch.manual_seed(0)
images, labels = torch.randn(2, 3, 16, 16), torch.randint(7, (2, 16, 16))
model = torch.nn.Conv2d(3, 7, 3, padding=1)
loss_fn = SurrogateLoss.load(sys.argv[1])
optimizer = torch.optim.Adam(model.parameters(), lr=0.01)
for _ in range(20):
    optimizer.zero_grad()
    loss = loss_fn(model(images), labels)
    loss.backward()
    optimizer.step()
    print(float(loss))
"""


@dataclass(frozen=True)
class Newcomer:
    """Someone with their own package beside ours, in a folder of their own."""

    home: Path
    site: Path

    def run(self, *command: str) -> str:
        """What a command that ends well says on stdout; the package is found as any installed one is."""
        own = {"PYTHONPATH": str(self.site), "OMP_NUM_THREADS": "1", "PIP_DISABLE_PIP_VERSION_CHECK": "1"}
        done = subprocess.run(
            command, cwd=self.home, env={**os.environ, **own}, capture_output=True, text=True, check=False
        )
        assert done.returncode == 0, done.stderr
        return done.stdout

    def surrogate(self, *arguments: str) -> dict[str, Any]:
        program = shutil.which("surrogate", path=str(Path(sys.executable).parent))
        assert program, "the program is installed beside the interpreter"
        return json.loads(self.run(program, *arguments, "--json"))


@pytest.fixture(scope="module")
def newcomer(tmp_path_factory: pytest.TempPathFactory) -> Newcomer:
    """The package written and installed: hatchling is in the extra [dev], so that pip fetches nothing."""
    home = tmp_path_factory.mktemp("newcomer")
    package = home / "package"
    package.mkdir()
    (package / "pyproject.toml").write_text(PYPROJECT, encoding="utf-8")
    (package / "surrogate_f2.py").write_text(MEASURE.lstrip(), encoding="utf-8")
    someone = Newcomer(home, home / "site")
    offline = ("--no-index", "--no-deps", "--no-build-isolation")
    someone.run(sys.executable, "-m", "pip", "install", "--quiet", *offline, "--target", "site", "./package")
    return someone


@pytest.fixture(scope="module")
def fitted(newcomer: Newcomer) -> dict[str, Any]:
    tiny = ("--size", "32x32", "--set", "model.width=4", "--set", "train.epochs=1", "--set", "train.batch_size=32")
    return newcomer.surrogate("fit", "--app", "segmentation", "--measure", "f2", *tiny, "--epochs", "5", "--quiet")


def test_the_measure_keeps_every_contract(newcomer: Newcomer) -> None:
    newcomer.run(sys.executable, "-c", CONTRACTS)


def test_it_is_listed(newcomer: Newcomer) -> None:
    listed = newcomer.surrogate("measures", "--app", "segmentation")["measures"]
    (own,) = (row for row in listed if row["name"] == "f2")
    assert own == {
        "app": "segmentation",
        "name": "f2",
        "package": "surrogate-f2",
        "version": "0.3.0",
        "level": "sample",
        "error": None,
    }
    assert "iou" in {row["name"] for row in listed}


def test_a_surrogate_is_fitted(newcomer: Newcomer, fitted: dict[str, Any]) -> None:
    assert (fitted["measure"], fitted["level"], fitted["columns"]) == ("f2", "sample", ["tp", "fp", "fn"])
    assert fitted["rows"] > 0
    assert (newcomer.home / fitted["surrogate"]).is_file()


def test_the_model_is_finetuned_through_it(newcomer: Newcomer, fitted: dict[str, Any]) -> None:
    result = newcomer.surrogate("finetune", "--run", fitted["run"], "--epochs", "1", "--batch-size", "32", "--quiet")
    assert result["loss"] == "surrogate"
    assert "f2@sample" in result["spec"]
    for scores in (result["before"], result["after"]):
        assert 0.0 <= scores["f2@sample"] <= 1.0
    # The best epoch by this very number is kept, and the start counts as one: f2 has no exact form on data sets.
    assert result["after"]["val"]["f2@sample"] >= result["before"]["val"]["f2@sample"]


def test_the_loss_works_in_a_plain_loop(newcomer: Newcomer, fitted: dict[str, Any]) -> None:
    losses = [float(line) for line in newcomer.run(sys.executable, "-c", LOOP, fitted["surrogate"]).split()]
    assert len(losses) == 20
    assert losses[-1] < losses[0]
