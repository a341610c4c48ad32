"""Networks by name: ``MODELS[name](input_shape, num_classes, norm) -> nn.Module``, one architecture family per file."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import nn

from sharpness.config import ModelConfig
from sharpness.errors import unknown_name
from sharpness.models.fully_connected import f1

NORMS = ("batch", "running")


@dataclass(frozen=True)
class ModelInfo:
    """One row of ``sharpness models``: what it is, and the function that builds it."""

    description: str
    create: Callable[[tuple[int, ...], int, str], nn.Module]


MODELS: dict[str, ModelInfo] = {
    "f1": ModelInfo("F1 of Keskar et al. 2017: five hidden layers of 512, BatchNorm, ReLU", f1),
}


def build_model(config: ModelConfig, input_shape: tuple[int, ...], num_classes: int, seed: int) -> nn.Module:
    """Return the network with initial weights drawn from ``seed``; the global random state is left as it was.

    Raises :class:`sharpness.errors.InputError` for an unknown name or norm, listing the known ones.

    >>> sum(p.numel() for p in build_model(ModelConfig(), (1, 28, 28), 10, seed=0).parameters())
    1462794
    """
    check_model(config)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        return MODELS[config.name].create(input_shape, num_classes, config.norm)


def check_model(config: ModelConfig) -> None:
    """Raise :class:`sharpness.errors.InputError` for an unknown name or norm."""
    if config.name not in MODELS:
        raise unknown_name("model", config.name, MODELS)
    if config.norm not in NORMS:
        raise unknown_name("norm", config.norm, NORMS)
