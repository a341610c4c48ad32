"""Upper bounds of the largest eigenvalue after some steps of Lanczos from a random start, with their probability."""

from __future__ import annotations

import math
from dataclasses import dataclass, field, replace

import numpy as np
from scipy.optimize import brentq
from scipy.special import betaincinv

from sharpness.errors import InputError


def start_overlap(size: int, level: float) -> float:
    """Return the delta that ``|<v_1, u>|`` is below with probability ``level``, v_1 uniform on the unit sphere.

    For a fixed unit vector u the squared overlap follows Beta(1/2, (size - 1) / 2); for large sizes delta is about
    ``level sqrt(pi / (2 size))``. Raises :class:`InputError` unless 0 < level < 1.

    >>> round(start_overlap(1_000_000, 0.01) / (0.01 * math.sqrt(math.pi / 2e6)), 3)
    1.0
    """
    if not 0 < level < 1:
        raise InputError(f"expected a level between 0 and 1, got {level}: 0.01 is usual")
    if size == 1:
        return 1.0
    return math.sqrt(betaincinv(0.5, (size - 1) / 2, level))


@dataclass(frozen=True, eq=False)
class Polynomials:
    """The polynomials r_j of a Lanczos process, ``q_j = r_j(A) v_1``, by their roots; r_1 = 1.

    From ``A Q = Q T + beta q_{m+1} e_m^T`` follows ``r(t)^T (t I - T) = beta r_{m+1}(t) e_m^T``, and with the
    eigenvalues theta_i and eigenvectors s_i of T (m x m), for the vectors of the present basis,

        r_{m+1}(t) = prod_i (t - theta_i) prod_d (t - d) / prod beta,
        sum_{j=1}^{m+1} r_j(t)^2 = r_{m+1}(t)^2 (1 + sum_i (beta s_mi / (t - theta_i))^2).

    Without a restart there are no d and the product is over beta_1 ... beta_m. A thick restart (Wu and Simon, SIAM J.
    Matrix Anal. Appl. 22, 2000) keeps l of the Ritz values as diagonal entries D of the next T and the residual vector
    as q_{l+1}. Cofactors of the new ``t I - T`` then give ``r_{l+1} / r_{m+1} = prod(new beta) prod(t - D) /
    prod(t - new theta)``: the kept values cancel against their own factors of the cycle before, so that what remains of
    all earlier cycles are the Ritz values d that they discarded and their betas. These are the shifts and the step
    lengths of the implicitly restarted process, which is the same process.
    """

    ritz_values: np.ndarray  # (m,)
    couplings: np.ndarray | None  # (m,) beta s_mi; None where nothing but q_{m+1} is known to be a unit vector
    log_betas: float  # sum of log beta over all steps; -inf after a beta that is exactly zero
    discarded: np.ndarray = field(default_factory=lambda: np.zeros(0))

    def mirrored(self) -> Polynomials:
        """Return those of -A, whose top is the bottom of A."""
        return replace(self, ritz_values=-self.ritz_values, discarded=-self.discarded)

    @property
    def largest_root(self) -> float:
        """The largest Ritz value of all cycles; beyond it every r_j is positive and grows."""
        return float(np.concatenate([self.ritz_values, self.discarded]).max())

    def log_sum(self, t: float) -> float:
        """Return ``log sum_j r_j(t)^2`` for t beyond the largest root, and -inf elsewhere.

        >>> Polynomials(np.array([1.0]), np.array([2.0]), math.log(2)).log_sum(3.0)    # r_1 = 1, r_2 = (3 - 1) / 2
        0.6931471805599453
        """
        distances = t - np.concatenate([self.ritz_values, self.discarded])
        if distances.min() <= 0:
            return -math.inf
        last = 2 * (float(np.log(distances).sum()) - self.log_betas)
        if self.couplings is None:
            return last
        with np.errstate(over="ignore"):
            return last + float(np.log1p(((self.couplings / distances[: len(self.ritz_values)]) ** 2).sum()))


