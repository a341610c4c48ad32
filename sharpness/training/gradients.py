"""One update: its gradient in pieces, at SAM's worst point, shortened; the inner steps of conservative training."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.distributed.algorithms.ddp_comm_hooks.default_hooks import allreduce_hook
from torch.nn.functional import cross_entropy
from torch.nn.parallel import DistributedDataParallel

from sharpness.config import TrainingConfig
from sharpness.loss.eval_mode import batch_norms
from sharpness.machine.distributed import num_ranks, sums_over_ranks

ADAPTIVE_OFFSET = 0.01  # eta of ASAM: the authors' code adds it to |w|


@dataclass(frozen=True)
class Batch:
    """Inputs as numbers, class numbers, and the share that this process has of the whole batch, times their number."""

    inputs: Tensor
    targets: Tensor
    weight: float = 1.0


@dataclass(frozen=True)
class Pieces:
    """Squared norms of the gradients of a batch's pieces, on average, and of the whole, for the noise scale.

    The small size is the harmonic mean of the pieces': the mean of ``|G|^2 + tr Sigma / n_i`` is that of this size.
    """

    small: float
    large: float
    small_size: float
    large_size: int


@dataclass(frozen=True)
class Told:
    """What a forward pass says: the mean loss over the batch's examples here, and how many were right."""

    loss: Tensor
    right: Tensor
    pieces: Pieces | None = None  # where they were asked for


Backward = Callable[[Batch], Told]
"""Puts the gradient of a batch's mean loss in the place of the parameters' and returns what the forward pass said."""


class OwnSquare:
    """The squared norm of this process's own gradient, seen on its way to the average over all processes."""

    def __init__(self, network: DistributedDataParallel) -> None:
        self.network = network
        self._squares: list[Tensor] = []
        # Through a function without annotations, which are looked at as types.
        network.register_comm_hook(None, lambda _, bucket: self._pass_on(bucket))

    def _pass_on(self, bucket: Any) -> torch.futures.Future[Tensor]:
        self._squares.append(bucket.buffer().double().square().sum())
        return allreduce_hook(dist.group.WORLD, bucket)  # type: ignore[arg-type]

    def take(self) -> float:
        """Return what was seen since the last call."""
        squares, self._squares = self._squares, []
        return float(torch.stack(squares).sum())


