"""
What changes over the checkpoints of a training?
================================================

A training leaves a checkpoint after each epoch. They are measured one after the other by the same probes, and the
results are records: plain data that say what was measured and how sure it is.
"""

import tempfile
from pathlib import Path

import matplotlib.pyplot as plt
import torch

import sharpness as sh

images = sh.load_dataset("fashion_mnist_10k").train.first(500)
batches = sh.Batches(images, batch_size=250)
folder = Path(tempfile.mkdtemp())
torch.manual_seed(0)
model = torch.nn.Sequential(torch.nn.Flatten(), torch.nn.Linear(784, 32), torch.nn.Tanh(), torch.nn.Linear(32, 10))
optimizer = torch.optim.SGD(model.parameters(), lr=0.1, momentum=0.9)
for epoch in range(31):
    if epoch % 5 == 0:
        torch.save(model.state_dict(), folder / f"epoch-{epoch}.pt")
    for x, y in batches:
        optimizer.zero_grad()
        torch.nn.functional.cross_entropy(model(x), y).backward()
        optimizer.step()

# %%
# One loss serves all of them: weights are given as a flat vector. On the command line ``sharpness track
# FOLDER/epoch-*.pt`` does the same for files of any kind.

loss = sh.Loss(model, torch.nn.functional.cross_entropy, batches)
probes = {
    "largest eigenvalue": sh.TopEigenvalues(),
    "trace": sh.Trace(rtol=0.1),
    "critical sharpness": sh.CriticalSharpness(),
}
records: dict[str, list] = {name: [] for name in probes}
epochs = range(0, 31, 5)
for epoch in epochs:
    model.load_state_dict(torch.load(folder / f"epoch-{epoch}.pt", weights_only=True))
    for name, probe in probes.items():
        records[name].append(probe(loss, sh.flatten(model)).to_record())
last = records["largest eigenvalue"][-1]
print(last.value, last.lower, last.upper, last.confidence, last.num_hvps, last.data_sha256[:12])

# %%
# Shaded is the interval of each number, where it has one.

figure, panels = plt.subplots(1, 3, figsize=(9, 2.8), layout="constrained")
for axes, (name, found) in zip(panels, records.items(), strict=True):
    axes.plot(epochs, [record.value for record in found], "o-", markersize=3)
    axes.fill_between(epochs, [record.lower for record in found], [record.upper for record in found], alpha=0.3)
    axes.set(xlabel="epoch", title=name)
plt.show()
