"""Restarted Lanczos against dense solvers and the algorithm's own identities."""

from __future__ import annotations

import json
import math
from typing import Any

import numpy as np
import pytest
import torch
from scipy.sparse.linalg import LinearOperator, eigsh
from torch import Tensor

from sharpness.curvature import HessianOperator
from sharpness.errors import InputError, RunError
from sharpness.linalg.basis import Products, orthogonalise, random_direction, rotate
from sharpness.linalg.eigenpairs import Eigenpairs
from sharpness.linalg.krylov import Krylov, lanczos_steps
from sharpness.linalg.lanczos import extreme_eigenpairs
from sharpness.linalg.locking import EigenpairSearch, SolverKnobs
from sharpness.linalg.operators import FunctionOperator
from sharpness.linalg.recurrence import largest_eigenvalue
from sharpness.loss import Loss
from sharpness.vectors import norm, random_unit_vector
from tests.alive import tensors_from_here
from tests.cases import CASES, slow_but
from tests.matrices import SPECTRA, diagonal_operator, operator_of, spectrum
from tests.oracles import dense_hessian, matrix_with_eigenvalues

CPU = torch.device("cpu")


def unit(n: int, seed: int) -> Tensor:
    return random_unit_vector(n, seed, torch.float64, CPU)


def wanted(values: Tensor, which: str, k: int) -> Tensor:
    """Pick eigenvalues in the order of the result from a full set in any order."""
    down = values.sort(descending=True).values
    if which == "magnitude":
        return down[down.abs().sort(descending=True, stable=True).indices[:k]]
    return {"top": down[:k], "bottom": down.flip(0)[:k], "both": torch.cat([down[:k], down.flip(0)[:k]])}[which]


def assert_true(pairs: Eigenpairs, matrix: Tensor, truth: Tensor) -> None:
    """Intervals contain the truth, values are within them, residuals bound the measured ones, vectors orthonormal."""
    assert pairs.lowers is not None and pairs.uppers is not None and pairs.eigenvectors is not None
    assert bool((pairs.lowers <= truth).all()) and bool((truth <= pairs.uppers).all())
    V = pairs.eigenvectors.T
    measured = (matrix @ V - V * pairs.eigenvalues).norm(dim=0)
    assert bool((measured <= pairs.residuals).all())
    assert float((V.T @ V - torch.eye(V.shape[1])).abs().max()) < 1e-12


@pytest.mark.parametrize("name", SPECTRA)
@pytest.mark.parametrize("restarts", [0, 1, 3])
@pytest.mark.parametrize("num_locked", [0, 2])
def test_the_lanczos_relation_holds_with_an_orthonormal_basis(name: str, restarts: int, num_locked: int) -> None:
    matrix = matrix_with_eigenvalues(spectrum(name), 1)
    locked = list(torch.linalg.qr(torch.randn(150, 2, dtype=torch.float64)).Q.T[:num_locked])
    start = unit(150, 1)
    orthogonalise(start, locked)
    krylov = Krylov(operator_of(matrix), start, locked)
    for cycle in range(restarts + 1):
        if cycle:
            krylov.restart(np.array([0, 1, 2, 3, len(krylov.basis) - 1]))
        for _ in range(12):
            krylov.step()
    Q, T, beta, crossings = torch.stack(krylov.basis).T, krylov.matrix(), krylov.betas[-1], krylov.crossings
    m = Q.shape[1]
    assert m == 12 + 5 * (restarts > 0) and len(T) == m
    krylov.step()
    rest = torch.zeros_like(Q)
    rest[:, -1] = beta * krylov.basis[-1]
    if num_locked:
        rest += torch.stack(locked).T @ torch.from_numpy(crossings)
    scale = float(matrix.abs().max()) * len(matrix)
    assert float((matrix @ Q - Q @ torch.from_numpy(T) - rest).abs().max()) < 1e-13 * scale
    everything = torch.stack([*locked, *krylov.basis]).T
    assert float((everything.T @ everything - torch.eye(m + 1 + num_locked)).abs().max()) < 1e-13
    assert krylov.defect < 1e-12 * scale


