"""Unit balls of the norms that optimisers step in: their points, their sizes, and the step along a gradient."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass

import torch
from torch import Tensor

from sharpness.vectors import Layout


@dataclass(frozen=True)
class Ball:
    """The unit ball of a norm.

    ``step(v)`` is the point d of the ball with the largest ``<v, d>``, which is the dual norm of v, and
    ``square(layout)`` the largest squared Euclidean length of its points.
    """

    step: Callable[[Tensor, Layout], Tensor]
    square: Callable[[Layout], int]


def _signs(v: Tensor, layout: Layout) -> Tensor:
    return torch.where(v < 0, -1.0, 1.0).to(v)


def _matrices(v: Tensor, layout: Layout) -> Tensor:
    """Return for each weight the nearest orthogonal matrix, rows x all else, and for each vector its direction."""
    pieces = [_polar(piece) for piece in layout.unflatten(v).values()]
    return torch.cat([piece.reshape(-1) for piece in pieces])


def _polar(piece: Tensor) -> Tensor:
    """Return ``U V^T`` of ``U S V^T``, in the shape of the tensor; a vector counts as a matrix of one column."""
    matrix = piece.flatten(1) if piece.ndim > 1 else piece.reshape(-1, 1)
    u, _, vh = torch.linalg.svd(matrix, full_matrices=False)
    return (u @ vh).view(piece.shape)


def _ranks(layout: Layout) -> int:
    """Return the sum over the weights of the smaller side of each as a matrix, 1 for vectors."""
    sides = [(shape[0], shape.numel() // shape[0]) if len(shape) > 1 else (1, 1) for shape in layout.shapes]
    return sum(map(min, sides))


BALLS: Mapping[str, Ball] = {
    "sign": Ball(_signs, lambda layout: layout.size),
    "spectral": Ball(_matrices, _ranks),
}
"""``sign``: every entry at most 1, in which sign descent steps; ``spectral``: every weight matrix of a spectral norm of
at most 1, and every other vector of a length of at most 1, in which Muon steps."""
