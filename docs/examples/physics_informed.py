"""
Why is a physics-informed network hard to train?
================================================

A network is fitted to the equation ``-u'' = f`` with ``u(0) = u(1) = 0``. Its loss holds derivatives of the network
by its input, so the Hessian by the weights has third derivatives in it, which is fine. The spectrum says why such
losses are hard: a few directions are curved a million times as much as most others.
"""

import matplotlib.pyplot as plt
import torch

import sharpness as sh

torch.manual_seed(0)
network = torch.nn.Sequential(
    torch.nn.Linear(1, 16), torch.nn.Tanh(), torch.nn.Linear(16, 16), torch.nn.Tanh(), torch.nn.Linear(16, 1)
)


class Residual(torch.nn.Module):
    """``u'' + f`` at each point, for ``u = x (1 - x) network(x)``, which is 0 at both ends."""

    def __init__(self):
        super().__init__()
        self.network = network

    def forward(self, x):
        def u(point):
            return (point * (1 - point) * self.network(point[None])[0])[0]

        second = torch.func.vmap(torch.func.grad(lambda p: torch.func.grad(u)(p)[0]))(x)
        return second + torch.pi**2 * torch.sin(torch.pi * x)


x = torch.linspace(0.0, 1.0, 64)[:, None]
model, target = Residual(), torch.zeros(64, 1)
criterion = torch.nn.functional.mse_loss
loss = sh.Loss(model, criterion, [(x, target)], dtype=torch.float64)

# %%
# The whole Hessian is small enough to be made (321 weights), at the start and after training with Adam.

spectra = {"at the start": torch.linalg.eigvalsh(sh.to_dense(sh.HessianOperator(loss, loss.weights)))}
optimizer = torch.optim.Adam(model.parameters(), lr=3e-3)
for _ in range(1000):
    optimizer.zero_grad()
    value = criterion(model(x), target)
    value.backward()
    optimizer.step()
print(f"loss after training: {value.item():.2e}")
trained = sh.Loss(model, criterion, [(x, target)], dtype=torch.float64)
spectra["trained"] = torch.linalg.eigvalsh(sh.to_dense(sh.HessianOperator(trained, trained.weights)))
print(sh.TopEigenvalues(k=1)(trained))

figure, (left, right) = plt.subplots(1, 2, figsize=(8, 3.2), layout="constrained")
for name, eigenvalues in spectra.items():
    left.plot(sorted(eigenvalues.abs().tolist(), reverse=True), label=name)
left.set(xlabel="number", ylabel="eigenvalue of the Hessian (absolute)", yscale="log", xlim=(0, 200), ylim=(1e-9, None))
left.legend()
with torch.no_grad():
    solution = (x * (1 - x) * network(x))[:, 0]
right.plot(x[:, 0], solution, label="network")
right.plot(x[:, 0], torch.sin(torch.pi * x[:, 0]), "--", label="solution")
right.set(xlabel="x", ylabel="u")
right.legend()
plt.show()
