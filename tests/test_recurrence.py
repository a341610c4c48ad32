"""Lanczos in three vectors: it agrees with the process that keeps its basis, and stays true when ghosts appear."""

from __future__ import annotations

import math
from typing import Any

import pytest
import torch
from scipy import stats
from torch import Tensor

from sharpness.errors import InputError, RunError
from sharpness.linalg.basis import random_direction
from sharpness.linalg.certificates import start_overlap
from sharpness.linalg.lanczos import extreme_eigenpairs
from sharpness.linalg.operators import FunctionOperator
from sharpness.linalg.recurrence import largest_eigenvalue
from sharpness.machine.environment import derived_seed
from sharpness.vectors import random_unit_vector
from tests.alive import tensors_from_here
from tests.matrices import SPECTRA, diagonal_operator, operator_of, spectrum
from tests.oracles import matrix_with_eigenvalues


@pytest.mark.parametrize("which", ["top", "bottom"])
@pytest.mark.parametrize("name", SPECTRA)
def test_it_agrees_with_the_process_that_keeps_its_basis(name: str, which: Any) -> None:
    operator = operator_of(matrix_with_eigenvalues(spectrum(name), 1))
    options: dict[str, Any] = {"which": which, "rtol": 1e-12, "num_products": 9, "seed": 3}
    found, full = largest_eigenvalue(operator, **options), extreme_eigenpairs(operator, **options)
    scale = float(spectrum(name).abs().max())
    torch.testing.assert_close(found.eigenvalues, full.eigenvalues, rtol=1e-6, atol=1e-12 * scale)
    assert None not in (found.lowers, found.uppers, full.lowers, full.uppers)
    assert float(found.lowers[0]) <= float(full.lowers[0]) + 1e-12 * scale  # type: ignore[index]
    assert float(found.uppers[0]) >= float(full.uppers[0]) - 1e-12 * scale  # type: ignore[index]
    assert float(found.lowers[0]) <= float(spectrum(name).max()) or which == "bottom"  # type: ignore[index]
    assert found.eigenvectors is None and "eigenvectors" in found.reasons and "residuals" in found.reasons
    torch.testing.assert_close(found.residuals, full.residuals, rtol=1e-6, atol=1e-12 * scale)


@pytest.mark.parametrize("which", ["top", "bottom"])
def test_float32_bounds_hold_long_after_orthogonality_is_lost(which: Any) -> None:
    n, sign = 20_000, 1.0 if which == "top" else -1.0
    values = torch.rand(n, generator=torch.Generator().manual_seed(1))
    values[:4] = torch.tensor([50.0, 20.0, 7.0, -50.0])
    values[4] = sign * 49.0
    misses = 0
    for seed in (1, 2, 4):
        start = random_unit_vector(n, derived_seed(seed, "lanczos", "start", 0), torch.float64, torch.device("cpu"))
        assert abs(float(start[0 if which == "top" else 3])) > start_overlap(n, 0.01)  # then no bound may fail at all
        found = largest_eigenvalue(diagonal_operator(values), which=which, rtol=1e-9, num_products=250, seed=seed)
        misses += any(not low <= sign * 50.0 <= high for _, _, low, high in found.history if low and high)
        assert not found.converged and found.stopped_by == "num_products"  # float32 does not allow 1e-9
        assert found.uppers is not None and found.lowers is not None
        assert float(found.uppers[0] - found.lowers[0]) < 50 * 1e-4
    assert misses == 0


def test_ghosts_do_appear() -> None:
    # Else the test above would be about nothing: the basis of these very steps is far from orthogonal.
    seen: list[Tensor] = []
    values = torch.rand(20_000, generator=torch.Generator().manual_seed(1))
    values[0] = 50.0

    def product(v: Tensor) -> Tensor:
        seen.append(v.clone())
        return values * v

    largest_eigenvalue(FunctionOperator(product, 20_000), rtol=1e-9, num_products=40)
    Q = torch.stack(seen)
    assert float((Q @ Q.T - torch.eye(40)).abs().max()) > 0.5


def test_it_covers_the_truth_as_often_as_it_says() -> None:
    values, misses = spectrum("outliers", 80), 0
    for seed in range(200):
        found = largest_eigenvalue(diagonal_operator(values), rtol=1e-6, confidence=0.8, seed=seed)
        misses += any(not low <= 6.0 <= high for _, _, low, high in found.history if low and high)
    assert 10 <= misses <= int(stats.binom.ppf(0.999, 200, 0.2))


