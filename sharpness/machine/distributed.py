"""Sums over the processes of ``torch.distributed``, each of which holds a shard of the data; one process is the sum.

Nothing here starts processes: ``torchrun`` and ``torch.distributed.init_process_group`` do. Every process must make the
same calls in the same order, on the same kind of machine with the same number of threads: each does the small algebra
of the algorithms by itself, and rounding must not make one of them stop before the others.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any, TypeVar

import torch
import torch.distributed as dist
from torch import Tensor

from sharpness.errors import RunError

T = TypeVar("T")


_alone = False


@contextmanager
def locally() -> Iterator[None]:
    """Compute as if this process were alone, for checks of its own shard that others need not join.

    >>> with locally():
    ...     is_distributed()
    False
    """
    global _alone
    before, _alone = _alone, True
    try:
        yield
    finally:
        _alone = before


def is_distributed() -> bool:
    """Say whether this process is one of several."""
    return not _alone and dist.is_available() and dist.is_initialized() and dist.get_world_size() > 1


def rank() -> int:
    """Return the number of this process, 0 where it is alone.

    >>> rank()
    0
    """
    return dist.get_rank() if is_distributed() else 0


def num_ranks() -> int:
    """Return the number of processes.

    >>> num_ranks()
    1
    """
    return dist.get_world_size() if is_distributed() else 1


def sum_over_ranks(tensor: Tensor) -> Tensor:
    """Replace a tensor by its sum over all processes, in place, and return it.

    >>> sum_over_ranks(torch.tensor([1.0, 2.0]))
    tensor([1., 2.])
    """
    if is_distributed():
        dist.all_reduce(tensor)
    return tensor


def sums_over_ranks(*numbers: float, device: torch.device) -> tuple[float, ...]:
    """Return the sums of some numbers over all processes, in float64 (float32 on MPS, which has no float64).

    >>> sums_over_ranks(1, 2.5, device=torch.device("cpu"))
    (1.0, 2.5)
    """
    dtype = torch.float32 if device.type == "mps" else torch.float64
    return tuple(sum_over_ranks(torch.tensor(numbers, dtype=dtype, device=device)).tolist())


def from_all_ranks(thing: Any) -> list[Any]:
    """Return a picklable object of every process, in the order of the ranks.

    >>> from_all_ranks("shard")
    ['shard']
    """
    if not is_distributed():
        return [thing]
    things: list[Any] = [None] * dist.get_world_size()
    dist.all_gather_object(things, thing)
    return things


def on_all_ranks(work: Callable[[], T]) -> T:
    """Return what ``work`` returns; where it fails on one process, raise on all, so that none waits for ever.

    The process that failed raises its own error, the others a :class:`RunError` that names it.

    >>> on_all_ranks(lambda: 1)
    1
    """
    if not is_distributed():
        return work()
    result, failure = None, None
    try:
        result = work()
    except Exception as error:
        failure = error
    messages = from_all_ranks(None if failure is None else f"{type(failure).__name__}: {failure}")
    if failure is not None:
        raise failure
    for rank, message in enumerate(messages):
        if message is not None:
            raise RunError(f"expected every process to go on, process {rank} failed with {message}")
    return result  # type: ignore[return-value]
