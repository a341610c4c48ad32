"""Stochastic gradient Langevin dynamics around one point, and what its chains tell about each other."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

STEP_SHARE = 0.2  # of what is stable, 4 / a: the stationary variance is then 5 % too large along the stiffest direction


@dataclass(frozen=True)
class Tempered:
    """The density ``exp(-nbeta L(w) - localization / 2 ||w - w*||^2)``: nbeta per unit of loss, localization >= 0."""

    nbeta: float
    localization: float

    def stable_step(self, largest_eigenvalue: float) -> float:
        """Return a step whose stationary variance is at most 5 % too large: ``0.2 / (nbeta lambda + localization)``."""
        return STEP_SHARE / (self.nbeta * max(largest_eigenvalue, 0.0) + self.localization)

    def gaussian(self, h: np.ndarray, step: float = 0.0) -> np.ndarray:
        """Return what each eigenvalue h contributes to the learning coefficient where the loss is quadratic.

        ``1/2 nbeta h v`` with v the variance of w along it: ``1 / (a (1 - step a / 4))``, a = nbeta h + localization;
        ``step = 0`` is the density itself. NaN where there is no such variance.
        """
        a = self.nbeta * h + self.localization
        inverse = a * (1 - step * a / 4)
        variance = np.divide(1.0, inverse, where=(a > 0) & (step * a < 4), out=np.full(a.shape, np.nan))
        return 0.5 * self.nbeta * h * variance

    def memory(self, smallest: float, largest: float, step: float) -> float:
        """Return how much a step leaves of the distance to the stationary variance, in the slowest direction.

        ``(1 - step a / 2)^2`` where the loss is quadratic with eigenvalues between these two, and 1 where it is no
        less: nothing then holds the chain. From the centre the variance after t steps is ``1 - memory^t`` of the
        stationary one or more.

        >>> round(Tempered(10.0, 1.0).memory(0.0, 2.0, step=0.01), 6)                # a = 1 and 21
        0.990025
        """
        ends = (self.nbeta * h + self.localization for h in (smallest, largest))
        return min(1.0, max(abs(1 - step * a / 2) for a in ends) ** 2)


def langevin_losses(
    value_and_grad: Callable[[Tensor, int], tuple[float, Tensor]],
    centre: Tensor,
    target: Tempered,
    step: float,
    num_steps: int,
    noise: Callable[[int], Tensor],
) -> tuple[np.ndarray, float]:
    """Return the loss at each of ``num_steps`` points of a chain from ``centre``, and the distance of the last from it.

    ``w <- w + step/2 (-nbeta g + localization (w* - w)) + sqrt(step) noise(t)``, without a correction for the step
    (Welling and Teh 2011, a constant step; Lau et al. 2023). ``value_and_grad(w, t)`` may be of a random batch. A loss
    that is not finite ends the chain: it is the last one returned.

    >>> losses, distance = langevin_losses(
    ...     lambda w, t: (float(w @ w) / 2, w), torch.zeros(2), Tempered(10.0, 1.0), 0.01, 3, lambda t: torch.zeros(2))
    >>> losses.tolist(), distance
    ([0.0, 0.0, 0.0], 0.0)
    """
    w, losses = centre.clone(), []
    for t in range(num_steps):
        value, gradient = value_and_grad(w, t)
        losses.append(value)
        if not math.isfinite(value):
            break
        pull = target.localization * (centre - w) - target.nbeta * gradient
        w = w + step / 2 * pull + math.sqrt(step) * noise(t)
    return np.array(losses), float(torch.linalg.vector_norm(w - centre))


def split_r_hat(chains: np.ndarray) -> float:
    """Return Gelman and Rubin's R-hat of chains (m, t), each cut into halves: near 1 where all agree.

    >>> round(split_r_hat(np.random.default_rng(0).standard_normal((4, 1000))), 2)
    1.0
    >>> split_r_hat(np.ones((2, 4)))
    1.0
    """
    half = chains.shape[1] // 2
    parts = np.concatenate([chains[:, :half], chains[:, half : 2 * half]])
    within, between = float(parts.var(axis=1, ddof=1).mean()), float(parts.mean(axis=1).var(ddof=1))
    if within == 0:
        return 1.0 if between == 0 else math.inf
    return math.sqrt((half - 1) / half + between / within)
