"""Directions in weight space: random ones, plain or normalised by filters, and frames of two for planes."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from sharpness.errors import InputError, unknown_name
from sharpness.loss import Loss
from sharpness.machine.environment import derived_seed
from sharpness.vectors import dot, norm, normal_vector

NORMALISATIONS = {
    "filter": "each filter as long as that of the weights, vectors such as biases and norms left as they are",
    "none": "of length 1",
}
PARALLEL = 1e-6
"""Two directions whose sine is below this span no plane."""


def random_direction(loss: Loss, w: Tensor, normalisation: str, seed: int) -> Tensor:
    """Return a Gaussian direction at ``w``, shape (n,), of length 1 or normalised by :func:`filter_normalised`.

    The same for a seed at every point, so that rays from two checkpoints go the same ways. Raises :class:`InputError`
    for an unknown normalisation and where nothing is left of the direction.
    """
    if normalisation not in NORMALISATIONS:
        raise unknown_name("normalisation", normalisation, NORMALISATIONS)
    d = normal_vector(loss.layout.size, derived_seed(seed, "direction"), loss.weights)
    if normalisation == "none":
        return d / norm(d)
    d = filter_normalised(loss, d, w)
    if not norm(d) > 0:
        raise InputError(
            "expected a direction that is not zero, got weights that are vectors only or all zero: use "
            "normalisation 'none'"
        )
    return d


def filter_normalised(loss: Loss, d: Tensor, w: Tensor) -> Tensor:
    r"""Return ``d`` with each filter as long as the weights' own, ``d_ij \|w_ij\| / \|d_ij\|``, shape (n,).

    Li et al. 2018 (arXiv 1712.09913), section 4. A filter is what is under one index of the first axis: of a
    convolution the weights into one channel, of a linear layer those into one unit, of an embedding one word's.
    Parameters with a single axis, biases and those of norms, get 0, as the authors' code does for ``biasbn``; so does a
    filter of the direction that is 0.

    >>> loss = Loss(torch.nn.Linear(2, 2), torch.nn.functional.mse_loss, [(torch.zeros(1, 2), torch.zeros(1, 2))])
    >>> w = torch.tensor([3.0, 4.0, 0.0, 2.0, 7.0, 7.0])
    >>> filter_normalised(loss, torch.tensor([1.0, 0.0, 0.0, 9.0, 1.0, 1.0]), w)
    tensor([5., 0., 0., 2., 0., 0.])
    """
    pieces = []
    weights = loss.layout.unflatten(w)
    for name, piece in loss.layout.unflatten(d).items():
        if piece.ndim < 2:
            pieces.append(torch.zeros_like(piece).reshape(-1))
            continue
        rows, lengths = piece.flatten(1), weights[name].flatten(1).norm(dim=1, keepdim=True)
        own = rows.norm(dim=1, keepdim=True)
        pieces.append((rows * torch.where(own > 0, lengths / own, torch.zeros_like(own))).reshape(-1))
    return torch.cat(pieces)


@dataclass(frozen=True)
class Frame:
    """The plane ``origin + x u + y v``; u and v need be neither of length 1 nor at right angles.

    >>> frame = Frame(torch.zeros(3), torch.tensor([2.0, 0.0, 0.0]), torch.tensor([0.0, 1.0, 0.0]))
    >>> frame.at(1.0, 2.0).tolist(), frame.coordinates(torch.tensor([4.0, 3.0, 5.0]))
    ([2.0, 2.0, 0.0], (2.0, 3.0, 5.0))
    """

    origin: Tensor
    u: Tensor
    v: Tensor

    def __post_init__(self) -> None:
        """Refuse two directions that span no plane."""
        for direction in (self.u, self.v):
            if not norm(direction) > 0:
                raise InputError("expected directions that are not zero, got one of length 0: the points are the same")
        if self.sine < PARALLEL:
            raise InputError("expected directions that span a plane, got parallel ones: the points lie on one line")

    @property
    def cosine(self) -> float:
        """The cosine of the angle between the directions."""
        return dot(self.u, self.v) / (norm(self.u) * norm(self.v))

    @property
    def sine(self) -> float:
        """The length of what u / |u| leaves of v / |v|."""
        unit = self.u.double() / norm(self.u)
        v = self.v.double() / norm(self.v)
        return norm(v - (v @ unit) * unit)

    def at(self, x: float, y: float, out: Tensor | None = None) -> Tensor:
        """Return the weights at the coordinates, shape (n,), in ``out`` if given; at (0, 0) the origin bit for bit."""
        return torch.add(self.origin, self.u, alpha=x, out=out).add_(self.v, alpha=y)

    def coordinates(self, w: Tensor) -> tuple[float, float, float]:
        """Return the coordinates of the nearest point of the plane, and how far ``w`` is from it."""
        u, v, d = self.u.double(), self.v.double(), w.double() - self.origin.double()
        gram = torch.stack([u @ u, u @ v, u @ v, v @ v]).view(2, 2)
        x, y = torch.linalg.solve(gram, torch.stack([u @ d, v @ d])).tolist()
        return x, y, norm(d - x * u - y * v)


def frame_through(origin: Tensor, second: Tensor, third: Tensor) -> Frame:
    """Return the frame at ``origin`` with orthonormal directions whose plane holds the other two points.

    u goes to the second point and v, at right angles to u, towards the third (Garipov et al. 2018, arXiv 1802.10026,
    section 3); coordinates are distances. Raises :class:`InputError` where the three lie on one line.
    """
    u, v = (point.double() - origin.double() for point in (second, third))
    Frame(origin, u, v)  # refuses points that span no plane before anything is divided
    u = u / norm(u)
    v = v - (u @ v) * u
    v = v - (u @ v) * u
    return Frame(origin, u.to(origin.dtype), (v / norm(v)).to(origin.dtype))


def principal_frame(origin: Tensor, points: Sequence[Tensor]) -> tuple[Frame, list[float]]:
    """Return the frame of the first two principal components of ``points - origin``, and their shares of the variance.

    The differences are from the origin, which is the final point of a trajectory, and not from their mean: Li et al.
    2018, section 7.2. By the eigenvectors of the m x m Gram matrix of the m differences, in float64. Raises
    :class:`InputError` where they span no plane.
    """
    differences = [point.double() - origin.double() for point in points]
    gram = torch.tensor([[float(a @ b) for b in differences] for a in differences], dtype=torch.float64)
    values, vectors = torch.linalg.eigh(gram)
    if len(points) < 2 or not float(values[-2]) > PARALLEL**2 * float(values[-1]):
        raise InputError(
            f"expected a trajectory that spans a plane, got {len(points)} points on one line with its end: give more "
            "checkpoints of the training"
        )
    axes = []
    for k in (-1, -2):
        axis = sum((float(c) * d for c, d in zip(vectors[:, k], differences, strict=True)), torch.zeros_like(origin))
        axes.append((axis / norm(axis)).to(origin.dtype))
    return Frame(origin, *axes), [float(values[k] / values.sum()) for k in (-1, -2)]
