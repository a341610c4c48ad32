"""Ghost batch norm: BatchNorm whose statistics in training are those of small parts of the batch."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm

from sharpness.errors import InputError


class Ghosts(nn.Module):
    """In training cuts a batch into chunks of ``size`` consecutive examples; in evaluation leaves it whole.

    The last chunk may be smaller; if it would be a single example, which has no statistics, it joins the one before.

    >>> [len(chunk) for chunk in Ghosts(4)(torch.zeros(9, 2))], [len(chunk) for chunk in Ghosts(4)(torch.zeros(6, 2))]
    ([4, 5], [4, 2])
    """

    def __init__(self, size: int) -> None:
        super().__init__()
        self.size = size

    def extra_repr(self) -> str:
        """Return the size, for the printed network."""
        return str(self.size)

    def forward(self, batch: Tensor) -> tuple[Tensor, ...]:
        """Return the chunks in the order of the batch."""
        if not self.training:
            return (batch,)
        whole, rest = divmod(len(batch), self.size)
        sizes = [self.size] * whole + [rest] * (rest > 0)
        if rest == 1 and whole:
            sizes[-2:] = [self.size + 1]
        return batch.split(sizes)


class GhostBatchNorm(_BatchNorm):
    """BatchNorm that in training normalises each chunk of the batch by the chunk's own statistics.

    Hoffer et al. 2017 (arXiv 1705.08741), algorithm 1. Running statistics take in one chunk after the other: after n
    chunks with means mu_i they are ``(1 - eta)^n mu_run + sum_i (1 - eta)^(n - i) eta mu_i``, eta the momentum, and
    ``num_batches_tracked`` counts chunks. Variances are those of PyTorch's BatchNorm, unbiased in the running ones.

    In evaluation the running statistics are used, or those of the whole batch where none are kept. The same holds while
    the network is measured: :func:`sharpness.loss.eval_mode.measuring` puts ``ghosts`` into evaluation mode with every
    other
    module, so batch statistics (``norm="batch"``) and recomputed running ones
    (:func:`sharpness.loss.eval_mode.averaging_statistics`) are those of whole batches, as of plain BatchNorm.
    """

    def __init__(self, num_features: int, ghost_batch: int, **options: Any) -> None:
        super().__init__(num_features, **options)
        self.ghosts = Ghosts(ghost_batch)

    def forward(self, input: Tensor) -> Tensor:
        """Return the normalised batch."""
        normalised = super().forward
        if not self.training:
            return normalised(input)
        return torch.cat([normalised(chunk) for chunk in self.ghosts(input)])


class GhostBatchNorm1d(GhostBatchNorm, nn.BatchNorm1d):
    """Ghost batch norm over N x C or N x C x L: see :class:`GhostBatchNorm`."""


class GhostBatchNorm2d(GhostBatchNorm, nn.BatchNorm2d):
    """Ghost batch norm over N x C x H x W: see :class:`GhostBatchNorm`."""


GHOSTS: dict[type[nn.Module], type[GhostBatchNorm]] = {
    nn.BatchNorm1d: GhostBatchNorm1d,
    nn.BatchNorm2d: GhostBatchNorm2d,
}


def with_ghost_norm(model: nn.Module, size: int) -> nn.Module:
    """Replace every BatchNorm inside a network by a ghost batch norm over ``size`` examples, and return the network.

    Parameters and running statistics stay the same tensors under the same names. Raises
    :class:`sharpness.errors.InputError` for a size below 2, for a network without BatchNorm inside, and for other
    BatchNorm layers than BatchNorm1d and BatchNorm2d.

    >>> with_ghost_norm(nn.Sequential(nn.Linear(2, 3), nn.BatchNorm1d(3)), 8)[1].ghosts
    Ghosts(8)
    """
    check_ghost_batch(size)
    named = dict(model.named_modules(remove_duplicate=False))
    norms = {name: module for name, module in named.items() if name and isinstance(module, _BatchNorm)}
    if not norms:
        raise InputError("expected a network with BatchNorm for ghost_batch, got one without: leave ghost_batch out")
    if other := next((type(norm) for norm in norms.values() if type(norm) not in GHOSTS), None):
        raise InputError(f"expected BatchNorm1d and BatchNorm2d for ghost_batch, got {other.__name__}: leave it out")
    ghosts = {norm: _ghost_of(norm, size) for norm in norms.values()}
    for name, norm in norms.items():
        model.set_submodule(name, ghosts[norm])
    return model


def check_ghost_batch(size: int) -> None:
    """Raise :class:`sharpness.errors.InputError` for a ghost batch that has no statistics."""
    if size < 2:
        raise InputError(f"expected a ghost_batch of at least 2 examples, got {size}: correct it")


def _ghost_of(norm: _BatchNorm, size: int) -> GhostBatchNorm:
    """Return a ghost batch norm with the settings, parameters and buffers of a plain one."""
    ghost = GHOSTS[type(norm)](
        norm.num_features,
        size,
        eps=norm.eps,
        momentum=norm.momentum,
        affine=norm.affine,
        track_running_stats=norm.track_running_stats,
    )
    ghost.weight, ghost.bias = norm.weight, norm.bias
    for name, buffer in norm.named_buffers():
        ghost.register_buffer(name, buffer)
    return ghost.train(norm.training)
