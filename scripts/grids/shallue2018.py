"""The trials of a quasi-random search over learning rate and momentum: a shifted Halton sequence on log axes."""

from __future__ import annotations

import math
from dataclasses import dataclass, field

import numpy as np

from sharpness.config import DataConfig

PRIMES = (2, 3)
"""Bases of the Halton sequence, one for each number that is searched."""
NARROW = 0.25
"""The side of the box around the best trial, in sides of the whole box, on log axes."""


@dataclass(frozen=True)
class Space:
    """The ranges that are searched, uniformly in the logarithm: the effective rate ``lr / (1 - m)`` and ``1 - m``.

    Plain SGD has ``m = 0``, so that all optimisers are given the same range of effective rates. The authors search the
    rate itself; that box sheared is this one, and its corners are rates at which nothing trains.
    """

    rates: tuple[float, float] = (0.003, 4.0)
    one_minus_momentum: tuple[float, float] = (0.02, 0.5)


@dataclass(frozen=True)
class Workload:
    """A network, an optimiser and data, with the batch sizes and the goal that the searches are for.

    A trial has ``steps + examples / B`` updates at most to reach the held-out error ``goal``. The first of ``trials``
    are spread over the space, the others around the best one.
    """

    optimizer: str
    network: str
    data: DataConfig
    batches: tuple[int, ...]
    goal: float
    steps: int
    examples: int
    trials: tuple[int, ...]
    space: Space = field(default_factory=Space)

    def updates(self, batch_size: int) -> int:
        """Return the step budget at a batch size."""
        return self.steps + math.ceil(self.examples / batch_size)


def radical_inverse(number: int, base: int) -> float:
    """Return the digits of a number mirrored at the point: 6 = 110 in base 2 gives 0.011 = 3/8 (van der Corput).

    >>> [radical_inverse(n, 2) for n in (1, 2, 6)]
    [0.5, 0.25, 0.375]
    """
    value, scale = 0.0, 1.0
    while number:
        number, digit = divmod(number, base)
        scale /= base
        value += digit * scale
    return value


def quasi_random(space: Space, with_momentum: bool, trials: int, seed: int) -> list[tuple[float, float]]:
    """Return (learning rate, momentum) of each trial: a Halton sequence, shifted at random modulo 1, on log axes.

    The shift (Cranley and Patterson 1976) makes searches of other seeds independent of this one. Four digits are kept.

    >>> [rate for rate, _ in quasi_random(Space(rates=(1.0, 1.0)), False, 2, seed=0)]
    [1.0, 1.0]
    """
    shift = np.random.default_rng(seed).random(len(PRIMES))
    found = []
    for number in range(1, trials + 1):
        place = [(radical_inverse(number, base) + s) % 1 for base, s in zip(PRIMES, shift, strict=True)]
        ranges = (space.rates, space.one_minus_momentum)
        rate, rest = (low * (high / low) ** u for (low, high), u in zip(ranges, place, strict=True))
        rest = float(f"{rest:.4g}") if with_momentum else 1.0
        found.append((float(f"{rate * rest:.4g}"), round(1 - rest, 8)))
    return found


def narrowed(space: Space, effective_rate: float, one_minus_momentum: float) -> Space:
    """Return the box around a trial, a quarter as long on each side of the log axes and inside the whole one.

    >>> narrowed(Space((0.01, 100.0), (0.1, 0.1)), 1.0, 0.1).rates
    (0.3162, 3.162)
    >>> narrowed(Space((0.01, 100.0), (0.1, 0.1)), 0.01, 0.1).rates
    (0.01, 0.1)
    """
    rates, rest = space.rates, space.one_minus_momentum
    return Space(_side(*rates, effective_rate), _side(*rest, one_minus_momentum))


def _side(low: float, high: float, centre: float) -> tuple[float, float]:
    length = (high / low) ** NARROW
    start = min(max(centre / math.sqrt(length), low), high / length)
    return float(f"{start:.4g}"), float(f"{start * length:.4g}")
