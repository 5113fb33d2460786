"""Training a model through any loss, keeping the best by the true metric (NeuroIoU, Algorithm 1)."""

from __future__ import annotations

import json
import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from surrogate.atomic import write_atomic
from surrogate.batches import load_batches, seed_of, shuffled, steps
from surrogate.checkpoint import load_state, save_state
from surrogate.engine import Engine
from surrogate.errors import DivergedError
from surrogate.progress import Progress, Stage
from surrogate.protocols import Dataset
from surrogate.recipe import TrainRecipe
from surrogate.weights import load_weights, save_weights

Validate = Callable[[nn.Module], Stage[dict[str, Any]]]
Adapt = Callable[[int, nn.Module, dict[str, Any]], Stage[None]]
"""Called after each epoch with its number, the model and its validation scores; may change the loss."""


class MixedLoss(nn.Module):
    """(1 - mix) * loss + mix * anchor: some of the app's own training loss keeps a metric's loss on its feet."""

    def __init__(self, loss: nn.Module, anchor: nn.Module, *, mix: float) -> None:
        super().__init__()
        self.loss, self.anchor, self.mix = loss, anchor, mix

    def forward(self, outputs: Tensor, targets: Tensor) -> Tensor:
        """Outputs and targets to a scalar; a loss that has no share is not computed."""
        if self.mix == 1.0:
            return self.anchor(outputs, targets)  # type: ignore[no-any-return]
        if self.mix == 0.0:
            return self.loss(outputs, targets)  # type: ignore[no-any-return]
        mixed: Tensor = (1.0 - self.mix) * self.loss(outputs, targets) + self.mix * self.anchor(outputs, targets)
        return mixed


class MeanLoss(nn.Module):
    """The mean of several losses."""

    def __init__(self, losses: Sequence[nn.Module]) -> None:
        super().__init__()
        self.losses = nn.ModuleList(losses)

    def forward(self, outputs: Tensor, targets: Tensor) -> Tensor:
        """Outputs and targets to a scalar."""
        return torch.stack([loss(outputs, targets) for loss in self.losses]).mean()


@dataclass(frozen=True, slots=True)
class Selection:
    """By which number of the validation scores a checkpoint is the best."""

    key: str
    higher_is_better: bool

    def better(self, new: float | None, old: float | None) -> bool:
        """Whether a new value beats the old one; an undefined value beats nothing."""
        if new is None or old is None:
            return new is not None
        return new > old if self.higher_is_better else new < old


