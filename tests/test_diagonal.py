"""The diagonal of curvature matrices against dense ones: exact entries, unbiased estimates, errors that are right."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from torch import Tensor

from sharpness.errors import InputError
from sharpness.linalg.diagonal import exact_diagonal, sampled_diagonal
from sharpness.linalg.operators import FunctionOperator
from sharpness.probes.diagonal import Diagonal, DiagonalResult
from tests.cases import CASES
from tests.oracles import dense_empirical_fisher, dense_gauss_newton, dense_hessian, matrix_with_eigenvalues
from tests.probe_cases import small_network

A = matrix_with_eigenvalues(torch.cat([torch.tensor([50.0, 10.0, -3.0]), torch.linspace(0, 1, 37)]), seed=0)
OPERATOR = FunctionOperator(lambda v: A @ v, len(A), torch.float64)
DENSE = {"hessian": dense_hessian, "gauss_newton": dense_gauss_newton, "empirical_fisher": dense_empirical_fisher}


@pytest.mark.parametrize(
    ("name", "matrix"),
    [*(("mlp", matrix) for matrix in DENSE), *((n, "hessian") for n in ("norm, batch statistics", "tied weights"))],
)
def test_a_small_networks_diagonal_is_that_of_the_dense_matrix(name: str, matrix: str) -> None:
    case, loss = CASES[name], small_network(name)
    model, batches = case.build()
    expected = DENSE[matrix](case, model, batches, loss.weights).diagonal()
    result = Diagonal(matrix=matrix)(loss)
    torch.testing.assert_close(result.diagonal, expected, rtol=1e-8, atol=1e-10)
    assert result.value == pytest.approx(float(expected.sum()), rel=1e-8)
    assert result.converged and result.num_hvps == loss.layout.size and not result.standard_errors.any()
    assert result.lower is None and "exact" in result.reasons["lower"]
    for layer in result.layers:
        places = _places(loss.layout.names, loss.layout.numels, layer["name"])
        own, found = (torch.cat([diagonal[a:b] for a, b in places]) for diagonal in (expected, result.diagonal))
        # Counted where it was computed: the sign of a 0, as of a bias before batch statistics, is rounding.
        assert layer["size"] == len(own) and layer["negative"] == int((found < 0).sum())
        assert layer["sum"] == pytest.approx(float(own.sum()), rel=1e-6, abs=1e-10)
        assert (layer["smallest"], layer["largest"]) == pytest.approx((float(own.min()), float(own.max())), abs=1e-10)


def _places(names: tuple[str, ...], numels: list[int], layer: str) -> list[tuple[int, int]]:
    ends = np.cumsum(numels)
    return [(e - n, e) for name, n, e in zip(names, numels, ends, strict=True) if name.rpartition(".")[0] == layer]


def test_standard_errors_are_those_of_the_formula_and_cover() -> None:
    exact, runs, m = A.diagonal(), 40, 50
    found = [sampled_diagonal(OPERATOR, m, parts=[10, 30], seed=seed) for seed in range(runs)]
    mean = torch.stack([f.diagonal for f in found]).mean(0)
    variance = (A.square().sum(1) - exact.square()) / m  # of one run
    assert bool(((mean - exact).abs() < 4.5 * (variance / runs).sqrt()).all())
    squares = torch.stack([f.standard_errors.square() for f in found]).mean(0)
    torch.testing.assert_close(squares, variance, rtol=0.15, atol=0)
    inside = torch.stack([(f.diagonal - exact).abs() < 2.01 * f.standard_errors for f in found])  # t at 95 %
    assert 0.93 < float(inside.double().mean()) < 0.97
    for f in found:  # the sums are those of the entries, sample by sample
        assert f.sums.mean(0) == pytest.approx([float(f.diagonal[:10].sum()), float(f.diagonal[10:].sum())])


def test_a_large_network_gets_an_interval_that_holds() -> None:
    loss = small_network()
    exact = Diagonal()(loss)
    results, errors = list[DiagonalResult](), list[Tensor]()
    for seed in range(8):
        result = Diagonal(exact_up_to=0, num_hvps=24, seed=seed)(loss)
        results.append(result)
        errors.append((result.diagonal - exact.diagonal).norm() / exact.diagonal.norm())
        assert result.method == "random signs" and result.converged is None and result.num_hvps == 24
        assert [row["sum"] for row in result.layers] == pytest.approx(
            [float(result.diagonal[:25].sum()), float(result.diagonal[25:].sum())]
        )
    held = [float(r.lower or 0) <= float(exact.value or 0) <= float(r.upper or 0) for r in results]
    result = results[-1]
    assert sum(held) >= 6
    assert result.relative_error == pytest.approx(float(torch.stack(errors).mean()), rel=0.5)
    assert "diagonal" not in result.to_record().details and "relative error" in str(result)


def test_time_that_is_up_leaves_no_number_for_entries_that_are_missing() -> None:
    found = exact_diagonal(OPERATOR, seconds=1e-9)
    assert found.num_entries == 16 and found.stopped_by == "seconds" and not found.diagonal[16:].any()
    result = Diagonal(seconds=1e-9)(small_network())
    assert result.value is None and result.converged is False and "entries to come" in result.reasons["value"]
    sampled = Diagonal(exact_up_to=0, seconds=1e-9)(small_network())
    assert sampled.num_hvps == 16 and sampled.stopped_by == "seconds" and sampled.value is not None


@pytest.mark.parametrize("knobs", [{"exact_up_to": 0, "num_hvps": 1}, {"exact_up_to": -1}, {"confidence": 1.0}])
def test_bad_knobs_are_refused(knobs: dict[str, float]) -> None:
    with pytest.raises(InputError, match="expected"):
        Diagonal(**knobs)(small_network())  # pyright: ignore[reportArgumentType]
