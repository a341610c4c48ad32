"""The frame of all landscapes: the options of a call, and points of one shape."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from torch import Tensor

from sharpness.errors import InputError
from sharpness.landscapes.evaluations import MAX_POINTS, Evaluations, Sampling, evaluate_points
from sharpness.loss import Loss
from sharpness.machine.progress import Progress
from sharpness.results import Probe, Result

SIZES = ("num_points", "num_rays", "num_bends")
"""The knobs by whose number memory is taken before the first point is measured."""


@dataclass(frozen=True)
class Landscape(Probe[Result]):
    """Loss and accuracy at points of weight space: a probe whose subclasses have the method :meth:`sample`."""

    def check(self) -> None:
        """Raise :class:`InputError` for knobs that define no landscape."""

    def sample(self, *args: Any, **kwargs: Any) -> Result:
        """Return the result without what the frame adds; called with the loss, the sampling and the points."""
        raise NotImplementedError

    def evaluate(self, loss: Loss, points: Callable[[int], Tensor], count: int, sampling: Sampling) -> Evaluations:
        """Return loss and accuracy at ``points(0), ..., points(count - 1)``, kept under the name and the knobs."""
        return evaluate_points(loss, points, count, sampling, {"probe": self.name, **asdict(self)})

    def measure(
        self,
        loss: Loss,
        *points: Tensor,
        test_loss: Loss | None = None,
        names: Sequence[str] = (),
        resume: Path | None = None,
        part: tuple[int, int] = (0, 1),
        progress: Progress | None = None,
    ) -> Result:
        """Measure on ``loss`` and any ``test_loss``; the points are checkpoints, each of shape (n,).

        ``names`` are those of the checkpoints where a plane marks them; the other options are those of
        :class:`sharpness.landscapes.evaluations.Sampling`. Raises :class:`InputError` for knobs that define no
        landscape and points of other shapes.
        """
        self.check()
        for name in SIZES:
            if (size := getattr(self, name, 0)) > MAX_POINTS:
                raise InputError(f"expected at most {MAX_POINTS} as {name}, got {size}: fewer can be seen in a figure")
        for point in points:
            if point.shape != loss.weights.shape:
                raise InputError(
                    f"expected points of shape {tuple(loss.weights.shape)}, got {tuple(point.shape)}: give checkpoints "
                    "of one network"
                )
        sampling = Sampling(test_loss=test_loss, names=names, resume=resume, part=part, progress=progress)
        return self.sample(loss, sampling, *points)
