"""Directional sharpness: the curvature of the loss along an update over its slope there, by one product."""

from __future__ import annotations

from dataclasses import dataclass

from torch import Tensor

from sharpness.curvature import HessianOperator
from sharpness.loss import Loss
from sharpness.machine.progress import Progress
from sharpness.probes.methods.updates import chosen_update
from sharpness.results import Probe, ProbeResult
from sharpness.vectors import dot, norm


@dataclass(frozen=True, kw_only=True)
class DirectionalResult(ProbeResult):
    """``d^T H d / d^T g`` as ``value``, with both parts and the curvature per unit length of d."""

    loss: float
    slope: float
    curvature: float
    rayleigh_quotient: float | None

    def __str__(self) -> str:
        shown = "none: " + self.reasons["value"] if self.value is None else f"{self.value:.5g}"
        return f"{shown}, d^T g {self.slope:.4g}, d^T H d {self.curvature:.4g}, {self.seconds:.1f} s"


@dataclass(frozen=True)
class DirectionalSharpness(Probe[DirectionalResult]):
    """``lambda_dir = d^T H d / d^T g`` along an update d: what decides whether a step ``w - eta d`` helps.

    To second order the loss falls for ``eta < 2 / lambda_dir`` (Kalra et al. 2026, arXiv 2601.16979; Roulet et al.
    2024). Along the gradient it is the mean of the Hessian's eigenvalues weighted by the squared components of the
    gradient, at most the largest one. It scales with d: twice the update, twice the value. Without a value where
    ``d^T g = 0``; negative where the update points uphill or the loss curves down.

    >>> import torch
    >>> batch = (torch.tensor([[3.0, 4.0]]), torch.tensor([[-1.0]]))
    >>> loss = Loss(torch.nn.Linear(2, 1, bias=False), torch.nn.functional.mse_loss, [batch])
    >>> round(DirectionalSharpness()(loss).value, 3)           # 2 |x|^2: the gradient is the eigenvector x
    50.0
    """

    name = "directional_sharpness"

    def measure(
        self,
        loss: Loss,
        w: Tensor,
        *,
        update: Tensor | None = None,
        trained: Loss | None = None,
        progress: Progress | None = None,
    ) -> DirectionalResult:
        """Measure at ``w`` along ``update`` (shape (n,)), the gradient of ``trained``, or the loss's own gradient."""
        start, gradient = loss.value_and_grad(w)
        d = chosen_update(loss, w, gradient, update, trained)
        operator = HessianOperator(loss, w, cache=0)  # one product: no graph is used twice
        slope, curvature, squared = dot(d, gradient), dot(d, operator.matvec(d)), norm(d) ** 2
        missing = {} if slope else {"value": "the update is zero or orthogonal to the gradient"}
        return DirectionalResult(
            value=curvature / slope if slope else None,
            num_hvps=1,
            num_gradients=1 if trained is None else 2,
            hvp_backend=operator.backend,
            reasons=missing,
            loss=start,
            slope=slope,
            curvature=curvature,
            rayleigh_quotient=curvature / squared if squared else None,
        )
