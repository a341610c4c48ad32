"""The products are those of a symmetric matrix of second derivatives: tested on a few examples before the first one.

Autograd's second derivative is wrong without a word behind hand-written backward passes that keep constants, behind
some kernels, and where it is NaN though the gradient is finite. Differences of gradients, in float64 at a point beside
the weights, tell.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch
from torch import Tensor

from sharpness.loss.graphs import MissingDerivativeError
from sharpness.loss.slope import beside, compared, on_few_examples
from sharpness.machine.distributed import from_all_ranks, locally
from sharpness.vectors import dot, is_finite, norm, random_unit_vector, sha256_of

if TYPE_CHECKING:
    from sharpness.curvature.kept_graphs import CurvatureOperator
    from sharpness.loss import Loss

MISSING = "are missing"
WRONG = "are wrong by autograd"
NOT_SYMMETRIC = "are not symmetric"
SYMMETRY = {torch.float64: 1e-5}  # of the usual size of <u, H v> for random u and v
COARSE_SYMMETRY = 5e-2
DIFFERENCE_STEP = {torch.float64: 1e-5}  # of 1 + |w|
COARSE_STEP = 1e-2
DIFFERENCES_SYMMETRY = 5e-2  # differences of gradients are that near to symmetric where they are of a function
NO_FUNCTION = "the gradient is no derivative of any function, so there are no eigenvalues"


def check_products(operator: CurvatureOperator) -> str:
    """Return what a test of the products found, the same on all processes, once for each matrix and point of a loss."""
    loss = operator.loss
    key = (operator.matrix, loss.layout.names, sha256_of([operator.w]))
    if key not in loss.checked_products:
        with locally():
            said = _check(operator)
        every = from_all_ranks(said)
        said = next((one for one in every if any(bad in one for bad in (MISSING, WRONG, NOT_SYMMETRIC))), said)
        loss.checked_products[key] = said
        loss.checks[f"{operator.matrix} products"] = said
    return loss.checked_products[key]


def _check(operator: CurvatureOperator) -> str:
    try:
        return on_few_examples(operator.loss.with_point(operator.w), lambda small: _tested(operator, small))
    except MissingDerivativeError as error:
        return f"{MISSING}: {error}"


def _tested(operator: CurvatureOperator, small: Loss) -> str:
    w = beside(small.weights)
    other = operator.alike(small, w)
    u, v = (random_unit_vector(w.numel(), seed, w.dtype, w.device) for seed in (13, 14))
    along_u, along_v = other.matmat(torch.stack([u, v], dim=1)).T
    if not (is_finite(along_u) and is_finite(along_v)):
        return f"{WRONG}: NaN or infinite where the gradient is finite, as of a norm or a root at 0"
    result = compared(along_v, lambda step: other.quotient(v, step), 0.0, small.dtype, 1 + norm(w))
    if result.refuted:
        step = DIFFERENCE_STEP.get(small.dtype, COARSE_STEP) * (1 + norm(w))
        if _asymmetry(u, v, *(other.quotient(x, step) for x in (u, v))) > DIFFERENCES_SYMMETRY:
            return f"{NOT_SYMMETRIC}: neither by autograd nor by differences, {NO_FUNCTION}"
        return f"{WRONG}: they disagree with differences by {result.disagreement:.2g} of their length"
    asymmetry = _asymmetry(u, v, along_u, along_v)
    if asymmetry > SYMMETRY.get(small.dtype, COARSE_SYMMETRY):
        if result.agrees:
            return f"{NOT_SYMMETRIC}: {NO_FUNCTION}"
        return f"{WRONG}: <u, Hv> and <v, Hu> differ by {asymmetry:.2g} of their usual size"
    return result.said


def _asymmetry(u: Tensor, v: Tensor, along_u: Tensor, along_v: Tensor) -> float:
    """Return ``|<u, Hv> - <v, Hu>|`` over the usual size of such a number for random directions."""
    usual = (norm(along_u) + norm(along_v)) / u.numel() ** 0.5
    difference = abs(dot(u, along_v) - dot(v, along_u))
    return difference / usual if usual > 0 else 0.0
