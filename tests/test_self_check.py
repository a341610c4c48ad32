"""The check of a loss before its first number: every planted fault is found, and honest losses raise no alarm."""

from __future__ import annotations

import re
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torch.utils.data import DataLoader, TensorDataset

import sharpness as sh
from sharpness.errors import InputError
from sharpness.loss import Loss
from sharpness.loss.slope import FAILED, NO_DERIVATIVE
from sharpness.measure.request import Request
from sharpness.measure.user_checkpoint import load_user_checkpoint
from sharpness.results import with_self_check
from tests.cases import CASES, mlp
from tests.fault_cases import (
    DETECTED,
    FAULTS,
    PARTS,
    Cube,
    Detector,
    Fault,
    Layered,
    X,
    Y,
    contrastive,
    dice,
    masked_by_chance,
    reading,
)


def joined(batches: list[Any]) -> Any:
    """Return batches as one: pairs of tensors, or dicts of tensors and lists."""
    first = batches[0]
    if isinstance(first, Tensor):
        return torch.cat(batches)
    if isinstance(first, dict):
        return {key: joined([batch[key] for batch in batches]) for key in first}
    if isinstance(first, list):
        return [item for batch in batches for item in batch]
    return tuple(joined(list(parts)) for parts in zip(*batches, strict=True))


def found(fault: Fault) -> str:
    """Return how a fault is found: by a refusal, by what a record says, or not at all (an empty string)."""
    torch.manual_seed(0)
    try:
        loss = fault.build()
        if fault.found == "counted":
            whole = Loss(loss.model, loss.given_criterion, [joined(list(loss.batches))])
            same = abs(loss.value(loss.weights) - whole.value(whole.weights)) <= 1e-5 * abs(whole.value(whole.weights))
            return "counted" if same else ""
        record = sh.TopEigenvalues(rtol=1e-2)(loss).to_record()
    except InputError as error:
        return f"refused: {error}"
    finally:
        torch.set_grad_enabled(True)
    if said := [warning for warning in record.details.get("warnings", ()) if NO_DERIVATIVE in warning]:
        return f"said: {said[0]}"
    backend = record.hvp_backend
    return f"differences: {record.reasons.get('hvp_backend', '')}" if backend == "finite_difference" else ""


@pytest.mark.parametrize("name", FAULTS)
def test_every_planted_fault_is_found(name: str) -> None:
    fault = FAULTS[name]
    seen = found(fault)
    assert seen.startswith(fault.found) and re.search(re.escape(fault.words), seen), seen


def test_the_page_of_numbers_has_a_row_for_each_fault() -> None:
    rows = (Path(__file__).parents[1] / "docs" / "numbers.md").read_text()
    assert [name for name, fault in FAULTS.items() if f"| {name} | {fault.found} |" not in rows] == []


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("name", CASES)
def test_honest_losses_raise_no_alarm(name: str, dtype: torch.dtype) -> None:
    case = CASES[name]
    model, batches = case.build()
    loss = Loss(model.to(dtype), case.criterion, batches, norm=case.norm, dtype=dtype)
    operator = sh.HessianOperator(loss)
    operator.matvec(torch.ones_like(loss.weights))
    checks = loss.self_check()
    assert "tested" in checks["mean"] and "agrees with differences" in checks["slope"], checks
    assert operator.backend == "exact" and "agrees with differences" in checks["hessian products"], checks


def test_a_loss_linear_in_the_weights_is_no_fault() -> None:
    loss = Loss(nn.Linear(4, 1), lambda z, _: z.mean(), PARTS)
    assert sh.TopEigenvalues()(loss).value == 0 and not sh.TopEigenvalues()(loss).to_record().reasons.get("value")


def test_what_moves_is_stored_where_asked() -> None:
    torch.manual_seed(0)
    model, loader = mlp(), DataLoader(TensorDataset(X, Y), batch_size=4, shuffle=True)
    with pytest.raises(InputError, match="freeze=True"):
        Loss(model, F.cross_entropy, loader)
    stored, whole = Loss(model, F.cross_entropy, loader, freeze=True), Loss(model, F.cross_entropy, [(X, Y)])
    assert stored.value(stored.weights) == pytest.approx(whole.value(whole.weights), rel=1e-6)
    assert "stored once as asked" in sh.WeightNorms()(stored).to_record().self_check["data"]


