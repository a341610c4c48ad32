"""Batch sharpness against enumeration, random batches, and the mean that stops by its interval."""

from __future__ import annotations

import itertools
import math

import numpy as np
import pytest
import torch
from torch import nn
from torch.nn import functional as F

from sharpness.errors import InputError, RunError
from sharpness.loss import Loss
from sharpness.loss.minibatches import Minibatches
from sharpness.probes.batch_sharpness import BatchSharpness
from sharpness.probes.methods.sampled_mean import sampled_mean
from tests.cases import CASES
from tests.oracles import dense_hessian
from tests.probe_cases import noisy_quadratic, quadratic, small_network

H = torch.tensor([4.0, 1.0, 0.5], dtype=torch.float64)
W = torch.tensor([1.0, -2.0, 0.7], dtype=torch.float64)
CENTRES = torch.randn(6, 3, generator=torch.Generator().manual_seed(0), dtype=torch.float64)


def test_it_is_the_mean_over_all_batches() -> None:
    # Every pair of the six examples as a batch: g_B = H (w - mean of its centres).
    loss = noisy_quadratic(H, W, CENTRES, 4)
    ratios = []
    for pair in itertools.combinations(range(6), 2):
        g = H * (W - CENTRES[list(pair)].mean(0))
        ratios.append(float(g @ (H * g) / (g @ g)))
    result = BatchSharpness(batch_size=2, rtol=2e-2, num_batches=1000)(loss)
    assert result.lower is not None and result.upper is not None and result.mean is not None
    assert result.lower <= np.mean(ratios) <= result.upper and result.batch_size == 2
    assert result.num_hvps == result.mean.num_drawn and result.hvp_backend == "exact"


@pytest.mark.parametrize("name", ["mlp", "mlp, class weights", "attention"])
def test_one_batch_of_all_the_data_is_the_rayleigh_quotient_of_the_gradient(name: str) -> None:
    case, loss = CASES[name], small_network(name)
    model, batches = case.build()
    dense, g = dense_hessian(case, model, batches, loss.weights), loss.grad(loss.weights)
    result = BatchSharpness(batch_size=9)(loss)
    tolerance = 1e-3 if result.hvp_backend == "finite_difference" else 1e-9
    assert result.value == pytest.approx(float(g @ dense @ g / (g @ g)), rel=tolerance)
    assert result.lower is None and "one batch" in result.reasons["lower"] and result.num_hvps == 1
    assert result.mean_over_means == pytest.approx(result.value)


def test_the_seed_decides_and_the_largest_batch_is_the_default() -> None:
    loss = small_network()
    values = [BatchSharpness(seed=seed, num_batches=10)(loss).value for seed in (0, 0, 1)]
    assert values[0] == values[1] != values[2]
    assert BatchSharpness(num_batches=2)(loss).batch_size == 5


def test_batches_without_a_gradient_are_left_out_and_counted() -> None:
    # Half of the examples sit at the weights themselves: a batch of one of them has no gradient.
    centres = torch.stack([W, W, W, W + 1, W + 1, W + 1])
    result = BatchSharpness(batch_size=1, num_batches=40)(noisy_quadratic(H, W, centres, 6))
    g = H * torch.ones(3, dtype=torch.float64)
    assert result.value == pytest.approx(float(g @ (H * g) / (g @ g)), rel=1e-12)
    assert result.mean is not None and 0 < result.mean.num_undefined < result.mean.num_drawn
    nothing = BatchSharpness(batch_size=1, num_batches=12)(noisy_quadratic(H, W, W.repeat(6, 1), 6))
    assert nothing.value is None and "0 of 12 random draws" in nothing.reasons["value"]
    assert nothing.to_record().to_dict()["confidence"] is None and "none: 0 of 12" in str(nothing)
    at_minimum = BatchSharpness()(quadratic(H, 0 * W))
    assert at_minimum.value is None and at_minimum.reasons["value"] == "the gradient is zero"


def test_random_batches_are_of_different_rows_drawn_evenly() -> None:
    batches = Minibatches(small_network(), 4)
    drawn = torch.stack([batches.rows(0, "test", i) for i in range(900)])
    assert bool((drawn.diff(dim=1) > 0).all())  # ascending, so all different
    counts = torch.bincount(drawn.flatten(), minlength=9)
    assert len(counts) == 9 and float((counts - 400).abs().max()) < 5 * math.sqrt(900 * (4 / 9) * (5 / 9))


@torch.no_grad()
def test_the_mean_of_random_batches_has_the_loss_of_those_rows() -> None:
    for name in ("mlp", "own loss over tokens"):
        loss, (model, batches) = small_network(name), CASES[name].build()
        pool = Minibatches(loss, 3)
        part, rows = pool.draw(1, "test", 2), pool.rows(1, "test", 2)
        assert part.num_examples == 3
        if name == "mlp":
            x, y = (torch.cat(parts)[rows] for parts in zip(*batches, strict=True))
            assert part.value(loss.weights) == pytest.approx(float(F.cross_entropy(model(x), y)), rel=1e-12)
        else:
            whole = {key: torch.cat([b[key] for b in batches])[rows] for key in batches[0]}
            assert part.value(loss.weights) == pytest.approx(float(model(**whole).loss), rel=1e-12)


def test_what_cannot_be_drawn_from_is_refused() -> None:
    loss = small_network()
    for size in (0, 10):
        with pytest.raises(InputError, match="from 1 to 9"):
            BatchSharpness(batch_size=size)(loss)

    def sequence(length: int) -> tuple[torch.Tensor, torch.Tensor]:
        return torch.zeros(2, length, 1), torch.zeros(2, length, 1)

    uneven = Loss(nn.Linear(1, 1), F.mse_loss, [sequence(3), sequence(4)])
    with pytest.raises(InputError, match="pad them alike"):
        BatchSharpness()(uneven)
    for knobs, message in (({"rtol": 0.0}, "rtol"), ({"confidence": 1.0}, "confidence"), ({"num_batches": 1}, "2 ")):
        with pytest.raises(InputError, match=message):
            BatchSharpness(**knobs)(loss)  # type: ignore[arg-type]


def test_intervals_of_a_sampled_mean_cover_and_stop_early() -> None:
    held, drawn = 0, []
    for seed in range(300):
        values = 1 + 0.3 * np.random.default_rng(seed).standard_normal(320)
        mean = sampled_mean(lambda i, values=values: float(values[i]), most=320, rtol=0.1, confidence=0.9)
        assert mean.lower is not None and mean.upper is not None
        held += mean.lower <= 1 <= mean.upper
        drawn.append(mean.num_drawn)
    assert held >= 0.9 * 300 - 3 * math.sqrt(300 * 0.09)
    assert max(drawn) < 320 and min(drawn) in (10, 20)
    with pytest.raises(RunError, match="finite"):
        sampled_mean(lambda i: math.inf, most=10, rtol=0.1, confidence=0.9)
