"""The example package: its metric against a loop over pixels, the contract of a measure, and the path by pip."""

from __future__ import annotations

import importlib.util
import json
import math
import os
import shutil
import subprocess
import sys
from itertools import product
from pathlib import Path
from types import ModuleType

import pytest
import torch
from torch import Tensor

from surrogate.testing import check_measure

PACKAGE = Path(__file__).resolve().parents[2] / "examples" / "surrogate-surface-distance"
CAP = 4


@pytest.fixture(scope="module")
def package() -> ModuleType:
    spec = importlib.util.spec_from_file_location("surface_distance", PACKAGE / "surrogate_surface_distance.py")
    assert spec
    assert spec.loader
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.fixture
def example() -> tuple[Tensor, Tensor]:
    """Three images, four classes: one class is nowhere, one image is void, one row of another image too."""
    logits = torch.randn(3, 4, 7, 6, generator=torch.Generator().manual_seed(0))
    labels = torch.randint(3, (3, 7, 6), generator=torch.Generator().manual_seed(1))
    logits[:, 3] -= 9.0
    labels[0], labels[1, 0] = 255, 255
    return logits, labels


def outline_by_hand(mask: list[list[bool]]) -> list[tuple[int, int]]:
    height, width = len(mask), len(mask[0])

    def inside(i: int, j: int) -> bool:
        return 0 <= i < height and 0 <= j < width and mask[i][j]

    pixels = product(range(height), range(width))
    return [
        (i, j)
        for i, j in pixels
        if mask[i][j] and not (inside(i - 1, j) and inside(i + 1, j) and inside(i, j - 1) and inside(i, j + 1))
    ]


def distance_by_hand(predicted: Tensor, true: Tensor) -> float:
    one, other = outline_by_hand(predicted.tolist()), outline_by_hand(true.tolist())
    if not one and not other:
        return math.nan
    both = [(p, other) for p in one] + [(p, one) for p in other]
    return sum(min([CAP, *(math.dist(p, q) for q in far)]) for p, far in both) / len(both)


def test_the_metric_is_that_of_a_loop_over_pixels(package: ModuleType, example: tuple[Tensor, Tensor]) -> None:
    logits, labels = example
    # Sparse masks as well, whose outlines lie further apart than the cap.
    logits, labels = torch.cat([logits, logits * 1.0]), torch.cat([labels, torch.zeros_like(labels)])
    logits[3:, 0] += 2.5
    labels[4, 6, 5], labels[5, 0, :2] = 1, 2
    measure = package.surface_distance(num_classes=4, ignore_index=255, cap=CAP)
    found = measure.metric(logits, labels).view(6, 3)
    predicted, valid = logits.argmax(1), labels != 255
    for image, label in product(range(6), (1, 2, 3)):
        masks = ((which[image] == label) & valid[image] for which in (predicted, labels))
        expected = torch.tensor(distance_by_hand(*masks))
        torch.testing.assert_close(found[image, label - 1], expected, equal_nan=True)
    assert (found == CAP).any(), "the example reaches the cap"


def test_the_measure_keeps_every_contract(package: ModuleType, example: tuple[Tensor, Tensor]) -> None:
    logits, labels = example
    perfect = 9.0 * torch.nn.functional.one_hot(labels % 255, 4).movedim(-1, 1).float()
    check_measure(package.surface_distance(num_classes=4, ignore_index=255), logits, labels, perfect=perfect)


def test_sharp_statistics_are_the_metric(package: ModuleType, example: tuple[Tensor, Tensor]) -> None:
    """The limit from soft to hard: with confident outputs `both` is the metric, as a share of the cap."""
    logits, labels = example
    measure = package.surface_distance(num_classes=4, ignore_index=255, cap=CAP)
    both = measure.stats(1e6 * logits.double(), labels)[:, measure.columns.index("both_2")]
    torch.testing.assert_close(both.float(), measure.metric(logits, labels) / CAP, equal_nan=True)


def test_it_installs_fits_and_finetunes(tmp_path: Path) -> None:
    """By pip, and then by name on the command line, as any package of a stranger."""
    shutil.copytree(PACKAGE, tmp_path / "package")
    own = {"PYTHONPATH": str(tmp_path / "site"), "OMP_NUM_THREADS": "1", "PIP_DISABLE_PIP_VERSION_CHECK": "1"}
    program = shutil.which("surrogate", path=str(Path(sys.executable).parent))
    assert program

    def run(*command: str) -> str:
        done = subprocess.run(
            command, cwd=tmp_path, env={**os.environ, **own}, capture_output=True, text=True, check=False
        )
        assert done.returncode == 0, done.stderr
        return done.stdout

    offline = ("--no-index", "--no-deps", "--no-build-isolation")
    run(sys.executable, "-m", "pip", "install", "--quiet", *offline, "--target", "site", "./package")
    tiny = ("data.size=32x32", "model.width=4", "train.epochs=1", "train.batch_size=32", "fit.epochs=5", "fit.width=32")
    quick = ("collect.batch_size=32", 'collect.regimes=["model", "towards"]', "finetune.batch_size=32")
    settings = [part for setting in (*tiny, *quick) for part in ("--set", setting)]
    named = ("--app", "segmentation", "--measure", "surface-distance", "--run", "run")
    fitted = json.loads(run(program, "fit", *named, *settings, "--json", "--quiet"))
    assert fitted["measure"] == "surface-distance"
    assert fitted["fidelity"]["spearman"] > 0.5, "the statistics explain the metric, even of a network of one epoch"
    tuned = json.loads(
        run(
            program,
            "finetune",
            "--run",
            "run",
            "--set",
            "finetune.max_wrong_sign=1",
            "--epochs",
            "1",
            "--json",
            "--quiet",
        )
    )
    before, after = (tuned[side]["val"]["surface-distance@sample"] for side in ("before", "after"))
    assert after <= before, "lower is better, and the start counts as an epoch"
