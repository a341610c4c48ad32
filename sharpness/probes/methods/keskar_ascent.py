"""The largest value of a function in the unit box, climbed from one start: by signs, then by projected L-BFGS."""

from __future__ import annotations

from dataclasses import dataclass, field

import torch
from torch import Tensor

from sharpness.probes.methods.apgd import Objective

PATIENCE = 5  # gradients, at least, over which the best value must grow
LAST_SHARE = 0.1  # of the climb so far, where that is more
SMALLEST_SIGN_STEP = 2.0**-10  # of the half width: where signs no longer help
SMALLEST_STEP = 2.0**-24  # where a line search gives up
MEMORY = 10  # pairs that L-BFGS keeps


@dataclass
class Climb:
    """The best point so far in ``[-1, 1]^p`` and the best value after each gradient.

    ``floor`` is what growth is measured from, ``num_gradients`` the ceiling; ``step`` is the largest move of a
    coordinate that was tried last, ``reason`` says how it ended.
    """

    objective: Objective
    floor: float
    rtol: float
    num_gradients: int
    point: Tensor = field(default_factory=lambda: torch.empty(0), init=False)
    gradient: Tensor = field(default_factory=lambda: torch.empty(0), init=False)
    best: list[float] = field(default_factory=list, init=False)
    step: float = field(default=1.0, init=False)
    reason: str = field(default="", init=False)

    def improves(self, u: Tensor) -> bool:
        """Evaluate at ``u`` and keep it if its value is the largest so far."""
        value, gradient = self.objective(u)
        better = not self.best or value > self.best[-1]
        if better:
            self.point, self.gradient = u, gradient
        self.best.append(value if better else self.best[-1])
        return better

    def spent(self) -> bool:
        """Say whether the ceiling is reached, and note it."""
        if len(self.best) >= self.num_gradients:
            self.reason = "out of gradients"
        return bool(self.reason)

    def stalled(self, since: int) -> bool:
        """Say whether the last gradients of the stage that began at gradient ``since`` raised the best value little."""
        window = max(PATIENCE, int(LAST_SHARE * len(self.best)))
        if len(self.best) - since <= window:
            return False
        return self.best[-1] - self.best[-1 - window] <= self.rtol * max(self.best[-1] - self.floor, 0.0)


def climb(objective: Objective, start: Tensor, floor: float, *, rtol: float, num_gradients: int) -> Climb:
    """Return the climb from ``start``: signs until they no longer help, then projected L-BFGS until it does not.

    A stage ends when the last tenth of the climb's gradients, and 5 at least, raised the best value by no more than
    ``rtol`` of its height over ``floor``.

    >>> found = climb(lambda u: (float(u @ u), 2 * u), torch.tensor([0.1, -0.2]), 0.0, rtol=1e-3, num_gradients=10)
    >>> found.best[-1], found.point, found.reason
    (2.0, tensor([ 1., -1.]), 'no ascent direction in the box')
    """
    state = Climb(objective, floor, rtol, num_gradients)
    state.improves(start)
    climb_by_signs(state)
    if not state.reason:
        climb_by_quasi_newton(state)
    return state


def climb_by_signs(state: Climb) -> None:
    """Project ``u + s sign(gradient)`` into the box again and again; a step that loses halves s.

    With s = 2 a step would be the linear maximisation of Frank and Wolfe; s = 1 lets the signs of large coordinates
    change gradually.
    """
    since = len(state.best)
    while state.step >= SMALLEST_SIGN_STEP and not state.stalled(since) and not state.spent():
        u = (state.point + state.step * state.gradient.sign()).clamp(-1, 1)
        if torch.equal(u, state.point):
            state.reason = "no ascent direction in the box"
        elif not state.improves(u):
            state.step /= 2


def climb_by_quasi_newton(state: Climb) -> None:
    """Move the coordinates that are free along the L-BFGS direction, projected, halving each step until it rises.

    This is the two-metric projection of Bertsekas 1982 (SIAM J. Control Optim. 20) with the two-loop recursion on the
    free coordinates, not the Cauchy point and subspace minimisation of L-BFGS-B.
    """
    pairs, since = list[tuple[Tensor, Tensor]](), len(state.best)
    while not state.stalled(since) and not state.spent():
        before, gradient = state.point, state.gradient
        free = ((before < 1) | (gradient < 0)) & ((before > -1) | (gradient > 0))
        direction = quasi_newton_direction(pairs, gradient * free) * free
        largest = float(direction.abs().max())
        if largest == 0:
            state.reason = "no ascent direction in the box"
        elif not rises_along(state, direction, 1.0 if pairs else state.step / largest):
            if not pairs:
                break
            pairs = []  # the projection can bend the direction down, but not the gradient itself
        else:
            s, y = state.point - before, gradient - state.gradient
            if float(s @ y) > 1e-10 * float(y @ y):  # only where the function bends down
                pairs = [*pairs[1 - MEMORY :], (s, y)]
    state.reason = state.reason or "stopped growing"


def rises_along(state: Climb, direction: Tensor, step: float) -> bool:
    """Move along a direction, projected into the box, halving the step until the value rises; say whether it did."""
    before, largest = state.point, float(direction.abs().max())
    while step * largest >= SMALLEST_STEP and not state.spent():
        if state.improves((before + step * direction).clamp(-1, 1)):
            return True
        step /= 2
    return False


def quasi_newton_direction(pairs: list[tuple[Tensor, Tensor]], gradient: Tensor) -> Tensor:
    """Return the two-loop recursion's ``H g`` (Nocedal 1980) for steps s and falls y of the gradient, ``s^T y > 0``.

    >>> s = torch.tensor([1.0, 0.0])
    >>> quasi_newton_direction([(s, 4 * s)], torch.tensor([4.0, 4.0]))
    tensor([1., 1.])
    """
    q, alphas = gradient.clone(), list[float]()
    for s, y in reversed(pairs):
        alphas.append(float(s @ q) / float(s @ y))
        q -= alphas[-1] * y
    if pairs:
        s, y = pairs[-1]
        q *= float(s @ y) / float(y @ y)
    for (s, y), alpha in zip(pairs, reversed(alphas), strict=True):
        q += (alpha - float(y @ q) / float(s @ y)) * s
    return q
