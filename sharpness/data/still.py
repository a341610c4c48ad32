"""Data that hold still: a second pass, from another random state, finds what the first one found."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from typing import Any

import torch

from sharpness.data.batches import Batch, copied
from sharpness.data.dataset import Batches
from sharpness.data.digests import batch_sha256
from sharpness.errors import InputError
from sharpness.machine.random_states import random_states_kept, seed_everything

Hashes = dict[str, str]
OTHER_SEED = 20171
"""The second pass draws from another random state than the first, so that whatever draws anything differs."""
STORE = "have one pass stored with freeze=True (--freeze)"


def cannot_move(batches: Iterable[Batch]) -> bool:
    """Return whether batches are a list, or the batches of a dataset of ours, which are the same at every pass.

    >>> cannot_move([(torch.zeros(1), torch.zeros(1))]), cannot_move(iter([]))
    (True, False)
    """
    return type(batches) in (list, tuple, Batches)


def refuse_moving(batches: Iterable[Batch], first: Sequence[Hashes], device: torch.device) -> None:
    """Raise :class:`InputError`, naming the culprit and the cure, unless another pass gives the hashes of the first."""
    with random_states_kept(device):
        seed_everything(OTHER_SEED)
        second = [batch_sha256(batch) for batch in batches]
    if second == list(first):
        return
    if not second:
        raise InputError(
            f"expected batches that can be read again, got none the second time (a generator?): pass a list, or {STORE}"
        )
    if sorted(map(str, first)) == sorted(map(str, second)):
        raise InputError(_shuffling())
    if len(first) != len(second):
        raise InputError(
            f"expected the same batches at every pass, got {len(first)} and then {len(second)}: pass a list, or {STORE}"
        )
    one, two = next((a, b) for a, b in zip(first, second, strict=True) if a != b)
    changed = sorted(path for path in one.keys() | two.keys() if one.get(path) != two.get(path))
    raise InputError(
        f"expected the same data at every pass, got others in {', '.join(changed[:3])}: switch off shuffling, "
        f"augmentation and random masks, pass a list, or {STORE}"
    )


def refuse_loader(batches: Any) -> None:
    """Raise :class:`InputError` for a loader that shuffles or leaves examples out, by what it says of itself."""
    if getattr(batches, "drop_last", False):
        raise InputError(f"expected all the data, but the loader has drop_last=True: set drop_last=False, or {STORE}")
    if type(getattr(batches, "sampler", None)).__name__ in ("RandomSampler", "WeightedRandomSampler"):
        raise InputError(_shuffling())


def _shuffling() -> str:
    return f"expected the same order at every pass, but the loader shuffles: set shuffle=False, pass a list, or {STORE}"


class Still:
    """Batches of a loader whose passes leave the global random states alone, from which it draws a seed each time.

    They are copies: some loaders fill the same memory with every batch, and graphs and solves keep batches.

    >>> list(Still(iter([1, 2]), torch.device("cpu")))
    [1, 2]
    """

    def __init__(self, batches: Iterable[Batch], device: torch.device) -> None:
        self.batches, self.device = batches, device

    def __iter__(self) -> Iterator[Batch]:
        with random_states_kept(self.device):
            left = iter(self.batches)
        while True:
            with random_states_kept(self.device):
                try:
                    batch = next(left)
                except StopIteration:
                    return
            yield copied(batch)
