"""The numbers behind the gradient noise scale, from a few inner products per example: estimates and intervals."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import asdict, dataclass, replace
from typing import Any

import numpy as np

from sharpness.linalg.sampling import student

Array = np.ndarray
FEWEST = 5  # units for an interval: two even ones deviate by the same length, and the jackknife would see no error


@dataclass(frozen=True)
class Measured:
    """A number with its interval; ``reason`` says why one of the three is missing."""

    value: float | None
    lower: float | None
    upper: float | None
    reason: str | None = None

    def details(self) -> dict[str, Any]:
        """Return the fields as plain types, the reason only where there is one."""
        return {name: item for name, item in asdict(self).items() if name != "reason" or item is not None}


@dataclass(frozen=True)
class Jackknifed:
    """An estimate and what it is with each unit left out, shape ``(M,)``; ``samples`` of the units bear on it."""

    value: float
    deleted: Array
    samples: int

    def covariance(self, other: Jackknifed) -> float:
        """Return the jackknife covariance ``(M - 1) / M sum_b (x_b - mean x)(y_b - mean y)`` (Efron 1982)."""
        m = len(self.deleted)
        return float((m - 1) / m * ((self.deleted - self.deleted.mean()) @ (other.deleted - other.deleted.mean())))

    def interval(self, confidence: float) -> Measured:
        """Return the estimate with Student's t times its jackknife standard error on both sides."""
        if self.samples < FEWEST:
            return Measured(self.value, None, None, too_few(self.samples))
        half_width = student(self.samples - 1, confidence) * self.covariance(self) ** 0.5
        return Measured(self.value, self.value - half_width, self.value + half_width)


def combined(function: Callable[..., Any], *parts: Jackknifed) -> Jackknifed:
    """Return a function of estimates, left-out values included."""
    value = float(function(*(part.value for part in parts)))
    deleted = np.broadcast_to(np.asarray(function(*(part.deleted for part in parts))), parts[0].deleted.shape)
    return Jackknifed(value, deleted, min(part.samples for part in parts))


def too_few(samples: int) -> str:
    """Return why so few samples give no interval."""
    return f"expected at least {FEWEST} samples for an interval, got {samples}"


def gradient_and_noise(weights: Array, squares: Array, along: Array, square: float) -> tuple[Jackknifed, Jackknifed]:
    """Return unbiased estimates of ``|G|^2`` and ``tr Sigma`` (McCandlish et al. 2018, equations A.1 to A.4).

    Unit b has the gradient g_b and the weight v_b (:class:`sharpness.loss.per_example.UnitGradients`); G^ is the
    gradient of the loss, ``d_b = v_b (g_b - G^)``, ``squares`` are ``|d_b|^2``, ``along`` are ``d_b . G^`` and
    ``square`` is ``|G^|^2``. With N examples ``S = sum |d_b|^2 / (N - sum v_b^2 / N)`` and ``|G|^2 = |G^|^2 - S / N``.
    For units of one example that is the paper's pair of estimators for the batch sizes 1 and N, for given batches that
    of their own sizes and N, uneven ones too. Values with a unit left out are exact for even units, and for uneven ones
    but for a term smaller by 1 / sqrt(M).

    >>> g = np.array([[1.0, 0.0], [3.0, 0.0]])                 # mean (2, 0), sample variance 2
    >>> d = g - g.mean(0)
    >>> square, noise = gradient_and_noise(np.ones(2), (d**2).sum(1), d @ g.mean(0), 4.0)
    >>> square.value, noise.value, noise.deleted               # 4 - 2/2; a single example shows no noise
    (3.0, 2.0, array([0., 0.]))
    """
    total, sum_squares = weights.sum(), (weights**2).sum()
    left = total - weights  # examples without the unit
    noise = squares.sum() / (total - sum_squares / total)
    others = squares.sum() - squares * (1 + 2 * weights / left - (sum_squares - weights**2) / left**2)
    freedom = left - (sum_squares - weights**2) / left
    noise_deleted = np.divide(others, freedom, out=np.zeros_like(others), where=freedom > 0)
    square_deleted = square - 2 * along / left + squares / left**2 - noise_deleted / left
    samples = len(weights)
    return (
        Jackknifed(float(square - noise / total), square_deleted, samples),
        Jackknifed(float(noise), noise_deleted, samples),
    )


def data_noise_scale(weights: Array, squares: Array, square: float) -> float | None:
    """Return ``tr Sigma / |G|^2`` with the N examples as the whole distribution; ``None`` where their gradient is 0.

    Names as in :func:`gradient_and_noise`; Sigma is then the mean of ``d d^T`` instead of its unbiased estimate.

    >>> data_noise_scale(np.ones(2), np.array([1.0, 1.0]), 4.0)
    0.25
    """
    total = weights.sum()
    noise = squares.sum() / (total - (weights**2).sum() / total) * (1 - 1 / total)
    return float(noise / square) if square else None


