"""The largest rise of the loss in a ball, sought by Auto-PGD from several starts on each part of the data."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from typing import Any

from torch import Tensor

from sharpness.errors import InputError
from sharpness.loss import Loss
from sharpness.machine.progress import Progress
from sharpness.probes.methods.apgd import Ball, Objective, apgd


@dataclass(frozen=True, kw_only=True)
class PartMaximum:
    """The maxima on one part of the data: its share of the mean, the loss at w, the largest loss of each start.

    ``radius`` is how far out the largest of them lies, in the norm of the ball.
    """

    share: float
    loss: float
    largest: tuple[float, ...]
    radius: float

    @property
    def rise(self) -> float:
        """The largest rise found; w itself is in the ball, so it is never negative."""
        return max(0.0, max(self.largest) - self.loss)


def worst_rise(
    parts: Sequence[tuple[float, Loss]],
    objective_of: Callable[[Loss], Objective],
    starts_of: Callable[[int], Iterable[Tensor]],
    ball: Ball,
    *,
    radius: float,
    steps: int,
    num_starts: int,
    progress: Progress | None,
) -> dict[str, Any]:
    """Return the fields of a result: the largest rise on each part, averaged by shares, as value and lower bound.

    ``objective_of(part)`` is the loss of a part as a function of the displacement, ``starts_of(i)`` the starts on the
    i-th part, of which the first is 0.
    """
    total, done = len(parts) * num_starts * (steps + 1), 0

    def maximum(number: int, share: float, objective: Objective) -> PartMaximum:
        values = list[float]()

        def counted(u: Tensor) -> tuple[float, Tensor]:
            nonlocal done
            value, gradient = objective(u)
            values.append(value)
            done += 1
            if progress is not None:
                progress(done, total)
            return value, gradient

        ascents = [apgd(counted, start, ball, radius, steps) for start in starts_of(number)]
        best = max(ascents, key=lambda ascent: ascent.value)
        largest = tuple(ascent.value for ascent in ascents)
        return PartMaximum(share=share, loss=values[0], largest=largest, radius=ball.length(best.point))

    found = tuple(maximum(number, share, objective_of(part)) for number, (share, part) in enumerate(parts))
    value = sum(part.share * part.rise for part in found)
    return {
        "value": value,
        "lower": value,
        "reasons": {
            "upper": "the maximisation is inexact: what it found bounds the worst case from below only",
            "confidence": "the lower bound holds without a probability",
        },
        "num_gradients": total,
        "loss": sum(part.share * part.loss for part in found),
        "parts": found,
    }


def check_ascents(steps: int, num_starts: int) -> None:
    """Raise :class:`InputError` for ascents without a step or a start."""
    if steps < 1 or num_starts < 1:
        raise InputError(
            f"expected at least 1 step and 1 start, got {steps} and {num_starts}: leave them out for 20 and 2"
        )
