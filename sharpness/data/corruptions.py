"""Corrupted images: test data of a shifted distribution, after the benchmark of Hendrycks and Dietterich.

Three corruptions of their nineteen (Hendrycks, Dietterich 2019, arXiv 1903.12261, and the code in
hendrycks/robustness). The constants by severity: of the noise those of ImageNet-C, of the contrast those of CIFAR-10-C,
copied; of the blur this project's, for images of 28 x 28 pixels: CIFAR-10-C's noise and blur (up to 0.1, and up to one
pixel) move the accuracy of a network on Fashion-MNIST by one or two points only, too little for a shift. The blur is
their Gaussian blur, one of four extra corruptions, not their defocus blur. Bytes are rounded, where theirs are cut off.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace

import torch
from scipy import ndimage
from torch import Tensor

from sharpness.data.dataset import Split
from sharpness.errors import InputError, unknown_name

NUM_SEVERITIES = 5


@dataclass(frozen=True)
class Corruption:
    """A function of images (N x C x H x W, from 0 to 1), a constant and a generator, and its constant by severity."""

    function: Callable[[Tensor, float, torch.Generator], Tensor]
    constants: tuple[float, ...]


def gaussian_noise(images: Tensor, deviation: float, generator: torch.Generator) -> Tensor:
    """Add independent normal numbers of this standard deviation."""
    return images + deviation * torch.randn(images.shape, generator=generator)


def gaussian_blur(images: Tensor, deviation: float, generator: torch.Generator) -> Tensor:
    """Average with Gaussian weights of this deviation in pixels, cut off at 4 of them; borders repeat their pixels."""
    return torch.from_numpy(ndimage.gaussian_filter(images.numpy(), (0, 0, deviation, deviation), mode="nearest"))


def contrast(images: Tensor, share: float, generator: torch.Generator) -> Tensor:
    """Keep this share of the difference of each pixel from the mean of its image and channel."""
    means = images.mean((2, 3), keepdim=True)
    return means + share * (images - means)


CORRUPTIONS: Mapping[str, Corruption] = {
    "gaussian_noise": Corruption(gaussian_noise, (0.08, 0.12, 0.18, 0.26, 0.38)),
    "gaussian_blur": Corruption(gaussian_blur, (1.0, 1.5, 2.0, 2.5, 3.0)),
    "contrast": Corruption(contrast, (0.75, 0.5, 0.4, 0.3, 0.15)),
}


def corrupted(split: Split, name: str, severity: int, seed: int = 0) -> Split:
    """Return the examples with their images corrupted, at a severity from 1 to 5; labels stay.

    What is random is a function of the seed and the number of examples: the same noise, scaled, at every severity.
    Raises :class:`InputError` for an unknown corruption and another severity.

    >>> split = Split(torch.tensor([0, 100, 200, 100], dtype=torch.uint8).view(1, 1, 2, 2), torch.tensor([7]))
    >>> corrupted(split, "contrast", 2).inputs.flatten().tolist()
    [50, 100, 150, 100]
    """
    if name not in CORRUPTIONS:
        raise unknown_name("corruption", name, CORRUPTIONS)
    if severity not in range(1, NUM_SEVERITIES + 1):
        raise InputError(f"expected a severity from 1 to {NUM_SEVERITIES}, got {severity}")
    corruption = CORRUPTIONS[name]
    images = split.inputs.cpu().float() / 255
    changed = corruption.function(images, corruption.constants[severity - 1], torch.Generator().manual_seed(seed))
    bytes_ = (changed.clamp(0, 1) * 255).round().to(torch.uint8)
    return replace(split, inputs=bytes_.to(split.inputs.device))
