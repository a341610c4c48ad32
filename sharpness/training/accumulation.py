"""Gradient accumulation: a batch in pieces, whose gradients are added up, for the same step with less memory."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator

from torch import Tensor, nn

from sharpness.training.noise import NormWatch
from sharpness.training.order import TrainingBatch


def pieces_of(
    batch: TrainingBatch, count: int, network: nn.Module, watch: NormWatch
) -> Iterator[tuple[Tensor, Tensor, float]]:
    """Yield the inputs, the targets and the share ``n_i / n`` of each of ``count`` pieces of a batch.

    The caller adds the gradient of each piece to the parameters' before it takes the next one. The sum of ``n_i / n``
    times the mean losses of the pieces is the mean loss of the batch, so the sum of the gradients is that of one pass,
    to rounding. ``DistributedDataParallel`` averages over the processes once, after the last piece.
    """
    if count == 1:
        yield batch.inputs, batch.targets, 1.0
        return
    size = -(-len(batch.targets) // count)
    pieces = list(zip(batch.inputs.split(size), batch.targets.split(size), strict=True))
    no_sync = getattr(network, "no_sync", contextlib.nullcontext)
    for number, (inputs, targets) in enumerate(pieces, 1):
        share = len(targets) / len(batch.targets)
        watch.before_piece()
        with no_sync() if number < len(pieces) else contextlib.nullcontext():
            yield inputs, targets, share
        watch.after_piece(len(targets), share)
