"""The rise of the loss when the weights drift a stated distance: what the curvature says, and what is measured."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from torch import Tensor

from sharpness.errors import InputError
from sharpness.linalg.knobs import check_confidence
from sharpness.linalg.lanczos import extreme_eigenpairs
from sharpness.linalg.sampling import Products, mean_and_error, student
from sharpness.loss import Loss
from sharpness.machine.progress import Progress
from sharpness.probes.methods.quadratic_rise import judged, rounding_noise
from sharpness.probes.methods.spectra import CurvatureProbe, basis_limit, curvature_details
from sharpness.results import MERGED, ProbeResult
from sharpness.vectors import dot, norm, random_unit_vector


@dataclass(frozen=True, kw_only=True)
class DriftResult(ProbeResult):
    """The expected rise under drift in a random direction, ``value``, with its interval, and two rows.

    The row ``random`` is the mean over directions, ``sharpest`` the worse end of the sharpest one.
    """

    length: float
    rows: list[dict[str, Any]]
    most_by_quadratic: float | None
    operator_details: Mapping[str, Any] = field(repr=False, metadata=MERGED)

    def __str__(self) -> str:
        lines = [
            f"{row['direction']}: quadratic {row['quadratic']:.3g}, measured {row['measured']:.3g} ({row['verdict']})"
            for row in self.rows
        ]
        return f"drift of {self.length:.3g}: {'; '.join(lines)}, {self.num_hvps} HVPs, {self.seconds:.1f} s"


@dataclass(frozen=True, kw_only=True)
class Drift(CurvatureProbe[DriftResult]):
    """The rise of the loss when the weights move by ``distance`` times their length.

    With ``r = distance |w|``: the row ``random`` has ``quadratic``, the mean of ``r u^T g + 1/2 r^2 u^T H u`` over the
    ``num_hvps`` random directions u and their opposites, an estimate of ``1/2 r^2 tr(H) / n`` with the interval
    ``lower`` to ``upper`` at ``confidence``, and ``measured``, the mean rise of the loss along the first
    ``num_measured`` of them and their opposites, beside ``quadratic_there``, what the model says of the same ones. The
    row ``sharpest`` is about the top eigenvector, the end at which the loss is larger. ``most_by_quadratic`` is what
    the quadratic model cannot exceed at that distance, ``r |g| + 1/2 r^2 U`` with U the upper bound of the top
    eigenvalue at 99 %: drift along an unknown direction is between. The verdicts are those of ``rounding``.

    >>> import torch
    >>> batch = (torch.tensor([[3.0, 4.0]]), torch.tensor([[0.0]]))
    >>> loss = Loss(torch.nn.Linear(2, 1, bias=False), torch.nn.functional.mse_loss, [batch], dtype=torch.float64)
    >>> result = Drift(distance=0.1)(loss, torch.tensor([0.8, -0.6]))        # at a minimum, lambda_max = 2 |x|^2
    >>> round(result.rows[1]["quadratic"], 6), round(result.rows[1]["measured"], 6)
    (0.25, 0.25)
    """

    name = "drift"

    distance: float = 0.01
    num_hvps: int = 30
    num_measured: int = 8
    confidence: float = 0.95

    def measure(self, loss: Loss, w: Tensor, *, progress: Progress | None = None) -> DriftResult:
        """Measure at ``w``; :class:`InputError` for bad knobs and for weights that are all 0."""
        self.check()
        r = self.distance * norm(w)
        if not r > 0:
            raise InputError("expected weights that are not all 0, got zeros: drift is in units of their length")
        operator, gradient, base = self.operator(loss, w), loss.grad(w), loss.value(w)
        pairs = extreme_eigenpairs(
            operator,
            1,
            rtol=0.01,
            confidence=0.99,
            num_products=min(100, operator.size),
            max_basis=basis_limit(operator, 100, least=6),
            seconds=self.seconds,
            seed=self.seed,
        )
        products = Products(operator, self.num_hvps + 1, progress)
        noise = rounding_noise(loss, w, base)
        rows = [self._random(loss, w, products, r, base, noise)]
        if pairs.eigenvectors is not None:
            rows.append(_sharpest(loss, w, products, pairs.eigenvectors[0].to(w), r, gradient, base, noise))
        most = None if pairs.uppers is None else r * norm(gradient) + 0.5 * r**2 * max(0.0, float(pairs.uppers[0]))
        return DriftResult(
            quantity=self.quantity("drift_rise"),
            value=rows[0]["quadratic"],
            lower=rows[0]["lower"],
            upper=rows[0]["upper"],
            confidence=self.confidence,
            num_hvps=pairs.num_products + products.made,
            num_gradients=1,
            num_forwards=4 + 2 * self.num_measured,
            seed=self.seed,
            hvp_backend=operator.backend,
            length=r,
            rows=rows,
            most_by_quadratic=most,
            operator_details=curvature_details(operator),
            reasons={"converged": "as many directions as were asked for, with their standard error"},
        )

    def _random(self, loss: Loss, w: Tensor, products: Products, r: float, base: float, noise: float) -> dict[str, Any]:
        """Return the row of random directions; opposite ones are measured both, where the slopes cancel."""
        forms, rises = np.zeros(self.num_hvps), np.zeros(self.num_measured)
        for number in range(self.num_hvps):
            u = random_unit_vector(w.numel(), self.seed + number, w.dtype, w.device)
            forms[number] = 0.5 * r**2 * dot(u, products(u[:, None])[:, 0])
            if number < self.num_measured:
                rises[number] = (loss.value(w + r * u) + loss.value(w - r * u)) / 2 - base
        (mean, error), (measured, of_measured) = mean_and_error(forms), mean_and_error(rises)
        there = float(forms[: self.num_measured].mean())
        half = student(len(forms) - 1, self.confidence) * error
        return {
            "direction": "random",
            "quadratic": mean,
            "lower": mean - half,
            "upper": mean + half,
            "quadratic_there": there,
            "measured": measured,
            "measured_error": of_measured,
            "noise": noise,
            "verdict": judged(there, measured, noise),
        }

    def check(self) -> None:
        """Raise :class:`InputError` for bad knobs."""
        check_confidence(self.confidence, "0.95")
        if not self.distance > 0:
            raise InputError(f"expected a positive distance in units of |w|, got {self.distance}: 0.01 is a hundredth")
        if not 2 <= self.num_measured <= self.num_hvps:
            raise InputError(
                f"expected 2 <= num_measured <= num_hvps, got {self.num_measured} and {self.num_hvps}: "
                "8 and 30 are usual"
            )


def _sharpest(
    loss: Loss, w: Tensor, products: Products, v: Tensor, r: float, gradient: Tensor, base: float, noise: float
) -> dict[str, Any]:
    """Return the row of the top eigenvector v, at the end where the loss is larger."""
    form = 0.5 * r**2 * dot(v, products(v[:, None])[:, 0])
    ends = {sign: loss.value(w + sign * r * v) - base for sign in (1, -1)}
    sign = max(ends, key=lambda end: ends[end])
    quadratic, measured = form + sign * r * dot(gradient, v), ends[sign]
    verdict = judged(quadratic, measured, noise)
    return {"direction": "sharpest", "quadratic": quadratic, "measured": measured, "noise": noise, "verdict": verdict}
