"""The step at which a function crosses its value at 0: a bracket by doubling or halving, narrowed by halving."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass


@dataclass(frozen=True)
class Crossing:
    """The smallest step found at which a function is above its start, between ``low`` (below it) and ``high`` (above).

    ``step`` is the middle of the bracket, ``None`` where one side was never met: ``high`` is ``None`` where the
    function stayed below, ``low`` is 0 where it stayed above. ``fall`` is the deepest fall below the start that was
    seen, and ``jumped`` says that the checks found an earlier crossing than the first bracket's.
    """

    step: float | None
    low: float
    high: float | None
    fall: float
    jumped: bool
    trials: list[tuple[float, float]]  # (step, value) in the order of the search


class _Trials:
    """Remembers what was tried; a value that is not a number counts as above."""

    def __init__(self, value: Callable[[float], float], start: float) -> None:
        self.value, self.start, self.seen = value, start, list[tuple[float, float]]()

    def above(self, step: float) -> bool:
        value = self.value(step)
        self.seen.append((step, value))
        return not value <= self.start

    def below(self, step: float) -> bool:
        """Return whether the value is truly below the start: a step too small to move the weights leaves it equal."""
        return not self.above(step) and self.seen[-1][1] < self.start


def first_crossing(
    value: Callable[[float], float], start: float, first_step: float, *, tol: float, most: int, checks: int
) -> Crossing:
    """Return where ``value(step)`` rises above ``start = value(0)``, searched for from ``first_step``.

    Doubles while the value is below, or halves while it is not, at most ``most`` times; then looks at ``checks`` steps
    evenly spread below the bracket, moving to an earlier crossing if one shows; then halves to ``1 - low/high <= tol``.
    What falls and rises again between two trials is not seen.

    >>> parabola = first_crossing(lambda step: step * step - 3 * step, 0.0, 1e-3, tol=1e-3, most=40, checks=8)
    >>> round(parabola.step, 2)
    3.0
    """
    trials = _Trials(value, start)
    low, high = _bracket(trials, first_step, most)
    jumped = False
    if low > 0 and high is not None:
        for step in [low * (i + 1) / (checks + 1) for i in range(checks)]:
            if trials.above(step):
                low, high = _bracket(trials, step, most)
                jumped = True
                break
        while low > 0 and high is not None and 1 - low / high > tol:
            middle = (low + high) / 2
            low, high = (low, middle) if trials.above(middle) else (middle, high)
    fall = max((start - v for _, v in trials.seen if v <= start), default=0.0)
    step = (low + high) / 2 if low > 0 and high is not None else None
    return Crossing(step, low, high, fall, jumped, trials.seen)


def _bracket(trials: _Trials, step: float, most: int) -> tuple[float, float | None]:
    """Return the largest step below and the smallest one above; 0 or ``None`` where there was none."""
    if trials.below(step):
        for _ in range(most):
            if trials.above(2 * step):
                return step, 2 * step
            step *= 2
        return step, None
    for _ in range(most):
        if trials.below(step / 2):
            return step / 2, step
        step /= 2
    return 0.0, step
