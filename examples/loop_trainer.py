"""Hugging Face's Trainer with the learned loss: `python examples/loop_trainer.py [surrogate.safetensors]`.

The network is a small SegFormer with random weights; `from_pretrained` gives a trained one in the same lines.
"""

import tempfile

import torch
from torch import Tensor
from torch.nn.functional import cross_entropy, interpolate
from transformers import SegformerConfig, SegformerForSemanticSegmentation, Trainer, TrainingArguments

from scenes import CLASSES, VOID, Scenes, read_arguments
from surrogate.loss import SurrogateLoss

arguments = read_arguments()
device = "cuda" if torch.cuda.is_available() else "cpu"
loss_fn = SurrogateLoss.load(arguments.surrogate).to(device)


def compute_loss(outputs: dict[str, Tensor], labels: Tensor, num_items_in_batch: object = None) -> Tensor:  # noqa: ARG001
    """SegFormer's logits are a quarter as large as its images; the metric is about pixels."""
    logits = interpolate(outputs["logits"], labels.shape[1:], mode="bilinear")
    loss = 0.75 * loss_fn(logits, labels) + 0.25 * cross_entropy(logits, labels, ignore_index=VOID)
    print(f"loss {loss.item():.4f}")
    return loss


def collate(samples: list[tuple[Tensor, Tensor]]) -> dict[str, Tensor]:
    images, labels = zip(*samples, strict=True)
    return {"pixel_values": torch.stack(images), "labels": torch.stack(labels)}


network = SegformerConfig(
    num_labels=CLASSES,
    depths=[1, 1, 1, 1],
    hidden_sizes=[8, 16, 32, 64],
    num_attention_heads=[1, 1, 2, 4],
    decoder_hidden_size=32,
)
with tempfile.TemporaryDirectory() as folder:
    settings = TrainingArguments(
        output_dir=folder,
        max_steps=arguments.steps,
        per_device_train_batch_size=16,
        learning_rate=5e-3,
        save_strategy="no",
        report_to="none",
        disable_tqdm=True,
    )
    model = SegformerForSemanticSegmentation(network)
    Trainer(
        model, settings, train_dataset=Scenes("train"), data_collator=collate, compute_loss_func=compute_loss
    ).train()
