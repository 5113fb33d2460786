"""Bad input: one line on stderr that names the culprit, the exit code of the design, and nothing lost."""

from __future__ import annotations

import json
import shutil

import numpy as np
import pytest
from PIL import Image
from safetensors import safe_open
from safetensors.torch import load_file, save_file

# fmt: off
TINY = [
    "--app", "segmentation", "--size", "32x32", "--device", "cpu", "--set", "model.width=4",
    "--set", "train.epochs=1", "--set", "fit.epochs=60", "--set", "finetune.epochs=1",
]
# fmt: on


@pytest.fixture
def folder(tmp_path):
    """A small data set in the folder layout that is in order."""
    root = tmp_path / "data"
    (root / "images").mkdir(parents=True)
    (root / "masks").mkdir()
    for number in range(6):
        noise = np.random.default_rng(number)
        Image.fromarray(noise.integers(0, 255, (32, 32, 3), dtype=np.uint8)).save(root / "images" / f"{number}.png")
        Image.fromarray(noise.integers(0, 2, (32, 32), dtype=np.uint8)).save(root / "masks" / f"{number}.png")
    (root / "dataset.toml").write_text('classes = ["no", "yes"]\nignore_index = 255\n')
    return root


def mask(folder, array):
    Image.fromarray(np.asarray(array, dtype=np.uint8)).save(folder / "masks" / "3.png")


def out_of_range(folder):
    bad = np.zeros((32, 32))
    bad[0, :7] = 9
    mask(folder, bad)


def another_size(folder):
    mask(folder, np.zeros((16, 32)))


def rgb(folder):
    mask(folder, np.zeros((32, 32, 3)))


def missing(folder):
    (folder / "masks" / "3.png").unlink()


def empty_split(folder):
    (folder / "dataset.toml").write_text('classes = ["no", "yes"]\n[splits]\ntrain = ["0", "1"]\nval = []\n')


def damaged_image(folder):
    (folder / "masks" / "3.png").write_bytes(b"not a png")


@pytest.mark.parametrize(
    ("break_it", "named"),
    [
        (out_of_range, ["3.png", "9", "7", "ignore_index"]),
        (another_size, ["3.png", "16", "32"]),
        (rgb, ["3.png", "one channel"]),
        (missing, ["3"]),
        (empty_split, ["val"]),
        (damaged_image, ["3.png"]),
    ],
    ids=lambda value: getattr(value, "__name__", ""),
)
def test_data(folder, tmp_path, surrogate_cli, break_it, named):
    break_it(folder)
    ended = surrogate_cli("train", "--run", tmp_path / "run", "--data", folder, *TINY)
    assert ended.code == 3
    assert ended.out == ""
    assert len(ended.err.strip().splitlines()) == 1, ended.err
    for part in named:
        assert part in ended.err
    assert not (tmp_path / "run").exists(), "nothing is left behind"


@pytest.mark.parametrize(
    ("args", "code", "named"),
    [
        (["--set", "model.widht=8"], 2, "did you mean 'model.width'"),
        (["--set", "fit.epoch=8"], 2, "did you mean 'fit.epochs'"),
        (["--set", "measure.lvl=batch"], 2, "did you mean 'level'"),
        (["--measure", "iuo"], 2, "did you mean 'iou'"),
        (["--size", "32"], 2, "HxW"),
        (["--recipe", "voc-fcn"], 2, "did you mean 'voc-fcn8s'"),
        (["--data", "nowhere"], 3, "nowhere"),
        (["--model", "unett"], 2, "did you mean 'unet'"),
        (["--weights", "nowhere.pt"], 3, "nowhere.pt"),
        (["--set", "fit.columns=['tpp']"], 2, "did you mean 'tp'"),
        (["--set", "collect.regimes=['model', 'shaper']"], 2, "did you mean 'sharper'"),
        (["--set", "collect.regimes=[]"], 2, "at least one of model"),
        (["--set", "collect.regimes=['model', 'model']"], 2, "expected different names"),
        (["--set", "measure.level=1"], 2, "cannot be made with level=1 "),
        (["--app", "segmentatoin"], 2, "did you mean 'segmentation'"),
    ],
    ids=lambda value: " ".join(value) if isinstance(value, list) else "",
)
def test_settings(tmp_path, surrogate_cli, args, code, named):
    ended = surrogate_cli("fit", "--run", tmp_path / "run", "--quiet", *TINY, *args)
    assert ended.code == code, ended.err
    assert named in ended.err
    assert len(ended.err.strip().splitlines()) == 1, ended.err
    assert not (tmp_path / "run").exists(), "nothing is left behind"


