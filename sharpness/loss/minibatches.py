"""Random batches of the data of a loss, drawn without replacement, as training would see them."""

from __future__ import annotations

import torch
from torch import Tensor

from sharpness.data.batches import Batch, joined, taken
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
        if not loss.divisible and loss.norm != "batch" and self.size < self.total:
            raise InputError(
                "expected a loss whose batches can be made of any examples, got one of whole batches: this probe draws "
                "batches at random, and there is none for such a loss"
            )
        batches = list(loss.batches)
        self._whole = joined(batches)

    def rows(self, seed: int, name: str, index: int) -> Tensor:
        """Return the ``size`` different rows of random batch ``index``, ascending."""
        generator = torch.Generator().manual_seed(derived_seed(seed, name, index))
        return torch.randperm(self.total, generator=generator)[: self.size].sort().values

    def draw(self, seed: int, name: str, index: int) -> Loss:
        """Return the loss over random batch ``index`` of a stream of its own."""
        return self.loss.over([taken(self._whole, self.rows(seed, name, index).tolist())])

    def parts(self, number: int, seed: int, name: str) -> list[Batch]:
        """Return all examples in ``number`` random parts without overlap, whose sizes differ by one at most."""
        generator = torch.Generator().manual_seed(derived_seed(seed, name))
        shares = torch.randperm(self.total, generator=generator).tensor_split(number)
        return [taken(self._whole, rows.sort().values.tolist()) for rows in shares]