def curvature_and_noise(
    weights: Array, chosen: Array, curvatures: Array, along: Array, curvature: float
) -> tuple[Jackknifed, Jackknifed]:
    """Return unbiased estimates of ``G^T H G`` and ``tr(H Sigma)`` for a Hessian H taken as known.

    ``curvatures`` are ``d_b^T H d_b`` of the m units at the positions ``chosen``, drawn without replacement, ``along``
    are ``d_b . H G^`` of all and ``curvature`` is ``G^^T H G^`` (names as in :func:`gradient_and_noise`). The noise is
    ``M / m sum_chosen d_b^T H d_b / (N - sum v_b^2 / N)`` and ``G^T H G = G^^T H G^ - tr(H Sigma) / N``.
    """
    total, units, samples = weights.sum(), len(weights), len(chosen)
    mean = curvatures.mean()
    scale = units / (total - (weights**2).sum() / total)
    noise_deleted = np.full(units, scale * mean)
    noise_deleted[chosen] -= scale * (curvatures - mean) / (samples - 1)
    left = total - weights
    # The middle term needs d^T H d of every unit; it is of order 1 / N^2, so the mean of the chosen ones does.
    curvature_deleted = curvature - 2 * along / left + mean / left**2 - noise_deleted / left
    return (
        Jackknifed(float(curvature - scale * mean / total), curvature_deleted, samples),
        Jackknifed(float(scale * mean), noise_deleted, samples),
    )


def ratio(over: Jackknifed, under: Jackknifed, confidence: float, what: str) -> Measured:
    """Return the ratio of two estimates with Fieller's interval, ``what`` being the name of the lower one.

    The interval holds the ratios r for which ``over - r under`` is within Student's t times its standard error of 0
    (Fieller 1954). Where ``under`` cannot be told from 0 it has no upper end, and no lower one unless ``over`` is
    surely positive. Where ``under`` is estimated below 0 there is no value.

    >>> samples = np.array([-0.1, 0.1, 0.0, 0.05, -0.05])
    >>> one, two = Jackknifed(4.0, 4 + samples, 5), Jackknifed(2.0, 2 + 0 * samples, 5)
    >>> measured = ratio(one, two, 0.95, "b")
    >>> measured.value, round(measured.lower, 3), round(measured.upper, 3)
    (2.0, 1.804, 2.196)
    """
    value = over.value / under.value if under.value > 0 else None
    if (samples := min(over.samples, under.samples)) < FEWEST:
        return Measured(value, None, None, too_few(samples))
    t = student(samples - 1, confidence)
    a = under.value**2 - t**2 * under.covariance(under)
    b = over.value * under.value - t**2 * over.covariance(under)
    c = over.value**2 - t**2 * over.covariance(over)
    root = max(b**2 - a * c, 0.0) ** 0.5
    if a > 0 and value is None:
        return below_zero(what, under)
    if a > 0:
        return Measured(value, (b - root) / a, (b + root) / a)
    # With a < 0 < c the roots have different signs, and of positive ratios those above the larger one are possible.
    lower = (b - root) / a if a < 0 < c and over.value > 0 else None
    return Measured(value, lower, None, unsure(what, under))


def below_zero(what: str, number: Jackknifed) -> Measured:
    """Return no number with the reason: what cannot be negative is not estimated above 0."""
    place = "below 0" if number.value < 0 else "at 0"
    return Measured(None, None, None, f"{what} is estimated {place}: {number.value:.3g}, as at a minimum of the data")


def unsure(what: str, number: Jackknifed) -> str:
    """Return that an estimate's sign is not known."""
    return f"{what} cannot be told from 0: {number.value:.3g} +- {number.covariance(number) ** 0.5:.2g}"


def best_step(square: Jackknifed, curvature: Jackknifed, confidence: float, what: str) -> Measured:
    """Return ``|G|^2 / curvature``, which is no step where ``|G|^2`` is not above 0; ``what`` names the curvature.

    It has no lower end where ``|G|^2`` cannot be told from 0.

    >>> best_step(Jackknifed(2.0, np.full(5, 2.0), 5), Jackknifed(4.0, np.full(5, 4.0), 5), 0.95, "c").value
    0.5
    """
    if square.value <= 0:
        return below_zero("|G|^2", square)
    found = ratio(square, curvature, confidence, what)
    if found.lower is not None and found.lower <= 0:
        return replace(found, lower=None, reason=unsure("|G|^2", square))
    return found


def improvement(square: Jackknifed, curvature: Jackknifed, confidence: float) -> Measured:
    """Return ``|G|^4 / (2 curvature)``, what the best step lowers the loss by, where the curvature is surely positive.

    The interval is the square of that of ``|G|^2 / sqrt(2 curvature)``, to first order in the estimates: near 0 a
    square is no linear function of them. It has no lower end where ``|G|^2`` cannot be told from 0.

    >>> improvement(Jackknifed(2.0, np.full(3, 2.0), 3), Jackknifed(4.0, np.full(3, 4.0), 3), 0.95).value
    0.5
    """
    if square.value <= 0:
        return below_zero("|G|^2", square)
    bounds = curvature.interval(confidence)
    if curvature.value <= 0 or (bounds.lower is not None and bounds.lower <= 0):
        return Measured(None, None, None, f"the curvature cannot be told from 0 or below: {curvature.value:.3g}")
    value = square.value**2 / (2 * curvature.value)
    relative = square.deleted / square.value - curvature.deleted / (2 * curvature.value)
    found = Jackknifed(value**0.5, value**0.5 * relative, min(square.samples, curvature.samples)).interval(confidence)
    if found.lower is None or found.upper is None:
        return Measured(value, None, None, found.reason)
    least = square.interval(confidence).lower
    if found.lower <= 0 or (least is not None and least <= 0):
        return Measured(value, None, found.upper**2, unsure("|G|^2", square))
    return Measured(value, found.lower**2, found.upper**2)
