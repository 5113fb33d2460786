"""The learned loss, forward and backward, against cross-entropy, Dice, Jaccard and Lovasz; and its memory."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import replace
from itertools import product
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from benchmarks.harness import Case, device_seconds, ratios, summary
from benchmarks.memory import tensor_peak
from benchmarks.rows import Row, Settings, compared, row
from benchmarks.scene import KERNELS, VOID, Scene, learned_loss, through
from surrogate_segmentation.baselines import LovaszSoftmax

SUBJECT = "loss"
CE = "eager CE"
Loss = Callable[[Tensor, Tensor], Tensor]

CPU_SIZES = (Scene(2, 21, 256, 256), Scene(1, 2, 1024, 1024), Scene(2, 11, 360, 480))
GPU_SIZES = (Scene(16, 21, 512, 512), Scene(8, 19, 512, 1024), Scene(8, 150, 512, 512))
TINY = (Scene(1, 3, 16, 16),)


def run(settings: Settings) -> Iterator[Row]:
    """A grid of sizes, accuracies, layouts and precisions against eager CE; the other rivals at one of them each."""
    gpu = settings.device.type == "cuda"
    sizes = TINY if settings.tiny else CPU_SIZES + GPU_SIZES if gpu else CPU_SIZES
    for scene in sizes:
        yield from _rivals(settings, scene)
        yield from _memory(settings, scene)
    looks = product(sizes, (torch.float32, torch.bfloat16), (torch.contiguous_format, torch.channels_last))
    for (scene, dtype, layout), accuracy in product(looks, (0.05, 0.60, 0.95)):
        yield from _grid(settings, replace(scene, dtype=dtype, layout=layout, accuracy=accuracy))


def _grid(settings: Settings, scene: Scene) -> Iterator[Row]:
    logits, labels = scene.tensors(settings.device)
    losses = {CE: _cross_entropy, **_ours(settings, scene)}
    cases = {name: through(loss, logits, labels) for name, loss in losses.items()}
    whats = {(name, CE): f"loss, {name}" for name in losses if name != CE}
    yield from compared(settings, SUBJECT, str(scene), cases, whats)
    if settings.device.type == "cuda":
        yield _of_device(settings, scene, cases)


def _of_device(settings: Settings, scene: Scene, cases: dict[str, Case]) -> Row:
    """Of a GPU's own time, as within a training step, where launches are ahead of it."""
    rounds = [{name: device_seconds(case) for name, case in cases.items()} for _ in range(settings.plan.least)]
    taken = {name: [found[name] for found in rounds] for name in cases}
    found, anchor_ms = ratios(taken, anchor=CE)["auto"], 1e3 * summary(taken[CE]).median
    return row(SUBJECT, "loss, auto, device time", str(scene), found, anchor=CE, anchor_ms=anchor_ms)


def _rivals(settings: Settings, scene: Scene) -> Iterator[Row]:
    """Without void pixels, which MONAI's losses do not know."""
    scene = replace(scene, void=0.0, accuracy=0.60)
    logits, labels = scene.tensors(settings.device)
    ours = _ours(settings, scene)
    lovasz: Loss = LovaszSoftmax(num_classes=scene.classes, ignore_index=VOID)
    rivals = {"compiled CE": torch.compile(_cross_entropy, dynamic=False), "Lovasz (ours)": lovasz, **_monai()}
    if "MONAI Dice" not in rivals:
        note = "monai is not installed: pip install -c constraints.txt -e '.[bench]'"
        yield Row(SUBJECT, "loss, auto", str(scene), "MONAI Dice", note=note)
    if settings.tiny:
        del rivals["compiled CE"]
    for name, rival in rivals.items():  # in pairs, so that a slow rival does not thin out the others' rounds
        cases = {label: through(loss, logits, labels) for label, loss in {**ours, name: rival}.items()}
        whats = {(label, name): f"loss, {label}" for label in ours}
        yield from compared(settings, SUBJECT, str(scene), cases, whats)


def _memory(settings: Settings, scene: Scene) -> Iterator[Row]:
    logits, labels = scene.tensors(settings.device)
    losses = {CE: _cross_entropy, **_ours(settings, scene)}
    peaks = {}
    for name, loss in losses.items():
        case = through(loss, logits, labels)
        case.run()  # a first run may compile something
        case.reset()
        peaks[name] = tensor_peak(case.run, settings.device) / logits.nbytes
    for name, peak in peaks.items():
        what = f"peak memory above the logits, {name}"
        yield Row(SUBJECT, what, str(scene), unit="logit tensors", value=peak, n=1)
        if name != CE:
            yield Row(SUBJECT, what, str(scene), anchor=CE, value=peak / peaks[CE], n=1)


def _ours(settings: Settings, scene: Scene) -> dict[str, Any]:
    names = KERNELS if settings.device.type == "cpu" else ("auto",)
    return {name: learned_loss(scene.classes, settings.device, kernel=name) for name in names}


def _cross_entropy(logits: Tensor, labels: Tensor) -> Tensor:
    return F.cross_entropy(logits.float(), labels, ignore_index=VOID)  # fp32, as autocast does it


def _monai() -> dict[str, Loss]:
    """MONAI's own classes; segmentation_models_pytorch needs torchvision, which this project does without."""
    try:
        from monai.losses import DiceLoss
    except ImportError:
        return {}
    dice = DiceLoss(to_onehot_y=True, softmax=True)
    jaccard = DiceLoss(to_onehot_y=True, softmax=True, jaccard=True)
    return {
        "MONAI Dice": lambda logits, labels: dice(logits, labels.unsqueeze(1)),
        "MONAI Jaccard": lambda logits, labels: jaccard(logits, labels.unsqueeze(1)),
    }
