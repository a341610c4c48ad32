"""The gradient noise scale while training: squared norms of the gradients of a batch and of its parts."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any, NamedTuple

import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.distributed.algorithms.ddp_comm_hooks.default_hooks import allreduce_hook
from torch.nn.parallel import DistributedDataParallel

from sharpness.data.batches import Batch, batch_length, split
from sharpness.errors import InputError
from sharpness.loss import Loss
from sharpness.loss.noise_scale import two_batch_estimates
from sharpness.machine.distributed import num_ranks, sums_over_ranks
from sharpness.training.order import TrainingBatch
from sharpness.vectors import norm


class SquaredNorms(NamedTuple):
    """Squared norms of the gradients of the parts of a batch, on average, and of the whole, with their batch sizes.

    The small size is the harmonic mean of the parts' sizes: the mean of ``|G|^2 + tr Sigma / n_i`` belongs to it.
    """

    small: float
    large: float
    small_size: float
    large_size: float

    @property
    def finite(self) -> bool:
        """Say whether none of the gradients held infinity or NaN."""
        return math.isfinite(self.small) and math.isfinite(self.large)


class NoiseScale:
    """``tr Sigma``, ``|G|^2`` and ``B_simple`` from the gradients of a batch and of its parts, smoothed by decay.

    McCandlish et al. 2018 (arXiv 1812.06162), Appendix A.1: the averages of both are kept apart, because a ratio of
    single draws is biased. The parts are the processes' shares of a batch, or the pieces of gradient accumulation, else
    halves of random batches.
    """

    def __init__(self, decay: float = 0.9) -> None:
        self.decay = decay
        self.square = self.noise = self.weight = 0.0

    def add(self, norms: SquaredNorms) -> None:
        """Take in the squared norms of one batch; those that are not finite are left out, as a scaled loss has them."""
        if not norms.finite:
            return
        square, noise = two_batch_estimates(*norms)
        self.weight = self.decay * self.weight + 1 - self.decay
        self.square += (1 - self.decay) * (square - self.square)
        self.noise += (1 - self.decay) * (noise - self.noise)

    @property
    def simple(self) -> float | None:
        """``B_simple``, ``None`` before the first gradient and where ``|G|^2`` cannot be told from 0."""
        return self.noise / self.square if self.weight and self.square > 0 and self.noise > 0 else None

    def row(self) -> dict[str, Any]:
        """Return the estimates, corrected for the zeros that the averages began from."""
        if not self.weight:
            return {"noise_scale": None, "noise_scale_reason": "no gradient was split yet"}
        row: dict[str, Any] = {
            "gradient_square": self.square / self.weight,
            "gradient_noise": self.noise / self.weight,
            "noise_scale": self.simple,
        }
        if self.simple is None:
            row["noise_scale_reason"] = "the squared gradient or the noise is estimated below 0"
        return row


class NormWatch:
    """An observer of the gradients of the parts of a batch while an update takes them; this one looks at nothing."""

    def before_piece(self) -> None:
        """Prepare for the gradient of a piece, before it is added to the parameters'."""

    def after_piece(self, size: int, share: float) -> None:
        """Look at the gradients after ``share`` times that of a piece of ``size`` examples was added."""

    def take(self, batch: TrainingBatch) -> SquaredNorms | None:
        """Return the squared norms of a batch's parts, once its gradient is whole."""
        return None


class PieceNorms(NormWatch):
    """The squared norm of the gradient of each piece of gradient accumulation, from what it changed in the sum."""

    def __init__(self, parameters: Sequence[nn.Parameter]) -> None:
        self._parameters = parameters
        self._before: list[Tensor | None] = []
        self._squares: list[Tensor] = []
        self._sizes: list[int] = []

    def before_piece(self) -> None:
        """Keep the sum that the gradient of a piece is added to; that of the first piece starts it anew."""
        first = not self._squares
        self._before = [None if first or p.grad is None else p.grad.clone() for p in self._parameters]

    def after_piece(self, size: int, share: float) -> None:
        """Take the squared norm of what was added."""
        self._squares.append(_square_of_change(self._parameters, self._before) / share**2)
        self._sizes.append(size)

    def take(self, batch: TrainingBatch) -> SquaredNorms | None:
        """Return the norms of the pieces since the last call; a single piece tells nothing."""
        squares, sizes = self._squares, self._sizes
        self._squares, self._sizes = [], []
        if len(squares) < 2:
            return None
        inverse = sum(1 / size for size in sizes) / len(sizes)
        large = square_of_gradient(self._parameters)
        return SquaredNorms(float(torch.stack(squares).mean()), large, 1 / inverse, len(batch.targets))


class RankNorms(NormWatch):
    """The squared norm of this process's own gradient, seen on its way to the average over all processes."""

    def __init__(self, network: DistributedDataParallel) -> None:
        self._parameters = list(network.parameters())
        self._squares: list[Tensor] = []
        # Through a function without annotations, which are looked at as types.
        network.register_comm_hook(None, lambda _, bucket: self._pass_on(bucket))

    def _pass_on(self, bucket: Any) -> torch.futures.Future[Tensor]:
        self._squares.append(bucket.buffer().double().square().sum())
        return allreduce_hook(dist.group.WORLD, bucket)  # type: ignore[arg-type]

    def take(self, batch: TrainingBatch) -> SquaredNorms:
        """Return the norms of the processes' shares of a batch, on every process; call it on all at once."""
        own, self._squares = float(torch.stack(self._squares).sum()), []
        here, ranks, device = len(batch.targets), num_ranks(), batch.inputs.device
        square, inverse, size = sums_over_ranks(own / batch.weight**2, 1 / here, here, device=device)
        return SquaredNorms(square / ranks, square_of_gradient(self._parameters), ranks / inverse, round(size))


def _square_of_change(parameters: Sequence[nn.Parameter], before: Sequence[Tensor | None]) -> Tensor:
    """Return the squared norm of what was added to the gradients."""
    changes = [
        p.grad if was is None else p.grad - was for p, was in zip(parameters, before, strict=True) if p.grad is not None
    ]
    return torch.stack([change.double().square().sum() for change in changes]).sum()


def square_of_gradient(parameters: Sequence[nn.Parameter]) -> float:
    """Return the squared norm of the gradient that the parameters have."""
    return float(_square_of_change(parameters, [None] * len(parameters)))


def norms_of_parts(loss: Loss, weights: Tensor, batch: Batch, parts: int) -> SquaredNorms:
    """Return the squared norms of the gradients of equal parts of a batch and of all, at weights that do not move.

    What is left over of the batch does not count. Raises :class:`InputError` for fewer examples than parts.

    >>> model = torch.nn.Linear(1, 1, bias=False)
    >>> loss = Loss(model, torch.nn.functional.mse_loss, [(torch.ones(2, 1), torch.zeros(2, 1))])
    >>> batch = (torch.tensor([[1.0], [2.0]]), torch.zeros(2, 1))
    >>> norms_of_parts(loss, torch.tensor([1.0]), batch, 2)        # gradients 2 and 8, mean 5
    SquaredNorms(small=34.0, large=25.0, small_size=1, large_size=2)
    """
    size = batch_length(batch) // parts
    if size < 1:
        raise InputError(f"expected at least {parts} examples in a batch to split it, got {batch_length(batch)}")
    gradients = [loss.over([part]).grad(weights) for part in split(batch, size)[:parts]]
    whole = torch.stack(gradients).mean(0)
    return SquaredNorms(sum(norm(g) ** 2 for g in gradients) / parts, norm(whole) ** 2, size, size * parts)
