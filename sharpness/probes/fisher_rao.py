"""The Fisher-Rao norm: the size of the weights in the metric of the Fisher matrix, by one product."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from torch import Tensor

from sharpness.errors import unknown_name
from sharpness.loss import Loss
from sharpness.machine.progress import Progress
from sharpness.probes.fisher_trace import FISHERS
from sharpness.probes.methods.random_parts import CONFIDENCE, forms_of_draws, half_width
from sharpness.probes.methods.spectra import CurvatureProbe, curvature_details
from sharpness.results import MERGED, ProbeResult
from sharpness.vectors import dot, norm


@dataclass(frozen=True, kw_only=True)
class FisherRaoResult(ProbeResult):
    """``w^T F w`` as ``value``, its square ``root``, and ``w^T w``."""

    squared_length: float
    root: float
    operator_details: Mapping[str, Any] = field(repr=False, metadata=MERGED)

    def __str__(self) -> str:
        return f"{self.value:.5g} ({self.knobs['matrix']}), |w|^2 {self.squared_length:.5g}, {self.seconds:.1f} s"


@dataclass(frozen=True, kw_only=True)
class FisherRaoNorm(CurvatureProbe[FisherRaoResult]):
    """The Fisher-Rao norm ``w^T F w = (1 / c) sum_n (w^T g_n)^2``, g_n the gradient of one example's log-likelihood.

    Liang et al. 2019 (arXiv 1711.01530). With ``matrix="empirical_fisher"`` the targets come from the data, with
    ``"fisher"`` they are as the network predicts them: exact, or of ``draws``, whose error stands in the
    result as an interval at 95 % (Student's t). It does not change where a rescaling
    keeps the network's function. For a ReLU network of L layers without biases w^T g is L times the logits' own
    ``logits^T dl / dlogits``. Their norm is the square root; weights that the loss holds fixed do not count.

    >>> import torch
    >>> model = torch.nn.Linear(2, 1, bias=False); _ = torch.nn.init.ones_(model.weight)
    >>> batch = (torch.tensor([[3.0, 4.0]]), torch.tensor([[6.0]]))
    >>> FisherRaoNorm()(Loss(model, torch.nn.functional.mse_loss, [batch])).value   # g = 2 (7 - 6) x: (2 * 7)^2
    196.0
    """

    name = "fisher_rao_norm"

    matrix: str = "empirical_fisher"

    def measure(self, loss: Loss, w: Tensor, *, progress: Progress | None = None) -> FisherRaoResult:
        """Measure at ``w``; :class:`InputError` for a matrix that is no Fisher matrix."""
        if self.matrix not in FISHERS:
            raise unknown_name("Fisher matrix", self.matrix, FISHERS)
        operator = self.operator(loss, w)
        value = dot(w, operator.matvec(w))
        forms = forms_of_draws(operator, w)
        return FisherRaoResult(
            quantity=f"{self.matrix}_rao_norm",
            value=value,
            **self._interval(value, forms),
            num_hvps=1 + len(forms),
            hvp_backend=operator.backend,
            root=math.sqrt(max(value, 0.0)),
            squared_length=norm(w) ** 2,
            operator_details=curvature_details(operator),
        )

    def _interval(self, value: float, forms: np.ndarray) -> dict[str, Any]:
        """Return the interval over the draws of the targets, or that nothing was drawn."""
        if not len(forms):
            exact = "the targets are not drawn: it is exact to rounding"
            return {"reasons": dict.fromkeys(("lower", "upper", "confidence"), exact)}
        if len(forms) == 1:
            return {"seed": self.seed, "reasons": dict.fromkeys(("lower", "upper"), "one draw shows no error")}
        half = half_width(forms, CONFIDENCE)
        return {"seed": self.seed, "lower": value - half, "upper": value + half, "confidence": CONFIDENCE}