@pytest.mark.parametrize(
    ("args", "named"),
    [
        (["--measure", "fbeta", "--set", "measure.beta=high"], "cannot be made with beta='high' (TypeError: "),
        (["--measure", "precision-at-k", "--set", "measure.k=2"], "measure.k is 2; expected a share"),
    ],
)
def test_settings_of_a_measure(tmp_path, surrogate_cli, args, named):
    ended = surrogate_cli("fit", "--run", tmp_path / "run", "--app", "tabular", "--quiet", *args)
    assert (ended.code, len(ended.err.strip().splitlines())) == (2, 1), ended.err
    assert named in ended.err
    assert not (tmp_path / "run").exists(), "nothing is left behind"


def test_a_recipe_whose_measure_is_no_table(tmp_path, surrogate_cli):
    (tmp_path / "recipe.toml").write_text('app = "toy"\nmeasure = "step"\n')
    asked = ("fit", "--recipe", tmp_path / "recipe.toml", "--run", tmp_path / "run")
    for measure in ((), ("--measure", "other")):
        shown = surrogate_cli(*asked, *measure)
        assert shown.code == 2
        assert "measure" in shown.err


def test_a_recipe_of_another_app_is_named(tmp_path, surrogate_cli):
    recipe = tmp_path / "mine.toml"
    recipe.write_text('app = "segmentation"\n')
    ended = surrogate_cli("fit", "--run", tmp_path / "run", "--app", "toy", "--recipe", recipe)
    assert ended.code == 2
    assert f"--recipe {recipe}: is for app 'segmentation', not 'toy'; leave out --app" in ended.err


def test_the_folder_of_a_finetuning_is_no_run(small_run, tmp_path, surrogate_cli):
    run = shutil.copytree(small_run, tmp_path / "run")
    assert surrogate_cli("finetune", "--run", run, "--loss", "ce", "--quiet").code == 0
    ended = surrogate_cli("fit", "--run", run / "finetune-ce")
    assert (ended.code, ended.out) == (2, "")
    assert f"holds a finetuning, not a run; name its run: --run {run}" in ended.err
    found = json.loads(surrogate_cli("inspect", run / "finetune-ce", "--json").out)
    assert (found["kind"], found["run"], found["finished"]) == ("finetuning", str(run), True)
    assert found["result"]["after"]["miou"] is not None


def test_deleted_weights_are_made_again(small_run, tmp_path, surrogate_cli):
    run = shutil.copytree(small_run, tmp_path / "run")
    weights = run / "model" / "model.safetensors"
    before = weights.read_bytes()
    weights.unlink()
    ended = surrogate_cli("evaluate", "--run", run)
    assert (ended.code, "no such file; make it with `surrogate train`" in ended.err) == (3, True), ended.err
    assert surrogate_cli("train", "--run", run, "--quiet").code == 0
    assert weights.read_bytes() == before


def test_data_without_a_test_split_is_reported_as_val(folder, tmp_path, surrogate_cli):
    run = tmp_path / "run"
    args = ["--data", folder, *TINY, "--loss", "dice", "--json"]
    found = json.loads(surrogate_cli("finetune", "--run", run, *args).out)
    assert "split=val (the data has no test split; checkpoints are chosen by val too)" in found["spec"]
    assert found["after"]["miou"] == found["after"]["val"]["miou"]
    assert json.loads(surrogate_cli("evaluate", "--run", run, "--json").out)["split"] == "val"


def test_a_refused_finetuning_may_be_asked_for_with_other_settings(small_run, tmp_path, surrogate_cli):
    run = shutil.copytree(small_run, tmp_path / "run")
    strict = ["--set", "finetune.max_wrong_sign=0.0"]
    report = json.loads((run / "fit.json").read_text())
    path = run / "surrogate.safetensors"
    with safe_open(path, framework="pt") as file:
        metadata = file.metadata()
    card = json.loads(metadata["surrogate"])
    card["fidelity"] |= {"wrong_sign": 0.3, "contrary": 0.21}
    report["fidelity"]["wrong_sign"] = 0.3
    save_file(load_file(path), path, metadata={**metadata, "surrogate": json.dumps(card)})
    ended = surrogate_cli("finetune", "--run", run, "--quiet", *strict)
    assert (ended.code, ended.out) == (5, "")
    assert "30.0 % of its gradient signs are wrong" in ended.err
    assert "the hand-made soft form has 0.0 %; the metric itself goes against the truth in 21.0 % of" in ended.err
    assert surrogate_cli("finetune", "--run", run, "--quiet", "--set", "finetune.max_wrong_sign=1").code == 0
    ended = surrogate_cli("finetune", "--run", run, "--quiet", *strict)  # by now there is something to lose
    assert (ended.code, "finetune.max_wrong_sign" in ended.err) == (2, True)


def test_measures_of_no_app(surrogate_cli):
    ended = surrogate_cli("measures", "--app", "segmentatoin")
    assert (ended.code, "did you mean 'segmentation'" in ended.err) == (2, True)


@pytest.fixture(scope="module")
def small_run(tmp_path_factory):
    from surrogate_cli.exits import exit_code
    from surrogate_cli.main import cli

    run = tmp_path_factory.mktemp("small") / "run"
    assert exit_code(cli, ["fit", "--run", str(run), *TINY, "--quiet"]) == 0
    return run


