"""The same loss in float64 on a few examples, where differences tell right from wrong derivatives and means."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, TypeVar

import torch
from torch import Tensor

from sharpness.data.batches import Batch, batch_length, is_example_list, named_tensors, taken, targets_of
from sharpness.machine.memory import free_memory, is_out_of_memory

if TYPE_CHECKING:
    from sharpness.loss.checked import CheckedLoss

T = TypeVar("T")
ROWS = (12, 4, 2)
"""Examples in a check, fewer where memory runs out: so few cost little, and the odd ones are among them."""
MEMORY_SHARE = 0.2  # of the free memory that a copy of all weights in float64 may take, five times


def precisions(loss: CheckedLoss) -> list[torch.dtype]:
    """Return the precisions to try a check in: float64 where the device and the memory have it, then the loss's own."""
    needed = 5 * 8 * (loss.layout.size + sum(t.numel() for t in loss.fixed_tensors()))
    fits = loss.device.type != "mps" and needed <= MEMORY_SHARE * free_memory(loss.device)
    return [torch.float64, loss.dtype] if fits and loss.dtype != torch.float64 else [loss.dtype]


def takes_parts(loss: CheckedLoss) -> bool:
    """Return whether a part of a batch will do for a check: with batch statistics it is another loss, but as good."""
    return loss.divisible or loss.norm == "batch"


def few(batch: Batch, most: int) -> Batch:
    """Return at most so many examples of a batch, those with the least and the largest targets, in order.

    >>> few((torch.zeros(99, 2), torch.arange(99)), 4)[1].tolist()
    [0, 1, 97, 98]
    """
    number = batch_length(batch)
    keys = _keys(batch, number)
    rows = sorted(range(number), key=lambda i: keys[i])
    if number > most:
        rows = rows[: most // 2] + rows[-(most // 2) :]
    return taken(batch, rows)


def _keys(batch: Batch, number: int) -> list[float]:
    """Return what the examples are sorted by: their mean target, or the size of what they hold."""
    targets = targets_of(batch)
    if is_example_list(targets):
        return [float(sum(len(t) for _, t in named_tensors(target) if t.ndim)) for target in targets]
    if isinstance(targets, Tensor) and targets.ndim and len(targets) == number and not targets.is_complex():
        return targets.detach().double().reshape(number, -1).mean(1).tolist()
    return [float(i) for i in range(number)]


def first_that_works(loss: CheckedLoss, test: Callable[[torch.dtype, int], T]) -> T:
    """Return what ``test(dtype, most)`` returns, in float64 if it can, on fewer examples where memory runs out.

    Raises what the last attempt raised.
    """
    dtypes = precisions(loss)
    for dtype in dtypes:
        for most in ROWS if takes_parts(loss) else ROWS[:1]:
            try:
                return test(dtype, most)
            except Exception as error:
                short_of_memory = is_out_of_memory(error)
                if dtype == dtypes[-1] and not (short_of_memory and takes_parts(loss) and most != ROWS[-1]):
                    raise
                if not short_of_memory:
                    break  # another precision may do: a network may hold float32 tensors of its own making
    raise AssertionError("unreachable")
