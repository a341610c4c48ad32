"""A small convolutional network whose strides take the place of pools, for many runs on a CPU."""

from __future__ import annotations

from torch import nn

from sharpness.models.layers import he_normal_, image_shape


def strided_cnn(input_shape: tuple[int, ...], num_classes: int, norm: str) -> nn.Sequential:
    """Return two convolutions and a hidden layer, whatever ``norm`` says: there are no norms.

    2 x [Conv 3 x 3 of stride 2, ReLU] with 16 and 32 channels, then Linear 256, ReLU and Linear to the logits. Strides
    in place of pools are those of Springenberg et al. 2015 (arXiv 1412.6806); the sizes are our own, a fifth of the
    work of ``simple_cnn_narrow``. Convolutions start as :func:`he_normal_` says, linear layers from PyTorch's default.
    Raises :class:`sharpness.errors.InputError` for inputs that are no images.

    >>> strided_cnn((1, 28, 28), 10, "none")[5]
    Linear(in_features=1568, out_features=256, bias=True)
    """
    channels, height, width = image_shape(input_shape)
    network = nn.Sequential(
        nn.Conv2d(channels, 16, 3, stride=2, padding=1),
        nn.ReLU(),
        nn.Conv2d(16, 32, 3, stride=2, padding=1),
        nn.ReLU(),
        nn.Flatten(),
        nn.Linear(32 * -(-height // 4) * -(-width // 4), 256),
        nn.ReLU(),
        nn.Linear(256, num_classes),
    )
    he_normal_(network)
    return network
