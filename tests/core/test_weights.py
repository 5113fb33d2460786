"""Weights: what was saved comes back exactly; what does not fit is refused in a line and changes nothing."""

import pickle

import pytest
import torch
from safetensors.torch import save_file
from torch import nn

from surrogate.errors import DataError
from surrogate.weights import load_weights
from surrogate_segmentation.networks import build


def make(*, name="unet", width=2, num_classes=3, seed=0):
    torch.manual_seed(seed)
    return build(name, num_classes=num_classes, width=width)


def trained():
    """A model whose buffers, too, differ from those of a new one."""
    model = make(seed=1)
    model(torch.rand(2, 3, 32, 32))
    return model


def copied(model):
    return {name: value.clone() for name, value in model.state_dict().items()}


def assert_same(one, other):
    assert one.keys() == other.keys()
    for name, value in one.items():
        assert torch.equal(value, other[name]), name


def refused(path, model=None):
    """The message that refuses a file: one line that names it, with the model left alone."""
    model = model or make()
    before = copied(model)
    with pytest.raises(DataError) as caught:
        load_weights(path, model)
    assert_same(before, copied(model))
    message = str(caught.value)
    assert message.startswith(f"{path}: ")
    assert "\n" not in message
    return message


@pytest.mark.parametrize("name", ["fcn8s", "segnet", "unet"])
def test_safetensors_round_trip(tmp_path, name):
    saved = make(name=name, seed=1)
    save_file(saved.state_dict(), tmp_path / "model.safetensors")
    model = make(name=name)
    load_weights(tmp_path / "model.safetensors", model)
    assert_same(model.state_dict(), saved.state_dict())


@pytest.mark.parametrize("suffix", [".pt", ".pth"])
@pytest.mark.parametrize(
    "wrap",
    [
        lambda weights: weights,
        lambda weights: {"state_dict": weights, "epoch": 3},
        lambda weights: {"model": weights, "optimizer": {"lr": 0.1}},
    ],
    ids=["bare", "state_dict", "model"],
)
def test_torch_round_trip(tmp_path, suffix, wrap):
    saved, model, path = trained(), make(), tmp_path / f"weights{suffix}"
    torch.save(wrap(saved.state_dict()), path)
    load_weights(path, model)
    assert_same(model.state_dict(), saved.state_dict())


def test_a_module_named_model_is_no_wrapper(tmp_path):
    saved, loaded = (nn.ModuleDict({"model": nn.Linear(2, 2)}) for _ in range(2))
    torch.save(saved.state_dict(), tmp_path / "weights.pt")
    load_weights(tmp_path / "weights.pt", loaded)
    assert_same(loaded.state_dict(), saved.state_dict())


def test_a_missing_file(tmp_path):
    assert "no such file" in refused(tmp_path / "absent.pt")
    (tmp_path / "folder.safetensors").mkdir()
    assert "no such file" in refused(tmp_path / "folder.safetensors")


def test_an_unknown_ending(tmp_path):
    (tmp_path / "weights.ckpt").write_bytes(b"")
    assert "'.ckpt'; expected .safetensors, .pt or .pth" in refused(tmp_path / "weights.ckpt")


@pytest.mark.parametrize("suffix", [".safetensors", ".pt"])
@pytest.mark.parametrize("content", [b"", b"\x00" * 64, b"hello, this is no file of weights\n", b"\x80\x02}q\x00."])
def test_a_file_of_something_else(tmp_path, suffix, content):
    path = tmp_path / f"weights{suffix}"
    path.write_bytes(content)
    refused(path)


@pytest.mark.parametrize("suffix", [".safetensors", ".pt"])
@pytest.mark.parametrize("share", [0.01, 0.3, 0.9, 0.999])
def test_a_truncated_file(tmp_path, suffix, share):
    whole, path = tmp_path / f"whole{suffix}", tmp_path / f"cut{suffix}"
    (save_file if suffix == ".safetensors" else torch.save)(make().state_dict(), whole)
    content = whole.read_bytes()
    path.write_bytes(content[: int(share * len(content))])
    assert "damaged" in refused(path)


class Stranger:
    """An object whose unpickling would call a function."""

    called = False

    def __reduce__(self):
        return Stranger.call, ()

    @staticmethod
    def call():
        Stranger.called = True


@pytest.mark.parametrize("legacy", [False, True])
def test_a_pickle_that_would_run_code_is_refused(tmp_path, legacy):
    path = tmp_path / "weights.pt"
    torch.save({"weight": Stranger()}, path, _use_new_zipfile_serialization=not legacy)
    message = refused(path)
    assert "Stranger" in message or "getattr" in message
    assert "only tensors are loaded" in message
    assert not Stranger.called


def test_a_whole_saved_model_is_refused(tmp_path):
    torch.save(make(), tmp_path / "model.pt")
    message = refused(tmp_path / "model.pt")
    assert "surrogate_segmentation.networks.unet.UNet" in message
    assert "save model.state_dict()" in message


def test_a_plain_pickle_is_refused(tmp_path):
    (tmp_path / "weights.pt").write_bytes(pickle.dumps({"a": 1}))
    refused(tmp_path / "weights.pt")


def test_no_state_dict_inside(tmp_path):
    torch.save([torch.zeros(2)], tmp_path / "list.pt")
    assert "holds one list; expected a state_dict" in refused(tmp_path / "list.pt")
    torch.save({"epoch": 3, "weights": {}}, tmp_path / "dict.pt")
    assert "'epoch' is of type int; expected a state_dict" in refused(tmp_path / "dict.pt")


def test_missing_and_unexpected_names_are_counted_and_a_few_named(tmp_path):
    weights = copied(make())
    absent = list(weights)[:5]
    for name in absent:
        weights[f"old.{name}"] = weights.pop(name)
    save_file(weights, tmp_path / "model.safetensors")
    message = refused(tmp_path / "model.safetensors")
    assert f"not the weights of this UNet: of {len(weights)} tensors, " in message
    assert f"5 ({absent[0]}, {absent[1]}, {absent[2]}, ...) missing" in message
    assert "5 (old." in message


def test_one_missing_name(tmp_path):
    weights = copied(make())
    del weights["score.bias"]
    torch.save(weights, tmp_path / "model.pt")
    assert ", 1 (score.bias) missing, none unexpected" in refused(tmp_path / "model.pt")


def test_the_weights_of_another_network(tmp_path):
    save_file(make(name="segnet").state_dict(), tmp_path / "model.safetensors")
    assert "are the settings of the model those of the file?" in refused(tmp_path / "model.safetensors")


def test_another_width_shows_in_the_shapes(tmp_path):
    save_file(make(width=4).state_dict(), tmp_path / "model.safetensors")
    message = refused(tmp_path / "model.safetensors", make(width=2))
    assert "'down.0.0.weight' has the shape (4, 3, 3, 3), the model expects (2, 3, 3, 3)" in message
    assert "are the settings of the model, and the data, those of the file?" in message


def test_another_number_of_classes_shows_in_the_shapes(tmp_path):
    save_file(make(num_classes=5).state_dict(), tmp_path / "model.safetensors")
    message = refused(tmp_path / "model.safetensors", make(num_classes=3))
    assert "'score.weight' has the shape (5, 2, 1, 1), the model expects (3, 2, 1, 1) (2 of its" in message
