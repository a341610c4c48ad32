"""The effect of PyTorch's modules and functions on the order of the units that they are given."""

from __future__ import annotations

import operator
from typing import Any

import torch
from torch import fx, nn
from torch.nn import functional as F

CONVOLUTIONS = (nn.Conv1d, nn.Conv2d, nn.Conv3d)
TRANSPOSED = (nn.ConvTranspose1d, nn.ConvTranspose2d, nn.ConvTranspose3d)
# These tables are read by rows.
# fmt: off
CHANNEL_NORMS = (
    nn.BatchNorm1d, nn.BatchNorm2d, nn.BatchNorm3d, nn.SyncBatchNorm,
    nn.InstanceNorm1d, nn.InstanceNorm2d, nn.InstanceNorm3d,
)
"""Modules that treat each channel, the second dimension, by itself, with numbers of its own."""

LAST_NORMS = (nn.LayerNorm, nn.RMSNorm)
LAYERS = (nn.Linear, nn.Embedding, nn.PReLU, *CONVOLUTIONS, *TRANSPOSED, *CHANNEL_NORMS, *LAST_NORMS)

ELEMENTWISE_MODULES: frozenset[type[nn.Module]] = frozenset(
    {
        nn.ReLU, nn.ReLU6, nn.LeakyReLU, nn.GELU, nn.SiLU, nn.Mish, nn.ELU, nn.SELU, nn.CELU, nn.Softplus,
        nn.Tanh, nn.Sigmoid, nn.LogSigmoid, nn.Softsign, nn.Tanhshrink, nn.Hardtanh, nn.Hardswish, nn.Hardsigmoid,
        nn.Identity, nn.Dropout, nn.Dropout1d, nn.Dropout2d, nn.Dropout3d, nn.AlphaDropout, nn.FeatureAlphaDropout,
    }
)

ELEMENTWISE = frozenset(
    {
        "relu", "relu6", "leaky_relu", "gelu", "silu", "mish", "elu", "selu", "celu", "softplus", "tanh", "sigmoid",
        "logsigmoid", "softsign", "tanhshrink", "hardtanh", "hardswish", "hardsigmoid",
        "dropout", "dropout1d", "dropout2d", "dropout3d", "alpha_dropout", "feature_alpha_dropout",
        "add", "iadd", "sub", "isub", "mul", "imul", "multiply", "div", "truediv", "itruediv", "neg", "pow",
        "maximum", "minimum", "clamp", "abs", "exp", "log", "sqrt", "rsqrt", "square", "sin", "cos", "erf",
        "float", "double", "detach", "clone",
    }
)
"""Functions and methods, without the underscore of those in place, of each entry or of entries of equal places."""

MOVES = frozenset(
    {
        "flatten", "unflatten", "view", "reshape", "permute", "transpose", "movedim", "squeeze", "unsqueeze",
        "contiguous", "expand", "getitem", "mean", "amax", "amin",
    }
)
"""Functions and methods that move entries as their places say, or that reduce whole dimensions."""
# fmt: on

MOVING_MODULES: frozenset[type[nn.Module]] = frozenset({nn.Flatten, nn.Unflatten})

LOCAL_MODULES: dict[type[nn.Module], int] = {
    **dict.fromkeys((nn.MaxPool1d, nn.AvgPool1d, nn.AdaptiveMaxPool1d, nn.AdaptiveAvgPool1d, nn.ZeroPad1d), 1),
    **dict.fromkeys((nn.MaxPool2d, nn.AvgPool2d, nn.AdaptiveMaxPool2d, nn.AdaptiveAvgPool2d, nn.ZeroPad2d), 2),
    **dict.fromkeys((nn.MaxPool3d, nn.AvgPool3d, nn.AdaptiveMaxPool3d, nn.AdaptiveAvgPool3d, nn.ZeroPad3d), 3),
}
"""Modules that act on so many last dimensions and on each place of the others alike."""

LOCAL = {
    f"{kind}{dims}d": dims
    for kind in ("max_pool", "avg_pool", "adaptive_max_pool", "adaptive_avg_pool")
    for dims in (1, 2, 3)
}

SHAPE_READERS = frozenset({"size", "dim", "numel", "ndimension", "getattr"})
"""What reads a tensor's shape and not its numbers."""


def plain_kind(module: nn.Module) -> type[nn.Module] | None:
    """Return the class of PyTorch whose forward a module has, with nothing hooked on and no parameters of its own.

    >>> class Mine(nn.Linear):
    ...     pass
    >>> class Other(nn.Linear):
    ...     def forward(self, input):
    ...         return super().forward(input) ** 3
    >>> plain_kind(Mine(2, 2)), plain_kind(Other(2, 2))
    (<class 'torch.nn.modules.linear.Linear'>, None)
    """
    kind = next((base for base in type(module).__mro__ if base.__module__.startswith("torch.nn.")), None)
    hooked = module._forward_hooks or module._forward_pre_hooks
    own = {name for name, _ in module.named_parameters()} <= {"weight", "bias"}
    plain = kind is not None and type(module).forward is kind.forward and own and not hooked
    return kind if plain else None


def name_of(node: fx.Node) -> str:
    """Return the name of PyTorch's function or method that a node calls, empty for anything else.

    >>> [name_of(node) for node in fx.symbolic_trace(lambda x: F.relu(x).add_(1)).graph.nodes]
    ['', 'relu', 'add', '']
    """
    if node.op == "call_method":
        return str(node.target).rstrip("_")
    if node.op != "call_function":
        return ""
    name = getattr(node.target, "__name__", "")
    homes: tuple[Any, ...] = (torch, F, operator)
    known = node.target is getattr or any(getattr(home, name, None) is node.target for home in homes)
    return name.rstrip("_") if known else ""
