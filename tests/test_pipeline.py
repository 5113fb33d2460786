"""The whole path on the embedded data, by the command line: fit, finetune, evaluate, and what they leave behind."""

from __future__ import annotations

import dataclasses
import hashlib
import json
import math
import shutil
from pathlib import Path

import pytest
import torch

from surrogate.approximator import load, save
from surrogate.finetune import Selection
from surrogate.loss import SurrogateLoss
from surrogate.pipeline import Request, evaluate, finetune, fit
from surrogate.progress import finish
from surrogate.work import open_work
from surrogate_segmentation.data import open_data
from surrogate_segmentation.recipe import DataRecipe

# fmt: off
TINY = [
    "--app", "segmentation", "--size", "32x32", "--device", "cpu", "--set", "model.width=4",
    "--set", "train.epochs=3", "--set", "train.lr=0.005", "--set", "fit.epochs=40", "--set", "fit.patience=40",
]
# fmt: on


@pytest.fixture(scope="module")
def fitted(tmp_path_factory) -> Path:
    """A run folder after `surrogate fit`; copy it before changing it."""
    from surrogate_cli.exits import exit_code
    from surrogate_cli.main import cli

    run = tmp_path_factory.mktemp("pipeline") / "run"
    assert exit_code(cli, ["fit", "--run", str(run), *TINY, "--quiet"]) == 0
    return run


@pytest.fixture
def run(fitted, tmp_path) -> Path:
    return Path(shutil.copytree(fitted, tmp_path / "run"))


def digest(folder: Path) -> dict[str, str]:
    return {
        str(path.relative_to(folder)): hashlib.sha256(path.read_bytes()).hexdigest()
        for path in sorted(folder.rglob("*"))
        if path.is_file()
    }


def test_fit_says_what_other_programs_rely_on(run, surrogate_cli):
    before = digest(run)
    again = surrogate_cli("fit", "--run", run, "--json")
    assert again.code == 0
    result = again.json
    assert {"run", "surrogate", "rows", "columns", "measure", "level", "fidelity"} <= result.keys()
    assert {"spearman", "kendall", "r2", "mae", "wrong_sign", "n_samples"} <= result["fidelity"].keys()
    assert result["columns"] == ["tp", "fp", "fn", "tp_mean", "fp_mean", "fn_mean"]
    assert (result["measure"], result["level"]) == ("iou", "batch")
    assert result["rows"] > 1000
    assert result["fidelity"]["spearman"] > 0.9
    assert result["fidelity"]["n_samples"] == 2  # a fifth of the ten pools
    assert [Path(path).name for path in result["figures"]] == ["fidelity.png"]
    assert (run / "fidelity.png").stat().st_size > 5000
    assert digest(run) == before, "a finished stage is not made again"


def test_finetune_and_evaluate(run, surrogate_cli):
    tuned = surrogate_cli("finetune", "--run", run, "--epochs", 2, "--json")
    assert tuned.code == 0
    assert "finetune epoch 2/2" in tuned.err
    result = tuned.json
    assert {"run", "loss", "checkpoint", "before", "after", "spec"} <= result.keys()
    assert result["loss"] == "surrogate"
    assert result["spec"].startswith("mIoU(macro, dataset, ignore=255, absent=skip)")
    for side in ("before", "after"):
        assert {"miou", "iou@batch", "pixel_accuracy"} <= result[side].keys()
    assert result["after"]["val"]["miou"] >= result["before"]["val"]["miou"], "the best checkpoint by the true metric"
    for path in result["figures"]:
        assert Path(path).stat().st_size > 1000

    numbers = surrogate_cli("evaluate", "--run", run, "--json").json
    assert numbers["metrics"]["miou"] == result["after"]["miou"]
    assert set(numbers["metrics"]["iou"]) == set(open_data(DataRecipe()).classes)

    lines = [json.loads(line) for line in (run / "finetune-surrogate" / "metrics.jsonl").read_text().splitlines()]
    assert [line["epoch"] for line in lines] == [1, 2]

    before = digest(run)
    assert surrogate_cli("finetune", "--run", run, "--epochs", 2, "--json").json == result
    assert digest(run) == before

    changed = surrogate_cli("finetune", "--run", run, "--epochs", 3)
    assert changed.code == 2
    assert f"finetune.epochs; delete {run / 'finetune-surrogate'} to finetune anew" in changed.err
    assert "not finished" not in surrogate_cli("evaluate", "--run", run).err
    (run / "finetune-surrogate" / "result.json").unlink()  # as when it was stopped in between
    unfinished = surrogate_cli("evaluate", "--run", run)
    assert f"{run / 'finetune-surrogate'} is not finished; its best epoch so far counts" in unfinished.err


