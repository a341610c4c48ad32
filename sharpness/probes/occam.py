"""The Occam factor of Smith and Le: how much of the prior the minimum keeps, from the spectral density."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from sharpness.curvature import remembering
from sharpness.errors import InputError
from sharpness.linalg.density import SpectralDensity, spectral_density
from sharpness.linalg.knobs import check_confidence
from sharpness.loss import Loss
from sharpness.machine.progress import Progress
from sharpness.probes.methods.spectra import CurvatureProbe, basis_limit, curvature_details
from sharpness.probes.methods.spectral_sums import SpectralSum, spectral_sum
from sharpness.results import MERGED, ProbeResult
from sharpness.vectors import norm

ROUNDING = 50  # units in the last place of the largest eigenvalue up to which a negative node counts as zero


@dataclass(frozen=True, kw_only=True)
class OccamResult(ProbeResult):
    """``1/2 sum_i ln(lambda_i / lambda)`` as ``value``, in nats, with its interval over the starts."""

    total: SpectralSum | None
    cost: float
    log_evidence: float | None
    num_nodes_outside: int
    operator_details: Mapping[str, Any] = field(repr=False, metadata=MERGED)

    def details(self) -> dict[str, Any]:
        """Return the standard error, the cost at the weights, minus the log evidence, and what lies below zero."""
        own = super().details()
        total = own.pop("total")
        return {"standard_error": None if total is None else total["standard_error"], **own}

    def __str__(self) -> str:
        if self.value is None:
            return f"none: {self.reasons['value']}, {self.num_hvps} HVPs, {self.seconds:.1f} s"
        return (
            f"{self.value:.5g} nats in [{self.lower:.5g}, {self.upper:.5g}], log evidence {self.log_evidence:.5g}, "
            f"{self.num_hvps} HVPs, {self.seconds:.1f} s"
        )


@dataclass(frozen=True, kw_only=True)
class OccamFactor(CurvatureProbe[OccamResult]):
    """``1/2 sum_i ln(lambda_i / lambda)``: minus the log of the Occam factor, half the log-determinant of the cost.

    Smith and Le 2018 (arXiv 1710.06451), Laplace's approximation. The cost is ``C = N L(w) + lambda/2 |w|^2`` with N
    examples, so ``lambda_i = N h_i + lambda`` for the eigenvalues h_i of the mean loss; ``prior`` is lambda, the
    precision of a Gaussian prior. ``-(C + value)`` is the log evidence, in the details. The sum is by stochastic
    Lanczos quadrature with ``steps`` and ``starts`` as for the spectral density; the interval is Student's t over the
    starts.

    By default h_i are eigenvalues of the Gauss-Newton matrix, where the paper takes the Hessian at a minimum: networks
    stop at points where that has negative eigenvalues, and the approximation then does not exist. For
    ``matrix="hessian"`` with such eigenvalues there is no value but a reason. Nodes that rounding can have made
    negative count as 0.

    >>> batch = (torch.eye(2), torch.zeros(2, 1))
    >>> loss = Loss(torch.nn.Linear(2, 1, bias=False), torch.nn.functional.mse_loss, [batch], dtype=torch.float64)
    >>> round(OccamFactor(prior=1.0)(loss).value, 6), round(math.log(3), 6)      # h = 1, 1 and N = 2
    (1.098612, 1.098612)
    """

    name = "occam"

    prior: float = 1.0
    matrix: str = "gauss_newton"
    steps: int = 80
    starts: int = 4
    confidence: float = 0.95

    def measure(
        self, loss: Loss, w: Tensor, *, resume: Path | None = None, progress: Progress | None = None
    ) -> OccamResult:
        """Measure at ``w``; :class:`InputError` for a prior that is not positive."""
        self._check(loss)
        operator = self.operator(loss, w)
        density = spectral_density(
            remembering(operator, resume),
            steps=self.steps,
            starts=self.starts,
            seed=self.seed,
            reorthogonalise=basis_limit(operator, self.steps) >= self.steps,
            confidence=self.confidence,
            seconds=self.seconds,
            progress=progress,
        )
        largest = max(abs(density.smallest_node), abs(density.largest_node))
        resolution = ROUNDING * torch.finfo(operator.dtype).eps * largest + operator.error
        total, outside, reasons = self._total(density, loss.num_examples, resolution)
        cost = loss.num_examples * loss.value(w) + self.prior / 2 * norm(w) ** 2
        return OccamResult(
            quantity=self.quantity("occam_factor"),
            value=None if total is None else total.value,
            lower=None if total is None else total.lower,
            upper=None if total is None else total.upper,
            confidence=None if total is None else self.confidence,
            converged=total is not None and density.stopped_by == "steps",
            num_hvps=density.num_products,
            num_forwards=1,
            seed=self.seed,
            hvp_backend=operator.backend,
            reasons=reasons,
            total=total,
            cost=cost,
            log_evidence=None if total is None else -(cost + total.value),
            num_nodes_outside=outside,
            operator_details={**curvature_details(operator), "stopped_by": density.stopped_by},
        )

    def _check(self, loss: Loss) -> None:
        check_confidence(self.confidence, usual="0.95")
        if not (self.prior > 0 and math.isfinite(self.prior)):
            raise InputError(
                f"expected a positive prior precision, got {self.prior}: N times the weight decay is usual"
            )
        if self.starts < 2:
            raise InputError(f"expected at least 2 starts for an interval, got {self.starts}: 4 is usual")
        if loss.data.summed:
            raise InputError("expected a criterion that averages, got reduction='sum': use reduction='mean'")

    def _total(
        self, density: SpectralDensity, num_examples: int, resolution: float
    ) -> tuple[SpectralSum | None, int, dict[str, str]]:
        """Return the sum, the nodes it does not exist at, and the reasons for what is missing."""
        reasons = {"residual": "a quadrature has none"}

        def cost_curvature(h: np.ndarray) -> np.ndarray:
            return num_examples * np.where((h < 0) & (h >= -resolution), 0.0, h) / self.prior

        outside = int((cost_curvature(np.concatenate(density.nodes)) <= -1).sum())
        if outside or len(density.nodes) < 2:
            lowest = f"the curvature is {density.smallest_node:.3g} along one direction, the prior {self.prior:g}"
            cure = "use matrix='gauss_newton' or a larger prior"
            why = f"{lowest}: {cure}" if outside else "time was up before the second start"
            return None, outside, reasons | dict.fromkeys(("value", "lower", "upper", "confidence"), why)
        total = spectral_sum(density, lambda h: 0.5 * np.log1p(cost_curvature(h)), self.confidence)
        return total, 0, reasons
