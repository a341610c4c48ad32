"""Walks of small steps and the one large step that they are compared with, from the weights of a network."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator, Sequence

import torch
from torch import Tensor, nn
from torch.nn.functional import cross_entropy

from sharpness.vectors import assign, flatten


def gradients(model: nn.Module, inputs: Tensor, targets: Tensor) -> tuple[Tensor, ...]:
    """Return the gradient of the mean cross-entropy over a batch, by parameter."""
    return torch.autograd.grad(cross_entropy(model(inputs), targets), list(model.parameters()))


def flat_gradient(model: nn.Module, inputs: Tensor, targets: Tensor) -> Tensor:
    """Return the gradient over a batch as one vector, shape (n,)."""
    return torch.cat([part.reshape(-1) for part in gradients(model, inputs, targets)])


def descend(model: nn.Module, inputs: Tensor, targets: Tensor, rate: float, decay: float = 0.0) -> None:
    """Take one step of plain gradient descent on a batch: ``w <- w - rate (grad + decay w)``, in place."""
    moved = list(model.parameters())
    parts = gradients(model, inputs, targets)
    with torch.no_grad():
        for p, g in zip(moved, parts, strict=True):
            p.sub_(g + decay * p if decay else g, alpha=rate)


@contextlib.contextmanager
def back_after(model: nn.Module) -> Iterator[Tensor]:
    """Give the weights as a vector, and put them back in the end."""
    before = flatten(model)
    try:
        yield before
    finally:
        assign(model, before)


def relative_distances(
    model: nn.Module, inputs: Tensor, targets: Tensor, rate: float, sizes: Sequence[int], small: int = 1
) -> dict[int, tuple[float, float]]:
    r"""Return for each B the relative distance of the two end points, and the length of the one large step.

    From the weights w that the model has: B / b steps of batches of b = ``small`` at the rate eta over the first B
    examples, against one step of the batch of these B at (B / b) eta. To first order in eta the small steps see
    ``g_i(w_i) = g_i + H_i (w_i - w)``, so the end points differ by ``eta^2 sum_i H_i sum_{j < i} g_j``: with one
    gradient g and one Hessian H for all, ``|difference| / |step| = eta (B/b - 1) / 2 |H g| / |g|``, at most
    ``eta (B/b - 1) lambda_max / 2`` where H has no larger eigenvalue below 0. The weights are put back.

    The end points of all B lie on one walk, so it is as long as the largest B alone. B must be multiples of b.
    """
    found: dict[int, tuple[float, float]] = {}
    with back_after(model) as start:
        steps = {B: -rate * (B // small) * flat_gradient(model, inputs[:B], targets[:B]) for B in sizes}
        for first in range(0, max(sizes), small):
            descend(model, inputs[first : first + small], targets[first : first + small], rate)
            B = first + small
            if B in steps:
                length = float(steps[B].norm())
                apart = float((flatten(model) - start - steps[B]).norm())
                found[B] = (apart / length if length else float("nan"), length)
    return found