@pytest.mark.parametrize("num_unlucky", [1, 2])
def test_a_start_that_is_refuted_proves_nothing_and_another_does(
    monkeypatch: pytest.MonkeyPatch, num_unlucky: int
) -> None:
    # Hardly any of the top eigenvector: the bound closes at 3 while the 6 is not seen; then it is, and there is none.
    starts = list[Tensor]()

    def draw(operator: Any, seed: int, basis: Any) -> Tensor:
        starts.append(random_direction(operator, seed, basis))
        if len(starts) <= num_unlucky:
            starts[-1][-1] = 1e-9
        return starts[-1].clone()

    monkeypatch.setattr("sharpness.linalg.recurrence.random_direction", draw)
    values = torch.cat([spectrum("even", 400), torch.tensor([3.0, 6.0], dtype=torch.float64)])
    found = largest_eigenvalue(diagonal_operator(values), rtol=1e-9, num_products=80)
    assert found.eigenvalues.tolist() == pytest.approx([6.0]) and found.lowers is not None
    assert found.history[3][3] is not None  # before it was refuted
    assert found.num_starts == len(starts) == len({tuple(start.tolist()) for start in starts})
    assert found.converged and found.num_starts == num_unlucky + 1
    assert found.uppers is not None and 6.0 <= float(found.uppers[0]) <= 6.0 + 1e-8
    starts.clear()
    short = largest_eigenvalue(diagonal_operator(values), rtol=1e-9, num_products=15)  # not enough for another start
    assert short.num_starts == 1 and short.uppers is None and "refuted" in short.reasons["uppers"]


def test_three_vectors_are_alive() -> None:
    n, alive = 3000, list[int]()
    values = spectrum("outliers", n)
    tensors = tensors_from_here()

    def product(v: Tensor) -> Tensor:
        alive.append(len({x.data_ptr() for x in tensors() if x.numel() == n}))
        return values * v

    largest_eigenvalue(FunctionOperator(product, n, torch.float64))
    assert max(alive) == 2  # with the product that is to come, three


def test_invariant_spaces_zero_and_one_by_one() -> None:
    zero = largest_eigenvalue(FunctionOperator(torch.zeros_like, 6, torch.float64))
    assert zero.eigenvalues.tolist() == [0.0] and zero.converged and zero.num_products == 1
    one = largest_eigenvalue(FunctionOperator(lambda v: -7 * v, 1, torch.float64), which="bottom")
    assert one.eigenvalues.tolist() == [-7.0] and one.converged
    few = torch.tensor([3.0, 1.0, 0.0], dtype=torch.float64).repeat(4)
    found = largest_eigenvalue(diagonal_operator(few), rtol=1e-12)
    assert found.eigenvalues.tolist() == pytest.approx([3.0]) and found.num_products <= 4 and found.converged


def test_an_exhausted_space_is_not_a_ceiling_and_what_is_not_measured_is_not_zero() -> None:
    few = torch.tensor([3.0, 1.0, 0.0], dtype=torch.float64).repeat(4)
    found = largest_eigenvalue(diagonal_operator(few), rtol=1e-17)
    assert (found.converged, found.stopped_by) == (False, "exhausted") and found.num_products <= 4
    assert "invariant" in found.reasons["converged"] and found.reasons["converged"].startswith("no product tells more")
    assert found.defect is None and found.details()["defect"] is None and "no basis" in found.reasons["defect"]
    ceiling = largest_eigenvalue(diagonal_operator(spectrum("even")), rtol=1e-9, num_products=5)
    assert ceiling.stopped_by == "num_products" and "stopped by num_products" in ceiling.reasons["converged"]


def test_the_clock_stops_it_and_bad_knobs_are_refused() -> None:
    operator = diagonal_operator(spectrum("even"))
    late = largest_eigenvalue(operator, seconds=1e-9)
    assert (late.num_products, late.stopped_by, late.converged) == (1, "seconds", False)
    for options in ({"which": "both"}, {"rtol": 0}, {"num_products": 1}, {"confidence": 0.0}):
        with pytest.raises(InputError):
            largest_eigenvalue(operator, **options)  # type: ignore[arg-type]
    with pytest.raises(RunError, match="finite"):
        largest_eigenvalue(FunctionOperator(lambda v: v * math.nan, 5, torch.float64))
