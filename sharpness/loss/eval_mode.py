"""The state a network is measured in, and how it gets its own state back."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator, Sequence
from typing import Any

import torch
from torch import nn
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.nn.modules.batchnorm import _BatchNorm

RUNNING_STATISTICS = ("running_mean", "running_var")
NORM_MODES = ("frozen", "batch", "recalibrate")


def batch_norms(model: nn.Module) -> list[_BatchNorm]:
    """Return the BatchNorm layers of a model, of any dimension and synchronised ones too."""
    return [module for module in model.modules() if isinstance(module, _BatchNorm)]


@contextlib.contextmanager
def measuring(model: nn.Module, device: torch.device, batch_statistics: bool) -> Iterator[None]:
    """Hold a model in evaluation mode while it is measured, and put train flags and random state back afterwards.

    BatchNorm uses the statistics of each batch when ``batch_statistics``, else its running ones. Autocast and reduced
    precision (TF32, bfloat16 products) are off. Fused attention and cuDNN's recurrent layers, which have no second
    derivative, give way to the plain kernels.
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
            _full_precision(),
            _plain_recurrence(model, device),
        ):
            yield
    finally:
        for module, flag in flags:
            module.training = flag


def _full_precision() -> contextlib.AbstractContextManager[None]:
    """Compute float32 products in float32 (``ieee``) on every backend, and put the user's choices back afterwards."""
    backends: Any = torch.backends  # pyright does not know the newer switches
    on_cpu = (backends.mkldnn.matmul, backends.mkldnn.conv, backends.mkldnn.rnn)
    return _precision("ieee", (*_cuda_switches(), *on_cpu))


def tensor_float_32(on: bool) -> contextlib.AbstractContextManager[None]:
    """Compute float32 products on CUDA in TF32 while the context lasts, if ``on``; else leave them as they are."""
    return _precision("tf32", _cuda_switches() if on else ())


def _cuda_switches() -> tuple[Any, ...]:
    backends: Any = torch.backends
    return backends.cuda.matmul, backends.cudnn.conv, backends.cudnn.rnn


@contextlib.contextmanager
def _precision(name: str, switches: Sequence[Any]) -> Iterator[None]:
    """Set switches of float32 products, and put them back afterwards."""
    before = [switch.fp32_precision for switch in switches]
    try:
        for switch in switches:
            switch.fp32_precision = name
        yield
    finally:
        for switch, precision in zip(switches, before, strict=True):
            switch.fp32_precision = precision


def _plain_recurrence(model: nn.Module, device: torch.device) -> contextlib.AbstractContextManager[None]:
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
