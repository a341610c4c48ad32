"""
What does the loss look like around a minimum?
==============================================

The loss on the plane of the Hessian's two sharpest directions, and on a plane of two random directions that are
scaled by filters (Li et al. 2018). A random plane hardly ever shows the sharp directions: there are few of them.
"""

import matplotlib.pyplot as plt
import torch

import sharpness as sh
from sharpness import plots

images = sh.load_dataset("fashion_mnist_10k").train.first(300)
batches = sh.Batches(images, batch_size=300)
torch.manual_seed(0)
model = torch.nn.Sequential(torch.nn.Flatten(), torch.nn.Linear(784, 32), torch.nn.ReLU(), torch.nn.Linear(32, 10))
optimizer = torch.optim.SGD(model.parameters(), lr=0.1, momentum=0.9)
x, y = next(iter(batches))
for _ in range(200):
    optimizer.zero_grad()
    torch.nn.functional.cross_entropy(model(x), y).backward()
    optimizer.step()
loss = sh.Loss(model, torch.nn.functional.cross_entropy, batches)

# %%
# A landscape is called on a loss and weights. Each point of its grid is a loss over all the data.

planes = {
    "two sharpest directions": sh.EigenPlane(num_points=21, span=1.0)(loss, loss.weights),
    "two random directions": sh.RandomPlane(num_points=21)(loss, loss.weights),
}
for name, plane in planes.items():
    print(f"{name}: {plane}")

with plots.styled():
    figure = plt.figure(figsize=(plots.WIDTHS["icml"][1], 3), layout="constrained")
    for place, (name, plane) in enumerate(planes.items(), 1):
        axes = figure.add_subplot(1, 2, place, projection="3d")
        plots.draw_surface(plane, axes).set_title(name)
plt.show()
