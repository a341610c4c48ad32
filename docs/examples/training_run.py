"""
How sharp does a network get while it trains?
=============================================

A tracker follows any training loop. With the whole data as one batch, the largest eigenvalue rises until gradient
descent is at the edge of stability: at 2 over the learning rate a step no longer shrinks the error along the sharpest
direction (Cohen et al. 2021).
"""

import matplotlib.pyplot as plt
import torch

import sharpness as sh

images = sh.load_dataset("fashion_mnist_10k").train.first(32)
x, y = next(iter(sh.Batches(images, batch_size=32)))
target = torch.nn.functional.one_hot(y, 10).float()
criterion = torch.nn.functional.mse_loss
rates = (0.1, 0.2)

# %%
# The tracker is called after each step of the optimiser. It keeps to a share of the training's time; here it gets as
# much as the training itself, because the steps are short. Each measurement is a row. Its
# eigenvalue is a lower bound, found with few products from the vector of the time before; the marks are certified.

figure, panels = plt.subplots(2, 1, figsize=(5.5, 5), sharex=True, layout="constrained")
for rate in rates:
    torch.manual_seed(0)
    model = torch.nn.Sequential(torch.nn.Flatten(), torch.nn.Linear(784, 32), torch.nn.Tanh(), torch.nn.Linear(32, 10))
    optimizer = torch.optim.SGD(model.parameters(), lr=rate)
    tracker = sh.Tracker(model, criterion, optimizer, overhead=1.0, quantities=("top_eigenvalue",), sink=None)
    losses, certified = [], {}
    for step in range(1, 1501):
        optimizer.zero_grad()
        loss = criterion(model(x), target)
        loss.backward()
        optimizer.step()
        tracker.step(x, target)
        losses.append(loss.item())
        if step % 250 == 0:
            certified[step] = sh.TopEigenvalues()(sh.Loss(model, criterion, [(x, target)]))
    steps, values = zip(*((row["step"], row["top_eigenvalue"]) for row in tracker.rows), strict=True)
    print(f"rate {rate}: {len(values)} measurements, the last {values[-1]:.3g}, the edge {2 / rate:.3g}")
    (line,) = panels[0].plot(steps, values, label=f"rate {rate:g}")
    panels[0].plot([*certified], [result.value for result in certified.values()], "o", color=line.get_color())
    panels[0].axhline(2 / rate, color=line.get_color(), linestyle="--", linewidth=0.8)
    panels[1].plot(losses, color=line.get_color())
panels[0].set(ylabel="largest eigenvalue")
panels[0].legend(title="dashed: 2 / rate; marks: certified", loc="center", bbox_to_anchor=(0.5, 0.3), ncols=2)
panels[1].set(xlabel="step", ylabel="training loss", yscale="log")
plt.show()
