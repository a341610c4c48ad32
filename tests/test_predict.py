"""Rises under rounding and drift: exact on quadratics, against dense matrices, intervals that cover, the command."""

from __future__ import annotations

import json
import math
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from sharpness.errors import InputError
from sharpness.files import read_jsonl
from sharpness.loss import Loss
from sharpness.probes import Drift, Rounding
from sharpness.probes.rounding import rounded_to
from sharpness.vectors import Layout
from tests.cases import CASES
from tests.given_cases import images, seeded
from tests.oracles import dense_gauss_newton, dense_hessian, matrix_with_eigenvalues
from tests.probe_cases import matrix_quadratic, small_network
from tests.test_commands import assert_refused, sharpness
from tests.test_stress_command import relu_mlp

pytestmark = pytest.mark.dear

SHAPES = ((3, 4), (2, 1, 3), (5,))
SIZE = 12 + 6 + 5


def by_hand(loss: Loss, bits: int) -> tuple[Tensor, Tensor]:
    """Return the rounded weights and the step of each, 0 for those that stay, one weight at a time."""
    pieces, steps = [], []
    for piece in loss.layout.unflatten(loss.weights).values():
        if piece.ndim < 2:
            pieces.append(piece)
            steps.append(torch.zeros_like(piece))
            continue
        rows, own = [], []
        for row in piece.reshape(len(piece), -1):
            largest = max(abs(float(entry)) for entry in row)
            step = largest / (2 ** (bits - 1) - 1)
            values = torch.tensor([step * k for k in range(-(2 ** (bits - 1)) + 1, 2 ** (bits - 1))])
            rows.append(torch.stack([values[(values - entry).abs().argmin()] for entry in row]))
            own.append(torch.full_like(row, step))
        pieces.append(torch.stack(rows))
        steps.append(torch.stack(own))
    flat = [torch.cat([piece.reshape(-1).double() for piece in some]) for some in (pieces, steps)]
    return flat[0], flat[1]


@pytest.mark.parametrize("bits", [2, 3, 4, 8])
def test_weights_go_to_the_nearest_of_their_row_and_vectors_stay(bits: int) -> None:
    loss = matrix_quadratic(torch.eye(SIZE, dtype=torch.float64), *SHAPES)
    wanted, _ = by_hand(loss, bits)
    found = rounded_to(loss.weights, loss.layout, bits)
    torch.testing.assert_close(found, wanted, rtol=1e-6, atol=1e-7)
    assert torch.equal(found[18:], loss.weights[18:]) and not torch.equal(found[:18], loss.weights[:18])
    zeros = torch.zeros(SIZE, dtype=torch.float64)
    assert torch.equal(rounded_to(zeros, loss.layout, bits), zeros)


def test_on_a_quadratic_the_model_is_what_is_measured() -> None:
    hessian = matrix_with_eigenvalues(torch.linspace(-1, 6, SIZE), 0)
    loss = matrix_quadratic(hessian, *SHAPES)
    result = Rounding(num_hvps=500)(loss)
    assert [row["bits"] for row in result.rows] == [8, 4, 3] and result.rounded_weights == 18
    for row in result.rows:
        assert row["measured"] == pytest.approx(row["quadratic"], rel=1e-6) and row["verdict"] == "holds"
        _, step = by_hand(loss, row["bits"])
        expected = float((hessian.diagonal() * step**2).sum() / 24)
        error = (row["expected_upper"] - row["expected_lower"]) / 2
        assert abs(row["expected"] - expected) < 2 * error and error < 0.2 * expected
    assert (result.value, result.lower) == (result.rows[-1]["expected"], result.rows[-1]["expected_lower"])


@pytest.mark.parametrize("matrix", ["hessian", "gauss_newton"])
def test_of_a_network_it_is_that_of_the_dense_matrix(matrix: str) -> None:
    case, loss = CASES["mlp"], small_network("mlp")
    model, batches = case.build()
    of: Any = {"hessian": dense_hessian, "gauss_newton": dense_gauss_newton}[matrix]
    dense, w = of(case, model, batches, loss.weights), loss.weights
    gradient = loss.grad(w)
    for row in Rounding(bits=(5, 4), num_hvps=200, matrix=matrix)(loss).rows:
        rounded, step = by_hand(loss, row["bits"])
        d = rounded - w
        assert row["quadratic"] == pytest.approx(float(gradient @ d + 0.5 * d @ dense @ d), rel=1e-5)
        assert row["measured"] == pytest.approx(loss.value(rounded) - loss.value(w), rel=1e-4, abs=1e-9)
        error = (row["expected_upper"] - row["expected_lower"]) / 2
        assert abs(row["expected"] - float((dense.diagonal() * step**2).sum() / 24)) < 2 * error
    result = Drift(distance=1e-3, num_hvps=200, matrix=matrix)(loss)
    r, (random, sharpest) = 1e-3 * float(w.norm()), result.rows
    assert result.length == pytest.approx(r) and result.lower is not None and result.upper is not None
    trace = float(dense.trace())
    assert abs(random["quadratic"] - 0.5 * r**2 * trace / len(w)) < result.upper - result.lower
    values, vectors = torch.linalg.eigh(dense)
    exact = 0.5 * r**2 * float(values[-1]) + r * abs(float(gradient @ vectors[:, -1]))
    assert sharpest["quadratic"] == pytest.approx(exact, rel=1e-2)
    assert result.most_by_quadratic is not None and sharpest["quadratic"] <= result.most_by_quadratic
    if matrix == "hessian":
        assert [row["verdict"] for row in result.rows] == ["holds", "holds"]


