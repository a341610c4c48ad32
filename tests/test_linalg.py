"""Lanczos and its certificate against dense solvers, the algorithm's own identities, and a thousand random starts."""

from __future__ import annotations

import math
from itertools import pairwise

import numpy as np
import pytest
import torch
from scipy import stats
from torch import Tensor

from sharpness.errors import InputError, RunError
from sharpness.linalg.certificates import log_christoffel, start_overlap, tridiagonal, upper_bound
from sharpness.linalg.krylov import Krylov, lanczos_steps
from sharpness.linalg.lanczos import top_eigenpairs
from sharpness.loss import Loss
from sharpness.operators import FunctionOperator, HessianOperator
from sharpness.vectors import random_unit_vector
from tests.cases import CASES
from tests.oracles import dense_hessian, matrix_with_eigenvalues

CPU = torch.device("cpu")


def spectrum(name: str, n: int = 150) -> Tensor:
    """Eigenvalues of one prescribed kind, float64."""
    bulk = torch.linspace(0, 1, n, dtype=torch.float64)
    if name == "outliers":
        bulk[-3:] = torch.tensor([6.0, 4.0, 3.0])
    elif name == "clustered":
        bulk[-4:] = torch.tensor([2.0, 1.9999, 1.999, 1.99])
    elif name == "multiple":
        bulk[-3:] = 1.5
    elif name == "indefinite":
        bulk = torch.cat([-10 * bulk[: n // 2] - 1, bulk[n // 2 :]])
    elif name == "tiny":
        bulk[-2:] = torch.tensor([5.0, 4.9])
        bulk = 1e-6 * bulk
    elif name == "negative":
        bulk = -bulk - 1e-3
    return bulk


SPECTRA = ["outliers", "clustered", "multiple", "indefinite", "tiny", "negative", "even"]


def operator_of(matrix: Tensor) -> FunctionOperator:
    return FunctionOperator(lambda v: matrix @ v, len(matrix), matrix.dtype)


def run(matrix: Tensor, steps: int, seed: int = 0) -> Krylov:
    start = random_unit_vector(len(matrix), seed, matrix.dtype, CPU)
    for number, krylov in enumerate(lanczos_steps(operator_of(matrix), start), 1):
        if number == steps:
            return krylov
    raise AssertionError("fewer steps than asked for")


@pytest.mark.parametrize("name", SPECTRA)
@pytest.mark.parametrize("seed", [1, 2, 3])
def test_the_lanczos_relation_holds_with_an_orthonormal_basis(name: str, seed: int) -> None:
    matrix = matrix_with_eigenvalues(spectrum(name), seed)
    k = 40
    krylov, more = run(matrix, k, seed), run(matrix, k + 1, seed)
    Q, T = torch.stack(krylov.basis).T, torch.from_numpy(tridiagonal(krylov.alphas, krylov.betas))
    scale = float(matrix.abs().max()) * len(matrix)
    rest = torch.zeros_like(Q)
    rest[:, -1] = krylov.betas[-1] * more.basis[-1]
    assert float((matrix @ Q - Q @ T - rest).abs().max()) < 1e-13 * scale
    assert float((Q.T @ Q - torch.eye(k)).abs().max()) < 1e-13
    assert krylov.defect < 1e-12 * scale


@pytest.mark.parametrize("name", SPECTRA)
@pytest.mark.parametrize("seed", [1, 2, 3])
def test_top_eigenpairs_of_prescribed_spectra(name: str, seed: int) -> None:
    values = spectrum(name)
    matrix = matrix_with_eigenvalues(values, seed)
    truth = values.sort(descending=True).values
    pairs = top_eigenpairs(operator_of(matrix), 2, rtol=1e-12, num_products=len(matrix) + 2, seed=seed)
    scale = float(values.abs().max())
    assert float(pairs.eigenvalues[0]) == pytest.approx(float(truth[0]), rel=1e-8, abs=1e-10 * scale)
    assert pairs.lower <= float(truth[0]) <= pairs.upper
    v = pairs.eigenvectors[0]
    measured = float((matrix @ v - pairs.eigenvalues[0] * v).norm())
    assert float(pairs.residuals[0]) == pytest.approx(measured, rel=1e-6, abs=1e-14 * scale)
    assert measured < 1e-5 * scale


@pytest.mark.parametrize("name", CASES)
def test_top_eigenvalues_of_networks_are_those_of_the_dense_hessian(name: str) -> None:
    case = CASES[name]
    model, batches = case.build()
    loss = Loss(model, case.criterion, batches, norm=case.norm, dtype=torch.float64)
    operator = HessianOperator(loss)
    pairs = top_eigenpairs(operator, 3, rtol=1e-10, num_products=operator.size + 3)
    truth = torch.linalg.eigvalsh(dense_hessian(case, model, batches, loss.weights)).flip(0)
    torch.testing.assert_close(pairs.eigenvalues, truth[:3], rtol=1e-8, atol=1e-10)


COVERED = ["outliers", "clustered", "indefinite", "tiny", "even"]
STEPS = 24


def missed(values: Tensor, seed: int, confidence: float) -> bool:
    """Run Lanczos from one random start and say whether the interval misses the truth after any of its steps.

    The matrix is diagonal: the start is uniform on the sphere, so the basis it is written in does not matter.
    """
    top = float(values.max())
    rounding = 1e-13 * float(values.abs().max())
    operator = FunctionOperator(lambda v: values * v, len(values), torch.float64)
    start = random_unit_vector(len(values), seed, torch.float64, CPU)
    for krylov, _ in zip(lanczos_steps(operator, start), range(STEPS), strict=False):
        lower = float(krylov.ritz()[0][0])
        if lower > top + rounding or upper_bound(krylov.alphas, krylov.betas, len(values), confidence) < top - rounding:
            return True
    return False


def test_the_interval_covers_the_truth_as_often_as_it_says() -> None:
    # 1,000 starts; a run counts as a miss if its interval misses after any step, so stopping early costs nothing.
    misses = sum(missed(spectrum(name), 1000 * i + seed, 0.99) for i, name in enumerate(COVERED) for seed in range(200))
    allowed = int(stats.binom.ppf(0.999, 1000, 0.01))
    assert misses <= allowed <= 21


@pytest.mark.parametrize("rise", [1e-2, 1e-3, 1e-5])
def test_the_interval_covers_an_eigenvalue_that_hides_in_the_rounding(rise: float) -> None:
    # Float32, the identity plus one direction that is hardly larger: after a step or two the residual is near rounding,
    # and what is left of it may be that direction. The interval must not close on the wrong eigenvalue.
    n, misses = 5000, 0
    diagonal = torch.ones(n)
    diagonal[17] += rise
    top = float(diagonal.max())
    for seed in range(60):
        pairs = top_eigenpairs(FunctionOperator(lambda v: diagonal * v, n), rtol=1e-4, num_products=12, seed=seed)
        misses += not pairs.lower <= top <= pairs.upper
    assert misses <= int(stats.binom.ppf(0.999, 60, 0.01))


def test_a_width_that_rounding_forbids_is_not_convergence() -> None:
    diagonal = torch.zeros(500)
    diagonal[3] = -1.0
    pairs = top_eigenpairs(FunctionOperator(lambda v: diagonal * v, 500), num_products=10)
    assert pairs.lower <= 0.0 <= pairs.upper
    assert not pairs.converged  # the largest eigenvalue is 0: no interval around it is narrow relative to it


def test_the_coverage_test_can_fail() -> None:
    # At 50 % the same count must find misses: the bound is not simply far away, and the test sees what it should.
    misses = sum(missed(spectrum("outliers"), seed, 0.5) for seed in range(100))
    assert 20 <= misses <= int(stats.binom.ppf(0.999, 100, 0.5))


def test_overlap_quantile_is_that_of_the_beta_law() -> None:
    for size in (2, 10, 1000):
        exact = math.sqrt(float(stats.beta.ppf(0.01, 0.5, (size - 1) / 2)))
        assert start_overlap(size, 0.99) == pytest.approx(exact, rel=1e-9)
    draws = np.random.default_rng(0).standard_normal((20_000, 10))
    share = np.mean(np.abs(draws[:, 0]) / np.linalg.norm(draws, axis=1) < start_overlap(10, 0.9))
    assert share == pytest.approx(0.1, abs=4 * math.sqrt(0.09 / 20_000))


def test_log_christoffel_is_the_sum_over_lanczos_polynomials() -> None:
    krylov = run(matrix_with_eigenvalues(spectrum("outliers"), 1), 6)
    T, t = tridiagonal(krylov.alphas, krylov.betas), 8.0
    polynomials = [1.0]
    for k in range(1, 7):  # p_k(t) = det(t - T_k) / (beta_1 ... beta_k)
        polynomials.append(float(np.linalg.det(t * np.eye(k) - T[:k, :k]) / np.prod(krylov.betas[:k])))
    assert log_christoffel(t, krylov.alphas, krylov.betas) == pytest.approx(math.log(sum(p * p for p in polynomials)))
    assert log_christoffel(1.0, krylov.alphas, krylov.betas) == -math.inf


@pytest.mark.parametrize("confidence", [0.9, 0.99, 0.999999])
def test_the_bound_shrinks_to_the_truth_with_more_steps(confidence: float) -> None:
    matrix = matrix_with_eigenvalues(spectrum("outliers"), 3)
    top, start = torch.linalg.eigh(matrix).eigenvectors[:, -1], random_unit_vector(150, 1, torch.float64, CPU)
    assert abs(float(top @ start)) > start_overlap(150, confidence)  # the event under which the bound holds for all k
    bounds = []
    for k in (2, 5, 10, 20, 30):
        krylov = run(matrix, k, seed=1)
        bounds.append(upper_bound(krylov.alphas, krylov.betas, len(matrix), confidence))
    assert all(later <= earlier * (1 + 1e-12) for earlier, later in pairwise(bounds))
    assert bounds[-1] == pytest.approx(6.0, rel=1e-9)


def test_stopping_at_a_ceiling_is_not_convergence() -> None:
    matrix = matrix_with_eigenvalues(spectrum("even"), 0)
    pairs = top_eigenpairs(operator_of(matrix), rtol=1e-10, num_products=5)
    assert not pairs.converged and pairs.num_products == 5
    assert pairs.lower <= 1.0 <= pairs.upper


def test_breakdown_is_exact_and_multiplicities_come_out() -> None:
    values = torch.tensor([3.0, 3.0, 3.0, 1.0, 1.0, 0.0, 0.0, 0.0], dtype=torch.float64)
    matrix = matrix_with_eigenvalues(values, 5)
    krylov = run(matrix, 8)
    assert krylov.couplings.count(0.0) >= 3  # three distinct eigenvalues: the space is invariant after three steps
    np.testing.assert_allclose(krylov.ritz()[0], values, atol=1e-12)
    assert upper_bound(krylov.alphas, krylov.betas, 8, 0.99) == pytest.approx(3.0, rel=1e-12)
    pairs = top_eigenpairs(operator_of(matrix), rtol=1e-12)
    assert (pairs.num_products, pairs.converged) == (4, True)
    assert float(pairs.eigenvalues[0]) == pytest.approx(3.0, rel=1e-12)
    zero = top_eigenpairs(FunctionOperator(torch.zeros_like, 6, torch.float64))
    assert (float(zero.eigenvalues[0]), zero.upper, zero.converged) == (0.0, 0.0, True)
    one = top_eigenpairs(FunctionOperator(lambda v: 7 * v, 1, torch.float64))
    assert float(one.eigenvalues[0]) == 7.0


def test_float32_intervals_contain_the_float64_answer() -> None:
    matrix = matrix_with_eigenvalues(1e3 * spectrum("outliers"), 2)
    pairs = top_eigenpairs(operator_of(matrix.float()), rtol=1e-6, seed=4)
    assert pairs.lower <= 6e3 <= pairs.upper
    assert pairs.upper - pairs.lower < 1e-4 * 6e3


def test_an_asymmetric_product_widens_the_interval() -> None:
    matrix = matrix_with_eigenvalues(spectrum("outliers"), 2)
    noise = 1e-3 * torch.randn(150, 150, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    clean, noisy = (top_eigenpairs(operator_of(m), rtol=1e-6, num_products=30) for m in (matrix, matrix + noise))
    assert clean.defect < 1e-12 < 1e-3 < noisy.defect
    assert noisy.upper - noisy.lower > 2 * noisy.defect


def test_the_start_depends_on_the_seed_alone() -> None:
    matrix = matrix_with_eigenvalues(spectrum("even"), 0)
    first, again, other = (top_eigenpairs(operator_of(matrix), num_products=6, seed=seed) for seed in (1, 1, 2))
    assert first.history == again.history and torch.equal(first.eigenvectors, again.eigenvectors)
    assert first.history != other.history


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"k": 0}, "k between 1"),
        ({"k": 151}, "k between 1"),
        ({"num_products": 1}, "at least 2"),
        ({"rtol": 0.0}, "rtol"),
        ({"confidence": 1.0}, "confidence"),
    ],
)
def test_bad_knobs_are_refused(options: dict[str, float], message: str) -> None:
    with pytest.raises(InputError, match=message):
        top_eigenpairs(operator_of(matrix_with_eigenvalues(spectrum("even"), 0)), **options)  # type: ignore[arg-type]


def test_a_product_that_is_not_finite_is_an_error() -> None:
    with pytest.raises(RunError, match="finite"):
        top_eigenpairs(FunctionOperator(lambda v: v * math.nan, 5, torch.float64))
