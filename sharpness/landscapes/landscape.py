"""What every landscape shares: the call with its options, points of one shape, and the conditions of its result."""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any, ClassVar, Generic, TypeVar

from torch import Tensor

from sharpness.errors import InputError
from sharpness.landscapes.evaluations import Sampling
from sharpness.loss import Loss
from sharpness.machine.progress import Progress
from sharpness.results import Evidence, ProbeResult

Result = TypeVar("Result", bound=ProbeResult)


class Landscape(Generic[Result]):
    """Loss and accuracy at points of weight space: a frozen dataclass of knobs that is called with checkpoints.

    A subclass names its records and the class of its results, and :meth:`measure` returns what a result holds beside
    its conditions.
    """

    probe: ClassVar[str]
    quantity: ClassVar[str] = "loss_barrier"
    result: ClassVar[type[Any]]

    def __call__(
        self,
        loss: Loss,
        *points: Tensor,
        test_loss: Loss | None = None,
        names: Sequence[str] = (),
        resume: Path | None = None,
        part: tuple[int, int] = (0, 1),
        progress: Progress | None = None,
    ) -> Result:
        """Measure on ``loss`` and any ``test_loss``, each of shape (n,) in ``points`` a checkpoint.

        ``names`` are those of the checkpoints where a plane marks them; the other options are those of
        :class:`sharpness.landscapes.evaluations.Sampling`. Raises :class:`InputError` for knobs that define no
        landscape and points of other shapes.
        """
        started = time.perf_counter()
        self.check()
        sampling = Sampling(test_loss=test_loss, names=names, resume=resume, part=part, progress=progress)
        fields = self.measure(loss, sampling, *checked_points(loss, points))
        return self.result(
            probe=self.probe,
            quantity=self.quantity,
            knobs=asdict(self),  # pyright: ignore[reportArgumentType]  # every subclass is a dataclass
            seed=getattr(self, "seed", None),
            evidence=Evidence.collect(loss, started),
            **fields,
        )

    def check(self) -> None:
        """Raise :class:`InputError` for knobs that define no landscape."""

    def measure(self, *args: Any, **kwargs: Any) -> dict[str, Any]:
        """Return the fields of the result; called with the loss, the sampling and the points."""
        raise NotImplementedError


def checked_points(loss: Loss, points: Sequence[Tensor]) -> list[Tensor]:
    """Return points in the dtype and on the device of a loss; :class:`InputError` where one has another shape."""
    for point in points:
        if point.shape != loss.weights.shape:
            raise InputError(
                f"expected points of shape {tuple(loss.weights.shape)}, got {tuple(point.shape)}: give checkpoints of "
                "one network"
            )
    return [loss.point(point) for point in points]
