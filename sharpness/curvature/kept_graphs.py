"""The base of all curvature matrices: graphs kept within a memory budget, and finite differences as the way out."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import TypeVar

import torch
from torch import Tensor, nn

from sharpness.curvature.product_check import MISSING, WRONG, check_products
from sharpness.data.batches import batch_length, named_tensors
from sharpness.errors import InputError, RunError, unknown_name
from sharpness.loss import Loss
from sharpness.loss.graphs import GraphSize, MissingDerivativeError, Product, add_pieces
from sharpness.loss.shares import MicroBatch
from sharpness.loss.slope import PART_OF_A_CHECK
from sharpness.machine.distributed import is_distributed, sum_over_ranks, sums_over_ranks
from sharpness.machine.memory import cache_budget, release
from sharpness.vectors import is_finite, norm, refuse_non_finite

T = TypeVar("T")
BACKENDS = ("auto", "exact", "compiled", "finite_difference")


@dataclass(frozen=True)
class Graph:
    """One micro-batch's differentiated graph: its product with a direction, both in pieces, and the bytes it holds.

    ``product(v, keep)`` frees the graph unless ``keep``; no pieces mean zero.
    """

    product: Product
    num_bytes: int


class CurvatureOperator:
    """A symmetric matrix ``(1 / c) sum_b c_b M_b(w)`` over all the data, known by its product with vectors.

    The graph of each micro-batch is kept and reused between products as long as all kept graphs together hold at most
    ``cache`` bytes, measured while they are built (``auto``: half of the memory that is free at the first product);
    the others are rebuilt at each product. What was kept changes the time, never the result beyond rounding.

    ``backend`` is ``exact`` (autograd), ``finite_difference`` (central differences of first-order passes), or ``auto``:
    exact unless the network uses an operation that cannot be differentiated twice. ``compiled`` (the Hessian alone) is
    ``auto`` with one program for the product where that compiles, agrees and is faster
    (:class:`sharpness.curvature.compiled.CompiledProducts`). After the first product it says which it was.

    The difference step along a unit vector starts at ``eps^(1/3) (1 + ||w||)``, eps that of the dtype; at products 1,
    2, 4, 8, ... it is chosen anew, at the cost of four more products, as the one whose product changes least,
    relatively, from that of a four times larger step. ``error`` is the largest such change divided by the vector's
    length: an estimate, not a bound. For networks with kinks (ReLU) it is large, and rightly so: differences see the
    jumps of the gradient at the kinks, of which the Hessian as autograd defines it knows nothing.

    Raises :class:`InputError` for NaN or infinite weights, loss or gradients, and an unknown backend.
    """

    matrix = ""
    penalised = True
    """Whether the penalty of the loss is part of the matrix, as its ``weight_decay`` times the identity."""

    def __init__(
        self, loss: Loss, w: Tensor | None = None, *, cache: int | str = "auto", backend: str = "auto"
    ) -> None:
        if backend not in BACKENDS:
            raise unknown_name("backend", backend, BACKENDS)
        if not (cache == "auto" or (isinstance(cache, int) and cache >= 0)):
            raise InputError(f"expected a cache of 'auto' or a number of bytes, got {cache!r}: 0 keeps nothing")
        if backend == "compiled" and self.matrix != "hessian":
            raise InputError(f"expected the Hessian for backend='compiled', got {self.matrix}: use backend='auto'")
        if backend == "compiled" and is_distributed():  # each would decide by its own clock
            raise InputError("expected one process for backend='compiled', got several: use backend='auto'")
        loss.check_differentiable()
        self.loss, self.backend, self.error = loss, backend, 0.0
        self.facts: dict[str, str] = {}  # what a record says of the matrix; known after the first product
        self.w = loss.point(loss.weights if w is None else w)
        refuse_non_finite("weights", loss.layout.unflatten(self.w).items(), "measure at another point")
        self.size, self.dtype, self.device = self.w.numel(), self.w.dtype, self.w.device
        self._is_checked = False
        self._ridge = loss.weight_decay if self.penalised else 0.0
        self._leaves = loss.leaves(self.w)
        self._cache, self._budget = cache, -1
        self._kept: dict[tuple[int, int], Graph] = {}
        self._step = self._largest_step = torch.finfo(self.dtype).eps ** (1 / 3) * (1 + norm(self.w))
        self._micro_batch_size, self._num_products = loss.data.micro_batch_size, 0

    def matvec(self, v: Tensor) -> Tensor:
        """Return the product with ``v`` of shape ``(n,)``, as the mean over all the data of all processes."""
        return self.matmat(v.unsqueeze(1))[:, 0]

    def matmat(self, columns: Tensor) -> Tensor:
        """Return the product with the columns of a matrix of shape ``(n, k)``; graphs not kept are built once."""
        rows = self.loss.point(columns.T).contiguous()
        if self._budget < 0:
            self._budget = cache_budget(self._cache, self.device)
        if self.backend != "finite_difference":
            self.check()
        total = None if self.backend == "finite_difference" else self._exact(rows)
        if total is None:
            total = torch.stack([self._finite_difference(v) for v in rows])
        return total.add_(rows, alpha=self._ridge).T if self._ridge else total.T

    def check(self) -> None:
        """Go over to finite differences where autograd's products are wrong; refuse it where they were asked for."""
        if self._is_checked or self.loss.checks.get("slope") == PART_OF_A_CHECK:
            return
        said, self._is_checked = check_products(self), True  # once: its key is a hash of all weights
        if WRONG not in said and (MISSING not in said or self.backend == "exact"):
            return  # by autograd alone a missing derivative says so itself
        if self.backend == "exact":
            raise InputError(
                f"expected products of second derivatives for backend='exact', but they {said}: "
                "use backend='finite_difference'"
            )
        self.backend = "finite_difference"

    def alike(self, loss: Loss, w: Tensor) -> CurvatureOperator:
        """Return the same matrix of another loss, by autograd alone and keeping nothing."""
        return type(self)(loss, w, cache=0, backend="exact")

    def quotient(self, v: Tensor, step: float) -> Tensor:
        """Return the difference quotient of the product with ``v`` for one step; see the class."""
        return self._quotient(v, step)

    def _exact(self, rows: Tensor) -> Tensor | None:
        """Return the products by autograd, or ``None`` where a process found that there are none."""
        total = self.within_memory(lambda: self._attempt(rows))
        if self.backend in ("auto", "compiled"):
            (failures,) = sums_over_ranks(float(total is None), device=self.device)
            found = "exact" if self.backend == "auto" else self.backend
            self.backend = "finite_difference" if failures else found
        if total is None or self.backend == "finite_difference":
            self._kept.clear()
            return None
        return sum_over_ranks(total)

    def _attempt(self, rows: Tensor) -> Tensor | None:
        """Return this process's products, or ``None`` where autograd cannot make them and that is not yet known."""
        try:
            total = self._pass(rows)
            if not is_finite(total) and is_finite(rows):
                raise MissingDerivativeError(
                    "expected finite second derivatives where the gradient is finite, got NaN or infinity, as of a "
                    "norm or a root at 0: use finite differences (backend='finite_difference')"
                )
            return total
        except MissingDerivativeError as error:
            if self.backend == "exact":
                raise
            self.loss.checks[f"{self.matrix} products"] = f"{MISSING}: {error}"
            return None

    def _pass(self, rows: Tensor) -> Tensor:
        """Return this process's part of the products with each row."""
        total, loss = torch.zeros_like(rows), self.loss
        if self._micro_batch_size != loss.data.micro_batch_size:
            self._kept.clear()
            self._micro_batch_size = loss.data.micro_batch_size
        directions, sums = [loss.pieces(v) for v in rows], [loss.pieces(row) for row in total]
        with loss.differentiating_twice():
            for micro in loss.data.micro_batches():
                key = (micro.first_example, batch_length(micro.batch))
                graph = self._kept.get(key) or self._build(micro)
                if key not in self._kept and graph.num_bytes <= self._budget - self.kept_bytes:
                    self._kept[key] = graph
                for i, (row, v) in enumerate(zip(sums, directions, strict=True)):
                    keep = key in self._kept or i < len(rows) - 1
                    pieces = loss.at(self._leaves, lambda _, g=graph, v=v, keep=keep: g.product(v, keep))
                    if pieces:
                        add_pieces(row, pieces, micro.share)
                    del pieces
                del graph  # else it would live beside the next one
        return total

    @property
    def warnings(self) -> tuple[str, ...]:
        """Warnings for a reader of the numbers, one sentence each."""
        return ()

    @property
    def kept_bytes(self) -> int:
        """Bytes that the kept graphs hold."""
        return sum(graph.num_bytes for graph in self._kept.values())

    def _build(self, micro: MicroBatch) -> Graph:
        """Return the graph of one micro-batch; its loss and gradient are refused where they are not finite."""
        size = GraphSize([*self._leaves, *self.loss.fixed_tensors(), *(t for _, t in named_tensors(micro.batch))])
        graph = partial(self._graph, micro)
        with torch.enable_grad():
            try:
                with size.watching():
                    product = self.loss.at(self._leaves, graph)
            except RuntimeError as error:
                if "saved tensor hooks" not in str(error):
                    raise
                # torch.func inside the network takes no hooks: the graph's size stays unknown, so it is not kept.
                return Graph(self.loss.at(self._leaves, graph), self._budget + 1)
        return Graph(product, size.num_bytes)

    def _graph(self, micro: MicroBatch, model: nn.Module) -> Product:
        """Return the product of one micro-batch with a graph behind it."""
        raise NotImplementedError

    def _finite_difference(self, v: Tensor) -> Tensor:
        """Return the product by central differences, now and then with a step chosen anew."""
        length = norm(v)
        if length == 0:
            return torch.zeros_like(v)
        self._num_products += 1
        if self._num_products & (self._num_products - 1) == 0:
            return self._with_new_step(v, length)
        return self._quotient(v, self._step / length)

    def _with_new_step(self, v: Tensor, length: float) -> Tensor:
        """Return the quotient of the step that changes least from a four times larger one, and note the change.

        Larger steps are wrong by the cubic term of the loss, smaller ones by rounding and by the jumps at kinks.
        """
        least, error, best, chosen = float("inf"), 0.0, None, self._step
        step = min(16 * self._step, self._largest_step)  # beyond that the loss is flat and changes little, but wrong
        coarse = self._quotient(v, step / length)
        for _ in range(4):
            step /= 4
            fine = self._quotient(v, step / length)
            change = norm(fine - coarse)
            relative = change / max(norm(fine), norm(coarse), torch.finfo(torch.float64).tiny)
            if relative < least:
                least, error, best, chosen = relative, change / length, fine, step
            coarse = fine
        if best is None:
            raise RunError("expected finite differences of the gradient, got NaN: check the weights and the data")
        self._step, self.error = chosen, max(self.error, error)
        return best

    def _quotient(self, v: Tensor, step: float) -> Tensor:
        """Return the central difference quotient for one step."""
        raise NotImplementedError

    def within_memory(self, work: Callable[[], T]) -> T:
        """Do a pass over the data; where memory runs out the kept graphs go first, then the micro-batch halves."""
        return self.loss.data.within_memory(work, self._give_up_kept_graphs)

    def _give_up_kept_graphs(self) -> bool:
        """Free all kept graphs and keep no more; say whether there were any."""
        if not self._kept:
            return False
        self._kept.clear()
        self._budget = 0
        release(self.device)
        return True
