"""The Occam factor against log-determinants of dense matrices, and its invariance."""

from __future__ import annotations

import math

import pytest
import torch
from torch import nn
from torch.nn import functional as F

from sharpness.errors import InputError
from sharpness.loss import Loss
from sharpness.probes.occam import OccamFactor
from tests.cases import CASES
from tests.oracles import dense_gauss_newton, dense_hessian
from tests.probe_cases import noisy_quadratic, quadratic, small_network

H = torch.tensor([4.0, 1.0, 0.5, 2.0, 0.0], dtype=torch.float64)
W = torch.tensor([1.0, -2.0, 0.7, 3.0, 1.0], dtype=torch.float64)


def half_logdet(matrix: torch.Tensor, num_examples: int, prior: float) -> float:
    return 0.5 * float(torch.logdet(num_examples * matrix / prior + torch.eye(len(matrix), dtype=torch.float64)))


def test_on_a_quadratic_it_is_the_sum_of_logarithms_and_gives_the_evidence() -> None:
    # Many copies of each direction: a start tells as much as many of one copy.
    h, w, centres = H.repeat(10), W.repeat(10), torch.zeros(6, 50, dtype=torch.float64)
    result = OccamFactor(prior=0.3, matrix="hessian", starts=20)(noisy_quadratic(h, w, centres, 4))
    exact = 0.5 * float((6 * h / 0.3).log1p().sum())
    assert result.lower is not None and result.upper is not None and result.value is not None
    assert result.lower <= exact <= result.upper and result.value == pytest.approx(exact, rel=0.05)
    cost = 6 * 0.5 * float((h * w**2).sum()) + 0.15 * float((w**2).sum())
    assert result.cost == pytest.approx(cost) and result.log_evidence == pytest.approx(-(cost + result.value))


@pytest.mark.parametrize("name", ["mlp", pytest.param("layer norm", marks=pytest.mark.slow)])
def test_it_is_half_the_log_determinant_of_the_dense_gauss_newton_matrix(name: str) -> None:
    case, loss = CASES[name], small_network(name)
    model, batches = case.build()
    exact = half_logdet(dense_gauss_newton(case, model, batches, loss.weights), 9, 0.1)
    result = OccamFactor(prior=0.1, starts=20)(loss)
    assert result.lower is not None and result.upper is not None
    assert result.lower <= exact <= result.upper and result.value == pytest.approx(exact, rel=0.1)


def linear_regression(num_examples: int, scales: torch.Tensor, weight_decay: float = 0.0) -> tuple[Loss, torch.Tensor]:
    """Half the mean squared error of a linear layer on features of these scales, and its Hessian."""
    generator = torch.Generator().manual_seed(1)
    features = torch.randn(num_examples, len(scales), generator=generator, dtype=torch.float64) * scales
    model = nn.Linear(len(scales), 1, bias=False).double()

    def half_squared_error(output: torch.Tensor, target: torch.Tensor) -> torch.Tensor:
        return 0.5 * F.mse_loss(output, target)

    batches = [(features, torch.zeros(num_examples, 1, dtype=torch.float64))]
    loss = Loss(model, half_squared_error, batches, dtype=torch.float64, weight_decay=weight_decay)
    return loss, features.T @ features / len(features)


def test_few_steps_for_a_wide_spectrum_leave_a_wide_interval() -> None:
    # Gauss's rule alone makes 811 nats of 540, and 20 starts agree on it to 3 %.
    loss, hessian = linear_regression(200, torch.logspace(-2, 2, 200, dtype=torch.float64))
    exact = half_logdet(hessian, 200, 1.0)
    result = OccamFactor(steps=12, starts=20)(loss)
    assert result.lower is not None and result.upper is not None and result.value is not None
    assert result.lower <= exact <= result.upper and result.lower < result.value < result.upper
    assert result.converged is False and "raise steps" in result.reasons["converged"] and "NOT conv" in str(result)
    assert result.details()["gap"] > 4 * result.details()["standard_error"]
    more = OccamFactor(steps=60, starts=20)(loss)
    assert more.lower is not None and more.upper is not None and more.lower <= exact <= more.upper
    assert more.details()["gap"] < 0.2 * result.details()["gap"]


