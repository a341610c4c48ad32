"""The diagonal of a symmetric operator: from unit vectors exactly, or from random signs with standard errors."""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from sharpness.errors import InputError
from sharpness.linalg.operators import SymmetricOperator
from sharpness.linalg.sampling import BLOCK, Products, SignSamples
from sharpness.machine.progress import Progress


@dataclass(frozen=True)
class DiagonalEstimate:
    """The diagonal of A, shape ``(n,)``, entry by entry.

    ``standard_errors`` are zeros for unit vectors. ``sums`` are the sums over the entries of each part, of each sample
    (shape ``(samples, parts)``; one row for unit vectors). ``num_entries`` is how many entries are known, all but where
    time ran out among the unit vectors; the others are 0.
    """

    diagonal: Tensor
    standard_errors: Tensor
    sums: np.ndarray
    num_entries: int
    num_products: int
    stopped_by: str  # "num_products" or "seconds"


def exact_diagonal(
    operator: SymmetricOperator,
    *,
    parts: Sequence[int] | None = None,
    seconds: float | None = None,
    progress: Progress | None = None,
) -> DiagonalEstimate:
    """Return the diagonal by n products with unit vectors; ``parts`` are the lengths of consecutive parts.

    Raises :class:`RunError` for products that are not finite.

    >>> from sharpness.linalg.operators import FunctionOperator
    >>> exact_diagonal(FunctionOperator(lambda v: torch.tensor([1.0, 2.0, 3.0]) * v, 3)).diagonal
    tensor([1., 2., 3.])
    """
    started, products = time.perf_counter(), Products(operator, operator.size, progress)
    diagonal = torch.zeros(operator.size, dtype=operator.dtype, device=operator.device)
    while (done := products.made) < operator.size and not (done and _is_over(started, seconds)):
        rows = min(BLOCK, operator.size - done)
        units = torch.zeros(rows, operator.size, dtype=operator.dtype, device=operator.device)
        units[:, done : done + rows].fill_diagonal_(1)
        diagonal[done : done + rows] = products(units.T)[done : done + rows].diagonal()
    stopped = "num_products" if products.made == operator.size else "seconds"
    sums = _sums(diagonal.unsqueeze(1), parts)
    return DiagonalEstimate(diagonal, torch.zeros_like(diagonal), sums, products.made, products.made, stopped)


def sampled_diagonal(
    operator: SymmetricOperator,
    num_products: int,
    *,
    parts: Sequence[int] | None = None,
    seed: int = 0,
    seconds: float | None = None,
    progress: Progress | None = None,
) -> DiagonalEstimate:
    """Return the mean of ``v * A v`` over vectors v of random signs, and the standard error of each entry.

    Bekas, Kokiopoulou and Saad 2007: entry i is unbiased with the variance ``sum_{j != i} A_ij^2`` for each product, so
    a diagonal matrix needs one. ``parts`` are the lengths of consecutive parts, whose sums are kept for each sample:
    the errors of the entries of a part depend on each other. Memory: two blocks of 16 vectors and two vectors.

    Raises :class:`InputError` for fewer than two products and :class:`RunError` for products that are not finite.

    >>> from sharpness.linalg.operators import FunctionOperator
    >>> found = sampled_diagonal(FunctionOperator(lambda v: torch.tensor([1.0, 2.0, 3.0]) * v, 3), 4)
    >>> found.diagonal, found.standard_errors
    (tensor([1., 2., 3.]), tensor([0., 0., 0.]))
    """
    if num_products < 2:
        raise InputError(f"expected at least 2 products for standard errors, got {num_products}: 100 is usual")
    started, products = time.perf_counter(), Products(operator, num_products, progress)
    draws, sums = SignSamples(products, seed), list[np.ndarray]()
    mean = torch.zeros(operator.size, dtype=operator.dtype, device=operator.device)
    squares = torch.zeros_like(mean)
    while (done := products.made) < num_products and not (done >= 2 and _is_over(started, seconds)):
        v = draws.draw("signs", min(BLOCK, num_products - done))
        samples = v * products(v)
        sums.append(_sums(samples, parts))
        for count, sample in enumerate(samples.unbind(1), done + 1):  # Welford's updates: no cancellation
            change = sample - mean
            mean += change / count
            squares += change * (sample - mean)
    errors = (squares / (products.made * (products.made - 1))).clamp_(min=0).sqrt_()
    stopped = "num_products" if products.made == num_products else "seconds"
    return DiagonalEstimate(mean, errors, np.concatenate(sums), operator.size, products.made, stopped)


def _is_over(started: float, seconds: float | None) -> bool:
    return seconds is not None and time.perf_counter() - started >= seconds


def _sums(columns: Tensor, parts: Sequence[int] | None) -> np.ndarray:
    """Return the sum over each part of each column, shape ``(columns, parts)``, in float64."""
    pieces = columns.cpu().split(list(parts) if parts is not None else len(columns))
    return torch.stack([piece.sum(0, dtype=torch.float64) for piece in pieces], dim=1).numpy()
