"""Mode connectivity: a curve of low loss with trained bends between two checkpoints, and the line beside it."""

from __future__ import annotations

import itertools
import math
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np
from torch import Tensor

from sharpness.errors import InputError
from sharpness.landscapes import paths
from sharpness.landscapes.bends import BendKnobs, Bends, train_bends, training_loss
from sharpness.landscapes.evaluations import Evaluations, Sampling
from sharpness.landscapes.interpolation import barrier
from sharpness.landscapes.landscape import Landscape
from sharpness.loss import Loss
from sharpness.results import ProbeResult
from sharpness.vectors import norm

MOST_LOSSES = 200  # of the training that a record holds


@dataclass(frozen=True, kw_only=True)
class ConnectivityResult(ProbeResult):
    """The curve and the line; ``value`` is the largest rise of the train loss on the curve above its ends' chord.

    ``curves`` and ``line`` hold ``train_loss``, ``train_accuracy``, ``test_loss`` and ``test_accuracy`` at ``ts``.
    """

    ts: list[float]
    curves: Mapping[str, Any]
    line: Mapping[str, Any]
    line_barrier: float | None
    curve: str
    bends: Tensor = field(repr=False)
    training: Mapping[str, Any]
    length: float
    line_length: float

    def details(self) -> dict[str, Any]:
        """Return both paths with their lengths, and of the training its steps, losses and BatchNorm's statistics."""
        names = ("ts", "line", "line_barrier", "curve", "length", "line_length")
        return {name: getattr(self, name) for name in names} | {
            "bends": len(self.bends),
            **self.curves,
            **self.training,
        }

    def __str__(self) -> str:
        curve, line = ("unknown" if x is None else f"{x:.4g}" for x in (self.value, self.line_barrier))
        return (
            f"barrier {curve} on the {self.curve} curve, {line} on the line, {self.training['steps']} steps, "
            f"{self.seconds:.1f} s"
        )


@dataclass(frozen=True, kw_only=True)
class ModeConnectivity(BendKnobs, Landscape[ConnectivityResult]):
    r"""Loss and accuracy along a curve of trained bends from one checkpoint to another, and along the straight line.

    Garipov et al. 2018 (arXiv 1802.10026), section 3: a ``bezier`` curve or polygonal ``chain`` whose ends stay the
    checkpoints, bit for bit, while its bends minimise the mean over t, uniform in [0, 1], of
    ``L(w(t)) + weight_decay / 2 ||w(t)||^2``, by SGD with momentum, a random t and a random batch at a time.
    ``num_points`` values of t, evenly spaced, are measured on either path; ``value`` is the largest rise (nats) above
    the chord of the ends. ``docs/landscapes.md`` says how it differs from their code and what BatchNorm does. Where a
    training loss is not finite there is no value but a reason.

    >>> import torch
    >>> model = torch.nn.Linear(2, 1, bias=False)
    >>> ring = lambda output, target: (output.square().sum() - 1) ** 2
    >>> loss = Loss(model, ring, [(torch.eye(2), torch.zeros(2))])
    >>> ends = torch.tensor([1.0, 0.0]), torch.tensor([-0.9, 0.436])
    >>> result = ModeConnectivity(num_steps=200, learning_rate=0.05, num_points=11)(loss, *ends)
    >>> result.value < 0.1 * result.line_barrier
    True
    """

    num_points: int = 61

    name = "connectivity"

    def check(self) -> None:
        """Raise :class:`InputError` for knobs that define no training or no path."""
        super().check()
        if self.num_points < 2:
            raise InputError(f"expected at least 2 points along the curve, got {self.num_points}")

    def sample(self, loss: Loss, sampling: Sampling, w_0: Tensor, w_1: Tensor) -> ConnectivityResult:
        """Train the bends, then return loss and accuracy along the curve and along the line."""
        line, ts = paths.linear(w_0, w_1), np.linspace(0, 1, self.num_points).tolist()
        count = 2 * self.num_points - 2  # the line's ends are the curve's
        total = self.num_steps + len(sampling.own(count))

        def report(done: int) -> None:
            if sampling.progress is not None:
                sampling.progress(done, total)

        state = train_bends(loss, w_0, w_1, self, folder=sampling.resume, progress=report)
        curve = paths.CURVES[self.curve](w_0, list(state.points), w_1)
        places = [*((curve, t) for t in ts), *((line, t) for t in ts[1:-1])]

        def point(number: int) -> Tensor:
            path, t = places[number]
            return path(t)

        after = replace(sampling, progress=lambda done, _: report(self.num_steps + done))
        found = self.evaluate(loss, point, count, after)
        return ConnectivityResult(
            quantity="loss_barrier",
            num_gradients=state.step + (state.stopped is not None),
            num_forwards=found.num_forwards,
            ts=ts,
            curve=self.curve,
            bends=state.points,
            training=_training(loss, state),
            length=_length(curve, ts),
            line_length=norm(w_1 - w_0),
            **_measured(ts, found, state.stopped),
            seed=self.seed,
        )


def _measured(ts: list[float], found: Evaluations, stopped: str | None) -> dict[str, Any]:
    """Return both paths with their barriers, or why there are none."""
    curve, inside, reasons = found.curves(0, len(ts)), found.curves(len(ts)), dict[str, str]()
    line = {name: losses and [losses[0], *inside[name], losses[-1]] for name, losses in curve.items()}
    value, line_barrier = (barrier(ts, path["train_loss"]) for path in (curve, line))
    if stopped is not None:
        value, reasons["value"] = None, stopped
    elif value is None:
        reasons["value"] = "the loss is not finite at every point of the curve"
    if line_barrier is None:
        reasons["details.line_barrier"] = "the loss is not finite at every point of the line"
    return {"curves": curve, "line": line, "value": value, "line_barrier": line_barrier, "reasons": reasons}


def _training(loss: Loss, state: Bends) -> dict[str, Any]:
    """Return the number of steps, the statistics that they took, and the loss of every so many, none of them smoothed.

    Each is of another batch at another t, so they scatter.
    """
    every = max(1, math.ceil(state.step / MOST_LOSSES))
    return {
        "steps": state.step,
        "training_norm": training_loss(loss).norm,
        "training_steps": list(range(1, state.step + 1, every)),
        "training_losses": state.losses[: state.step : every].tolist(),
    }


def _length(curve: paths.Curve, ts: list[float]) -> float:
    """Return the length of the polygon through the points that are measured."""
    return math.fsum(norm(curve(b) - curve(a)) for a, b in itertools.pairwise(ts))
