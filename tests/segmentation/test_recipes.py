"""The shipped recipes: all of them can be built, and those named after the paper carry its settings."""

from __future__ import annotations

import itertools

import pytest

from surrogate.errors import UsageError
from surrogate.recipe import build, read_toml
from surrogate_segmentation import app
from surrogate_segmentation.data.opening import LAYOUTS
from surrogate_segmentation.networks import NETWORKS
from surrogate_segmentation.recipe import SegmentationRecipe

SIZES = {"voc": (375, 500), "cityscapes": (512, 1024)}
PAPER = [f"{data}-{network}" for data, network in itertools.product(SIZES, NETWORKS)]


def shipped(name: str) -> SegmentationRecipe:
    return build(SegmentationRecipe, read_toml(app.recipes[name]), where=name)


def test_names_are_data_set_and_network_or_machine() -> None:
    others = set(app.recipes) - set(PAPER)
    assert set(PAPER) < set(app.recipes)
    assert {"camvid-cpu", "camvid-gpu"} <= others <= {"camvid-cpu", "camvid-gpu", "demo"}


@pytest.mark.parametrize("name", sorted(app.recipes))
def test_every_recipe_can_be_built(name: str) -> None:
    recipe = shipped(name)
    assert recipe.app == "segmentation"
    assert recipe.model.name in NETWORKS
    assert recipe.data.layout in ("auto", *(layout.name for layout in LAYOUTS))


@pytest.mark.parametrize("name", PAPER)
def test_the_settings_of_the_paper(name: str) -> None:
    """NeuroIoU, Section 4.1, and Algorithm 1 for what is finetuned through."""
    data, network = name.split("-")
    recipe = shipped(name)
    assert (recipe.data.layout, recipe.data.size) == (data, SIZES[data])
    assert (recipe.model.name, recipe.model.width) == (network, 64)
    assert (recipe.measure.name, recipe.fit.depth, recipe.fit.width) == ("iou", 4, 100)
    for stage in (recipe.train, recipe.finetune):
        assert (stage.optimizer, stage.lr, stage.momentum, stage.weight_decay) == ("sgd", 1e-5, 0.99, 5e-4)
        assert (stage.schedule, stage.batch_size) == ("constant", 4)
    assert (recipe.finetune.loss, recipe.finetune.ce_mix) == ("surrogate", 0.0)
    assert recipe.collect.batch_size == recipe.finetune.batch_size, "rows are those of a batch"


def test_camvid_on_two_machines() -> None:
    cpu, gpu = shipped("camvid-cpu"), shipped("camvid-gpu")
    assert (cpu.data.layout, cpu.data.size, cpu.model.name, cpu.model.width) == ("camvid", (120, 160), "unet", 16)
    assert (gpu.data.layout, gpu.data.size, gpu.model.name, gpu.model.width) == ("camvid", (360, 480), "unet", 64)
    assert (cpu.device, cpu.precision) == ("cpu", "fp32")
    assert (gpu.device, gpu.precision) == ("cuda", "bf16")
    for recipe in (cpu, gpu):
        tables = {"measure", "train", "collect", "fit", "finetune"}
        assert recipe.model_dump(include=tables) == SegmentationRecipe().model_dump(include=tables)


@pytest.mark.parametrize("name", sorted(set(app.recipes) - {"demo"}))
def test_data_is_the_users_to_name(name: str) -> None:
    """No recipe knows where data lies: its first lines give the command, and without a folder it does not begin."""
    text = app.recipes[name].read_text(encoding="utf-8")
    assert f"surrogate fit --app segmentation --recipe {name} --data " in text
    assert "path" not in read_toml(app.recipes[name])["data"]
    with pytest.raises(UsageError, match=r"give .*folder"):
        app.open(shipped(name))
