"""Each probe against a closed form, its own end points, or another library."""

from __future__ import annotations

import json
import math

import numpy as np
import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from sharpness.errors import InputError, RunError
from sharpness.landscapes.interpolation import barrier
from sharpness.loss import Loss
from sharpness.probes import DistanceFromStart, Interpolation, KeskarSharpness, PyHessianCheck, TopEigenvalues
from sharpness.records import ProbeRecord
from sharpness.vectors import flatten
from tests.cases import CASES
from tests.oracles import dense_hessian


def quadratic(h: Tensor, x: Tensor, offset: float = 0.0) -> Loss:
    """The loss 1/2 sum_i h_i w_i^2 + offset at w = x, float64; h is its diagonal Hessian."""

    def criterion(output: Tensor, target: Tensor) -> Tensor:
        return 0.5 * (h * output**2).sum() + offset

    class Diagonal(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.w = nn.Parameter(x.clone())

        def forward(self, inputs: Tensor) -> Tensor:
            return self.w * inputs[0]

    batch = (torch.ones(1, len(h), dtype=torch.float64), torch.zeros(1))
    return Loss(Diagonal(), criterion, [batch], dtype=torch.float64)


H = torch.tensor([4.0, 1.0, 0.5, 0.25, 2.0, 3.0], dtype=torch.float64)


@pytest.mark.parametrize("start", ["gradient_sign", "random"])
@pytest.mark.parametrize("offset", [0.0, 1.5])
def test_keskar_sharpness_has_its_closed_form_on_a_diagonal_quadratic(start: str, offset: float) -> None:
    # At x = 0 the box is |z_i| <= eps and a corner is the maximum: phi = 100 (eps^2 / 2) tr H / (1 + f(x)).
    epsilon = 1e-2
    result = KeskarSharpness(epsilon=epsilon, start=start)(quadratic(H, torch.zeros(6, dtype=torch.float64), offset))
    if start == "gradient_sign":  # the gradient at a minimum is 0 and has no sign: the iteration starts at the minimum
        assert result.value == 0.0
        return
    assert result.value == pytest.approx(50 * epsilon**2 * float(H.sum()) / (1 + offset), rel=1e-9)
    assert result.share_at_bound == 1.0 and result.num_gradients <= 12


def test_keskar_box_grows_with_the_weights() -> None:
    # Away from 0 the maximum is at the outer corner: |x_i| + eps (|x_i| + 1) in each coordinate.
    x = torch.tensor([1.0, -2.0, 0.7, 3.0, -0.5, 0.1], dtype=torch.float64)
    epsilon = 1e-2
    loss = quadratic(H, x)
    outer = x.abs() + epsilon * (x.abs() + 1)
    before, after = (0.5 * float((H * y**2).sum()) for y in (x, outer))
    result = KeskarSharpness(epsilon=epsilon)(loss)
    assert result.value == pytest.approx(100 * (after - before) / (1 + before), rel=1e-9)
    assert result.loss == pytest.approx(before) and result.max_loss == pytest.approx(after)


@pytest.mark.parametrize("start", ["gradient_sign", "random", "zero"])
def test_keskar_sharpness_is_never_negative_and_stops_after_ten_iterations(start: str) -> None:
    # Far up a concave hill every step loses: f(x) itself is then the largest value found.
    loss = quadratic(-H, torch.zeros(6, dtype=torch.float64))
    result = KeskarSharpness(start=start)(loss)
    assert result.value == 0.0 and result.num_iterations <= 10
    assert result.upper is None and "inexact" in result.reasons["upper"]


def test_keskar_random_start_depends_on_the_seed() -> None:
    model, batches = CASES["mlp"].build()
    loss = Loss(model, F.cross_entropy, batches, dtype=torch.float64)
    values = [
        KeskarSharpness(epsilon=3.0, start="random", num_iterations=1, seed=seed)(loss).value for seed in (1, 1, 2)
    ]
    assert values[0] == values[1] != values[2]


@pytest.mark.parametrize(
    ("knobs", "message"),
    [({"epsilon": 0.0}, "positive epsilon"), ({"start": "zeros"}, "zero"), ({"method": "convergd"}, "published"),
     ({"num_iterations": 0}, "at least 1")],
)  # fmt: skip
def test_bad_keskar_knobs_are_refused(knobs: dict[str, object], message: str) -> None:
    with pytest.raises(InputError, match=message):
        KeskarSharpness(**knobs)(quadratic(H, torch.ones(6, dtype=torch.float64)))  # type: ignore[arg-type]


def test_an_infinite_loss_in_the_box_is_an_error_not_a_number() -> None:
    with pytest.raises(RunError, match="finite"):
        KeskarSharpness()(quadratic(H, torch.full((6,), 1e200, dtype=torch.float64)))


@pytest.mark.parametrize("name", ["mlp", "norm, batch statistics", "norm, running statistics"])
def test_interpolation_end_points_are_the_checkpoints_own_losses(name: str) -> None:
    case = CASES[name]
    model, batches = case.build()
    test_batches = case.build(seed=1)[1]
    loss = Loss(model, case.criterion, batches, norm=case.norm, dtype=torch.float64)
    test = Loss(model, case.criterion, test_batches, norm=case.norm, dtype=torch.float64)
    a, b = loss.weights, loss.weights + 0.1
    result = Interpolation()(loss, a, b, test_loss=test)
    assert len(result.alphas) == 25 and result.alphas[0] == -1 and result.alphas[-1] == 2
    for point, alpha in ((a, 0.0), (b, 1.0)):
        at = result.alphas.index(alpha)
        ours, theirs = loss.evaluate(point), test.evaluate(point)
        assert (result.train_loss[at], result.train_accuracy[at]) == (ours.loss, ours.accuracy)
        assert result.test_loss is not None and result.test_accuracy is not None
        assert (result.test_loss[at], result.test_accuracy[at]) == (theirs.loss, theirs.accuracy)
    assert result.length == pytest.approx(0.1 * math.sqrt(len(a)))


def test_interpolation_of_a_quadratic_is_the_parabola_and_its_barrier_is_zero() -> None:
    x = torch.ones(6, dtype=torch.float64)
    loss = quadratic(H, x)
    result = Interpolation(num_points=7, start=-1, stop=2)(loss, x, -x)
    exact = [0.5 * float(H.sum()) * (1 - 2 * a) ** 2 for a in result.alphas]
    assert result.train_loss == pytest.approx(exact, rel=1e-12)
    assert result.value == 0.0  # a convex path lies below its chord, and the end points are on the grid
    hill = Interpolation(num_points=7)(quadratic(-H, x), x, -x)
    assert hill.value == pytest.approx(0.5 * float(H.sum()))


def test_a_barrier_without_end_points_is_null_with_a_reason() -> None:
    x = torch.ones(6, dtype=torch.float64)
    result = Interpolation(num_points=4, start=0.2, stop=0.9)(quadratic(H, x), x, -x)
    record = result.to_record()
    assert record.value is None and "alpha" in record.reasons["value"]
    assert barrier([0.0, 1.0], [math.inf, 1.0]) is None
    assert barrier([0.0, 0.5, 1.0, 2.0], [1.0, 3.0, 1.0, math.nan]) == 2.0  # beyond the ends is not between them
    with pytest.raises(InputError, match="points of shape"):
        Interpolation()(quadratic(H, x), x, x[:3])
    with pytest.raises(InputError, match="at least 2 points"):
        Interpolation(num_points=1)(quadratic(H, x), x, x)


def test_non_finite_points_of_a_curve_are_null_in_the_record() -> None:
    x = torch.full((6,), 1e154, dtype=torch.float64)
    result = Interpolation(num_points=4)(quadratic(H, x), 0 * x, x)
    record = result.to_record().to_dict()
    assert None in record["details"]["train_loss"]
    assert any("details.train_loss" in path for path in record["reasons"])
    json.dumps(record, allow_nan=False)


def test_distance_is_euclidean() -> None:
    loss = quadratic(H, torch.zeros(6, dtype=torch.float64))
    assert DistanceFromStart()(loss, torch.full((6,), 2.0), torch.zeros(6)).value == pytest.approx(2 * math.sqrt(6))
    with pytest.raises(InputError, match="one shape"):
        DistanceFromStart()(loss, torch.zeros(5), torch.zeros(6))


def test_top_eigenvalues_result_carries_its_evidence() -> None:
    loss = quadratic(H, torch.zeros(6, dtype=torch.float64))
    result = TopEigenvalues(k=2, rtol=1e-9)(loss)
    np.testing.assert_allclose(result.eigenvalues, [4.0, 3.0], rtol=1e-9)
    assert result.lower is not None
    assert result.upper is not None
    assert result.converged and result.lower <= 4.0 <= result.upper
    record = result.to_record("abc")
    assert ProbeRecord.from_dict(json.loads(json.dumps(record.to_dict()))) == ProbeRecord.from_dict(record.to_dict())
    for field in (
        "dtype",
        "device",
        "threads",
        "num_examples",
        "norm",
        "batch_sizes",
        "data_sha256",
        "peak_memory",
        "versions",
    ):
        assert getattr(record, field) is not None, field
    assert record.checkpoint_sha256 == "abc" and record.hvp_backend == "exact" and record.num_hvps == result.num_hvps
    assert "reasons" in record.to_dict() and str(result).startswith("4 in [4, 4], 3 in [3, 3] at 99 %")


def test_pyhessian_sees_the_norm_mode_of_the_loss() -> None:
    case = CASES["norm, batch statistics instead of running"]
    model, batches = case.build()
    result = PyHessianCheck(tol=1e-8)(Loss(model, F.cross_entropy, batches, norm="batch", dtype=torch.float64))
    values = torch.linalg.eigvalsh(dense_hessian(case, model, batches, flatten(model)))
    largest = float(values[values.abs().argmax()])  # of either sign: that is what power iteration finds
    assert result.value == pytest.approx(largest, rel=1e-3)


def test_pyhessian_finds_the_same_eigenvalue_and_leaves_the_model_alone() -> None:
    model, batches = CASES["mlp"].build()
    loss = Loss(model, F.cross_entropy, batches, dtype=torch.float64)
    state = torch.get_rng_state()
    result = PyHessianCheck(tol=1e-8)(loss)
    assert result.agree and result.relative_difference < 1e-4
    assert all(p.grad is None for p in model.parameters())
    assert torch.equal(state, torch.get_rng_state())
    assert not PyHessianCheck(tol=0.5, max_iterations=1, agreement=1e-6)(loss).agree
