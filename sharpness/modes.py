"""The state a network is measured in, and how it gets its own state back."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator, Sequence

import torch
from torch import nn
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.nn.modules.batchnorm import _BatchNorm

NORM_MODES = ("frozen", "batch", "recalibrate")


def batch_norms(model: nn.Module) -> list[_BatchNorm]:
    """Return the BatchNorm layers of a model, of any dimension and synchronised ones too."""
    return [module for module in model.modules() if isinstance(module, _BatchNorm)]


@contextlib.contextmanager
def measuring(model: nn.Module, device: torch.device, batch_statistics: bool) -> Iterator[None]:
    """Hold a model in evaluation mode while it is measured, and put train flags and random state back afterwards.

    BatchNorm uses the statistics of each batch when ``batch_statistics``, else its running ones. Autocast is off, and
    fused attention, which has no second derivative, gives way to the plain kernel.
    """
    flags = [(module, module.training) for module in model.modules()]
    norms = batch_norms(model)
    try:
        for module, _ in flags:
            module.training = False
        for module in norms:
            module.training = batch_statistics
        with (
            torch.random.fork_rng(devices=[device] if device.type == "cuda" else []),
            torch.autocast(device.type, enabled=False),
            sdpa_kernel(SDPBackend.MATH),
        ):
            yield
    finally:
        for module, flag in flags:
            module.training = flag


@contextlib.contextmanager
def averaging_statistics(norms: Sequence[_BatchNorm], share: float) -> Iterator[None]:
    """Let BatchNorm move its running statistics by ``share`` towards those of the batch that it sees next."""
    momenta = [module.momentum for module in norms]
    try:
        for module in norms:
            module.training, module.momentum = True, share
        yield
    finally:
        for module, momentum in zip(norms, momenta, strict=True):
            module.training, module.momentum = False, momentum
