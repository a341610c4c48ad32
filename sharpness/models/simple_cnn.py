"""The "Simple CNN" of Shallue et al. 2019 (arXiv 1811.03600)."""

from __future__ import annotations

from collections.abc import Callable

from torch import nn

from sharpness.models.layers import image_shape


def simple_cnn(first: int, second: int, hidden: int) -> Callable[[tuple[int, ...], int, str], nn.Sequential]:
    """Return the function that builds the network with so many channels and hidden units, whatever ``norm`` says.

    2 x [Conv 5 x 5 that keeps the size, ReLU, MaxPool 2 x 2], then Linear, ReLU, Dropout 0.4 and Linear to the logits;
    it has no norms. The authors' base has 32 and 64 channels and 1024 hidden units, narrow half and wide twice as many.
    Not checked against the authors, whose code of it is not published: the dropout and where the weights start, here
    PyTorch's default. The function raises :class:`sharpness.errors.InputError` for inputs that are no images of at
    least 4 x 4.

    >>> simple_cnn(32, 64, 1024)((1, 28, 28), 10, "none")[7]
    Linear(in_features=3136, out_features=1024, bias=True)
    """

    def create(input_shape: tuple[int, ...], num_classes: int, norm: str) -> nn.Sequential:
        channels, height, width = image_shape(input_shape, smallest=4)
        return nn.Sequential(
            nn.Conv2d(channels, first, 5, padding=2),
            nn.ReLU(),
            nn.MaxPool2d(2),
            nn.Conv2d(first, second, 5, padding=2),
            nn.ReLU(),
            nn.MaxPool2d(2),
            nn.Flatten(),
            nn.Linear(second * (height // 4) * (width // 4), hidden),
            nn.ReLU(),
            nn.Dropout(0.4),
            nn.Linear(hidden, num_classes),
        )

    return create