@pytest.mark.parametrize(
    ("measure", "column", "headline"),
    [("boundary-iou", "both", "boundary_iou")],
)
def test_another_measure_is_fitted_and_chosen_by(fitted, tmp_path, surrogate_cli, measure, column, headline):
    """From the weights of a model that exists; its number over the data set is the headline."""
    weights = fitted / "model" / "model.safetensors"
    own = ("--measure", measure, "--weights", weights, *TINY, "--set", "score.boundary_width=1")
    done = surrogate_cli("fit", "--run", tmp_path / "own", *own, "--json")
    assert done.code == 0, done.err
    result = done.json
    assert result["measure"] == measure
    assert column in result["columns"]
    assert {"spearman", "wrong_sign", "analytic"} <= result["fidelity"].keys()
    numbers = surrogate_cli("evaluate", "--run", tmp_path / "own", "--json").json
    assert 0.0 < numbers["metrics"][headline] < 1.0
    assert "width=1" in numbers["spec"]


def test_a_baseline_loss_starts_from_the_same_model(run, surrogate_cli):
    ce = surrogate_cli("finetune", "--run", run, "--loss", "ce", "--epochs", 1, "--json").json
    dice = surrogate_cli("finetune", "--run", run, "--loss", "dice", "--epochs", 1, "--json").json
    assert ce["before"] == dice["before"]
    assert ce["after"] != dice["after"]
    assert dice["losses"].keys() == {"ce", "dice"}


def test_losses_joined_by_plus_are_trained_through_together(run, surrogate_cli):
    both = surrogate_cli("finetune", "--run", run, "--loss", "surrogate+dice", "--epochs", 1, "--json").json
    alone = surrogate_cli("finetune", "--run", run, "--loss", "surrogate", "--epochs", 1, "--json").json
    assert both["after"] != alone["after"]
    folder = run / "finetune-surrogate+dice"
    (line,) = (json.loads(text) for text in (folder / "metrics.jsonl").read_text().splitlines())
    assert line["val"]["surrogate"]["rows"] > 0  # the surrogate in it is watched as it is alone
    shown = surrogate_cli("evaluate", "--run", run, "--loss", "surrogate+dice", "--json").json
    assert shown["model"] == str(folder)
    assert shown["metrics"]["miou"] == both["after"]["miou"]


def test_a_deleted_finetuning_is_trained_anew(run, surrogate_cli):
    """As the refusal of other settings advises: what comes back then is the new recipe's, and there."""
    once = ("finetune", "--run", run, "--loss", "ce", "--epochs", 1)
    other = ("finetune", "--run", run, "--loss", "ce", "--epochs", 2)
    first = surrogate_cli(*once, "--json").json
    refused = surrogate_cli(*other)
    assert refused.code == 2
    assert "finetune.epochs" in refused.err
    assert f"delete {run / 'finetune-ce'}" in refused.err
    shutil.rmtree(run / "finetune-ce")
    assert surrogate_cli("inspect", run, "--json").json["finetuned"] == []
    second = surrogate_cli(*other, "--json").json
    assert Path(second["checkpoint"]).is_file()
    assert second["after"] != first["after"]
    assert surrogate_cli("inspect", run, "--json").json["finetuned"] == ["ce"]


def test_the_two_lines_in_a_plain_loop(fitted):
    loss_fn = SurrogateLoss.load(fitted / "surrogate.safetensors")
    train = open_data(DataRecipe(size=(32, 32))).splits["train"]
    images, labels = (torch.stack(parts) for parts in zip(*(train.load(i, None) for i in range(4)), strict=True))
    with torch.random.fork_rng():
        torch.manual_seed(0)
        model = torch.nn.Conv2d(3, 7, 3, padding=1)
    optimizer = torch.optim.Adam(model.parameters(), lr=0.02)
    losses = []
    for _ in range(15):
        optimizer.zero_grad()
        with torch.autocast("cpu", dtype=torch.bfloat16):
            loss = loss_fn(model(images), labels)
        loss.backward()
        optimizer.step()
        losses.append(loss.item())
    assert losses[-1] < losses[0] - 0.05
    assert all(math.isfinite(value) for value in losses)


@pytest.mark.slow
def test_the_literal_eq_2_fits_well_and_destroys_the_model(tmp_path, surrogate_cli):
    """`docs/gradient-sign.md`: rank correlation says nothing of it, the certificate does, and training proves it."""
    base = (*TINY, "--set", "train.epochs=30", "--size", "64x64", "--set", "model.width=8")
    first = surrogate_cli("train", "--run", tmp_path / "base", *base, "--json").json
    shared = ("--weights", first["checkpoint"], *base, "--set", "fit.slope_weight=0")
    three = ("--set", 'fit.columns=["tp", "fp", "fn"]')
    found = {}
    for name in ("literal", "one-vs-rest"):
        run = tmp_path / name
        statistics = ("--set", f"measure.statistics={name}")
        fidelity = surrogate_cli("fit", "--run", run, *shared, *three, *statistics, "--json").json["fidelity"]
        assert fidelity["spearman"] > 0.9
        gate = ("--set", "finetune.max_wrong_sign=1", "--set", "finetune.min_spearman=-1")
        surrogate_cli("finetune", "--run", run, "--ce-mix", 0, "--epochs", 4, *gate)
        last = json.loads((run / "finetune-surrogate" / "metrics.jsonl").read_text().splitlines()[-1])
        found[name] = (fidelity["wrong_sign"], last["val"]["miou"])
    assert found["literal"][0] > 0.1 > 0.05 > found["one-vs-rest"][0]
    assert found["literal"][1] < 0.6 * first["metrics"]["miou"] < found["one-vs-rest"][1]


