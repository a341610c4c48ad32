"""
How sharp is the minimum of an image classifier?
================================================

Train a small network on images that ship inside the package, ask for the largest eigenvalue of the Hessian with a
proven interval, and look at the loss along its eigenvector.
"""

import matplotlib.pyplot as plt
import torch

import sharpness as sh

torch.manual_seed(0)
images = sh.load_dataset("fashion_mnist_10k").train.first(1000)
batches = sh.Batches(images, batch_size=500)
model = torch.nn.Sequential(torch.nn.Flatten(), torch.nn.Linear(784, 32), torch.nn.Tanh(), torch.nn.Linear(32, 10))

# %%
# Any training loop will do. This one takes 40 passes over the data.

optimizer = torch.optim.SGD(model.parameters(), lr=0.2, momentum=0.9)
for _ in range(40):
    for x, y in batches:
        optimizer.zero_grad()
        torch.nn.functional.cross_entropy(model(x), y).backward()
        optimizer.step()

# %%
# A ``Loss`` is the mean loss over all batches as a function of one flat vector of weights. It checks itself before the
# first number: the data hold still, the mean is one, and the derivatives are derivatives.

loss = sh.Loss(model, torch.nn.functional.cross_entropy, batches)
result = sh.TopEigenvalues(k=1, rtol=1e-2, confidence=0.99)(loss)
print(result)

# %%
# The eigenvalue is the curvature along its eigenvector. A parabola of that curvature, drawn through the value and the
# slope at the weights, fits the loss nearby. Further away the loss is no parabola: sharpness is a local number.

w, direction = loss.weights, result.eigenvectors[0]
steps = torch.linspace(-1.0, 1.0, 41)
values = [loss.value(w + float(step) * direction) for step in steps]
slope = float(loss.grad(w) @ direction)
parabola = loss.value(w) + slope * steps + 0.5 * float(result.eigenvalues[0]) * steps**2

figure, axes = plt.subplots(figsize=(5, 3.2), layout="constrained")
axes.plot(steps, values, label="loss")
axes.plot(steps, parabola, "--", label=r"parabola of curvature $\lambda_{\max}$")
axes.axvline(0, color="0.7", linewidth=0.8, zorder=0)
axes.set(xlabel="distance along the top eigenvector", ylabel="training loss [nats]")
axes.legend()
plt.show()
