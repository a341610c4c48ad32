"""The largest number at which something stays below its level: doubling or halving, then halving the bracket."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass

from sharpness.errors import InputError


@dataclass(frozen=True)
class Bracket:
    """The largest number found that is not above the level, and the smallest that is; ``None`` for an open side."""

    low: float | None
    high: float | None

    @property
    def closed(self) -> bool:
        """True where both sides were met."""
        return self.low is not None and self.high is not None


def bracket(above: Callable[[float], bool], first: float, *, rtol: float, most: int) -> Bracket:
    """Return numbers with ``high <= (1 + rtol) low`` between which ``above`` turns true, searched for from ``first``.

    Doubles or halves at most ``most`` times. For an ``above`` that turns back in between, it is one of the places.

    >>> bracket(lambda x: x * x > 2, 1e-2, rtol=1e-3, most=40)
    Bracket(low=1.41..., high=1.41...)
    >>> bracket(lambda x: True, 1.0, rtol=1e-3, most=2)
    Bracket(low=None, high=0.25)
    """
    low, high = (None, first) if above(first) else (first, None)
    for _ in range(most):
        if low is not None and high is not None:
            break
        step = 2 * low if low is not None else high / 2 if high is not None else first
        low, high = (low, step) if above(step) else (step, high)
    while low is not None and high is not None and high > (1 + rtol) * low:
        middle = math.sqrt(low * high)
        low, high = (low, middle) if above(middle) else (middle, high)
    return Bracket(low, high)


def check_search(rise: float, first: float, rtol: float, most: int) -> None:
    """Raise :class:`InputError` for a rise, a first number, a tolerance or a number of doublings that cannot be."""
    if not (rise > 0 and math.isfinite(rise)):
        raise InputError(f"expected a positive rise of the loss, got {rise}: 0.1 is usual")
    if not (first > 0 and math.isfinite(first)):
        raise InputError(f"expected a positive number to search from, got {first}: leave it out")
    if not rtol > 0:
        raise InputError(f"expected a positive rtol, got {rtol}: 1e-2 is usual")
    if most < 1:
        raise InputError(f"expected at least 1 doubling, got most={most}: 40 is usual")
