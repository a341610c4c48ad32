"""The bends of a curve between two minima, trained by SGD on random points of it; a killed training loses nothing."""

from __future__ import annotations

import hashlib
import json
import math
from collections.abc import Callable
from dataclasses import dataclass, fields, replace
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load, save
from torch import Tensor

from sharpness.errors import InputError, unknown_name
from sharpness.files import write_atomically
from sharpness.landscapes.paths import COEFFICIENTS, combination, linear
from sharpness.loss import Loss
from sharpness.loss.minibatches import Minibatches
from sharpness.machine.environment import derived_seed
from sharpness.results import facts_of
from sharpness.vectors import sha256_of

SAVE_EVERY = 100  # steps
STREAM = "connectivity"


@dataclass(frozen=True, kw_only=True)
class BendKnobs:
    """The knobs of training the bends of a curve: see :class:`sharpness.landscapes.connectivity.ModeConnectivity`."""

    curve: str = "bezier"
    num_bends: int = 1
    num_steps: int = 2000
    batch_size: int | None = None
    learning_rate: float = 0.01
    momentum: float = 0.9
    weight_decay: float = 1e-4
    seed: int = 0

    def check(self) -> None:
        """Raise :class:`InputError` for knobs that define no training."""
        if self.curve not in COEFFICIENTS:
            raise unknown_name("curve", self.curve, COEFFICIENTS)
        if self.num_bends < 1 or self.num_steps < 1:
            raise InputError(f"expected at least 1 bend and 1 step, got {self.num_bends} and {self.num_steps}")
        if not (0 < self.learning_rate < math.inf and 0 <= self.momentum < 1 and 0 <= self.weight_decay < math.inf):
            raise InputError(
                "expected a positive learning_rate, a momentum from 0 to below 1 and a weight_decay of at least 0, got "
                f"{self.learning_rate}, {self.momentum} and {self.weight_decay}"
            )

    def rate(self, step: int) -> float:
        """Return the learning rate of a step, counted from 1: constant, then down to a hundredth, then constant.

        The schedule of ``train.py`` of Garipov et al.'s code, where it is of epochs: whole up to half of the training,
        from there linearly down to 0.01 of it at nine tenths.

        >>> [round(BendKnobs(num_steps=10, learning_rate=1.0).rate(step), 4) for step in (1, 5, 7, 9, 10)]
        [1.0, 1.0, 0.505, 0.01, 0.01]
        """
        done = step / self.num_steps
        return self.learning_rate * (1 - 0.99 * min(max((done - 0.5) / 0.4, 0.0), 1.0))


@dataclass(frozen=True)
class Bends:
    """The state of a training: ``points`` and ``velocity`` (num_bends, n), the losses of the first ``step`` batches."""

    step: int
    points: Tensor
    velocity: Tensor
    losses: Tensor
    stopped: str | None = None


def train_bends(
    loss: Loss,
    w_0: Tensor,
    w_1: Tensor,
    knobs: BendKnobs,
    *,
    folder: Path | None = None,
    progress: Callable[[int], None] | None = None,
) -> Bends:
    """Return the bends after ``num_steps`` steps, or where the loss of a batch was not finite, with the reason.

    They begin evenly on the straight line. With ``folder`` they are kept there every 100 steps and where the training
    is left by an exception, and it goes on from there, to the same bits. ``progress`` gets the number of steps done.
    """
    path = None if folder is None else folder / f"bends-{_key(loss, w_0, w_1, knobs)}.safetensors"
    state = _begin(w_0, w_1, knobs) if path is None or not path.exists() else _read(path, w_0.device)
    batches, kept = Minibatches(training_loss(loss), knobs.batch_size), state.step
    try:
        while state.step < knobs.num_steps and state.stopped is None:
            state = _after_step(state, batches, w_0, w_1, knobs)
            if path is not None and state.step == kept + SAVE_EVERY:
                _write(path, state)
                kept = state.step
            if progress is not None:
                progress(state.step)
    finally:
        if path is not None and state.step > kept:
            _write(path, state)
    return state


def training_loss(loss: Loss) -> Loss:
    """Return the loss whose gradients the bends follow: with the statistics of each batch where they are recomputed.

    ``norm='recalibrate'`` defines values only; Garipov et al. train in BatchNorm's training mode, and so does this.
    """
    return loss.with_norm("batch") if loss.norm == "recalibrate" else loss


def drawn_t(seed: int, step: int) -> float:
    """Return the point of the curve that a step, counted from 1, is taken at: uniform in [0, 1).

    >>> 0 <= drawn_t(0, 1) < 1 and drawn_t(0, 1) != drawn_t(0, 2)
    True
    """
    generator = torch.Generator().manual_seed(derived_seed(seed, STREAM, "t", step))
    return float(torch.rand((), generator=generator, dtype=torch.float64))


def _begin(w_0: Tensor, w_1: Tensor, knobs: BendKnobs) -> Bends:
    line, segments = linear(w_0, w_1), knobs.num_bends + 1
    points = torch.stack([line(number / segments) for number in range(1, segments)])
    return Bends(0, points, torch.zeros_like(points), torch.zeros(knobs.num_steps, dtype=torch.float64))


def _after_step(state: Bends, batches: Minibatches, w_0: Tensor, w_1: Tensor, knobs: BendKnobs) -> Bends:
    """Return the state after one more step, or the same with the reason why there is none.

    The bend with coefficient c gets ``c (g + weight_decay w)``: the gradient of the loss at the point w of the curve
    and of ``weight_decay / 2 ||w||^2`` there. The state given stays whole, to be kept if an exception comes.
    """
    step = state.step + 1
    coefficients = COEFFICIENTS[knobs.curve](drawn_t(knobs.seed, step), knobs.num_bends)
    w = combination(coefficients, [w_0, *state.points, w_1])
    value, gradient = batches.draw(knobs.seed, STREAM, step).value_and_grad(w)
    if not math.isfinite(value):
        reason = f"the training loss is {value} at step {step} of {knobs.num_steps}: use a smaller learning_rate"
        return replace(state, stopped=reason)
    state.losses[state.step] = value  # beyond those that the state has
    of_bends = torch.tensor(coefficients[1:-1], dtype=w.dtype, device=w.device)
    velocity = knobs.momentum * state.velocity + torch.outer(of_bends, gradient + knobs.weight_decay * w)
    return Bends(step, state.points - knobs.rate(step) * velocity, velocity, state.losses)


def _key(loss: Loss, w_0: Tensor, w_1: Tensor, knobs: BendKnobs) -> str:
    """Return what tells one training from another."""
    own: dict[str, Any] = {field.name: getattr(knobs, field.name) for field in fields(BendKnobs)}
    text = json.dumps([facts_of(loss), own, sha256_of((w_0, w_1))])
    return hashlib.sha256(text.encode()).hexdigest()[:16]


def _write(path: Path, state: Bends) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    step = torch.tensor(state.step)
    tensors = {"step": step, "points": state.points, "velocity": state.velocity, "losses": state.losses}
    write_atomically(path, save({name: tensor.cpu().contiguous() for name, tensor in tensors.items()}))


def _read(path: Path, device: torch.device) -> Bends:
    try:
        tensors = load(path.read_bytes())
        step, losses = int(tensors["step"]), tensors["losses"].clone()
        points, velocity = (tensors[name].to(device, copy=True) for name in ("points", "velocity"))
    except (SafetensorError, KeyError) as error:
        raise InputError(f"expected the bends of a curve in {path}, got a damaged file: delete it ({error})") from error
    return Bends(step, points, velocity, losses)