def backward_of(
    model: nn.Module,
    config: TrainingConfig,
    device: torch.device,
    *,
    watch: bool = False,
    own: OwnSquare | None = None,
) -> Backward:
    """Return the function that takes the gradient of the mean cross-entropy over a batch, piece by piece.

    ``watch`` also takes the norm of each piece's own gradient, for the noise scale. With several processes ``own``
    does, and their shares of the batch are the pieces.

    With ``accumulate`` pieces the sum of ``n_i / n`` times the mean loss of each is that of the batch, so the gradient
    is that of one pass to rounding.
    """
    synchronised = getattr(model, "no_sync", None)  # of DistributedDataParallel
    parameters = list(model.parameters())

    def one(inputs: Tensor, targets: Tensor, share: float, first: bool) -> tuple[Tensor, Tensor]:
        """Add a share of the gradient of one piece; return the loss and how many were right."""
        if config.autocast == "bfloat16":
            with torch.autocast(device.type, torch.bfloat16):
                logits = model(inputs).to(inputs.dtype)
        else:
            logits = model(inputs)
        loss = cross_entropy(logits, targets, label_smoothing=config.label_smoothing)
        if first:
            # Not before the forward pass: it would take the memory, and the new gradients fresh pages.
            for p in parameters:
                p.grad = None
        (loss if share == 1 else loss * share).backward()
        return loss.detach(), (logits.argmax(1) == targets).sum()

    def in_pieces(batch: Batch) -> Told:
        size = -(-len(batch.targets) // config.accumulate)
        pieces = list(zip(batch.inputs.split(size), batch.targets.split(size), strict=True))
        losses, right, squares = [], [], []
        for number, (inputs, targets) in enumerate(pieces, 1):
            share = len(targets) / len(batch.targets)
            waits = synchronised is not None and number < len(pieces)
            before = _gradients(parameters, number) if watch else None
            with synchronised() if waits and synchronised is not None else contextlib.nullcontext():
                loss, hits = one(inputs, targets, share * batch.weight, number == 1)
            if before is not None:
                squares.append(_square_of_change(parameters, before) / share**2)
            losses.append(share * loss)
            right.append(hits)
        told = Told(torch.stack(losses).sum(), torch.stack(right).sum())
        if len(squares) < 2:
            return told
        inverse = sum(1 / len(targets) for _, targets in pieces) / len(pieces)
        small, large = float(torch.stack(squares).mean()), square_of_gradient(parameters)
        return replace(told, pieces=Pieces(small, large, 1 / inverse, len(batch.targets)))

    def whole(batch: Batch) -> Told:
        return Told(*one(batch.inputs, batch.targets, batch.weight, True))

    def over_ranks(batch: Batch) -> Told:
        told = alone(batch)
        assert own is not None  # else this is not called
        here = len(batch.targets)
        square, inverse, size = sums_over_ranks(own.take() / batch.weight**2, 1 / here, here, device=device)
        ranks = num_ranks()
        return replace(
            told, pieces=Pieces(square / ranks, square_of_gradient(parameters), ranks / inverse, round(size))
        )

    alone = whole if config.accumulate == 1 else in_pieces
    return alone if own is None else over_ranks


def _gradients(parameters: Sequence[nn.Parameter], piece: int) -> list[Tensor | None]:
    """Return the gradients that a piece is added to, none for the first."""
    return [None if piece == 1 or p.grad is None else p.grad.clone() for p in parameters]


def _square_of_change(parameters: Sequence[nn.Parameter], before: Sequence[Tensor | None]) -> Tensor:
    """Return the squared norm of what was added to the gradients."""
    changes = [
        p.grad if was is None else p.grad - was for p, was in zip(parameters, before, strict=True) if p.grad is not None
    ]
    return torch.stack([change.double().square().sum() for change in changes]).sum()


def square_of_gradient(parameters: Sequence[nn.Parameter]) -> float:
    """Return the squared norm of the gradient that the parameters have."""
    return float(_square_of_change(parameters, [None] * len(parameters)))


def update(
    model: nn.Module, optimizer: torch.optim.Optimizer, backward: Backward, batch: Batch, config: TrainingConfig
) -> Told:
    """Make one update of the weights and return what the first forward pass said."""
    parameters = [p for group in optimizer.param_groups for p in group["params"]]
    if config.proximal is None:
        return _step(model, parameters, optimizer, backward, batch, config)
    # x_{k+1} = argmin_x L_B(x) + lambda/2 |x - x_k|^2, inexactly by some steps of the optimiser (Keskar et al. 2017,
    # Appendix E.2, with 3 of Adam). Its state is kept from one batch to the next, which the paper leaves open.
    anchors = [p.detach().clone() for p in parameters]
    told = None
    for _ in range(config.proximal_steps):
        now = backward(batch)
        told = told or now
        for p, anchor in zip(parameters, anchors, strict=True):
            if p.grad is not None:
                p.grad.add_(p.detach() - anchor, alpha=config.proximal)
        clip(parameters, config)
        optimizer.step()
    assert told is not None  # proximal_steps is at least 1
    return told


def _step(
    model: nn.Module,
    parameters: Sequence[nn.Parameter],
    optimizer: torch.optim.Optimizer,
    backward: Backward,
    batch: Batch,
    config: TrainingConfig,
) -> Told:
    told = backward(batch)
    if config.sam_rho is not None:
        with at_worst_point(parameters, config.sam_rho, config.sam_adaptive), fixed_statistics(model):
            backward(batch)
    clip(parameters, config)
    optimizer.step()
    return told


def clip(parameters: Sequence[nn.Parameter], config: TrainingConfig) -> None:
    """Scale the gradients down to ``clip_norm`` if they are longer together."""
    if config.clip_norm is not None:
        nn.utils.clip_grad_norm_(parameters, config.clip_norm)


@contextlib.contextmanager
def at_worst_point(parameters: Sequence[nn.Parameter], rho: float, adaptive: bool) -> Iterator[None]:
    r"""Hold the weights at the point that SAM takes for the worst within ``rho``, from the gradient that they have.

    ``e = rho g / |g|`` (Foret et al. 2021, arXiv 2010.01412, equation 2); adaptive ``e = rho T^2 g / |T g|`` with
    ``T = |w| + 0.01`` for weights with more than one axis and 1 for others (Kwon et al. 2021, arXiv 2102.11600,
    equation 4; the offset and the exception are those of the authors' code, which goes by names that hold ``weight``).
    """
    moved = [p for p in parameters if p.grad is not None]
    with torch.no_grad():
        scales = [p.abs() + ADAPTIVE_OFFSET if adaptive and p.ndim > 1 else None for p in moved]
        slopes = [_gradient(p) if t is None else t * _gradient(p) for p, t in zip(moved, scales, strict=True)]
        length = torch.linalg.vector_norm(torch.stack([torch.linalg.vector_norm(slope) for slope in slopes]))
        factor = torch.where(length > 0, rho / length, torch.zeros_like(length))
        before = [p.detach().clone() for p in moved]
        for p, t, slope in zip(moved, scales, slopes, strict=True):
            p.add_((slope if t is None else t * slope) * factor)
    try:
        yield
    finally:
        with torch.no_grad():
            for p, w in zip(moved, before, strict=True):
                p.copy_(w)


def _gradient(p: nn.Parameter) -> Tensor:
    assert p.grad is not None  # only such parameters are moved
    return p.grad


@contextlib.contextmanager
def fixed_statistics(model: nn.Module) -> Iterator[None]:
    """Keep BatchNorm's running statistics from a second pass over the same batch, at weights that are not kept."""
    norms = [norm for norm in batch_norms(model) if norm.running_mean is not None]
    momenta = [norm.momentum for norm in norms]
    counts = [None if norm.num_batches_tracked is None else norm.num_batches_tracked.clone() for norm in norms]
    for norm in norms:
        norm.momentum = 0.0
    try:
        yield
    finally:
        for norm, momentum, count in zip(norms, momenta, counts, strict=True):
            norm.momentum = momentum
            if norm.num_batches_tracked is not None and count is not None:
                norm.num_batches_tracked.copy_(count)
