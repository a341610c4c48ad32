"""Images as a few cells, as studies take them that train hundreds of networks side by side."""

from __future__ import annotations

from torch import Tensor
from torch.nn.functional import avg_pool2d

from sharpness.data import Split, normalise
from sharpness.errors import InputError


def scaled(split: Split, cells: int, like: Split) -> Tensor:
    """Return the mean brightness of cells x cells parts of each image, less its mean over ``like``, whose std is 1."""
    own, other = (parts_of(each, cells) for each in (split, like))
    return (own - other.mean(0)) / other.std()


def parts_of(split: Split, cells: int) -> Tensor:
    images = normalise(split.inputs)
    if images.shape[-1] % cells:
        raise InputError(f"expected a divisor of {images.shape[-1]} as cells, got {cells}: images are cut into parts")
    return avg_pool2d(images, images.shape[-1] // cells).flatten(1)
