"""What a spectral algorithm may know of a matrix: a symmetric product with vectors; and the Hessian in that form."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Protocol

import torch
from torch import Tensor

from sharpness.errors import InputError

if TYPE_CHECKING:
    from sharpness.batches import Batch
    from sharpness.loss import GradientGraph, Loss


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


class HessianOperator:
    """The Hessian of a loss at ``w``: ``matvec(v) = d/dt grad L(w + t v) at t = 0``, by reverse over reverse.

    The graph of each batch's gradient is kept and reused between products as long as all kept graphs together hold
    at most ``cache_bytes`` (measured while they are built); the other batches are rebuilt at each product. What was
    kept changes the time, never the result.

    >>> from sharpness.loss import Loss
    >>> model = torch.nn.Linear(2, 1, bias=False)
    >>> batch = (torch.tensor([[3.0, 4.0]]), torch.tensor([[0.0]]))
    >>> H = HessianOperator(Loss(model, torch.nn.functional.mse_loss, [batch]))
    >>> matmat(H, torch.eye(2))          # 2 x x^T
    tensor([[18., 24.],
            [24., 32.]])
    """

    def __init__(self, loss: Loss, w: Tensor | None = None, *, cache_bytes: int = 1 << 30) -> None:
        self.loss = loss
        self.w = loss.point(loss.weights if w is None else w)
        self.size, self.dtype, self.device = self.w.numel(), self.w.dtype, self.w.device
        self._cache_bytes = cache_bytes
        self._kept: dict[int, GradientGraph] = {}
        self.error = 0.0

    def matvec(self, v: Tensor) -> Tensor:
        """Return ``H v`` for ``v`` of shape ``(n,)``, as the mean over all the data."""
        total = torch.zeros_like(self.w)
        pieces, v_pieces = self.loss.pieces(total), self.loss.pieces(self.loss.point(v))
        with self.loss.measuring():
            for index, (batch, share) in enumerate(self.loss.weighted_batches()):
                graph = self._graph(index, batch)
                graph.add_product(pieces, v_pieces, share, keep=index in self._kept)
        return total

    def _graph(self, index: int, batch: Batch) -> GradientGraph:
        """Return the graph of one batch's gradient, kept for the next product if the budget allows."""
        if index in self._kept:
            return self._kept[index]
        graph = self.loss.gradient_graph(self.w, batch)
        if graph.num_bytes <= self._cache_bytes - sum(kept.num_bytes for kept in self._kept.values()):
            self._kept[index] = graph
        return graph


def matmat(operator: SymmetricOperator, columns: Tensor) -> Tensor:
    """Return ``A V`` for the columns of ``V`` (shape ``(size, k)``), one product each."""
    return torch.stack([operator.matvec(v) for v in columns.unbind(1)], dim=1)


def to_dense(operator: SymmetricOperator, max_size: int = 10_000) -> Tensor:
    """Return the whole matrix, shape ``(size, size)``: size products, so for small sizes only.

    Raises :class:`InputError` above ``max_size``, where the matrix would not fit in memory.
    """
    if operator.size > max_size:
        raise InputError(f"expected at most {max_size} columns for a dense matrix, got {operator.size}: use matvec")
    return matmat(operator, torch.eye(operator.size, dtype=operator.dtype, device=operator.device))
