"""The data of a loss, cut to what fits in memory, each piece with its share of the mean over all processes."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import TypeVar

import torch

from sharpness.data.batches import Batch, batch_length, cast, copied, split
from sharpness.data.digests import example_digests, sha256_of_digests
from sharpness.errors import InputError, RunError
from sharpness.machine.distributed import from_all_ranks, is_distributed, on_all_ranks
from sharpness.machine.memory import is_out_of_memory, release

T = TypeVar("T")


@dataclass(frozen=True)
class MicroBatch:
    """Examples that go through the network together, and what they count for in the mean over all the data."""

    batch: Batch
    share: float  # of the mean
    count: float  # what the criterion divides by
    first_example: int  # position of the first one in the data, over all processes


class WeightedData:
    """This process's batches with their shares ``c_b / sum_b c_b``, the sum over all processes.

    ``divisible`` says that a batch may be cut without changing the loss, which it is where memory runs out. With
    ``summed`` the criterion gives sums: every share and count is 1. ``copied`` batches are copies, for networks that
    change their inputs in place. ``sizes`` and ``counts`` of the batches save a pass over the data.

    >>> batch = (torch.zeros(3, 2), torch.zeros(3))
    >>> data = WeightedData([batch, batch], batch_length, torch.device("cpu"), torch.float32, divisible=True)
    >>> data.micro_batch_size = 2
    >>> [(micro.first_example, round(micro.share, 3)) for micro in data.micro_batches()]
    [(0, 0.333), (2, 0.167), (3, 0.333), (5, 0.167)]
    """

    def __init__(
        self,
        batches: Iterable[Batch],
        count: Callable[[Batch], float],
        device: torch.device,
        dtype: torch.dtype,
        *,
        divisible: bool,
        summed: bool = False,
        copied: bool = False,
        sizes: Sequence[int] | None = None,
        counts: Sequence[float] | None = None,
    ) -> None:
        self.batches, self.count, self.device, self.dtype = batches, count, device, dtype
        self.divisible, self.summed, self.copied = divisible, summed, copied
        self._sha256: str | None = None
        if sizes is None or counts is None:
            found = [(batch_length(batch), float(count(batch))) for batch in batches]
            sizes, counts = [size for size, _ in found], [counted for _, counted in found]
        self._sizes, self._counts = list(sizes), list(counts)
        shards = from_all_ranks((self._sizes, sum(self._counts)))
        rank = torch.distributed.get_rank() if is_distributed() else 0
        self.batch_sizes = tuple(size for sizes, _ in shards for size in sizes)
        self.micro_batch_size = max(self._sizes, default=1)
        self._total = sum(counted for _, counted in shards)
        self._first_example = sum(sum(sizes) for sizes, _ in shards[:rank])
        if self._total <= 0:
            raise InputError("expected at least one batch with an example to average over, got none: check the data")

    @property
    def num_batches(self) -> int:
        """Number of batches of this process."""
        return len(self._sizes)

    def micro_batches(self) -> Iterator[MicroBatch]:
        """Yield the data on the device in the loss's dtype, cut to what fits in memory; refuse other batches."""
        number, first = 0, self._first_example
        for number, batch in enumerate(self.batches, 1):
            if number > len(self._counts) or batch_length(batch) != self._sizes[number - 1]:
                break
            pieces = split(batch, self.micro_batch_size)
            for piece in pieces:
                count = self._counts[number - 1] if len(pieces) == 1 else float(self.count(piece))
                if count > 0:  # the mean over nothing is not a number
                    share, count = (1.0, 1.0) if self.summed else (count / self._total, count)
                    ready = cast(piece, self.device, self.dtype)
                    yield MicroBatch(copied(ready) if self.copied else ready, share, count, first)
                first += batch_length(piece)
        else:
            if number == len(self._counts):
                return
        raise InputError(
            f"expected the same {len(self._counts)} batches at every pass, got others: pass a list or shuffle=False"
        )

    def over(self, batches: Iterable[Batch]) -> WeightedData:
        """Return other batches with the same count, cut and copied alike."""
        return WeightedData(
            batches,
            self.count,
            self.device,
            self.dtype,
            divisible=self.divisible,
            summed=self.summed,
            copied=self.copied,
        )

    def within_memory(self, work: Callable[[], T], give_up: Callable[[], bool] = lambda: False) -> T:
        """Return what ``work``, a whole pass over the data, returns; do it again with smaller batches if it must be.

        Before that ``give_up`` may free what it can do without, and says whether it did. Where ``work`` fails on one
        process it fails on all.
        """
        return on_all_ranks(lambda: self._retried(work, give_up))

    def _retried(self, work: Callable[[], T], give_up: Callable[[], bool]) -> T:
        while True:
            try:
                return work()
            except (RuntimeError, MemoryError) as error:
                if not is_out_of_memory(error):
                    raise
            if not give_up():  # outside the handler, where the traceback would hold the tensors of the failed pass
                self.halve()

    def halve(self) -> None:
        """Halve the micro-batch, or raise :class:`RunError` where that is impossible or would change the loss."""
        size = self.micro_batch_size
        release(self.device)
        if not self.divisible:
            raise RunError(
                f"expected {size} examples at a time to fit in memory, they do not, and a part of a batch is another "
                "loss here (norm='batch', or a loss of whole batches): give smaller batches and say so, or more memory"
            )
        if size == 1:
            raise RunError(
                "expected one example at a time to fit in memory, it does not: use a larger device, or for curvature "
                "over long sequences --fused with --NAME.backend finite_difference (fused=True of the loss, "
                "backend='finite_difference' of the probe), which keep no matrix of attention"
            )
        self.micro_batch_size = size // 2

    def sha256(self) -> str:
        """Return the SHA-256 of the data in order, whatever the split into batches and consecutive shards."""
        if self._sha256 is None:  # the same batches at every pass, or micro_batches would have refused them
            self._sha256 = sha256_of_digests(from_all_ranks(example_digests(self.batches)))
        return self._sha256
