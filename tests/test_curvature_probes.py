"""The probes of curvature matrices against dense ones: values, intervals, what records say, going on after a kill."""

from __future__ import annotations

import json
from itertools import product
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor
from torch.nn import functional as F

from sharpness.curvature import MATRICES, HessianOperator, curvature_operator, per_layer
from sharpness.errors import InputError
from sharpness.linalg.operators import to_dense
from sharpness.loss import Loss
from sharpness.probes import LayerEigenvalues, SpectralDensity, TopEigenvalues, Trace
from tests.cases import CASES, slow_but
from tests.oracles import assert_alike, dense_hessian


def build(name: str = "mlp") -> tuple[Loss, Tensor]:
    """Return a loss and the eigenvalues of its dense Hessian, ascending."""
    case = CASES[name]
    model, batches = case.build()
    loss = Loss(model, case.criterion, batches, norm=case.norm, dtype=torch.float64)
    return loss, torch.linalg.eigvalsh(dense_hessian(case, model, batches, loss.weights))


def wanted(values: Tensor, which: str, k: int) -> Tensor:
    """Pick from ascending eigenvalues what a probe is asked for."""
    top, bottom = values.flip(0)[:k], values[:k]
    if which == "magnitude":
        return values[values.abs().argsort(descending=True)[:k]]
    return {"top": top, "bottom": bottom, "both": torch.cat([top, bottom])}[which]


ENDS = ("top", "bottom", "both", "magnitude")
EVERY_END = product(["mlp", "norm, batch statistics", "attention", "own loss over tokens"], ENDS, ["auto", 14])
FAST = {("mlp", which, 14) for which in ENDS} | {("mlp", "top", "auto"), ("norm, batch statistics", "both", "auto")}
FAST |= {("attention", "magnitude", "auto"), ("own loss over tokens", "bottom", "auto")}


@pytest.mark.parametrize(("name", "which", "basis_limit"), slow_but(FAST, EVERY_END))
def test_eigenvalues_of_every_end_are_those_of_the_dense_hessian(name: str, which: Any, basis_limit: int | str) -> None:
    loss, values = build(name)
    result = TopEigenvalues(k=3, which=which, rtol=1e-4, num_hvps=600, max_basis=basis_limit)(loss)
    expected = wanted(values, which, 3)
    assert result.converged
    torch.testing.assert_close(result.eigenvalues, expected, rtol=1e-4, atol=1e-9)
    assert result.pairs.lowers is not None and result.pairs.uppers is not None
    assert bool((result.pairs.lowers <= expected + 1e-12).all() and (expected <= result.pairs.uppers + 1e-12).all())
    assert result.value == float(result.eigenvalues[0])


@pytest.mark.parametrize("matrix", MATRICES)
def test_every_matrix_can_be_probed(matrix: str) -> None:
    loss, _ = build("mlp")
    truth = torch.linalg.eigvalsh(to_dense(curvature_operator(matrix, loss)))
    result = TopEigenvalues(matrix=matrix, rtol=1e-6)(loss)
    assert result.value == pytest.approx(float(truth[-1]), rel=1e-6)
    record = result.to_record()
    assert record.quantity == ("top_eigenvalue" if matrix == "hessian" else f"{matrix}_top_eigenvalue")
    assert record.details["matrix"] == matrix and record.knobs["matrix"] == matrix
    trace = Trace(matrix=matrix)(loss)
    assert trace.lower is not None and trace.upper is not None
    assert trace.lower <= float(truth.sum()) <= trace.upper
    assert trace.to_record().quantity.endswith("trace") and trace.to_record().details["matrix"] == matrix


def test_the_density_record_sums_up_the_dense_spectrum() -> None:
    loss, values = build("mlp")
    details = SpectralDensity(steps=len(values), starts=8)(loss).to_record().to_dict()["details"]
    assert details["largest_node"] == pytest.approx(float(values[-1]), rel=1e-6)
    assert details["smallest_node"] == pytest.approx(float(values[0]), rel=1e-5)
    assert abs(details["trace"] - float(values.sum())) < 4 * details["trace_standard_error"]
    negative = int((values < -1e-9).sum())
    low, high = details["num_negative_bracket"]
    spread = 4 * details["num_negative_standard_error"]
    assert low - spread <= negative <= high + spread
    assert details["hvp_error"] == 0 and details["reorthogonalised"]
    json.dumps(details, allow_nan=False)


