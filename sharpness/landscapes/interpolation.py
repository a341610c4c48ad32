"""Loss and accuracy on the line, or the arc, through two checkpoints."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from torch import Tensor

from sharpness.errors import InputError, unknown_name
from sharpness.landscapes.evaluations import Sampling
from sharpness.landscapes.landscape import Landscape
from sharpness.landscapes.paths import arc, linear
from sharpness.loss import Loss
from sharpness.results import ProbeResult
from sharpness.vectors import norm

PATHS = {"line": linear, "arc": arc}
NO_BARRIER = "the loss is not finite at every point from alpha = 0 to 1"
NO_ENDS = "the grid lacks alpha = 0 or 1"


@dataclass(frozen=True, kw_only=True)
class InterpolationResult(ProbeResult):
    """The curves; ``value`` is the barrier: the largest rise of the loss above the chord between the end points."""

    alphas: list[float]
    train_loss: list[float]
    train_accuracy: list[float | None]
    test_loss: list[float] | None
    test_accuracy: list[float | None] | None
    length: float
    path: str

    def __str__(self) -> str:
        barrier = "unknown" if self.value is None else f"{self.value:.4g}"
        return f"barrier {barrier} over {len(self.alphas)} points, distance {self.length:.4g}, {self.seconds:.1f} s"


@dataclass(frozen=True)
class Interpolation(Landscape[InterpolationResult]):
    """Loss and accuracy at ``w(alpha) = (1 - alpha) w_0 + alpha w_1`` on an even grid of alpha, finer at both ends.

    With ``path='arc'`` it is ``w(alpha) = cos(alpha pi / 2) w_0 + sin(alpha pi / 2) w_1``, the curvilinear path of
    Keskar et al. 2017, Appendix D. Their Figure 3 has 25 points on [-1, 2], w_0 the small-batch and w_1 the large-batch
    solution: a sharp minimum is then a single point. ``zoom`` halves the step so many times on both sides of 0 and of
    1, which adds ``4 zoom`` points. At alpha 0 and 1 the weights are the checkpoints' own, bit for bit. What BatchNorm
    does between them is the ``norm`` mode of the loss. The barrier is ``max over grid points in [0, 1] of L(alpha) -
    ((1 - alpha) L(0) + alpha L(1))``, the chord form of Frankle et al. 2020; it needs 0 and 1 on the grid,
    and a finite loss at every point between them.

    >>> import torch
    >>> model = torch.nn.Linear(1, 1, bias=False)
    >>> loss = Loss(model, torch.nn.functional.mse_loss, [(torch.ones(1, 1), torch.zeros(1, 1))])
    >>> Interpolation(num_points=4)(loss, torch.tensor([0.0]), torch.tensor([1.0])).train_loss
    [1.0, 0.0, 1.0, 4.0]
    """

    num_points: int = 25
    start: float = -1.0
    stop: float = 2.0
    path: str = "line"
    zoom: int | None = None
    """Halvings of the step towards alpha = 0 and 1, from both sides; ``None`` for none."""

    name = "interpolation"

    def check(self) -> None:
        """Raise :class:`InputError` for an unknown path, for a grid that is none, and for a zoom out."""
        if self.path not in PATHS:
            raise unknown_name("path", self.path, PATHS)
        if self.num_points < 2 or not self.start < self.stop:
            raise InputError(
                f"expected at least 2 points on a growing range, got {self.num_points} on [{self.start}, {self.stop}]"
            )
        if self.zoom is not None and not 0 <= self.zoom <= 20:
            raise InputError(f"expected a zoom of 0 to 20 halvings, got {self.zoom}")

    def grid(self) -> list[float]:
        """Return the values of alpha, ascending.

        >>> Interpolation(num_points=4, zoom=1).grid()
        [-1.0, -0.5, 0.0, 0.5, 1.0, 1.5, 2.0]
        """
        alphas = set(np.linspace(self.start, self.stop, self.num_points).round(12).tolist())  # 0 and 1 exactly
        step = (self.stop - self.start) / (self.num_points - 1)
        for halving in range(self.zoom or 0):
            shift = step / 2 ** (halving + 1)
            alphas |= {round(end + side * shift, 12) for end in (0.0, 1.0) for side in (-1, 1)}
        return sorted(alpha for alpha in alphas if self.start <= alpha <= self.stop)

    def sample(self, loss: Loss, sampling: Sampling, w_0: Tensor, w_1: Tensor) -> InterpolationResult:
        """Return loss and accuracy on the grid, and the barrier."""
        alphas = self.grid()
        path = PATHS[self.path](w_0, w_1)
        found = self.evaluate(loss, lambda number: path(alphas[number]), len(alphas), sampling)
        curves = found.curves()
        value = barrier(alphas, curves["train_loss"])
        return InterpolationResult(
            quantity="loss_barrier",
            value=value,
            reasons={} if value is not None else {"value": NO_BARRIER if {0.0, 1.0} <= {*alphas} else NO_ENDS},
            num_forwards=found.num_forwards,
            alphas=alphas,
            length=norm(w_1 - w_0),
            path=self.path,
            **curves,
        )


def barrier(alphas: Sequence[float], losses: Sequence[float]) -> float | None:
    """Return the largest rise above the chord on [0, 1], ``None`` where an end or a finite loss there is missing.

    >>> barrier([0.0, 0.5, 1.0], [1.0, 5.0, 3.0])
    3.0
    """
    at = {a: loss for a, loss in zip(alphas, losses, strict=True) if 0 <= a <= 1}
    if not (at.keys() >= {0.0, 1.0} and all(map(math.isfinite, at.values()))):
        return None
    return max(loss - ((1 - a) * at[0.0] + a * at[1.0]) for a, loss in at.items())
