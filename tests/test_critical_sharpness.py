"""Critical and directional sharpness against the closed forms of a quadratic loss, and every way of having no value."""

from __future__ import annotations

import math

import pytest
import torch
from torch import Tensor

from sharpness.errors import InputError, RunError
from sharpness.landscapes.line_search import first_crossing
from sharpness.probes.critical_sharpness import CriticalSharpness
from sharpness.probes.directional_sharpness import DirectionalSharpness
from tests.cases import CASES
from tests.oracles import dense_hessian
from tests.probe_cases import quadratic, small_network

H = torch.tensor([4.0, 1.0, 0.5, 2.0], dtype=torch.float64)
W = torch.tensor([1.0, -2.0, 0.7, 3.0], dtype=torch.float64)


def exact(d: Tensor) -> float:
    return float(d @ (H * d) / (d @ (H * W)))


@pytest.mark.parametrize("first_step", [1e-3, 1e3, 0.7])
@pytest.mark.parametrize("update", [None, H * W / (1 + H), torch.tensor([1.0, 0, 0, 0], dtype=torch.float64)])
def test_on_a_quadratic_it_is_the_directional_sharpness(update: Tensor | None, first_step: float) -> None:
    loss = quadratic(H, W, offset=1.5)
    result = CriticalSharpness(first_step=first_step)(loss, update=update)
    truth = exact(H * W if update is None else update)
    assert result.value is not None and result.lower is not None and result.upper is not None
    assert result.lower <= truth * (1 + 1e-12) and truth <= result.upper * (1 + 1e-12)
    assert result.value == pytest.approx(truth, rel=1 / 16)
    assert CriticalSharpness(first_step=first_step, tol=1e-8)(loss, update=update).value == pytest.approx(truth)
    assert DirectionalSharpness()(loss, update=update).value == pytest.approx(truth, rel=1e-12)


def test_along_an_eigenvector_it_is_the_eigenvalue_and_it_scales_with_the_update() -> None:
    top = torch.tensor([1.0, 0, 0, 0], dtype=torch.float64)  # H e_1 = 4 e_1 and g = 4 e_1 at w = e_1
    loss = quadratic(H, top)
    assert CriticalSharpness(tol=1e-6)(loss).value == pytest.approx(4, rel=1e-5)
    assert CriticalSharpness(tol=1e-6)(loss, update=12 * top).value == pytest.approx(3 * 4, rel=1e-5)
    assert DirectionalSharpness()(loss, update=12 * top).value == pytest.approx(3 * 4)


def test_relative_sharpness_of_a_task_with_itself_is_the_plain_one() -> None:
    loss, other = small_network(), quadratic(H, W)
    plain, relative = CriticalSharpness()(loss), CriticalSharpness()(loss, trained=small_network())
    assert relative.value == plain.value and relative.quantity == "relative_critical_sharpness"
    assert relative.num_gradients == 2
    with pytest.raises(InputError, match="same parameters"):
        CriticalSharpness()(loss, trained=other)


@pytest.mark.parametrize("name", ["mlp", "dropout", "norm, running statistics", "attention"])
def test_directional_sharpness_is_that_of_the_dense_hessian(name: str) -> None:
    loss = small_network(name)
    model, batches = CASES[name].build()
    dense, g = dense_hessian(CASES[name], model, batches, loss.weights), loss.grad(loss.weights)
    result = DirectionalSharpness()(loss)
    assert result.value is not None
    tolerance = 1e-3 if result.hvp_backend == "finite_difference" else 1e-9
    assert result.value == pytest.approx(float(g @ dense @ g / (g @ g)), rel=tolerance)
    assert result.rayleigh_quotient == pytest.approx(result.value)
    assert result.value <= float(torch.linalg.eigvalsh(dense)[-1]) * (1 + 1e-6)


