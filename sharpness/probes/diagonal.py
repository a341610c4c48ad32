"""The diagonal of a curvature matrix, exact for small networks, with the standard error of each entry for others."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from sharpness.curvature import CurvatureOperator, remembering
from sharpness.errors import InputError
from sharpness.linalg.diagonal import DiagonalEstimate, exact_diagonal, sampled_diagonal
from sharpness.linalg.knobs import check_confidence
from sharpness.linalg.sampling import mean_and_error, student
from sharpness.loss import Loss
from sharpness.machine.progress import Progress
from sharpness.probes.methods.spectra import CurvatureProbe, curvature_details
from sharpness.results import MERGED, ProbeResult
from sharpness.vectors import Layout, norm

UNITS, SIGNS = "unit vectors", "random signs"
EXACT = "a sum of entries from unit vectors, exact to rounding"


@dataclass(frozen=True, kw_only=True)
class DiagonalResult(ProbeResult):
    """The diagonal, shape (n,), with the standard error of each entry; ``value`` is its sum.

    ``loss.layout.unflatten(result.diagonal)`` has it by parameter. The record has its numbers by layer.
    """

    diagonal: Tensor = field(repr=False)
    standard_errors: Tensor = field(repr=False)
    method: str
    stopped_by: str
    relative_error: float | None
    layers: list[dict[str, Any]]
    operator_details: Mapping[str, Any] = field(repr=False, metadata=MERGED)

    def details(self) -> dict[str, Any]:
        """Return what the record has: everything but the vectors."""
        return {k: v for k, v in super().details().items() if k not in ("diagonal", "standard_errors")}

    def __str__(self) -> str:
        total = "no sum" if self.value is None else f"sum {self.value:.5g}"
        ends = "" if self.lower is None else f" in [{self.lower:.5g}, {self.upper:.5g}]"
        entries = f"{len(self.diagonal)} entries from {self.diagonal.min():.4g} to {self.diagonal.max():.4g}"
        error = f", relative error {self.relative_error:.2g}" if self.method == SIGNS and self.relative_error else ""
        return f"{entries}{error}, {total}{ends}, {self.method}, {self.num_hvps} HVPs, {self.seconds:.1f} s"


@dataclass(frozen=True, kw_only=True)
class Diagonal(CurvatureProbe[DiagonalResult]):
    """The diagonal of the Hessian, or of another curvature matrix: the curvature along each single weight.

    Up to ``exact_up_to`` weights it comes from as many products with unit vectors, exact to rounding. With more it is
    the mean of ``v * H v`` over ``num_hvps`` vectors v of random signs (Bekas, Kokiopoulou and Saad 2007): unbiased,
    entry i with the variance ``sum_{j != i} H_ij^2 / num_hvps``, and ``standard_errors`` beside it; ``relative_error``
    is their length over that of the diagonal, and the interval of the sum is Student's t at ``confidence``.

    >>> batch = (torch.tensor([[3.0, 4.0]]), torch.tensor([[0.0]]))
    >>> loss = Loss(torch.nn.Linear(2, 1, bias=False), torch.nn.functional.mse_loss, [batch])
    >>> Diagonal()(loss).diagonal                          # 2 x^2
    tensor([18., 32.])
    """

    name = "diagonal"

    exact_up_to: int = 2000
    num_hvps: int = 100
    confidence: float = 0.95

    def measure(
        self, loss: Loss, w: Tensor, *, resume: Path | None = None, progress: Progress | None = None
    ) -> DiagonalResult:
        """Measure at ``w``.

        ``resume`` is a folder for the products with random signs: a measurement that was killed goes on from there.
        Raises :class:`InputError` for bad knobs.
        """
        check_confidence(self.confidence, "0.95")
        if self.exact_up_to < 0:
            raise InputError(f"expected exact_up_to of at least 0, got {self.exact_up_to}: 0 always samples")
        operator = self.operator(loss, w)
        shared: dict[str, Any] = {"parts": loss.layout.numels, "seconds": self.seconds, "progress": progress}
        sampled = operator.size > self.exact_up_to
        if sampled:
            found = sampled_diagonal(remembering(operator, resume), self.num_hvps, seed=self.seed, **shared)
        else:
            found = exact_diagonal(operator, **shared)
        length = norm(found.diagonal)
        return DiagonalResult(
            quantity=self.quantity("diagonal_sum"),
            **(self._sampled(found) if sampled else _exact(found, operator)),
            num_hvps=found.num_products,
            seed=self.seed if sampled or self.matrix == "fisher" else None,
            hvp_backend=operator.backend,
            diagonal=found.diagonal,
            standard_errors=found.standard_errors,
            method=SIGNS if sampled else UNITS,
            stopped_by=found.stopped_by,
            relative_error=norm(found.standard_errors) / length if length else None,
            layers=_by_layer(loss.layout, found),
            operator_details=curvature_details(operator),
        )

    def _sampled(self, found: DiagonalEstimate) -> dict[str, Any]:
        """Return the sum with the interval of its samples."""
        value, error = mean_and_error(found.sums.sum(1))
        half = student(len(found.sums) - 1, self.confidence) * error
        ends = {"value": value, "lower": value - half, "upper": value + half, "confidence": self.confidence}
        return ends | {"reasons": {"converged": "as many samples as were asked for, with their standard errors"}}


def _exact(found: DiagonalEstimate, operator: CurvatureOperator) -> dict[str, Any]:
    """Return the sum of all entries, if all are known, and how far it may be off."""
    missing = len(found.diagonal) - found.num_entries
    if missing:
        reason = f"time was up with {missing} of {len(found.diagonal)} entries to come, which are 0 here"
        return {"value": None, "converged": False, "reasons": dict.fromkeys(("value", "lower", "upper"), reason)}
    reason = EXACT if not operator.error else "finite differences, each product with the error hvp_error"
    ends = dict.fromkeys(("lower", "upper", "confidence"), reason)
    return {"value": float(found.sums.sum()), "converged": not operator.error, "reasons": ends}


def _by_layer(layout: Layout, found: DiagonalEstimate) -> list[dict[str, Any]]:
    """Return the numbers of each layer: sum and mean with their errors, the extreme entries, how many are negative.

    The extreme entries of an estimate are further out than those of the diagonal, by about their errors.
    """
    entries, errors = layout.unflatten(found.diagonal), layout.unflatten(found.standard_errors)
    columns = {name: number for number, name in enumerate(layout.names)}
    rows = list[dict[str, Any]]()
    for layer, names in layout.layers().items():
        own, error = (torch.cat([pieces[n].reshape(-1) for n in names]) for pieces in (entries, errors))
        sums = found.sums[:, [columns[n] for n in names]].sum(1)
        total, of_total = mean_and_error(sums) if len(sums) > 1 else (float(sums[0]), 0.0)
        low, high = int(own.argmin()), int(own.argmax())
        rows.append(
            {
                "name": layer,
                "size": len(own),
                "sum": total,
                "sum_error": of_total,
                "mean": total / len(own),
                "mean_error": of_total / len(own),
                "smallest": float(own[low]),
                "smallest_error": float(error[low]),
                "largest": float(own[high]),
                "largest_error": float(error[high]),
                "negative": int(np.count_nonzero(own.cpu().numpy() < 0)),
                "entry_error": norm(error) / len(own) ** 0.5,
            }
        )
    return rows