def test_intervals_cover_as_often_as_they_say() -> None:
    hessian = matrix_with_eigenvalues(torch.linspace(0, 6, SIZE) ** 3, 1)
    loss = matrix_quadratic(hessian, *SHAPES)
    _, step = by_hand(loss, 4)
    w, gradient, generator = loss.weights, loss.grad(loss.weights), torch.Generator().manual_seed(0)
    truth, drift = float((hessian.diagonal() * step**2).sum() / 24), float(hessian.trace()) * 5e-5 * float(w @ w) / SIZE
    means, singles, drifts, num, num_drifts = 0, 0, 0, 36, 18
    for seed in range(num):
        (row,) = Rounding(bits=(4,), num_hvps=12, seed=seed)(loss).rows
        means += row["expected_lower"] <= truth <= row["expected_upper"]
        d = (torch.rand(SIZE, generator=generator, dtype=torch.float64) - 0.5) * step
        one = float(gradient @ d + 0.5 * d @ hessian @ d)
        singles += row["single_lower"] <= one <= row["single_upper"]
        if seed < num_drifts:
            result = Drift(num_hvps=12, num_measured=2, seed=1000 * seed)(loss)
            assert result.lower is not None and result.upper is not None
            drifts += result.lower <= drift <= result.upper
    least, least_drifts = (0.95 * n - 3 * math.sqrt(n * 0.95 * 0.05) for n in (num, num_drifts))
    assert means >= least and singles >= least and drifts >= least_drifts


class Quartic(nn.Module):
    """Outputs whose sum of squares rises with the fourth power of the distance: the curvature at 0 is none."""

    def __init__(self) -> None:
        super().__init__()
        self.w = nn.Parameter(torch.tensor([[1.0, 0.31], [0.62, 1.0]], dtype=torch.float64))

    def forward(self, x: Tensor) -> Tensor:
        return x * (self.w - self.w.detach().new_tensor([[1.0, 0.31], [0.62, 1.0]])).square().sum()


def test_where_the_loss_is_not_quadratic_it_says_so() -> None:
    x = torch.ones(4, 1, dtype=torch.float64)
    loss = Loss(Quartic(), nn.functional.mse_loss, [(x, torch.zeros_like(x))], dtype=torch.float64)
    for row in Rounding(bits=(4, 3))(loss).rows:
        assert row["verdict"] == "fails" and row["expected"] == 0 < row["measured"]
    assert Drift(distance=0.5)(loss).rows[0]["verdict"] == "fails"


def test_a_rise_below_the_noise_of_the_precision_is_not_judged() -> None:
    loss = small_network("mlp", torch.float32)
    (row,) = Rounding(bits=(22,))(loss).rows
    assert row["verdict"] == "below noise" and abs(row["measured"]) < 4 * row["noise"]


@pytest.mark.parametrize(
    ("probe", "words"),
    [
        (Rounding(bits=(1,)), "bits from 2 to 24, got"),
        (Rounding(bits=()), "bits from 2 to 24, got"),
        (Rounding(num_hvps=1), "at least 2 draws"),
        (Drift(distance=0.0), "a positive distance"),
        (Drift(num_measured=31), "num_measured <= num_hvps"),
    ],
)
def test_bad_knobs_are_one_line(probe: Any, words: str) -> None:
    with pytest.raises(InputError, match=words):
        probe(small_network())


def test_vectors_alone_are_not_rounded() -> None:
    with pytest.raises(InputError, match="two or more axes"):
        Rounding()(matrix_quadratic(torch.eye(3, dtype=torch.float64), (3,)))
    layout = Layout.of(nn.Linear(2, 1))
    assert torch.equal(rounded_to(torch.tensor([0.3, -0.9, 0.123]), layout, 2)[2:], torch.tensor([0.123]))


def test_the_command_prints_what_the_records_hold_and_finds_them_again(tmp_path: Path) -> None:
    data, *_ = images(tmp_path, 1, 8)
    torch.save(seeded(relu_mlp).state_dict(), tmp_path / "w.pt")
    options = [str(tmp_path / "w.pt"), "--model", "tests.test_stress_command:relu_mlp", "--data", data]
    options += ["--out", str(tmp_path / "out"), "--bits", "8", "3", "--drift", "0.02"]
    first = sharpness("predict", *options)
    assert first.returncode == 0, first.stderr
    records = read_jsonl(tmp_path / "out" / "probes.jsonl")
    assert [record["probe"] for record in records] == ["rounding", "drift"]
    for row in (row for record in records for row in record["details"]["rows"]):
        assert f"{row['measured']:.3g}" in first.stdout and row["verdict"] in first.stdout
    assert "2 % of |w|, sharpest" in first.stdout and "neither accuracy nor other data" in first.stdout
    again = sharpness("predict", *options, "--json")
    assert [json.loads(line)["value"] for line in again.stdout.splitlines()] == [record["value"] for record in records]
    assert len(read_jsonl(tmp_path / "out" / "probes.jsonl")) == 2
    assert_refused(sharpness("predict", *options[:-2], "--drift", "0"), "a positive distance")
