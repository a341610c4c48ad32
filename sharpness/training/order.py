"""The examples that an update sees, and how they are varied: functions of (seed, epoch, position), without replay."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn.functional import pad

from sharpness.config import DataConfig
from sharpness.machine.environment import derived_seed


@dataclass(frozen=True)
class TrainingBatch:
    """The examples of an update that this process sees: inputs as numbers, and class numbers.

    ``weight`` is this process's share of the whole batch times the number of processes: ``DistributedDataParallel``
    averages over processes, whose shares may be uneven.
    """

    inputs: Tensor
    targets: Tensor
    weight: float = 1.0


def epoch_order(seed: int, epoch: int, examples: int) -> Tensor:
    """Return the order in which an epoch sees the examples, shape (N,), on the CPU.

    >>> sorted(epoch_order(0, 1, 4).tolist()), torch.equal(epoch_order(0, 1, 9), epoch_order(0, 2, 9))
    ([0, 1, 2, 3], False)
    """
    return torch.randperm(examples, generator=_generator(seed, "epoch", epoch))


def random_rows(seed: int, number: int, examples: int, size: int) -> Tensor:
    """Return the rows of a random batch of its own for a measurement, shape (size,)."""
    return torch.randperm(examples, generator=_generator(seed, "measure", number))[:size]


class Augmentation:
    """Random shifts and mirror images of one epoch, drawn for every position of its order at once.

    An example's variation belongs to its position, whatever the batch size, so that a run that was stopped anywhere
    goes on with the same images. Shifts are uniform from -padding to padding in both directions, zeros coming in, as
    the usual padded crop of CIFAR images; mirrored with probability 1/2.

    >>> images = torch.arange(4, dtype=torch.uint8).view(1, 1, 2, 2)
    >>> Augmentation(DataConfig(flip=True), 0, 1, 1)(images.expand(64, 1, 2, 2)[:1], 0).shape
    torch.Size([1, 1, 2, 2])
    """

    def __init__(self, config: DataConfig, seed: int, epoch: int, examples: int, device: str | torch.device = "cpu"):
        self.padding = config.crop_padding
        generator = _generator(seed, "augmentation", epoch)
        shifts = torch.randint(0, 2 * self.padding + 1, (examples, 2), generator=generator)
        mirrored = torch.randint(0, 2, (examples,), generator=generator).bool()
        self.shifts = shifts.to(device)
        self.mirrored = mirrored.to(device) if config.flip else None

    def __call__(self, images: Tensor, position: int) -> Tensor:
        """Return varied images, N x C x H x W, of the positions from ``position`` on."""
        positions = slice(position, position + len(images))
        if self.padding:
            images = _shifted(images, self.shifts[positions], self.padding)
        if self.mirrored is not None:
            images = torch.where(self.mirrored[positions, None, None, None], images.flip(3), images)
        return images


def _shifted(images: Tensor, shifts: Tensor, padding: int) -> Tensor:
    """Return for each image the window of its size that begins at its shift in the image with a border of zeros."""
    height, width = images.shape[2:]
    rows = shifts[:, 0, None] + torch.arange(height, device=images.device)
    columns = shifts[:, 1, None] + torch.arange(width, device=images.device)
    bordered = pad(images, (padding,) * 4)
    examples = torch.arange(len(images), device=images.device)[:, None, None, None]
    channels = torch.arange(images.shape[1], device=images.device)[None, :, None, None]
    return bordered[examples, channels, rows[:, None, :, None], columns[:, None, None, :]]


def varies(config: DataConfig) -> bool:
    """Say whether training images are varied at all."""
    return bool(config.crop_padding) or config.flip


def _generator(seed: int, name: str, number: int) -> torch.Generator:
    return torch.Generator().manual_seed(derived_seed(seed, name, number))
