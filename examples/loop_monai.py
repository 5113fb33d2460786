"""MONAI's UNet through the learned loss: `python examples/loop_monai.py [surrogate.safetensors]`."""

import torch
from monai.networks.nets import UNet
from torch.nn.functional import cross_entropy

from scenes import CLASSES, VOID, read_arguments, taken, training_loader
from surrogate.loss import SurrogateLoss

arguments = read_arguments()
device = "cuda" if torch.cuda.is_available() else "cpu"
model = UNet(
    spatial_dims=2, in_channels=3, out_channels=CLASSES, channels=(8, 16, 32), strides=(2, 2), num_res_units=1
).to(device)
optimizer = torch.optim.AdamW(model.parameters(), lr=5e-3)
loss_fn = SurrogateLoss.load(arguments.surrogate).to(device)

for step, (images, labels) in enumerate(taken(arguments.steps, training_loader()), 1):
    # Labels are (B, H, W) class numbers here; MONAI's loaders give (B, 1, H, W): labels.squeeze(1).
    images, labels = images.to(device), labels.to(device)
    logits = model(images)
    loss = 0.75 * loss_fn(logits, labels) + 0.25 * cross_entropy(logits, labels, ignore_index=VOID)
    optimizer.zero_grad()
    loss.backward()
    optimizer.step()
    print(f"step {step} loss {loss.item():.4f}")
