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

from sharpness.curvature import CurvatureOperator, remembering
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
NARROW = 0.1  # half the width of an interval that counts as narrow, as a share of the value
NATS = 1.0  # or in nats: a factor e of the evidence, hardly worth mentioning (Jeffreys 1961, appendix B)


@dataclass(frozen=True, kw_only=True)
class OccamResult(ProbeResult):
    """``1/2 sum_i ln(lambda_i / lambda)`` as ``value``, in nats, with its interval over starts and quadratures."""

    total: SpectralSum | None
    cost: float
    log_evidence: float | None
    num_nodes_outside: int
    operator_details: Mapping[str, Any] = field(repr=False, metadata=MERGED)

    def details(self) -> dict[str, Any]:
        """Return standard error and gap, the cost at the weights, minus the log evidence, and what lies below zero."""
        own = super().details()
        total = own.pop("total") or {}
        return {"standard_error": total.get("standard_error"), "gap": total.get("gap"), **own}

    def __str__(self) -> str:
        if self.value is None:
            return f"none: {self.reasons['value']}, {self.num_hvps} HVPs, {self.seconds:.1f} s"
        ends = ["?" if end is None else f"{end:.5g}" for end in (self.lower, self.upper)]
        return (
            f"{self.value:.5g} nats in [{', '.join(ends)}], log evidence {self.log_evidence:.5g}, "
            f"{self.num_hvps} HVPs, {self.seconds:.1f} s{'' if self.converged else ', NOT converged'}"
        )


@dataclass(frozen=True, kw_only=True)
class OccamFactor(CurvatureProbe[OccamResult]):
    """``1/2 sum_i ln(lambda_i / lambda)``: minus the log of the Occam factor, half the log-determinant of the cost.

    Smith and Le 2018 (arXiv 1710.06451), Laplace's approximation. The cost is ``C = N L(w) + lambda/2 |w|^2`` with N
    examples, so ``lambda_i = N h_i + lambda`` for the eigenvalues h_i of the mean loss; ``prior`` is lambda, the
    precision of a Gaussian prior. L is without the loss's own penalty, whose place the prior takes: weights at a
    minimum under ``weight_decay`` are at one of C for N times that. ``-(C + value)`` is the log evidence, in the
    details.

    The sum is by stochastic Lanczos quadrature with ``steps`` and ``starts`` as for the spectral density. Of a
    logarithm Gauss's rule makes too much and Radau's with a node at the smallest eigenvalue too little: the value is
    halfway between, and the interval holds both, widened by Student's t over the starts. ``converged`` asks that it
    reach from the value no further than a tenth of it, or one nat.

    By default h_i are eigenvalues of the Gauss-Newton matrix, where the paper takes the Hessian at a minimum: networks
    stop at points where that has negative eigenvalues, and the approximation then does not exist. For
    ``matrix="hessian"`` with such eigenvalues there is no value but a reason. Nodes that rounding can have made
    negative count as 0. Radau's node is at 0 for the other matrices, as long as they have no negative nodes. For those
    that have, and the Hessian, it is at the smallest node less its residual, which is below the smallest eigenvalue as
    a rule but not for sure; where that is below ``-prior / N`` there is no lower end.

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
        loss = loss.with_weight_decay(0.0)  # the prior stands for it
        operator = self.operator(loss, w)
        density = self._density(operator, resume, progress)
        largest = max(abs(density.smallest_node), abs(density.largest_node))
        resolution = ROUNDING * torch.finfo(operator.dtype).eps * largest + operator.error
        total, outside, reasons = self._total(density, loss.num_examples, resolution)
        reasons |= self._doubts(density, total)
        cost = loss.num_examples * loss.value(w) + self.prior / 2 * norm(w) ** 2
        return OccamResult(
            quantity=self.quantity("occam_factor"),
            value=None if total is None else total.value,
            lower=None if total is None else total.lower,
            upper=None if total is None else total.upper,
            confidence=None if total is None else self.confidence,
            converged="converged" not in reasons,
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

    def _density(self, operator: CurvatureOperator, resume: Path | None, progress: Progress | None) -> SpectralDensity:
        return spectral_density(
            remembering(operator, resume),
            steps=self.steps,
            starts=self.starts,
            seed=self.seed,
            reorthogonalise=basis_limit(operator, self.steps) >= self.steps,
            confidence=self.confidence,
            seconds=self.seconds,
            progress=progress,
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
        semidefinite = self.matrix != "hessian" and density.smallest_node >= -resolution

        def cost_curvature(h: np.ndarray) -> np.ndarray:
            zero = (h < 0) & (semidefinite | (h >= -resolution))
            return num_examples * np.where(zero, 0.0, h) / self.prior

        def half_logarithm(h: np.ndarray) -> np.ndarray:
            with np.errstate(invalid="ignore", divide="ignore"):
                return 0.5 * np.log1p(cost_curvature(h))

        outside = int((cost_curvature(np.concatenate(density.nodes)) <= -1).sum())
        if outside or len(density.nodes) < 2:
            lowest = f"the curvature is {density.smallest_node:.3g} along one direction, the prior {self.prior:g}"
            cure = "use matrix='gauss_newton' or a larger prior"
            why = f"{lowest}: {cure}" if outside else "time was up before the second start"
            return None, outside, reasons | dict.fromkeys(("value", "lower", "upper", "confidence"), why)
        floor = 0.0 if semidefinite else density.floor
        total = spectral_sum(density, half_logarithm, self.confidence, floor)
        if total.lower is None:
            lowest = f"the products leave room for a curvature of {floor:.3g}, which the prior {self.prior:g}"
            reasons["lower"] = f"{lowest} does not outweigh: raise steps or use matrix='gauss_newton'"
        return total, 0, reasons

    def _doubts(self, density: SpectralDensity, total: SpectralSum | None) -> dict[str, str]:
        """Return why the interval is not narrow, or not to be relied on, under ``converged``; nothing where it is."""
        if total is None:
            return {"converged": "there is no value"}
        if not density.converged:
            return {"converged": "; ".join(density.reasons)}
        if total.lower is None or total.gap is None:
            return {"converged": "there is no lower end"}
        half = (total.upper - total.lower) / 2
        if half <= max(NARROW * abs(total.value), NATS):
            return {}
        knob = "steps" if total.gap > half else "starts"
        return {"converged": f"half the interval is {half:.3g} nats: raise {knob}"}
