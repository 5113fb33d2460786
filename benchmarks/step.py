"""A whole finetuning step of a small UNet: what the learned loss adds to the same step with cross-entropy."""

from __future__ import annotations

import copy
from collections.abc import Iterator
from typing import Any

import torch
import torch.nn.functional as F
from torch import nn

from benchmarks.harness import Case, device_seconds, seconds, summary
from benchmarks.rows import Row, Settings, compared, row
from benchmarks.scene import VOID, learned_loss
from benchmarks.store import COLUMNS
from surrogate.approximator import Surrogate
from surrogate_segmentation.networks.unet import UNet

SUBJECT = "step"


def run(settings: Settings) -> Iterator[Row]:
    """UNet of width 16 (64 on a GPU), channels-last, AdamW; 21 classes."""
    gpu, classes = settings.device.type == "cuda", 21
    batch, width, side = (1, 2, 32) if settings.tiny else (16, 64, 512) if gpu else (2, 16, 128)
    images = torch.randn(batch, 3, side, side, generator=torch.Generator().manual_seed(0)).to(settings.device)
    labels = torch.randint(classes, (batch, side, side), generator=torch.Generator().manual_seed(1))
    labels = labels.to(settings.device)
    model: nn.Module = UNet(classes, width=width).to(settings.device, memory_format=torch.channels_last)
    losses = {
        "step with CE": lambda logits, truth: F.cross_entropy(logits, truth, ignore_index=VOID),
        "step": learned_loss(classes, settings.device),
    }
    cases = {name: _step(copy.deepcopy(model), loss, images, labels) for name, loss in losses.items()}
    case = f"UNet width {width}, {batch}x3x{side}x{side}, fp32"
    whats = {("step", "step with CE"): "whole finetuning step"}
    yield from compared(settings, SUBJECT, case, cases, whats)
    yield _frozen(settings, batch * classes)


def _frozen(settings: Settings, rows: int) -> Row:
    """What the surrogate itself adds to a step, apart from the statistics; on a GPU, of the device's time."""
    surrogate = Surrogate(COLUMNS).to(settings.device).requires_grad_(False)
    stats = torch.rand(rows, len(COLUMNS)).to(settings.device).requires_grad_()
    ones = torch.ones(rows, device=settings.device)
    case = Case(lambda: torch.autograd.grad(surrogate(stats), stats, ones))
    taken = seconds({"frozen": case}, settings.plan, anchor="frozen")["frozen"]
    if settings.device.type == "cuda":
        taken = [device_seconds(case) for _ in taken]
    found = summary([1e6 * s for s in taken])
    return row(SUBJECT, "frozen MLP, forward + backward", f"{rows} rows, 6-100-100-100-100-1", found, unit="us")


def _step(model: nn.Module, loss: Any, images: torch.Tensor, labels: torch.Tensor) -> Case:
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-4)

    def step() -> None:
        optimizer.zero_grad(set_to_none=True)
        loss(model(images), labels).backward()
        optimizer.step()

    return Case(step)
