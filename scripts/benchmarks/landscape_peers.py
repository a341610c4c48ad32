"""The tools of the landscape benchmark, ours and its peers, on the same points and batches.

A tool takes a problem and a line or plane, makes what it needs, and returns the call that is timed. The call returns
the mean loss at each point in our order, ``None`` where the tool measured somewhere else.
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

from torch import Tensor, nn

from scripts.benchmarks.landscape_work import Line, Losses, Work, mean_loss, set_weights
from scripts.benchmarks.networks import Problem
from scripts.benchmarks.tools import peer
from sharpness.landscapes import Interpolation, RandomPlane
from sharpness.landscapes.grid import Plane, measure_plane
from sharpness.vectors import norm

NO_DEPS = (
    "pip install --no-deps landscaper topopy nglpy gudhi treelib coloraide drawsvg scikit-learn joblib threadpoolctl "
    "cloudpickle -c constraints.txt"
)
"""Landscaper needs topopy, whose numpy below 2 no current pandas allows; its grid uses neither."""
Call = Callable[[], Losses]


def ours(problem: Problem, work: Work) -> Call:
    """Return our landscape as the command line runs it: accuracies, hashes, and a line on disk for each point."""

    def call() -> Losses:
        loss = problem.loss()
        with tempfile.TemporaryDirectory() as folder:
            where: Any = {"test_loss": None, "resume": Path(folder), "part": (0, 1), "progress": None}
            if isinstance(work, Line):
                return [*Interpolation(num_points=work.count)(loss, work.w_0, work.w_1, **where).train_loss]
            axes, reach = [("x", "length"), ("y", "length")], (-work.reach, work.reach)
            plane = Plane(work.frame, reach, reach, axes, marks=[("checkpoint", work.w)])
            knobs = RandomPlane(num_points=work.count, normalisation="none")
            result = measure_plane("random_plane", knobs, loss, plane, started=time.perf_counter(), **where)
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

    metric = MeanLoss()
    if isinstance(work, Line):
        ends = (work.at(-1 - work.step), work.at(2))
        return lambda: library.linear_interpolation(*models_at(problem, ends), metric, steps=work.count).tolist()
    start, length = work.frame.at(-work.reach - work.step, -work.reach), work.count * work.step
    corners = (start, start + length * work.v, start + length * work.u)

    def call() -> Losses:
        values = library.planar_interpolation(*models_at(problem, corners), metric, steps=work.count).tolist()
        aligned = [row if i % 2 == 0 else [*row[1:], None] for i, row in enumerate(values)]
        return [value for row in aligned for value in row]

    return call


def landscaper(problem: Problem, work: Work) -> Call:
    """Return the grid of Landscaper in one or two dimensions around the middle, with our directions and step.

    It rescales the tensors of each direction, so that its line is ours only along :func:`even_direction`.
    """
    compute = peer("landscaper.compute", NO_DEPS).compute_loss_landscape
    centre, directions = (work.at(0.5), [work.w_1 - work.w_0]) if isinstance(work, Line) else (work.w, [work.v, work.u])
    step = work.step * norm(directions[0])
    distance = step * (work.count / 2) / norm(centre)  # it steps by |w| distance / (steps / 2)

    def mean_of(model: nn.Module, _: Any) -> float:
        return mean_loss(model, problem)

    def call() -> Losses:
        (model,) = models_at(problem, [centre])
        parts = [pieces_of(model, direction) for direction in directions]
        knobs: Any = {"steps": work.count, "distance": distance, "dim": len(parts), "device": "cpu"}
        with contextlib.redirect_stdout(io.StringIO()), contextlib.redirect_stderr(io.StringIO()):
            losses, _ = compute(model, None, parts, mean_of, **knobs)
        return losses.reshape(-1).tolist()

    return call


def models_at(problem: Problem, points: Sequence[Tensor]) -> list[nn.Module]:
    """Return copies of the network with these weights, which the peers change."""
    return [set_weights(copy.deepcopy(problem.model), point).eval() for point in points]


def pieces_of(model: nn.Module, w: Tensor) -> list[Tensor]:
    """Return a flat vector as copies in the shapes of the parameters."""
    parameters = list(model.parameters())
    split = w.split([p.numel() for p in parameters])
    return [piece.clone().view_as(parameter) for piece, parameter in zip(split, parameters, strict=True)]


@dataclass(frozen=True)
class Tool:
    """A row of the tables: what it is called, the module it comes in and the distribution, and what it leaves out."""

    label: str
    prepare: Callable[[Problem, Work], Call]
    module: str
    distribution: str
    note: str
    noisy_top: bool = False
    """Whether it adds random noise to the largest loss."""


TOOLS: dict[str, Tool] = {
    "ours": Tool(
        "sharpness",
        ours,
        "sharpness",
        "sharpness",
        "also accuracy, hashes of the data, and each point on disk as it is measured",
    ),
    "loss-landscapes": Tool(
        "loss-landscapes",
        loss_landscapes,
        "loss_landscapes",
        "loss-landscapes",
        "loss only; adds up its steps in place in float32; of a plane every second row lies one step aside",
    ),
    "landscaper": Tool(
        "Landscaper",
        landscaper,
        "landscaper",
        "landscaper",
        "loss only; rescales directions tensor by tensor; replaces what is not finite; adds noise to the largest loss",
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
