"""The learned loss in a LightningModule: `python examples/loop_lightning.py [surrogate.safetensors]`."""

from pathlib import Path

import lightning
import torch
from torch import Tensor
from torch.nn.functional import cross_entropy

from scenes import CLASSES, VOID, read_arguments, training_loader
from surrogate.loss import SurrogateLoss
from surrogate_segmentation.networks import UNet


class Segmenter(lightning.LightningModule):
    """A UNet trained on the metric that the surrogate was fitted to."""

    def __init__(self, surrogate: Path) -> None:
        super().__init__()
        self.model = UNet(CLASSES, width=8)
        self.loss_fn = SurrogateLoss.load(surrogate)  # a submodule: Lightning moves it, and it stays frozen

    def training_step(self, batch: tuple[Tensor, Tensor], batch_idx: int) -> Tensor:  # noqa: ARG002
        images, labels = batch
        logits = self.model(images)
        loss = 0.75 * self.loss_fn(logits, labels) + 0.25 * cross_entropy(logits, labels, ignore_index=VOID)
        print(f"step {self.global_step + 1} loss {loss.item():.4f}")
        return loss

    def configure_optimizers(self) -> torch.optim.Optimizer:
        return torch.optim.AdamW(self.model.parameters(), lr=5e-3)


arguments = read_arguments()
trainer = lightning.Trainer(
    max_steps=arguments.steps,
    max_epochs=-1,  # max_steps decides
    logger=False,
    enable_checkpointing=False,
    enable_progress_bar=False,
    enable_model_summary=False,
)
trainer.fit(Segmenter(arguments.surrogate), training_loader())
