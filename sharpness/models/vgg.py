"""VGG-11 and VGG-16 for small images (Simonyan & Zisserman 2015, arXiv 1409.1556), as large-batch studies have them."""

from __future__ import annotations

from collections.abc import Sequence

from torch import nn

from sharpness.models.layers import batch_norm_2d, he_normal_, image_shape


def vgg11(input_shape: tuple[int, ...], num_classes: int, norm: str) -> nn.Sequential:
    """Return VGG-11 with linear layers of 4096, the network of Keskar et al.'s later PyTorch code.

    Convolutions of 3 x 3 with biases, each followed by BatchNorm and ReLU: 64, pool, 128, pool, 256, 256, pool, 512,
    512, pool, 512, 512, pool, where pools are MaxPool 2 x 2; then Dropout 0.5, Linear 4096, ReLU, Dropout 0.5, Linear
    4096, ReLU and Linear to the logits. ``norm="none"`` leaves BatchNorm out. Convolutions start from
    N(0, 2 / (9 c_out)), linear layers from N(0, 0.01^2), biases at zero, all as in that code. Pools round up, where the
    code rounds down, so that images of 28 x 28 pass too; for 32 x 32 it is the same. Raises
    :class:`sharpness.errors.InputError` for inputs that are no images.

    >>> sum(isinstance(layer, nn.Conv2d | nn.Linear) for layer in vgg11((3, 32, 32), 10, "none"))
    11
    """
    network = _vgg((1, 1, 2, 2, 2), 4096, input_shape, num_classes, norm)
    for layer in network:
        if isinstance(layer, nn.Linear):
            nn.init.normal_(layer.weight, std=0.01)
            nn.init.zeros_(layer.bias)
    return network


def vgg16(input_shape: tuple[int, ...], num_classes: int, norm: str) -> nn.Sequential:
    """Return VGG-16 with linear layers of 512, the network of Izmailov et al. 2018 (arXiv 1803.05407).

    As :func:`vgg11` with 2, 2, 3, 3 and 3 convolutions between the pools and 512 for 4096; linear layers start from
    PyTorch's default. That is the authors' code, whose VGG16 has no BatchNorm (``norm="none"``) and VGG16BN has.

    >>> sum(isinstance(layer, nn.Conv2d | nn.Linear) for layer in vgg16((3, 32, 32), 10, "none"))
    16
    """
    return _vgg((2, 2, 3, 3, 3), 512, input_shape, num_classes, norm)


def _vgg(
    blocks: Sequence[int], hidden: int, input_shape: tuple[int, ...], num_classes: int, norm: str
) -> nn.Sequential:
    channels, height, width = image_shape(input_shape)
    layers: list[nn.Module] = []
    for count, out in zip(blocks, (64, 128, 256, 512, 512), strict=True):
        for _ in range(count):
            layers += [nn.Conv2d(channels, out, 3, padding=1), batch_norm_2d(out, norm), nn.ReLU()]
            channels = out
        layers.append(nn.MaxPool2d(2, ceil_mode=True))
        height, width = -(-height // 2), -(-width // 2)
    layers += [nn.Flatten(), nn.Dropout(0.5), nn.Linear(channels * height * width, hidden), nn.ReLU()]
    layers += [nn.Dropout(0.5), nn.Linear(hidden, hidden), nn.ReLU(), nn.Linear(hidden, num_classes)]
    network = nn.Sequential(*layers)
    he_normal_(network)
    return network