@pytest.fixture
def run(small_run, tmp_path):
    return shutil.copytree(small_run, tmp_path / "run")


def rewrite_card(path, old: str, new: str):
    with safe_open(path, framework="pt") as file:
        text = file.metadata()["surrogate"]
    assert old in text
    save_file(load_file(path), path, metadata={"surrogate": text.replace(old, new)})


@pytest.mark.parametrize(
    ("old", "new", "named"),
    [
        ('"num_classes": 7', '"num_classes": 9', "num_classes=9"),
        ('"version": 1', '"version": 2', "version 2"),
        ('"level": "batch"', '"level": "sample"', "level sample"),
    ],
)
def test_a_surrogate_for_something_else(run, surrogate_cli, old, new, named):
    other = run / "other.safetensors"
    shutil.copy(run / "surrogate.safetensors", other)
    rewrite_card(other, old, new)
    ended = surrogate_cli("finetune", "--run", run, "--set", f"finetune.surrogate={other}")
    assert ended.code == 3
    assert named in ended.err
    assert len(ended.err.strip().splitlines()) == 1, ended.err


def test_a_damaged_shard(run, surrogate_cli):
    (run / "fit.json").unlink()
    shard = next((run / "stats").glob("*.h5"))
    data = bytearray(shard.read_bytes())
    data[len(data) // 2] ^= 1
    shard.write_bytes(data)
    ended = surrogate_cli("fit", "--run", run)
    assert ended.code == 3
    assert shard.name in ended.err.splitlines()[-1]


@pytest.mark.parametrize("name", ["model/model.safetensors", "recipe.toml"])
def test_a_damaged_file(run, surrogate_cli, name):
    (run / name).write_bytes(b"\x00garbage = ")
    ended = surrogate_cli("finetune", "--run", run)
    assert ended.code in (2, 3)
    assert name in ended.err
    assert "Traceback" not in ended.err
    assert len(ended.err.strip().splitlines()) == 1, ended.err


def test_a_model_that_gives_no_tensor(folder, tmp_path, surrogate_cli, monkeypatch):
    (tmp_path / "my_nets.py").write_text(
        "import torch\n"
        "class Net(torch.nn.Conv2d):\n"
        "    def forward(self, x):\n"
        "        return {'out': super().forward(x)}\n"
        "def build(num_classes):\n"
        "    return Net(3, num_classes, 1)\n"
    )
    monkeypatch.syspath_prepend(tmp_path)
    asked = ("--app", "segmentation", "--data", folder, "--model", "my_nets:build", "--run", tmp_path / "run")
    ended = surrogate_cli("train", *asked)
    assert ended.code == 3
    assert "model my_nets:build: gives a dict; expected a tensor of logits (B, C, H, W): wrap it" in ended.err


def test_images_that_are_stretched_are_counted(folder, tmp_path, surrogate_cli):
    for kind, shape in (("images", (20, 40, 3)), ("masks", (20, 40))):
        Image.fromarray(np.zeros(shape, dtype=np.uint8)).save(folder / kind / "2.png")
    asked = ("--app", "segmentation", "--data", folder, "--run", tmp_path / "run", "--size", "32x33", "--epochs", 1)
    said = surrogate_cli("train", *asked, "--set", "model.width=2").err
    assert "6 of 6 images are of another shape and are stretched to 32x33" in said
    asked = (*asked[:-4], "--size", "16x16", "--epochs", 1, "--set", "model.width=2", "--run", tmp_path / "other")
    said = surrogate_cli("train", *asked).err
    assert "1 of 6 images are of another shape and are stretched to 16x16" in said


def test_figures_that_cannot_be_written_take_no_numbers_along(run, surrogate_cli, monkeypatch):
    from surrogate_segmentation import figures

    def refused(*_, **__):
        raise PermissionError(13, "Permission denied", "iou.png")

    monkeypatch.setattr(figures, "available", lambda: True)
    monkeypatch.setattr(figures, "iou_bars", refused)
    ended = surrogate_cli("evaluate", "--run", run, "--json")
    assert ended.code == 0
    assert ended.json["metrics"]["miou"] > 0
    assert ended.json["figures"] == []
    assert "no figures" in ended.err


def test_no_such_loss(run, surrogate_cli):
    ended = surrogate_cli("finetune", "--run", run, "--loss", "dcie")
    assert ended.code == 2
    assert "did you mean 'dice'" in ended.err


def test_no_run_at_all(tmp_path, surrogate_cli, monkeypatch):
    monkeypatch.chdir(tmp_path)
    ended = surrogate_cli("finetune")
    assert ended.code == 2
    assert "surrogate fit --app" in ended.err
    ended = surrogate_cli("evaluate", "--run", "nope")
    assert ended.code == 2
    assert "nope: no run there; name a folder that holds one, or add --app" in ended.err
    assert not (tmp_path / "nope").exists()
