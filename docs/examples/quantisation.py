"""
How many bits do the weights need?
==================================

Rounding the weights to b bits moves each of them by up to half a step of the grid. If the roundings are independent
and the loss is a parabola, it rises by half the sum of curvature times variance of each weight, which the diagonal of
the Hessian gives. The example predicts the rise from the diagonal and compares it with the rise that is there.
"""

import matplotlib.pyplot as plt
import torch

import sharpness as sh

images = sh.load_dataset("fashion_mnist_10k").train.first(500)
batches = sh.Batches(images, batch_size=500)
torch.manual_seed(0)
model = torch.nn.Sequential(torch.nn.Flatten(), torch.nn.Linear(784, 32), torch.nn.Tanh(), torch.nn.Linear(32, 10))
optimizer = torch.optim.SGD(model.parameters(), lr=0.1, momentum=0.9)
x, y = next(iter(batches))
for _ in range(400):
    optimizer.zero_grad()
    torch.nn.functional.cross_entropy(model(x), y).backward()
    optimizer.step()
loss = sh.Loss(model, torch.nn.functional.cross_entropy, batches)
result = sh.Diagonal(num_hvps=64)(loss)
print(result)

# %%
# Each layer has a grid whose steps divide the range of its weights. Where the grid begins is drawn for each weight, 20
# times: the errors are then independent and uniform over a step, with a variance of a twelfth of its square.

w = loss.weights
layers = list(loss.layout.unflatten(torch.arange(len(w))).values())
bits = range(2, 9)
draws = torch.Generator().manual_seed(0)
there, predicted = [], []
for b in bits:
    steps = torch.zeros_like(w)
    for index in layers:
        steps[index.flatten()] = (w[index].max() - w[index].min()) / (2**b - 1)
    variance = steps**2 / 12
    rises = []
    for _ in range(20):
        shift = torch.rand(len(w), generator=draws)
        rises.append(loss.value(steps * (torch.round(w / steps - shift) + shift)) - loss.value(w))
    there.append(sum(rises) / len(rises))
    predicted.append(0.5 * float(result.diagonal.to(w.dtype) @ variance))
    print(f"{b} bits: the loss rises by {there[-1]:.2g} nats, predicted {predicted[-1]:.2g}")

# %%
# The parabola is right where the steps are small. With few bits the loss leaves it.

figure, axes = plt.subplots(figsize=(5, 3.2), layout="constrained")
axes.plot(bits, there, "o-", label="rise of the loss, mean of 20 roundings")
axes.plot(bits, predicted, "s--", label="predicted by the diagonal of the Hessian")
axes.set(xlabel="bits of each weight", ylabel="training loss [nats]", yscale="log")
axes.legend()
plt.show()
