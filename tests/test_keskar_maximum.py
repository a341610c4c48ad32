"""Metric 2.1 in random subspaces, and its maximum: corners by enumeration, identities of the climb, rescalings."""

from __future__ import annotations

import itertools
import json
import math

import numpy as np
import pytest
import torch
from scipy.optimize import minimize
from torch import Tensor

from sharpness.errors import InputError, RunError
from sharpness.probes.keskar_maximum import KeskarMaximum
from sharpness.probes.keskar_sharpness import KeskarSharpness
from sharpness.probes.methods import keskar_box
from sharpness.probes.methods.keskar_ascent import climb, quasi_newton_direction
from sharpness.probes.methods.keskar_box import Box, RandomColumns
from tests.oracles import matrix_with_eigenvalues
from tests.probe_cases import quadratic, small_network
from tests.scaled_networks import relu_network, rescaled

H = torch.tensor([4.0, 1.0, 0.5, 0.25, 2.0, 3.0], dtype=torch.float64)
W = torch.tensor([1.0, -2.0, 0.7, 3.0, -0.5, 0.1], dtype=torch.float64)
CPU = torch.device("cpu")


def dense(A: RandomColumns) -> Tensor:
    return torch.stack([A.times(unit) for unit in torch.eye(A.p, dtype=torch.float64)], dim=1)


def largest_at_a_corner(h: Tensor, w: Tensor, A: Tensor, half_width: Tensor) -> float:
    """Return the maximum of the quadratic over all corners of the box, where a convex function has it."""
    corners = torch.tensor(list(itertools.product((-1.0, 1.0), repeat=A.shape[1])), dtype=torch.float64)
    points = w + (corners * half_width) @ A.T
    return float((0.5 * h * points**2).sum(1).max())


def blocks_drawn_for_a_product(A: RandomColumns, monkeypatch: pytest.MonkeyPatch) -> int:
    draw, calls = torch.randn, list[int]()
    with monkeypatch.context() as patch:
        patch.setattr(torch, "randn", lambda *shape, **options: (calls.append(1), draw(*shape, **options))[1])
        A.times(torch.ones(A.p))
    return len(calls)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_random_columns_are_one_matrix_whatever_is_kept(monkeypatch: pytest.MonkeyPatch, dtype: torch.dtype) -> None:
    monkeypatch.setattr(keskar_box, "BLOCK", 12)  # 4 rows of 3 columns: blocks of 4, 4 and 2 rows
    drawn, partly, kept = (RandomColumns(10, 3, 5, dtype, CPU, budget) for budget in (0, 100, 10**6))
    assert [blocks_drawn_for_a_product(A, monkeypatch) for A in (drawn, kept)] == [3, 0]
    matrix = dense(drawn)
    for A in (partly, kept):
        assert torch.equal(dense(A), matrix)
    v = torch.linspace(-1, 2, 10, dtype=torch.float64)
    slack = 1e-5 if dtype == torch.float32 else 1e-12
    torch.testing.assert_close(drawn.transposed(v.to(dtype)), matrix.double().T @ v, rtol=slack, atol=slack)
    torch.testing.assert_close(
        kept.coordinates(v.to(dtype)), torch.linalg.pinv(matrix.double()) @ v, rtol=slack, atol=slack
    )
    double = dense(RandomColumns(10, 3, 5, torch.float64, CPU, 0))
    torch.testing.assert_close(matrix, double.to(dtype), rtol=0, atol=0)  # rounded, not drawn anew
    assert not torch.equal(matrix, dense(RandomColumns(10, 3, 6, dtype, CPU, 0)))


def test_columns_are_standard_normal() -> None:
    entries = dense(RandomColumns(4000, 10, 0, torch.float64, CPU, 10**9))
    assert abs(float(entries.mean())) < 4 / 200 and abs(float(entries.var()) - 1) < 4 * math.sqrt(2) / 200
    assert abs(float((entries**4).mean()) - 3) < 4 * math.sqrt(96) / 200


