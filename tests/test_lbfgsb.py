"""SciPy's L-BFGS-B by steps against its public function: the same points, values, words and calls, bit for bit."""

from __future__ import annotations

import numpy as np
import pytest
import scipy

from sharpness.probes.methods.lbfgsb import STEPPED, Array, Objective, maximise, public, stepped

RNG = np.random.default_rng(0)
SLOPES, SQUARE = RNG.standard_normal(40), RNG.standard_normal((40, 40)) / 6


def quadratic(z: Array) -> tuple[float, Array]:
    """Return a form with both signs of curvature, largest on the sides of the box."""
    matrix = SQUARE[: len(z), : len(z)] + SQUARE[: len(z), : len(z)].T
    return float(SLOPES[: len(z)] @ z + z @ matrix @ z / 2), SLOPES[: len(z)] + matrix @ z


def bowl(z: Array) -> tuple[float, Array]:
    """Return a smooth function whose minimum is inside the box: it ends where rounding lets nothing be gained."""
    rest = z - 0.1
    return float(np.sum(np.cosh(3 * rest))), 3 * np.sinh(3 * rest)


def valley(z: Array) -> tuple[float, Array]:
    """Return Rosenbrock's function, whose line searches take more than one evaluation."""
    value, gradient = scipy.optimize.rosen(10 * z), scipy.optimize.rosen_der(10 * z)
    return float(value), 10 * gradient


def lying(z: Array) -> tuple[float, Array]:
    """Return a gradient that points uphill: the line search fails."""
    return float(z @ z), -2 * z - 1


def flat(z: Array) -> tuple[float, Array]:
    """Return a constant: there is nothing to do."""
    return 3.0, np.zeros_like(z)


@pytest.mark.parametrize("function", [quadratic, bowl, valley, lying, flat])
@pytest.mark.parametrize("size", [2, 40])
@pytest.mark.parametrize("num_iterations", [1, 10, 200])
@pytest.mark.parametrize("start", ["middle", "corner", "outside"])
def test_steps_are_those_of_the_public_function(
    function: Objective, size: int, num_iterations: int, start: str
) -> None:
    half_width = 0.3 + np.abs(SLOPES[:size])
    first = {"middle": 0.1, "corner": 1.0, "outside": 2.0}[start] * half_width * np.sign(SLOPES[:size])
    calls: list[list[Array]] = [[], []]

    def counted(number: int) -> Objective:
        return lambda z: (calls[number].append(z.copy()), function(z))[1]

    one, two = (search(counted(i), first, half_width, num_iterations) for i, search in enumerate((public, stepped)))
    assert one.point.tobytes() == two.point.tobytes()
    assert (one.value, one.num_iterations, one.message, one.flag) == (
        two.value,
        two.num_iterations,
        two.message,
        two.flag,
    )
    assert [z.tobytes() for z in calls[0]] == [z.tobytes() for z in calls[1]]


def test_the_installed_version_is_stepped_only_if_it_is_known(monkeypatch: pytest.MonkeyPatch) -> None:
    """A later SciPy gives the same numbers, by its public function."""
    half_width = np.full(40, 0.5)
    known = maximise(quadratic, np.zeros(40), half_width, 10)
    monkeypatch.setattr(scipy, "__version__", "99.0.0")
    assert not scipy.__version__.startswith(STEPPED)
    later = maximise(quadratic, np.zeros(40), half_width, 10)
    assert later.point.tobytes() == known.point.tobytes() and later.value == known.value
