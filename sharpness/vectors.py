"""Parameters of a network as one flat vector, and back."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor, nn

from sharpness.errors import InputError


@dataclass(frozen=True)
class Layout:
    """Where each trainable parameter lies in the flat vector ``w``: names and shapes, as ``named_parameters`` has them.

    A tensor that several modules share (tied weights) is one entry, as ``named_parameters`` lists it once.

    >>> layout = Layout.of(nn.Linear(3, 2))
    >>> layout.names, layout.size
    (('weight', 'bias'), 8)
    """

    names: tuple[str, ...]
    shapes: tuple[torch.Size, ...]

    @classmethod
    def of(cls, model: nn.Module) -> Layout:
        """Return the layout of the parameters with ``requires_grad``; none of them is an :class:`InputError`."""
        trainable = {name: p for name, p in model.named_parameters() if p.requires_grad}
        if not trainable:
            raise InputError(
                "expected a model with trainable parameters, got none: set requires_grad on those to measure"
            )
        return cls(tuple(trainable), tuple(p.shape for p in trainable.values()))

    @property
    def numels(self) -> list[int]:
        """Number of entries of each parameter."""
        return [shape.numel() for shape in self.shapes]

    @property
    def size(self) -> int:
        """Length n of the flat vector."""
        return sum(self.numels)

    def unflatten(self, w: Tensor) -> dict[str, Tensor]:
        """Return named views of ``w`` (shape ``(n,)``); :class:`InputError` for a vector of another shape."""
        if w.shape != (self.size,):
            raise InputError(
                f"expected a flat vector of shape ({self.size},), got {tuple(w.shape)}: use flatten(model)"
            )
        pieces = torch.split(w, self.numels)
        return {name: piece.view(shape) for name, piece, shape in zip(self.names, pieces, self.shapes, strict=True)}


def flatten(model: nn.Module, layout: Layout | None = None) -> Tensor:
    """Return a detached copy of the trainable parameters as one contiguous vector of shape ``(n,)``.

    >>> flatten(nn.Linear(3, 2)).shape
    torch.Size([8])
    """
    layout = layout or Layout.of(model)
    parameters = dict(model.named_parameters())
    return torch.cat([parameters[name].detach().reshape(-1) for name in layout.names])


def assign(model: nn.Module, w: Tensor) -> None:
    """Copy a flat vector into the model's trainable parameters, in place (dtype and device of the model are kept)."""
    parameters = dict(model.named_parameters())
    with torch.no_grad():
        for name, value in Layout.of(model).unflatten(w).items():
            parameters[name].copy_(value)


def norm(v: Tensor) -> float:
    """Return the Euclidean norm of a tensor, accumulated in float64.

    >>> norm(torch.tensor([3.0, 4.0]))
    5.0
    """
    v = v.cpu() if v.device.type == "mps" else v  # MPS has no float64
    return float(torch.linalg.vector_norm(v, dtype=torch.float64))


def random_unit_vector(size: int, seed: int, dtype: torch.dtype, device: torch.device) -> Tensor:
    """Return a vector uniform on the unit sphere of R^size, for a seed the same on every device and in every dtype.

    >>> float(random_unit_vector(100, 0, torch.float64, torch.device("cpu")).norm().round(decimals=12))
    1.0
    """
    generator = torch.Generator().manual_seed(seed)
    v = torch.randn(size, generator=generator, dtype=torch.float64)
    return (v / v.norm()).to(device=device, dtype=dtype)
