"""The trace of a curvature matrix, the sum of its eigenvalues, with a standard error."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from torch import Tensor

from sharpness.curvature import CurvatureOperator, FisherOperator, remembering
from sharpness.errors import InputError
from sharpness.linalg.sampling import student
from sharpness.linalg.shared_products import SharedProducts
from sharpness.linalg.trace import Method, TraceEstimate, estimate_trace
from sharpness.loss import Loss
from sharpness.machine.progress import Progress
from sharpness.probes.methods.random_parts import (
    added,
    error_of_trace,
    single_draws,
    trace_over_examples,
)
from sharpness.probes.methods.spectra import CurvatureProbe, basis_limit, curvature_details
from sharpness.results import MERGED, ProbeResult

FEWEST = 30  # products before the first look of Hutch++; XTrace looks at 20


@dataclass(frozen=True, kw_only=True)
class TraceResult(ProbeResult):
    """The trace as ``value`` with its interval."""

    estimate: TraceEstimate = field(repr=False, metadata=MERGED)
    operator_details: Mapping[str, Any] = field(repr=False, metadata=MERGED)

    def __str__(self) -> str:
        drawn = self.upper != self.estimate.upper
        over = f", with the draws in [{self.lower:.5g}, {self.upper:.5g}]" if drawn else ""
        return f"{self.estimate}{over}, {self.seconds:.1f} s"


@dataclass(frozen=True, kw_only=True)
class Trace(CurvatureProbe[TraceResult]):
    """The trace to a half width of ``rtol`` at ``confidence``.

    ``method`` is ``xtrace``, ``hutch++``, ``hutchinson`` or ``krylov``, whose sketch costs nothing after
    :class:`TopEigenvalues` of the same ``seed`` where products are shared, as within one ``sharpness probe``.

    The interval is looked at only at sizes fixed beforehand, with the error probability shared between the looks
    (:func:`sharpness.linalg.trace.estimate_trace`). ``num_hvps`` is the ceiling; where that many vectors do not fit in
    0.4 of the free memory (twice, for a moment) XTrace and Hutch++ get as many products as do, and
    :class:`InputError` where that is hardly any: Hutchinson's estimator keeps none.

    >>> import torch
    >>> batch = (torch.tensor([[3.0, 4.0]]), torch.tensor([[0.0]]))
    >>> loss = Loss(torch.nn.Linear(2, 1, bias=False), torch.nn.functional.mse_loss, [batch])
    >>> round(Trace()(loss).value, 3)                      # 2 |x|^2
    50.0
    """

    name = "trace"

    method: Method = "xtrace"
    rtol: float = 2e-2
    confidence: float = 0.95
    num_hvps: int = 320

    def measure(
        self,
        loss: Loss,
        w: Tensor,
        *,
        sampled: bool = False,
        resume: Path | None = None,
        shared: SharedProducts | None = None,
        progress: Progress | None = None,
    ) -> TraceResult:
        """Measure at ``w``; raises what the solver raises.

        ``sampled`` says that the examples are a random sample: the result then has an interval over their choice.
        ``shared`` are products of other solves of this loss, of which ``method="krylov"`` takes its sketch.
        """
        operator = self.operator(loss, w)
        drawn = isinstance(operator, FisherOperator) and operator.draws is not None
        confidence = (1 + self.confidence) / 2 if drawn else self.confidence  # half of the error is for the draws
        ceiling, product = self._ceiling(operator), remembering(operator, resume, shared)
        estimate = estimate_trace(
            product,
            self.method,
            rtol=self.rtol,
            confidence=confidence,
            num_products=ceiling,
            seed=self.seed,
            seconds=self.seconds,
            progress=progress,
        )
        fields = _fields(estimate)
        if drawn:
            fields |= self._over_draws(operator, estimate)
        if sampled:
            half, options = fields["upper"] - fields["value"], self.matrix_options()
            found = trace_over_examples(loss, w, options, fields["value"], half, seed=self.seed, name="trace")
            fields = added(fields, found)
        fields["reasons"] = {"residual": "an estimate of a sum has none", **fields["reasons"]}
        return TraceResult(
            quantity=self.quantity("trace"),
            **fields,
            seed=self.seed,
            hvp_backend=operator.backend,
            estimate=estimate,
            operator_details={**curvature_details(operator, product), "num_products_that_fit": ceiling},
        )

    def _ceiling(self, operator: CurvatureOperator) -> int:
        """Return how many products there may be: XTrace and Hutch++ keep theirs, twice while they orthogonalise."""
        if self.method not in ("xtrace", "hutch++"):
            return self.num_hvps
        ceiling = basis_limit(operator, 2 * self.num_hvps) // 2
        if ceiling < min(FEWEST, self.num_hvps):
            raise InputError(
                f"expected memory for {2 * FEWEST} vectors of {operator.size} numbers for {self.method}, got room "
                f"for {2 * ceiling}: use method='hutchinson', which keeps none"
            )
        return ceiling

    def _over_draws(self, operator: CurvatureOperator, estimate: TraceEstimate) -> dict[str, Any]:
        """Return the fields with the error of the draws in the interval."""
        draws = single_draws(operator)
        if len(draws) < 2:
            return {"warnings": ("one draw of the targets: its error is in no interval",)}
        error, freedom, cost = error_of_trace(draws, np.ones(len(draws)), self.seed, "trace", "draws")
        more = student(freedom, (1 + self.confidence) / 2) * error
        wide = estimate.upper - estimate.lower + 2 * more > 2 * self.rtol * abs(estimate.value)
        why = {"converged": f"the draws leave a half width of {more:.3g}: raise draws"} if wide else {}
        return {
            "lower": estimate.lower - more,
            "upper": estimate.upper + more,
            "confidence": self.confidence,
            "converged": estimate.converged and not wide,
            "num_hvps": estimate.num_products + cost,
            "reasons": why,
        }


def _fields(estimate: TraceEstimate) -> dict[str, Any]:
    """Return the fields of the result that the estimate has itself."""
    return {
        "value": estimate.value,
        "lower": estimate.lower,
        "upper": estimate.upper,
        "confidence": estimate.confidence,
        "converged": estimate.converged,
        "num_hvps": estimate.num_products,
        "reasons": {} if estimate.converged else {"converged": "; ".join(estimate.reasons)},
    }
