"""The modules and functions of PyTorch through which a positive factor of the input passes."""

from __future__ import annotations

from typing import Any

import torch
from torch import fx, nn
from torch.nn import functional as F

# These tables are read by rows.
# fmt: off
# Subclasses of these count too, timm's for instance; one that does something else is found out by its outputs.
WEIGHTED = (
    nn.Linear, nn.Conv1d, nn.Conv2d, nn.Conv3d,
    nn.ConvTranspose1d, nn.ConvTranspose2d, nn.ConvTranspose3d,
)
"""Modules whose output is linear in their weight and, but for a bias, in their input."""

NORMS = (
    nn.BatchNorm1d, nn.BatchNorm2d, nn.BatchNorm3d, nn.SyncBatchNorm,
    nn.InstanceNorm1d, nn.InstanceNorm2d, nn.InstanceNorm3d,
    nn.LayerNorm, nn.GroupNorm, nn.RMSNorm,
)
"""Modules whose output does not change with the scale of their input, up to their eps, and is linear in their own."""

HOMOGENEOUS_MODULES: frozenset[type[nn.Module]] = frozenset(
    {
        nn.ReLU, nn.LeakyReLU, nn.Identity, nn.Flatten, nn.Unflatten,
        nn.Dropout, nn.Dropout1d, nn.Dropout2d, nn.Dropout3d,
        nn.MaxPool1d, nn.MaxPool2d, nn.MaxPool3d, nn.AvgPool1d, nn.AvgPool2d, nn.AvgPool3d,
        nn.AdaptiveMaxPool1d, nn.AdaptiveMaxPool2d, nn.AdaptiveMaxPool3d,
        nn.AdaptiveAvgPool1d, nn.AdaptiveAvgPool2d, nn.AdaptiveAvgPool3d,
        nn.ZeroPad1d, nn.ZeroPad2d, nn.ZeroPad3d, nn.PixelShuffle, nn.ChannelShuffle,
    }
)
"""Modules with ``f(a x) = a f(x)`` for a > 0 in evaluation mode."""

HOMOGENEOUS_FUNCTIONS: frozenset[Any] = frozenset(
    {
        torch.relu, F.relu, F.leaky_relu, torch.flatten, torch.reshape, torch.permute, torch.transpose,
        torch.squeeze, torch.unsqueeze, torch.mean, F.dropout, F.dropout2d,
        F.max_pool1d, F.max_pool2d, F.max_pool3d, torch.max_pool1d, torch.max_pool2d, torch.max_pool3d,
        F.avg_pool1d, F.avg_pool2d, F.avg_pool3d,
        F.adaptive_avg_pool1d, F.adaptive_avg_pool2d, F.adaptive_avg_pool3d,
        F.adaptive_max_pool1d, F.adaptive_max_pool2d, F.adaptive_max_pool3d,
    }
)

HOMOGENEOUS_METHODS = frozenset(
    {
        "relu", "relu_", "view", "reshape", "flatten", "permute", "transpose", "contiguous",
        "squeeze", "unsqueeze", "mean", "sum", "clone",
    }
)
# fmt: on

SCALE_FREE = frozenset({("call_method", "size"), ("call_method", "dim")})
"""What reads a tensor's shape and not its numbers."""


def is_homogeneous(node: fx.Node, root: nn.Module) -> bool:
    """Return whether a node of a traced graph has ``f(a x) = a f(x)`` for a > 0 in its only tensor of numbers.

    >>> graph = fx.Tracer().trace(nn.Sequential(nn.ReLU(), nn.GELU()))
    >>> [is_homogeneous(node, nn.Sequential(nn.ReLU(), nn.GELU())) for node in list(graph.nodes)[1:3]]
    [True, False]
    """
    if node.op == "call_module":
        module = root.get_submodule(str(node.target))
        return type(module) in HOMOGENEOUS_MODULES and not module._forward_hooks and not module._forward_pre_hooks
    if node.op == "call_method":
        return node.target in HOMOGENEOUS_METHODS
    return node.op == "call_function" and node.target in HOMOGENEOUS_FUNCTIONS


def scales_its_output(layer: nn.Module) -> bool:
    """Return whether multiplying all of a layer's own parameters by a number multiplies its output by it.

    >>> scales_its_output(nn.LayerNorm(3)), scales_its_output(nn.LayerNorm(3, elementwise_affine=False))
    (True, False)
    """
    if isinstance(layer, nn.Embedding):
        return layer.max_norm is None and owns_its_weight(layer)
    return isinstance(layer, WEIGHTED + NORMS) and owns_its_weight(layer)


def owns_its_weight(layer: nn.Module) -> bool:
    """Return whether ``weight``, and at most ``bias``, are all that a layer has: not made of others, nothing beside."""
    names = {name for name, _ in layer.named_parameters()}
    return "weight" in names and names <= {"weight", "bias"}
