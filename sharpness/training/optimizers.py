"""Optimisers by name, each a function from a network and a config to a ``torch.optim`` object."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial

import torch
from torch import nn

from sharpness.config import TrainingConfig
from sharpness.training.lars import Lars
from sharpness.training.muon import MuonAdamW, hidden_matrices
from sharpness.training.signum import Signum

Builder = Callable[[nn.Module, TrainingConfig], torch.optim.Optimizer]


def _sgd(model: nn.Module, config: TrainingConfig) -> torch.optim.Optimizer:
    return torch.optim.SGD(model.parameters(), lr=config.learning_rate, weight_decay=config.weight_decay)


def _momentum(model: nn.Module, config: TrainingConfig, nesterov: bool = False) -> torch.optim.Optimizer:
    """Return SGD with momentum as PyTorch has it: ``v <- m v + g``, ``w <- w - rate v`` (nesterov: ``g + m v``).

    The rate is outside the velocity; with the rate inside, as Goyal et al. 2017 write (their equation 9), steps differ
    where the rate changes.
    """
    return torch.optim.SGD(
        model.parameters(),
        lr=config.learning_rate,
        momentum=config.momentum,
        weight_decay=config.weight_decay,
        nesterov=nesterov,
    )


def _adam(
    model: nn.Module, config: TrainingConfig, kind: type[torch.optim.Adam] = torch.optim.Adam
) -> torch.optim.Optimizer:
    rate, decay, betas = config.learning_rate, config.weight_decay, (config.beta1, config.beta2)
    return kind(model.parameters(), lr=rate, betas=betas, eps=1e-8, weight_decay=decay, fused=True)


def _lars(model: nn.Module, config: TrainingConfig) -> torch.optim.Optimizer:
    return Lars(
        model.parameters(),
        lr=config.learning_rate,
        momentum=config.momentum,
        weight_decay=config.weight_decay,
        trust=config.trust,
    )


def _signum(model: nn.Module, config: TrainingConfig) -> torch.optim.Optimizer:
    rate, decay = config.learning_rate, config.weight_decay
    return Signum(model.parameters(), lr=rate, momentum=config.momentum, weight_decay=decay)


def _muon(model: nn.Module, config: TrainingConfig) -> torch.optim.Optimizer:
    matrices = hidden_matrices(model)
    chosen = {id(p) for p in matrices}
    return MuonAdamW(
        matrices,
        [p for p in model.parameters() if id(p) not in chosen],
        lr=config.learning_rate,
        momentum=config.momentum,
        weight_decay=config.weight_decay,
        betas=(config.beta1, config.beta2),
    )


OPTIMIZERS: dict[str, Builder] = {
    "sgd": _sgd,
    "momentum": _momentum,
    "nesterov": partial(_momentum, nesterov=True),
    "adam": _adam,
    "adamw": partial(_adam, kind=torch.optim.AdamW),
    "lars": _lars,
    "signum": _signum,
    "muon": _muon,
}
"""Each takes a step with the gradient that it finds: SAM, conservative training and clipping change that gradient
before, with any optimiser (:func:`sharpness.training.loop.one_update`)."""
WITH_SECOND_MOMENT = ("adam", "adamw", "muon")
"""Those that have a ``beta2``; Muon for what is no hidden matrix."""


def set_rates(optimizer: torch.optim.Optimizer, config: TrainingConfig, rate: float, tokens: int) -> None:
    """Set the learning rate of an update and, where the config has a half-life, Adam's ``beta2``.

    ``beta2 = 2^(-tokens / half-life)`` for an update of so many ``tokens``, so that the second moment remembers the
    same text whatever the batch size (Marek et al. 2025, arXiv 2507.07101). The correction of the average for its
    start takes the present ``beta2``, which is exact where the batch size stays.

    >>> optimizer = torch.optim.AdamW([nn.Parameter(torch.ones(1))])
    >>> set_rates(optimizer, TrainingConfig(beta2_half_life=1e4), 0.01, 5000)
    >>> optimizer.param_groups[0]["lr"], round(optimizer.param_groups[0]["betas"][1], 6)
    (0.01, 0.707107)
    """
    for group in optimizer.param_groups:
        group["lr"] = rate
        if config.beta2_half_life is not None and "betas" in group:
            group["betas"] = (group["betas"][0], 2 ** (-tokens / config.beta2_half_life))
