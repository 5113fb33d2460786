"""Training through any loss: parity with a plain loop, and what is kept."""

from __future__ import annotations

import copy
import json
import math
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import safetensors.torch
import torch
from torch import Tensor, nn
from torch.optim.lr_scheduler import LambdaLR

from surrogate.batches import chunks, generator_of, seed_of, shuffled
from surrogate.engine import Engine
from surrogate.errors import DivergedError
from surrogate.finetune import MeanLoss, MixedLoss, Selection, Validate, finetune
from surrogate.progress import Progress, Stage, finish
from surrogate.protocols import Dataset
from surrogate.recipe import TrainRecipe

Net = Callable[[], nn.Module]
SEED = 11
SELECT = Selection("score", higher_is_better=True)


def cross_entropy() -> nn.Module:
    return nn.CrossEntropyLoss(ignore_index=-1)


def scripted(*scores: float | None) -> Validate:
    """A validation that gives one score after the other."""
    left = iter(scores)

    def validate(model: nn.Module) -> Stage[dict[str, Any]]:
        model.eval()
        yield Progress("evaluate", 1, 1)
        return {"score": next(left)}

    return validate


def by_hand(
    model: nn.Module, data: Dataset, optimizer: torch.optim.Optimizer, settings: TrainRecipe
) -> Iterator[tuple[dict[str, Tensor], float]]:
    """The loop that one writes without this package: state and mean loss after each epoch."""
    loss, steps = cross_entropy(), settings.epochs * math.ceil(len(data) / settings.batch_size)
    flat = settings.schedule == "constant"
    schedule = LambdaLR(optimizer, lambda t: 1.0 if flat else 0.5 * (1 + math.cos(math.pi * t / steps)))
    for epoch in range(1, settings.epochs + 1):
        torch.manual_seed(seed_of(SEED, epoch))
        model.train()
        losses = []
        for indices in chunks(shuffled(range(len(data)), SEED, epoch), settings.batch_size):
            samples = [data.load(i, generator_of(SEED, epoch, i)) for i in indices]
            inputs, targets = (torch.stack(part) for part in zip(*samples, strict=True))
            value = loss(model(inputs), targets)
            optimizer.zero_grad()
            value.backward()
            optimizer.step()
            schedule.step()
            losses.append(value.item())
        yield {name: tensor.clone() for name, tensor in model.state_dict().items()}, sum(losses) / len(losses)


@pytest.mark.parametrize("schedule", ["cosine", "constant"])
@pytest.mark.parametrize("optimizer", ["adamw", "sgd"])
def test_it_is_a_plain_loop_bit_for_bit(
    optimizer: str, schedule: str, engine: Engine, net: Net, scenes: Dataset, tmp_path: Path
) -> None:
    """With dropout, batch normalisation, augmentation and a last batch that is shorter."""
    settings = TrainRecipe.model_validate(
        {"epochs": 3, "batch_size": 5, "lr": 0.05, "weight_decay": 0.01, "optimizer": optimizer, "schedule": schedule}
    )
    plain = net()
    rule = {
        "adamw": lambda p: torch.optim.AdamW(p, lr=0.05, weight_decay=0.01),
        "sgd": lambda p: torch.optim.SGD(p, lr=0.05, momentum=0.9, weight_decay=0.01),
    }[optimizer]
    with torch.random.fork_rng():
        expected = list(by_hand(plain, scenes, rule(plain.parameters()), settings))

    model = net()
    torch.manual_seed(99)
    state = torch.get_rng_state()
    finish(
        finetune(
            engine,
            model,
            cross_entropy(),
            scenes,
            validate=scripted(0.1, 0.2, 0.3, 0.4),
            select=SELECT,
            settings=settings,
            seed=SEED,
            folder=tmp_path,
        )
    )
    for name, tensor in model.state_dict().items():
        assert torch.equal(tensor, expected[-1][0][name]), name
    lines = [json.loads(line) for line in (tmp_path / "metrics.jsonl").read_text().splitlines()]
    assert [line["loss"] for line in lines] == [mean for _, mean in expected]
    assert torch.equal(torch.get_rng_state(), state)


