"""A ReLU network, and the same function with other weights (Dinh et al. 2017)."""

from __future__ import annotations

import torch
from torch import nn
from torch.nn import functional as F

from sharpness.loss import Loss
from tests.cases import Case


def relu_network() -> Loss:
    """Return the loss of a network of two layers with a ReLU between, on its uneven batches, float64."""
    model, batches = Case(lambda: nn.Sequential(nn.Linear(4, 5), nn.ReLU(), nn.Linear(5, 3)), F.cross_entropy).build()
    return Loss(model, F.cross_entropy, batches, dtype=torch.float64)


def rescaled(loss: Loss, alpha: float) -> Loss:
    """Return the loss with the first layer times ``alpha`` and the weight after it divided by it."""
    pieces = loss.layout.unflatten(loss.weights)
    for name, factor in {"0.weight": alpha, "0.bias": alpha, "2.weight": 1 / alpha}.items():
        pieces[name].mul_(factor)
    return loss
