"""The largest adaptive radius against its closed form on quadratics, and its invariance."""

from __future__ import annotations

import math

import pytest
import torch
from torch import Tensor, nn

from sharpness.errors import InputError, RunError
from sharpness.loss import Loss
from sharpness.probes.adaptive_radius import AdaptiveRadius
from tests.probe_cases import quadratic, small_network

H = torch.tensor([4.0, 1.0, 0.5, 2.0], dtype=torch.float64)
W = torch.tensor([1.0, -2.0, 0.7, 3.0], dtype=torch.float64)


@pytest.mark.parametrize("rise", [0.1, 5.0])
def test_on_a_quadratic_it_has_its_closed_form(rise: float) -> None:
    # The outer corner of the box is the maximum: ((1 + alpha)^2 - 1) w^T H w / 2 = rise.
    loss = quadratic(H, W, offset=1.0)
    exact = math.sqrt(1 + 2 * rise / float((H * W**2).sum())) - 1
    result = AdaptiveRadius(rise=rise, rtol=1e-3)(loss)
    assert result.value is not None and result.upper is not None
    assert result.value <= exact * (1 + 1e-9) and exact <= result.upper * (1 + 1e-9)
    assert result.upper <= 1.001 * result.value and result.sharpness == pytest.approx(1 / result.value**2)


def test_it_does_not_see_a_rescaling() -> None:
    d = torch.tensor([10.0, 0.1, 3.0, 1.0], dtype=torch.float64)
    before, after = AdaptiveRadius()(quadratic(H, W)), AdaptiveRadius()(quadratic(H / d**2, d * W))
    assert after.value == pytest.approx(before.value, rel=1e-12)


def test_a_small_radius_agrees_with_the_gradient() -> None:
    loss = small_network()
    slope = float((loss.grad(loss.weights) * loss.weights).abs().sum())
    assert AdaptiveRadius(rise=1e-7, rtol=1e-4)(loss).value == pytest.approx(1e-7 / slope, rel=1e-3)


def test_no_radius_is_null_with_a_reason() -> None:
    flat = AdaptiveRadius(most=3)(quadratic(H, 0 * W))  # weights of 0 do not move
    assert flat.value is None and "less than 0.1 even at radius 0.08" in flat.reasons["value"] and flat.upper is None
    steep = AdaptiveRadius(most=1)(quadratic(1e8 * H, W))
    assert steep.value is None and steep.upper == 5e-3 and "more than 0.1" in steep.reasons["value"]
    assert "none: the loss rises by more" in str(steep)


def test_a_loss_that_overflows_counts_as_risen() -> None:
    def criterion(output: Tensor, target: Tensor) -> Tensor:
        return torch.where(output.abs().max() > 1.5, torch.inf, 0.001 * (output**2).mean())

    batch = (torch.eye(3, dtype=torch.float64), torch.zeros(3, 1))
    loss = Loss(nn.Linear(3, 1, bias=False).double(), criterion, [batch], dtype=torch.float64)
    result = AdaptiveRadius(rtol=1e-3)(loss, torch.ones(3))
    assert result.value == pytest.approx(0.5, rel=2e-3)
    assert None in [row[1] for row in result.to_record().to_dict()["details"]["tried"]]


@pytest.mark.parametrize(
    ("knobs", "message"),
    [({"rise": 0.0}, "positive rise"), ({"num_gradients": 0}, "1 gradient"), ({"most": 0}, "doub")],
)
def test_bad_knobs_are_refused(knobs: dict[str, object], message: str) -> None:
    with pytest.raises(InputError, match=message):
        AdaptiveRadius(**knobs)(quadratic(H, W))  # type: ignore[arg-type]


def test_an_infinite_loss_is_an_error() -> None:
    with pytest.raises(RunError, match="finite loss"):
        AdaptiveRadius()(quadratic(H, W * 1e200))