def test_the_gradient_in_the_subspace_is_that_of_finite_differences() -> None:
    loss = small_network()
    box = Box(loss, None, 4, seed=1)
    z, step = torch.tensor([0.01, -0.02, 0.03, 0.0], dtype=torch.float64), 1e-6
    _, gradient = box.value_and_grad(z)
    units = step * torch.eye(4, dtype=torch.float64)
    differences = [(box.value_and_grad(z + e)[0] - box.value_and_grad(z - e)[0]) / (2 * step) for e in units]
    np.testing.assert_allclose(gradient, differences, rtol=1e-6, atol=1e-9)


@pytest.mark.parametrize("subspace", [None, 4])
def test_the_maximum_over_a_convex_quadratic_is_the_best_corner(subspace: int | None) -> None:
    loss, epsilon = quadratic(H, W), 0.05
    box = Box(loss, None, subspace, seed=3)
    A = torch.eye(6, dtype=torch.float64) if box.columns is None else dense(box.columns)
    expected = largest_at_a_corner(H, W, A, epsilon * (torch.linalg.pinv(A) @ W).abs() + epsilon)
    result = KeskarMaximum(epsilon=epsilon, subspace=subspace, num_starts=8, seed=3)(loss)
    assert result.boxes[0].max_loss == pytest.approx(expected, rel=1e-12)
    assert result.value == pytest.approx(100 * (expected - result.loss) / (1 + result.loss), rel=1e-12)
    assert result.converged and result.boxes[0].details()["share_at_bound"] == 1.0
    published = KeskarSharpness(epsilon=epsilon, subspace=subspace, seed=3, num_iterations=30)(loss)
    assert published.value is not None and result.value is not None
    assert published.value <= result.value * (1 + 1e-12)
    assert published.value == pytest.approx(result.value, rel=0.2)


def test_a_convex_quadratic_at_its_minimum_needs_the_random_starts() -> None:
    loss = quadratic(H, torch.zeros(6, dtype=torch.float64), offset=1.5)
    alone, both = (KeskarMaximum(epsilon=1e-2, second_epsilon=None, num_starts=n)(loss) for n in (1, 2))
    assert alone.value == 0.0  # the gradient is 0 and has no sign
    assert both.value == pytest.approx(50 * 1e-4 * float(H.sum()) / 2.5, rel=1e-9)


@pytest.mark.parametrize(
    ("name", "epsilon"),
    [
        ("mlp", 1e-3),
        ("mlp", 0.3),
        ("mlp, class weights", 0.3),
        ("norm, batch statistics", 1e-3),
        pytest.param("mlp, class weights", 1e-3, marks=pytest.mark.slow),
        pytest.param("norm, batch statistics", 0.3, marks=pytest.mark.slow),
        pytest.param("tied weights", 1e-3, marks=pytest.mark.slow),
        pytest.param("tied weights", 0.3, marks=pytest.mark.slow),
    ],
)
def test_the_climb_finds_at_least_what_the_published_search_finds(name: str, epsilon: float) -> None:
    loss = small_network(name)
    published = KeskarSharpness(epsilon=epsilon, num_iterations=50)(loss).max_loss
    best = KeskarMaximum(epsilon=epsilon, second_epsilon=None, rtol=1e-6)(loss).boxes[0].max_loss
    assert best - loss.value(loss.weights) >= (published - loss.value(loss.weights)) * (1 - 1e-6)


@pytest.mark.parametrize("probe", [KeskarSharpness(start="random"), KeskarMaximum()])
@pytest.mark.parametrize("subspace", [None, 3])
def test_phi_is_never_negative(probe: KeskarSharpness | KeskarMaximum, subspace: int | None) -> None:
    loss = quadratic(-H, torch.zeros(6, dtype=torch.float64), offset=1.0)  # the top of a hill
    result = type(probe)(epsilon=0.1, subspace=subspace)(loss)
    assert result.value == 0.0 and result.lower == 0.0 and result.upper is None
    assert "from below only" in result.reasons["upper"]


