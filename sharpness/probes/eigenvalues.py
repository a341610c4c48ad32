"""How sharp is the sharpest direction? The top eigenvalues of the Hessian, with an interval."""

from __future__ import annotations

import time
from dataclasses import asdict, dataclass, field
from typing import Any

from torch import Tensor

from sharpness.curvature import HessianOperator
from sharpness.linalg.lanczos import top_eigenpairs
from sharpness.loss import Loss
from sharpness.probes.evidence import Evidence, ProbeResult, Progress


@dataclass(frozen=True, kw_only=True)
class EigenvaluesResult(ProbeResult):
    """The k largest Hessian eigenvalues; ``value``, ``lower`` and ``upper`` are of the largest."""

    eigenvalues: Tensor  # (k,) float64, descending
    eigenvectors: Tensor = field(repr=False)  # (k, n)
    residuals: Tensor  # (k,) measured || H v - lambda v ||
    defect: float
    history: list[tuple[int, float, float]] = field(repr=False)

    def details(self) -> dict[str, Any]:
        """Return all eigenvalues and residuals, the defect of the product, and the interval after each product."""
        return {
            "eigenvalues": self.eigenvalues.tolist(),
            "residuals": self.residuals.tolist(),
            "defect": self.defect,
            "history": [list(step) for step in self.history],
        }

    def __str__(self) -> str:
        flag = "" if self.converged else ", NOT converged"
        return (
            f"{self.value:.5g} in [{self.lower:.5g}, {self.upper:.5g}] at {100 * (self.confidence or 0):g} %, "
            f"residual {self.residual:.1g}, {self.num_hvps} HVPs, {self.seconds:.1f} s{flag}"
        )


@dataclass(frozen=True)
class TopEigenvalues:
    """The k largest (algebraic) eigenvalues of the Hessian by Lanczos from a random start.

    The interval of the largest one is [theta, t]: the Ritz value theta is never above it, and it is above t with
    probability at most ``1 - confidence`` over the start (:func:`sharpness.linalg.certificates.upper_bound`). It stops
    when the interval is narrower than ``rtol`` times the value; ``num_hvps`` is the ceiling, reached as
    ``converged=False``. The interval is of the Hessian as computed in the loss's dtype, widened by the measured defect
    of that computation. The other k - 1 eigenvalues have a measured residual each and no proven upper bound.

    Cost: about 11 products for rtol 1e-2, each 2 to 2.5 gradients over the data; memory: the kept graphs, at most
    ``cache_bytes``, and one vector per product.

    >>> import torch
    >>> batch = (torch.tensor([[3.0, 4.0]]), torch.tensor([[0.0]]))
    >>> loss = Loss(torch.nn.Linear(2, 1, bias=False), torch.nn.functional.mse_loss, [batch])
    >>> round(TopEigenvalues()(loss).value, 3)             # 2 |x|^2
    50.0
    """

    k: int = 1
    rtol: float = 1e-2
    confidence: float = 0.99
    num_hvps: int = 100
    seed: int = 0
    cache_bytes: int = 1 << 30

    def __call__(self, loss: Loss, w: Tensor | None = None, *, progress: Progress | None = None) -> EigenvaluesResult:
        """Measure at ``w``, or at the loss's own weights; raises what :func:`top_eigenpairs` raises."""
        started = time.perf_counter()
        pairs = top_eigenpairs(
            HessianOperator(loss, w, cache=self.cache_bytes),
            self.k,
            rtol=self.rtol,
            confidence=self.confidence,
            num_products=self.num_hvps,
            seed=self.seed,
            progress=progress,
        )
        return EigenvaluesResult(
            probe="eigenvalues",
            quantity="top_eigenvalue",
            knobs=asdict(self),
            value=float(pairs.eigenvalues[0]),
            lower=pairs.lower,
            upper=pairs.upper,
            confidence=pairs.confidence,
            residual=float(pairs.residuals[0]),
            converged=pairs.converged,
            num_hvps=pairs.num_products,
            seed=self.seed,
            hvp_backend="exact",
            evidence=Evidence.collect(loss, started),
            eigenvalues=pairs.eigenvalues,
            eigenvectors=pairs.eigenvectors,
            residuals=pairs.residuals,
            defect=pairs.defect,
            history=pairs.history,
        )
