"""
Which of two minima is flatter?
===============================

The same network is trained twice from one start, with batches of 16 and of 500 images. Both fit their 500 images. The
loss on the line between them shows the picture of a flat and a sharp minimum, and the measures beside it say how much
of that picture is about the function and how much about the scale of the weights.
"""

import copy

import matplotlib.pyplot as plt
import torch

import sharpness as sh

images = sh.load_dataset("fashion_mnist_10k").train.first(500)
test = sh.load_dataset("fashion_mnist_10k").test.first(1000)
torch.manual_seed(0)
start = torch.nn.Sequential(torch.nn.Flatten(), torch.nn.Linear(784, 32), torch.nn.ReLU(), torch.nn.Linear(32, 10))


def trained(batch_size: int) -> torch.nn.Module:
    """Train from the common start until the mean loss of an epoch is below 0.02 nats."""
    model = copy.deepcopy(start)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.2)
    x, y = next(iter(sh.Batches(images, batch_size=len(images))))
    for epoch in range(1000):
        order = torch.randperm(len(x), generator=torch.Generator().manual_seed(epoch))
        losses = []
        for batch in order.split(batch_size):
            optimizer.zero_grad()
            loss = torch.nn.functional.cross_entropy(model(x[batch]), y[batch])
            loss.backward()
            optimizer.step()
            losses.append(loss.detach())
        if torch.stack(losses).mean() < 0.02:
            break
    return model


networks = {"batch 16": trained(16), "batch 500": trained(500)}

# %%
# Each is measured on the same images: in plain units of the weights, and in units of each weight's own size (adaptive),
# which no rescaling of the layers moves.

losses = {
    name: sh.Loss(model, torch.nn.functional.cross_entropy, sh.Batches(images, batch_size=500))
    for name, model in networks.items()
}
for name, loss in losses.items():
    print(name)
    print("  largest eigenvalue:", sh.TopEigenvalues()(loss))
    print("  adaptive:", sh.WorstCaseSharpness(num_starts=1)(loss))

# %%
# The line from one to the other, with 0 at the first and 1 at the second.

first, second = losses.values()
a, b = first.weights, second.weights
steps = torch.linspace(-0.5, 1.5, 41)
held_out = sh.Loss(networks["batch 16"], torch.nn.functional.cross_entropy, sh.Batches(test, batch_size=500))
figure, axes = plt.subplots(figsize=(5.5, 3.4), layout="constrained")
for label, where in (("training", first), ("test", held_out)):
    axes.plot(steps, [where.value(a + float(step) * (b - a)) for step in steps], label=label)
for place, name in enumerate(networks):
    axes.axvline(place, color="0.6", linestyle=":")
    axes.annotate(name, (place, 0.97), xycoords=("data", "axes fraction"), ha="center", va="top", backgroundcolor="w")
axes.set(xlabel="position on the line", ylabel="loss [nats]", yscale="log")
axes.legend()
plt.show()
