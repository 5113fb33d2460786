"""The learned loss in a plain PyTorch loop: `python examples/loop_pytorch.py [surrogate.safetensors]`."""

import torch
from torch.nn.functional import cross_entropy

from scenes import CLASSES, VOID, read_arguments, taken, training_loader
from surrogate.loss import SurrogateLoss
from surrogate_segmentation.networks import UNet

arguments = read_arguments()
device = "cuda" if torch.cuda.is_available() else "cpu"
model = UNet(CLASSES, width=8).to(device)
optimizer = torch.optim.AdamW(model.parameters(), lr=5e-3)
loss_fn = SurrogateLoss.load(arguments.surrogate).to(device)  # frozen; learned for one metric and one set of classes

for step, (images, labels) in enumerate(taken(arguments.steps, training_loader()), 1):
    images, labels = images.to(device), labels.to(device)
    logits = model(images)
    # A share of cross-entropy: it has a slope for a class without a single hit, where most metrics have none.
    loss = 0.75 * loss_fn(logits, labels) + 0.25 * cross_entropy(logits, labels, ignore_index=VOID)
    optimizer.zero_grad()
    loss.backward()
    optimizer.step()
    print(f"step {step} loss {loss.item():.4f}")