class Run:
    """One finetuning in a folder, begun anew with each call."""

    def __init__(self, engine: Engine, net: Net, data: Dataset, folder: Path, **settings: Any) -> None:
        self.engine, self.net, self.data, self.folder = engine, net, data, folder
        self.settings = TrainRecipe.model_validate({"batch_size": 4, "lr": 0.01, **settings})
        self.model = net()

    def __call__(self, validate: Validate, *, loss: nn.Module | None = None, **changes: Any) -> Stage[dict[str, Any]]:
        self.model = self.net()
        return finetune(
            self.engine,
            self.model,
            loss or cross_entropy(),
            self.data,
            validate=validate,
            **{"select": SELECT, "settings": self.settings, "seed": SEED, "folder": self.folder, **changes},
        )

    @property
    def best(self) -> dict[str, Tensor]:
        return safetensors.torch.load_file(self.folder / "model.safetensors")


@pytest.fixture
def run(engine: Engine, net: Net, scenes: Dataset, tmp_path: Path) -> Run:
    return Run(engine, net, scenes, tmp_path, epochs=3)


def same(one: dict[str, Tensor], other: dict[str, Tensor]) -> bool:
    return one.keys() == other.keys() and all(torch.equal(one[name], other[name]) for name in one)


@pytest.mark.parametrize(
    ("higher_is_better", "scores", "epoch"),
    [
        (True, (0.5, 0.6, 0.9, 0.7), 2),
        (False, (0.5, 0.6, 0.9, 0.4), 3),
        (True, (0.5, 0.4, 0.3, 0.2), 0),
        (True, (0.5, 0.5, 0.5, 0.5), 0),
        (True, (None, None, 0.1, None), 2),
        (True, (None, None, None, None), 0),
        (False, (0.5, None, 0.4, None), 2),
    ],
)
def test_the_best_epoch_is_chosen_by_the_true_metric(
    higher_is_better: bool, scores: tuple[float | None, ...], epoch: int, run: Run
) -> None:
    """`scores` begin with the start, which is epoch 0."""
    states = []
    validate = scripted(*scores)

    def watched(model: nn.Module) -> Stage[dict[str, Any]]:
        states.append(copy.deepcopy(model.state_dict()))
        return (yield from validate(model))

    found = finish(run(watched, select=Selection("score", higher_is_better)))
    assert found == {"epoch": epoch, "validation": {"score": scores[epoch]}, "epochs": 3}
    assert same(states[0], run.net().state_dict())
    assert same(run.model.state_dict(), states[epoch])
    assert same(run.best, states[epoch])
    lines = [json.loads(line) for line in (run.folder / "metrics.jsonl").read_text().splitlines()]
    assert [(line["epoch"], line["val"]) for line in lines] == [(n, {"score": scores[n]}) for n in (1, 2, 3)]


@pytest.mark.parametrize(("scores", "epoch"), [((0.2, 0.3, 0.1), 2), ((None, None, None), 1), ((None, 0.1, None), 2)])
def test_without_its_start_one_of_the_epochs_is_the_best(
    scores: tuple[float | None, ...], epoch: int, run: Run
) -> None:
    found = finish(run(scripted(*scores), keep_start=False))
    assert found["epoch"] == epoch
    assert found["validation"] == {"score": scores[epoch - 1]}


def test_progress_counts_steps_and_tells_of_epochs(run: Run) -> None:
    seen = list(run(scripted(0.1, 0.25, None, 0.3)))
    steps = [p for p in seen if p.stage.startswith("finetune epoch")]
    assert [(p.stage, p.step, p.total) for p in steps[:4]] == [
        *(("finetune epoch 1/3", n, 3) for n in (1, 2, 3)),
        ("finetune epoch 2/3", 1, 3),
    ]
    start, *told = [p for p in seen if p.message]
    assert start.message == "finetune start: val score 0.1000"
    assert [(p.step, p.total) for p in told] == [(1, 3), (2, 3), (3, 3)]
    assert [p.message.split(", ")[1] for p in told] == ["val score 0.2500", "val score undefined", "val score 0.3000"]


