"""The loss on a GPU: no step waits for it, and it says what the CPU says.

That no operation needs a value is tested without one, on meta tensors: `surrogate.testing.check_measure`.
"""

from __future__ import annotations

import copy
from typing import Any

import pytest
import torch
from torch import Tensor

from surrogate import frozen, plugins
from surrogate.approximator import Surrogate
from surrogate.loss import SurrogateLoss
from surrogate_segmentation.standard import standard

FACTS = {"num_classes": 5, "ignore_index": 255}
MEASURES: list[tuple[str, dict[str, Any]]] = [
    ("iou", {"level": "sample"}),
    ("iou", {}),
    ("iou", {"level": "dataset"}),
    ("iou", {"statistics": "hinge"}),
    ("iou", {"statistics": "literal"}),
    ("iou", {"kernel": "native"}),  # a surrogate that was fitted with it on a CPU
    ("boundary-iou", {}),
    ("boundary-f1", {}),
    ("image-iou", {}),
    ("worst-quartile-iou", {}),
]
needs_cuda = pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
each_measure = pytest.mark.parametrize(("name", "options"), MEASURES)


def loss_of(name: str, options: dict[str, Any]) -> SurrogateLoss:
    measure = plugins.load_measure("segmentation", name, facts=FACTS, options=options)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        return SurrogateLoss(measure, Surrogate(measure.columns, depth=2, width=16))


def batch(device: str, dtype: torch.dtype) -> tuple[Tensor, Tensor]:
    generator = torch.Generator().manual_seed(0)
    logits = torch.randn(8, 5, 24, 32, generator=generator)
    labels = torch.randint(5, (8, 24, 32), generator=generator, dtype=torch.uint8)
    labels[:, :4] = 255
    return logits.to(device, dtype).requires_grad_(), labels.to(device)


@needs_cuda
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@each_measure
def test_a_step_does_not_wait_for_the_device(name: str, options: dict[str, Any], dtype: torch.dtype) -> None:
    loss = loss_of(name, options).to("cuda")
    first, *batches = (batch("cuda", dtype) for _ in range(3))
    loss(*first).backward()  # compiles its kernels
    torch.cuda.synchronize()
    torch.cuda.set_sync_debug_mode("error")
    try:
        for logits, labels in batches:
            loss(logits, labels).backward()
    finally:
        torch.cuda.set_sync_debug_mode("default")


@needs_cuda
@pytest.mark.parametrize("rows", [3, 336])
def test_the_paper_s_network_in_one_launch(rows: int) -> None:
    """Against its layers in float64 on the CPU."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        surrogate = Surrogate([f"s{k}" for k in range(6)]).requires_grad_(False)
        surrogate.standardise(torch.rand(50, 6))
        stats = torch.rand(rows, 6)
    found = []
    for network, x in ((copy.deepcopy(surrogate).cuda(), stats.cuda()), (surrogate.double(), stats)):
        assert (frozen.predicted(network, x) is not None) == x.is_cuda
        x.requires_grad_()
        value = network(x)
        (slope,) = torch.autograd.grad(value.sum(), x)
        found.append((value.detach().cpu().double(), slope.cpu().double()))
    torch.testing.assert_close(found[0], found[1], rtol=1e-4, atol=1e-5)


@needs_cuda
@each_measure
def test_a_gpu_says_what_the_cpu_says(name: str, options: dict[str, Any]) -> None:
    found = []
    for device in ("cpu", "cuda"):
        logits, labels = batch(device, torch.float32)
        value = loss_of(name, options).to(device)(logits, labels)
        value.backward()
        assert logits.grad is not None
        found.append((value.detach().cpu(), logits.grad.cpu()))
    torch.testing.assert_close(found[1], found[0], rtol=1e-4, atol=1e-6)


@needs_cuda
@pytest.mark.parametrize("view", ["labels", "maps", "objects"])
def test_statistics_of_a_plain_function_do_not_wait_and_are_those_of_the_cpu(view: str) -> None:
    of = standard(num_classes=5, ignore_index=255).views[view].stats
    logits, labels = batch("cuda", torch.float32)
    of(logits, labels)
    torch.cuda.synchronize()
    torch.cuda.set_sync_debug_mode("error")
    try:
        found = of(logits, labels)
        found.sum().backward()
    finally:
        torch.cuda.set_sync_debug_mode("default")
    torch.testing.assert_close(found.cpu(), of(*batch("cpu", torch.float32)), rtol=1e-4, atol=1e-4)