ENDS = ("top", "bottom", "both", "magnitude")
# The smallest eigenvalues of the other spectra are tiny beside the rest: restarted, that takes thousands of products.
BOTH_ENDS_IN_REACH = ("negative", "indefinite")
RESTARTED = [(name, which) for name in SPECTRA for which in ENDS if which in ENDS[::3] or name in BOTH_ENDS_IN_REACH]


# Each end with and without restarts, and each spectrum: that of both signs, which is the hardest, at every end.
FAST = {(name, "top", None) for name in SPECTRA} | {
    ("indefinite", which, basis) for which in ENDS for basis in (None, 16)
}
FAST |= {("outliers", "both", None), ("multiple", "magnitude", None), ("negative", "bottom", None)}
FAST |= {("clustered", "magnitude", 16), ("multiple", "top", 16), ("tiny", "magnitude", 16), ("negative", "both", 16)}


@pytest.mark.parametrize(
    ("name", "which", "max_basis"),
    slow_but(FAST, [(name, which, None) for name in SPECTRA for which in ENDS] + [(*case, 16) for case in RESTARTED]),
)
def test_extreme_eigenpairs_of_prescribed_spectra(name: str, which: Any, max_basis: int | None) -> None:
    values = spectrum(name, 70)
    values += 1e-6 * float(values.abs().max())  # no eigenvalue 0, whose interval stays relative
    matrix = matrix_with_eigenvalues(values, 2)
    for k in (1, 4):
        pairs = extreme_eigenpairs(
            operator_of(matrix), k, which=which, rtol=1e-2, num_products=900, max_basis=max_basis, seed=k
        )
        truth = wanted(values, which, k)
        assert pairs.converged and pairs.stopped_by == "certainty"
        assert_true(pairs, matrix, truth)
        assert pairs.defect is not None
        assert bool(((pairs.eigenvalues - truth).abs() <= 1e-2 * truth.abs() + pairs.defect + 1e-13).all())
        assert pairs.num_restarts > 0 or max_basis is None or pairs.num_products <= max_basis + pairs.num_starts * 8


@pytest.mark.parametrize("max_basis", [None, 12])
def test_copies_of_a_multiple_eigenvalue_come_out(max_basis: int | None) -> None:
    values = 0.1 * spectrum("even", 400)
    values[-7:] = torch.tensor([1.5, 1.5, 1.5, 1.2, 1.0, 0.8, 0.6], dtype=torch.float64)
    matrix = matrix_with_eigenvalues(values, 1)
    pairs = extreme_eigenpairs(operator_of(matrix), 4, rtol=1e-3, num_products=400, max_basis=max_basis)
    truth = torch.tensor([1.5, 1.5, 1.5, 1.2], dtype=torch.float64)
    assert pairs.converged and pairs.num_starts >= 4  # one for each copy, and one that sees that there are no more
    torch.testing.assert_close(pairs.eigenvalues, truth, rtol=1e-3, atol=0)
    assert_true(pairs, matrix, truth)
    assert bool((pairs.residuals <= 1e-2 * truth).all())


@pytest.mark.parametrize(
    "name",
    slow_but(
        ("mlp", "gru", "convolution"),
        ["mlp", "gru", "norm, batch statistics", "convolution", "tied weights", "attention"],
    ),
)
def test_eigenvalues_of_networks_are_those_of_the_dense_hessian(name: str) -> None:
    case = CASES[name]
    model, batches = case.build()
    loss = Loss(model, case.criterion, batches, norm=case.norm, dtype=torch.float64)
    operator = HessianOperator(loss)
    truth = torch.linalg.eigvalsh(dense_hessian(case, model, batches, loss.weights))
    cases: list[tuple[Any, int]] = [("top", 3), ("magnitude", 2)]
    for which, k in cases:
        pairs = extreme_eigenpairs(operator, k, which=which, rtol=1e-3, num_products=4 * operator.size)
        expected = wanted(truth, which, k)
        torch.testing.assert_close(pairs.eigenvalues, expected, rtol=1e-3, atol=1e-10)
        assert pairs.converged and pairs.lowers is not None and pairs.uppers is not None
        assert bool((pairs.lowers <= expected + 1e-12).all()) and bool((expected - 1e-12 <= pairs.uppers).all())


