"""Function-preserving rescalings: which are found, that outputs stay, and which measures see through them."""

from __future__ import annotations

import copy
import time
from dataclasses import dataclass
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from sharpness.errors import InputError
from sharpness.loss import Loss
from sharpness.measure.stress import has_moved, output_change, rescaled, stress_test, usable_rescalings
from sharpness.probes import KeskarSharpness, TopEigenvalues, Trace
from sharpness.results import Evidence, ProbeResult
from sharpness.symmetries.rescaling import Rescaling, find_rescalings
from sharpness.vectors import flatten
from tests.cases import Case, Tied
from tests.oracles import dense_hessian


def mlp() -> nn.Sequential:
    return nn.Sequential(
        nn.Linear(4, 5), nn.ReLU(inplace=True), nn.Dropout(0.5), nn.Linear(5, 4), nn.Tanh(), nn.Linear(4, 3)
    )


def convolution(track: bool = True) -> nn.Sequential:
    return nn.Sequential(
        nn.Conv2d(1, 2, 3),
        nn.BatchNorm2d(2, track_running_stats=track),
        nn.ReLU(),
        nn.MaxPool2d(2),
        nn.Flatten(),
        nn.Linear(2, 3),
    )


def layer_norm(eps: float = 1e-8) -> nn.Sequential:
    return nn.Sequential(nn.Linear(4, 5), nn.LayerNorm(5, eps=eps), nn.GELU(), nn.Linear(5, 3))


class Residual(nn.Module):
    """A block whose input also goes past it, written with functions."""

    def __init__(self) -> None:
        super().__init__()
        self.stem, self.first, self.second, self.head = (*(nn.Linear(4, 4) for _ in range(3)), nn.Linear(4, 3))

    def forward(self, x: Tensor) -> Tensor:
        x = F.relu(self.stem(x))
        x = torch.relu(x + self.second(F.relu(self.first(x))))
        return self.head(x.view(x.size(0), -1))


class Opaque(nn.Module):
    """Control flow that no tracer follows, around a part that it does."""

    def __init__(self) -> None:
        super().__init__()
        self.body, self.head = nn.Sequential(nn.Linear(4, 5), nn.ReLU(), nn.Linear(5, 4)), nn.Linear(4, 3)

    def forward(self, x: Tensor) -> Tensor:
        return self.head(self.body(x) if float(x.sum()) < 1e9 else x)


class HalfOpaque(nn.Module):
    """Layers beside a child that no tracer follows."""

    def __init__(self) -> None:
        super().__init__()
        self.child, self.first, self.second = Opaque(), nn.Linear(3, 4), nn.Linear(4, 3)

    def forward(self, x: Tensor) -> Tensor:
        return self.second(F.relu(self.first(self.child(x))))


class OwnLayerNorm(nn.LayerNorm):
    """A normalisation as other libraries have it, a subclass."""


class ThirdPower(nn.Linear):
    """A layer that is not what its type says."""

    def forward(self, input: Tensor) -> Tensor:
        return super().forward(input) ** 3


class TwiceUsed(nn.Module):
    """One layer called twice, of which only one call is followed by ReLU and a layer."""

    def __init__(self) -> None:
        super().__init__()
        self.layer, self.head = nn.Linear(4, 4), nn.Linear(4, 3)

    def forward(self, x: Tensor) -> Tensor:
        return self.head(F.relu(self.layer(torch.tanh(self.layer(x)))))


class Branches(nn.Module):
    """One normalised output read by three layers, as by the queries, keys and values of a transformer."""

    def __init__(self) -> None:
        super().__init__()
        self.norm, self.q, self.k, self.v = nn.LayerNorm(4), nn.Linear(4, 3), nn.Linear(4, 3), nn.Linear(4, 3)

    def forward(self, x: Tensor) -> Tensor:
        x = self.norm(x)
        return torch.tanh(self.q(x)) * self.k(x) + self.v(x)


