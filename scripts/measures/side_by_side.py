"""Networks that differ in seed and learning rate alone, trained side by side: one tensor per parameter holds them all.

A small network leaves a CPU idle, so that a hundred of them take about as long as ten. Order of the examples, initial
weights, learning rate and optimiser are those of the trainer, with which the tests compare the weights.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.nn.functional import cross_entropy

from sharpness.config import RunConfig
from sharpness.errors import InputError
from sharpness.models import build_model
from sharpness.models.norms import GhostBatchNorm1d
from sharpness.training.order import epoch_order
from sharpness.training.schedules import learning_rate

LAYERS = (nn.Flatten, nn.Identity, nn.Linear, nn.ReLU, nn.BatchNorm1d)
CHUNK = 1000
"""Examples of one forward pass of all copies in evaluations, which is the batch whose statistics BatchNorm uses."""


@dataclass(frozen=True)
class Copies:
    """The layers of a network in a row, and the parameters of all copies, each of shape (copies, ...)."""

    layers: Sequence[nn.Module]
    weights: Sequence[Tensor]

    def outputs(self, inputs: Tensor, training: bool = False) -> Tensor:
        """Return the logits of each copy for its inputs: (copies, examples, features) to (copies, examples, classes).

        Ghost batches count in training alone; in evaluation BatchNorm uses the statistics of the batch it sees.
        """
        rest, x = iter(self.weights), inputs
        for layer in self.layers:
            if isinstance(layer, nn.Linear):
                weight, bias = next(rest), next(rest)
                x = torch.baddbmm(bias[:, None], x, weight.mT)
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
    config: RunConfig, shape: tuple[int, ...], classes: int, seeds: Sequence[int], repeats: int, device: torch.device
) -> Copies:
    """Return for each seed so many copies of the network that the trainer begins with."""
    networks = [build_model(config.model, shape, classes, seed) for seed in seeds]
    layers = list(networks[0].children())
    for layer in layers:
        if not isinstance(layer, LAYERS) or getattr(layer, "track_running_stats", False):
            raise InputError(f"expected linear layers, ReLU and batch statistics, got {layer}: use another network")
    parts = zip(*(network.parameters() for network in networks), strict=True)
    stacked = [torch.stack(each).detach().repeat_interleave(repeats, dim=0).to(device) for each in parts]
    return Copies(layers, [each.requires_grad_() for each in stacked])


def train_side_by_side(
    config: RunConfig, copies: Copies, inputs: Tensor, targets: Tensor, seeds: Sequence[int], values: Sequence[float]
) -> Iterator[tuple[int, int]]:
    """Train the copies of each seed, one per value; yield after each epoch the epochs and the updates that are done.

    A value stands for ``training.learning_rate``, and of lars for ``training.trust``. All else is the config's, of
    which the optimisers sgd, momentum and lars, the schedule, ``clip_norm``, ``weight_decay`` and ghost batches are
    known here. The examples are (n, features), and the copies of a seed see them in that seed's order.
    """
    if config.training.optimizer not in ("sgd", "momentum", "lars"):
        raise InputError(f"expected sgd, momentum or lars, got {config.training.optimizer}: use the trainer")
    count, epochs, size = len(targets), config.training.epochs, config.training.batch_size
    per_epoch = -(-count // size)
    value = torch.tensor(list(values) * len(seeds), dtype=inputs.dtype, device=inputs.device)
    velocity = [torch.zeros_like(each) for each in copies.weights]
    for epoch in range(epochs):
        order = torch.stack([epoch_order(seed, epoch + 1, count) for seed in seeds]).to(inputs.device)
        for number, rows in enumerate(order.split(size, dim=1)):
            rows = rows.repeat_interleave(len(values), dim=0)
            gradient = _gradient(copies, inputs[rows], targets[rows])
            done = epoch + number * size / count
            share = learning_rate(config, done, epochs, count / size) / config.training.learning_rate
            _step(config, copies.weights, velocity, _clipped(gradient, config.training.clip_norm), value, share)
        yield epoch + 1, (epoch + 1) * per_epoch


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
    value: Tensor,
    share: float,
) -> None:
    """Move the weights of all copies as ``torch.optim.SGD`` and :class:`sharpness.training.lars.Lars` do."""
    training = config.training
    momentum = 0.0 if training.optimizer == "sgd" else training.momentum
    for w, v, g in zip(weights, velocity, gradient, strict=True):
        if training.optimizer == "lars":
            v.mul_(momentum).add_(_lars(w, g, value, training.weight_decay), alpha=training.learning_rate * share)
            w.sub_(v)
        else:
            v.mul_(momentum).add_(g if training.weight_decay == 0 else g + training.weight_decay * w)
            w.sub_(v * _column(value * share, v))


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
