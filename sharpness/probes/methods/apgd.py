"""The largest value of a function in a ball by Auto-PGD (Croce & Hein 2020), which chooses its own step sizes."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor

from sharpness.vectors import norm

Objective = Callable[[Tensor], tuple[float, Tensor]]
"""Value and gradient at a point of a ball or box."""

MOMENTUM = 0.75  # alpha of the paper
ENOUGH = 0.75  # rho of the paper: the share of steps that must gain, or the step is halved


def _within_l2(u: Tensor, radius: float) -> Tensor:
    length = norm(u)
    return u * (radius / length) if length > radius else u


def _along_l2(gradient: Tensor) -> Tensor:
    length = norm(gradient)
    return gradient / length if length else gradient


def _random_l2(u: Tensor, radius: float, generator: torch.Generator) -> Tensor:
    v = torch.randn(u.shape, generator=generator, dtype=torch.float64)
    r = radius * float(torch.rand(1, generator=generator, dtype=torch.float64)) ** (1 / u.numel())
    return v * (r / norm(v))


def _random_linf(u: Tensor, radius: float, generator: torch.Generator) -> Tensor:
    return radius * (2 * torch.rand(u.shape, generator=generator, dtype=torch.float64) - 1)


@dataclass(frozen=True)
class Ball:
    """The norm of a ball around 0: its length, the nearest point inside, steepest ascent, a uniform random point."""

    length: Callable[[Tensor], float]
    nearest: Callable[[Tensor, float], Tensor]
    steepest: Callable[[Tensor], Tensor]
    random: Callable[[Tensor, float, torch.Generator], Tensor]


BALLS: dict[str, Ball] = {
    "l2": Ball(norm, _within_l2, _along_l2, _random_l2),
    "linf": Ball(lambda u: float(u.abs().max()), lambda u, r: u.clamp(-r, r), torch.sign, _random_linf),
}


@dataclass(frozen=True)
class Ascent:
    """The largest value found, where, and the gradients it took."""

    value: float
    point: Tensor
    num_gradients: int


def checkpoints(steps: int) -> list[int]:
    """Return the steps at which the step size is looked at, ``ceil(p_j N)`` with p_0 = 0, p_1 = 0.22, and then
    ``p_{j+1} = p_j + max(p_j - p_{j-1} - 0.03, 0.06)``.

    >>> checkpoints(20)
    [5, 9, 12, 14, 16, 18, 19, 20]
    """
    shares = [0.0, 0.22]
    while shares[-1] < 1:
        shares.append(shares[-1] + max(shares[-1] - shares[-2] - 0.03, 0.06))
    # Rounded first: the sums carry errors that would move a whole number to the next one.
    return sorted({min(math.ceil(round(share * steps, 9)), steps) for share in shares[1:]})


def apgd(objective: Objective, start: Tensor, ball: Ball, radius: float, steps: int) -> Ascent:
    """Return the largest value that ``steps`` steps of Auto-PGD from ``start`` meet, the start included.

    Algorithm 1 of Croce & Hein 2020 (arXiv 2003.01690): step 2 radius, momentum 0.75; at each checkpoint the step is
    halved, and the ascent goes on from the best point, if fewer than 0.75 of the steps since the last one gained, or if
    neither step nor best value have changed since. The direction is the normalised gradient for l2, its sign for linf.
    Deviation: where it goes on from the best point, the momentum starts anew.

    >>> found = apgd(lambda u: (float(u.sum()), torch.ones(2)), torch.zeros(2), BALLS["linf"], 0.5, 3)
    >>> found.value, found.num_gradients
    (1.0, 4)
    """
    u = previous = best = start
    value, gradient = objective(u)
    best_value, best_gradient = value, gradient
    eta, gains, looks = 2 * radius, 0, [0, *checkpoints(steps)]
    before = (eta, best_value)  # at the last checkpoint
    for step in range(1, steps + 1):
        moved = ball.nearest(u + eta * ball.steepest(gradient), radius)
        if step > 1:
            moved = ball.nearest(u + MOMENTUM * (moved - u) + (1 - MOMENTUM) * (u - previous), radius)
        u, previous, old = moved, u, value
        value, gradient = objective(u)
        gains += value > old
        if value > best_value:
            best_value, best, best_gradient = value, u, gradient
        if step in looks:
            since = step - looks[looks.index(step) - 1]
            stuck = gains < ENOUGH * since or before == (eta, best_value)
            before, gains = (eta, best_value), 0
            if stuck:
                eta, u, previous, value, gradient = eta / 2, best, best, best_value, best_gradient
    return Ascent(best_value, best, steps + 1)
