"""Parts that the networks of this package share: an optional BatchNorm, the shape of images, initial weights."""

from __future__ import annotations

from torch import nn

from sharpness.errors import InputError


def batch_norm_1d(width: int, norm: str) -> nn.Module:
    """Return BatchNorm over a vector: without running statistics for ``batch``, with them for ``running``.

    An identity for ``none``, so that the other layers keep their names.

    >>> batch_norm_1d(3, "none")
    Identity()
    """
    return nn.Identity() if norm == "none" else nn.BatchNorm1d(width, track_running_stats=norm == "running")


def batch_norm_2d(channels: int, norm: str) -> nn.Module:
    """Return BatchNorm over the channels of an image, or an identity, as :func:`batch_norm_1d` does.

    >>> batch_norm_2d(3, "batch").track_running_stats
    False
    """
    return nn.Identity() if norm == "none" else nn.BatchNorm2d(channels, track_running_stats=norm == "running")


def image_shape(input_shape: tuple[int, ...], smallest: int = 1) -> tuple[int, int, int]:
    """Return channels, height and width; :class:`InputError` for other shapes and for sides below ``smallest``.

    >>> image_shape((3, 32, 32))
    (3, 32, 32)
    """
    if len(input_shape) != 3:
        raise InputError(
            f"expected inputs of channels x height x width for this network, got {input_shape}: "
            "use data of images or a fully connected network"
        )
    channels, height, width = input_shape
    if min(height, width) < smallest:
        raise InputError(
            f"expected images of at least {smallest} x {smallest} for this network, got {height} x {width}: "
            "use larger images or a fully connected network"
        )
    return channels, height, width


def he_normal_(model: nn.Module) -> nn.Module:
    """Draw the convolutions' weights from N(0, 2 / (k^2 c_out)), set their biases to zero, and return the network.

    He et al. 2015 (arXiv 1502.01852), equation 14, with the sides k of the kernel and the output channels c_out; other
    layers stay as they are.
    """
    for module in model.modules():
        if isinstance(module, nn.Conv2d):
            nn.init.kaiming_normal_(module.weight, mode="fan_out", nonlinearity="relu")
            if module.bias is not None:
                nn.init.zeros_(module.bias)
    return model


def glorot_uniform_(model: nn.Module) -> nn.Module:
    """Draw all weights of convolutions and linear layers Glorot-uniform, set biases to zero, and return the network.

    What Keras does where nothing is said: uniform on +-sqrt(6 / (fan_in + fan_out)).
    """
    for module in model.modules():
        if isinstance(module, nn.Conv2d | nn.Linear):
            nn.init.xavier_uniform_(module.weight)
            if module.bias is not None:
                nn.init.zeros_(module.bias)
    return model
