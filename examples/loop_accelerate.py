"""The learned loss under accelerate: `accelerate launch examples/loop_accelerate.py [surrogate.safetensors]`."""

import torch
from accelerate import Accelerator
from torch.nn.functional import cross_entropy

from scenes import CLASSES, VOID, read_arguments, taken, training_loader
from surrogate.loss import SurrogateLoss
from surrogate_segmentation.networks import UNet

arguments = read_arguments()
accelerator = Accelerator()
model = UNet(CLASSES, width=8)
optimizer = torch.optim.AdamW(model.parameters(), lr=5e-3)
model, optimizer, loader = accelerator.prepare(model, optimizer, training_loader())
# Only moved: it has nothing to train, and runs in fp32 whatever the mixed precision of the model.
loss_fn = SurrogateLoss.load(arguments.surrogate).to(accelerator.device)

for step, (images, labels) in enumerate(taken(arguments.steps, loader), 1):
    logits = model(images)
    loss = 0.75 * loss_fn(logits, labels) + 0.25 * cross_entropy(logits, labels, ignore_index=VOID)
    optimizer.zero_grad()
    accelerator.backward(loss)
    optimizer.step()
    accelerator.print(f"step {step} loss {loss.item():.4f}")
