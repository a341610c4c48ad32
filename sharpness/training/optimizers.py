"""Optimisers by name, each a function from parameters and a config to a ``torch.optim`` object."""

from __future__ import annotations

from collections.abc import Callable, Iterable

import torch
from torch.nn import Parameter

from sharpness.config import TrainingConfig
from sharpness.training.lars import Lars

Builder = Callable[[Iterable[Parameter], TrainingConfig], torch.optim.Optimizer]


def _momentum(nesterov: bool) -> Builder:
    """Return SGD with momentum as PyTorch has it: ``v <- m v + g``, ``w <- w - rate v`` (nesterov: ``g + m v``).

    The rate is outside the velocity; with the rate inside, as Goyal et al. 2017 write (their equation 9), steps differ
    where the rate changes.
    """

    def build(parameters: Iterable[Parameter], config: TrainingConfig) -> torch.optim.Optimizer:
        rate, momentum, decay = config.learning_rate, config.momentum, config.weight_decay
        return torch.optim.SGD(parameters, lr=rate, momentum=momentum, weight_decay=decay, nesterov=nesterov)

    return build


def _adam(parameters: Iterable[Parameter], config: TrainingConfig) -> torch.optim.Optimizer:
    rate, decay = config.learning_rate, config.weight_decay
    return torch.optim.Adam(parameters, lr=rate, betas=(0.9, 0.999), eps=1e-8, weight_decay=decay, fused=True)


def _adamw(parameters: Iterable[Parameter], config: TrainingConfig) -> torch.optim.Optimizer:
    rate, decay = config.learning_rate, config.weight_decay
    return torch.optim.AdamW(parameters, lr=rate, betas=(0.9, 0.999), eps=1e-8, weight_decay=decay, fused=True)


def _lars(parameters: Iterable[Parameter], config: TrainingConfig) -> torch.optim.Optimizer:
    rate, momentum, decay = config.learning_rate, config.momentum, config.weight_decay
    return Lars(parameters, lr=rate, momentum=momentum, weight_decay=decay, trust=config.trust)


OPTIMIZERS: dict[str, Builder] = {
    "sgd": lambda parameters, c: torch.optim.SGD(parameters, lr=c.learning_rate, weight_decay=c.weight_decay),
    "momentum": _momentum(nesterov=False),
    "nesterov": _momentum(nesterov=True),
    "adam": _adam,
    "adamw": _adamw,
    "lars": _lars,
}
"""Each takes the gradient as it is found: SAM and conservative training change that, with any of them
(:mod:`sharpness.training.gradients`)."""