CASES = {
    "mlp": Case(mlp, F.cross_entropy),
    "convolution": Case(convolution, F.cross_entropy, inputs=(1, 4, 4)),
    "convolution, batch statistics": Case(
        lambda: convolution(track=False), F.cross_entropy, inputs=(1, 4, 4), norm="batch"
    ),
    "layer norm": Case(layer_norm, F.cross_entropy),
    "residual": Case(Residual, F.cross_entropy),
    "opaque": Case(Opaque, F.cross_entropy),
    "branches": Case(Branches, F.cross_entropy),
    "half opaque": Case(HalfOpaque, F.cross_entropy),
    "subclass": Case(
        lambda: nn.Sequential(nn.Linear(4, 5), nn.Tanh(), OwnLayerNorm(5), nn.Linear(5, 3)), F.cross_entropy
    ),
}
FOUND = {
    "mlp": ["0 -> 3"],
    "convolution": ["1 -> 5", "0 -> 1"],
    "convolution, batch statistics": ["1 -> 5", "0 -> 1"],
    "layer norm": ["0 -> 1"],
    "residual": ["first -> second"],
    "opaque": ["body.0 -> body.2"],
    "branches": ["norm -> q, k, v"],
    "half opaque": ["first -> second", "child.body.0 -> child.body.2"],
    "subclass": ["2 -> 3"],
}


def build(name: str, dtype: torch.dtype = torch.float64) -> tuple[Any, Loss]:
    case = CASES[name]
    model, batches = case.build()
    for module in model.modules():
        if isinstance(module, nn.BatchNorm2d):
            module.eps = 1e-8 if case.norm == "batch" else 1e-2  # which running statistics may take in, exactly
    return model, Loss(model, case.criterion, batches, norm=case.norm, dtype=dtype)


@pytest.mark.parametrize("name", CASES)
def test_what_is_found(name: str) -> None:
    assert [group.name for group in find_rescalings(CASES[name].build()[0])] == FOUND[name]


@pytest.mark.parametrize("model", [Tied(), TwiceUsed(), nn.Sequential(nn.Linear(4, 4), nn.GELU(), nn.Linear(4, 3))])
def test_what_is_not_found_is_an_error_that_says_what_was_looked_for(model: nn.Module) -> None:
    assert find_rescalings(model) == []
    loss = Loss(model, F.cross_entropy, [(torch.randn(4, 4), torch.tensor([0, 1, 2, 0]))])
    with pytest.raises(InputError, match=r"got none: looked for a layer .*ReLU.*BatchNorm") as error:
        stress_test(loss, {"trace": Trace()})
    assert "\n" not in str(error.value)


def test_tied_and_hooked_and_parametrised_weights_are_left_alone() -> None:
    tied = nn.Sequential(nn.Linear(4, 4), nn.ReLU(), nn.Linear(4, 4), nn.Tanh(), nn.Linear(4, 4))
    assert [group.name for group in find_rescalings(tied)] == ["0 -> 2"]
    tied[4].weight = tied[2].weight
    assert find_rescalings(tied) == []
    hooked = mlp()
    hooked[0].register_forward_hook(lambda *arguments: arguments[2] + 1)
    assert find_rescalings(hooked) == []
    parametrised = mlp()
    nn.utils.parametrizations.weight_norm(parametrised[3])
    assert find_rescalings(parametrised) == []


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32])
@pytest.mark.parametrize("name", CASES)
def test_outputs_stay_and_the_loss_and_the_model_too(name: str, dtype: torch.dtype) -> None:
    model, loss = build(name, dtype)
    before = copy.deepcopy(model.state_dict())
    groups, refused = usable_rescalings(loss, 3.0)
    assert [group.name for group in groups] == FOUND[name] and not refused
    for group in groups:
        other = rescaled(loss, group, 3.0)
        change = output_change(loss, loss.weights, other, other.weights)
        assert change <= (1e-6 if dtype == torch.float64 else 1e-5)
        assert other.value(other.weights) == pytest.approx(loss.value(loss.weights), rel=1e-5)
        torch.testing.assert_close(other.weights, (group.factors(loss.layout, 3.0) * loss.weights).to(dtype))
        assert not torch.equal(other.weights, loss.weights)
    assert all(torch.equal(before[key], value) for key, value in model.state_dict().items())