@pytest.mark.parametrize(("which", "theirs"), [("top", "LA"), ("bottom", "SA"), ("magnitude", "LM")])
def test_eigenvalues_of_a_network_are_those_of_arpack(which: Any, theirs: str) -> None:
    case = CASES["mlp"]
    model, batches = case.build(1)
    operator = HessianOperator(Loss(model, case.criterion, batches, norm=case.norm, dtype=torch.float64))
    n = operator.size

    def matvec(v: np.ndarray) -> np.ndarray:
        return operator.matvec(torch.from_numpy(v.ravel())).numpy()

    linear = LinearOperator((n, n), matvec)  # type: ignore[call-arg]
    expected = torch.from_numpy(eigsh(linear, 4, which=theirs, v0=np.ones(n), return_eigenvectors=False))
    pairs = extreme_eigenpairs(operator, 4, which=which, rtol=1e-6, num_products=4 * n)
    assert pairs.converged and pairs.lowers is not None and pairs.uppers is not None
    expected = wanted(expected, which, 4)
    torch.testing.assert_close(pairs.eigenvalues, expected, rtol=1e-6, atol=1e-12)
    assert bool((pairs.lowers <= expected + 1e-12).all()) and bool((expected - 1e-12 <= pairs.uppers).all())


def test_breakdown_is_exact_and_multiplicities_come_out() -> None:
    values = torch.tensor([3.0, 3.0, 3.0, 1.0, 1.0, 0.0, 0.0, 0.0], dtype=torch.float64)
    matrix = matrix_with_eigenvalues(values, 5)
    *_, krylov = lanczos_steps(operator_of(matrix), unit(8, 0))
    # Three distinct eigenvalues: the space is invariant after three steps. Later couplings may be rounding.
    assert sum(each < 1e-12 for each in krylov.couplings) >= 3 and krylov.couplings[2] == 0
    np.testing.assert_allclose(krylov.ritz()[0], values, atol=1e-12)
    pairs = extreme_eigenpairs(operator_of(matrix), rtol=1e-12)
    assert (pairs.num_products, pairs.converged) == (3, True)
    everything = extreme_eigenpairs(operator_of(matrix), 8, which="magnitude")
    torch.testing.assert_close(everything.eigenvalues, values, rtol=0, atol=1e-12)
    assert everything.converged and everything.num_products <= 16
    assert_true(everything, matrix, values)


@pytest.mark.parametrize("which", ["top", "bottom", "magnitude"])
def test_zero_identity_and_one_by_one(which: Any) -> None:
    zero = extreme_eigenpairs(FunctionOperator(torch.zeros_like, 6, torch.float64), which=which)
    assert zero.eigenvalues.tolist() == [0.0] and zero.converged
    assert zero.lowers is not None and zero.uppers is not None
    assert (zero.lowers.tolist(), zero.uppers.tolist()) == ([0.0], [0.0])
    same = extreme_eigenpairs(FunctionOperator(lambda v: v, 40, torch.float64), 3, which=which)
    assert same.eigenvalues.tolist() == pytest.approx([1.0, 1.0, 1.0], abs=1e-13) and same.converged
    one = extreme_eigenpairs(FunctionOperator(lambda v: -7 * v, 1, torch.float64), which=which)
    assert one.eigenvalues.tolist() == [-7.0] and one.converged and one.num_products == 1


def test_both_ends_of_an_even_split_are_the_whole_spectrum() -> None:
    values = torch.tensor([-2.0, -1.0, 0.5, 4.0], dtype=torch.float64)
    pairs = extreme_eigenpairs(diagonal_operator(values), 2, which="both", rtol=1e-9)
    assert pairs.eigenvalues.tolist() == pytest.approx([4.0, 0.5, -2.0, -1.0])
    with pytest.raises(InputError, match="k between 1 and 2"):
        extreme_eigenpairs(diagonal_operator(values), 3, which="both")


def test_magnitude_looks_at_the_other_end_before_it_stops() -> None:
    values = spectrum("outliers", 500)  # top 6; one eigenvalue beyond it in size at the other end
    values[0] = -6.5
    pairs = extreme_eigenpairs(diagonal_operator(values), 2, which="magnitude", rtol=1e-4)
    assert pairs.eigenvalues.tolist() == pytest.approx([-6.5, 6.0], rel=1e-4) and pairs.converged


