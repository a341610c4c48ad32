"""The convolutional networks C1 to C4 of Keskar et al. 2017 (arXiv 1609.04836), as the authors' Keras code has them.

C3 and C4 are C1 and C2 with the 100 classes of CIFAR-100. Layers, biases, dropout and the Glorot-uniform initial
weights with zero biases are those of the code. The code's BatchNormalization with mode=2 takes the statistics of each
batch in evaluation too: ``norm="batch"``. Deviations: eps of BatchNorm is PyTorch's 1e-5, that of Keras depends on its
version; where a max-pool of the code ("same") pads, the edges below are PyTorch's and may lie one pixel off Keras's.
"""

from __future__ import annotations

from torch import nn

from sharpness.models.layers import batch_norm_1d, batch_norm_2d, glorot_uniform_, image_shape

BLOCKS = (((64, 64), 0.3), ((128, 128), 0.4), ((256,) * 3, 0.4), ((512,) * 3, 0.4), ((512,) * 3, 0.4))
"""The channels of C2's convolutions, block by block, and the dropout between those of a block."""


def c1(input_shape: tuple[int, ...], num_classes: int, norm: str) -> nn.Module:
    """Return C1, and C3 for 100 classes: a shallow convolutional network, "modified AlexNet".

    2 x [Conv 64 of 5 x 5, BatchNorm, ReLU, MaxPool 3 x 3 of stride 2], then Linear 384 and Linear 192, each with
    BatchNorm, ReLU and Dropout 0.5, then Linear to the logits. Convolutions keep the size and have stride 1 (the
    paper's text can be read as stride 2); pools pad one pixel on each side and halve it, rounding up. Raises
    :class:`sharpness.errors.InputError` for inputs that are no images.

    >>> c1((3, 32, 32), 10, "batch")[9]
    Linear(in_features=4096, out_features=384, bias=True)
    """
    channels, height, width = image_shape(input_shape)
    layers: list[nn.Module] = []
    for _ in range(2):
        layers += [nn.Conv2d(channels, 64, 5, padding=2), batch_norm_2d(64, norm), nn.ReLU()]
        layers.append(nn.MaxPool2d(3, stride=2, padding=1))
        channels, height, width = 64, -(-height // 2), -(-width // 2)
    layers.append(nn.Flatten())
    size = channels * height * width
    for hidden in (384, 192):
        layers += [nn.Linear(size, hidden), batch_norm_1d(hidden, norm), nn.ReLU(), nn.Dropout(0.5)]
        size = hidden
    return glorot_uniform_(nn.Sequential(*layers, nn.Linear(size, num_classes)))


def c2(input_shape: tuple[int, ...], num_classes: int, norm: str) -> nn.Module:
    """Return C2, and C4 for 100 classes: a deep convolutional network, "modified VGG".

    Five blocks of [Conv 3 x 3, BatchNorm, ReLU], with the channels and the dropout of ``BLOCKS``, dropout between the
    convolutions of a block and MaxPool 2 x 2 at its end; then Dropout 0.5, Linear 512, BatchNorm, ReLU, Dropout 0.5 and
    Linear to the logits. Pools round up, as "same" does, which shows for other sizes than 32 x 32 only. Raises
    :class:`sharpness.errors.InputError` for inputs that are no images.

    >>> sum(isinstance(layer, nn.Conv2d) for layer in c2((3, 32, 32), 10, "batch").modules())
    13
    """
    channels, height, width = image_shape(input_shape)
    layers: list[nn.Module] = []
    for widths, dropout in BLOCKS:
        for number, out in enumerate(widths):
            layers += [nn.Dropout(dropout)] if number else []
            layers += [nn.Conv2d(channels, out, 3, padding=1), batch_norm_2d(out, norm), nn.ReLU()]
            channels = out
        layers.append(nn.MaxPool2d(2, ceil_mode=True))
        height, width = -(-height // 2), -(-width // 2)
    layers += [nn.Flatten(), nn.Dropout(0.5), nn.Linear(channels * height * width, 512), batch_norm_1d(512, norm)]
    return glorot_uniform_(nn.Sequential(*layers, nn.ReLU(), nn.Dropout(0.5), nn.Linear(512, num_classes)))