def finetune(
    engine: Engine,
    model: nn.Module,
    loss: nn.Module,
    train: Dataset,
    *,
    validate: Validate,
    select: Selection,
    settings: TrainRecipe,
    seed: int,
    folder: Path,
    stage: str = "finetune",
    keep_start: bool = True,
    adapt: Adapt | None = None,
) -> Stage[dict[str, Any]]:
    """Trains `model` in place through `loss` and leaves it with the weights of the best epoch.

    Every epoch ends with a checkpoint, so a killed run continues after its last finished epoch and ends in the
    same bytes (on a CPU, with the same number of threads). With `keep_start`, the start counts as epoch
    0 of the choice, so a finetuned model is never worse than its start on validation data.

    Writes:
        `folder/checkpoint/state.safetensors`, `folder/model.safetensors` (the best), `folder/metrics.jsonl`.

    Returns:
        `{"epoch": best epoch, "validation": its scores, "epochs": epochs run}`.

    Raises:
        DivergedError: the loss is no longer finite, or `adapt` gives up; the best checkpoint is kept.
    """
    state, best = folder / "checkpoint" / "state.safetensors", folder / "model.safetensors"
    model = engine.prepare(model)
    loss = loss.to(engine.device)
    optimizer = engine.prepare_optimizer(_optimizer(model, settings))
    both = nn.ModuleDict({"model": model, "loss": loss})  # a loss may have learned something on the way, too
    if state.exists() and best.exists():  # one without the other: somebody deleted the weights to train anew
        notes = load_state(state, both, optimizer)
    else:
        notes = {"epoch": 0, "best_epoch": -1, "best": {}, "history": []}
        if keep_start:
            notes |= {"best_epoch": 0, "best": (yield from validate(model))}
            save_weights(best, model)
            message = f"{stage} start: val {select.key} {_shown(notes['best'][select.key])}"
            yield Progress(stage, 0, settings.epochs, message=message)
    while notes["epoch"] < settings.epochs:
        epoch = notes["epoch"] + 1
        mean = yield from _epoch(engine, model, loss, train, optimizer, settings, seed, epoch, stage)
        if not math.isfinite(mean):
            kept = f"{best} of epoch {notes['best_epoch']}" if best.exists() else "nothing yet"
            raise DivergedError(
                f"{stage}: loss is {mean} in epoch {epoch}; kept: {kept}; try a lower {stage}.lr in a new --run"
            )
        scores = yield from validate(model)
        notes = _noted(notes, epoch, mean, scores, select)
        if notes["best_epoch"] == epoch:
            save_weights(best, model)
        lines = "".join(json.dumps(line, sort_keys=True) + "\n" for line in notes["history"])
        write_atomic(folder / "metrics.jsonl", lines.encode())
        if adapt is not None:
            yield from adapt(epoch, model, scores)
        save_state(state, both, optimizer, notes)  # last: only then the epoch is not run again
        yield Progress(
            stage,
            epoch,
            settings.epochs,
            message=f"{stage} epoch {epoch}/{settings.epochs}: loss {mean:.4f}, "
            f"val {select.key} {_shown(scores[select.key])}",
            values={"loss": mean},
        )
    load_weights(best, model)
    if notes["best_epoch"] == 0:
        message = f"{stage}: no epoch was better than the start on val; the weights are those of the start"
        yield Progress(stage, settings.epochs, settings.epochs, message=message)
    return {"epoch": notes["best_epoch"], "validation": notes["best"], "epochs": notes["epoch"]}


def _epoch(
    engine: Engine,
    model: nn.Module,
    loss: nn.Module,
    train: Dataset,
    optimizer: torch.optim.Optimizer,
    settings: TrainRecipe,
    seed: int,
    epoch: int,
    stage: str,
) -> Stage[float]:
    """One pass over the training data in the order of (seed, epoch); the mean loss of its steps."""
    plan = steps(shuffled(range(len(train)), seed, epoch), settings.batch_size)
    total = torch.zeros((), dtype=torch.float64, device=engine.device)
    model.train()
    with torch.random.fork_rng():
        torch.manual_seed(seed_of(seed, epoch))  # dropout is the only reader of the global generator
        for step, (inputs, targets) in enumerate(engine.moved(load_batches(train, plan, augment=(seed, epoch))), 1):
            for group in optimizer.param_groups:
                group["lr"] = _lr(settings, (epoch - 1) * len(plan) + step - 1, settings.epochs * len(plan))
            optimizer.zero_grad(set_to_none=True)
            value = loss(model(inputs), targets)
            engine.backward(value)
            optimizer.step()
            total += value.detach()
            yield Progress(f"{stage} epoch {epoch}/{settings.epochs}", step, len(plan))
    return float(total) / len(plan)


def _optimizer(model: nn.Module, settings: TrainRecipe) -> torch.optim.Optimizer:
    if settings.optimizer == "sgd":
        return torch.optim.SGD(
            model.parameters(), lr=settings.lr, momentum=settings.momentum, weight_decay=settings.weight_decay
        )
    return torch.optim.AdamW(model.parameters(), lr=settings.lr, weight_decay=settings.weight_decay)


def _lr(settings: TrainRecipe, step: int, steps: int) -> float:
    if settings.schedule == "constant":
        return settings.lr
    return settings.lr * 0.5 * (1.0 + math.cos(math.pi * step / steps))


def _noted(notes: dict[str, Any], epoch: int, mean: float, scores: dict[str, Any], select: Selection) -> dict[str, Any]:
    history = [*notes["history"], {"epoch": epoch, "loss": mean, "val": scores}]
    notes = {**notes, "epoch": epoch, "history": history}
    if notes["best_epoch"] < 0 or select.better(scores[select.key], notes["best"].get(select.key)):
        notes |= {"best_epoch": epoch, "best": scores}
    return notes


def _shown(value: float | None) -> str:
    return "undefined" if value is None else f"{value:.4f}"
