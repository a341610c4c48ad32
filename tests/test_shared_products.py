"""Solves of one loss share their first products, and their results have the same bits as without."""

from __future__ import annotations

import pytest
import torch
from torch import nn
from torch.nn import functional as F

from sharpness import Loss
from sharpness.linalg.shared_products import NUM_SHARED, SharedProducts
from sharpness.probes.eigenvalues import TopEigenvalues
from sharpness.probes.trace import Trace


def small_loss() -> Loss:
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(6, 20), nn.Tanh(), nn.Linear(20, 3))
    batches = [(torch.randn(size, 6), torch.randint(3, (size,))) for size in (17, 8)]
    return Loss(model, F.cross_entropy, batches, dtype=torch.float64)


def test_the_trace_takes_its_sketch_from_the_eigenvalue_with_the_same_bits() -> None:
    loss, shared = small_loss(), SharedProducts()
    probe = Trace(method="krylov", rtol=1e-9, num_hvps=NUM_SHARED + 12)
    eigenvalue = TopEigenvalues(rtol=1e-6)(loss, shared=shared)
    alone, sharing = probe(loss), probe(loss, shared=shared)
    assert eigenvalue.num_hvps >= NUM_SHARED
    assert (alone.value, alone.lower, alone.upper) == (sharing.value, sharing.lower, sharing.upper)
    assert sharing.details()["num_shared_hvps"] == NUM_SHARED
    assert sharing.num_hvps == alone.num_hvps == NUM_SHARED + 12
    assert TopEigenvalues(rtol=1e-6)(loss).value == eigenvalue.value


def test_products_with_an_error_and_of_another_backend_are_not_shared() -> None:
    loss = small_loss()
    probe = TopEigenvalues(backend="finite_difference", rtol=0.05)
    alone, shared = probe(loss), SharedProducts()
    Trace(method="krylov", backend="finite_difference")(loss, shared=shared)
    again, exact = probe(loss, shared=shared), TopEigenvalues(backend="exact")(loss, shared=shared)
    assert again.details()["hvp_error"] == alone.details()["hvp_error"] > 0
    assert (again.lower, again.upper, again.details()["num_shared_hvps"]) == (alone.lower, alone.upper, 0)
    assert (exact.details()["hvp_error"], exact.details()["num_shared_hvps"]) == (0, 0)


def test_a_solve_of_shared_products_alone_says_how_they_were_made() -> None:
    loss, shared = small_loss(), SharedProducts()
    Trace(method="krylov")(loss, shared=shared)
    eigenvalue = TopEigenvalues(rtol=0.5)(loss, shared=shared)
    assert eigenvalue.num_hvps == eigenvalue.details()["num_shared_hvps"]
    assert eigenvalue.hvp_backend == "exact"


def test_other_weights_and_matrices_share_nothing() -> None:
    loss, shared = small_loss(), SharedProducts()
    TopEigenvalues()(loss, shared=shared)
    for probe, w in ((TopEigenvalues(), loss.weights + 1e-3), (TopEigenvalues(matrix="gauss_newton"), loss.weights)):
        result = probe(loss, w, shared=shared)
        assert result.details()["num_shared_hvps"] == 0
        assert result.value == pytest.approx(probe(loss, w).value, rel=1e-12)
