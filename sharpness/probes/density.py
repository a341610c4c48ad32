"""The spectral density of a curvature matrix by stochastic Lanczos quadrature."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from scipy.special import ndtri
from torch import Tensor

from sharpness.curvature import remembering
from sharpness.linalg import density
from sharpness.loss import Loss
from sharpness.machine.progress import Progress
from sharpness.probes.methods.random_parts import CONFIDENCE, added, trace_over_examples
from sharpness.probes.methods.spectra import CurvatureProbe, basis_limit, curvature_details
from sharpness.results import MERGED, ProbeResult


@dataclass(frozen=True, kw_only=True)
class DensityResult(ProbeResult):
    """The quadratures and what follows from them; ``value`` is the trace."""

    density: density.SpectralDensity = field(repr=False, metadata=MERGED)
    operator_details: Mapping[str, Any] = field(repr=False, metadata=MERGED)

    def __str__(self) -> str:
        return f"{self.density}, {self.seconds:.1f} s"


@dataclass(frozen=True, kw_only=True)
class SpectralDensity(CurvatureProbe[DensityResult]):
    """The density of all eigenvalues by ``steps`` steps of Lanczos from each of ``starts`` random vectors.

    Also from the same products: trace, Frobenius norm, number of negative eigenvalues and effective rank, with standard
    errors (:func:`sharpness.linalg.density.spectral_density`). Where ``steps`` vectors do not fit in 0.4 of the free
    memory the recurrence runs without its basis, and the record says so.

    >>> import torch
    >>> batch = (torch.tensor([[3.0, 4.0]]), torch.tensor([[0.0]]))
    >>> loss = Loss(torch.nn.Linear(2, 1, bias=False), torch.nn.functional.mse_loss, [batch], dtype=torch.float64)
    >>> round(SpectralDensity(starts=400)(loss).density.largest_node, 3)             # 2 |x|^2
    50.0
    """

    name = "density"

    steps: int = 80
    starts: int = 4
    confidence: float = 0.95

    def measure(
        self,
        loss: Loss,
        w: Tensor,
        *,
        sampled: bool = False,
        resume: Path | None = None,
        progress: Progress | None = None,
    ) -> DensityResult:
        """Measure at ``w``; raises what the solver raises.

        ``sampled`` says that the examples are a random sample: the trace then has an interval over their choice.
        """
        operator = self.operator(loss, w)
        fits = basis_limit(operator, self.steps) >= self.steps
        result = density.spectral_density(
            remembering(operator, resume),
            steps=self.steps,
            starts=self.starts,
            seed=self.seed,
            reorthogonalise=fits,
            confidence=self.confidence,
            seconds=self.seconds,
            progress=progress,
        )
        shared: dict[str, Any] = {
            "num_hvps": result.num_products,
            "reasons": ({} if result.converged else {"converged": "; ".join(result.reasons)})
            | {
                "lower": "see details: standard errors, and a bracket for the negative eigenvalues",
                "upper": "see details: standard errors, and a bracket for the negative eigenvalues",
                "residual": "a quadrature has none: see moment_error in details",
            },
        }
        if sampled:
            half, options = float(ndtri((1 + CONFIDENCE) / 2)) * result.trace_standard_error, self.matrix_options()
            found = trace_over_examples(loss, w, options, result.trace, half, seed=self.seed, name="density")
            shared = added(shared, found)
        return DensityResult(
            quantity=self.quantity("spectral_density_trace"),
            value=result.trace,
            converged=result.converged,
            seed=self.seed,
            hvp_backend=operator.backend,
            **shared,
            density=result,
            operator_details={**curvature_details(operator), "reorthogonalised": fits},
        )
