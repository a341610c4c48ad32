"""Refuse to measure what is not one function: data or a network that change between two passes."""

from __future__ import annotations

import torch

from sharpness.data.batches import cast, data_sha256, logits_of
from sharpness.errors import InputError
from sharpness.loss import Loss
from sharpness.loss.eval_mode import RUNNING_STATISTICS
from sharpness.machine.distributed import on_all_ranks
from sharpness.vectors import refuse_non_finite


def check_deterministic(loss: Loss) -> None:
    """Raise :class:`InputError` naming what makes the loss differ between two passes at the same weights.

    Refused are NaN or infinite weights, dropped batches (``drop_last``), shuffling or augmenting loaders, one-shot
    generators, and networks that draw random numbers in evaluation mode.
    """
    on_all_ranks(lambda: _check(loss))


def _check(loss: Loss) -> None:
    statistics = [(n, b) for n, b in loss.model.named_buffers() if n.rpartition(".")[2] in RUNNING_STATISTICS]
    named = [*loss.model.named_parameters(), *statistics]  # other buffers may hold infinity, as masks do
    refuse_non_finite("weights", named, "the training diverged or the file is damaged")
    if getattr(loss.batches, "drop_last", False):
        raise InputError("expected all the data, but the loader has drop_last=True: set drop_last=False")
    first, second = ([data_sha256([batch]) for batch in loss.batches] for _ in range(2))
    if not loss.data.num_batches:
        return  # this process has an empty shard; the others look at theirs
    if not first:
        raise InputError(
            "expected batches that can be read again, got none the second time: pass a list, not a generator"
        )
    if type(getattr(loss.batches, "sampler", None)).__name__ == "RandomSampler" or (
        first != second and sorted(first) == sorted(second)
    ):
        raise InputError(
            "expected the same order at every pass, but the loader shuffles: set shuffle=False or pass a list"
        )
    if first != second:
        raise InputError("expected the same inputs at every pass, got others: switch off augmentation or pass a list")
    batch = cast(next(iter(loss.batches)), loss.device, loss.dtype)
    with torch.no_grad(), loss.measuring():
        pieces = loss.pieces(loss.weights)
        one, two = (logits_of(loss.at(pieces, lambda model: loss.forward(model, batch))) for _ in range(2))
    if not torch.equal(one, two):
        raise InputError(
            "expected equal outputs for equal inputs, but the network draws random numbers in evaluation mode: "
            "switch off functional dropout or sampling in its forward()"
        )
