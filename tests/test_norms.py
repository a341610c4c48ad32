"""Norms of weights against singular values, and how they scale."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch

from sharpness.probes.norms import WeightNorms
from tests.probe_cases import quadratic, small_network


def test_norms_are_those_of_numpy() -> None:
    loss = small_network("convolution")
    result, pieces = WeightNorms()(loss), loss.layout.unflatten(loss.weights)
    assert result.value == pytest.approx(np.linalg.norm(loss.weights.numpy()))
    assert result.largest == float(loss.weights.abs().max())
    spectral = []
    for row, (name, piece) in zip(result.layers, pieces.items(), strict=True):
        assert row["name"] == name and row["l2"] == pytest.approx(np.linalg.norm(piece.numpy().ravel()))
        if piece.ndim < 2:
            assert row["spectral"] is None
        else:
            spectral.append(np.linalg.svd(piece.numpy().reshape(len(piece), -1), compute_uv=False)[0])
            assert row["spectral"] == pytest.approx(spectral[-1])
    assert len(spectral) == 2 and result.spectral_sum == pytest.approx(sum(spectral))
    assert result.log_spectral_product == pytest.approx(np.log(spectral).sum())


def test_the_product_sees_no_rescaling_between_layers_but_the_sum_does() -> None:
    loss = small_network()
    pieces = {name: piece.clone() for name, piece in loss.layout.unflatten(loss.weights).items()}
    pieces["0.weight"] *= 10
    pieces["2.weight"] /= 10
    after = WeightNorms()(loss, torch.cat([piece.flatten() for piece in pieces.values()]))
    before = WeightNorms()(loss)
    assert before.spectral_sum is not None and after.spectral_sum is not None
    assert after.log_spectral_product == pytest.approx(before.log_spectral_product)
    assert abs(after.spectral_sum / before.spectral_sum - 1) > 0.5


def test_without_matrices_or_with_a_zero_one_there_is_no_product() -> None:
    vectors = WeightNorms()(quadratic(torch.ones(3), torch.ones(3)))
    assert vectors.spectral_sum is None and vectors.value == pytest.approx(math.sqrt(3)) and "none" in str(vectors)
    loss = small_network()
    zero = WeightNorms()(loss, torch.zeros_like(loss.weights))
    assert zero.log_spectral_product is None and zero.spectral_sum == 0 and zero.value == 0
