"""The gradient is a derivative: the slope along a random direction against differences of the loss.

It is tested on a few examples at a point beside the weights, where rectifiers do not sit on their kinks, in float64
where that is possible. Differences are believed where three steps in a row agree; what they cannot decide is said.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from sharpness.loss.double import first_that_works
from sharpness.loss.graphs import MissingDerivativeError
from sharpness.machine.distributed import from_all_ranks, locally
from sharpness.vectors import dot, is_finite, norm, random_unit_vector

if TYPE_CHECKING:
    from sharpness.loss.loss import Loss

ASIDE = 1e-3  # of 1 + |w|: how far the check is from the weights themselves
STEPS = {torch.float64: (1e-3, 1e-4, 1e-5, 1e-6, 1e-7)}  # of 1 + |w|
COARSE_STEPS = (3e-2, 1e-2, 3e-3, 1e-3)
TOLERANCE = {torch.float64: 1e-3}  # relative: below it derivatives agree with differences
COARSE_TOLERANCE = 5e-2
CONVERGED = 0.05  # of the disagreement: so little differences of three steps in a row change where they are believed
UNREACHED = "does not reach the weights"
NO_DERIVATIVE = "is not the derivative of the loss"
FAILED = "not tested, for the test failed: "
PART_OF_A_CHECK = "not tested: a part of a check"


@dataclass(frozen=True)
class Comparison:
    """A derivative against differences: their relative disagreement, and whether it is decided, and how."""

    disagreement: float
    agrees: bool
    refuted: bool

    @property
    def said(self) -> str:
        """The words in a record: the disagreement, or that differences cannot tell."""
        if self.agrees:
            return f"agrees with differences to {self.disagreement:.0e}"
        return "disagrees with differences" if self.refuted else "could not be told from differences"


def compared(
    exact: Tensor, quotient: Callable[[float], Tensor], floor: float, dtype: torch.dtype, scale: float
) -> Comparison:
    """Return how a derivative compares with difference quotients of smaller and smaller steps.

    ``floor`` is the length below which nothing is compared; ``scale`` multiplies the steps.
    """
    tolerance, found = TOLERANCE.get(dtype, COARSE_TOLERANCE), list[tuple[Tensor, float]]()
    least = float("inf")
    for step in STEPS.get(dtype, COARSE_STEPS):
        difference = quotient(step * scale)
        if not is_finite(difference):
            continue
        length = max(norm(exact), norm(difference), floor)
        error = norm(exact - difference) / length if length > 0 else 0.0
        least = min(least, error)
        if error <= tolerance:
            return Comparison(error, agrees=True, refuted=False)
        found.append((difference, length))
    return Comparison(least, agrees=False, refuted=_believed(found, least))


def _believed(found: Sequence[tuple[Tensor, float]], disagreement: float) -> bool:
    """Return whether three differences in a row change much less than they disagree with the derivative."""
    changes = [norm(a - b) / length for (a, length), (b, _) in itertools.pairwise(found)]
    return any(max(pair) <= CONVERGED * disagreement for pair in itertools.pairwise(changes))


def beside(w: Tensor) -> Tensor:
    """Return a point beside ``w``, at a distance of :data:`ASIDE` times ``1 + |w|``."""
    aside = random_unit_vector(w.numel(), 11, w.dtype, w.device)
    return w + ASIDE * (1 + norm(w)) * aside


def check_slope(loss: Loss) -> str:
    """Return what a test of the gradient found, the same on all processes: one sentence without its subject."""
    with locally():
        said = _check(loss)
    every = from_all_ranks(said)
    return next((one for one in every if UNREACHED in one or NO_DERIVATIVE in one), said)


def _check(loss: Loss) -> str:
    return on_few_examples(loss, _slope)


def on_few_examples(loss: Loss, test: Callable[[Loss], str]) -> str:
    """Return what a test of the loss over a few examples says, without penalty, in the first precision that works.

    Where none does it says so, with the reason.
    """
    if not loss.few_examples(1):
        return "not tested: no data in this process"

    def attempt(dtype: torch.dtype, most: int) -> str:
        small = loss.with_weight_decay(0.0).in_precision(dtype).over(loss.few_examples(most))
        small.checks = {"slope": PART_OF_A_CHECK}
        return test(small)

    try:
        return first_that_works(loss, attempt)
    except MissingDerivativeError:
        raise
    except Exception as error:  # whatever the user's code raises, it raises again where it is measured
        return f"{FAILED}{type(error).__name__}: {' '.join(str(error).split())[:160]}"


def _slope(loss: Loss) -> str:
    w = beside(loss.weights)
    if not is_finite(w):
        return "not tested: weights that are not finite"
    if not loss.reaches(w):
        return UNREACHED
    gradient = loss.grad(w)
    if not is_finite(gradient):
        return "not tested: a gradient that is not finite"
    direction = random_unit_vector(w.numel(), 12, w.dtype, w.device)

    def quotient(step: float) -> Tensor:
        rise = loss.value(w + step * direction) - loss.value(w - step * direction)
        return torch.tensor([rise / (2 * step)], dtype=torch.float64)

    exact = torch.tensor([dot(gradient, direction)], dtype=torch.float64)
    floor = norm(gradient) / w.numel() ** 0.5
    result = compared(exact, quotient, floor, loss.dtype, 1 + norm(w))
    if result.refuted:
        return (
            f"{NO_DERIVATIVE}: along a random direction it rises by {exact.item():.3g} by autograd and otherwise by "
            "differences, as with a straight-through estimator or a detach"
        )
    return f"the gradient {result.said}"