@pytest.mark.parametrize("max_basis", [None, 8])
def test_residuals_on_request_are_measured(max_basis: int | None) -> None:
    matrix = matrix_with_eigenvalues(spectrum("outliers"), 3)
    pairs = extreme_eigenpairs(operator_of(matrix), 2, stop_on="residual", rtol=1e-5, max_basis=max_basis)
    assert pairs.converged and pairs.num_starts == 1 and pairs.eigenvectors is not None
    V = pairs.eigenvectors.T
    measured = (matrix @ V - V * pairs.eigenvalues).norm(dim=0)
    torch.testing.assert_close(pairs.residuals, measured, rtol=1e-9, atol=1e-13)
    assert bool((measured <= 1e-5 * pairs.eigenvalues).all())
    assert pairs.uppers is not None and float(pairs.uppers[1]) >= 6.0  # of the first run: no better than of the first


def test_an_operator_with_an_error_has_its_residuals_measured_and_wider_intervals() -> None:
    matrix = matrix_with_eigenvalues(spectrum("outliers"), 3)
    plain = extreme_eigenpairs(operator_of(matrix))
    operator = FunctionOperator(lambda v: matrix @ v, 150, torch.float64, error=1e-3)
    rough = extreme_eigenpairs(operator)
    assert rough.num_products == plain.num_products + 1
    assert rough.lowers is not None and plain.lowers is not None
    assert float(plain.lowers[0] - rough.lowers[0]) == pytest.approx(1e-3, rel=1e-6)
    assert float(rough.residuals[0]) < float(plain.residuals[0])


def test_magnitude_says_that_the_other_end_is_open() -> None:
    values = spectrum("even", 500) - 1.0
    values[-1] = 1.02  # alone and soon known, while nothing beyond -1 is excluded before the ceiling
    found = [extreme_eigenpairs(diagonal_operator(values), which="magnitude", num_products=m) for m in range(5, 40, 3)]
    blamed = [pairs for pairs in found if "beside" in pairs.reasons.get("converged", "")]
    assert blamed and found[-1].converged
    for pairs in blamed:
        assert pairs.lowers is not None and pairs.uppers is not None and not pairs.converged
        assert bool((pairs.uppers - pairs.lowers <= 1e-2 * pairs.eigenvalues.abs()).all())


