"""The trace of the Fisher matrices against dense ones."""

from __future__ import annotations

import pytest
import torch

from sharpness.curvature import FisherOperator
from sharpness.errors import InputError
from sharpness.linalg.operators import to_dense
from sharpness.probes.fisher_trace import FisherTrace
from tests.cases import CASES
from tests.oracles import dense_empirical_fisher
from tests.probe_cases import quadratic, small_network

NAMES = ["mlp", "mlp, class weights", "mlp, ignored class", "mlp, mean squared error", "gru", "attention"]


@pytest.mark.parametrize("name", NAMES)
def test_the_empirical_trace_is_that_of_the_dense_matrix(name: str) -> None:
    case, loss = CASES[name], small_network(name)
    model, batches = case.build()
    result = FisherTrace(matrix="empirical_fisher")(loss)
    assert result.value == pytest.approx(
        float(dense_empirical_fisher(case, model, batches, loss.weights).trace()), rel=1e-9
    )
    assert result.num_hvps == 0 and result.lower is None and "exact" in result.reasons["lower"]


def test_a_model_with_its_own_loss_and_a_single_example_have_one_too() -> None:
    loss = small_network("own loss over tokens")
    by_parts = sum(
        share * loss.data.count(next(iter(part.batches))) * float(part.grad(loss.weights).square().sum())
        for share, part in loss.parts(1)
    )
    assert FisherTrace(matrix="empirical_fisher")(loss).value == pytest.approx(by_parts, rel=1e-9)
    h = torch.tensor([1.0, 2.0], dtype=torch.float64)
    assert FisherTrace(matrix="empirical_fisher")(quadratic(h, h)).value == pytest.approx(1 + 16)


@pytest.mark.parametrize("name", ["mlp", "mlp, mean squared error"])
def test_the_fisher_trace_is_that_of_its_operator(name: str) -> None:
    loss = small_network(name)
    exact = float(to_dense(FisherOperator(loss)).trace())
    for method in ("hutchinson", "xtrace"):
        result = FisherTrace(seed=3, method=method)(loss)
        assert result.lower is not None and result.upper is not None and result.value is not None
        assert result.lower <= exact <= result.upper and result.converged and result.num_hvps > 0
        assert result.to_record().details["targets"] == "closed form"


def test_with_batch_statistics_the_empirical_trace_is_estimated() -> None:
    loss = small_network("norm, batch statistics")
    exact = float(to_dense(FisherOperator(loss, seed=None)).trace())
    result = FisherTrace(matrix="empirical_fisher")(loss)
    assert result.lower is not None and result.upper is not None and result.lower <= exact <= result.upper


def test_other_matrices_are_refused() -> None:
    with pytest.raises(InputError, match="fisher"):
        FisherTrace(matrix="hessian")(small_network())