@pytest.mark.parametrize("name", CASES)
@pytest.mark.parametrize("alpha", [0.25, 4.0])
def test_gradient_and_hessian_follow_the_law_of_dinh(name: str, alpha: float) -> None:
    model, loss = build(name)
    group = usable_rescalings(loss, alpha)[0][0]
    dense = dense_hessian(CASES[name], copy.deepcopy(model), list(loss.batches), flatten(model))
    D = torch.diag(1 / group.factors(loss.layout, alpha))
    other = rescaled(loss, group, alpha)
    eps = 1e-5 if CASES[name].norm == "batch" or "layer" in name else 1e-10
    torch.testing.assert_close(other.grad(other.weights), D @ loss.grad(loss.weights), rtol=eps, atol=eps)
    expected = torch.linalg.eigvalsh(D @ dense @ D)
    values = TopEigenvalues(k=1, rtol=1e-8)(other).value
    assert values == pytest.approx(float(expected[-1]), rel=max(eps, 1e-7))


@pytest.mark.parametrize("kind", ["pair", "norm"])
def test_the_hessian_of_each_kind_of_group_is_d_h_d(kind: str) -> None:
    model, loss = build("convolution")
    (group,) = (group for group in find_rescalings(model) if group.kind == kind)
    dense = dense_hessian(CASES["convolution"], copy.deepcopy(model), list(loss.batches), flatten(model))
    D = torch.diag(1 / group.factors(loss.layout, 4.0))
    other = rescaled(loss, group, 4.0)
    columns = [other.hvp(other.weights, v) for v in torch.eye(len(D), dtype=torch.float64)]
    torch.testing.assert_close(torch.stack(columns), D @ dense @ D, rtol=1e-9, atol=1e-10)
    powers = {"pair": {1, -1}, "norm": {1, 2}}[kind]
    assert set(group.powers.values()) == powers


@dataclass(frozen=True)
class Corner:
    """The loss at the corner of a box in the direction of the gradient: half widths ``epsilon (|w| + offset)``."""

    offset: float
    epsilon: float = 0.05

    def __call__(self, loss: Loss, w: Tensor, *, progress: Any = None) -> ProbeResult:
        step = self.epsilon * (w.abs() + self.offset) * loss.grad(w).sign()
        value, started = loss.value(w + step) - loss.value(w), time.perf_counter()
        evidence = Evidence.collect(loss, started)
        return ProbeResult(probe="corner", quantity="rise", knobs={"rtol": 1e-9}, value=value, evidence=evidence)


@pytest.mark.parametrize("name", ["mlp", "convolution", "residual", "branches"])
def test_keskars_box_moves_and_the_adaptive_box_does_not(name: str) -> None:
    _, loss = build(name)
    probes = {
        "keskar": KeskarSharpness(epsilon=1e-2),
        "box": Corner(offset=1.0),
        "adaptive box": Corner(offset=0.0),
        "eigenvalue": TopEigenvalues(),
    }
    seen: list[tuple[int, int]] = []
    rows = stress_test(loss, probes, 8.0, progress=lambda done, total: seen.append((done, total)))
    assert {row.name: row.moved for row in rows} == {
        "keskar": True,
        "box": True,
        "adaptive box": False,
        "eigenvalue": True,
    }
    assert seen == [(1, 4), (2, 4), (3, 4), (4, 4)] and rows[3].reason.endswith("are disjoint")
    assert rows[0].to_dict()["value_before"] == rows[0].before.value and rows[0].to_dict()["kind"] == "pair"


def test_an_eps_that_is_not_small_rules_a_normalisation_out() -> None:
    torch.manual_seed(0)
    model = layer_norm(eps=0.1)
    loss = Loss(model, F.cross_entropy, [(torch.randn(4, 4), torch.tensor([0, 1, 2, 0]))])
    with pytest.raises(InputError, match=r"1 found, .*0 -> 1 to keep the outputs.*eps.*looked for"):
        usable_rescalings(loss, 4.0)


