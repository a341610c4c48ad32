"""
How sharp is a fine-tuned adapter?
==================================

With low-rank adaptation (LoRA, Hu et al. 2021) the base stays fixed and two small matrices per layer are trained. The
minimum is one of the adapter's weights, so these are what is measured: a pattern of names chooses them. Folders that
PEFT saves are measured in the same way by ``sharpness probe``.
"""

import matplotlib.pyplot as plt
import torch

import sharpness as sh


class LowRank(torch.nn.Module):
    """A linear layer plus ``B A`` of a given rank, which is 0 at the start."""

    def __init__(self, base, rank):
        super().__init__()
        self.base = base
        self.lora_a = torch.nn.Parameter(torch.randn(rank, base.in_features) / base.in_features**0.5)
        self.lora_b = torch.nn.Parameter(torch.zeros(base.out_features, rank))

    def forward(self, x):
        return self.base(x) + x @ self.lora_a.T @ self.lora_b.T


def train(model, parameters, x, y, steps):
    """Train some parameters on all of the data."""
    optimizer = torch.optim.Adam(parameters, lr=5e-3)
    for _ in range(steps):
        optimizer.zero_grad()
        torch.nn.functional.cross_entropy(model(x), y).backward()
        optimizer.step()


data = sh.load_dataset("fashion_mnist_10k").train
x, y = next(iter(sh.Batches(data.first(600), batch_size=600)))
old, new = y < 5, y >= 5
torch.manual_seed(0)
base = torch.nn.Sequential(torch.nn.Flatten(), torch.nn.Linear(784, 32), torch.nn.Tanh(), torch.nn.Linear(32, 10))
train(base, base.parameters(), x[old], y[old], 100)

# %%
# The base has seen the first five classes. Adapters of several ranks, and the whole network, learn the other five.

found = {}
for rank in (1, 2, 4, 8, None):
    if rank is None:
        model, chosen = base, None
        train(model, model.parameters(), x[new], y[new], 400)
    else:
        model = torch.nn.Sequential(base[0], LowRank(base[1], rank), base[2], LowRank(base[3], rank))
        chosen = "*lora*"
        train(model, [p for name, p in model.named_parameters() if "lora" in name], x[new], y[new], 400)
    loss = sh.Loss(model, torch.nn.functional.cross_entropy, [(x[new], y[new])], parameters=chosen)
    name = "all weights" if rank is None else f"rank {rank}"
    found[f"{name}\n({len(loss.weights):,})"] = (sh.TopEigenvalues()(loss), sh.Trace(rtol=0.1)(loss))
    print(f"{name}: loss {loss.value(loss.weights):.4f} nats, largest eigenvalue {found[[*found][-1]][0]}")

figure, axes = plt.subplots(figsize=(6, 3.2), layout="constrained")
for label, marker, place in (("largest eigenvalue", "o", 0), ("trace", "s", 1)):
    results = [pair[place] for pair in found.values()]
    spread = [[r.value - r.lower for r in results], [r.upper - r.value for r in results]]
    axes.errorbar([*found], [r.value for r in results], yerr=spread, fmt=marker, capsize=3, label=label)
axes.set(xlabel="what is trained and measured (number of weights)", ylabel="curvature [nats]", yscale="log")
axes.legend()
plt.show()
