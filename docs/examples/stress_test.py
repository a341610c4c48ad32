"""
Is a measure about the function or about its weights?
=====================================================

In a ReLU network the weights of one layer can be multiplied by a number and those of the next divided by it, and no
output changes (Dinh et al. 2017). A measure that moves all the same says something of the weights that is not about
the function. The stress test finds such a rescaling by itself and measures before and after.
"""

import matplotlib.pyplot as plt
import torch

import sharpness as sh
from sharpness import plots
from sharpness.measure.stress import stress_test

images = sh.load_dataset("fashion_mnist_10k").train.first(200)
batches = sh.Batches(images, batch_size=200)
torch.manual_seed(0)
model = torch.nn.Sequential(torch.nn.Flatten(), torch.nn.Linear(784, 16), torch.nn.ReLU(), torch.nn.Linear(16, 10))
optimizer = torch.optim.SGD(model.parameters(), lr=0.2)
x, y = next(iter(batches))
for _ in range(200):
    optimizer.zero_grad()
    torch.nn.functional.cross_entropy(model(x), y).backward()
    optimizer.step()
loss = sh.Loss(model, torch.nn.functional.cross_entropy, batches)

# %%
# Each measure at the weights as trained and after a rescaling by 4. ``moved`` compares the intervals where there are
# any.

probes = {
    "largest eigenvalue": sh.TopEigenvalues(),
    "trace": sh.Trace(),
    "Metric 2.1": sh.KeskarSharpness(),
    "worst case, plain": sh.WorstCaseSharpness(scaling="plain", rho=0.05, num_starts=1),
    "worst case, adaptive": sh.WorstCaseSharpness(num_starts=1),
    "relative flatness": sh.RelativeFlatness(),
    "Fisher-Rao norm": sh.FisherRaoNorm(),
}
rows = stress_test(loss, probes, alpha=4.0)
print(f"rescaled: {rows[0].rescaling}")
for row in rows:
    print(f"{row.name:22} {row.before.value:10.4g} -> {row.after.value:10.4g}  moved: {row.moved}")

# %%
# What lies on the line does not see the rescaling.

with plots.styled():
    figure, axes = plt.subplots(figsize=(plots.WIDTHS["neurips"][0], 2.6), layout="constrained")
    plots.draw_stress(rows, axes)
plt.show()
