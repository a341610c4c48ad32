"""Fully connected networks of Keskar et al. 2017 (arXiv 1609.04836, Appendix B)."""

from __future__ import annotations

import math

from torch import nn


def f1(input_shape: tuple[int, ...], num_classes: int, norm: str) -> nn.Sequential:
    """Return F1: inputs flattened, then 5 x [Linear 512, BatchNorm, ReLU], then Linear to the class logits.

    ``norm="batch"`` keeps no running statistics: every pass, also in evaluation, uses those of its own batch. The
    authors' Keras code did that (BatchNormalization with mode=2, so there the batch of the evaluation is part of what
    is measured). ``norm="running"`` is PyTorch's usual BatchNorm with running statistics in evaluation.

    Deviation from the authors: weights start from PyTorch's default for Linear, uniform on +-1/sqrt(fan_in) for weights
    and biases, where Keras draws Glorot-uniform weights and zero biases. For 28 x 28 inputs and 10 classes it has
    784 * 512 + 4 * 512^2 + 512 * 10 weights, 5 * 512 + 10 biases and 2 * 5 * 512 norm parameters: 1,462,794.

    >>> f1((1, 28, 28), 10, "batch")[2].track_running_stats
    False
    """
    layers: list[nn.Module] = [nn.Flatten()]
    width = math.prod(input_shape)
    for _ in range(5):
        layers += [
            nn.Linear(width, 512),
            nn.BatchNorm1d(512, track_running_stats=norm == "running"),
            nn.ReLU(inplace=True),
        ]
        width = 512
    return nn.Sequential(*layers, nn.Linear(width, num_classes))
