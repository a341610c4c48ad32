"""Matrices with prescribed spectra, as operators."""

from __future__ import annotations

import torch
from torch import Tensor

from sharpness.linalg.operators import FunctionOperator


def spectrum(name: str, n: int = 150) -> Tensor:
    """Eigenvalues of one prescribed kind, float64."""
    bulk = torch.linspace(0, 1, n, dtype=torch.float64)
    if name == "outliers":
        bulk[-3:] = torch.tensor([6.0, 4.0, 3.0])
    elif name == "clustered":
        bulk[-4:] = torch.tensor([2.0, 1.9999, 1.999, 1.99])
    elif name == "multiple":
        bulk[-3:] = 1.5
    elif name == "indefinite":
        bulk = torch.cat([-10 * bulk[: n // 2] - 1, bulk[n // 2 :]])
    elif name == "tiny":
        bulk[-2:] = torch.tensor([5.0, 4.9])
        bulk = 1e-6 * bulk
    elif name == "negative":
        bulk = -bulk - 1e-3
    return bulk


SPECTRA = ["outliers", "clustered", "multiple", "indefinite", "tiny", "negative", "even"]


def operator_of(matrix: Tensor) -> FunctionOperator:
    """Return a dense matrix as an operator."""
    return FunctionOperator(lambda v: matrix @ v, len(matrix), matrix.dtype)


def diagonal_operator(values: Tensor) -> FunctionOperator:
    """Return a diagonal matrix as an operator."""
    return FunctionOperator(lambda v: values * v, len(values), values.dtype)
