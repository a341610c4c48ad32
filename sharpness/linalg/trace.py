"""The trace of a symmetric operator from random products, with an interval that says when to stop."""

from __future__ import annotations

import math
import time
from dataclasses import asdict, dataclass
from typing import Any, Literal, get_args

import torch
from scipy.special import stdtrit

from sharpness.errors import InputError, unknown_name
from sharpness.linalg.knobs import check_confidence, check_rtol, check_seconds
from sharpness.linalg.krylov_sampling import KrylovSamples
from sharpness.linalg.operators import SymmetricOperator
from sharpness.linalg.sampling import (
    HutchPlusPlusSamples,
    Products,
    Progress,
    SignSamples,
    XTraceSamples,
    mean_and_error,
)

Method = Literal["xtrace", "hutch++", "hutchinson", "krylov"]
SAMPLERS: dict[str, type[SignSamples]] = {
    "xtrace": XTraceSamples,
    "hutch++": HutchPlusPlusSamples,
    "hutchinson": SignSamples,
    "krylov": KrylovSamples,
}


@dataclass(frozen=True)
class TraceEstimate:
    """The trace with an interval and the looks that were taken at it; ``||A||_F^2`` is the mean of ``||A v||^2``."""

    value: float
    standard_error: float
    lower: float  # value -+ the half width of the look at which it stopped
    upper: float
    confidence: float
    converged: bool
    stopped_by: str  # "certainty", "num_products" or "seconds"
    num_products: int
    method: str
    looks: list[tuple[int, float, float]]  # (products, estimate, half width)
    exact: bool  # from n products with unit vectors, which agree with each other: no sampling error
    reasons: list[str]  # why it is not converged; empty where it is
    squared_frobenius: float
    squared_frobenius_standard_error: float

    def details(self) -> dict[str, Any]:
        """Return every field as plain numbers, strings and lists."""
        return asdict(self)

    def __str__(self) -> str:
        flag = "" if self.converged else ", NOT converged"
        how = "exact" if self.exact else f"in [{self.lower:.5g}, {self.upper:.5g}] at {100 * self.confidence:g} %"
        return f"{self.value:.5g}, {how}, {self.method}, {self.num_products} products{flag}"


def estimate_trace(
    operator: SymmetricOperator,
    method: Method = "xtrace",
    *,
    rtol: float = 2e-2,
    confidence: float = 0.95,
    num_products: int = 320,
    seed: int = 0,
    seconds: float | None = None,
    progress: Progress | None = None,
) -> TraceEstimate:
    """Return the trace, stopping when the half width of its interval is at most ``rtol |trace|``.

    ``"hutchinson"`` averages ``v^T A v`` over random signs v (Hutchinson 1990), ``"hutch++"`` takes the trace on the
    range of a sketch A S exactly and samples the rest (Meyer, Musco, Musco and Woodruff 2021, Algorithm 1), and
    ``"xtrace"`` uses each vector for both, leaving it out of the sketch in turn (Epperly, Tropp and Webber 2024,
    section 2.2). ``"krylov"`` takes the sketch from the first steps of Lanczos towards the largest eigenvalue, which
    cost nothing where that has been solved (:class:`sharpness.linalg.krylov_sampling.KrylovSamples`). It looks at the
    interval at sizes fixed beforehand, so that stopping by what they show costs no coverage; half widths are Student's
    t times the standard error. It is neither exact nor converged where the products are not symmetric to ``rtol``,
    whatever the interval. ``docs/numbers.md`` says how well the intervals were seen to hold.

    Memory: as many vectors as products for XTrace, two thirds of that for Hutch++, twice this while the basis grows;
    two blocks of 16 for Hutchinson, and 8 more for ``"krylov"``. Raises :class:`InputError` for bad knobs and
    :class:`RunError` for products that are not finite.

    >>> from sharpness.linalg.operators import FunctionOperator
    >>> diagonal = 0.8 ** torch.arange(1000, dtype=torch.float64)
    >>> trace = estimate_trace(FunctionOperator(lambda v: diagonal * v, 1000, torch.float64), rtol=1e-2)
    >>> trace.lower < 5.0 < trace.upper, trace.converged, trace.num_products
    (True, True, 40)
    """
    if method not in SAMPLERS:
        raise unknown_name("trace method", method, get_args(Method))
    products = Products(operator, num_products, progress)
    return TraceEstimate(**_estimate(SAMPLERS[method](products, seed), method, rtol, confidence, seconds))


