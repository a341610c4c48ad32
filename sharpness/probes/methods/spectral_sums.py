"""Sums of a function over all eigenvalues, from the quadratures of a spectral density."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np

from sharpness.linalg.density import SpectralDensity
from sharpness.linalg.sampling import student


@dataclass(frozen=True)
class SpectralSum:
    """``sum_i f(lambda_i)`` with the standard error of the starts, and its interval.

    ``gap`` is how far apart Gauss's and Radau's sums are; it and ``lower`` are ``None`` without the latter.
    """

    value: float
    standard_error: float
    lower: float | None
    upper: float
    gap: float | None


def spectral_sum(
    density: SpectralDensity, f: Callable[[np.ndarray], np.ndarray], confidence: float, floor: float
) -> SpectralSum:
    """Return the sum over the n eigenvalues of an ``f`` whose derivatives alternate in sign, the first one positive.

    Such are ``log(x + c)`` and ``-1 / (x + c)``. From at least two random starts. Gauss's rule then makes the sum of
    each start too large, and Radau's with a node at ``floor``, which no eigenvalue lies below, too small
    (:meth:`sharpness.linalg.quadrature.Quadrature.from_below`). The value is halfway between their means, and the
    interval holds those of both: Student's t, starts - 1 degrees of freedom, times their standard errors. Where f is
    NaN or infinite down there, the value is Gauss's and there is no lower end.

    >>> import torch
    >>> from sharpness.linalg.density import spectral_density
    >>> from sharpness.linalg.operators import FunctionOperator
    >>> density = spectral_density(FunctionOperator(lambda v: 2 * v, 5, torch.float64), steps=2, starts=2)
    >>> spectral_sum(density, np.sqrt, 0.95, 0.0).value == 5 * math.sqrt(2)
    True
    """
    t = student(len(density.rules) - 1, confidence)
    above, error = _mean(density.size, [(rule.nodes, rule.weights) for rule in density.rules], f)
    below, other_error = _mean(density.size, [rule.from_below(floor) for rule in density.rules], f)
    if not math.isfinite(below):
        return SpectralSum(above, error, None, above + t * error, None)
    lower, upper = min(above - t * error, below - t * other_error), max(above + t * error, below + t * other_error)
    return SpectralSum((below + above) / 2, max(error, other_error), lower, upper, abs(above - below))


def _mean(
    size: int, rules: list[tuple[np.ndarray, np.ndarray]], f: Callable[[np.ndarray], np.ndarray]
) -> tuple[float, float]:
    """Return the mean over the starts of the sum of ``f``, and its standard error.

    That is the larger of the one seen between the starts and ``sqrt(2 n Var f / starts)``
    (:class:`sharpness.linalg.density.SpectralDensity`).
    """
    values = [(weights, f(nodes)) for nodes, weights in rules]
    means = np.array([weights @ value for weights, value in values])
    squares = np.array([weights @ value**2 for weights, value in values])
    variance = max(float(squares.mean() - means.mean() ** 2), 0.0)
    if variance < 1e-12 * float(squares.mean()):  # what is left of equal values after the difference
        variance = 0.0
    by_formula = math.sqrt(2 * variance / (size * len(rules)))
    return size * float(means.mean()), size * max(by_formula, float(means.std(ddof=1)) / math.sqrt(len(rules)))
