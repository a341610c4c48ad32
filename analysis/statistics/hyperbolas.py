"""S = S_min + E_min / B fitted to many curves at once by non-negative least squares on relative errors."""

from __future__ import annotations

import numpy as np

from analysis.statistics.resampling import Floats

NUM_PASSES = 10
NEGLIGIBLE = 1e-6
"""A term is 0 where it makes less than this share of the fitted steps at every batch size: no data tell it from 0."""


def hyperbolas(batches: Floats, logs: Floats, counts: Floats) -> Floats:
    """Return log S_min, log E_min and log B_crit, (3, curves), of curves (curves, batch sizes) of log steps.

    Minimises sum_j n_j ((S_j - s - e / B_j) / S_j)^2 over s, e >= 0 in closed form, then again relative to the fit
    instead of S_j: dividing by S_j prefers the batch sizes that came out low. A term that is 0 has log -inf, and B_crit
    is infinite where S_min is 0.
    """
    middle = np.exp(np.mean(np.log(batches)))
    u, steps = middle / batches, np.exp(logs)  # u about 1, so that both terms are of one size
    s, e = nonnegative(u, steps, counts / steps**2)
    for _ in range(NUM_PASSES):
        s, e = nonnegative(u, steps, counts / (s[:, None] + e[:, None] * u) ** 2)
    no_s, no_e = s <= NEGLIGIBLE * e * np.min(u), e * np.max(u) <= NEGLIGIBLE * s
    with np.errstate(divide="ignore"):
        log_s, log_e = np.log(np.where(no_s, 0.0, s)), np.log(np.where(no_e, 0.0, e * middle))
    return np.stack([log_s, log_e, log_e - log_s])


def nonnegative(u: Floats, steps: Floats, weights: Floats) -> tuple[Floats, Floats]:
    """Return s, e >= 0 with the least sum_j w_j (S_j - s - e u_j)^2 for each row of positive steps.

    >>> s, e = nonnegative(np.array([1.0, 2.0]), np.array([[3.0, 5.0], [3.0, 2.0]]), np.ones((2, 2)))
    >>> s.tolist(), e.tolist()
    ([1.0, 2.5], [2.0, 0.0])
    """
    one, lin, square = (np.sum(weights * u**k, axis=1) for k in range(3))
    total, first = np.sum(weights * steps, axis=1), np.sum(weights * u * steps, axis=1)
    determinant = one * square - lin**2
    s, e = (square * total - lin * first) / determinant, (one * first - lin * total) / determinant
    # The sum is convex and both terms alone are positive: at most one of them ends at 0.
    return np.where(e < 0, total / one, np.maximum(s, 0)), np.where(s < 0, first / square, np.maximum(e, 0))
