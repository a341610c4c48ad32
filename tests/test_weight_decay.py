"""The L2 penalty of a loss against the penalty written out by hand: values, derivatives, matrices, parts, commands."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest
import torch
from torch.nn import functional as F

from sharpness.config import RunConfig, TrainingConfig
from sharpness.curvature import FisherOperator, GaussNewtonOperator, HessianOperator
from sharpness.errors import InputError
from sharpness.linalg.operators import to_dense
from sharpness.loss import Loss
from sharpness.loss.per_example import UnitGradients
from sharpness.measure.runner import measure
from sharpness.measure.user_checkpoint import load_user_checkpoint
from sharpness.measure.weight_decay import weight_decay_of
from sharpness.probes import KeskarSharpness, PyHessianCheck, TopEigenvalues, Trace
from sharpness.probes.fisher_trace import FisherTrace
from sharpness.results import facts_of
from sharpness.runs import RecordFolder, RunFolder
from tests.cases import CASES
from tests.given_cases import classifier, mlp, seeded
from tests.oracles import dense_empirical_fisher, dense_gauss_newton, dense_hessian, whole_loss
from tests.probe_cases import quadratic
from tests.test_given import CPU, as_request

MU = 0.3
NAMES = ["mlp", "mlp, summed", "norm, batch statistics", "unused and frozen", "own loss over tokens"]


def penalised(name: str, weight_decay: float = MU) -> Loss:
    case = CASES[name]
    model, batches = case.build()
    return Loss(model, case.criterion, batches, norm=case.norm, weight_decay=weight_decay, dtype=torch.float64)


def assert_equal(ours: torch.Tensor, theirs: torch.Tensor) -> None:
    torch.testing.assert_close(ours, theirs, rtol=1e-9, atol=1e-11)


@pytest.mark.parametrize("name", NAMES)
def test_value_gradient_and_products_are_those_of_the_penalised_loss(name: str) -> None:
    case, loss = CASES[name], penalised(name)
    model, batches = case.build()
    data, w = whole_loss(case, model, batches), loss.weights.clone().requires_grad_()
    expected = data(w) + MU / 2 * w.square().sum()
    (gradient,) = torch.autograd.grad(expected, w)
    value, ours = loss.value_and_grad(loss.weights)
    assert value == pytest.approx(float(expected.detach()), rel=1e-12)
    assert loss.value(loss.weights) == pytest.approx(value, rel=1e-12)
    assert_equal(ours, gradient)
    dense = dense_hessian(case, model, batches, loss.weights) + MU * torch.eye(loss.layout.size, dtype=torch.float64)
    assert_equal(to_dense(HessianOperator(loss)), dense)
    v = torch.randn(loss.layout.size, dtype=torch.float64, generator=torch.Generator().manual_seed(1))
    assert_equal(loss.hvp(loss.weights, v), dense @ v)
    differences = HessianOperator(loss, backend="finite_difference").matvec(v)
    torch.testing.assert_close(differences, dense @ v, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("name", ["mlp", "mlp, class weights"])
def test_it_is_part_of_the_gauss_newton_matrix_and_of_no_fisher_matrix(name: str) -> None:
    case, loss = CASES[name], penalised(name)
    model, batches = case.build()
    identity = torch.eye(loss.layout.size, dtype=torch.float64)
    gauss_newton = dense_gauss_newton(case, model, batches, loss.weights)
    assert_equal(to_dense(GaussNewtonOperator(loss)), gauss_newton + MU * identity)
    differences = to_dense(GaussNewtonOperator(loss, backend="finite_difference"))
    torch.testing.assert_close(differences, gauss_newton + MU * identity, rtol=1e-5, atol=1e-6)
    fisher = dense_empirical_fisher(case, model, batches, loss.weights)
    assert_equal(to_dense(FisherOperator(loss, seed=None)), fisher)
    assert FisherTrace(matrix="empirical_fisher")(loss).value == pytest.approx(float(fisher.trace()), rel=1e-9)


@pytest.mark.parametrize("name", ["mlp", "mlp, summed"])
def test_parts_and_units_add_up_to_it_and_changed_losses_carry_it(name: str) -> None:
    loss = penalised(name)
    w, (value, gradient) = loss.weights, loss.value_and_grad(loss.weights)
    parts = list(loss.parts(2))
    assert sum(share * part.value(w) for share, part in parts) == pytest.approx(value, rel=1e-12)
    assert_equal(sum((share * part.grad(w) for share, part in parts), torch.zeros_like(w)), gradient)
    of_weights = loss.restricted("*.weight", 2 * w)
    assert of_weights.value(of_weights.weights) == pytest.approx(loss.value(2 * w), rel=1e-12)
    assert_equal(of_weights.grad(of_weights.weights)[:20], loss.grad(2 * w)[:20])
    moved = of_weights.with_tensors({"0.bias": torch.zeros(5)})
    there = loss.tensors(2 * w) | {"0.bias": torch.zeros(5, dtype=torch.float64)}
    flat = torch.cat([there[n].reshape(-1) for n in loss.layout.names])
    assert moved.value(moved.weights) == pytest.approx(loss.value(flat), rel=1e-12)
    other = loss.over(list(loss.batches)[:1])
    assert other.value(w) - other.with_weight_decay(0.0).value(w) == pytest.approx(MU / 2 * float(w @ w))
    assert loss.on_outputs(lambda z: z).with_norm("frozen").value(w) == pytest.approx(value)


@pytest.mark.parametrize("method", ["vmap", "loop", "batches"])
def test_the_gradients_of_units_have_the_loss_s_as_their_mean(method: str) -> None:
    loss = penalised("mlp, class weights")
    units = UnitGradients(loss, loss.weights, method)
    rows = torch.cat([torch.cat([piece.flatten(1) for piece in pieces], 1) for pieces in units])
    assert_equal(units.weights @ rows / units.num_examples, loss.grad(loss.weights))


def test_at_the_minimum_of_the_penalised_loss_only_that_loss_is_at_its_minimum() -> None:
    h, centre = torch.tensor([1.0, 4.0], dtype=torch.float64), 1.0
    at = h * centre / (h + MU)  # of h/2 (w - 1)^2 + mu/2 w^2
    plain = quadratic(h, at).over([(torch.ones(1, 2), torch.zeros(1))])
    plain.criterion = lambda output, target: 0.5 * (h * (output - centre) ** 2).sum()
    loss = plain.with_weight_decay(MU)
    assert float(loss.grad(at).norm()) < 1e-12 < 0.1 < float(plain.grad(at).norm())
    assert TopEigenvalues()(loss).value == pytest.approx(4 + MU, rel=1e-6)
    left, found = (KeskarSharpness()(each).value for each in (plain, loss))
    assert left is not None and found is not None and left > 10 * found


def test_pyhessian_agrees() -> None:
    assert PyHessianCheck()(penalised("mlp", 5.0)).agree


def test_a_record_says_it_and_two_penalties_are_two_losses(tmp_path: Path) -> None:
    assert facts_of(penalised("mlp"))["weight_decay"] == MU
    options = classifier(tmp_path, "tests.given_cases:mlp", seeded(mlp), 1, 8).arguments
    folder, values = RecordFolder(tmp_path), list[float]()
    for decay in (None, "0.5", "0.25"):
        request, path = as_request(options, weight_decay=decay)
        given = load_user_checkpoint(request, path, CPU)
        outcomes = [measure("trace", Trace(), given.subject, folder) for _ in range(2)]
        assert [outcome.status for outcome in outcomes] == ["measured", "there already"]
        record = outcomes[0].record
        assert record is not None and record.weight_decay == float(decay or 0) and record.value is not None
        assert ("/2 |w|^2" in given.lines()[-1]) == (decay is not None)
        values.append(record.value)
    assert values[1] - values[2] == pytest.approx(0.25 * given.subject.loss.layout.size, rel=0.05)
    with pytest.raises(InputError, match="expected a run folder"):
        load_user_checkpoint(as_request(options, weight_decay="config")[0], path, CPU)


def test_a_run_folder_s_config_gives_it_unless_the_decay_is_decoupled(tmp_path: Path) -> None:
    def run(name: str, **training: object) -> RunFolder:
        return RunFolder.create(tmp_path / name, replace(RunConfig(), training=TrainingConfig(**training)))  # pyright: ignore[reportArgumentType]

    assert weight_decay_of("config", run("sgd", optimizer="momentum", weight_decay=1e-3)) == 1e-3
    assert weight_decay_of("config", run("plain", optimizer="adamw")) == 0.0
    with pytest.raises(InputError, match="adamw"):
        weight_decay_of("config", run("decoupled", optimizer="adamw", weight_decay=1e-3))
    assert weight_decay_of(None, run("unasked", optimizer="momentum", weight_decay=1e-3)) == 0.0


@pytest.mark.parametrize("weight_decay", [-1.0, float("nan"), float("inf"), True, "1"])
def test_what_is_no_penalty_is_refused(weight_decay: float) -> None:
    model = torch.nn.Linear(2, 2)
    with pytest.raises(InputError, match="weight_decay of at least 0"):
        Loss(model, F.mse_loss, [(torch.zeros(1, 2), torch.zeros(1, 2))], weight_decay=weight_decay)
    with pytest.raises(InputError, match="number or 'config'"):
        weight_decay_of("much", None)
