"""Networks that differ in seed, rate and momentum alone, trained side by side: one tensor per parameter holds them all.

A small network leaves a CPU idle, so that a hundred of them take about as long as ten. Order of the examples, initial
weights, learning rate and optimiser are those of the trainer, with which the tests compare the weights.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.func import functional_call, vmap
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.nn.functional import cross_entropy

from sharpness.config import RunConfig
from sharpness.config.fields import changed_fields
from sharpness.errors import InputError
from sharpness.models import build_model
from sharpness.training.order import epoch_order
from sharpness.training.schedules import learning_rate

OPTIMISERS = ("sgd", "momentum", "nesterov", "lars")
CHUNK = 1000
"""Examples of one forward pass of all copies in evaluations, which is the batch whose statistics BatchNorm uses."""


def as_knob(config: RunConfig) -> dict[str, Any]:
    """Return the config of networks that are trained side by side as a measurement's knob, plain values."""
    return json.loads(json.dumps(changed_fields(config)))


@dataclass(frozen=True)
class Copies:
    """One network for all copies, and their parameters in its order, each of shape (copies, ...)."""

    network: nn.Module
    weights: Sequence[Tensor]

    def outputs(self, inputs: Tensor, training: bool = False) -> Tensor:
        """Return what each copy makes of its inputs: (copies, examples, ...) to (copies, examples, classes).

        Of a text it is (copies, examples, classes, places). Ghost batches and dropout, which draws anew for each copy,
        count in training alone; in evaluation BatchNorm uses the statistics of the batch it sees.
        """
        names = [name for name, _ in self.network.named_parameters()]
        self.network.train(training)

        def outputs(weights: Sequence[Tensor], x: Tensor) -> Tensor:
            return functional_call(self.network, dict(zip(names, weights, strict=True)), (x,))

        with sdpa_kernel(SDPBackend.MATH):  # the others have no rule for vmap and go copy by copy
            return vmap(outputs, randomness="different")(list(self.weights), inputs)

    def finite(self) -> Tensor:
        """Return for each copy whether all its weights are finite."""
        return torch.stack([torch.isfinite(each).flatten(1).all(1) for each in self.weights]).all(0)

    def error(self, inputs: Tensor, targets: Tensor) -> Tensor:
        """Return the share of wrong answers of each copy, shape (copies,)."""
        wrong = torch.zeros(len(self.weights[0]), device=inputs.device)
        with torch.no_grad():
            for x, y in zip(inputs.split(CHUNK), targets.split(CHUNK), strict=True):
                wrong += (self.outputs(x.expand(len(wrong), *x.shape)).argmax(2) != y).flatten(1).sum(1)
        return wrong / targets.numel()


def copies_of(
    config: RunConfig, shape: tuple[int, ...], classes: int, seeds: Sequence[int], device: torch.device
) -> Copies:
    """Return for each seed the network that the trainer begins with; a seed that stands twice has two copies."""
    networks = [build_model(config.model, shape, classes, seed) for seed in seeds]
    if list(networks[0].buffers()):
        raise InputError(f"expected norms without running statistics, got {config.model.norm}: take norm = batch")
    parts = zip(*(network.parameters() for network in networks), strict=True)
    return Copies(networks[0], [torch.stack(each).detach().to(device).requires_grad_() for each in parts])


