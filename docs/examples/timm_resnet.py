"""
Does BatchNorm change how sharp a ResNet is?
============================================

A residual network of ``timm`` is an ordinary module. With BatchNorm its loss depends on what BatchNorm does while it
is measured: the running statistics of the checkpoint, or those of the given batch. The two are different functions of
the weights with different curvatures, so every record says which it was. This example needs ``pip install
'sharpness[timm]'``.
"""

import matplotlib.pyplot as plt
import timm
import torch

import sharpness as sh

images = sh.load_dataset("fashion_mnist_10k").train.first(64)
batches = sh.Batches(images, batch_size=64)
torch.manual_seed(0)
model = timm.create_model("test_resnet", num_classes=10, in_chans=1)
optimizer = torch.optim.SGD(model.parameters(), lr=0.02, momentum=0.9)
x, y = next(iter(batches))
for _ in range(60):
    optimizer.zero_grad()
    torch.nn.functional.cross_entropy(model(x), y).backward()
    optimizer.step()

# %%
# The largest eigenvalue of the same weights in both modes.

found = {}
for norm in ("frozen", "batch"):
    loss = sh.Loss(model, torch.nn.functional.cross_entropy, batches, norm=norm)
    found[norm] = sh.TopEigenvalues(rtol=0.1)(loss)
    print(f"{norm}: loss {loss.value(loss.weights):.3f} nats, {found[norm]}")

figure, axes = plt.subplots(figsize=(4.5, 3.2), layout="constrained")
values = [result.value for result in found.values()]
spread = [[r.value - r.lower for r in found.values()], [r.upper - r.value for r in found.values()]]
axes.errorbar(["running statistics", "statistics of the batch"], values, yerr=spread, fmt="o", capsize=4)
axes.set(ylabel="largest eigenvalue [nats]", yscale="log", xlim=(-0.5, 1.5))
plt.show()
