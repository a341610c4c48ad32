"""The data hold still: one pass takes order, content and counts, a second one must find the same."""

from __future__ import annotations

import contextlib
import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field

import torch
from torch import Tensor

from sharpness.data.batches import Batch, batch_length, copied, joined, targets_of
from sharpness.data.digests import batch_sha256
from sharpness.data.still import Still, cannot_move, refuse_loader, refuse_moving
from sharpness.errors import InputError
from sharpness.loss.counts import Count
from sharpness.machine.random_states import random_states_kept

MOST_SINGLES = 12


@dataclass
class Scan:
    """The finds of one pass over the data: the batches to measure, their sizes, counts by candidate, and odd ones.

    ``odd`` are at most three batches on which candidates for the count differ most or targets are extreme: where a
    mean that divides by something else shows.
    """

    batches: Iterable[Batch]
    said: str
    sizes: list[int] = field(default_factory=list)
    counts: dict[str, list[float]] = field(default_factory=dict)
    odd: list[Batch] = field(default_factory=list)

    def relative_counts_agree(self, names: Sequence[str]) -> bool:
        """Return whether these candidates give all batches the same shares of the mean."""
        shares = []
        for name in names:
            total = sum(self.counts[name])
            if total > 0 and math.isfinite(total):
                shares.append([count / total for count in self.counts[name]])
        return all(
            math.isclose(a, b, rel_tol=1e-9) for other in shares[1:] for a, b in zip(shares[0], other, strict=True)
        )


def scan(
    batches: Iterable[Batch], candidates: Mapping[str, Count], device: torch.device, *, freeze: bool = False
) -> Scan:
    """Return what a pass over the data finds, after a second pass that found the same.

    With ``freeze`` one pass is stored and measured as stored. Raises :class:`InputError` naming the culprit and the
    cure for shuffling, augmentation, dropped batches and one-shot generators.
    """
    with random_states_kept(device):
        if cannot_move(batches) or freeze:
            found = Scan(batches, "a list of batches")
            if not cannot_move(batches):
                found = Scan([copied(batch) for batch in batches], "one pass, stored once as asked")
            _look_through(found, candidates)
            return found
        refuse_loader(batches)
        found = Scan(Still(batches, device), "the same at two passes")
        first = _look_through(found, candidates, hashing=True)
        refuse_moving(batches, first, device)
    return found


def _look_through(found: Scan, candidates: Mapping[str, Count], hashing: bool = False) -> list[dict[str, str]]:
    """Take sizes, counts and odd batches in one pass, and return the hashes of the batches where asked."""
    hashes, extremes = [], dict[str, tuple[float, int, Batch]]()
    found.counts, singles = {name: [] for name in candidates}, list[Batch]()
    for number, batch in enumerate(found.batches):
        found.sizes.append(batch_length(batch))
        counts = {name: float(count(batch)) for name, count in candidates.items()}
        for name, counted in counts.items():
            found.counts[name].append(counted)
        scores = _scores(batch, list(counts.values())) | {"size": found.sizes[-1]} if found.sizes[-1] else {}
        if found.sizes[-1] == 1 and len(singles) < MOST_SINGLES:
            singles.append(batch)
        for what, score in scores.items():
            if what not in extremes or score > extremes[what][0]:
                extremes[what] = (score, number, batch)
        if hashing:
            hashes.append(batch_sha256(batch))
    largest = extremes.pop("size", (0, 0, None))
    if largest[0] > 1 and all(batch_length(batch) == 1 for _, _, batch in extremes.values()):
        extremes["size"] = largest  # one example alone cannot be cut
    odd = {number: batch for _, number, batch in extremes.values()}
    found.odd = _large_enough([*odd.values()], singles)
    return hashes


def _large_enough(odd: list[Batch], singles: list[Batch]) -> list[Batch]:
    """Return the odd batches, or batches of one example together, because one alone cannot be cut."""
    if len(singles) < 2 or any(batch_length(batch) > 1 for batch in odd):
        return odd
    with contextlib.suppress(InputError, RuntimeError, TypeError, ValueError):  # examples of several shapes stay apart
        return [joined(singles)]
    return odd


def _scores(batch: Batch, counts: list[float]) -> dict[str, float]:
    """Return how odd a batch is: how much the candidates for its count differ, its least and its largest target."""
    known = [count for count in counts if math.isfinite(count)]
    scores = {"counts": max(known, default=0.0) / max(min(known, default=0.0), 0.5)}
    targets = targets_of(batch)
    if isinstance(targets, Tensor) and targets.numel() and not targets.is_complex():
        low, high = torch.aminmax(targets)
        scores |= {"low": -float(low), "high": float(high)}
    return {what: score for what, score in scores.items() if not math.isnan(score)} or {"counts": 0.0}