def train_side_by_side(
    config: RunConfig,
    copies: Copies,
    inputs: Tensor,
    targets: Tensor,
    seeds: Sequence[int],
    values: Sequence[float],
    momenta: Sequence[float] | None = None,
) -> Iterator[int]:
    """Train the copies, each with its seed, value and momentum; yield after each update how many are done.

    A value stands for ``training.learning_rate``, and of lars for ``training.trust``; without ``momenta`` all have the
    config's. All else is the config's, of which the optimisers sgd, momentum, nesterov and lars, the schedule,
    ``clip_norm``, ``weight_decay`` and ghost batches are known here. The copies see the examples in their seed's order.
    """
    if config.training.optimizer not in OPTIMISERS:
        known = f"{', '.join(OPTIMISERS[:-1])} or {OPTIMISERS[-1]}"
        raise InputError(f"expected {known}, got {config.training.optimizer}: use the trainer")
    count, epochs, size = len(targets), config.training.epochs, config.training.batch_size
    per_epoch = -(-count // size)
    exact = {"dtype": copies.weights[0].dtype, "device": inputs.device}
    value = torch.tensor(list(values), **exact)
    plain = 0.0 if config.training.optimizer == "sgd" else config.training.momentum
    momentum = torch.tensor(list(momenta or [plain] * len(value)), **exact)
    velocity = [torch.zeros_like(each) for each in copies.weights]
    for epoch in range(epochs):
        orders = {seed: epoch_order(seed, epoch + 1, count) for seed in set(seeds)}
        order = torch.stack([orders[seed] for seed in seeds]).to(inputs.device)
        for number, rows in enumerate(order.split(size, dim=1)):
            gradient = _clipped(_gradient(copies, inputs[rows], targets[rows]), config.training.clip_norm)
            done = epoch + number * size / count
            share = learning_rate(config, done, epochs, count / size) / config.training.learning_rate
            _step(config, copies.weights, velocity, gradient, (value, momentum), share)
            yield epoch * per_epoch + number + 1


def _gradient(copies: Copies, inputs: Tensor, targets: Tensor) -> Sequence[Tensor]:
    logits = copies.outputs(inputs, training=True)
    losses = cross_entropy(logits.flatten(0, 1), targets.flatten(0, 1), reduction="none").view(len(targets), -1)
    return torch.autograd.grad(losses.mean(1).sum(), list(copies.weights))


def _clipped(gradient: Sequence[Tensor], longest: float | None) -> Sequence[Tensor]:
    """Return the gradient of each copy, cut down to a length as ``torch.nn.utils.clip_grad_norm_`` does."""
    if longest is None:
        return gradient
    squares = torch.stack([each.flatten(1).square().sum(1) for each in gradient])
    share = (longest / (squares.sum(0).sqrt() + 1e-6)).clamp(max=1)
    return [each * _column(share, each) for each in gradient]


@torch.no_grad()
def _step(
    config: RunConfig,
    weights: Sequence[Tensor],
    velocity: Sequence[Tensor],
    gradient: Sequence[Tensor],
    knobs: tuple[Tensor, Tensor],
    share: float,
) -> None:
    """Move the weights of all copies as ``torch.optim.SGD`` and :class:`sharpness.training.lars.Lars` do."""
    training, (value, momentum) = config.training, knobs
    for w, v, g in zip(weights, velocity, gradient, strict=True):
        kept = _column(momentum, v)
        if training.optimizer == "lars":
            v.mul_(kept).add_(_lars(w, g, value, training.weight_decay), alpha=training.learning_rate * share)
            w.sub_(v)
        else:
            slope = g if training.weight_decay == 0 else g + training.weight_decay * w
            v.mul_(kept).add_(slope)
            w.sub_((slope + kept * v if training.optimizer == "nesterov" else v) * _column(value * share, v))


def _lars(w: Tensor, gradient: Tensor, trust: Tensor, decay: float) -> Tensor:
    """Return the gradient with its layer-wise rate; a bias or the like, one axis in each copy, has none."""
    if w.ndim == 2:
        return gradient
    length, slope = (each.flatten(1).norm(dim=1) for each in (w, gradient))
    scale = torch.where((length > 0) & (slope > 0), trust * length / (slope + decay * length), 1.0)
    return (gradient + decay * w) * _column(scale, w)


def _column(numbers: Tensor, like: Tensor) -> Tensor:
    """Return a number for each copy in a shape that multiplies its part of a tensor."""
    return numbers.view(-1, *[1] * (like.ndim - 1))