def test_one_draw_of_a_random_network_is_one_function() -> None:
    torch.manual_seed(0)
    net = nn.Sequential(nn.Linear(4, 8), nn.Tanh(), _Dropping(), nn.Linear(8, 3))
    loss = Loss(net, F.cross_entropy, PARTS, freeze=True, dtype=torch.float64)
    intervals = []
    for seed in (1, 2):
        torch.manual_seed(seed)
        intervals.append(sh.TopEigenvalues(rtol=1e-3)(loss).value)
    assert intervals[0] == intervals[1] and "one draw of its random numbers" in loss.checks["mean"]
    h, v = 1e-5, torch.ones_like(loss.weights)
    slope = (loss.value(loss.weights + h * v) - loss.value(loss.weights - h * v)) / (2 * h)
    assert slope == pytest.approx(float(loss.grad(loss.weights) @ v), rel=1e-6)


class _Dropping(nn.Module):
    def forward(self, x: Tensor) -> Tensor:
        return F.dropout(x, 0.5)


@pytest.mark.parametrize("criterion", [contrastive, dice])
def test_a_loss_of_a_whole_batch_is_never_cut(criterion: Any) -> None:
    torch.manual_seed(0)
    model = mlp()
    one = Loss(model, criterion, [(X, Y)])  # one batch needs no declaration: it is the whole
    truth = float(criterion(model(X), Y).detach())
    assert one.value(one.weights) == pytest.approx(truth, rel=1e-6) and "never cut" in one.checks["mean"]
    two = Loss(model, criterion, PARTS, coupled=True)
    values = [float(criterion(model(x), y).detach()) for x, y in PARTS]
    assert two.value(two.weights) == pytest.approx((6 * values[0] + 3 * values[1]) / 9, rel=1e-6)
    for loss in (one, two):
        with pytest.raises(sh.RunError, match="whole batches"):
            loss.data.halve()
        with pytest.raises(InputError, match="whole batches"):
            sh.BatchSharpness(batch_size=4)(loss)
        with pytest.raises(InputError, match="whole batches"):
            list(loss.parts(2))


def test_a_wrong_second_derivative_is_refused_where_it_was_asked_for() -> None:
    torch.manual_seed(0)
    loss = Loss(Layered(Cube.apply), F.cross_entropy, PARTS)
    with pytest.raises(InputError, match="use backend='finite_difference'"):
        sh.TopEigenvalues(backend="exact")(loss)


def test_a_field_that_is_no_gradient_has_no_bounds() -> None:
    torch.manual_seed(0)
    loss = Loss(Layered(lambda x: torch.tanh(x) * x.detach()), F.cross_entropy, PARTS)
    record = sh.TopEigenvalues(rtol=1e-2)(loss).to_record()
    assert record.upper is None and "not symmetric" in record.reasons["upper"]
    assert any("not the derivative" in warning for warning in record.details["warnings"])


def test_the_check_changes_nothing_and_its_outcome_is_in_the_record() -> None:
    torch.manual_seed(0)
    model, loader = mlp(), DataLoader(TensorDataset(X, Y), batch_size=4)
    before = torch.get_rng_state()
    record = sh.TopEigenvalues()(Loss(model, F.cross_entropy, loader)).to_record()
    assert torch.equal(before, torch.get_rng_state())
    assert record.self_check["data"] == "the same at two passes" and len(record.self_check) == 4


def test_a_record_says_the_same_whatever_was_measured_before() -> None:
    def records(loss: Loss, *probes: Any) -> list[dict[str, Any]]:
        return [probe(loss).to_record().self_check for probe in probes]

    def fresh() -> Loss:
        torch.manual_seed(0)
        return Loss(mlp(), F.cross_entropy, PARTS)

    probes = sh.WeightNorms(), sh.FisherRaoNorm(), sh.TopEigenvalues(), sh.TopEigenvalues(matrix="gauss_newton")
    alone = [records(fresh(), probe)[0] for probe in probes]
    loss = fresh()
    assert records(loss, *probes) == records(loss, *probes) == alone
    products = [[about for about in record if about.endswith("products")] for record in alone]
    assert products == [[], ["empirical_fisher products"], ["hessian products"], ["gauss_newton products"]]