def test_it_converges_where_the_whole_interval_is_narrow() -> None:
    loss, hessian = linear_regression(60, torch.logspace(-1, 1, 100, dtype=torch.float64))
    result = OccamFactor(steps=40, starts=20)(loss)
    assert result.lower is not None and result.upper is not None
    assert result.converged and result.lower <= half_logdet(hessian, 60, 1.0) <= result.upper
    few = OccamFactor(steps=40, starts=2)(loss)
    assert few.converged is False and "raise starts" in few.reasons["converged"]


def test_an_upper_end_alone_where_the_hessian_may_reach_below_minus_the_prior() -> None:
    loss, hessian = linear_regression(200, torch.logspace(-2, 2, 200, dtype=torch.float64))
    result = OccamFactor(steps=12, starts=20, matrix="hessian")(loss)
    assert result.lower is None and "leave room for a curvature of -" in result.reasons["lower"]
    assert result.upper is not None and result.upper >= half_logdet(hessian, 200, 1.0)
    assert result.converged is False and "in [?, " in str(result)
    record = result.to_record().to_dict()
    assert record["lower"] is None and record["details"]["gap"] is None and record["details"]["standard_error"] > 0


@pytest.mark.parametrize("matrix", ["gauss_newton", "hessian"])
def test_the_prior_takes_the_place_of_a_penalty(matrix: str) -> None:
    loss, hessian = linear_regression(9, torch.full((300,), 1e-3, dtype=torch.float64), weight_decay=1e6)
    result = OccamFactor(prior=2.0, matrix=matrix, starts=20)(loss)
    assert result.lower is not None and result.upper is not None
    assert result.lower <= half_logdet(hessian, 9, 2.0) <= result.upper < 1e-2
    w = loss.weights
    cost = 9 * 0.5 * float(w @ hessian @ w) + 0.5 * 2.0 * float(w @ w)
    assert result.cost == pytest.approx(cost) and result.log_evidence == pytest.approx(-(cost + (result.value or 0.0)))
    record = result.to_record()
    assert record.weight_decay == 1e6 and f"{matrix} products" in record.self_check


def test_negative_curvature_has_no_factor_unless_the_prior_outweighs_it() -> None:
    case, loss = CASES["mlp"], small_network()
    model, batches = case.build()
    dense = dense_hessian(case, model, batches, loss.weights)
    lowest = float(torch.linalg.eigvalsh(dense)[0])
    assert lowest < 0
    none = OccamFactor(matrix="hessian", starts=2, prior=-4.5 * lowest)(loss)
    assert none.value is None and "gauss_newton" in none.reasons["value"] and none.num_nodes_outside > 0
    assert none.to_record().to_dict()["reasons"]["upper"] == none.reasons["value"] and "none: the curv" in str(none)
    prior = -18 * lowest
    some = OccamFactor(matrix="hessian", prior=prior, starts=10)(loss)
    assert some.lower is not None and some.upper is not None
    assert some.lower <= half_logdet(dense, 9, prior) <= some.upper


def test_zeros_that_rounding_made_negative_count_as_zeros() -> None:
    model = nn.Sequential(nn.Linear(4, 20), nn.Tanh(), nn.Linear(20, 3))
    x = torch.randn(6, 4, generator=torch.Generator().manual_seed(0))
    loss = Loss(model, F.cross_entropy, [(x, torch.tensor([0, 1, 2, 0, 1, 2]))])
    result = OccamFactor(prior=1e-6)(loss)
    in_float64 = OccamFactor(prior=1e-6)(Loss(model, F.cross_entropy, loss.batches, dtype=torch.float64))
    assert result.value is not None and in_float64.value is not None
    assert result.value == pytest.approx(in_float64.value, rel=0.15)


def test_bad_knobs_are_refused() -> None:
    loss = quadratic(H, W)
    for knobs, message in (({"prior": 0.0}, "prior"), ({"starts": 1}, "2 starts"), ({"confidence": 0.0}, "confid")):
        with pytest.raises(InputError, match=message):
            OccamFactor(**knobs)(loss)  # type: ignore[arg-type]
    with pytest.raises(InputError, match="averages"):
        OccamFactor()(small_network("mlp, summed"))
    assert math.isfinite(OccamFactor(matrix="hessian")(loss).value or math.nan)  # one example is no error