@pytest.mark.parametrize("at", [-1.0, -3.0])
@pytest.mark.parametrize("probe", [KeskarSharpness(second_epsilon=5e-4), KeskarMaximum()])
def test_a_loss_of_minus_1_or_less_has_no_phi_but_a_reason(probe: KeskarSharpness | KeskarMaximum, at: float) -> None:
    loss = quadratic(H, W, offset=at - 0.5 * float(H @ W**2))  # as the likelihood of a narrow Gaussian has it
    result = probe(loss)
    row = json.loads(json.dumps(result.to_record().to_dict(), allow_nan=False))
    details = row["details"]
    phis = [box["phi"] for box in details.get("boxes", [details.get("second")])]
    assert row["value"] is None and row["lower"] is None and set(phis) == {None} and "unknown" in str(result)
    assert (
        details["loss"] == pytest.approx(at) and sum("relative to 1 + loss" in r for r in row["reasons"].values()) == 3
    )


def test_a_climb_ends_at_the_interior_maximum_of_a_concave_function() -> None:
    D = matrix_with_eigenvalues(torch.tensor([1.0, 3.0, 10.0, 40.0]), seed=0)
    top = torch.tensor([0.3, -0.5, 0.1, 0.7], dtype=torch.float64)

    def objective(u: Tensor) -> tuple[float, Tensor]:
        return -0.5 * float((u - top) @ D @ (u - top)), -D @ (u - top)

    start = torch.zeros(4, dtype=torch.float64)
    found = climb(objective, start, objective(start)[0], rtol=1e-14, num_gradients=300)
    torch.testing.assert_close(found.point, top, rtol=1e-6, atol=1e-6)
    assert found.best == sorted(found.best) and found.reason == "stopped growing"


def test_a_climb_ends_where_scipy_ends_on_the_boundary_of_a_concave_function() -> None:
    D = matrix_with_eigenvalues(torch.tensor([1.0, 3.0, 10.0, 40.0, 5.0]), seed=1)
    top = torch.tensor([2.0, -0.5, 0.1, -3.0, 0.4], dtype=torch.float64)

    def objective(u: Tensor) -> tuple[float, Tensor]:
        return -0.5 * float((u - top) @ D @ (u - top)), -D @ (u - top)

    def negative(u: np.ndarray) -> tuple[float, np.ndarray]:
        value, gradient = objective(torch.from_numpy(u))
        return -value, -gradient.numpy()

    options = {"ftol": 0.0, "gtol": 1e-12, "maxiter": 1000}
    theirs = minimize(negative, np.zeros(5), jac=True, method="L-BFGS-B", bounds=5 * [(-1, 1)], options=options)
    start = torch.zeros(5, dtype=torch.float64)
    ours = climb(objective, start, objective(start)[0], rtol=1e-14, num_gradients=500)
    np.testing.assert_allclose(ours.point, theirs.x, rtol=1e-5, atol=1e-5)
    assert bool((ours.point.abs() <= 1).all()) and bool((ours.point.abs() == 1).any())


def test_the_two_loop_recursion_is_the_dense_bfgs_update() -> None:
    generator = torch.Generator().manual_seed(0)
    D = matrix_with_eigenvalues(torch.tensor([1.0, 2.0, 5.0]), seed=2)
    steps = [torch.randn(3, generator=generator, dtype=torch.float64) for _ in range(2)]
    pairs = [(s, D @ s) for s in steps]
    inverse = torch.eye(3, dtype=torch.float64) * float(pairs[-1][0] @ pairs[-1][1] / (pairs[-1][1] @ pairs[-1][1]))
    for s, y in pairs:
        V = torch.eye(3, dtype=torch.float64) - torch.outer(y, s) / (s @ y)
        inverse = V.T @ inverse @ V + torch.outer(s, s) / (s @ y)
    g = torch.tensor([1.0, -2.0, 0.5], dtype=torch.float64)
    torch.testing.assert_close(quasi_newton_direction(pairs, g), inverse @ g, rtol=1e-12, atol=1e-12)