def test_a_user_s_weights_are_the_baseline(fitted, tmp_path, surrogate_cli):
    weights = fitted / "model" / "model.safetensors"
    done = surrogate_cli("train", "--run", tmp_path / "own", "--weights", weights, *TINY, "--json").json
    assert done["epochs"] == 0
    assert (tmp_path / "own" / "model" / "model.safetensors").read_bytes() == weights.read_bytes()


def test_a_user_s_own_network(tmp_path, surrogate_cli, monkeypatch):
    (tmp_path / "my_net.py").write_text(
        "import torch\ndef small(num_classes):\n    return torch.nn.Conv2d(3, num_classes, 3, padding=1)\n"
    )
    monkeypatch.chdir(tmp_path)
    args = ["--run", "run", *TINY, "--model", "my_net:small", "--epochs", "1"]
    assert surrogate_cli("train", *args, "--json").code == 0


def test_the_same_from_python(run):
    request = Request(run=run, overrides=(("finetune.epochs", 1), ("finetune.loss", "iou-appx")))
    tuned = finish(finetune(request))
    assert tuned["after"]["val"]["miou"] >= tuned["before"]["val"]["miou"]
    assert finish(evaluate(Request(run=run), split="val"))["split"] == "val"
    again = finish(fit(Request(run=run)))
    assert again == json.loads((run / "fit.json").read_text())
    assert again["rows"] > 1000


def test_inspect_and_the_card(run, surrogate_cli):
    assert surrogate_cli("inspect", run, "--json").json["fitted"] is True
    store = surrogate_cli("inspect", run / "stats", "--json").json
    assert store["complete"] is True
    assert store["rows"] == sum(shard["rows"] for shard in store["shards"])
    _, card = load(run / "surrogate.safetensors")
    assert card.facts == {"num_classes": 7, "ignore_index": 255}
    shown = surrogate_cli("inspect", run / "surrogate.safetensors", "--json").json
    assert shown["fidelity"] == json.loads((run / "fit.json").read_text())["fidelity"]


def test_a_surrogate_with_wrong_signs_is_refused_unless_allowed(fitted, tmp_path, surrogate_cli):
    surrogate, card = load(fitted / "surrogate.safetensors")
    bad = tmp_path / "bad.safetensors"
    save(surrogate, card.model_copy(update={"fidelity": {**card.fidelity, "wrong_sign": 0.4}}), bad)
    weights = fitted / "model" / "model.safetensors"
    args = ("--run", tmp_path / "run", *TINY, "--weights", weights, "--set", f"finetune.surrogate={bad}")
    ended = surrogate_cli("finetune", *args)
    assert ended.code == 5
    assert "40.0 % of its gradient signs are wrong" in ended.err.strip().splitlines()[-1]
    again = (*args[:1], tmp_path / "other", *args[2:])
    assert surrogate_cli("finetune", *again, "--set", "finetune.max_wrong_sign=1", "--epochs", 1).code == 0


def test_a_changed_recipe_is_refused_with_the_keys(run, surrogate_cli):
    ended = surrogate_cli("fit", "--run", run, "--set", "model.width=8", "--seed", 3)
    assert ended.code == 2
    assert "model.width, seed" in ended.err
    assert len(ended.err.strip().splitlines()) == 1


def test_another_measure_does_not_inherit_the_options_of_the_recipes_own(tmp_path):
    recipe = tmp_path / "hinge.toml"
    recipe.write_text('app = "segmentation"\n[measure]\nname = "iou"\nlevel = "sample"\nstatistics = "hinge"\n')
    asked = Request(app="segmentation", recipe=str(recipe), run=tmp_path / "new")
    assert open_work(asked).recipe.measure.options == {"level": "sample", "statistics": "hinge"}
    other = dataclasses.replace(asked, overrides=(("measure.name", "boundary-iou"),))
    assert open_work(other).recipe.measure.options == {}
    both = dataclasses.replace(asked, overrides=(("measure.name", "boundary-iou"), ("measure.level", "batch")))
    assert open_work(both).recipe.measure.options == {"level": "batch"}


def test_the_baseline_is_chosen_by_the_apps_own_headline_whatever_is_measured(tmp_path):
    """By a metric that is 0 until a model is good, the epoch that knows least may be the best."""
    asked = Request(app="segmentation", run=tmp_path / "run", overrides=(("measure.name", "boundary-f1"),))
    work = open_work(asked)
    assert work.selection() == Selection("boundary_f1", higher_is_better=True)
    assert work.baseline_selection() == Selection("miou", higher_is_better=True)
