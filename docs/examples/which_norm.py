"""
In which norm is a minimum sharp?
=================================

The worst-case rise of the loss depends on the set of perturbations that is searched. Here two networks that fit the
same images are compared over a range of radii, in a ball of all weights together, in a box around each weight, and in
a box that is as wide as each weight is large.
"""

import matplotlib.pyplot as plt
import torch

import sharpness as sh

images = sh.load_dataset("fashion_mnist_10k").train.first(300)
batches = sh.Batches(images, batch_size=300)


def trained(weight_decay: float) -> sh.Loss:
    """Train with an L2 penalty of this weight; return the loss without it."""
    torch.manual_seed(0)
    model = torch.nn.Sequential(torch.nn.Flatten(), torch.nn.Linear(784, 32), torch.nn.ReLU(), torch.nn.Linear(32, 10))
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1, momentum=0.9, weight_decay=weight_decay)
    x, y = next(iter(batches))
    for _ in range(300):
        optimizer.zero_grad()
        torch.nn.functional.cross_entropy(model(x), y).backward()
        optimizer.step()
    return sh.Loss(model, torch.nn.functional.cross_entropy, batches)


losses = {"no penalty": trained(0.0), "penalty 0.01": trained(0.01)}
for name, loss in losses.items():
    print(f"{name}: loss {loss.value(loss.weights):.3f} nats, length of the weights {loss.weights.norm():.1f}")

# %%
# Every number is a lower bound: the search finds a rise, and a larger one may exist. Which of the two networks is the
# sharper one depends on the ball, and in the last one on its radius too.

BALLS = {
    "all weights together (l2)": ("plain", "l2", (0.05, 0.1, 0.2, 0.4)),
    "each weight (l-infinity)": ("plain", "linf", (0.0005, 0.001, 0.002, 0.004)),
    "relative to each weight (l-infinity)": ("adaptive", "linf", (0.01, 0.02, 0.04, 0.08)),
}
figure, panels = plt.subplots(1, 3, figsize=(9, 3), layout="constrained")
for axes, (title, (scaling, norm, radii)) in zip(panels, BALLS.items(), strict=True):
    for name, loss in losses.items():
        rises = [sh.WorstCaseSharpness(scaling=scaling, norm=norm, rho=rho, num_starts=1)(loss).value for rho in radii]
        axes.plot(radii, rises, "o-", markersize=3, label=name)
    axes.set(xlabel="radius", title=title, xscale="log", yscale="log")
    axes.set_xticks(radii, [f"{rho:g}" for rho in radii])
    axes.minorticks_off()
    axes.title.set_fontsize("small")
panels[0].set_ylabel("rise of the loss, at least [nats]")
panels[0].legend()
plt.show()