@pytest.mark.parametrize("name", ["mlp", "unused and frozen", "tied weights"])
def test_layers_are_blocks_and_interlace_with_the_whole(name: str) -> None:
    loss, values = build(name)
    result = LayerEigenvalues(k=2, which="both", rtol=1e-6, num_hvps=300)(loss)
    rows = {row["name"]: row for row in result.details()["layers"]}
    parts = per_layer(loss)
    assert list(rows) == list(parts)
    for layer, part in parts.items():
        block = torch.linalg.eigvalsh(to_dense(HessianOperator(part)))
        found = torch.tensor(rows[layer]["eigenvalues"], dtype=torch.float64)
        k = min(2, len(block) // 2)
        torch.testing.assert_close(found, wanted(block, "both", k), rtol=1e-5, atol=1e-9)
        assert float(values[0]) - 1e-12 <= float(found.min()) and float(found.max()) <= float(values[-1]) + 1e-12
        assert rows[layer]["size"] == part.layout.size
    assert result.num_hvps == sum(row["num_hvps"] for row in rows.values())


@pytest.mark.parametrize("which", ["top", "bottom"])
def test_the_layers_report_the_extreme_one_with_an_interval_for_all(which: Any) -> None:
    loss, _ = build("mlp")
    result = LayerEigenvalues(k=1, which=which, num_hvps=300)(loss)
    values = [row["eigenvalues"][0] for row in result.details()["layers"]]
    assert result.value == (max(values) if which == "top" else min(values))
    blocks = [torch.linalg.eigvalsh(to_dense(HessianOperator(part))) for part in per_layer(loss).values()]
    truth = max(float(b[-1]) for b in blocks) if which == "top" else min(float(b[0]) for b in blocks)
    assert result.lower is not None and result.upper is not None
    assert result.lower - 1e-12 <= truth <= result.upper + 1e-12
    assert [row["confidence"] for row in result.details()["layers"]] == pytest.approx([1 - 0.01 / 2] * 2)
    with pytest.raises(InputError, match="magnitude"):
        LayerEigenvalues(which="magnitude")(loss)
    with pytest.raises(InputError, match="seconds"):
        LayerEigenvalues(seconds=-5.0)(loss)


def test_a_trace_by_finite_differences_is_wider_by_their_error() -> None:
    model, batches = CASES["mlp"].build()
    loss = Loss(model, F.cross_entropy, batches)
    result = Trace(backend="finite_difference")(loss)
    error = result.to_record().details["hvp_error"]
    assert result.hvp_backend == "finite_difference" and error > 0
    assert result.lower is not None and result.upper is not None and result.value is not None
    assert result.upper - result.lower >= 2 * loss.layout.size * error
    exact = Trace()(Loss(model, F.cross_entropy, batches, dtype=torch.float64)).value
    assert exact is not None and result.lower <= exact <= result.upper


def test_the_record_says_when_finite_differences_were_used_and_the_interval_is_wider() -> None:
    model, batches = CASES["mlp"].build()
    loss = Loss(model, F.cross_entropy, batches)
    exact, difference = (TopEigenvalues(backend=backend)(loss) for backend in ("exact", "finite_difference"))
    assert (exact.to_record().hvp_backend, difference.to_record().hvp_backend) == ("exact", "finite_difference")
    error = difference.to_record().details["hvp_error"]
    assert error > 0 and exact.to_record().details["hvp_error"] == 0
    assert difference.lower is not None and difference.upper is not None and exact.value is not None
    assert difference.upper - difference.lower >= 2 * error
    assert difference.lower <= exact.value <= difference.upper
    assert "finite_difference" in str(difference)


def test_a_warm_start_has_no_upper_bound_and_the_record_says_why() -> None:
    loss, values = build("mlp")
    cold = TopEigenvalues(rtol=1e-3)(loss)
    warm = TopEigenvalues(rtol=1e-3)(loss, 1.001 * loss.weights, start=cold.eigenvectors)
    record = warm.to_record()
    assert record.upper is None and record.confidence is None and "start" in record.reasons["upper"]
    assert warm.converged and warm.num_hvps < cold.num_hvps
    assert warm.value == pytest.approx(float(values[-1]), rel=2e-2)


@pytest.mark.parametrize("which", ["top", "bottom"])
def test_the_basis_free_mode_agrees_with_the_full_one(which: Any) -> None:
    loss, values = build("convolution")
    full, free = (TopEigenvalues(which=which, rtol=1e-3, basis_free=mode)(loss) for mode in (False, True))
    assert free.eigenvectors is None and free.converged
    assert free.value is not None and free.lower is not None and free.upper is not None
    assert full.value == pytest.approx(free.value, rel=1e-3)
    truth = float(wanted(values, which, 1)[0])
    assert free.lower - 1e-12 <= truth <= free.upper + 1e-12
    with pytest.raises(InputError, match="basis_free"):
        TopEigenvalues(k=2, basis_free=True)(loss)
    with pytest.raises(InputError, match="max_basis"):
        TopEigenvalues(max_basis="64")(loss)


def test_a_bound_in_seconds_ends_a_solve_with_the_interval_so_far() -> None:
    loss, values = build("mlp")
    for probe in (TopEigenvalues(rtol=1e-12, seconds=1e-4), LayerEigenvalues(rtol=1e-12, seconds=1e-4)):
        assert not probe(loss).converged
    result = TopEigenvalues(rtol=1e-12, seconds=1e-4)(loss)
    assert result.pairs.stopped_by == "seconds" and result.num_hvps >= 1
    assert result.lower is not None and result.upper is not None
    assert result.lower <= float(values[-1]) <= result.upper
    with pytest.raises(InputError, match="seconds"):
        TopEigenvalues(seconds=-1.0)(loss)


class Killed(Exception):
    """Stands for the end of a process."""


@pytest.mark.parametrize(
    "probe",
    [
        TopEigenvalues(k=2, rtol=1e-6, max_basis=12, num_hvps=300),
        SpectralDensity(steps=6, starts=2),
        Trace(),
        LayerEigenvalues(k=1),
    ],
)
def test_a_killed_solve_goes_on_from_its_folder_and_ends_the_same(probe: Any, tmp_path: Path) -> None:
    loss, _ = build("mlp")
    straight = probe(loss)

    def dying(done: int, at_most: int) -> None:
        if done >= 8:
            raise Killed

    with pytest.raises(Killed):
        probe(loss, resume=tmp_path / "products", progress=dying)
    saved = len([path for path in (tmp_path / "products").rglob("*") if path.is_file()])
    again = probe(loss, resume=tmp_path / "products")
    assert saved >= 8
    one, two = (result.to_record().to_dict()["details"] for result in (straight, again))
    assert_alike(one, two, rtol=1e-9)
    other = Loss(loss.model, F.cross_entropy, [(torch.ones(3, 4), torch.tensor([0, 1, 2]))], dtype=torch.float64)
    with pytest.raises(InputError, match="products"):
        probe(other, resume=tmp_path / "products")
    with pytest.raises(InputError, match="products"):
        probe(loss, 1.0001 * loss.weights, resume=tmp_path / "products")


def test_records_name_the_parameters_they_cover() -> None:
    loss, _ = build("mlp")
    record = TopEigenvalues()(loss.restricted("0.*")).to_record()
    assert record.parameters == {"count": 25, "tensors": 2, "selection": ["0.*"]}
    assert TopEigenvalues()(loss).to_record().parameters == {"count": 43, "tensors": 4, "selection": "trainable"}


def test_a_loss_linear_in_the_weights_gives_zero() -> None:
    _, batches = CASES["mlp"].build()
    loss = Loss(torch.nn.Linear(4, 3), lambda output, target: output.mean(), [(x.float(), y) for x, y in batches])
    assert (TopEigenvalues()(loss).value, Trace()(loss).value) == (0.0, 0.0)
    assert SpectralDensity(steps=3, starts=2)(loss).to_record().to_dict()["details"]["effective_rank"] is None
