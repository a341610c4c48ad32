"""Gradient-noise interaction and interaction-aware sharpness against enumeration and closed forms."""

from __future__ import annotations

import itertools
import json
from functools import cache
from typing import Any

import numpy as np
import pytest
import torch

from sharpness.errors import InputError
from sharpness.probes.batch_sharpness import BatchSharpness
from sharpness.probes.interaction import Interaction, InteractionResult
from tests.cases import CASES
from tests.oracles import dense_hessian
from tests.probe_cases import noisy_quadratic, quadratic, small_network

H = torch.tensor([4.0, 1.0, 0.5], dtype=torch.float64)
W = torch.tensor([1.0, -2.0, 0.7], dtype=torch.float64)
CENTRES = torch.randn(6, 3, generator=torch.Generator().manual_seed(0), dtype=torch.float64)


@cache
def over_pairs(ratio: str) -> InteractionResult:
    return Interaction(ratio=ratio, batch_size=2, rtol=0.03)(noisy_quadratic(H, W, CENTRES, 4))


@pytest.mark.parametrize("ratio", ["gni", "ias"])
def test_it_is_the_mean_over_all_batches(ratio: str) -> None:
    # Every pair of the six examples as a batch: g_B = H (w - mean of its centres).
    square, ratios = float((H * (W - CENTRES.mean(0))).square().sum()), []
    for pair in itertools.combinations(range(6), 2):
        g = H * (W - CENTRES[list(pair)].mean(0))
        ratios.append(float(g @ (H * g)) / (square if ratio == "gni" else float(g @ g)))
    result = over_pairs(ratio)
    assert result.lower is not None and result.upper is not None and result.mean is not None
    assert result.lower <= np.mean(ratios) <= result.upper and result.quantity == ratio
    assert result.num_hvps == result.mean.num_drawn == result.num_gradients - 1 and result.hvp_backend == "exact"
    assert result.squared_gradient == pytest.approx(square)
    assert result.value == pytest.approx(result.details()[ratio])


def test_gni_is_the_closed_form_of_noise_and_gradient() -> None:
    # E g_B^T H g_B = g^T H g + tr(H Sigma) / B (N - B) / (N - 1) without replacement: the mean loss of a step.
    loss = noisy_quadratic(H, W, CENTRES, 4)
    g = H * (W - CENTRES.mean(0))
    noise = float((H**3 * CENTRES.var(0, correction=0)).sum()) / 2 * (6 - 2) / (6 - 1)
    expected = (float(g @ (H * g)) + noise) / float(g @ g)
    result = over_pairs("gni")
    assert result.lower is not None and result.upper is not None and result.lower <= expected <= result.upper
    drops = []
    for pair in itertools.combinations(range(6), 2):  # at eta = 2 / GNI a step changes nothing on average
        drops.append(loss.value(W - 2 / expected * H * (W - CENTRES[list(pair)].mean(0))) - loss.value(W))
    assert abs(np.mean(drops)) < 1e-12


@pytest.mark.parametrize("name", ["mlp", "attention"])
def test_it_takes_the_hessian_of_all_the_data(name: str) -> None:
    case, loss = CASES[name], small_network(name)
    model, batches = case.build()
    dense = dense_hessian(case, model, batches, loss.weights)
    g = loss.grad(loss.weights)
    for ratio in ("gni", "ias"):
        result = Interaction(ratio=ratio, batch_size=9)(loss)
        assert result.value == pytest.approx(float(g @ dense @ g / (g @ g)), rel=1e-9)
        assert result.lower is None and "one batch" in result.reasons["lower"] and result.num_hvps == 1
    single = Interaction(ratio="ias", batch_size=1, num_batches=2)(loss)
    parts = [part for _, part in loss.parts(1)]
    ratios = {float(h @ dense @ h / (h @ h)) for h in (part.grad(loss.weights) for part in parts)}
    assert single.mean is not None and min(ratios) < single.value < max(ratios)  # type: ignore[operator]
    assert single.value != BatchSharpness(batch_size=1, num_batches=2)(loss).value


def test_a_zero_gradient_has_no_ratio() -> None:
    for ratio in ("gni", "ias"):
        at_minimum = Interaction(ratio=ratio)(quadratic(H, 0 * W))
        assert at_minimum.value is None and at_minimum.reasons["value"] == "the gradient is zero"
        assert f"{ratio.upper()} none: the gradient is zero" in str(at_minimum)
    noisy = noisy_quadratic(H, torch.zeros(3, dtype=torch.float64), torch.stack([W, -W, W, -W]), 4)
    gni, ias = (Interaction(ratio=ratio, batch_size=1, num_batches=4)(noisy) for ratio in ("gni", "ias"))
    assert gni.value is None and "0 of 4 random draws" in gni.reasons["value"] and gni.ias is not None
    g = H * W
    assert ias.value == pytest.approx(float(g @ (H * g) / (g @ g)), rel=1e-12) and ias.gni is None


def test_records_are_plain_and_reproducible() -> None:
    loss, seen = small_network(), list[tuple[int, int]]()
    values = [Interaction(seed=seed, num_batches=10)(loss).value for seed in (0, 0, 1)]
    assert values[0] == values[1] != values[2]
    result = Interaction(num_batches=10, rtol=1e-9)(loss, progress=lambda done, total: seen.append((done, total)))
    assert seen == [(i, 10) for i in range(1, 11)] and "NOT converged" in str(result) and "GNI" in str(result)
    record = json.loads(json.dumps(result.to_record().to_dict(), allow_nan=False))
    assert record["details"]["batch_size"] == 5 and record["details"]["ias"] > 0 and record["converged"] is False


@pytest.mark.parametrize(
    ("knobs", "message"),
    [
        ({"ratio": "batch"}, "unknown ratio 'batch': expected one of gni, ias"),
        ({"batch_size": 10}, "from 1 to 9"),
        ({"rtol": 0.0}, "rtol"),
        ({"confidence": 1.0}, "confidence"),
        ({"num_batches": 1}, "at least 2"),
    ],
)
def test_bad_knobs_are_refused(knobs: dict[str, Any], message: str) -> None:
    with pytest.raises(InputError, match=message):
        Interaction(**knobs)(small_network())
