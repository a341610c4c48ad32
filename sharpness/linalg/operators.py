"""Symmetric operators: a product with vectors is all that a spectral algorithm may know of a matrix."""

from __future__ import annotations

from collections.abc import Callable
from typing import Protocol

import torch
from torch import Tensor

from sharpness.errors import InputError


class SymmetricOperator(Protocol):
    """A symmetric linear map on R^size that is known only through its product with vectors of shape ``(size,)``.

    ``error`` estimates ``||computed A v - A v||`` for unit vectors v beyond rounding: 0 for exact products. It may grow
    while products are made, so algorithms read it when they report.
    """

    @property
    def size(self) -> int: ...
    @property
    def dtype(self) -> torch.dtype: ...
    @property
    def device(self) -> torch.device: ...
    @property
    def error(self) -> float: ...
    def matvec(self, v: Tensor, /) -> Tensor: ...


class FunctionOperator:
    """Any callable ``v -> A v`` as a symmetric operator.

    >>> A = FunctionOperator(lambda v: 2 * v, size=3, dtype=torch.float64)
    >>> matmat(A, torch.eye(3, dtype=torch.float64)).diagonal()
    tensor([2., 2., 2.], dtype=torch.float64)
    """

    def __init__(
        self,
        function: Callable[[Tensor], Tensor],
        size: int,
        dtype: torch.dtype = torch.float32,
        device: torch.device | str = "cpu",
        error: float = 0.0,
    ) -> None:
        self.matvec = function
        self.size = size
        self.dtype = dtype
        self.device = torch.device(device)
        self.error = error


class AffineOperator:
    """``factor A + shift I`` of an operator A.

    >>> A = FunctionOperator(lambda v: 2 * v, size=2, dtype=torch.float64)
    >>> to_dense(scaled(shifted(A, 1.0), -1.0)).diagonal()
    tensor([-3., -3.], dtype=torch.float64)
    """

    def __init__(self, operator: SymmetricOperator, factor: float, shift: float) -> None:
        self.operator, self.factor, self.shift = operator, factor, shift
        self.size, self.dtype, self.device = operator.size, operator.dtype, operator.device

    @property
    def error(self) -> float:
        """The error of A, scaled."""
        return abs(self.factor) * self.operator.error

    def matvec(self, v: Tensor) -> Tensor:
        """Return ``factor A v + shift v``."""
        return self.factor * self.operator.matvec(v) + self.shift * v

    def matmat(self, columns: Tensor) -> Tensor:
        """Return the product with the columns of a matrix."""
        return self.factor * matmat(self.operator, columns) + self.shift * columns


def shifted(operator: SymmetricOperator, shift: float) -> AffineOperator:
    """Return ``A + shift I`` as an operator."""
    return AffineOperator(operator, 1.0, shift)


def scaled(operator: SymmetricOperator, factor: float) -> AffineOperator:
    """Return ``factor A`` as an operator; ``factor=-1`` turns the bottom of a spectrum into its top."""
    return AffineOperator(operator, factor, 0.0)


def matmat(operator: SymmetricOperator, columns: Tensor) -> Tensor:
    """Return ``A V`` for the columns of ``V``, shape ``(size, k)``; operators may have a block product of their own."""
    block = getattr(operator, "matmat", None)
    if block is not None:
        return block(columns)
    return torch.stack([operator.matvec(v) for v in columns.unbind(1)], dim=1)


def to_dense(operator: SymmetricOperator, max_size: int = 10_000) -> Tensor:
    """Return the whole matrix, shape ``(size, size)``: size products, so for small sizes only.

    Raises :class:`InputError` above ``max_size``, where the matrix would not fit in memory.
    """
    if operator.size > max_size:
        raise InputError(f"expected at most {max_size} columns for a dense matrix, got {operator.size}: use matvec")
    return matmat(operator, torch.eye(operator.size, dtype=operator.dtype, device=operator.device))
