"""Sums of a function over all eigenvalues, from the quadratures of a spectral density."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
from scipy.special import stdtrit

from sharpness.linalg.density import SpectralDensity


@dataclass(frozen=True)
class SpectralSum:
    """``sum_i f(lambda_i)`` with its standard error, and its interval by Student's t over the starts."""

    value: float
    standard_error: float
    lower: float
    upper: float


def spectral_sum(density: SpectralDensity, f: Callable[[np.ndarray], np.ndarray], confidence: float) -> SpectralSum:
    """Return the sum of ``f`` over the n eigenvalues, from the nodes and weights of at least two random starts.

    The sum of each start is unbiased up to the quadrature's own error, which falls with its steps, the faster the
    smoother f is. The standard error is the larger of that seen between the starts and ``sqrt(2 n Var f / starts)``
    (:class:`sharpness.linalg.density.SpectralDensity`); the half width is t, starts - 1 degrees of freedom, times it.

    >>> import torch
    >>> from sharpness.linalg.density import spectral_density
    >>> from sharpness.linalg.operators import FunctionOperator
    >>> density = spectral_density(FunctionOperator(lambda v: 2 * v, 5, torch.float64), steps=2, starts=2)
    >>> spectral_sum(density, np.sqrt, 0.95).value == 5 * math.sqrt(2)
    True
    """
    rules = list(zip(density.weights, [f(nodes) for nodes in density.nodes], strict=True))
    means = np.array([weights @ values for weights, values in rules])
    squares = np.array([weights @ values**2 for weights, values in rules])
    variance = max(float(squares.mean() - means.mean() ** 2), 0.0)
    if variance < 1e-12 * float(squares.mean()):  # what is left of equal values after the difference
        variance = 0.0
    by_formula = math.sqrt(2 * variance / (density.size * len(rules)))
    error = density.size * max(by_formula, float(means.std(ddof=1)) / math.sqrt(len(rules)))
    value, half = density.size * float(means.mean()), float(stdtrit(len(rules) - 1, (1 + confidence) / 2)) * error
    return SpectralSum(value, error, value - half, value + half)
