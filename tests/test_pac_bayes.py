"""The largest sigma against closed forms on quadratics, invariances, and every way of having none."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch

from sharpness.errors import InputError, RunError
from sharpness.loss import Loss
from sharpness.probes.methods.level import bracket
from sharpness.probes.pac_bayes import PacBayesSigma
from tests.cases import CASES
from tests.oracles import dense_hessian
from tests.probe_cases import quadratic, small_network

pytestmark = pytest.mark.dear

H = torch.tensor([4.0, 1.0, 0.5, 2.0], dtype=torch.float64)
W = torch.tensor([1.0, -2.0, 0.7, 3.0], dtype=torch.float64)
MANY_H, MANY_W = H.repeat(8), W.repeat(8)
"""Eight independent copies of each direction: a pair of draws tells as much as eight of one copy."""


@pytest.mark.parametrize(("w", "rise"), [(0 * MANY_W, 24.0), (MANY_W, 0.8)])
def test_plain_sigma_has_its_closed_form_on_a_quadratic_everywhere(w: torch.Tensor, rise: float) -> None:
    # E L(w + sigma u) - L(w) = sigma^2 tr H / 2 at every w: antithetic pairs have no gradient term.
    result = PacBayesSigma(rise=rise, num_pairs=8, first_sigma=0.1)(quadratic(MANY_H, w, offset=1.0))
    truth = math.sqrt(2 * rise / float(MANY_H.sum()))
    assert result.value is not None and result.lower is not None and result.upper is not None
    assert result.lower <= truth <= result.upper and result.lower <= result.value <= result.upper
    assert result.upper / result.lower < 1.35
    assert result.search.low is not None and result.search.high is not None
    assert result.search.low <= result.value <= result.search.high <= 1.01 * result.search.low
    assert result.flatness == pytest.approx(1 / result.value**2)


def test_intervals_cover() -> None:
    truth, loss = math.sqrt(2 * 0.1 / float(MANY_H.sum())), quadratic(MANY_H, 0 * MANY_W)
    held = 0
    for seed in range(25):
        result = PacBayesSigma(confidence=0.8, num_pairs=4, first_sigma=0.05, rtol=0.02, seed=seed)(loss)
        assert result.lower is not None and result.upper is not None
        held += result.lower <= truth <= result.upper
    assert held >= 0.8 * 25 - 3 * math.sqrt(25 * 0.16)


def test_magnitude_aware_sigma_has_its_closed_form_and_sees_no_rescaling() -> None:
    rise, floor, h, w = 4.0, 1e-2, MANY_H, MANY_W
    result = PacBayesSigma(rise=rise, scaling="magnitude", floor=floor, num_pairs=8, first_sigma=0.1)(quadratic(h, w))
    truth = math.sqrt((2 * rise - floor**2 * float(h.sum())) / float((h * w**2).sum()))
    assert result.lower is not None and result.upper is not None and result.quantity == "magnitude_aware_sigma"
    assert result.lower <= truth <= result.upper
    # w -> D w with H -> D^-1 H D^-1 keeps the function: without a floor nothing moves, while the plain sigma does.
    d = torch.tensor([10.0, 0.1, 3.0, 1.0], dtype=torch.float64)
    for scaling, moves in (("magnitude", False), ("plain", True)):
        probe = PacBayesSigma(scaling=scaling, floor=0.0, num_pairs=2)
        before, after = (probe(quadratic(h, w)).value for h, w in ((H, W), (H / d**2, d * W)))
        assert (after == pytest.approx(before, rel=1e-9)) is not moves


def test_small_sigmas_agree_with_the_trace_of_the_dense_hessian() -> None:
    loss, (model, batches) = small_network(), CASES["mlp"].build()
    trace = float(dense_hessian(CASES["mlp"], model, batches, loss.weights).trace())
    result = PacBayesSigma(rise=1e-5, num_pairs=30, first_sigma=2e-3)(loss)
    assert result.lower is not None and result.upper is not None
    assert result.lower * 0.99 <= math.sqrt(2e-5 / trace) <= result.upper * 1.01


def test_no_sigma_is_null_with_a_reason() -> None:
    downhill = PacBayesSigma(most=3, num_pairs=2)(quadratic(-H, W))
    assert downhill.value is None and "less than 0.1 even at sigma 0.08" in downhill.reasons["value"]
    floored = PacBayesSigma(scaling="magnitude", floor=10.0, num_pairs=2)(quadratic(H, W))
    assert floored.value is None and "more than 0.1" in floored.reasons["value"] and not floored.converged
    assert floored.to_record().to_dict()["reasons"]["lower"] == floored.reasons["value"]
    assert "none: the mean loss rises by more" in str(floored)


def test_a_loss_that_overflows_counts_as_risen() -> None:
    def criterion(output: torch.Tensor, target: torch.Tensor) -> torch.Tensor:
        return torch.where(output.abs().max() > 1.0, torch.inf, 0.01 * (output**2).mean())

    model = torch.nn.Linear(3, 1, bias=False).double()
    batch = (torch.eye(3, dtype=torch.float64), torch.zeros(3, 1))
    loss = Loss(model, criterion, [batch], dtype=torch.float64)
    result = PacBayesSigma()(loss, torch.zeros(3))
    assert result.value is not None and 0.1 < result.value < 1.0
    assert any(row[1] is None for row in result.tried)
    assert result.to_record().to_dict()["value"] == result.value


@pytest.mark.parametrize(
    ("knobs", "message"),
    [({"rise": 0.0}, "positive rise"), ({"scaling": "adaptive"}, "magnitude"), ({"floor": -1.0}, "floor"),
     ({"num_pairs": 1}, "2 pairs"), ({"first_sigma": 0.0}, "search from"), ({"rtol": 0.0}, "rtol"),
     ({"most": 0}, "doubling"), ({"confidence": 0.0}, "confidence")],
)  # fmt: skip
def test_bad_knobs_are_refused(knobs: dict[str, object], message: str) -> None:
    with pytest.raises(InputError, match=message):
        PacBayesSigma(**knobs)(quadratic(H, W))  # type: ignore[arg-type]


def test_an_infinite_loss_is_an_error_and_seeds_decide() -> None:
    with pytest.raises(RunError, match="finite loss"):
        PacBayesSigma()(quadratic(H, W * 1e200))
    loss = small_network("norm, batch statistics")
    values = [PacBayesSigma(seed=seed, num_pairs=2, first_sigma=0.2)(loss).value for seed in (0, 0, 1)]
    assert values[0] == values[1] != values[2]


def test_brackets_hold_the_crossing_from_both_sides() -> None:
    for first in (1e-6, 1.0, 1e6):
        found = bracket(lambda x: x > np.pi, first, rtol=1e-6, most=60)
        assert found.low is not None and found.high is not None
        assert found.low <= np.pi < found.high <= (1 + 1e-6) * found.low
