"""Random batches of the data of a loss, drawn without replacement, as training would see them."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor

from sharpness.data.batches import Batch, batch_length
from sharpness.errors import InputError
from sharpness.loss import Loss
from sharpness.machine.distributed import is_distributed
from sharpness.machine.environment import derived_seed


class Minibatches:
    """The examples of a loss in one place, and losses over random rows of them.

    ``size`` is the number of examples in each, by default that of the loss's largest batch. All examples are held in
    memory once. Raises :class:`InputError` for a size that is not from 1 to N, batches that cannot be joined, and
    under ``torch.distributed``.

    >>> batches = [(torch.arange(3.0).view(3, 1), torch.zeros(3, 1)), (torch.ones(1, 1), torch.zeros(1, 1))]
    >>> loss = Loss(torch.nn.Linear(1, 1), torch.nn.functional.mse_loss, batches)
    >>> Minibatches(loss, 2).rows(0, "doctest", 0).tolist(), Minibatches(loss).size
    ([1, 2], 3)
    """

    def __init__(self, loss: Loss, size: int | None = None) -> None:
        if is_distributed():
            raise InputError("expected one process to draw random batches, got several: start one without torchrun")
        self.loss, self.total = loss, loss.num_examples
        self.size = max(loss.data.batch_sizes) if size is None else size
        if not 1 <= self.size <= self.total:
            raise InputError(f"expected a batch size from 1 to {self.total}, got {size}: there are no more examples")
        batches = list(loss.batches)
        self._whole = _joined(batches, [batch_length(batch) for batch in batches])

    def rows(self, seed: int, name: str, index: int) -> Tensor:
        """Return the ``size`` different rows of random batch ``index``, ascending."""
        generator = torch.Generator().manual_seed(derived_seed(seed, name, index))
        return torch.randperm(self.total, generator=generator)[: self.size].sort().values

    def draw(self, seed: int, name: str, index: int) -> Loss:
        """Return the loss over random batch ``index`` of a stream of its own."""
        return self.loss.over([_taken(self._whole, self.rows(seed, name, index), self.total)])

    def parts(self, number: int, seed: int, name: str) -> list[Batch]:
        """Return all examples in ``number`` random parts without overlap, whose sizes differ by one at most."""
        generator = torch.Generator().manual_seed(derived_seed(seed, name))
        shares = torch.randperm(self.total, generator=generator).tensor_split(number)
        return [_taken(self._whole, rows.sort().values, self.total) for rows in shares]


def _joined(things: list[Any], lengths: list[int]) -> Any:
    """Return batches end to end; what has no entry per example must be the same in all and goes along."""
    first = things[0]
    if isinstance(first, Tensor):
        if all(thing.ndim and len(thing) == length for thing, length in zip(things, lengths, strict=True)):
            if len({(thing.shape[1:], thing.dtype) for thing in things}) > 1:
                shapes = ", ".join(sorted({str(tuple(thing.shape[1:])) for thing in things}))
                raise InputError(f"expected examples of one shape to draw batches from, got {shapes}: pad them alike")
            return torch.cat(things)
        if not all(torch.equal(first, thing) for thing in things):
            raise InputError("expected tensors with an entry per example to draw batches from, got others that differ")
        return first
    if isinstance(first, Mapping):
        return {key: _joined([thing[key] for thing in things], lengths) for key in first}
    if isinstance(first, list | tuple):
        items = [_joined(list(parts), lengths) for parts in zip(*things, strict=True)]
        return type(first)(*items) if hasattr(first, "_fields") else type(first)(items)
    return first


def _taken(thing: Any, rows: Tensor, total: int) -> Any:
    """Return these rows of everything in joined batches that has an entry per example."""
    if isinstance(thing, Tensor):
        return thing[rows.to(thing.device)] if thing.ndim and len(thing) == total else thing
    if isinstance(thing, Mapping):
        return {key: _taken(value, rows, total) for key, value in thing.items()}
    if isinstance(thing, list | tuple):
        items = [_taken(item, rows, total) for item in thing]
        return type(thing)(*items) if hasattr(thing, "_fields") else type(thing)(items)
    return thing
