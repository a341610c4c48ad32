"""Sharpness-aware minimisation: the gradient at the worst point near the weights, plain (SAM) or adaptive (ASAM)."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator, Sequence

import torch
from torch import Tensor, nn

from sharpness.loss.eval_mode import batch_norms

ADAPTIVE_OFFSET = 0.01  # eta of ASAM: the authors' code adds it to |w|


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