def test_inputs_that_the_network_changes_in_place_are_copied() -> None:
    torch.manual_seed(0)
    x = X.clone()
    loss = Loss(nn.Sequential(nn.ReLU(inplace=True), nn.Linear(4, 3)), F.cross_entropy, [(x, Y)])
    assert loss.value(loss.weights) == loss.value(loss.weights) and torch.equal(x, X)


def test_boxes_of_examples_are_taken_apart_with_them() -> None:
    from sharpness.data.batches import batch_length, split

    assert [batch_length(piece) for piece in split(DETECTED[1], 2)] == [2, 1]
    assert Loss(Detector(), None, DETECTED).num_examples == 5


def network() -> nn.Module:
    """Return the network of the commands below."""
    return mlp()


def shuffled() -> DataLoader[Any]:
    return DataLoader(TensorDataset(X, Y), batch_size=4, shuffle=True)


def masked() -> Any:
    return reading(masked_by_chance).dataset


def parts() -> list[Any]:
    return PARTS


def labels_but_two(batch: Any) -> float:
    return float((batch[1] != 2).sum())


def without_two(z: Tensor, y: Tensor) -> Tensor:
    return F.cross_entropy(z, y, ignore_index=2)


OPTIONS: dict[str, tuple[str, str, dict[str, Any], str]] = {
    "a loader that shuffles": ("shuffled", "cross_entropy", {"freeze": True}, "shuffles"),
    "a dataset that masks": ("masked", "cross_entropy", {"freeze": True}, "masks"),
    "a contrastive loss": ("parts", "tests.fault_cases:contrastive", {"coupled": True}, "coupled"),
    "an ignored class": ("parts", "without_two", {"count": "tests.test_self_check:labels_but_two"}, "count="),
}


@pytest.mark.parametrize("name", OPTIONS)
def test_the_command_refuses_what_python_refuses_and_takes_what_is_declared(name: str, tmp_path: Path) -> None:
    torch.manual_seed(0)
    data, loss, declared, words = OPTIONS[name]
    torch.save(mlp().state_dict(), tmp_path / "net.pt")
    here = "tests.test_self_check:"
    loss = loss if loss == "cross_entropy" or ":" in loss else here + loss
    request = Request(model=f"{here}network", data=here + data, loss=loss)
    with pytest.raises(InputError, match=words):
        load_user_checkpoint(request, tmp_path / "net.pt", torch.device("cpu"))
    taken = load_user_checkpoint(replace(request, **declared), tmp_path / "net.pt", torch.device("cpu"))
    record = sh.WeightNorms()(taken.subject.loss).to_record()
    assert record.self_check["mean"] and taken.checked.evaluation.loss > 0


def test_derivatives_that_could_not_be_tested_are_warned_of() -> None:
    loss = Loss(mlp(), F.cross_entropy, [(torch.randn(6, 4), torch.arange(6) % 3)])
    result = sh.TopEigenvalues()(loss)
    failed = {"slope": f"{FAILED}ValueError: six at a time", "hessian products": f"{FAILED}ValueError: six at a time"}
    warnings = with_self_check(result, failed).warnings[len(result.warnings) :]
    assert len(warnings) == 2 and all("six at a time" in warning for warning in warnings)
    assert with_self_check(result, loss.checks).warnings == result.warnings


def test_the_check_takes_examples_that_count_for_something() -> None:
    x, y = torch.randn(40, 4), torch.full((40,), -100)
    y[17] = 1  # neither among the first ones nor among the least and largest targets of a batch
    batches = [(x[i : i + 8], y[i : i + 8]) for i in range(0, 40, 8)]
    loss = Loss(nn.Linear(4, 3), F.cross_entropy, batches)
    (batch,) = loss.few_examples(4)
    assert (batch[1] != -100).sum() == 1
    assert "agrees with differences" in sh.TopEigenvalues()(loss).to_record().self_check["hessian products"]
