"""The Fisher-Rao norm against dense matrices, Euler's identity, and a rescaling."""

from __future__ import annotations

import json

import pytest
import torch
from torch import nn
from torch.nn import functional as F

from sharpness.curvature import FisherOperator
from sharpness.errors import InputError
from sharpness.linalg.operators import to_dense
from sharpness.loss import Loss
from sharpness.probes.fisher_rao import FisherRaoNorm
from tests.cases import CASES
from tests.oracles import dense_empirical_fisher
from tests.probe_cases import small_network
from tests.scaled_networks import relu_network, rescaled


@pytest.mark.parametrize("name", ["mlp", "mlp, class weights", "mlp, ignored class", "attention", "tied weights"])
def test_the_empirical_norm_is_that_of_the_dense_matrix(name: str) -> None:
    case, loss = CASES[name], small_network(name)
    model, batches = case.build()
    w = loss.weights
    result = FisherRaoNorm()(loss)
    assert result.value == pytest.approx(float(w @ dense_empirical_fisher(case, model, batches, w) @ w), rel=1e-9)
    assert result.num_hvps == 1 and result.seed is None and result.quantity == "empirical_fisher_rao_norm"


def test_the_fisher_matrix_is_exact_or_of_draws_whose_error_is_shown() -> None:
    loss = small_network()
    w = loss.weights
    exact, drawn = FisherRaoNorm(matrix="fisher")(loss), FisherRaoNorm(matrix="fisher", seed=3, draws=20)(loss)
    truth = float(w @ to_dense(FisherOperator(loss)) @ w)
    assert exact.value == pytest.approx(truth, rel=1e-9) and exact.seed is None and exact.lower is None
    assert drawn.value == pytest.approx(float(w @ to_dense(FisherOperator(loss, seed=3, draws=20)) @ w), rel=1e-9)
    assert drawn.lower is not None and drawn.upper is not None and drawn.lower < truth < drawn.upper
    assert drawn.seed == 3 and drawn.num_hvps == 21 and drawn.to_record().details["targets"] == "20 draws"


def test_without_biases_it_follows_from_the_outputs_alone() -> None:
    # Euler: w^T grad f = 3 f for three layers, so w^T F w = 9 mean_n <logits, dl / dlogits>^2.
    layers = (nn.Linear(4, 6, bias=False), nn.ReLU(), nn.Linear(6, 5, bias=False), nn.ReLU())
    with torch.random.fork_rng():
        torch.manual_seed(0)
        model = nn.Sequential(*layers, nn.Linear(5, 3, bias=False)).double()
        x, y = torch.randn(9, 4, dtype=torch.float64), torch.randint(3, (9,))
    loss = Loss(model, F.cross_entropy, list(zip(x.split(5), y.split(5), strict=True)), dtype=torch.float64)
    logits = model(x).detach()
    slopes = logits.softmax(1) - F.one_hot(y, 3)
    assert FisherRaoNorm()(loss).value == pytest.approx(9 * float((logits * slopes).sum(1).square().mean()), rel=1e-9)


@pytest.mark.parametrize("matrix", ["fisher", "empirical_fisher"])
def test_it_stays_under_a_rescaling(matrix: str) -> None:
    values = [FisherRaoNorm(matrix=matrix)(loss).value for loss in (relu_network(), rescaled(relu_network(), 10.0))]
    assert values[1] == pytest.approx(values[0], rel=1e-9)


def test_the_record_is_plain_and_other_matrices_are_refused() -> None:
    loss = small_network()
    result = FisherRaoNorm()(loss, 2 * loss.weights)
    record = json.loads(json.dumps(result.to_record().to_dict(), allow_nan=False))
    assert record["details"]["squared_length"] == pytest.approx(4 * float(loss.weights @ loss.weights))
    assert record["details"]["root"] ** 2 == pytest.approx(record["value"]) and "empirical_fisher" in str(result)
    with pytest.raises(InputError, match="unknown Fisher matrix 'hessian'"):
        FisherRaoNorm(matrix="hessian")(loss)
    with pytest.raises(InputError, match="own loss"):
        FisherRaoNorm()(small_network("own loss over tokens"))