def test_a_given_start_saves_products_and_proves_nothing() -> None:
    matrix = matrix_with_eigenvalues(spectrum("outliers"), 3)
    cold = extreme_eigenpairs(operator_of(matrix), 3, stop_on="residual", rtol=1e-4)
    noise = 1e-3 * torch.randn(3, 150, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    assert cold.eigenvectors is not None
    start = 5 * (cold.eigenvectors + noise)
    given = start.clone()
    warm = extreme_eigenpairs(operator_of(matrix), 3, rtol=1e-4, start=start)
    assert torch.equal(start, given)  # the caller's vectors are left alone
    assert warm.converged and warm.num_products <= cold.num_products - 2
    torch.testing.assert_close(warm.eigenvalues, cold.eigenvalues, rtol=1e-6, atol=0)
    assert (warm.uppers, warm.confidence, warm.num_starts) == (None, None, 0)
    assert warm.reasons["confidence"] == warm.reasons["uppers"] == "the start was given, not random"
    truth = torch.tensor([6.0, 4.0, 3.0], dtype=torch.float64)
    assert warm.lowers is not None and bool((warm.lowers <= truth).all())


@pytest.mark.parametrize(
    ("start", "message"),
    [
        (torch.zeros(150), "none of them zero"),
        (torch.full((150,), math.nan), "finite rows"),
        (torch.ones(149), "shape"),
        (torch.ones(2, 150, 1), "shape"),
        (torch.stack([torch.ones(150), -torch.ones(150)]), "sum"),
    ],
)
def test_a_bad_start_is_refused(start: Tensor, message: str) -> None:
    with pytest.raises(InputError, match=message):
        extreme_eigenpairs(diagonal_operator(spectrum("even")), start=start)


def test_stopping_at_a_ceiling_or_by_the_clock_is_not_convergence() -> None:
    matrix = matrix_with_eigenvalues(spectrum("even"), 0)
    pairs = extreme_eigenpairs(operator_of(matrix), 2, rtol=1e-10, num_products=5)
    assert (pairs.converged, pairs.num_products, pairs.stopped_by) == (False, 5, "num_products")
    assert_true(pairs, matrix, spectrum("even").flip(0)[:2])
    assert "interval of eigenvalue" in pairs.reasons["converged"]
    whole = extreme_eigenpairs(FunctionOperator(lambda v: matrix @ v, 150, torch.float64, error=1.0), rtol=1e-9)
    assert (whole.converged, whole.stopped_by) == (False, "num_products")
    few = FunctionOperator(lambda v: 2 * v, 3, torch.float64, error=1.0)
    spanned = extreme_eigenpairs(few, rtol=1e-2)
    assert (spanned.converged, spanned.stopped_by, spanned.num_products) == (False, "exhausted", 4)
    assert "whole space" in spanned.reasons["converged"]
    late = extreme_eigenpairs(operator_of(matrix), 3, seconds=1e-9)
    assert (late.converged, late.num_products, late.stopped_by, len(late.eigenvalues)) == (False, 1, "seconds", 1)


def test_the_start_depends_on_the_seed_alone_and_progress_is_told() -> None:
    operator, seen = diagonal_operator(spectrum("outliers")), list[tuple[int, int]]()
    options: dict[str, Any] = {"k": 3, "rtol": 1e-3, "max_basis": 9, "num_products": 80}
    first = extreme_eigenpairs(operator, seed=1, progress=lambda *at: seen.append(at), **options)
    again, other = (extreme_eigenpairs(operator, seed=seed, **options) for seed in (1, 2))
    assert first.history == again.history and str(first) == str(again)
    assert first.eigenvectors is not None and again.eigenvectors is not None
    assert torch.equal(first.eigenvectors, again.eigenvectors) and first.history != other.history
    assert seen == [(i + 1, 80) for i in range(first.num_products)]
    assert [entry[0] for entry in first.history] == [i for i, _ in seen]
    assert "eigenvectors" not in json.loads(json.dumps(first.details())) and "\n" not in str(first)


def test_an_asymmetric_product_widens_the_interval() -> None:
    matrix = matrix_with_eigenvalues(spectrum("outliers"), 2)
    noise = 1e-3 * torch.randn(150, 150, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    cases: list[dict[str, Any]] = [{}, {"k": 2, "max_basis": 8}]
    for options in cases:
        clean, noisy = (
            extreme_eigenpairs(operator_of(m), rtol=1e-6, num_products=60, **options) for m in (matrix, matrix + noise)
        )
        assert clean.defect is not None and noisy.defect is not None
        assert clean.defect < 1e-12 < 1e-3 < noisy.defect
        assert noisy.uppers is not None and noisy.lowers is not None and not noisy.converged
        assert float(noisy.uppers[0] - noisy.lowers[0]) > 2 * noisy.defect


@pytest.mark.parametrize("stop_on", ["interval", "residual"])
def test_no_more_vectors_are_alive_than_said(stop_on: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    n, alive, stacking = 2000, list[int](), list[int]()
    values, stack = spectrum("outliers", n), torch.stack

    tensors = tensors_from_here()

    def count() -> int:
        return sum({x.untyped_storage().data_ptr(): x.numel() // n for x in tensors()}.values())

    def product(v: Tensor) -> Tensor:
        alive.append(count())
        return values * v

    def counting(vectors: list[Tensor]) -> Tensor:
        result = stack(vectors)
        if result.shape[1:] == (n,):
            stacking.append(count())
        return result

    monkeypatch.setattr("torch.stack", counting)
    operator = FunctionOperator(product, n, torch.float64)
    pairs = extreme_eigenpairs(operator, 3, rtol=1e-6, max_basis=8, stop_on=stop_on)
    assert pairs.converged and pairs.num_restarts >= 2 and pairs.num_starts == (2 if stop_on == "interval" else 1)
    assert max(alive) == 8  # with the product that is to come, one more
    assert stacking[-1] == 6  # the vectors asked for, twice; those before are of rotations, here in one block


class Growing(FunctionOperator):
    """An operator that learns of its own error at some product."""

    def __init__(self, values: Tensor, at: int, before: float, after: float) -> None:
        super().__init__(self.product, len(values), torch.float64, error=before)
        self.values, self.at, self.after, self.made = values, at, after, 0

    def product(self, v: Tensor) -> Tensor:
        self.made += 1
        self.error = self.after if self.made >= self.at else self.error
        return self.values * v


def test_an_error_that_grows_while_residuals_are_measured_counts() -> None:
    values = spectrum("outliers")
    calm = extreme_eigenpairs(Growing(values, 1000, 1e-4, 0.0), 2, rtol=1e-2)
    assert calm.converged and calm.lowers is not None and calm.uppers is not None
    late = extreme_eigenpairs(Growing(values, calm.num_products, 1e-4, 0.5), 2, rtol=1e-2)
    assert late.num_products == calm.num_products and late.lowers is not None and late.uppers is not None
    torch.testing.assert_close(calm.lowers - late.lowers, torch.full((2,), 0.4999, dtype=torch.float64))
    torch.testing.assert_close(late.uppers - calm.uppers, torch.full((2,), 0.4999, dtype=torch.float64))
    assert not late.converged and late.reasons["converged"].startswith("after measuring")


def test_a_measured_residual_above_the_tolerance_is_not_convergence() -> None:
    values, made = spectrum("outliers"), 0

    def product(v: Tensor) -> Tensor:  # of other data from the last products on
        nonlocal made
        made += 1
        return (values if made < honest.num_products - 1 else values + 1.0) * v

    honest = extreme_eigenpairs(diagonal_operator(values), 2, stop_on="residual", rtol=1e-4)
    changed = extreme_eigenpairs(FunctionOperator(product, 150, torch.float64), 2, stop_on="residual", rtol=1e-4)
    assert honest.converged and changed.num_products == honest.num_products and not changed.converged
    assert changed.residuals.tolist() == pytest.approx([1.0, 1.0], rel=1e-3)
    assert changed.reasons["converged"].startswith("after measuring the residuals, the residual of eigenvalue")


@pytest.mark.parametrize(("which", "k"), [("magnitude", 1), ("magnitude", 2), ("magnitude", 3), ("both", 1)])
@pytest.mark.parametrize("sign", [1, -1])
def test_the_smallest_basis_keeps_something_of_each_end(which: Any, k: int, sign: int) -> None:
    values = torch.linspace(-1, 1, 150, dtype=torch.float64)
    values[:3] = torch.tensor([4.0, 3.5, 3.0])
    values[3] = -0.97 * float(values[k - 1])  # to be found, before it is known not to be the larger
    values *= sign
    max_basis = 3 + (2 * k if which == "both" else k)
    options: dict[str, Any] = {"which": which, "rtol": 1e-2, "num_products": 400, "seed": 1}
    pairs = extreme_eigenpairs(diagonal_operator(values), k, max_basis=max_basis, **options)
    assert pairs.converged is True and pairs.num_restarts > 0
    torch.testing.assert_close(pairs.eigenvalues, wanted(values, which, k), rtol=1e-2, atol=0)
    with pytest.raises(InputError, match="max_basis"):
        extreme_eigenpairs(diagonal_operator(values), k, max_basis=max_basis - 1, **options)


def test_every_rotation_counts_as_rounding() -> None:
    def rounding(search: EigenpairSearch) -> float:
        return (search.slack - search.defect) / (8 * torch.finfo(torch.float64).eps * search.scale)

    knobs = SolverKnobs(2, "top", 1e-2, 0.99, "interval", 6, 0, True)
    search = EigenpairSearch(diagonal_operator(spectrum("outliers")), knobs, None)
    for _ in range(6):
        search.advance()
    assert rounding(search) == pytest.approx(1.0)
    search.advance()  # restarts
    assert rounding(search) == pytest.approx(2.0)
    search.lock(search.pairs())
    search.advance()
    assert rounding(search) == pytest.approx(3.0)


def test_fresh_directions_after_a_breakdown_are_those_of_the_seed_and_the_run(monkeypatch: pytest.MonkeyPatch) -> None:
    # 3 I and an eigenvalue beside it break down after two products. In float32 a run that draws what an earlier one has
    # locked would go on from what rounding leaves of it.
    values = torch.full((500,), 3.0)
    values[0] = 2.0
    drawn: list[int] = []

    def recording(operator: Any, seed: int, basis: Any) -> Tensor:
        drawn.append(seed)
        return random_direction(operator, seed, basis)

    monkeypatch.setattr("sharpness.linalg.krylov.random_direction", recording)
    for seed in (0, 1):
        pairs = extreme_eigenpairs(diagonal_operator(values), 3, seed=seed, rtol=1e-5)
        assert pairs.eigenvalues.tolist() == pytest.approx([3.0, 3.0, 3.0], rel=1e-6) and pairs.num_starts > 1
        assert pairs.eigenvectors is not None
        torch.testing.assert_close(pairs.eigenvectors @ pairs.eigenvectors.T, torch.eye(3), rtol=0, atol=1e-6)
    assert len(drawn) == len(set(drawn)) >= 4


@pytest.mark.parametrize("view", [False, True])
def test_an_operator_that_returns_its_own_buffer_is_copied(view: bool) -> None:
    values, options = spectrum("outliers"), {"rtol": 1e-6, "max_basis": 7}
    buffer = torch.empty_like(values)

    def product(v: Tensor) -> Tensor:
        torch.mul(values, v, out=buffer)
        return buffer[:] if view else buffer

    own = FunctionOperator(product, 150, torch.float64)
    expected = extreme_eigenpairs(diagonal_operator(values), 2, **options)
    assert extreme_eigenpairs(own, 2, **options).details() == expected.details()
    plain = largest_eigenvalue(diagonal_operator(values), rtol=1e-6)
    assert largest_eigenvalue(own, rtol=1e-6).details() == plain.details()


def test_products_are_copied_only_where_they_must_be() -> None:
    given: list[int] = []

    def fresh(v: Tensor) -> Tensor:
        result = 2 * v
        given.append(result.data_ptr())
        return result

    products, v = Products(FunctionOperator(fresh, 5)), torch.ones(5)
    kept = [products(v)[0] for _ in range(4)]
    assert [x.data_ptr() == at for x, at in zip(kept[1:], given[1:], strict=True)] == [True] * 3
    identity = Products(FunctionOperator(lambda v: v, 5))
    assert all(identity(v)[0].data_ptr() != v.data_ptr() for _ in range(3)) and identity.number == 3


def test_chunks_give_what_one_piece_gives(monkeypatch: pytest.MonkeyPatch) -> None:
    Q = torch.linalg.qr(torch.randn(1000, 7, generator=torch.Generator().manual_seed(0), dtype=torch.float64)).Q
    v, S = unit(1000, 5), np.linalg.qr(np.random.default_rng(0).standard_normal((7, 3)))[0]
    monkeypatch.setattr("sharpness.linalg.basis.CHUNK", 64)
    rest = v.clone()
    components = orthogonalise(rest, list(Q.T))
    np.testing.assert_allclose(components, (Q.T @ v).numpy(), atol=1e-15)
    torch.testing.assert_close(rest, v - Q @ (Q.T @ v), rtol=0, atol=1e-15)
    vectors = [q.clone() for q in Q.T]
    rotate(vectors, S)
    torch.testing.assert_close(torch.stack(vectors).T, Q @ torch.from_numpy(S), rtol=0, atol=1e-15)


def test_the_norm_of_a_long_float32_vector_is_that_in_float64() -> None:
    v = torch.randn(3_000_001, generator=torch.Generator().manual_seed(0))
    assert norm(v) == pytest.approx(float(np.linalg.norm(v.double().numpy())), rel=1e-12)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"k": 0}, "k between 1"),
        ({"k": 151}, "k between 1"),
        ({"num_products": 1}, "at least 2"),
        ({"k": 4, "num_products": 4}, "at least 5"),
        ({"k": 4, "stop_on": "residual", "num_products": 7}, "at least 8"),
        ({"rtol": 0.0}, "rtol"),
        ({"confidence": 1.0}, "confidence"),
        ({"which": "largest"}, "unknown end of a spectrum"),
        ({"stop_on": "ritz"}, "unknown criterion"),
        ({"k": 4, "max_basis": 6}, "max_basis of at least 7"),
        ({"seconds": 0.0}, "seconds"),
    ],
)
def test_bad_knobs_are_refused(options: dict[str, Any], message: str) -> None:
    with pytest.raises(InputError, match=message):
        extreme_eigenpairs(diagonal_operator(spectrum("even")), **options)


def test_a_product_that_is_not_finite_is_an_error() -> None:
    with pytest.raises(RunError, match="finite"):
        extreme_eigenpairs(FunctionOperator(lambda v: v * math.nan, 5, torch.float64))
