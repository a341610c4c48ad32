r"""SGD and the stochastic differential equation that stands for it, for many copies of a model side by side.

An update of SGD is ``w <- w - eta grad_B``, its batch of B of the n examples drawn anew, without replacement. Smith &
Le 2018 (arXiv 1710.06451, section 5) let the equation ``dw = -grad L dt + noise`` stand for it, an update taking the
time eta, with the noise scale ``g = eta (n / B - 1)``. The covariance of an update over eta is then
``g / (n - 1) Sigma``, with ``Sigma = sum_i (g_i - grad L)(g_i - grad L)' / n`` over the gradients g_i of the examples:
exactly, as a mean of B of n numbers without replacement has ``(n - B) / (B (n - 1))`` of their variance.

Here the equation ``dw = -grad L dt + sqrt(g / (n - 1) Sigma(w)) dW`` is integrated by the method of Euler and Maruyama.
Neither Sigma nor its root is formed: a sum of the g_i with Gaussian weights has that covariance, and is one gradient.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import partial

import torch
from torch import Tensor

Weights = Sequence[Tensor]
"""The parameters of all copies, each of shape (copies, ...)."""


@dataclass(frozen=True)
class Problem:
    """A model and its examples: ``losses(weights, inputs, targets)`` are those of each copy, shape (copies, examples).

    ``inputs`` are (n, d), shared by the copies, and ``targets`` (copies, n) their own. A batch has inputs of shape
    (copies, B, d).
    """

    losses: Callable[[Weights, Tensor, Tensor], Tensor]
    inputs: Tensor
    targets: Tensor

    @property
    def whole(self) -> tuple[Tensor, Tensor]:
        """All inputs, shape (copies, n, d), and targets."""
        return self.inputs.expand(len(self.targets), *self.inputs.shape), self.targets

    def loss(self, weights: Weights) -> Tensor:
        """Return the mean loss over all examples, shape (copies,)."""
        with torch.no_grad():
            return self.losses(weights, *self.whole).mean(1)


def descent(
    problem: Problem, start: Weights, batch: int, rate: float, steps: int, seed: int, momentum: float = 0.0
) -> Iterator[Weights]:
    """Yield the weights after each update of SGD; they are the same tensors each time, changed in place.

    With momentum ``v <- m v + grad_B``, ``w <- w - eta v``, as torch.optim.SGD has it.

    >>> square = Problem(lambda w, x, y: (x[..., 0] * w[0] - y) ** 2 / 2, torch.ones(4, 1), torch.zeros(1, 4))
    >>> [round(float(w[0].detach()), 6) for w in descent(square, [torch.ones(1, 1)], 2, 0.5, 2, seed=0)]
    [0.5, 0.25]
    """
    generator = torch.Generator().manual_seed(seed)
    count = len(problem.inputs)

    def gradient(weights: Weights) -> Sequence[Tensor]:
        inputs, targets = problem.whole
        if batch < count:
            rows = torch.rand(targets.shape, generator=generator).topk(batch, dim=1).indices.to(targets.device)
            inputs, targets = problem.inputs[rows], targets.gather(1, rows)
        return torch.autograd.grad(problem.losses(weights, inputs, targets).mean(1).sum(), list(weights))

    return _walk(start, gradient, rate, steps, momentum)


def diffusion(
    problem: Problem, start: Weights, noise_scale: float, step: float, steps: int, seed: int
) -> Iterator[Weights]:
    """Yield the weights after each Euler-Maruyama step of the equation, as :func:`descent` does.

    ``w <- w - h sum_i s_i g_i`` with ``s`` of :func:`shares`. A step of h = eta is SGD with Gaussian noise; the
    equation itself is the limit of small h, so that one walk stands for all learning rates of a noise scale.
    """
    generator = torch.Generator().manual_seed(seed)
    draw = partial(shares, noise_scale, step, problem.targets.shape, generator)

    def gradient(weights: Weights) -> Sequence[Tensor]:
        losses = problem.losses(weights, *problem.whole)
        return torch.autograd.grad((losses * draw().to(losses)).sum(), list(weights))

    return _walk(start, gradient, step, steps, 0.0)


def shares(noise_scale: float, step: float, shape: Sequence[int], generator: torch.Generator) -> Tensor:
    """Return the weights of the examples in an Euler-Maruyama step of size h, of ``shape`` (copies, n).

    ``s_i = 1 / n + sqrt(g / (n (n - 1) h)) (xi_i - mean xi)`` with standard normal xi: so ``h sum_i s_i g_i`` has the
    mean ``h grad L`` and the covariance ``h g / (n - 1) Sigma``.
    """
    count = shape[-1]
    normal = torch.randn(*shape, generator=generator)
    size = (noise_scale / (count * max(count - 1, 1) * step)) ** 0.5
    return 1 / count + size * (normal - normal.mean(1, keepdim=True))


def _walk(
    start: Weights, gradient: Callable[[Weights], Sequence[Tensor]], rate: float, steps: int, momentum: float
) -> Iterator[Weights]:
    weights = [each.detach().clone().requires_grad_() for each in start]
    velocity = [torch.zeros_like(each) for each in weights]
    for _ in range(steps):
        slopes = gradient(weights)
        with torch.no_grad():
            for w, v, slope in zip(weights, velocity, slopes, strict=True):
                v.mul_(momentum).add_(slope)
                w.sub_(v, alpha=rate)
        yield weights
