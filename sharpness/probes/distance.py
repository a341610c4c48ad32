"""How far did training move? The distance of the weights from where they started."""

from __future__ import annotations

import time
from dataclasses import dataclass
from typing import Any

from torch import Tensor

from sharpness.errors import InputError
from sharpness.loss import Loss
from sharpness.machine.progress import Progress
from sharpness.results import Evidence, ProbeResult


@dataclass(frozen=True, kw_only=True)
class DistanceResult(ProbeResult):
    """The distance, and the norms of both ends to compare it with."""

    start_norm: float
    end_norm: float

    def details(self) -> dict[str, Any]:
        """Return the l2 norms of the start and of the end."""
        return {"start_norm": self.start_norm, "end_norm": self.end_norm}

    def __str__(self) -> str:
        return f"{self.value:.4g} from the start (norms: start {self.start_norm:.4g}, end {self.end_norm:.4g})"


@dataclass(frozen=True)
class DistanceFromStart:
    """The Euclidean distance ``||w - w_0||_2`` over the trainable parameters (Keskar et al. 2017), in float64.

    >>> import torch
    >>> loss = Loss(torch.nn.Linear(2, 1), torch.nn.functional.mse_loss, [(torch.ones(1, 2), torch.ones(1, 1))])
    >>> DistanceFromStart()(loss, torch.tensor([3.0, 4.0, 0.0]), torch.zeros(3)).value
    5.0
    """

    def __call__(self, loss: Loss, w: Tensor, w_0: Tensor, *, progress: Progress | None = None) -> DistanceResult:
        """Measure between two flat vectors; :class:`InputError` if their shapes differ."""
        started = time.perf_counter()
        if w.shape != w_0.shape:
            raise InputError(f"expected two points of one shape, got {tuple(w.shape)} and {tuple(w_0.shape)}")
        start, end = w_0.cpu().double(), w.cpu().double()
        return DistanceResult(
            probe="distance",
            quantity="distance_from_start",
            knobs={},
            value=float((end - start).norm()),
            evidence=Evidence.collect(loss, started),
            start_norm=float(start.norm()),
            end_norm=float(end.norm()),
        )
