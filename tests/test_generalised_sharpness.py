"""The sharpness in other norms: closed forms, all corners of a small box, dense truth, and steps at the edge."""

from __future__ import annotations

import itertools
from typing import Any

import pytest
import torch

from sharpness.errors import InputError
from sharpness.probes import GeneralisedSharpness, TopEigenvalues
from sharpness.probes.methods.unit_balls import BALLS
from tests.cases import CASES
from tests.oracles import dense_hessian, matrix_with_eigenvalues
from tests.probe_cases import matrix_quadratic, quadratic, small_network

GEOMETRIES = ("sign", "spectral")


def test_of_a_diagonal_hessian_it_is_the_sum_of_what_is_positive() -> None:
    w = torch.tensor([1.0, -2.0, 0.7, 0.3], dtype=torch.float64)
    convex = quadratic(torch.tensor([4.0, 1.0, 0.5, 0.0], dtype=torch.float64), w)
    assert GeneralisedSharpness()(convex).value == pytest.approx(5.5, rel=1e-12)
    saddle = quadratic(torch.tensor([4.0, 1.0, -3.0, -0.1], dtype=torch.float64), w)
    found = GeneralisedSharpness(rtol=1e-4, num_hvps=2000)(saddle).value
    assert found is not None and 5.0 * (1 - 1e-3) <= found <= 5.0
    concave = quadratic(torch.tensor([-4.0, -1.0, -3.0, -0.1], dtype=torch.float64), w)
    result = GeneralisedSharpness()(concave)
    assert result.value == 0.0 and result.edge_step is None


def test_in_a_small_box_it_is_that_of_the_best_corner() -> None:
    # A convex function is largest in a corner of the box: all 2^10 are looked at.
    corners = torch.tensor(list(itertools.product((-1.0, 1.0), repeat=10)), dtype=torch.float64)
    found = 0
    for seed in range(6):
        hessian = matrix_with_eigenvalues(torch.linspace(0.1, 5, 10), seed)
        truth = float(torch.einsum("ci,ij,cj->c", corners, hessian, corners).max())
        result = GeneralisedSharpness(num_starts=20, num_hvps=400, rtol=1e-6)(matrix_quadratic(hessian, (10,)))
        assert result.value is not None and 0.9 * truth < result.value <= truth * (1 + 1e-9)
        assert result.local_maxima == 20
        found += result.value > truth * (1 - 1e-9)
        one = GeneralisedSharpness(num_starts=1)(matrix_quadratic(hessian, (10,)))
        assert one.value is not None and one.upper is not None
        assert 0.5 * truth < one.value <= truth * (1 + 1e-9) < one.upper
    assert found >= 3


def test_of_rank_one_it_is_the_square_of_the_dual_norm() -> None:
    a, b, c = (torch.randn(n, generator=torch.Generator().manual_seed(n), dtype=torch.float64) for n in (12, 6, 3))
    vector = torch.cat([a, b, c])
    loss = matrix_quadratic(torch.outer(vector, vector), (3, 4), (3, 1, 2), (3,))
    nuclear = sum(float(torch.linalg.svdvals(piece).sum()) for piece in (a.view(3, 4), b.view(3, 2)))
    for geometry, dual in (("sign", float(vector.abs().sum())), ("spectral", nuclear + float(c.norm()))):
        result = GeneralisedSharpness(geometry=geometry)(loss)
        assert result.value == pytest.approx(dual**2, rel=1e-9)
        # The gradient is a multiple of the vector, and steps of 2 |g|_* / value are at the edge: they change no loss.
        w, ball = loss.weights, BALLS[geometry]
        assert result.edge_step is not None
        step = result.edge_step * ball.step(loss.grad(w), loss.layout)
        assert loss.value(w - step) == pytest.approx(loss.value(w), rel=1e-9)
        assert loss.value(w - 0.9 * step) < loss.value(w) < loss.value(w - 1.1 * step)


def test_of_a_multiple_of_the_identity_the_bounds_meet() -> None:
    loss = matrix_quadratic(2.5 * torch.eye(21, dtype=torch.float64), (3, 4), (3, 1, 2), (3,))
    for geometry, square in (("sign", 21), ("spectral", 3 + 2 + 1)):
        result = GeneralisedSharpness(geometry=geometry)(loss)
        assert result.value == pytest.approx(2.5 * square, rel=1e-9) == pytest.approx(result.upper, rel=1e-6)


@pytest.mark.parametrize("geometry", GEOMETRIES)
def test_of_a_network_it_is_attained_in_the_ball_of_the_dense_hessian(geometry: str) -> None:
    case, loss = CASES["mlp"], small_network("mlp")
    model, batches = case.build()
    dense = dense_hessian(case, model, batches, loss.weights)
    result = GeneralisedSharpness(geometry=geometry)(loss)
    best, generator = 0.0, torch.Generator().manual_seed(0)
    for _ in range(300):  # random points of the ball, improved by the same kind of step on the dense matrix
        d = BALLS[geometry].step(torch.randn(len(dense), generator=generator, dtype=torch.float64), loss.layout)
        for _ in range(20):
            d = BALLS[geometry].step(dense @ d, loss.layout)
        best = max(best, float(d @ dense @ d))
    assert result.value is not None and result.upper is not None
    assert result.value == pytest.approx(best, rel=0.1) and best <= result.upper
    top = TopEigenvalues(k=1)(loss).value
    assert top is not None and result.value >= top * (1 - 1e-2)  # a unit vector is in either ball
    record = result.to_record()
    assert record.quantity == f"generalised_sharpness_{geometry}" and "lower bound" in record.reasons["converged"]


@pytest.mark.parametrize(
    ("knobs", "words"), [({"geometry": "l2"}, "unknown geometry 'l2'"), ({"num_starts": 0}, "at least 1 start")]
)
def test_bad_knobs_are_one_line(knobs: dict[str, Any], words: str) -> None:
    with pytest.raises(InputError, match=words):
        GeneralisedSharpness(**knobs)(small_network())