def test_the_box_moves_under_a_rescaling_that_keeps_the_function() -> None:
    loss, other = relu_network(), rescaled(relu_network(), 10.0)
    assert other.value(other.weights) == pytest.approx(loss.value(loss.weights), rel=1e-12)
    for probe in (KeskarSharpness(epsilon=1e-2), KeskarMaximum(epsilon=1e-2)):
        moved, still = probe(other).value, probe(loss).value
        assert moved is not None and still is not None and moved > 1.5 * still


def test_both_half_widths_are_in_the_record() -> None:
    loss = small_network()
    for probe in (KeskarSharpness, KeskarMaximum):
        both, single = (probe(epsilon=e, second_epsilon=s)(loss) for e, s in ((1e-3, 5e-4), (5e-4, None)))
        record = json.loads(json.dumps(both.to_record().to_dict(), allow_nan=False))
        second = record["details"]["second"] if probe is KeskarSharpness else record["details"]["boxes"][1]
        assert second["epsilon"] == 5e-4 and second["phi"] == single.value
        assert record["value"] > second["phi"] > 0 and "0.0005" in str(both)
        assert record["num_gradients"] == both.num_gradients > single.num_gradients
    assert "second" not in KeskarSharpness()(loss).details()


def test_the_ceiling_of_gradients_is_kept_and_told() -> None:
    loss, reports = small_network(), list[tuple[int, int]]()
    probe = KeskarMaximum(epsilon=0.3, second_epsilon=None, rtol=1e-9, num_gradients=15)
    result = probe(loss, progress=lambda done, total: reports.append((done, total)))
    assert result.num_gradients == 16 and reports == [(done, 16) for done in range(1, 17)]
    assert result.converged is False and "15 gradients" in result.to_record().reasons["converged"]
    assert result.boxes[0].climbs[-1].reason == "out of gradients"
    assert result.boxes[0].climbs[0].best == sorted(result.boxes[0].climbs[0].best)


def test_a_seed_gives_the_same_numbers_again() -> None:
    loss = small_network()
    first, again, other = (KeskarMaximum(subspace=5, seed=seed)(loss).value for seed in (1, 1, 2))
    assert first == again != other


def test_single_precision_agrees_with_double() -> None:
    single, double = (
        KeskarMaximum(epsilon=1e-2, second_epsilon=None)(small_network(dtype=dtype)).value
        for dtype in (torch.float32, torch.float64)
    )
    assert single == pytest.approx(double, rel=1e-3)


@pytest.mark.parametrize(
    ("probe", "message"),
    [
        (KeskarMaximum(epsilon=0.0), "positive epsilon"),
        (KeskarMaximum(second_epsilon=-1.0), "positive epsilon"),
        (KeskarSharpness(second_epsilon=0.0), "positive epsilon"),
        (KeskarMaximum(num_starts=0), "at least 1 start"),
        (KeskarMaximum(num_gradients=0), "at least 1 start and 1 gradient"),
        (KeskarMaximum(rtol=0.0), "positive rtol"),
        (KeskarMaximum(subspace=7), "1 to 6 dimensions"),
        (KeskarSharpness(subspace=0), "1 to 6 dimensions"),
    ],
)
def test_bad_knobs_are_refused(probe: KeskarMaximum | KeskarSharpness, message: str) -> None:
    with pytest.raises(InputError, match=message):
        probe(quadratic(H, W))


def test_an_infinite_loss_in_the_box_is_an_error() -> None:
    with pytest.raises(RunError, match="finite loss in the box"):
        KeskarMaximum()(quadratic(H, torch.full((6,), 1e200, dtype=torch.float64)))
