"""A plan of how often and on how many examples: quantities take turns, each when paid for, on a share of a batch."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from sharpness.training.tracker.clock import Clock
from sharpness.training.tracker.quantities import QUANTITIES

PERIOD = 100.0
"""Training steps in which every quantity is to have its turn, if a share of a batch can buy that."""
FIRST_SHARE, LEAST_SHARE, LARGEST_SHARE = 0.25, 0.125, 4.0
"""Shares of a batch: the first, so that there is something to see soon, and the bounds."""
LEAST_EXAMPLES = 32
SETUP = 8.0
"""What the first look at model, loss and data takes, in training steps."""


@dataclass(frozen=True)
class Cost:
    """The cost of a measurement, and its number of examples."""

    seconds: float
    examples: int


class Plan:
    """The turns of the quantities: the next one waits until the overhead pays for what it took last time.

    After each round the share of a batch is doubled where two rounds would fit into :data:`PERIOD` steps, and halved
    where half a round does not.
    """

    def __init__(self, quantities: Sequence[str], clock: Clock) -> None:
        self.quantities, self.clock = quantities, clock
        self.share, self._turn = FIRST_SHARE, 0
        self._costs = dict[str, Cost]()

    @property
    def next(self) -> str:
        """The quantity whose turn it is."""
        return self.quantities[self._turn]

    def examples(self, name: str, batch: int) -> int:
        """Return on how many examples a quantity is to be measured where a batch has so many."""
        quantity = QUANTITIES[name]
        if quantity.whole:
            return batch
        return max(min(LEAST_EXAMPLES, batch), round(batch * min(self.share, LARGEST_SHARE if quantity.kept else 1)))

    def may_be_paid_for(self, more: float = 0.0) -> bool:
        """Return whether what the next measurement took last time, and some more, stays within the overhead."""
        cost = self._costs.get(self.next)
        if cost is not None:
            return self.clock.affords(cost.seconds + more)
        steps = QUANTITIES[self.next].steps + (0 if self._costs else SETUP)
        return self.clock.affords(steps * self.clock.step_seconds)

    def is_paid_for(self, examples: int) -> bool:
        """Return whether the next measurement, on so many examples, stays within the overhead."""
        cost = self._costs.get(self.next)
        more = 0.0 if cost is None else cost.seconds * max(0.0, examples / cost.examples - 1)
        return self.may_be_paid_for(more)

    def done(self, seconds: float, examples: int) -> None:
        """Note what the measurement of the next quantity took, and go on to the one after it."""
        self._costs[self.next] = Cost(seconds, examples)
        self._turn = (self._turn + 1) % len(self.quantities)
        if self._turn == 0:
            self._adapt()

    def _adapt(self) -> None:
        paid = self.clock.overhead * self.clock.step_seconds  # a step
        period = sum(cost.seconds for cost in self._costs.values()) / paid
        if period > 2 * PERIOD:
            self.share = max(LEAST_SHARE, self.share / 2)
        elif period < PERIOD / 2:
            self.share = min(LARGEST_SHARE, self.share * 2)