def test_a_run_that_never_beats_its_start_says_so(run: Run) -> None:
    last = list(run(scripted(0.5, 0.4, 0.3, 0.2)))[-1]
    assert last.message == "finetune: no epoch was better than the start on val; the weights are those of the start"


class Breaks(nn.Module):
    """Cross-entropy that is NaN at one call."""

    def __init__(self, at: int) -> None:
        super().__init__()
        self.calls, self.at = 0, at

    def forward(self, outputs: Tensor, targets: Tensor) -> Tensor:
        self.calls += 1
        value: Tensor = cross_entropy()(outputs, targets)
        return value * (torch.nan if self.calls == self.at else 1.0)


def test_a_loss_that_is_not_finite_ends_the_run_and_keeps_the_best(run: Run) -> None:
    stage = run(scripted(0.1, 0.2, 0.3, 0.4), loss=Breaks(at=5))
    while not next(stage).message.startswith("finetune epoch 1"):
        pass
    kept = {path: path.read_bytes() for path in sorted(run.folder.rglob("*.*"))}
    with pytest.raises(DivergedError, match=r"finetune: loss is nan in epoch 2; kept: .*model\.safetensors of epoch 1"):
        finish(stage)
    assert {path: path.read_bytes() for path in sorted(run.folder.rglob("*.*"))} == kept
    assert all(tensor.isfinite().all() for tensor in run.best.values())


def test_a_run_that_breaks_at_once_says_what_is_kept(run: Run) -> None:
    with pytest.raises(DivergedError, match=r"kept: nothing yet; try a lower .*lr in a new --run"):
        finish(run(scripted(), loss=Breaks(at=1), keep_start=False))
    with pytest.raises(DivergedError, match=r"kept: .*model\.safetensors of epoch 0"):
        finish(run(scripted(0.5), loss=Breaks(at=3)))
    assert same(run.best, run.net().state_dict())


@pytest.mark.parametrize(
    ("new", "old", "higher", "lower"),
    [
        (0.2, 0.1, True, False),
        (0.1, 0.2, False, True),
        (0.1, 0.1, False, False),
        (0.0, None, True, True),
        (None, 0.0, False, False),
        (None, None, False, False),
    ],
)
def test_selection_has_a_direction_and_undefined_beats_nothing(
    new: float | None, old: float | None, higher: bool, lower: bool
) -> None:
    assert Selection("k", higher_is_better=True).better(new, old) is higher
    assert Selection("k", higher_is_better=False).better(new, old) is lower


class Constant(nn.Module):
    def __init__(self, value: float | None) -> None:
        super().__init__()
        self.value = value

    def forward(self, outputs: Tensor, targets: Tensor) -> Tensor:  # noqa: ARG002
        assert self.value is not None, "a loss without a share was computed"
        return outputs.sum() * 0.0 + self.value


def test_the_mean_of_losses_has_the_mean_of_their_gradients() -> None:
    outputs = torch.randn(4, 3, requires_grad=True)
    targets = torch.randn(4, 3)
    mean = MeanLoss([nn.MSELoss(), nn.L1Loss()])(outputs, targets)
    (gradient,) = torch.autograd.grad(mean, outputs)
    expected = ((outputs - targets).square().mean() + (outputs - targets).abs().mean()) / 2
    torch.testing.assert_close(mean, expected)
    torch.testing.assert_close(gradient, torch.autograd.grad(expected, outputs)[0])


@pytest.mark.parametrize(
    ("loss", "anchor", "mix", "expected"),
    [(2.0, 10.0, 0.25, 4.0), (2.0, 10.0, 0.5, 6.0), (2.0, None, 0.0, 2.0), (None, 10.0, 1.0, 10.0)],
)
def test_losses_are_mixed_by_share(loss: float | None, anchor: float | None, mix: float, expected: float) -> None:
    mixed = MixedLoss(Constant(loss), Constant(anchor), mix=mix)
    assert mixed(torch.zeros(2), torch.zeros(2)).item() == pytest.approx(expected)
