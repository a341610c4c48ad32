"""Autograd's graph of a gradient: its size in bytes, and clear errors where a second derivative is missing."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager

import torch
from torch import Tensor
from torch.autograd.graph import get_gradient_edge

from sharpness.errors import RunError

Pieces = Sequence[Tensor]
Product = Callable[[Pieces, bool], Pieces]

# What the messages of torch 2.13 have in common: kernels, compiled code, reentrant checkpoints, once_differentiable.
PHRASES = ("derivative for", "double backward", "not compatible with .grad", "donated buffers", "differentiate twice")


class MissingDerivativeError(RunError):
    """A network uses an operation that autograd cannot differentiate twice."""


@contextmanager
def needing_second_derivatives() -> Iterator[None]:
    """Turn autograd's complaint about a missing second derivative, and no other error, into one clear line."""
    try:
        yield
    except RuntimeError as error:
        first = str(error).partition("\n")[0]
        if isinstance(error, RunError) or not any(phrase in first for phrase in PHRASES):
            raise
        raise MissingDerivativeError(
            f"expected operations with a second derivative in the network, got: {first}: "
            "use finite differences (backend='finite_difference')"
        ) from error


# Nodes behind which weights or second derivatives hide: torch.autograd.grad skips them without an error.
HIDING = {
    "CheckpointFunctionBackward": "a checkpoint with use_reentrant=True: use use_reentrant=False",
    "torch::autograd::Error": "a function marked once_differentiable",
}


def refuse_hidden_derivatives(outputs: Sequence[Tensor]) -> None:
    """Raise :class:`MissingDerivativeError` where the graph of ``outputs`` holds a node that hides derivatives.

    ``torch.autograd.grad`` would return zeros for what lies behind it; ``backward()`` of first order sees all of it.
    """
    seen, stack = set(), [output.grad_fn for output in outputs]
    while stack:
        node = stack.pop()
        if node is None or node in seen:
            continue
        seen.add(node)
        for name, culprit in HIDING.items():
            if name in node.name():
                raise MissingDerivativeError(
                    f"expected a network that can be differentiated twice, got {culprit}, or use finite differences "
                    "(backend='finite_difference')"
                )
        stack += [following for following, _ in node.next_functions]


def nothing(v: Pieces, keep: bool) -> Pieces:
    """The product where nothing depends on the weights."""
    return ()


def derivative_along(pieces: Pieces, leaves: Pieces) -> Product:
    """Return ``v -> d <pieces, v> / d leaves``, holding the graph of the pieces but not their values."""
    refuse_hidden_derivatives(pieces)
    varying = [i for i, piece in enumerate(pieces) if piece.requires_grad]
    if not varying:
        return nothing  # a loss linear in the weights
    edges = [get_gradient_edge(pieces[i]) for i in varying]

    def product(v: Pieces, keep: bool) -> Pieces:
        vectors = [v[i] for i in varying]
        return torch.autograd.grad(edges, leaves, vectors, retain_graph=keep, materialize_grads=True)

    return product


class GraphSize:
    """Counts the bytes of every distinct storage that autograd saves while :meth:`watching`.

    Those of ``others``, which exist whatever is saved (weights, data), do not count.

    >>> x, size = torch.ones(8, requires_grad=True), GraphSize()
    >>> with size.watching():
    ...     y = (x * x).sum()
    >>> size.num_bytes                     # x, once
    32
    """

    def __init__(self, others: Iterable[Tensor] = ()) -> None:
        self._storages: dict[int, int] = {}
        self._excluded = {tensor.untyped_storage().data_ptr() for tensor in others if not tensor.is_sparse}

    @property
    def num_bytes(self) -> int:
        """Bytes of all saved storages together."""
        return sum(self._storages.values())

    @contextmanager
    def watching(self) -> Iterator[None]:
        """Record what is saved by operations inside, and refuse saved tensors that are later changed in place."""
        with torch.autograd.graph.saved_tensors_hooks(self._pack, _unchanged):
            yield

    def _pack(self, saved: Tensor) -> tuple[Tensor, int]:
        if saved.is_sparse:
            self._storages.setdefault(id(saved), saved._values().nbytes + saved._indices().nbytes)
            return saved.detach(), saved._version
        storage = saved.untyped_storage()
        if storage.data_ptr() not in self._excluded:
            self._storages.setdefault(storage.data_ptr(), storage.nbytes())
        # Detached, because a node that keeps its own output would keep itself alive; autograd attaches it again.
        return saved.detach(), saved._version


def _unchanged(packed: tuple[Tensor, int]) -> Tensor:
    """Return a saved tensor, refusing one that was changed in place: with hooks autograd leaves that check to us."""
    saved, version = packed
    if saved._version != version:
        raise RunError(
            "expected operations that leave the tensors that gradients need as they are, got one that changes such a "
            "tensor in place: write x = x + y instead of x.add_(y) in its forward()"
        )
    return saved


def add_pieces(total: Sequence[Tensor], pieces: Sequence[Tensor], share: float) -> None:
    """Add ``share`` times each piece to the matching view of a flat vector, in place."""
    for view, piece in zip(total, pieces, strict=True):
        view.add_(piece.detach(), alpha=share)
