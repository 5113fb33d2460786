"""Small things for the tests of the core: scenes, a measure, a network, an engine, packages that are not there."""

from __future__ import annotations

import sys
from collections.abc import Callable, Mapping
from pathlib import Path

import pytest
import torch
from torch import Generator, Tensor, nn

from surrogate.additive import additive_measure
from surrogate.approximator import Surrogate
from surrogate.engine import Engine
from surrogate.protocols import Additive, Dataset, Measure
from surrogate.recipe import MeasureRecipe, ModelRecipe, Recipe, Section

Install = Callable[..., None]
COLUMNS = ("truth", "sure")


class Scenes:
    """`(3, 6, 6)` noise; a pixel is of class 1 where its channels add up to over 0, and unknown (-1) at a border."""

    def __init__(self, count: int) -> None:
        self.inputs = torch.randn(count, 3, 6, 6, generator=torch.Generator().manual_seed(0))
        self.targets = (self.inputs.sum(1) > 0).long()
        self.targets[:, 0] = -1

    def __len__(self) -> int:
        return len(self.inputs)

    def load(self, index: int, generator: Generator | None) -> tuple[Tensor, Tensor]:
        inputs = self.inputs[index]
        if generator is not None:
            inputs = inputs + 0.1 * torch.randn(inputs.shape, generator=generator)
        return inputs, self.targets[index]

    def name(self, index: int) -> str:
        return f"scene {index}"


def _accuracy(outputs: Tensor, targets: Tensor, /) -> Tensor:
    known = targets >= 0
    return ((outputs.argmax(1) == targets) & known).sum((1, 2)) / known.sum((1, 2))


def _soft_accuracy(outputs: Tensor, targets: Tensor, /) -> Tensor:
    known = targets >= 0
    pixels = known.sum((1, 2)).to(outputs.dtype)
    probability = outputs.softmax(1)
    truth = probability.gather(1, targets.clamp_min(0).unsqueeze(1)).squeeze(1)
    sums = torch.stack([(weight * known).sum((1, 2)) for weight in (truth, probability.square().sum(1))], 1)
    return torch.where((pixels > 0).unsqueeze(1), sums / pixels.clamp_min(1).unsqueeze(1), torch.nan)


@pytest.fixture(scope="session")
def scenes() -> Dataset:
    """Twelve scenes."""
    return Scenes(12)


@pytest.fixture(scope="session")
def measure() -> Measure:
    """Pixel accuracy of each image, and two statistics that are smooth in the outputs."""
    return Measure(metric=_accuracy, stats=_soft_accuracy, columns=COLUMNS)


def _sums(outputs: Tensor, targets: Tensor, /) -> Tensor:
    known = targets >= 0
    truth = outputs.softmax(1).gather(1, targets.clamp_min(0).unsqueeze(1)).squeeze(1)
    right = (outputs.argmax(1) == targets) & known
    return torch.stack([(truth * known).sum((1, 2)), right.sum((1, 2)), known.sum((1, 2))], -1).unsqueeze(1)


@pytest.fixture(scope="session")
def dataset_measure() -> Measure:
    """Pixel accuracy of the data set, as sums: of the probability of truth, of right pixels, of known ones."""
    accuracy = Additive(
        sums=_sums,
        metric=lambda sums: sums[:, 1] / sums[:, 2],
        stats=lambda sums: sums[:, :1] / sums[:, 2:].clamp_min(1),
    )
    return additive_measure(accuracy, ("truth",), level="dataset", analytic=lambda stats: stats[:, 0])


@pytest.fixture
def surrogate() -> Surrogate:
    """An analytic one, `tanh(1 - truth)`: smooth, strictly inside of [0, 1], falling in the probability of truth."""
    made = Surrogate(COLUMNS, depth=1, width=1, activation="tanh")
    made.load_state_dict(
        made.state_dict()
        | {
            "layers.0.weight": torch.tensor([[-1.0, 0.0]]),
            "layers.0.bias": torch.ones(1),
            "layers.2.weight": torch.ones(1, 1),
            "layers.2.bias": torch.zeros(1),
        }
    )
    return made


@pytest.fixture(scope="session")
def net() -> Callable[[], nn.Module]:
    """Makes the same small network with dropout each time."""

    def make() -> nn.Module:
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(1)
            made = nn.Sequential(
                nn.Conv2d(3, 8, 3, padding=1), nn.BatchNorm2d(8), nn.ReLU(), nn.Dropout(0.25), nn.Conv2d(8, 2, 1)
            )
            return made.to(memory_format=torch.channels_last)  # as the engine does: the last bits depend on it

    return make


@pytest.fixture(scope="session")
def perfect() -> Callable[[Tensor, Tensor], Tensor]:
    """Confident logits of the targets."""
    return lambda outputs, targets: 10.0 * nn.functional.one_hot(targets.clamp_min(0), 2).movedim(-1, 1).to(outputs)


@pytest.fixture(scope="session")
def recipe() -> Recipe:
    return Recipe(app="none", device="cpu", measure=MeasureRecipe(name="accuracy"), data=Section(), model=ModelRecipe())


@pytest.fixture(scope="session")
def engine(recipe: Recipe) -> Engine:
    return Engine(recipe)


@pytest.fixture
def install(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Install:
    """Puts a distribution with entry points `{group: {name: target}}` and modules `{name: source}` on the path."""

    def put(package: str, entry_points: Mapping[str, Mapping[str, str]], modules: Mapping[str, str]) -> None:
        folder = tmp_path / f"site-{package}"
        info = folder / f"{package}-1.5.dist-info"
        info.mkdir(parents=True)
        (info / "METADATA").write_text(f"Metadata-Version: 2.1\nName: {package}\nVersion: 1.5\n")
        lines = [
            line
            for group, entries in entry_points.items()
            for line in (f"[{group}]", *(f"{name} = {target}" for name, target in entries.items()))
        ]
        (info / "entry_points.txt").write_text("\n".join(lines) + "\n")
        for name, source in modules.items():
            (folder / f"{name}.py").write_text(source)
            monkeypatch.delitem(sys.modules, name, raising=False)
        monkeypatch.syspath_prepend(str(folder))

    yield put  # type: ignore[misc]
    for module in [m for m in sys.modules.values() if str(tmp_path) in str(getattr(m, "__file__", ""))]:
        del sys.modules[module.__name__]
