"""The gradients of single examples, or of single given batches, in chunks: never all of them at once."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn

from sharpness.data.batches import Batch, batch_length, cast, named_tensors, rebuilt, split
from sharpness.errors import InputError, unknown_name
from sharpness.loss import Loss
from sharpness.loss.graphs import Pieces
from sharpness.machine.distributed import is_distributed
from sharpness.machine.memory import free_memory

METHODS = ("auto", "vmap", "loop", "batches")
LARGEST_CHUNK = 32  # more examples at a time are hardly faster
LARGEST_BLOCK = 28 << 20
"""Bytes that one parameter's gradients may take in a chunk on a CPU.

glibc takes each block from 32 MiB on from the system and gives it back when it is freed, so that every page of the next
one is a fault: with 32 examples at a time the gradients of a ResNet-18 took twice as long as with three.
"""
CHUNK_SHARE = 0.4  # of the free memory that the gradients of a chunk may take, three times for a moment


class UnitGradients:
    """The gradient of each unit's own mean loss at ``w``, a unit being one example or one given batch.

    A penalty of the loss is part of each of them, as it is part of every step of training.

    ``vmap`` takes the examples of a chunk together (``torch.func.vmap`` over ``grad``), ``loop`` one after the other,
    ``batches`` takes the given batches as units, which is all there is where BatchNorm sees them (``norm='batch'``)
    or the loss is one of whole batches.
    ``auto`` is ``vmap``, and ``loop`` from the first chunk on that ``vmap`` cannot do; after the iteration ``method``
    says which it was and ``reason`` why. Examples that the criterion leaves out (ignored labels) are no units.

    Iterating gives chunks: for each parameter a tensor of shape ``(k, *shape)``, k at most ``chunk``, in the order of
    the data. Memory: about three times ``chunk`` vectors of n numbers, and for ``vmap`` the chunk's activations;
    ``chunk="auto"`` is 32, or as many as fit in 0.4 of the free memory, and on a CPU in 28 MiB for each parameter.

    ``weights`` (shape ``(M,)``, float64, on the CPU) are what each unit counts for, with mean ``num_examples / M``: the
    gradient of the loss is ``sum_b weights_b g_b / num_examples``. Raises :class:`InputError` for unknown methods, a
    chunk below 1, a criterion that sums, several processes, and fewer than two units.

    >>> x = torch.tensor([[1.0, 0.0], [0.0, 2.0]])
    >>> model = nn.Linear(2, 1, bias=False)
    >>> loss = Loss(model, lambda output, target: output.mean(), [(x, x)])
    >>> [gradient[:, 0] for (gradient,) in UnitGradients(loss, loss.weights)]
    [tensor([[1., 0.], [0., 2.]])]
    """

    def __init__(self, loss: Loss, w: Tensor, method: str = "auto", chunk: int | str = "auto") -> None:
        self._check(loss, method, chunk)
        self.loss, self.w = loss, loss.point(w)
        self.chunk = _fitting(self.w, max(loss.layout.numels)) if isinstance(chunk, str) else chunk
        self.method, self.reason, self._falls_back = method, "as asked", method == "auto"
        if method == "auto" and not loss.divisible:
            self.method = "batches"
            self.reason = (
                "with norm='batch' an example has no gradient apart from its batch"
                if loss.norm == "batch"
                else "in a loss of whole batches an example has no gradient apart from its batch"
            )
        elif method == "auto":
            self.method, self.reason = "vmap", "the network allows it"
        self._counts = [self._counts_of(batch) for batch in loss.batches]
        counts = torch.cat(self._counts)
        counts = counts[counts > 0]
        if len(counts) < 2:
            raise InputError(
                f"expected at least 2 {self.unit}{'es' if self.unit == 'batch' else 's'} that the loss counts, got "
                f"{len(counts)}: the noise is a difference between them, so give more"
            )
        self.num_examples = loss.num_examples if self.unit == "batch" else len(counts)
        self.weights = counts * (self.num_examples / counts.sum())

    @staticmethod
    def _check(loss: Loss, method: str, chunk: int | str) -> None:
        if method not in METHODS:
            raise unknown_name("method", method, METHODS)
        if not (chunk == "auto" or (isinstance(chunk, int) and chunk >= 1)):
            raise InputError(f"expected a chunk of 'auto' or at least 1 example, got {chunk!r}: 32 is usual")
        if loss.data.summed:
            raise InputError("expected a criterion that averages, got reduction='sum': use reduction='mean'")
        if is_distributed():
            raise InputError("expected one process for gradients of single examples, got several: run it without them")
        loss.check_differentiable()
        if not loss.divisible and method in ("vmap", "loop"):
            kind = "with norm='batch'" if loss.norm == "batch" else "for a loss of whole batches"
            raise InputError(f"expected method 'batches' {kind}, got {method!r}: no example has a gradient of its own")

    @property
    def unit(self) -> str:
        """The unit that the gradients belong to: ``example`` or ``batch``."""
        return "batch" if self.method == "batches" else "example"

    def _counts_of(self, batch: Batch) -> Tensor:
        """Return what the criterion's mean divides by for each unit of a batch; 0 for what it leaves out."""
        units = [batch] if self.unit == "batch" else split(batch, 1)
        return torch.tensor([float(self.loss.data.count(unit)) for unit in units], dtype=torch.float64)

    def __iter__(self) -> Iterator[Pieces]:
        for batch, counts in zip(self.loss.batches, self._counts, strict=True):
            if self.unit == "batch":
                if counts > 0:
                    yield self._looped([batch])
                continue
            for piece, kept in zip(split(batch, self.chunk), (counts > 0).split(self.chunk), strict=True):
                if kept.any():
                    yield self._of_examples(_chosen(piece, kept))

    def _of_examples(self, batch: Batch) -> Pieces:
        """Return the gradients of all examples of a batch, shapes ``(k, *shape)``."""
        if self.method != "loop":
            try:
                return self._mapped(batch)
            except RuntimeError as error:  # what vmap has no rule for, whether an operation, control flow or memory
                first = str(error).partition("\n")[0][:200]
                if not self._falls_back:
                    raise InputError(f"expected a network that vmap can map, got: {first}: use 'loop'") from error
                self.method, self.reason = "loop", f"vmap cannot: {first}"
        return self._looped(split(batch, 1))

    def _mapped(self, batch: Batch) -> Pieces:
        length = batch_length(batch)
        if any(tensor.ndim == 0 or len(tensor) != length for _, tensor in named_tensors(batch)):
            raise RuntimeError("the batch holds tensors that are not one entry per example")
        # Each example stays a batch, of one, so the network and the criterion see the shapes they are made for.
        ones = _tensors_changed(cast(batch, self.loss.device, self.loss.dtype), lambda tensor: tensor.unsqueeze(1))

        def value(pieces: Pieces, example: Batch) -> Tensor:
            return self.loss.at(pieces, partial(self._value, example))

        with self.loss.measuring():
            pieces = self.loss.pieces(self.w)
            gradients = torch.func.vmap(torch.func.grad(value), in_dims=(None, 0))(pieces, ones)
        if not self.loss.weight_decay:
            return gradients
        return tuple(g + self.loss.weight_decay * piece for g, piece in zip(gradients, pieces, strict=True))

    def _value(self, batch: Batch, model: nn.Module) -> Tensor:
        return self.loss.criterion_value(self.loss.forward(model, batch), batch)

    def _looped(self, units: list[Batch]) -> Pieces:
        rows = torch.zeros(len(units), len(self.w), dtype=self.loss.dtype, device=self.loss.device)
        for unit, row in zip(units, rows, strict=True):
            batch = cast(unit, self.loss.device, self.loss.dtype)
            leaves = self.loss.leaves(self.w, gradient=row)
            with self.loss.measuring(), torch.enable_grad():
                self.loss.at(leaves, partial(self._backward, batch))
        if self.loss.weight_decay:
            rows += self.loss.weight_decay * self.w
        return tuple(
            part.view(len(units), *shape)
            for part, shape in zip(rows.split(self.loss.layout.numels, dim=1), self.loss.layout.shapes, strict=True)
        )

    def _backward(self, batch: Batch, model: nn.Module) -> None:
        value = self._value(batch, model)
        if value.requires_grad:
            value.backward()


def _fitting(w: Tensor, largest: int) -> int:
    """Return how many examples a chunk takes, at least one, where the largest parameter has ``largest`` entries."""
    fitting = int(CHUNK_SHARE * free_memory(w.device)) // (3 * w.numel() * w.dtype.itemsize)
    if w.device.type == "cpu":
        fitting = min(fitting, LARGEST_BLOCK // (largest * w.dtype.itemsize))
    return max(1, min(LARGEST_CHUNK, fitting))


def _chosen(batch: Batch, kept: Tensor) -> Batch:
    """Return the examples of a batch that are marked, everything that is not one entry per example as it is."""
    length = len(kept)
    if kept.all():
        return batch
    return _tensors_changed(batch, lambda t: t[kept.to(t.device)] if t.ndim and len(t) == length else t)


def _tensors_changed(thing: Any, change: Callable[[Tensor], Tensor]) -> Any:
    if isinstance(thing, Tensor):
        return change(thing)
    return rebuilt(thing, lambda item: _tensors_changed(item, change))
