"""Networks that differ in seed, rate and momentum alone, trained side by side: one tensor per parameter holds them all.

A small network leaves a CPU idle, so that a hundred of them take about as long as ten. Order of the examples, initial
weights, learning rate and optimiser are those of the trainer, with which the tests compare the weights.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.nn.functional import conv2d, cross_entropy

from sharpness.config import RunConfig
from sharpness.errors import InputError
from sharpness.models import build_model
from sharpness.models.norms import GhostBatchNorm1d
from sharpness.training.order import epoch_order
from sharpness.training.schedules import learning_rate

LAYERS = (nn.Flatten, nn.Identity, nn.Linear, nn.ReLU, nn.BatchNorm1d, nn.Conv2d, nn.MaxPool2d, nn.Dropout)
OPTIMISERS = ("sgd", "momentum", "nesterov", "lars")
CHUNK = 1000
"""Examples of one forward pass of all copies in evaluations, which is the batch whose statistics BatchNorm uses."""


@dataclass(frozen=True)
class Copies:
    """The layers of a network in a row, and the parameters of all copies, each of shape (copies, ...)."""

    layers: Sequence[nn.Module]
    weights: Sequence[Tensor]

    def outputs(self, inputs: Tensor, training: bool = False) -> Tensor:
        """Return the logits of each copy for its inputs: (copies, examples, ...) to (copies, examples, classes).

        Ghost batches and dropout, which draws anew for each copy, count in training alone; in evaluation BatchNorm uses
        the statistics of the batch it sees.
        """
        rest, x = iter(self.weights), inputs
        for layer in self.layers:
            if isinstance(layer, nn.Linear):
                weight, bias = next(rest), next(rest)
                x = torch.baddbmm(bias[:, None], x, weight.mT)
            elif isinstance(layer, nn.Conv2d):
                x = convolved(x, next(rest), next(rest), layer)
            elif isinstance(layer, nn.MaxPool2d):
                x = layer(x.flatten(0, 1)).unflatten(0, x.shape[:2])
            elif isinstance(layer, nn.Flatten):
                x = x.flatten(2)
            elif isinstance(layer, nn.Dropout):
                x = torch.dropout(x, layer.p, training)
            elif isinstance(layer, nn.BatchNorm1d):
                ghosts = layer.ghosts.size if training and isinstance(layer, GhostBatchNorm1d) else None
                scale, shift = next(rest), next(rest)
                x = normalised(x, ghosts, layer.eps) * scale[:, None] + shift[:, None]
            elif isinstance(layer, nn.ReLU):
                x = torch.relu(x)
        return x

    def finite(self) -> Tensor:
        """Return for each copy whether all its weights are finite."""
        return torch.stack([torch.isfinite(each).flatten(1).all(1) for each in self.weights]).all(0)

    def error(self, inputs: Tensor, targets: Tensor) -> Tensor:
        """Return the share of wrong answers of each copy, shape (copies,)."""
        wrong = torch.zeros(len(self.weights[0]), device=inputs.device)
        with torch.no_grad():
            for x, y in zip(inputs.split(CHUNK), targets.split(CHUNK), strict=True):
                wrong += (self.outputs(x.expand(len(wrong), *x.shape)).argmax(2) != y).sum(1)
        return wrong / len(targets)


def convolved(x: Tensor, weight: Tensor, bias: Tensor, layer: nn.Conv2d) -> Tensor:
    """Return the convolution of each copy's images with its own kernels, which are groups of one convolution."""
    copies, images = len(x), x.transpose(0, 1).flatten(1, 2)
    assert not isinstance(layer.padding, str)  # no built-in network pads by a word
    knobs = (layer.stride, layer.padding, layer.dilation, copies * layer.groups)
    return conv2d(images, weight.flatten(0, 1), bias.flatten(), *knobs).unflatten(1, (copies, -1)).transpose(0, 1)


def normalised(x: Tensor, ghosts: int | None, eps: float) -> Tensor:
    """Return features less their mean over the examples and over their deviation, by parts of ``ghosts`` examples.

    >>> normalised(torch.tensor([[[1.0], [3.0], [0.0], [4.0]]]), 2, 0.0).flatten().tolist()
    [-1.0, 1.0, -1.0, 1.0]
    """
    copies, count, width = x.shape
    size = count if ghosts is None else min(ghosts, count)
    if count % size:
        raise InputError(f"expected batches that parts of {size} fill, got one of {count}: change the number of images")
    parts = x.reshape(copies, count // size, size, width)
    variance, mean = torch.var_mean(parts, dim=2, correction=0, keepdim=True)
    return ((parts - mean) * (variance + eps).rsqrt()).view_as(x)


def copies_of(
    config: RunConfig, shape: tuple[int, ...], classes: int, seeds: Sequence[int], device: torch.device
) -> Copies:
    """Return for each seed the network that the trainer begins with; a seed that stands twice has two copies."""
    networks = [build_model(config.model, shape, classes, seed) for seed in seeds]
    layers = list(networks[0].children())
    for layer in layers:
        if not isinstance(layer, LAYERS) or getattr(layer, "track_running_stats", False):
            raise InputError(f"expected layers in a row, of norms batch statistics, got {layer}: use another network")
    parts = zip(*(network.parameters() for network in networks), strict=True)
    return Copies(layers, [torch.stack(each).detach().to(device).requires_grad_() for each in parts])


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
    value = torch.tensor(list(values), dtype=inputs.dtype, device=inputs.device)
    plain = 0.0 if config.training.optimizer == "sgd" else config.training.momentum
    momentum = torch.tensor(list(momenta or [plain] * len(value)), dtype=inputs.dtype, device=inputs.device)
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
    losses = cross_entropy(logits.flatten(0, 1), targets.flatten(), reduction="none").view(targets.shape)
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
