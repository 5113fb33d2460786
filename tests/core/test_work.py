"""A request made concrete: the weights that a recipe names are loaded here, whatever the app does about them."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn

from surrogate import plugins
from surrogate.errors import DataError
from surrogate.recipe import build
from surrogate.rundir import RunDir
from surrogate.weights import load_weights, save_weights
from surrogate.work import Work
from surrogate_toy.app import ToyApp, ToyTask

SMALL: dict[str, dict[str, Any]] = {
    "segmentation": {"data": {"size": "32x32"}, "model": {"width": 2}},
    "tabular": {},
    "toy": {"data": {"train": 64, "test": 16}},
}


def work(name: str, folder: Path, *, app: Any = None, weights: Path | None = None, seed: int = 0) -> Work:
    app, small = app or plugins.load_app(name), SMALL[name]
    model = {**small.get("model", {}), **({"weights": str(weights)} if weights else {})}
    settings = {**small, "app": name, "seed": seed, "model": model}
    return Work(app, build(app.recipe, settings, where="test"), RunDir(folder))


def same(one: nn.Module, other: nn.Module) -> bool:
    return all(torch.equal(a, b) for a, b in zip(one.state_dict().values(), other.state_dict().values(), strict=True))


@pytest.mark.parametrize("suffix", [".pt", ".safetensors"])
@pytest.mark.parametrize("name", sorted(SMALL))
def test_the_weights_of_a_recipe_are_those_of_the_model(name: str, suffix: str, tmp_path: Path) -> None:
    saved, path = work(name, tmp_path, seed=1).model(), tmp_path / f"model{suffix}"
    if suffix == ".pt":
        torch.save(saved.state_dict(), path)
    else:
        save_weights(path, saved)
    asked = work(name, tmp_path, weights=path)
    assert same(asked.model(), saved)
    assert not same(asked.new_model(), saved)
    assert same(asked.new_model(), work(name, tmp_path).model())


class Loading(ToyTask):
    """Loads the weights of its recipe by itself, wherever a model is asked for."""

    def model(self) -> nn.Module:
        model = super().model()
        if self.recipe.model.weights:
            load_weights(Path(self.recipe.model.weights), model)
        return model


class LoadingApp(ToyApp):
    def open(self, recipe: Any) -> Any:
        return Loading(recipe)


def test_a_new_model_has_none_where_an_app_loads_them_too(tmp_path: Path) -> None:
    saved, path = work("toy", tmp_path, seed=1).model(), tmp_path / "model.safetensors"
    save_weights(path, saved)
    asked = work("toy", tmp_path, app=LoadingApp(), weights=path)
    assert same(asked.model(), saved)
    assert not same(asked.new_model(), saved)


def test_weights_that_are_not_there_or_of_another_network_are_refused(tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"nowhere\.pt: no such file; make it with `surrogate train`"):
        work("toy", tmp_path, weights=tmp_path / "nowhere.pt").model()
    save_weights(tmp_path / "wide.safetensors", nn.Linear(2, 1))
    with pytest.raises(DataError, match=r"'weight' has the shape \(1, 2\), the model expects \(1, 1\)"):
        work("toy", tmp_path, weights=tmp_path / "wide.safetensors").model()
