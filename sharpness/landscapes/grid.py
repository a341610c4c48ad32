"""The loss on a grid of a plane, with the true loss at the checkpoints that are marked in it."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch
from torch import Tensor

from sharpness.errors import InputError
from sharpness.landscapes.directions import Frame
from sharpness.landscapes.evaluations import Evaluations, Sampling
from sharpness.landscapes.landscape import Landscape
from sharpness.loss import Loss
from sharpness.results import MERGED, ProbeResult


@dataclass(frozen=True, kw_only=True)
class PlaneResult(ProbeResult):
    """The grid; ``value`` is the largest rise of the train loss over its finite points above the first mark's loss.

    ``curves`` holds ``train_loss``, ``train_accuracy``, ``test_loss`` and ``test_accuracy``, each a list over ``ys`` of
    lists over ``xs``, or ``None``. ``marks`` and ``trajectory`` hold for each checkpoint its name, the coordinates of
    its projection, its distance from the plane, and its own losses, which off the plane are not those of the picture.
    ``facts`` hold what is known of the directions.
    """

    xs: list[float]
    ys: list[float]
    curves: Mapping[str, Any] = field(metadata=MERGED)
    axes: list[dict[str, str]]
    marks: list[dict[str, Any]]
    trajectory: list[dict[str, Any]] | None
    facts: Mapping[str, Any] = field(default_factory=dict, metadata=MERGED)

    def __str__(self) -> str:
        rise = "unknown" if self.value is None else f"{self.value:.4g}"
        return f"largest rise {rise} over {len(self.ys)} x {len(self.xs)} points, {self.seconds:.1f} s"


@dataclass(frozen=True, kw_only=True)
class PlaneLandscape(Landscape[PlaneResult]):
    """The number of grid points along each axis; the point in the middle of an odd number is on the grid."""

    num_points: int = 21

    def check(self) -> None:
        """Raise :class:`InputError` for a grid that is none."""
        if self.num_points < 2:
            raise InputError(f"expected at least 2 points along each axis, got {self.num_points}")


@dataclass(frozen=True)
class Plane:
    """A plane to measure: the frame, the ranges of its coordinates, and the checkpoints that are marked in it."""

    frame: Frame
    x_range: tuple[float, float]
    y_range: tuple[float, float]
    axes: Sequence[tuple[str, str]]
    marks: Sequence[tuple[str, Tensor]]
    trajectory: Sequence[tuple[str, Tensor]] | None = None
    facts: Mapping[str, Any] = field(default_factory=dict)


def measure_plane(landscape: PlaneLandscape, loss: Loss, sampling: Sampling, plane: Plane) -> PlaneResult:
    """Measure the grid point by point, then the marks, and return all of it."""
    xs, ys = (_grid(low, high, landscape.num_points) for low, high in (plane.x_range, plane.y_range))
    extra = [*plane.marks, *(plane.trajectory or ())]
    size = len(xs) * len(ys)
    weights = torch.empty_like(plane.frame.origin)  # one for all points: a new vector each time costs page faults

    def point(number: int) -> Tensor:
        if number >= size:
            return extra[number - size][1]
        return plane.frame.at(xs[number % len(xs)], ys[number // len(xs)], out=weights)

    found = landscape.evaluate(loss, point, size + len(extra), sampling)
    marked = [_mark(name, w, plane.frame, found, size + i) for i, (name, w) in enumerate(extra)]
    value, reasons = _largest_rise(found, size)
    return PlaneResult(
        quantity="largest_rise",
        value=value,
        reasons=reasons,
        num_forwards=found.num_forwards,
        xs=xs,
        ys=ys,
        curves={name: _rows(curve, len(xs)) for name, curve in found.curves(0, size).items()},
        axes=[{"name": name, "unit": unit} for name, unit in plane.axes],
        marks=marked[: len(plane.marks)],
        trajectory=None if plane.trajectory is None else marked[len(plane.marks) :],
        facts={"cosine": plane.frame.cosine, **plane.facts},
        seed=getattr(landscape, "seed", None),
    )


def _grid(low: float, high: float, count: int) -> list[float]:
    """Return evenly spaced numbers; 0 exactly where rounding alone keeps it from the grid."""
    values = np.linspace(low, high, count)
    values[np.abs(values) < 1e-12 * max(abs(low), abs(high))] = 0.0
    return values.tolist()


def _rows(curve: list[Any] | None, width: int) -> list[list[Any]] | None:
    return None if curve is None else [curve[i : i + width] for i in range(0, len(curve), width)]


def _mark(name: str, w: Tensor, frame: Frame, found: Evaluations, number: int) -> dict[str, Any]:
    x, y, distance = frame.coordinates(w)
    own = {key: None if values is None else values[0] for key, values in found.curves(number, number + 1).items()}
    return {"name": name, "x": x, "y": y, "distance": distance, **own}


def _largest_rise(found: Evaluations, size: int) -> tuple[float | None, dict[str, str]]:
    first = found.train[size].loss
    finite = [point.loss for point in found.train[:size] if math.isfinite(point.loss)]
    if not math.isfinite(first) or not finite:
        return None, {"value": "the loss is not finite at the first mark or on all of the grid"}
    return max(finite) - first, {}
