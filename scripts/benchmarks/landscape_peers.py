"""The tools of the landscape benchmark, ours and its peers, on the points and batches that all of them measure.

A tool takes a problem and the points, makes what it needs, and returns the call that is timed. The call returns the
mean loss at each point in our order, ``None`` where the tool measured somewhere else.
"""

from __future__ import annotations

import contextlib
import copy
import io
import tempfile
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from scripts.benchmarks.networks import Problem
from scripts.benchmarks.tools import Tool, peer
from sharpness.landscapes import Interpolation, RandomPlane
from sharpness.landscapes.directions import Frame
from sharpness.landscapes.evaluations import Sampling
from sharpness.landscapes.grid import Plane, measure_plane
from sharpness.landscapes.paths import linear
from sharpness.vectors import norm

NO_DEPS = (
    "pip install --no-deps landscaper topopy nglpy gudhi treelib coloraide drawsvg scikit-learn joblib threadpoolctl "
    "cloudpickle -c constraints.txt"
)
"""Landscaper needs topopy, whose numpy below 2 no current pandas allows; its grid uses neither."""
Losses = list[float | None]
Call = Callable[[], Losses]


@dataclass(frozen=True)
class Work:
    """An even grid of ``count`` numbers on [low, high] along one direction, or along two of them row by row.

    ``at`` returns the weights, shape (n,), at one or two numbers.
    """

    at: Callable[..., Tensor]
    directions: tuple[Tensor, ...]
    low: float
    high: float
    count: int

    @property
    def size(self) -> int:
        """The number of points."""
        return self.count ** len(self.directions)

    @property
    def step(self) -> float:
        """The distance of two numbers of the grid."""
        return (self.high - self.low) / (self.count - 1)

    def point(self, index: int) -> Tensor:
        """Return the weights at one point of the grid."""
        numbers = np.linspace(self.low, self.high, self.count).round(12).tolist()
        places = (index % self.count, index // self.count)
        return self.at(*(numbers[place] for place in places[: len(self.directions)]))


def line_between(w_0: Tensor, w_1: Tensor, count: int) -> Work:
    """Return ``(1 - alpha) w_0 + alpha w_1`` for alpha from -1 to 2."""
    return Work(linear(w_0, w_1), (w_1 - w_0,), -1.0, 2.0, count)


def plane_around(w: Tensor, u: Tensor, v: Tensor, reach: float, count: int) -> Work:
    """Return ``w + x u + y v`` for x and y from -reach to reach."""
    return Work(Frame(w, u, v).at, (u, v), -reach, reach, count)


def even_direction(model: nn.Module, w: Tensor, seed: int) -> Tensor:
    """Return a Gaussian direction as long as w whose tensors have lengths as the roots of their sizes.

    Landscaper gives any direction such lengths, so that these are the directions that all tools can go along.
    """
    generator = torch.Generator().manual_seed(seed)
    pieces = [torch.randn(p.numel(), generator=generator) for p in model.parameters()]
    direction = torch.cat([piece * (len(piece) ** 0.5 / piece.norm()) for piece in pieces])
    return direction * (norm(w) / norm(direction))


def pieces_of(model: nn.Module, w: Tensor) -> list[Tensor]:
    """Return a flat vector in the shapes of the parameters, in their order."""
    parameters = list(model.parameters())
    split = w.split([p.numel() for p in parameters])
    return [piece.view_as(parameter) for piece, parameter in zip(split, parameters, strict=True)]


def set_weights(model: nn.Module, w: Tensor) -> nn.Module:
    """Copy a flat vector into the parameters in place."""
    with torch.no_grad():
        for parameter, piece in zip(model.parameters(), pieces_of(model, w), strict=True):
            parameter.copy_(piece)
    return model


def models_at(problem: Problem, *points: Tensor) -> list[nn.Module]:
    """Return copies of the network with these weights, which the peers change."""
    return [set_weights(copy.deepcopy(problem.model), point).eval() for point in points]


def mean_loss(forward: Callable[[Tensor], Tensor], problem: Problem) -> float:
    """Return the mean over the batches, which are of equal size, and nothing else."""
    assert problem.criterion is not None
    total = sum(float(problem.criterion(forward(x), y)) for x, y in problem.batches)
    return total / len(problem.batches)


class Bare:
    """Forward passes in evaluation mode without a graph; ``seconds`` is theirs alone, setting the weights left out."""

    def __init__(self, problem: Problem, work: Work) -> None:
        self.problem, self.work, self.seconds = problem, work, 0.0
        self.model = copy.deepcopy(problem.model).eval()

    def __call__(self) -> Losses:
        self.seconds, losses = 0.0, list[float | None]()
        with torch.no_grad():
            for number in range(self.work.size):
                set_weights(self.model, self.work.point(number))
                started = time.perf_counter()
                losses.append(mean_loss(self.model, self.problem))
                self.seconds += time.perf_counter() - started
        return losses


def ours(problem: Problem, work: Work) -> Call:
    """Return our landscape as the command line runs it: accuracies, hashes, and a line on disk for each point."""

    def call() -> Losses:
        loss = problem.loss()
        with tempfile.TemporaryDirectory() as folder:
            place = Path(folder)
            if len(work.directions) == 1:
                return [*Interpolation(num_points=work.count)(loss, work.at(0), work.at(1), resume=place).train_loss]
            axes, reach, w = [("x", "length"), ("y", "length")], (work.low, work.high), work.at(0, 0)
            plane = Plane(Frame(w, *work.directions), reach, reach, axes, marks=[("checkpoint", w)])
            knobs = RandomPlane(num_points=work.count, normalisation="none")
            result = measure_plane(knobs, loss, Sampling(resume=place), plane)
        return [value for row in result.curves["train_loss"] for value in row]

    return call


def loss_landscapes(problem: Problem, work: Work) -> Call:
    """Return linear or planar interpolation of loss-landscapes, its metric the same passes over the same batches.

    It moves by one step before it measures, so it starts one step before the first point. Every second row of its
    plane is measured backwards and lies one step aside: its first point is before our first, and our last is missing.
    """
    library, kind = peer("loss_landscapes"), peer("loss_landscapes.metrics").Metric

    class MeanLoss(kind):
        def __call__(self, wrapper: Any) -> float:
            return mean_loss(wrapper.forward, problem)

    metric, flat = MeanLoss(), len(work.directions) == 1
    start = work.at(work.low - work.step, *(work.low for _ in work.directions[1:]))
    corners = (start, *(start + work.count * work.step * direction for direction in reversed(work.directions)))

    def call() -> Losses:
        interpolate = library.linear_interpolation if flat else library.planar_interpolation
        values = interpolate(*models_at(problem, *corners), metric, steps=work.count).tolist()
        if flat:
            return values
        aligned = [row if i % 2 == 0 else [*row[1:], None] for i, row in enumerate(values)]
        return [value for row in aligned for value in row]

    return call


def landscaper(problem: Problem, work: Work) -> Call:
    """Return the grid of Landscaper in one or two dimensions around the middle, with our directions and step.

    It rescales the tensors of each direction, so that its line is ours only along :func:`even_direction`.
    """
    compute = peer("landscaper.compute", NO_DEPS).compute_loss_landscape
    centre = work.at(*((work.low + work.high) / 2 for _ in work.directions))
    step = work.step * norm(work.directions[-1])
    distance = step * (work.count / 2) / norm(centre)  # it steps by |w| distance / (steps / 2)

    def mean_of(model: nn.Module, _: Any) -> float:
        return mean_loss(model, problem)

    def call() -> Losses:
        (model,) = models_at(problem, centre)
        parts = [[piece.clone() for piece in pieces_of(model, each)] for each in reversed(work.directions)]
        knobs: Any = {"steps": work.count, "distance": distance, "dim": len(parts), "device": "cpu"}
        with contextlib.redirect_stdout(io.StringIO()), contextlib.redirect_stderr(io.StringIO()):
            losses, _ = compute(model, None, parts, mean_of, **knobs)
        return losses.reshape(-1).tolist()

    return call


TOOLS = {
    "ours": Tool(
        label="sharpness",
        call=ours,
        distribution="sharpness",
        note="also accuracy, hashes of the data, and each point on disk as it is measured",
    ),
    "loss-landscapes": Tool(
        label="loss-landscapes",
        call=loss_landscapes,
        distribution="loss-landscapes",
        note="loss only; adds up its steps in place in float32; of a plane every second row lies one step aside",
    ),
    "landscaper": Tool(
        label="Landscaper",
        call=landscaper,
        distribution="landscaper",
        note="loss only; rescales directions tensor by tensor; replaces what is not finite; adds noise to the largest "
        "loss",
        noisy_top=True,
    ),
}


def difference(losses: Sequence[float | None], truth: Sequence[float | None], noisy_top: bool) -> float | None:
    """Return the largest relative difference over the points that a tool measured, but for a largest loss with noise.

    >>> difference([1.0, None, 9.0], [1.0, 2.0, 4.0], noisy_top=True)
    0.0
    """
    top = max(range(len(truth)), key=lambda number: truth[number] or 0.0)
    pairs = [(a, b) for i, (a, b) in enumerate(zip(losses, truth, strict=True)) if not (noisy_top and i == top)]
    return max((abs(a - b) / abs(b) for a, b in pairs if a is not None and b), default=None)
