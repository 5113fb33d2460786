"""A hand-made loss of the user's own, by `pkg.mod:factory`, wherever a loss is named."""

from __future__ import annotations

import json

import pytest
import torch
from torch import nn

from surrogate.errors import UsageError
from surrogate.own import OwnLoss

RIVALS = """
from torch import nn

class Squared(nn.Module):
    def forward(self, outputs, targets):
        return (outputs - targets).square().mean()

class Halves(nn.Module):
    def forward(self, outputs, targets):
        return outputs.square().mean(1)

class Number(nn.Module):
    def forward(self, outputs, targets):
        return 0.0

class Flat(nn.Module):
    def forward(self, outputs, targets):
        return (outputs.detach() - targets).square().mean()

class Raises(nn.Module):
    def forward(self, outputs, targets):
        raise RuntimeError("no\\nluck")

class Entropy(nn.CrossEntropyLoss):
    def __init__(self, ignore_index):
        super().__init__(ignore_index=ignore_index)

def told(num_classes):
    module = nn.Identity()
    module.num_classes = num_classes
    return module
"""
# fmt: off
TOY = [
    "--app", "toy", "--device", "cpu", "--set", "data.train=512", "--set", "data.test=64",
    "--set", "train.epochs=2", "--set", "fit.epochs=30", "--epochs", "2",
]
# fmt: on


@pytest.fixture(autouse=True)
def rivals(own_module):
    own_module("rivals", RIVALS)


def test_a_factory_is_given_the_facts_that_it_asks_for():
    facts = {"num_classes": 3, "ignore_index": 255}
    assert OwnLoss("rivals:told", facts).loss.num_classes == 3
    assert OwnLoss("rivals:Entropy", facts).loss.ignore_index == 255
    assert OwnLoss("rivals:Squared", facts)(torch.ones(2), torch.zeros(2)) == 1.0  # asks for nothing
    assert OwnLoss("torch.nn:CrossEntropyLoss", facts).loss.ignore_index == 255


def test_narrow_outputs_and_small_labels_are_widened():
    """As torch's own losses want them."""
    logits = torch.randn(2, 3, 4, 4, generator=torch.Generator().manual_seed(0)).bfloat16().requires_grad_()
    labels = torch.tensor([0, 1, 2, 255], dtype=torch.uint8).repeat(2, 4, 1)
    value = OwnLoss("rivals:Entropy", {"ignore_index": 255})(logits, labels)
    assert value.dtype == torch.float32
    assert torch.equal(value, nn.functional.cross_entropy(logits.float(), labels.long(), ignore_index=255))
    value.backward()
    assert logits.grad is not None


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("rivals:Halves", r"gave a shape of \(4,\), given outputs of shape \(4, 2\) and targets of \(4,\); expected a"),
        ("rivals:Number", "gave a float, given"),
        ("rivals:Flat", "has no gradient"),
        ("rivals:Raises", "raised RuntimeError: no luck, given outputs"),
    ],
)
def test_what_is_no_loss_is_one_clear_line(name, message):
    with pytest.raises(UsageError, match=message) as caught:
        OwnLoss(name, {})(torch.ones(4, 2, requires_grad=True), torch.ones(4, 1) if "Flat" in name else torch.ones(4))
    assert "\n" not in str(caught.value)


def test_it_trains_as_the_same_loss_of_the_app_does(tmp_path, surrogate_cli):
    """Next to the app's own, from one start: the same numbers in every epoch, as is the mean of both."""
    found = {}
    for loss in ("mse", "rivals:Squared", "mse+rivals:Squared"):
        shown = surrogate_cli("finetune", "--run", tmp_path / "run", *TOY, "--loss", loss, "--json")
        assert shown.code == 0, shown.err
        found[loss] = shown.json["after"]["f"]
        assert set(shown.json["losses"]) == set(found)
    assert found["rivals:Squared"] == pytest.approx(found["mse"], rel=1e-4)
    assert found["mse+rivals:Squared"] == pytest.approx(found["mse"], rel=1e-4)
    evaluated = surrogate_cli("evaluate", "--run", tmp_path / "run", "--loss", "rivals:Squared", "--json").json
    assert evaluated["metrics"]["f"] == found["rivals:Squared"]


def test_a_row_of_a_comparison(tmp_path, surrogate_cli):
    losses = "mse,rivals:Squared,surrogate,surrogate+rivals:Squared"
    asked = ("compare", "--run", tmp_path / "cmp", *TOY, "--seeds", 1, "--losses", losses)
    assert surrogate_cli(*asked).code == 0
    rows = {row["loss"]: row for row in json.loads((tmp_path / "cmp" / "compare.json").read_text())["rows"]}
    assert list(rows) == ["before", *losses.split(",")]
    assert [name for name, row in rows.items() if row["runs"][0].get("fidelity")] == losses.split(",")[2:]
    assert rows["rivals:Squared"]["mean"]["f"] == pytest.approx(rows["mse"]["mean"]["f"], rel=1e-4)


@pytest.mark.parametrize(
    ("loss", "message"),
    [
        ("rivals:Absent", "loss 'rivals:Absent': module 'rivals' has no 'Absent'"),
        ("surrogate+rivals:Absent", "loss 'rivals:Absent': module"),
        ("no_such_module:loss", "loss 'no_such_module:loss': cannot import 'no_such_module'"),
        ("msee", "did you mean 'mse'? (or your own, as pkg.mod:factory)"),
    ],
)
@pytest.mark.parametrize("command", ["finetune --loss", "compare --seeds 1 --losses"])
def test_one_that_cannot_be_made_is_told_before_anything_runs(tmp_path, surrogate_cli, loss, message, command):
    shown = surrogate_cli(*command.split(), loss, "--run", tmp_path / "run", *TOY)
    assert shown.code == 2
    assert message in shown.err
    assert not (tmp_path / "run").exists()
