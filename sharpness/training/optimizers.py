"""Optimisers by name, each a function from parameters and a config to a ``torch.optim`` object."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from functools import partial

import torch
from torch.nn import Parameter

from sharpness.config import TrainingConfig
from sharpness.training.lars import Lars

Builder = Callable[[Iterable[Parameter], TrainingConfig], torch.optim.Optimizer]


def _sgd(parameters: Iterable[Parameter], config: TrainingConfig) -> torch.optim.Optimizer:
    return torch.optim.SGD(parameters, lr=config.learning_rate, weight_decay=config.weight_decay)


def _momentum(parameters: Iterable[Parameter], config: TrainingConfig, nesterov: bool = False) -> torch.optim.Optimizer:
    """Return SGD with momentum as PyTorch has it: ``v <- m v + g``, ``w <- w - rate v`` (nesterov: ``g + m v``).

    The rate is outside the velocity; with the rate inside, as Goyal et al. 2017 write (their equation 9), steps differ
    where the rate changes.
    """
    return torch.optim.SGD(
        parameters,
        lr=config.learning_rate,
        momentum=config.momentum,
        weight_decay=config.weight_decay,
        nesterov=nesterov,
    )


def _adam(
    parameters: Iterable[Parameter], config: TrainingConfig, kind: type[torch.optim.Adam] = torch.optim.Adam
) -> torch.optim.Optimizer:
    rate, decay = config.learning_rate, config.weight_decay
    return kind(parameters, lr=rate, betas=(0.9, 0.999), eps=1e-8, weight_decay=decay, fused=True)


def _lars(parameters: Iterable[Parameter], config: TrainingConfig) -> torch.optim.Optimizer:
    return Lars(
        parameters,
        lr=config.learning_rate,
        momentum=config.momentum,
        weight_decay=config.weight_decay,
        trust=config.trust,
    )


OPTIMIZERS: dict[str, Builder] = {
    "sgd": _sgd,
    "momentum": _momentum,
    "nesterov": partial(_momentum, nesterov=True),
    "adam": _adam,
    "adamw": partial(_adam, kind=torch.optim.AdamW),
    "lars": _lars,
}
"""Each takes a step with the gradient that it finds: SAM, conservative training and clipping change that gradient
before, with any optimiser (:func:`sharpness.training.loop.one_update`)."""
