"""The distance of the weights from where their training started."""

from __future__ import annotations

from dataclasses import dataclass

from torch import Tensor

from sharpness.errors import InputError
from sharpness.loss import Loss
from sharpness.machine.progress import Progress
from sharpness.results import Probe, ProbeResult


@dataclass(frozen=True, kw_only=True)
class DistanceResult(ProbeResult):
    """The distance, and the norms of both ends to compare it with."""

    start_norm: float
    end_norm: float

    def __str__(self) -> str:
        return f"{self.value:.4g} from the start (norms: start {self.start_norm:.4g}, end {self.end_norm:.4g})"


@dataclass(frozen=True)
class DistanceFromStart(Probe[DistanceResult]):
    """The Euclidean distance ``||w - w_0||_2`` over the trainable parameters (Keskar et al. 2017), in float64.

    >>> import torch
    >>> loss = Loss(torch.nn.Linear(2, 1), torch.nn.functional.mse_loss, [(torch.ones(1, 2), torch.ones(1, 1))])
    >>> DistanceFromStart()(loss, torch.tensor([3.0, 4.0, 0.0]), torch.zeros(3)).value
    5.0
    """

    name = "distance"
    looks_at_data = False

    def points(self, loss: Loss, *points: Tensor) -> tuple[Tensor, ...]:
        """Return the points as they come: a distance needs no network, and so not its precision."""
        return points

    def measure(self, loss: Loss, w: Tensor, w_0: Tensor, *, progress: Progress | None = None) -> DistanceResult:
        """Measure between two flat vectors; :class:`InputError` if their shapes differ."""
        if w.shape != w_0.shape:
            raise InputError(f"expected two points of one shape, got {tuple(w.shape)} and {tuple(w_0.shape)}")
        start, end = w_0.cpu().double(), w.cpu().double()
        return DistanceResult(
            quantity="distance_from_start",
            value=float((end - start).norm()),
            start_norm=float(start.norm()),
            end_norm=float(end.norm()),
        )
