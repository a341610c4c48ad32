"""The trace of the Fisher matrix: how much the output distribution moves with the weights."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, fields
from typing import Any

import torch
from torch import Tensor

from sharpness.errors import unknown_name
from sharpness.linalg.trace import Method
from sharpness.loss import Loss
from sharpness.loss.per_example import UnitGradients
from sharpness.machine.progress import Progress
from sharpness.probes.methods.random_parts import mean_over_examples, no_spread
from sharpness.probes.methods.spectra import CurvatureProbe
from sharpness.probes.trace import Trace
from sharpness.results import MERGED, ProbeResult
from sharpness.vectors import norm

FISHERS = ("fisher", "empirical_fisher")


@dataclass(frozen=True, kw_only=True)
class FisherTraceResult(ProbeResult):
    """The trace as ``value``, exact or with its interval."""

    how: Mapping[str, Any] = field(repr=False, metadata=MERGED)

    def __str__(self) -> str:
        at = "exact" if self.lower is None else f"in [{self.lower:.5g}, {self.upper:.5g}]"
        return f"{self.value:.5g}, {at}, {self.how['method']}, {self.seconds:.1f} s"


@dataclass(frozen=True, kw_only=True)
class FisherTrace(CurvatureProbe[FisherTraceResult]):
    """The trace of the Fisher matrix, ``(1 / c) sum_n |g_n|^2`` with g_n the gradient of one example's log-likelihood.

    For ``matrix="empirical_fisher"`` the targets come from the data and the trace is the exact sum of squared
    gradients of single examples, in one pass (:class:`sharpness.loss.per_example.UnitGradients`). For ``"fisher"`` they
    are as the network predicts them (Martens 2020; :class:`sharpness.curvature.FisherOperator`), and the trace is
    estimated from products by ``method`` (:class:`sharpness.probes.trace.Trace`), whose interval has the error of
    ``draws`` in it where there are any. With ``norm="batch"`` no example has a gradient of its own: both are estimated.
    ``seconds`` bounds the products, not the pass over single examples.

    >>> model = torch.nn.Linear(2, 1, bias=False); _ = torch.nn.init.zeros_(model.weight)
    >>> x, y = torch.tensor([[3.0, 4.0], [0.0, 1.0]]), torch.tensor([[1.0], [1.0]])
    >>> FisherTrace(matrix="empirical_fisher")(Loss(model, torch.nn.functional.mse_loss, [(x, y)])).value   # 4 |x|^2
    52.0
    """

    name = "fisher_trace"

    matrix: str = "fisher"
    method: Method = "xtrace"
    rtol: float = 2e-2
    confidence: float = 0.95
    num_hvps: int = 320

    def measure(
        self, loss: Loss, w: Tensor, *, sampled: bool = False, progress: Progress | None = None
    ) -> FisherTraceResult:
        """Measure at ``w``; :class:`InputError` for a matrix that is no Fisher matrix.

        ``sampled`` says that the examples are a random sample: the result then has an interval over their choice.
        """
        if self.matrix not in FISHERS:
            raise unknown_name("Fisher matrix", self.matrix, FISHERS)
        exact = self.matrix == "empirical_fisher" and loss.norm != "batch"
        shared = (_by_examples if exact else self._by_products)(loss, w, sampled, progress)
        return FisherTraceResult(
            quantity=f"{self.matrix}_trace",
            **shared,
            seed=None if exact else self.seed,
        )

    def _by_products(self, loss: Loss, x: Tensor, sampled: bool, progress: Progress | None) -> dict[str, Any]:
        probe = Trace(**{knob.name: getattr(self, knob.name) for knob in fields(Trace)})
        result = probe(loss, x, sampled=sampled, progress=progress)
        names = ("value", "lower", "upper", "confidence", "converged", "num_hvps", "hvp_backend", "reasons", "sampling")
        return {name: getattr(result, name) for name in names} | {"how": result.details()}


def _by_examples(loss: Loss, x: Tensor, sampled: bool, progress: Progress | None) -> dict[str, Any]:
    """Return the exact trace ``sum_n c_n^2 |grad l_n|^2 / sum_n c_n``, l_n the mean over what example n counts for."""
    loss = loss.with_weight_decay(0.0)  # no part of a Fisher matrix
    exact = dict.fromkeys(("lower", "upper", "confidence"), "a sum over all examples, exact to rounding")
    total, shares = sum(float(loss.data.count(batch)) for batch in loss.batches), None
    if loss.num_examples == 1:
        value, gradients, how = total * norm(loss.grad(x)) ** 2, 1, "one example"
    else:
        units = UnitGradients(loss, x)
        squares = list[Tensor]()
        for pieces in units:
            each = [piece.flatten(1).square().sum(1, dtype=torch.float64).cpu() for piece in pieces]
            squares.append(torch.stack(each).sum(0))
            if progress is not None:
                progress(sum(map(len, squares)), len(units.weights))
        counts = units.weights * (total / units.num_examples)
        shares = counts**2 * torch.cat(squares) / total
        value = float(shares.sum())
        gradients, how = len(counts), f"gradients of single examples ({units.method})"
    found = {"value": value, "num_gradients": gradients, "converged": True, "reasons": exact, "how": {"method": how}}
    if not sampled:
        return found
    if why := no_spread(loss):
        return found | {"reasons": exact | {"sampling": why}}
    assert shares is not None  # there are as many examples as an interval needs
    return found | {"sampling": mean_over_examples(value, shares.numpy())}
