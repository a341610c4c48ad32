"""SciPy's L-BFGS-B in a box that is given as an array, which its public function reads number by number."""

from __future__ import annotations

import importlib
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
import scipy
from scipy.optimize import fmin_l_bfgs_b

Array = np.ndarray
Objective = Callable[[Array], tuple[float, Array]]

STEPPED = ("1.15", "1.16", "1.17", "1.18")
"""Versions of SciPy whose routine is stepped here: it is private, so others are called as they offer it."""

CORRECTIONS, SEARCH = 10, 20  # SciPy's own defaults: pairs kept, and evaluations of one line search
NEW_POINT, EVALUATE, CONVERGED = 1, 3, 4  # what the routine says it has or wants: task[0]
TOO_MANY_EVALUATIONS, TOO_MANY_ITERATIONS = (5, 502), (5, 504)  # what it is told to stop by


@dataclass(frozen=True)
class LastPoint:
    """The end of a search: the last point, the value there, iterations, and SciPy's word and flag (0: converged)."""

    point: Array
    value: float
    num_iterations: int
    message: str
    flag: int


def maximise(evaluate: Objective, start: Array, half_width: Array, num_iterations: int) -> LastPoint:
    """Run L-BFGS-B uphill from ``start`` in ``|z_i| <= half_width_i`` for so many iterations, with tolerances of 0.

    ``evaluate`` returns the value and the gradient, shape (n,), float64. SciPy's public function makes Python objects
    of every bound and looks at each by itself, about 5 us and 150 bytes a coordinate, for 11 million weights a minute
    before the first step. So its routine is called step by step where its version is one of ``STEPPED``, to the same
    bits. The box is finite on both sides.

    >>> found = maximise(lambda z: (float(z.sum()), np.ones(2)), np.zeros(2), np.full(2, 0.5), 5)
    >>> found.point.tolist(), found.value, found.flag
    ([0.5, 0.5], 1.0, 0)
    """
    search = stepped if scipy.__version__.rpartition(".")[0] in STEPPED else public
    return search(lambda z: _negative(*evaluate(z)), start, half_width, num_iterations)


def _negative(value: float, gradient: Array) -> tuple[float, Array]:
    return -value, -gradient


def public(downhill: Objective, start: Array, half_width: Array, num_iterations: int) -> LastPoint:
    """Run the search by SciPy's public function."""
    point, lowest, facts = fmin_l_bfgs_b(
        downhill,
        start,
        # A list of plain floats, which SciPy would make of a Bounds object one number at a time.
        bounds=list(zip((-half_width).tolist(), half_width.tolist(), strict=True)),
        m=CORRECTIONS,
        maxiter=num_iterations,
        maxfun=SEARCH * num_iterations,
        maxls=SEARCH,
        factr=0.0,
        pgtol=0.0,
    )
    return LastPoint(point, -float(lowest), int(facts["nit"]), str(facts["task"]), int(facts["warnflag"]))


def stepped(downhill: Objective, start: Array, half_width: Array, num_iterations: int) -> LastPoint:
    """Run the search by SciPy's routine, which says that it wants a value and a gradient, or that a step is done."""
    scipys: Any = importlib.import_module("scipy.optimize._lbfgsb_py")
    evaluate, iterations = _Counted(downhill), 0
    x, value, gradient = np.clip(start, -half_width, half_width), 0.0, np.zeros_like(half_width)
    integer = np.int64 if getattr(scipys, "HAS_ILP64", False) else np.int32  # as SciPy was built
    box = (-half_width, half_width, np.full(len(x), 2, dtype=integer))  # 2: bounded on both sides
    task, searched = np.zeros(2, dtype=integer), np.zeros(2, dtype=integer)
    numbers, counts, *saved = _workspace(len(x), integer)
    while True:
        goes_on = (value, gradient, 0.0, 0.0, numbers, counts, task, *saved, SEARCH, searched)
        scipys._lbfgsb.setulb(CORRECTIONS, x, *box, *goes_on)
        if task[0] == EVALUATE:
            value, gradient = evaluate(x)
        elif task[0] == NEW_POINT:
            iterations += 1
            if iterations >= num_iterations:
                task[:] = TOO_MANY_ITERATIONS
            elif evaluate.count > SEARCH * num_iterations:
                task[:] = TOO_MANY_EVALUATIONS
        else:
            break
    at_limit = iterations >= num_iterations or evaluate.count > SEARCH * num_iterations
    message = f"{scipys.status_messages[task[0]]}: {scipys.task_messages[task[1]]}"
    return LastPoint(x, -float(value), iterations, message, 0 if task[0] == CONVERGED else 1 if at_limit else 2)


class _Counted:
    """A function that is not called again at the point where it was called last, as in SciPy, and its calls."""

    def __init__(self, function: Objective) -> None:
        self.function, self.count = function, 0
        self._point, self._found = np.zeros(0), (0.0, np.zeros(0))

    def __call__(self, x: Array) -> tuple[float, Array]:
        if not np.array_equal(x, self._point):
            self.count += 1
            self._point = x.copy()
            self._found = self.function(self._point)
        return self._found


def _workspace(n: int, integer: type[np.int32 | np.int64]) -> tuple[Array, ...]:
    """Return the routine's own memory: numbers, counts, and what it saves between calls; sizes as SciPy has them."""
    m = CORRECTIONS
    return (
        np.zeros(2 * m * n + 5 * n + 11 * m * m + 8 * m),
        np.zeros(3 * n, dtype=integer),
        np.zeros(4, dtype=integer),
        np.zeros(44, dtype=integer),
        np.zeros(29),
    )