def _estimate(
    sampler: SignSamples, method: str, rtol: float, confidence: float, seconds: float | None
) -> dict[str, Any]:
    """Look at the sampler's interval at doubling sizes until it is narrow enough; return the fields of the result."""
    _check(sampler, rtol, confidence, seconds)
    started, target, last = time.perf_counter(), sampler.first, ""
    looks: list[tuple[int, float, float]] = []
    while True:
        missing = sampler.cost * (target - sampler.count) + (0 if sampler.count else sampler.before)
        exact = sampler.operator.size <= missing
        level = (1 - confidence) / 2 ** (len(looks) + 1)
        value, error, half, square, square_error = _exact(sampler) if exact else _sampled(sampler, target, level)
        looks.append((sampler.products.made, value, half))
        symmetric = sampler.is_symmetric(rtol)
        converged = symmetric and (half <= rtol * abs(value) or (exact and not sampler.operator.error))
        if converged or exact or last:
            break
        target, last = _next_look(sampler, seconds, time.perf_counter() - started)
        if target <= sampler.count:
            break
    reason = f"the half width {half:.3g} is above rtol |value| = {rtol * abs(value):.3g}"
    if not symmetric:
        share = sampler.asymmetry / sampler.scale
        reason = f"the products are not those of one symmetric matrix: of blocks V^T A V {share:.0%} is asymmetric"
    return {
        "value": value,
        "standard_error": error,
        "lower": value - half,
        "upper": value + half,
        "confidence": confidence,
        "converged": converged,
        "stopped_by": "certainty" if converged else last or "num_products",
        "num_products": sampler.products.made,
        "method": method,
        "looks": looks,
        "exact": exact and symmetric,
        "reasons": [] if converged else [reason],
        "squared_frobenius": square,
        "squared_frobenius_standard_error": square_error,
    }


def _sampled(sampler: SignSamples, target: int, level: float) -> tuple[float, float, float, float, float]:
    """Grow to ``target`` samples; return value, error, half width, squared Frobenius norm and its error."""
    sampler.grow(target - sampler.count)
    value, error = sampler.estimate()
    square, square_error = mean_and_error(sampler.squares)
    half = float(stdtrit(sampler.count - 1, 1 - level / 2)) * error + _slack(sampler, square)
    return value, error, half, square, square_error


def _exact(sampler: SignSamples) -> tuple[float, float, float, float, float]:
    """Return what :func:`_sampled` does from n products with unit vectors."""
    value, square = sampler.exact()
    return value, 0.0, _slack(sampler, square), square, 0.0


def _slack(sampler: SignSamples, square: float) -> float:
    """Return how far rounding and the operator's own error can move the value."""
    operator = sampler.operator
    rounding = torch.finfo(operator.dtype).eps * math.sqrt(square)
    return math.sqrt(operator.size) * (rounding + math.sqrt(operator.size) * operator.error)


def _next_look(sampler: SignSamples, seconds: float | None, elapsed: float) -> tuple[int, str]:
    """Return the samples at the next look and, where it must be the last, what makes it so; never by the values."""
    limits = {2 * sampler.count: "", (sampler.products.ceiling - sampler.before) // sampler.cost: "num_products"}
    if seconds is not None:
        limits[int(sampler.count * min(2.0, seconds / elapsed))] = "seconds"
    target = min(limits)
    last = limits[target] if target < 2 * sampler.count else ""
    if sampler.cost * (target - sampler.count) < sampler.operator.size:  # not to be exact: then a sketch ends before n
        target = min(target, sampler.most)
    return target, last


def _check(sampler: SignSamples, rtol: float, confidence: float, seconds: float | None) -> None:
    needed = min(sampler.before + sampler.cost * sampler.first, sampler.operator.size)
    if sampler.products.ceiling < needed:
        raise InputError(f"expected at least {needed} products, got {sampler.products.ceiling}: raise num_products")
    check_rtol(rtol, usual="2e-2")
    check_confidence(confidence, usual="0.95")
    check_seconds(seconds)
