"""The state a network is measured in, and how it gets its own state back."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator, Sequence

import torch
from torch import nn
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.nn.modules.batchnorm import _BatchNorm
from torch.nn.modules.dropout import _DropoutNd

from sharpness.machine.precision import full_precision
from sharpness.machine.random_states import random_states_kept

RUNNING_STATISTICS = ("running_mean", "running_var")
NORM_MODES = ("frozen", "batch", "recalibrate")


def batch_norms(model: nn.Module) -> list[_BatchNorm]:
    """Return the BatchNorm layers of a model, of any dimension and synchronised ones too."""
    return [module for module in model.modules() if isinstance(module, _BatchNorm)]


@contextlib.contextmanager
def measuring(
    model: nn.Module, device: torch.device, *, batch_statistics: bool, training: bool = False, fused: bool = False
) -> Iterator[None]:
    """Hold a model in evaluation mode while it is measured, and put train flags and random states back afterwards.

    BatchNorm uses the statistics of each batch when ``batch_statistics``, else its running ones. With ``training`` all
    other modules but dropout believe that they train, because detectors compute their losses only then. Autocast and
    reduced precision (TF32, bfloat16 products) are off. Fused attention and cuDNN's recurrent layers, which have no
    second derivative, give way to the plain kernels unless ``fused``.
    """
    flags = [(module, module.training) for module in model.modules()]
    norms = batch_norms(model)
    try:
        for module, _ in flags:
            module.training = training and not isinstance(module, _DropoutNd)
        for module in norms:
            module.training = batch_statistics
        with (
            random_states_kept(device),
            torch.autocast(device.type, enabled=False),
            contextlib.nullcontext() if fused else sdpa_kernel(SDPBackend.MATH),
            full_precision(),
            contextlib.nullcontext() if fused else plain_recurrence(model, device),
        ):
            yield
    finally:
        for module, flag in flags:
            module.training = flag


def plain_recurrence(model: nn.Module, device: torch.device) -> contextlib.AbstractContextManager[None]:
    """Return a context without cuDNN where a model has recurrent layers on CUDA; convolutions keep it otherwise."""
    if device.type == "cuda" and any(isinstance(module, nn.RNNBase) for module in model.modules()):
        return torch.backends.cudnn.flags(enabled=False)
    return contextlib.nullcontext()


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
