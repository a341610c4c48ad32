"""
How large a batch is useful?
============================

The gradient of a batch is the gradient of all the data plus noise. The noise scale is the batch size at which the two
are of one size (McCandlish et al. 2018): far below it, twice the batch is worth twice the step; far above it, it is
worth nothing.
"""

import matplotlib.pyplot as plt
import torch

import sharpness as sh

images = sh.load_dataset("fashion_mnist_10k").train
measured = sh.Batches(images.first(500), batch_size=500)
torch.manual_seed(0)
model = torch.nn.Sequential(torch.nn.Flatten(), torch.nn.Linear(784, 32), torch.nn.ReLU(), torch.nn.Linear(32, 10))
loss = sh.Loss(model, torch.nn.functional.cross_entropy, measured)
probe = sh.GradientNoise(batch_sizes=(1, 4, 16, 64, 256, 1024, 4096), num_hvps=64)

# %%
# It is measured at the start and twice along training, on images that are not trained on: at trained images the
# gradient is smaller than over the distribution that they come from.

optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
x, y = next(iter(sh.Batches(images, batch_size=len(images))))
x, y = x[500:], y[500:]
results = {}
for step in range(601):
    if step in (0, 60, 600):
        results[step] = probe(loss, sh.flatten(model))
        print(f"step {step}: {results[step]}")
    batch = torch.randint(len(x), (32,))
    optimizer.zero_grad()
    torch.nn.functional.cross_entropy(model(x[batch]), y[batch]).backward()
    optimizer.step()

# %%
# The fall of the loss that the best step at each batch size brings, over that of the whole gradient. It is a half at
# the noise scale.

figure, axes = plt.subplots(figsize=(5.5, 3.4), layout="constrained")
for step, result in results.items():
    scale = result.numbers["noise_scale"].value
    sizes = [row["batch_size"] for row in result.by_batch_size]
    axes.plot(sizes, [size / (size + scale) for size in sizes], "o-", markersize=3, label=f"step {step}: {scale:.0f}")
axes.axhline(0.5, color="0.7", linewidth=0.8, zorder=0)
axes.set(xlabel="batch size", ylabel="share of the possible fall of the loss", xscale="log")
axes.legend(title="noise scale $B_{noise}$ (images)")
plt.show()
