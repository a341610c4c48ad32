"""How large the largest eigenvalue can be after k steps of Lanczos from a random start: a bound with a probability."""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np
from scipy.special import betaincinv

from sharpness.errors import InputError


def start_overlap(size: int, confidence: float) -> float:
    """Return the delta that ``|<v_1, u>|`` exceeds with probability ``confidence``, v_1 uniform on the unit sphere.

    For a fixed unit vector u the squared overlap follows Beta(1/2, (size - 1) / 2); for large sizes delta is about
    ``(1 - confidence) sqrt(pi / (2 size))``. Raises :class:`InputError` unless 0 < confidence < 1.

    >>> round(start_overlap(1_000_000, 0.99) / (0.01 * math.sqrt(math.pi / 2e6)), 3)
    1.0
    """
    if not 0 < confidence < 1:
        raise InputError(f"expected a confidence between 0 and 1, got {confidence}: 0.99 is usual")
    if size == 1:
        return 1.0
    return math.sqrt(betaincinv(0.5, (size - 1) / 2, 1 - confidence))


def upper_bound(alphas: Sequence[float], betas: Sequence[float], size: int, confidence: float) -> float:
    """Return t with P(lambda_max <= t) >= ``confidence``, from the k x k Lanczos matrix of a random start.

    ``alphas`` (k) are the diagonal and ``betas`` (k) the off-diagonal with beta_k, the norm of the next residual, last.
    With the Lanczos polynomials ``v_{j+1} = p_j(A) v_1`` and gamma the overlap of v_1 with the top eigenvector,
    ``gamma^2 p_j(lambda_max)^2 <= ||...||`` summed over the orthonormal v_1 ... v_{k+1} gives
    ``gamma^2 sum_{j=0}^{k} p_j(lambda_max)^2 <= 1``. Every p_j grows beyond the largest Ritz value theta, so
    gamma >= delta implies lambda_max <= t with ``sum_j p_j(t)^2 = 1 / delta^2``, t > theta. The event gamma >= delta
    does not depend on k: stopping when the bound is small enough costs no coverage. Only a beta that is exactly zero
    means an invariant subspace, which from a random start holds the top eigenvector with probability 1: then t = theta.
    A beta that is small by rounding is too large, which can only loosen the bound.

    Source: Van Dorsselaer, Hochstenbach and Van der Vorst, SIAM J. Matrix Anal. Appl. 22 (2000), who use the last
    polynomial alone; the sum over all is never larger. It needs a start that is independent of the matrix, full
    orthogonality and a product that is the same function each time.

    >>> upper_bound([2.0], [0.0], size=5, confidence=0.99)
    2.0
    """
    for k, beta in enumerate(betas, 1):
        if beta == 0:
            return largest_ritz_value(alphas[:k], betas[:k])
    theta = largest_ritz_value(alphas, betas)
    target = -2 * math.log(start_overlap(size, confidence))
    step = max(abs(betas[-1]), np.finfo(float).eps * abs(theta))
    low, high = theta, theta + step
    while log_christoffel(high, alphas, betas) < target:
        low, high = high, theta + 2 * (high - theta)
    while high - low > 1e-10 * max(high - theta, 1e-6 * abs(theta)):
        middle = 0.5 * (low + high)
        if not low < middle < high:
            break
        low, high = (middle, high) if log_christoffel(middle, alphas, betas) < target else (low, middle)
    return high


def log_christoffel(t: float, alphas: Sequence[float], betas: Sequence[float]) -> float:
    """Return ``log sum_{j=0}^{k} p_j(t)^2`` for t beyond the largest Ritz value, and -inf elsewhere.

    With T - t = -L D L^T the pivots ``d_j = t - alpha_j - beta_{j-1}^2 / d_{j-1}`` are all positive exactly beyond the
    largest Ritz value, and ``p_j / p_{j-1} = d_j / beta_j``: no polynomial is ever formed, so nothing overflows.

    >>> log_christoffel(3.0, [1.0], [2.0])          # p_0 = 1, p_1 = (3 - 1) / 2
    0.6931471805599453
    """
    log_p, logs, coupling = 0.0, [0.0], 0.0
    for alpha, beta in zip(alphas, betas, strict=True):
        pivot = t - alpha - coupling
        if pivot <= 0:
            return -math.inf
        log_p += math.log(pivot) - math.log(beta)
        logs.append(2 * log_p)
        coupling = beta * beta / pivot
    top = max(logs)
    return top + math.log(sum(math.exp(value - top) for value in logs))


def tridiagonal(alphas: Sequence[float], betas: Sequence[float]) -> np.ndarray:
    """Return the symmetric k x k matrix with diagonal ``alphas`` and off-diagonal ``betas[:k-1]``, float64."""
    inner = np.asarray(betas[: len(alphas) - 1], dtype=np.float64)
    return np.diag(np.asarray(alphas, dtype=np.float64)) + np.diag(inner, 1) + np.diag(inner, -1)


def largest_ritz_value(alphas: Sequence[float], betas: Sequence[float]) -> float:
    """Return the largest eigenvalue of the Lanczos matrix."""
    return float(np.linalg.eigvalsh(tridiagonal(alphas, betas))[-1])
