"""Orthonormal bases kept as lists of vectors: products, orthogonalisation and rotation without a second basis."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch
from torch import Tensor
from torch.multiprocessing.reductions import StorageWeakRef

from sharpness.errors import RunError
from sharpness.linalg.operators import SymmetricOperator
from sharpness.vectors import norm, random_unit_vector

CHUNK = 1 << 20  # coordinates worked on at a time: 4 to 8 MB of a vector, which a cache can hold


class Products:
    """The products of an operator, each as a vector that may be kept and changed in place; ``number`` counts them.

    The first is copied and the original let go. Where somebody still holds its memory, the operator writes into a
    buffer of its own, and every product is copied; otherwise only those that are the argument itself.

    >>> from sharpness.linalg.operators import FunctionOperator
    >>> products, v = Products(FunctionOperator(lambda v: 2 * v, 2)), torch.tensor([3.0, 4.0])
    >>> products(v), products.number
    ((tensor([6., 8.]), 10.0), 1)
    """

    def __init__(self, operator: SymmetricOperator, number: int = 0) -> None:
        self.operator, self.number = operator, number
        self._copies: bool | None = None  # not known before the first product

    def __call__(self, v: Tensor) -> tuple[Tensor, float]:
        """Return ``A v`` and its length; :class:`RunError` where that is not finite."""
        self.number += 1
        result = self.operator.matvec(v)
        if self._copies is None:
            memory, copy = StorageWeakRef(result.untyped_storage()), result.clone()
            del result
            self._copies, result = not memory.expired(), copy
        elif self._copies or result.untyped_storage().data_ptr() == v.untyped_storage().data_ptr():
            result = result.clone()
        result = result.contiguous()
        length = norm(result)
        if not np.isfinite(length):
            raise RunError(f"expected finite products, got {length} at product {self.number}: check weights and data")
        return result, length


def orthogonalise(v: Tensor, basis: Sequence[Tensor]) -> np.ndarray:
    """Subtract from ``v`` in place its components along orthonormal vectors and return them, float64.

    Two passes of classical Gram-Schmidt: twice is enough for orthogonality to rounding (Giraud, Langou and Rozloznik
    2005), and a pass reads the basis once for the components and once to subtract them.

    >>> v, e = torch.tensor([3.0, 4.0]), torch.tensor([0.0, 1.0])
    >>> float(orthogonalise(v, [e])[0]), v
    (4.0, tensor([3., 0.]))
    """
    return _subtract_components(v, basis) + _subtract_components(v, basis)


def _subtract_components(v: Tensor, basis: Sequence[Tensor]) -> np.ndarray:
    components = np.zeros(len(basis))
    if not basis:
        return components
    for at in range(0, len(v), CHUNK):
        piece = v[at : at + CHUNK]
        components += torch.stack([q[at : at + CHUNK].dot(piece) for q in basis]).cpu().double().numpy()
    factors = components.tolist()
    for at in range(0, len(v), CHUNK):
        piece = v[at : at + CHUNK]
        for q, factor in zip(basis, factors, strict=True):
            piece.sub_(q[at : at + CHUNK], alpha=factor)
    return components


def rotate(vectors: list[Tensor], coefficients: np.ndarray) -> None:
    """Replace m vectors by l linear combinations of them, ``Q <- Q S`` with S of shape ``(m, l)``, l <= m, in place.

    It goes block by block over the coordinates, so besides the basis it needs about ``2 CHUNK`` numbers.

    >>> vectors = [torch.tensor([1.0, 0.0]), torch.tensor([0.0, 1.0])]
    >>> rotate(vectors, np.array([[0.6], [0.8]])); vectors
    [tensor([0.6000, 0.8000])]
    """
    rows = torch.from_numpy(np.ascontiguousarray(coefficients.T)).to(vectors[0].dtype).to(vectors[0].device)
    width = max(1, CHUNK // len(vectors))
    for at in range(0, len(vectors[0]), width):
        block = torch.stack([q[at : at + width] for q in vectors])
        for q, combination in zip(vectors, rows @ block, strict=False):
            q[at : at + width] = combination
    del vectors[len(rows) :]


def random_direction(operator: SymmetricOperator, seed: int, basis: Sequence[Tensor]) -> Tensor:
    """Return a random unit vector orthogonal to the basis, uniform on the sphere of its complement."""
    v = random_unit_vector(operator.size, seed, operator.dtype, operator.device)
    if basis:
        orthogonalise(v, basis)
        v.div_(norm(v))
        orthogonalise(v, basis)  # the first two passes may have cancelled nearly everything
        v.div_(norm(v))
    return v