@pytest.mark.parametrize("update", [-H * W, torch.zeros_like(W), torch.tensor([2.0, 4.0, 0, 0], dtype=torch.float64)])
def test_an_update_that_does_not_point_downhill_has_no_value_but_a_reason(update: Tensor) -> None:
    result = CriticalSharpness()(quadratic(H, W), update=update)
    assert result.value is None and not result.converged and "no descent direction" in result.reasons["value"]
    assert result.num_forwards == 0 and "no descent" in str(result)


def test_a_search_that_hits_its_end_gives_the_bound_it_has() -> None:
    downhill = CriticalSharpness(most=5)(quadratic(-H, W))  # the loss falls for ever
    assert downhill.value is None and downhill.lower is None
    assert downhill.upper == pytest.approx(2 / (1e-3 * 2**5)) and "still falls" in downhill.reasons["value"]
    assert downhill.to_record().to_dict()["reasons"]["lower"] == downhill.reasons["value"]


def test_float32_near_a_minimum_says_that_rounding_hides_the_fall() -> None:
    # The loss falls by about 1e-13 below an offset of 1, which float32 cannot hold and float64 can.
    w = 1e-7 * W
    assert "rounding" in CriticalSharpness()(quadratic(H, w.float(), offset=1.0)).reasons["value"]
    in_float64 = CriticalSharpness()(quadratic(H, w, offset=1.0))
    assert in_float64.value == pytest.approx(exact(H * W), rel=1 / 16)
    in_float32 = DirectionalSharpness()(quadratic(H, w.float(), offset=1.0))
    assert in_float32.value == pytest.approx(exact(H * W), rel=1e-4)


def test_checks_find_an_earlier_crossing_that_doubling_jumps_over() -> None:
    # Below 0 but for a bump in [1.2, 1.5], between the trials 1 and 2, until 100.
    def bumpy(step: float) -> float:
        return 1.0 if 1.2 < step < 1.5 or step > 100 else -1.0

    found = first_crossing(bumpy, 0.0, 1e-3 * 1.024, tol=1e-3, most=40, checks=200)
    assert found.jumped and found.step == pytest.approx(1.2, rel=1e-3)
    assert first_crossing(bumpy, 0.0, 1e-3 * 1.024, tol=1e-3, most=40, checks=0).step == pytest.approx(100, rel=1e-3)


def test_a_loss_that_overflows_counts_as_above() -> None:
    found = first_crossing(lambda s: math.nan if s > 3 else -s, 0.0, 1e-3, tol=1e-4, most=40, checks=8)
    assert found.step == pytest.approx(3, rel=1e-3) and found.fall == pytest.approx(3, rel=1e-3)


@pytest.mark.parametrize("knobs", [{"first_step": 0.0}, {"tol": 1.0}, {"most": 0}, {"checks": -1}])
def test_bad_knobs_are_refused(knobs: dict[str, float]) -> None:
    with pytest.raises(InputError, match="expected"):
        CriticalSharpness(**knobs)(quadratic(H, W))  # type: ignore[arg-type]


def test_bad_updates_are_refused() -> None:
    loss = quadratic(H, W)
    for update, message in ((W[:2], "shape"), (W * math.nan, "finite update")):
        with pytest.raises(InputError, match=message):
            DirectionalSharpness()(loss, update=update)
    with pytest.raises(InputError, match="got both"):
        CriticalSharpness()(loss, update=W, trained=loss)
    with pytest.raises(RunError, match="finite loss"):
        CriticalSharpness()(quadratic(H, W * 1e200))


def test_a_record_is_plain_and_counts_its_passes() -> None:
    seen: list[int] = []
    result = CriticalSharpness()(quadratic(H, W), progress=lambda done, total: seen.append(done))
    assert result.num_forwards == len(set(seen)) + 3 and result.num_gradients == 1 and result.num_hvps == 0
    record = result.to_record().to_dict()
    assert record["details"]["crossing"]["low"] < 2 / record["value"] < record["details"]["crossing"]["high"]