def test_another_point_and_frozen_parameters_are_rescaled_with_the_rest() -> None:
    model, batches = CASES["mlp"].build()
    model[3].requires_grad_(False)
    loss = Loss(model, F.cross_entropy, batches, dtype=torch.float64)
    w = loss.weights + 0.1
    other = rescaled(loss, find_rescalings(model)[0], 4.0, w)
    torch.testing.assert_close(loss.outputs(w), other.outputs(other.weights), rtol=1e-12, atol=1e-12)
    with pytest.raises(InputError, match="weights that are measured"):
        rescaled(loss.restricted("5.*"), find_rescalings(model)[0], 4.0)


@pytest.mark.parametrize("alpha", [0.0, -2.0, 1.0, float("inf"), float("nan")])
def test_bad_alphas_are_refused(alpha: float) -> None:
    _, loss = build("mlp")
    with pytest.raises(InputError, match="positive alpha"):
        stress_test(loss, {}, alpha)


def test_a_claim_that_is_wrong_does_not_pass() -> None:
    _, loss = build("mlp")
    with pytest.raises(InputError, match="keep the outputs"):
        rescaled(loss, Rescaling("pair", "0 -> 5", {"0.weight": 1, "5.weight": -1}), 4.0)


def test_a_layer_that_is_not_what_its_type_says_is_found_out() -> None:
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(4, 5), nn.ReLU(), ThirdPower(5, 4), nn.ReLU(), nn.Linear(4, 3))
    loss = Loss(model, F.cross_entropy, [(torch.randn(4, 4), torch.tensor([0, 1, 2, 0]))])
    usable, refused = usable_rescalings(loss, 4.0)
    assert [group.name for group in usable] == ["0 -> 2"] and list(refused) == ["2 -> 4"]
    del model[0], model[0]
    with pytest.raises(InputError, match="1 found, the first fails"):
        stress_test(Loss(model, F.cross_entropy, [(torch.randn(4, 5), torch.tensor([0, 1, 2, 0]))]), {})


def result(value: float | None, lower: float | None = None, upper: float | None = None, **knobs: Any) -> ProbeResult:
    evidence = Evidence.collect(build("mlp")[1], time.perf_counter())
    return ProbeResult(
        probe="p",
        quantity="q",
        knobs=knobs,
        value=value,
        lower=lower,
        upper=upper,
        evidence=evidence,
        reasons={} if value is not None else {"value": "because"},
    )


def test_what_counts_as_moved() -> None:
    assert has_moved(result(1.0, 0.9, 1.1), result(1.3, 1.2, 1.4))[0] is True
    assert has_moved(result(1.0, 0.9, 1.25), result(1.3, 1.2, 1.4))[0] is False
    assert has_moved(result(1.0), result(1.005))[0] is False
    assert has_moved(result(1.0, rtol=1e-3), result(1.005, rtol=1e-3))[0] is True
    assert has_moved(result(0.0), result(0.0))[0] is False
    assert has_moved(result(1.0, 0.9), result(-1.0, -1.1))[0] is True  # half an interval is none
    assert has_moved(result(1.0), result(None)) == (None, "no value after: because")


def test_other_tensors_of_a_loss_are_named_or_refused() -> None:
    _, loss = build("convolution")
    changed = loss.with_tensors({"1.running_mean": torch.ones(2), "5.bias": torch.ones(3)})
    assert changed.tensors(changed.weights)["1.running_mean"].tolist() == [1.0, 1.0]
    assert changed.weights[-3:].tolist() == [1.0] * 3 and changed.weights.dtype == torch.float64
    assert loss.tensors(loss.weights)["1.running_mean"].tolist() == [0.0, 0.0]
    with pytest.raises(InputError, match=r"5\.bias"):
        loss.with_tensors({"5.bais": torch.ones(3)})
