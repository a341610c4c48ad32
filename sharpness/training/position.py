"""The position of a run between two updates, and the sums of its epoch in progress."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import Any

import torch
from torch import Tensor

from sharpness.machine.distributed import is_distributed, rank, sum_over_ranks


@dataclass(frozen=True)
class Position:
    """The updates done, the epoch in progress (from 1), the examples of it that were seen, and those seen in all."""

    update: int = 0
    epoch: int = 1
    seen: int = 0
    examples: int = 0
    seconds: float = 0.0
    batch: int | None = None  # the size that the noise scale asks for
    best_loss: float | None = None  # of whole epochs, and how many have gone by without a better one
    stale: int = 0
    log_rows: int = 0
    measure_rows: int = 0

    def after(self, size: int, total: int) -> Position:
        """Return the position after an update of ``size`` examples in an epoch of ``total``.

        >>> at = Position(update=3, epoch=2, seen=96, examples=200).after(4, 100)
        >>> at.update, at.epoch, at.seen, at.examples
        (4, 3, 0, 204)
        """
        at = replace(self, update=self.update + 1, seen=self.seen + size, examples=self.examples + size)
        return replace(at, epoch=at.epoch + 1, seen=0) if at.seen == total else at

    @classmethod
    def from_state(cls, state: Mapping[str, Any]) -> Position:
        """Return a saved position, also one of an older version that had more fields.

        >>> Position.from_state({"update": 3, "slot": 0})
        Position(update=3, epoch=1, seen=0, examples=0, seconds=0.0, batch=None, best_loss=None, stale=0, ...)
        """
        return cls(**{name: value for name, value in state.items() if name in cls.__dataclass_fields__})

    def epochs_done(self, total: int) -> float:
        """Return the epochs done, a fraction inside one."""
        return self.epoch - 1 + self.seen / total


@dataclass
class EpochSums:
    """Losses and right answers of the updates of the epoch in progress, kept on the device until they are asked for."""

    losses: list[Tensor] = field(default_factory=list)
    right: list[Tensor] = field(default_factory=list)
    sizes: list[int] = field(default_factory=list)

    def add(self, loss: Tensor, right: Tensor, size: int) -> None:
        """Take in one update."""
        self.losses.append(loss)
        self.right.append(right)
        self.sizes.append(size)

    def clear(self) -> None:
        """Forget the epoch."""
        self.losses, self.right, self.sizes = [], [], []

    def gather(self) -> None:
        """Put the shares of all processes together, on every one, which then decide alike; call it on all at once.

        Whoever goes on adding to the epoch after it calls :meth:`count_once` first.
        """
        if is_distributed() and self.losses:
            losses, right = torch.stack(self.losses), torch.stack(self.right)
            self.losses = list(sum_over_ranks(losses))
            self.right = list(sum_over_ranks(right))

    def count_once(self) -> None:
        """Leave what is together to the first process, so that it is not added again."""
        if rank():
            self.losses = [torch.zeros_like(loss) for loss in self.losses]
            self.right = [torch.zeros_like(each) for each in self.right]

    def first_non_finite(self) -> int | None:
        """Return the number, from 1, of the first update of the epoch whose loss is not finite."""
        finite = torch.isfinite(torch.stack(self.losses)) if self.losses else torch.ones(1, dtype=torch.bool)
        return None if bool(finite.all()) else int(finite.int().argmin()) + 1

    def means(self, predictions: int = 1) -> tuple[float, float]:
        """Return mean loss and accuracy over the examples of the epoch so far, each at the weights of its update.

        An example has so many ``predictions``, each right or wrong.
        """
        sizes = torch.tensor(self.sizes)
        share = sizes / sizes.sum()
        losses = torch.stack(self.losses).cpu().double()
        return float(share.to(losses) @ losses), int(torch.stack(self.right).sum()) / (predictions * int(sizes.sum()))

    def state_dict(self) -> dict[str, Any]:
        """Return the state that a stopped run goes on from."""
        if not self.losses:
            return {"losses": torch.zeros(0), "right": torch.zeros(0), "sizes": []}
        return {
            "losses": torch.stack(self.losses).cpu(),
            "right": torch.stack(self.right).cpu(),
            "sizes": list(self.sizes),
        }

    def load_state_dict(self, state: Mapping[str, Any], device: torch.device) -> None:
        """Go on from a state, whose sums are those of all processes: they count once."""
        one = 0 if rank() else 1
        self.losses, self.right = list(one * state["losses"].to(device)), list(one * state["right"].to(device))
        self.sizes = list(state["sizes"])
