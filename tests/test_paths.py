"""Lines, arcs, Bezier curves and chains: ends to the bit, independent constructions, derivatives by the bends."""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable

import numpy as np
import pytest
import torch
from torch import Tensor

from sharpness.errors import InputError
from sharpness.landscapes.paths import COEFFICIENTS, CURVES, Curve, arc, bezier, chain, linear


def vectors(count: int, size: int = 5, dtype: torch.dtype = torch.float64) -> list[Tensor]:
    generator = torch.Generator().manual_seed(0)
    return list(torch.randn(count, size, generator=generator, dtype=torch.float64).to(dtype))


PATHS: dict[str, Callable[[Tensor, Tensor], Curve]] = {
    "linear": linear,
    "arc": arc,
    "bezier": lambda a, b: bezier(a, vectors(3, len(a), a.dtype), b),
    "chain": lambda a, b: chain(a, vectors(3, len(a), a.dtype), b),
}


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("name", PATHS)
def test_ends_are_the_points_bit_for_bit(name: str, dtype: torch.dtype) -> None:
    a = torch.tensor([-0.0, 0.0, 1e-45, 1 / 3, -3e38], dtype=dtype)
    b = torch.tensor([0.0, -0.0, math.nan, math.inf, 0.1], dtype=dtype)
    path = PATHS[name](a, b)
    for t, end in ((0.0, a), (1.0, b)):
        assert torch.equal(path(t).view(torch.uint8), end.view(torch.uint8))


@pytest.mark.parametrize("num_bends", [1, 2, 4])
def test_a_bezier_curve_is_that_of_de_casteljau(num_bends: int) -> None:
    first, *bends, last = vectors(num_bends + 2)
    for t in (0.1, 0.5, 0.83, 1.4):
        points = [first, *bends, last]
        while len(points) > 1:
            points = [torch.lerp(a, b, t) for a, b in itertools.pairwise(points)]
        torch.testing.assert_close(bezier(first, bends, last)(t), points[0], rtol=1e-13, atol=1e-13)


@pytest.mark.parametrize("num_bends", [1, 2, 4])
def test_a_chain_is_linear_between_its_bends(num_bends: int) -> None:
    points = vectors(num_bends + 2)
    path, knots = chain(points[0], points[1:-1], points[-1]), np.linspace(0, 1, num_bends + 2)
    for t in (*knots, 0.07, 0.5, 0.91):
        expected = [np.interp(t, knots, [float(p[i]) for p in points]) for i in range(5)]
        np.testing.assert_allclose(path(float(t)), expected, rtol=1e-13, atol=1e-14)
    with pytest.raises(InputError, match="0 to 1"):
        path(1.1)


@pytest.mark.parametrize("name", CURVES)
def test_coefficients_are_the_derivatives_of_the_curve(name: str) -> None:
    first, *bends, last = vectors(4)
    for t in (0.0, 0.2, 0.6, 1.0):
        coefficients = COEFFICIENTS[name](t, 2)
        assert sum(coefficients) == pytest.approx(1, rel=1e-15) and min(coefficients) >= 0
        for number in (0, 1):

            def moved(bend: Tensor, number: int = number, t: float = t) -> Tensor:
                return CURVES[name](first, [*bends[:number], bend, *bends[number + 1 :]], last)(t)

            jacobian = torch.autograd.functional.jacobian(moved, bends[number])
            expected = coefficients[1 + number] * torch.eye(5, dtype=torch.float64)
            torch.testing.assert_close(jacobian, expected, rtol=1e-14, atol=0)


@pytest.mark.parametrize("name", CURVES)
def test_bends_that_divide_the_line_evenly_give_the_line(name: str) -> None:
    a, b = vectors(2)
    line = linear(a, b)
    curve = CURVES[name](a, [line(0.25), line(0.5), line(0.75)], b)
    for t in (0.1, 0.4, 0.95):
        torch.testing.assert_close(curve(t), line(t), rtol=1e-13, atol=1e-14)


def test_an_arc_between_points_at_right_angles_keeps_their_length() -> None:
    a, b = torch.linalg.qr(torch.stack(vectors(2), 1)).Q.T
    path = arc(a, b)
    for t in (-1.0, -0.3, 0.25, 0.5, 1.7, 2.0):
        assert float(path(t).norm()) == pytest.approx(1, rel=1e-14)
    torch.testing.assert_close(path(0.5), (a + b) / math.sqrt(2), rtol=1e-14, atol=1e-15)
    torch.testing.assert_close(path(1 / 3), math.sqrt(3) / 2 * a + b / 2, rtol=1e-14, atol=1e-15)
    torch.testing.assert_close(path(-1.0), -b, rtol=1e-14, atol=1e-15)


def test_points_that_do_not_fit_are_refused() -> None:
    a, b, short = torch.zeros(5), torch.ones(5), torch.zeros(4)
    for make in (lambda: linear(a, short), lambda: arc(a, short), lambda: chain(a, [short], b)):
        with pytest.raises(InputError, match=r"\(5,\) and \(4,\)"):
            make()
    for curve in CURVES.values():
        with pytest.raises(InputError, match="at least one bend"):
            curve(a, [], b)
