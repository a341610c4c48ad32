"""Norms of each layer's weights, and sums and products of their spectral norms."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from sharpness.loss import Loss
from sharpness.machine.progress import Progress
from sharpness.results import Probe, ProbeResult
from sharpness.vectors import norm


@dataclass(frozen=True, kw_only=True)
class NormsResult(ProbeResult):
    """The Euclidean norm of all weights as ``value``; the norms of each parameter in ``layers``."""

    largest: float
    spectral_sum: float | None
    log_spectral_product: float | None
    layers: list[dict[str, Any]]

    def __str__(self) -> str:
        spectral = "none" if self.spectral_sum is None else f"{self.spectral_sum:.4g}"
        return f"l2 {self.value:.5g}, largest {self.largest:.4g}, spectral norms together {spectral}"


@dataclass(frozen=True)
class WeightNorms(Probe[NormsResult]):
    """``||w||_2`` of all weights, and for each parameter its l2 and spectral norm; no data is looked at.

    Among the norm-based measures of Jiang et al. 2020 (arXiv 1912.02178). The spectral norm is of the matrix of rows
    (a convolution's filters as rows, as there; not the convolution as a linear map), exact by singular values,
    in float64. ``log_spectral_product`` is the natural logarithm of the product over all matrices, ``None`` where one
    of them is zero. Vectors, such as biases, have no spectral norm.

    >>> model = torch.nn.Linear(2, 2, bias=False)
    >>> _ = model.weight.data.copy_(torch.tensor([[3.0, 0.0], [0.0, 4.0]]))
    >>> result = WeightNorms()(Loss(model, torch.nn.functional.mse_loss, [(torch.ones(1, 2), torch.ones(1, 2))]))
    >>> result.value, result.spectral_sum, result.largest
    (5.0, 4.0, 4.0)
    """

    name = "norms"
    looks_at_data = False

    def measure(self, loss: Loss, w: Tensor, *, progress: Progress | None = None) -> NormsResult:
        """Measure at ``w``."""
        rows = list[dict[str, Any]]()
        pieces = loss.layout.unflatten(w)
        for number, (name, piece) in enumerate(pieces.items(), 1):
            spectral = None
            if piece.ndim >= 2:
                spectral = float(torch.linalg.matrix_norm(piece.flatten(1).cpu().double(), 2))
            rows.append({"name": name, "l2": norm(piece), "spectral": spectral})
            if progress is not None:
                progress(number, len(pieces))
        spectral_norms = [row["spectral"] for row in rows if row["spectral"] is not None]
        logs = [math.log(value) for value in spectral_norms if value > 0]
        return NormsResult(
            quantity="weight_norm",
            value=norm(w),
            largest=float(w.abs().max()),
            spectral_sum=sum(spectral_norms) if spectral_norms else None,
            log_spectral_product=sum(logs) if logs and len(logs) == len(spectral_norms) else None,
            layers=rows,
        )
