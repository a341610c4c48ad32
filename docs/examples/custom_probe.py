"""
How do I measure something of my own?
=====================================

A probe is a frozen dataclass: its fields are its knobs, and its ``measure`` takes a loss and weights. The frame adds
the clock, the counts, the hashes and the versions. This one asks how far one can go along the gradient before the
loss is higher than it was, as a multiple of the learning rate that was trained with.
"""

from dataclasses import dataclass

import matplotlib.pyplot as plt
import torch

import sharpness as sh
from sharpness.results import Probe, ProbeResult


@dataclass(frozen=True)
class StepsToTheEdge(Probe[ProbeResult]):
    """The largest step down the gradient that does not raise the loss, over the learning rate, to a tenth."""

    name = "steps_to_the_edge"
    learning_rate: float = 0.1

    def measure(self, loss, w, *, progress=None):
        """Measure at ``w``."""
        gradient, here, step, forwards = loss.grad(w), loss.value(w), self.learning_rate, 0
        while loss.value(w - step * gradient) <= here and forwards < 100:
            step, forwards = 1.1 * step, forwards + 1
        return ProbeResult(value=step / self.learning_rate, num_gradients=1, num_forwards=forwards + 2)


images = sh.load_dataset("fashion_mnist_10k").train.first(300)
batches = sh.Batches(images, batch_size=300)
torch.manual_seed(0)
model = torch.nn.Sequential(torch.nn.Flatten(), torch.nn.Linear(784, 32), torch.nn.ReLU(), torch.nn.Linear(32, 10))
loss = sh.Loss(model, torch.nn.functional.cross_entropy, batches)

# %%
# It is called like every other probe, and its result is a record with all the evidence. After 80 steps this training is
# at the edge of stability: hardly a larger step than its own would lower the loss.

optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
x, y = next(iter(batches))
mine, steps = [], range(0, 301, 20)
for step in range(301):
    if step in steps:
        mine.append(StepsToTheEdge()(loss, sh.flatten(model)))
    optimizer.zero_grad()
    torch.nn.functional.cross_entropy(model(x), y).backward()
    optimizer.step()
record = mine[-1].to_record()
print(record.probe, record.value, record.num_gradients, record.num_examples, record.data_sha256[:12])

figure, axes = plt.subplots(figsize=(5, 3.2), layout="constrained")
axes.plot(steps, [result.value for result in mine], "o-", markersize=3)
axes.axhline(1, color="black", linewidth=0.8, linestyle="--", label="the rate that was trained with")
axes.set(xlabel="step", ylabel="largest useful step over the rate", yscale="log")
axes.legend()
plt.show()
