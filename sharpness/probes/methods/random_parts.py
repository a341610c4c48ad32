"""Intervals of eigenvalues and traces over a random choice, of examples or of drawn targets, by splitting it."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from torch import Tensor

from sharpness.curvature import CurvatureOperator, FisherOperator, curvature_operator
from sharpness.linalg.density import unit_signs
from sharpness.linalg.lanczos import extreme_eigenpairs
from sharpness.linalg.operators import SymmetricOperator
from sharpness.linalg.sampling import student
from sharpness.loss import Loss
from sharpness.loss.minibatches import Minibatches
from sharpness.machine.environment import derived_seed
from sharpness.vectors import dot

NUM_PARTS = 16
TRACE_PRODUCTS = 128  # with all parts together, which show the error of a trace over a choice
FEWEST_EXAMPLES = 2 * NUM_PARTS
CONFIDENCE = 0.95  # of an interval over the choice of examples
FEWEST_DRAWS = 4
ROUGHLY = 0.05  # the residual of a half's eigenvector, relative: a worse vector only widens the interval


@dataclass(frozen=True, kw_only=True)
class Spread:
    """An interval for the largest eigenvalue of E[A], A = (1 / m) sum_b A_b a mean of independent random parts.

    ``upper`` is the bound of A's own largest eigenvalue, which is too large on average (Jensen: it is convex in A),
    plus t standard errors of ``u^T A_b u``, u its eigenvector. ``lower`` is ``held_out``, the mean of ``u^T A_b u``
    with u the eigenvector of the half of the parts without b, less t of its standard errors: given u, its mean is
    ``u^T E[A] u``, which no direction can lift above the eigenvalue. For the smallest eigenvalue both are mirrored.
    """

    lower: float
    upper: float
    confidence: float
    held_out: float
    held_out_standard_error: float
    standard_error: float
    num_parts: int
    num_hvps: int


def spread_over(
    parts: Sequence[SymmetricOperator],
    weights: np.ndarray,
    top_of: Callable[[range], tuple[Tensor, int]],
    whole: Tensor,
    bound: float,
    *,
    sign: float,
    confidence: float,
) -> Spread:
    """Return the interval from an even number of parts (m) with weights (m,) of mean 1.

    ``top_of`` gives the extreme eigenvector of the mean of a range of parts and the products that took, ``whole`` is
    that of all parts, ``bound`` the outer bound of its eigenvalue; ``sign`` is -1 for the smallest eigenvalue.
    """
    half, cost = len(parts) // 2, 2 * len(parts)
    held_out, residuals = 0.0, list[np.ndarray]()
    for fit, test in ((range(half), range(half, 2 * half)), (range(half, 2 * half), range(half))):
        u, products = top_of(fit)
        cost += products
        mean, around = _forms([parts[b] for b in test], weights[list(test)], u)
        held_out, residuals = held_out + mean / 2, [*residuals, around]
    held_out_error = _error(np.concatenate(residuals), 2)
    error = _error(_forms(parts, weights, whole)[1], 1)
    inner = sign * held_out - student(len(parts) - 2, confidence) * held_out_error
    outer = sign * bound + student(len(parts) - 1, confidence) * error
    lower, upper = sorted((sign * min(inner, outer), sign * outer))
    return Spread(
        lower=lower,
        upper=upper,
        confidence=confidence,
        held_out=held_out,
        held_out_standard_error=held_out_error,
        standard_error=error,
        num_parts=len(parts),
        num_hvps=cost,
    )


def single_draws(operator: CurvatureOperator) -> list[FisherOperator]:
    """Return the matrix of each draw of a Fisher matrix; none where nothing is drawn."""
    if not isinstance(operator, FisherOperator) or operator.draws is None:
        return []
    return [operator.drawn(operator.first_draw + d, 1) for d in range(operator.draws)]


def forms_of_draws(operator: CurvatureOperator, v: Tensor) -> np.ndarray:
    """Return ``v^T F_d v`` of each draw d of a Fisher matrix; none where nothing is drawn."""
    return np.array([_form(part, v) for part in single_draws(operator)])


def half_width(values: np.ndarray, confidence: float) -> float:
    """Return Student's t times the standard error of a mean.

    >>> round(half_width(np.array([0.0, 2.0]), 0.95), 2)
    12.71
    """
    return student(len(values) - 1, confidence) * float(values.std(ddof=1)) / math.sqrt(len(values))


def _form(operator: SymmetricOperator, v: Tensor) -> float:
    return dot(v, operator.matvec(v))


def _forms(parts: Sequence[SymmetricOperator], weights: np.ndarray, u: Tensor) -> tuple[float, np.ndarray]:
    """Return the weighted mean of ``u^T A_b u`` and the weighted deviations from it."""
    forms = np.array([_form(A, u) for A in parts])
    mean = float(weights @ forms / weights.sum())
    return mean, weights * (forms - mean)


def _error(residuals: np.ndarray, fitted: int) -> float:
    """Return the standard error of a mean from residuals around ``fitted`` means of equal parts."""
    number = len(residuals)
    return math.sqrt(float(residuals @ residuals) / (number * (number - fitted)))


def over_draws(
    operator: FisherOperator, whole: Tensor, bound: float, *, sign: float, confidence: float, num_hvps: int, seed: int
) -> Spread:
    """Return the interval for the Fisher matrix itself, ``operator`` being the mean over 2 or more draws of it."""
    draws = operator.draws or 0
    first = operator.first_draw

    def top_of(part: range) -> tuple[Tensor, int]:
        return _vector(operator.drawn(first + part.start, len(part)), sign, num_hvps, seed)

    even = draws - draws % 2
    parts = [operator.drawn(first + d, 1) for d in range(even)]
    return spread_over(parts, np.ones(even), top_of, whole, bound, sign=sign, confidence=confidence)


def over_examples(
    loss: Loss,
    w: Tensor,
    options: dict[str, Any],
    whole: Tensor,
    bound: float,
    *,
    sign: float,
    confidence: float,
    num_hvps: int,
    seed: int,
    of: Callable[[CurvatureOperator], SymmetricOperator] = lambda matrix: matrix,
) -> Spread:
    """Return the interval for the matrix over the distribution that the examples of the loss were drawn from.

    ``options`` are those of :func:`sharpness.curvature.curvature_operator`, and ``of`` the linear function of the
    matrix whose eigenvalue it is.
    """
    batches = Minibatches(loss).parts(NUM_PARTS, seed, "choice of examples")
    counts = np.array([float(loss.data.count(batch)) for batch in batches])

    def operator(part: range) -> SymmetricOperator:
        return of(curvature_operator(loss=loss.over([batches[b] for b in part]), w=w, **options))

    parts = [operator(range(b, b + 1)) for b in range(NUM_PARTS)]
    return spread_over(
        parts,
        counts / counts.mean(),
        lambda part: _vector(operator(part), sign, num_hvps, seed),
        whole,
        bound,
        sign=sign,
        confidence=confidence,
    )


def trace_over_examples(
    loss: Loss, w: Tensor, options: dict[str, Any], value: float, half: float, *, seed: int, name: str
) -> dict[str, Any]:
    """Return the interval of a trace over the distribution that the examples were drawn from, and its products.

    The trace is a mean over examples, so ``value`` has no bias; t standard errors over random parts
    (:func:`error_of_trace`) are added to ``half``, that of its own interval. The result has the fields of a record:
    ``sampling`` and ``num_hvps``, or the reason for none.
    """
    if why := no_spread(loss):
        return {"num_hvps": 0, "reasons": {"sampling": why}}
    batches = Minibatches(loss).parts(NUM_PARTS, seed, "choice of examples")
    counts = np.array([float(loss.data.count(batch)) for batch in batches])
    parts = [curvature_operator(loss=loss.over([batch]), w=w, **options) for batch in batches]
    error, freedom, cost = error_of_trace(parts, counts / counts.mean(), seed, name, "examples")
    wide = half + student(freedom, CONFIDENCE) * error
    interval = {"lower": value - wide, "upper": value + wide, "confidence": CONFIDENCE}
    found = interval | {"standard_error": error, "num_parts": NUM_PARTS, "num_hvps": cost}
    return {"num_hvps": cost, "reasons": {}, "sampling": found}


def error_of_trace(
    parts: Sequence[SymmetricOperator], weights: np.ndarray, seed: int, *names: str
) -> tuple[float, int, int]:
    """Return the standard error of a mean of traces of parts with weights of mean 1, its degrees of freedom, and cost.

    Each part is compared with one other, both by the same random v: the square of ``n v^T (A_b - A_c) v`` is on average
    the square of the difference of the traces, and some more. Each pair has vectors of its own: those that miss the
    direction in which all parts vary hide it from one pair alone. An odd part is left out.
    """
    pairs = len(parts) // 2
    number = math.ceil(TRACE_PRODUCTS / (2 * pairs))
    squares = np.zeros(pairs)
    for pair in range(pairs):
        one, other = parts[2 * pair : 2 * pair + 2]
        units = (unit_signs(one, derived_seed(seed, *names, pair, i)) for i in range(number))
        difference = one.size * np.mean([_form(one, v) - _form(other, v) for v in units])
        squares[pair] = weights[2 * pair] * weights[2 * pair + 1] * difference**2 / 2
    return math.sqrt(float(squares.mean()) / len(parts)), pairs, 2 * pairs * number


def added(fields: dict[str, Any], found: dict[str, Any]) -> dict[str, Any]:
    """Return the fields of a result with what was found over a choice: its products are added, its reasons join.

    >>> added({"num_hvps": 3, "reasons": {"a": "b"}}, {"num_hvps": 2, "reasons": {}, "sampling": None})
    {'num_hvps': 5, 'reasons': {'a': 'b'}, 'sampling': None}
    """
    joint = {"num_hvps": fields["num_hvps"] + found["num_hvps"], "reasons": fields["reasons"] | found["reasons"]}
    return fields | found | joint


def mean_over_examples(value: float, shares: np.ndarray) -> dict[str, Any]:
    """Return the interval of an exact mean over examples, ``value = sum(shares)``, over their choice.

    >>> found = mean_over_examples(4.0, np.array([1.0, 1.0, 1.0, 1.0]))
    >>> found["lower"], found["upper"]
    (4.0, 4.0)
    """
    number = len(shares)
    error = _error(number * shares - value, 1)
    wide = student(number - 1, CONFIDENCE) * error
    interval = {"lower": value - wide, "upper": value + wide, "confidence": CONFIDENCE}
    return interval | {"standard_error": error, "num_parts": number, "num_hvps": 0}


def no_spread(loss: Loss) -> str:
    """Return why there is no interval over the choice of the examples of a loss, or nothing."""
    if not loss.data.divisible:
        return "the loss belongs to its batches as they are, so its examples cannot be split"
    if loss.data.summed:
        return "the criterion sums, so the value grows with the examples"
    if loss.num_examples < FEWEST_EXAMPLES:
        return f"{loss.num_examples} examples are too few to split: {FEWEST_EXAMPLES} are the least"
    return ""


def _vector(operator: SymmetricOperator, sign: float, num_hvps: int, seed: int) -> tuple[Tensor, int]:
    """Return the extreme eigenvector of an operator, roughly, and the products it took."""
    which = "top" if sign > 0 else "bottom"
    pairs = extreme_eigenpairs(
        operator, which=which, rtol=ROUGHLY, stop_on="residual", num_products=num_hvps, max_basis=num_hvps, seed=seed
    )
    assert pairs.eigenvectors is not None
    return pairs.eigenvectors[0], pairs.num_products
