"""Average-case sharpness: closed forms on quadratics, the scaled trace of the dense Hessian, antithetic pairs."""

from __future__ import annotations

import json

import numpy as np
import pytest
import torch
from scipy import stats

from sharpness.errors import InputError, RunError
from sharpness.machine.environment import derived_seed
from sharpness.probes.average_case import AverageCaseSharpness
from sharpness.probes.methods.perturbations import scale_of
from sharpness.vectors import normal_vector
from tests.cases import CASES
from tests.oracles import dense_hessian
from tests.probe_cases import quadratic, small_network
from tests.scaled_networks import relu_network, rescaled

H = torch.tensor([4.0, 1.0, 0.5, 0.25, 2.0, 3.0], dtype=torch.float64)
W = torch.tensor([1.0, -2.0, 0.7, 3.0, -0.5, 0.1], dtype=torch.float64)


@pytest.mark.parametrize(("scaling", "c"), [("plain", torch.ones_like(W)), ("adaptive", W.abs())])
def test_on_a_quadratic_it_is_the_trace_of_the_scaled_hessian(scaling: str, c: torch.Tensor) -> None:
    loss, sigma = quadratic(H, W, offset=1.0), 0.3
    exact = 0.5 * sigma**2 * float((c * H * c).sum())
    result = AverageCaseSharpness(sigma=sigma, scaling=scaling, num_pairs=400)(loss)
    assert abs(result.value - exact) < 4 * result.standard_error < 0.4 * exact
    # The variance of sigma^2 / 2 sum_i c_i^2 h_i z_i^2 is sigma^4 / 2 sum_i (c_i^2 h_i)^2.
    deviation = sigma**2 * float((0.5 * (c * H * c) ** 2).sum().sqrt())
    assert result.standard_error * 20 == pytest.approx(deviation, rel=0.2)


@pytest.mark.parametrize("name", ["mlp", "norm, batch statistics", "mlp, class weights"])
@pytest.mark.parametrize("scaling", ["plain", "adaptive", "filter"])
def test_small_noise_sees_the_dense_hessian_and_no_gradient(name: str, scaling: str) -> None:
    loss, (model, batches), sigma = small_network(name), CASES[name].build(), 1e-4
    result = AverageCaseSharpness(sigma=sigma, scaling=scaling, num_pairs=5, seed=2)(loss)
    hessian, c = dense_hessian(CASES[name], model, batches, loss.weights), scale_of(loss, loss.weights, scaling)
    for number, rise in enumerate(result.pairs):
        u = c * normal_vector(len(c), derived_seed(2, "average_case", number), c)
        assert rise == pytest.approx(0.5 * sigma**2 * float(u @ hessian @ u), rel=1e-4, abs=1e-14)


def test_the_interval_is_students() -> None:
    result = AverageCaseSharpness(num_pairs=7, confidence=0.9)(small_network())
    lower, upper = stats.t.interval(0.9, 6, loc=result.pairs.mean(), scale=stats.sem(result.pairs))
    assert result.lower == pytest.approx(lower, rel=1e-12) and result.upper == pytest.approx(upper, rel=1e-12)
    assert result.standard_error == pytest.approx(float(stats.sem(result.pairs))) and result.confidence == 0.9


def test_a_linear_loss_has_neither_value_nor_error() -> None:
    # Opposite noises cancel to rounding, while each alone moves the loss by about sigma |gradient| = 0.7.
    loss = quadratic(H, W)
    tangent = quadratic(0 * H, W, offset=1.0)
    tangent.criterion = lambda output, target: 1.0 + (H * W * output).sum()
    assert AverageCaseSharpness(sigma=0.1, scaling="plain")(loss).value > 1e-3
    result = AverageCaseSharpness(sigma=0.1, scaling="plain")(tangent)
    assert abs(result.value) < 1e-13 and result.standard_error < 1e-13


def test_adaptive_noise_does_not_see_a_rescaling_and_plain_noise_does() -> None:
    loss, other = relu_network(), rescaled(relu_network(), 10.0)
    adaptive = [AverageCaseSharpness(sigma=0.05, num_pairs=5)(each).value for each in (loss, other)]
    assert adaptive[1] == pytest.approx(adaptive[0], rel=1e-6)
    plain = [AverageCaseSharpness(sigma=0.05, scaling="plain", num_pairs=5)(each).value for each in (loss, other)]
    assert plain[1] > 1.5 * plain[0]


def test_normalised_logits_do_not_see_the_scale_of_the_last_layer() -> None:
    loss = relu_network()
    w = loss.weights.clone()
    pieces = loss.layout.unflatten(w)
    for name in ("2.weight", "2.bias"):
        pieces[name].mul_(7)
    probe = AverageCaseSharpness(logits="normalised", num_pairs=5)
    assert probe(loss, w).value == pytest.approx(probe(loss).value, rel=1e-6)


def test_a_seed_gives_the_same_noise_in_every_dtype_and_more_pairs_continue_it() -> None:
    double, again, longer, other = (
        AverageCaseSharpness(num_pairs=n, seed=seed)(small_network()) for n, seed in ((4, 1), (4, 1), (6, 1), (4, 2))
    )
    assert np.array_equal(double.pairs, again.pairs) and np.array_equal(longer.pairs[:4], double.pairs)
    assert not np.array_equal(other.pairs, double.pairs)
    single = AverageCaseSharpness(num_pairs=4, seed=1)(small_network(dtype=torch.float32))
    np.testing.assert_allclose(single.pairs, double.pairs, rtol=1e-2, atol=1e-6)


def test_the_record_is_plain_and_complete() -> None:
    reports = list[tuple[int, int]]()
    result = AverageCaseSharpness(num_pairs=3)(
        small_network(), progress=lambda done, total: reports.append((done, total))
    )
    record = json.loads(json.dumps(result.to_record().to_dict(), allow_nan=False))
    assert record["num_forwards"] == 7 and len(record["details"]["pairs"]) == 3 and record["lower"] < record["upper"]
    assert reports == [(1, 3), (2, 3), (3, 3)] and "at 95 %" in str(result)


@pytest.mark.parametrize(
    ("knobs", "message"),
    [
        ({"sigma": 0.0}, "positive sigma"),
        ({"scaling": "none"}, "unknown scaling 'none'"),
        ({"logits": "raw"}, "unknown logits 'raw'"),
        ({"num_pairs": 1}, "at least 2 pairs"),
        ({"confidence": 1.0}, "confidence between 0 and 1"),
    ],
)
def test_bad_knobs_are_refused(knobs: dict[str, object], message: str) -> None:
    with pytest.raises(InputError, match=message):
        AverageCaseSharpness(**knobs)(small_network())  # type: ignore[arg-type]


def test_an_infinite_loss_is_an_error_of_one_line() -> None:
    for h, w in ((H, 1e200), (1e307 * H, 1.0)):
        with pytest.raises(RunError, match=r"expected a finite loss (at the weights|under the noise), got inf: "):
            AverageCaseSharpness(sigma=3.0)(quadratic(h, torch.full((6,), w, dtype=torch.float64)))
