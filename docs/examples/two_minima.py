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
from sharpness import plots

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

losses = {
    name: sh.Loss(model, torch.nn.functional.cross_entropy, sh.Batches(images, batch_size=500))
    for name, model in networks.items()
}

# %%
# The line from one to the other, with ``batch 16`` at 0 and ``batch 500`` at 1. ``sharpness.plots`` draws results into
# the axes of any figure; ``styled`` is its style, and ``WIDTHS`` has the widths of usual venues in inches.

first, second = losses.values()
held_out = sh.Loss(networks["batch 16"], torch.nn.functional.cross_entropy, sh.Batches(test, batch_size=500))
line = sh.Interpolation(num_points=41, start=-0.5, stop=1.5)
between = line(first, first.weights, second.weights, test_loss=held_out)
with plots.styled():
    figure, axes = plt.subplots(figsize=(plots.WIDTHS["neurips"][0], 3), layout="constrained")
    plots.draw_line(between, axes)
plt.show()

# %%
# Each is measured on the same images, and every measure is compared. A rescaling of the layers that changes no output
# can give those in plain units of the weights any value. It does not move those that are in units of the weights' own
# sizes.

probes = (
    sh.TopEigenvalues(),
    sh.Trace(),
    sh.WorstCaseSharpness(num_starts=1),
    sh.RelativeFlatness(),
    sh.FisherRaoNorm(),
)
measured = {name: [probe(loss) for probe in probes] for name, loss in losses.items()}
for name, results in measured.items():
    print(name, *map(repr, results), sep="\n  ")

with plots.styled():
    figure, axes = plt.subplots(figsize=(plots.WIDTHS["neurips"][0], 2.2), layout="constrained")
    plots.draw_forest(measured, axes)
plt.show()
