"""What every tool of the landscape benchmark measures: lines and planes, and the bare forward passes over them."""

from __future__ import annotations

import copy
import time
from collections.abc import Callable
from dataclasses import dataclass
from functools import cached_property

import numpy as np
import torch
from torch import Tensor, nn

from scripts.benchmarks.networks import Problem
from sharpness.landscapes.directions import Frame
from sharpness.landscapes.paths import linear
from sharpness.vectors import norm

Losses = list[float | None]
"""The mean loss at each point in order; ``None`` where a tool measured somewhere else."""


@dataclass(frozen=True)
class Line:
    """``(1 - alpha) w_0 + alpha w_1`` on an even grid of alpha from -1 to 2."""

    w_0: Tensor
    w_1: Tensor
    count: int

    @property
    def step(self) -> float:
        """The distance of two values of alpha."""
        return 3 / (self.count - 1)

    def at(self, alpha: float) -> Tensor:
        """Return the weights at one alpha."""
        return linear(self.w_0, self.w_1)(alpha)

    def point(self, number: int) -> Tensor:
        """Return the weights at one point of the grid."""
        return self.at(np.linspace(-1, 2, self.count).round(12).tolist()[number])

    @property
    def size(self) -> int:
        """The number of points."""
        return self.count


@dataclass(frozen=True)
class Grid:
    """``w + x u + y v`` for x and y each on an even grid of ``count`` points on [-reach, reach], row by row."""

    w: Tensor
    u: Tensor
    v: Tensor
    reach: float
    count: int

    @property
    def step(self) -> float:
        """The distance of two values of x, or of y."""
        return 2 * self.reach / (self.count - 1)

    @cached_property
    def frame(self) -> Frame:
        """The plane of the grid."""
        return Frame(self.w, self.u, self.v)

    def point(self, number: int) -> Tensor:
        """Return the weights at one point of the grid."""
        x, y = (-self.reach + self.step * i for i in (number % self.count, number // self.count))
        return self.frame.at(x, y)

    @property
    def size(self) -> int:
        """The number of points."""
        return self.count**2


Work = Line | Grid


def even_direction(model: nn.Module, w: Tensor, seed: int) -> Tensor:
    """Return a Gaussian direction as long as w whose tensors have lengths as the roots of their sizes.

    Landscaper gives any direction such lengths, so that these are the directions that all tools can go along.
    """
    generator = torch.Generator().manual_seed(seed)
    pieces = [torch.randn(p.numel(), generator=generator) for p in model.parameters()]
    direction = torch.cat([piece * (len(piece) ** 0.5 / piece.norm()) for piece in pieces])
    return direction * (norm(w) / norm(direction))


def set_weights(model: nn.Module, w: Tensor) -> nn.Module:
    """Copy a flat vector into the parameters in place, in their order."""
    with torch.no_grad():
        parameters = list(model.parameters())
        for parameter, piece in zip(parameters, w.split([p.numel() for p in parameters]), strict=True):
            parameter.copy_(piece.view_as(parameter))
    return model


def mean_loss(forward: Callable[[Tensor], Tensor], problem: Problem) -> float:
    """Return the mean over the batches, which are of equal size, and nothing else."""
    assert problem.criterion is not None
    total = sum(float(problem.criterion(forward(x), y)) for x, y in problem.batches)
    return total / len(problem.batches)


class Bare:
    """Forward passes in evaluation mode without a graph; ``seconds`` is theirs alone, without that of the weights."""

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
