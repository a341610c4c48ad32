"""A mean over independent random draws with an interval, drawn until that is narrow enough."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from scipy.special import stdtrit

from sharpness.errors import InputError, RunError
from sharpness.linalg.knobs import check_confidence, check_rtol
from sharpness.machine.progress import Progress

FIRST_LOOK = 10


@dataclass(frozen=True, kw_only=True)
class SampledMean:
    """A mean and its interval; ``None`` where there were fewer than two draws that have a value."""

    value: float | None
    standard_error: float | None
    lower: float | None
    upper: float | None
    confidence: float
    converged: bool
    num_drawn: int
    num_undefined: int
    looks: list[tuple[int, float, float]] = field(repr=False)  # (draws, mean, half width)
    reason: str = ""

    def fields(self) -> dict[str, Any]:
        """Return what a probe's result takes over, with the reasons for what is missing."""
        reasons = {"residual": "a mean over random draws has none"}
        if self.value is None:
            reasons |= dict.fromkeys(("value", "lower", "upper", "confidence"), self.reason)
        elif not self.converged:
            reasons["converged"] = self.reason
        confidence = None if self.value is None else self.confidence
        common = {"value": self.value, "lower": self.lower, "upper": self.upper, "confidence": confidence}
        return {**common, "converged": self.converged, "reasons": reasons}

    def details(self) -> dict[str, Any]:
        """Return the standard error, the draws and the looks that were taken at them."""
        names = ("standard_error", "num_drawn", "num_undefined", "looks")
        return {name: getattr(self, name) for name in names}


def sampled_mean(
    draw: Callable[[int], float | None],
    *,
    most: int,
    rtol: float,
    confidence: float,
    progress: Progress | None = None,
) -> SampledMean:
    """Return the mean of ``draw(0), draw(1), ...`` when the half width of its interval is at most ``rtol |mean|``.

    It looks after 10, 20, 40, ... and last after ``most`` draws; look i has the error probability
    ``(1 - confidence) / 2^i``, so that stopping by what a look shows costs no coverage. Half widths are Student's t
    times the standard error. A draw of ``None`` has no value and is left out, but counted.

    Raises :class:`InputError` for fewer than two draws, :class:`RunError` for a draw that is not finite.

    >>> result = sampled_mean(lambda i: float(i % 2), most=100, rtol=1e-3, confidence=0.95)
    >>> result.value, result.num_drawn, result.converged
    (0.5, 100, False)
    """
    check_rtol(rtol, usual="1e-2")
    check_confidence(confidence, usual="0.95")
    if most < 2:
        raise InputError(f"expected at least 2 random draws for an interval, got {most}: ask for more")
    values, looks, target = list[float | None](), list[tuple[int, float, float]](), min(FIRST_LOOK, most)
    error, half = math.nan, math.inf
    while True:
        while len(values) < target:
            values.append(_finite(draw(len(values))))
            if progress is not None:
                progress(len(values), most)
        defined = np.array([value for value in values if value is not None])
        if len(defined) >= 2:
            level = (1 - confidence) / 2 ** (len(looks) + 1)
            error = float(defined.std(ddof=1)) / math.sqrt(len(defined))
            half = float(stdtrit(len(defined) - 1, 1 - level / 2)) * error
            looks.append((len(values), float(defined.mean()), half))
            if half <= rtol * abs(looks[-1][1]):
                break
        if target == most:
            break
        target = min(2 * target, most)
    counts: dict[str, Any] = {"num_drawn": len(values), "num_undefined": len(values) - len(defined), "looks": looks}
    return _summary(looks, error, half, rtol, confidence, counts)


def _finite(value: float | None) -> float | None:
    if value is not None and not math.isfinite(value):
        raise RunError(f"expected finite values from every random draw, got {value}: check the data and the weights")
    return value


def _summary(
    looks: list[tuple[int, float, float]],
    error: float,
    half: float,
    rtol: float,
    confidence: float,
    counts: dict[str, Any],
) -> SampledMean:
    if not looks:
        reason = f"{counts['num_drawn'] - counts['num_undefined']} of {counts['num_drawn']} random draws have a value"
        nothing = dict.fromkeys(("value", "standard_error", "lower", "upper"))
        return SampledMean(**nothing, confidence=confidence, converged=False, reason=reason, **counts)
    mean, allowed = looks[-1][1], rtol * abs(looks[-1][1])
    return SampledMean(
        value=mean,
        standard_error=error,
        lower=mean - half,
        upper=mean + half,
        confidence=confidence,
        converged=half <= allowed,
        reason="" if half <= allowed else f"the half width {half:.3g} is above rtol |value| = {allowed:.3g}",
        **counts,
    )
