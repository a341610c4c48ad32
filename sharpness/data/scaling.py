"""The scaling of stored inputs to the numbers that a network takes."""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from torch import Tensor

from sharpness.errors import InputError


@dataclass(frozen=True)
class Scaling:
    """The scaling ``(inputs / scale - mean) / std`` of inputs: by default bytes become numbers in [0, 1].

    ``mean`` and ``std`` hold one number for all inputs or one for each channel, which is the second dimension. Raises
    :class:`InputError` for a number that is not finite and for a ``scale`` or ``std`` that is not positive.

    >>> str(Scaling(mean=(0.5,), std=(0.25,)))
    'divided by 255, mean 0.5 subtracted, divided by std 0.25'
    """

    scale: float = 255.0
    mean: tuple[float, ...] = (0.0,)
    std: tuple[float, ...] = (1.0,)

    def __post_init__(self) -> None:
        if not all(math.isfinite(number) for number in (self.scale, *self.mean, *self.std)):
            raise InputError(f"expected finite numbers as scale, mean and std, got {self!r}: correct them")
        if not all(number > 0 for number in (self.scale, *self.std)):
            raise InputError(f"expected scale and std above 0, got {self!r}: correct them")

    def __str__(self) -> str:
        steps = [f"divided by {self.scale:g}"] if self.scale != 1 else []
        steps += [f"mean {'/'.join(f'{m:g}' for m in self.mean)} subtracted"] if any(self.mean) else []
        steps += [f"divided by std {'/'.join(f'{s:g}' for s in self.std)}"] if {*self.std} != {1.0} else []
        return ", ".join(steps) or "used as they are"


BYTES = Scaling()


def normalise(inputs: Tensor, dtype: torch.dtype = torch.float32, scaling: Scaling = BYTES) -> Tensor:
    """Return bytes as numbers in [0, 1], ``inputs / 255``: all the preprocessing in the code of Keskar et al. (2017).

    Another ``scaling`` does what it says, to any inputs. The shape stays. Raises :class:`InputError` for a ``dtype``
    that is not floating point and for other numbers of means and standard deviations than 1 or that of the channels.

    >>> normalise(torch.tensor([0, 51, 255], dtype=torch.uint8))
    tensor([0.0000, 0.2000, 1.0000])
    """
    if not dtype.is_floating_point:
        raise InputError(f"expected a floating-point dtype such as torch.float32, got {dtype}")
    numbers = inputs.to(dtype) / scaling.scale
    if scaling.mean == BYTES.mean and scaling.std == BYTES.std:
        return numbers
    return (numbers - _per_channel("mean", scaling.mean, numbers)) / _per_channel("std", scaling.std, numbers)


def _per_channel(name: str, values: tuple[float, ...], inputs: Tensor) -> Tensor:
    """Return one number, or one for each channel, in a shape that broadcasts over the inputs."""
    channels = inputs.shape[1] if inputs.dim() > 1 else 1
    if len(values) not in (1, channels):
        raise InputError(f"expected 1 or {channels} numbers as {name}, one for each channel, got {len(values)}")
    return inputs.new_tensor(values).view(-1, *[1] * (inputs.dim() - 2))