def upper_bound(polynomials: Polynomials, size: int, level: float) -> float:
    """Return t with P(lambda_max > t) <= ``level`` for a start that was uniform on the unit sphere of R^size.

    Let u be a unit eigenvector of lambda_max and gamma = <v_1, u>. The basis is orthonormal and ``<q_j, u> =
    r_j(lambda_max) gamma``, so ``gamma^2 sum_j r_j(lambda_max)^2 <= 1``. Every r_j grows beyond the largest Ritz value
    theta of all cycles, so gamma >= delta (:func:`start_overlap`) implies lambda_max <= t with ``sum_j r_j(t)^2 =
    1 / delta^2``, t > theta. The event gamma >= delta depends neither on the number of steps nor on restarts: all
    bounds of one process hold together, so the smallest does, and stopping by what they show costs no coverage. Only
    a beta that is exactly zero means an invariant space, which holds the top eigenvector with probability 1: t = theta.
    A beta that is small by rounding is too large, which can only loosen the bound.

    Source: Van Dorsselaer, Hochstenbach and Van der Vorst, SIAM J. Matrix Anal. Appl. 22 (2000), who use the last
    polynomial of a process without restarts alone; the sum over all is never looser. It needs a start that is
    independent of the matrix, full orthogonality (for ``couplings=None`` none at all) and a product that is the same
    function each time.

    >>> upper_bound(Polynomials(np.array([2.0]), np.array([0.0]), -math.inf), size=5, level=0.01)
    2.0
    """
    theta = polynomials.largest_root
    if polynomials.log_betas == -math.inf:
        return theta
    target = -2 * math.log(start_overlap(size, level))

    def missing(log_distance: float) -> float:
        difference = target - polynomials.log_sum(theta + math.exp(log_distance))
        return min(max(difference, -1e300), 1e300)

    # The root in x = log(t - theta), bracketed from the geometric mean of the betas; below `lowest` t is theta rounded.
    lowest = math.log(max(1e-2 * np.finfo(float).eps * abs(theta), 1e-290))
    high = polynomials.log_betas / (len(polynomials.ritz_values) + len(polynomials.discarded))
    while missing(high) > 0:
        high += 3
    low = high - 3
    while missing(low) <= 0:
        if low <= lowest:
            return theta + math.exp(low)
        low, high = low - 3, low
    root = float(brentq(missing, low, high, xtol=1e-10))  # type: ignore[arg-type]
    return theta + math.exp(root + 1e-9)  # beyond the root: a bound errs upwards


def share_of_attempt(number: int) -> float:
    """Return the share of the error probability of attempt ``number`` (1, 2, ...): they sum to 1.

    The next attempt is made only where the one before refuted its start, so nearly all of it is for the first.

    >>> round(share_of_attempt(1), 12), round(share_of_attempt(2), 12)
    (0.9, 0.09)
    """
    return 0.9 * 0.1 ** (number - 1)


def refutes_its_start(polynomials: Polynomials, size: int, level: float, slack: float) -> bool:
    """Return whether a process has shown that its own start was one of the share ``level`` under which its bounds fail.

    lambda_max >= theta, the largest Ritz value, so ``gamma >= delta`` would mean ``sum_j r_j(theta)^2 <= 1 / delta^2``;
    in the limit t -> theta what is left of the sum is ``(beta s_m prod (theta - other roots) / prod beta)^2``. Where
    that is larger, :func:`upper_bound` can but return theta, and no later bound of this process holds either. A
    coupling or a distance below ``slack`` may be rounding and refutes nothing.

    >>> refutes_its_start(Polynomials(np.array([0.0]), np.array([1.0]), math.log(1e-6)), 100, 0.01, slack=1e-15)
    True
    """
    if polynomials.couplings is None or polynomials.log_betas == -math.inf:
        return False
    top = int(np.argmax(polynomials.ritz_values))
    others = np.concatenate([np.delete(polynomials.ritz_values, top), polynomials.discarded])
    factors = np.append(polynomials.ritz_values[top] - others, abs(polynomials.couplings[top])) - slack
    if factors.min() <= 0:
        return False
    return 2 * (float(np.log(factors).sum()) - polynomials.log_betas) > -2 * math.log(start_overlap(size, level)) + 1e-6


def coupled_bounds(values: np.ndarray, top: int, bound: float, coupling: float, count: int) -> np.ndarray:
    """Return upper bounds of the ``count`` largest eigenvalues of A, from locked vectors V and a bound beside them.

    V is orthonormal with ``V^T A V = diag(values)``, ``top`` of its columns being Ritz vectors v_1, v_2, ... of the
    largest values in descending order, ``bound`` >= lambda_max(C) for ``C = A`` restricted to the complement of V, and
    ``coupling`` >= ||R||, ``R = A V - V diag(values)``. By Courant and Fischer lambda_j is at most the largest
    eigenvalue of A restricted to the complement of v_1 ... v_{j-1} (all ``top`` of them for j > top). That restriction
    is ``[[diag(rest), R^T], [R, C]]``, for which a unit vector with parts of lengths x and y has the quotient
    ``a x^2 + 2 ||R|| x y + c y^2`` at most, a = max(rest), c = ``bound``: the largest eigenvalue of that 2 x 2 matrix.

    >>> coupled_bounds(np.array([5.0, 3.0]), 2, 1.0, 0.0, 3).tolist()
    [5.0, 3.0, 1.0]
    """
    ordered = np.sort(values)[::-1]
    bounds = np.full(count, bound)
    for j in range(count):
        rest = ordered[min(j, top) :]
        if len(rest) and math.isfinite(bound):
            half = (rest[0] - bound) / 2
            bounds[j] = (rest[0] + bound) / 2 + math.hypot(half, coupling)
    return bounds
