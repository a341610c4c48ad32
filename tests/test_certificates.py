"""The bounds that a random start proves: polynomial identities, Courant-Fischer, and a thousand starts."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, field
from itertools import pairwise, product
from typing import Any

import numpy as np
import pytest
import torch
from scipy import stats
from torch import Tensor

from sharpness.errors import InputError
from sharpness.linalg.basis import orthogonalise, random_direction
from sharpness.linalg.certificates import Polynomials, coupled_bounds, refutes_its_start, start_overlap, upper_bound
from sharpness.linalg.krylov import Krylov, lanczos_steps
from sharpness.linalg.lanczos import extreme_eigenpairs
from sharpness.linalg.locking import End
from sharpness.linalg.operators import SymmetricOperator
from sharpness.linalg.recurrence import largest_eigenvalue
from sharpness.machine.environment import derived_seed
from sharpness.vectors import norm, random_unit_vector
from tests.cases import slow_but
from tests.matrices import diagonal_operator, operator_of, spectrum
from tests.oracles import matrix_with_eigenvalues

CPU = torch.device("cpu")


@pytest.mark.parametrize("locked", [False, True])
@pytest.mark.parametrize("keep", [[0, 1, 2, 3], [0, 1, 6, 7], [5, 6, 7]])
def test_roots_and_betas_give_the_polynomials_after_restarts(keep: list[int], locked: bool) -> None:
    # A diagonal matrix evaluates every polynomial at its entries: q_j = r_j(A) v gives r_j(a_i) = q_ij / v_i. Points
    # beyond the spectrum get a weight of 1e-60 in v, too little to change a digit of the process.
    points = torch.tensor([1.2, 2.0, 5.0, -0.3, -4.0], dtype=torch.float64)
    values = torch.cat([torch.linspace(0, 1, 60, dtype=torch.float64), points])
    start = random_unit_vector(65, 3, torch.float64, CPU)
    beside = [torch.eye(65, dtype=torch.float64)[7]] if locked else []  # an eigenvector: the rest stays diagonal
    orthogonalise(start, beside)
    start[60:] = 0
    start /= start.norm()
    start[60:] = 1e-60
    first = start.clone()
    krylov = Krylov(diagonal_operator(values), start, beside)
    for cycle in range(4):
        if cycle:
            krylov.restart(np.array(keep))
        while len(krylov.basis) < 8:
            krylov.step()
        polynomials = krylov.polynomials()
        log_sums = [polynomials.log_sum(float(t)) for t in points[:3]]
        log_sums += [polynomials.mirrored().log_sum(float(-t)) for t in points[3:]]
        krylov.step()  # the vector after the basis belongs to the sum
        explicit = (torch.stack(krylov.basis)[:, 60:] / first[60:]).square().sum(0).log()
        np.testing.assert_allclose(log_sums, explicit, rtol=1e-9)


def test_the_sum_is_that_of_determinants_without_restarts() -> None:
    matrix = matrix_with_eigenvalues(spectrum("outliers"), 1)
    krylov = Krylov(operator_of(matrix), random_unit_vector(150, 0, torch.float64, CPU))
    for _ in range(6):
        krylov.step()
    T, t, polynomials = krylov.matrix(), 8.0, [1.0]
    for k in range(1, 7):  # r_{k+1}(t) = det(t - T_k) / (beta_1 ... beta_k)
        polynomials.append(float(np.linalg.det(t * np.eye(k) - T[:k, :k]) / np.prod(krylov.betas[:k])))
    roots = krylov.polynomials()
    assert roots.log_sum(t) == pytest.approx(math.log(sum(p * p for p in polynomials)))
    assert roots.log_sum(1.0) == -math.inf
    last = Polynomials(roots.ritz_values, None, roots.log_betas)
    assert last.log_sum(t) == pytest.approx(2 * math.log(polynomials[-1]))


@pytest.mark.parametrize("level", [0.5, 1e-2, 1e-12])
@pytest.mark.parametrize("scale", [1e-200, 1.0, 1e200])
def test_the_bound_solves_its_equation(level: float, scale: float) -> None:
    random = np.random.default_rng(0)
    for m in (1, 2, 10):
        ritz = scale * np.sort(random.standard_normal(m))[::-1]
        discarded = scale * (random.random(3) - 3)
        roots = Polynomials(ritz, scale * random.random(m), (m + 3) * math.log(scale) + 5, discarded)
        t = upper_bound(roots, 1000, level)
        assert t > roots.largest_root
        assert roots.log_sum(t) == pytest.approx(-2 * math.log(start_overlap(1000, level)), rel=1e-7)


def test_overlap_quantile_is_that_of_the_beta_law() -> None:
    for size in (2, 10, 1000):
        exact = math.sqrt(float(stats.beta.ppf(0.01, 0.5, (size - 1) / 2)))
        assert start_overlap(size, 0.01) == pytest.approx(exact, rel=1e-9)
    draws = np.random.default_rng(0).standard_normal((20_000, 10))
    share = np.mean(np.abs(draws[:, 0]) / np.linalg.norm(draws, axis=1) < start_overlap(10, 0.1))
    assert share == pytest.approx(0.1, abs=4 * math.sqrt(0.09 / 20_000))
    with pytest.raises(InputError, match="level"):
        start_overlap(10, 0.0)


def test_locked_vectors_and_a_bound_beside_them_bound_every_eigenvalue() -> None:
    random, n, needed = np.random.default_rng(0), 12, 0
    for _ in range(200):
        top, bottom = int(random.integers(0, 4)), int(random.integers(0, 3))
        A = random.standard_normal((n, n))
        A += A.T
        V = np.linalg.eigh(A)[1][:, [*range(n - top, n), *range(bottom)]]
        V = np.linalg.qr(V + 0.3 * random.random() * random.standard_normal(V.shape))[0]
        values, rotation = np.linalg.eigh(V.T @ A @ V)
        V = V @ rotation
        coupling = float(np.linalg.norm(A @ V - V * values, 2)) if V.size else 0.0
        complement = np.linalg.svd(V, full_matrices=True)[0][:, V.shape[1] :]
        beside = float(np.linalg.eigvalsh(complement.T @ A @ complement)[-1])
        truth = np.linalg.eigvalsh(A)[::-1][: top + 1]
        assert np.all(truth <= coupled_bounds(values, top, beside, coupling, top + 1) + 1e-12)
        needed += bool(np.any(truth > coupled_bounds(values, top, beside, 0.0, top + 1) + 1e-12))
    assert needed > 100  # the coupling is: without it most of these matrices break the bound


@pytest.mark.parametrize("level", [0.1, 1e-2, 1e-6])
def test_the_bound_shrinks_to_the_truth_with_more_steps(level: float) -> None:
    matrix = matrix_with_eigenvalues(spectrum("outliers"), 3)
    top, start = torch.linalg.eigh(matrix).eigenvectors[:, -1], random_unit_vector(150, 1, torch.float64, CPU)
    assert abs(float(top @ start)) > start_overlap(150, level)  # the event under which the bound holds for all k
    steps = zip(lanczos_steps(operator_of(matrix), start), range(30), strict=False)
    bounds = [upper_bound(krylov.polynomials(), 150, level) for krylov, _ in steps]
    assert all(later <= earlier * (1 + 1e-12) for earlier, later in pairwise(bounds))
    assert bounds[-1] == pytest.approx(6.0, rel=1e-9)


def random_spectrum(random: np.random.Generator) -> Tensor:
    """A bulk of random width, shape and place with up to five outliers on each side, some of them copies."""
    n, width = int(random.integers(50, 401)), 10 ** random.uniform(-2, 0.5)
    bulk = random.uniform(-1, 1) + width * random.beta(*random.uniform(0.3, 3, 2), size=n)
    for sign, edge in ((1, bulk.max()), (-1, bulk.min())):
        beyond = 10 ** random.uniform(-2, 1, int(random.integers(6)))
        at = random.choice(n, len(beyond), replace=False)
        bulk[at] = edge + sign * np.where(random.random(len(at)) < 0.2, beyond[:1], beyond)
    return torch.from_numpy(10 ** random.uniform(-6, 3) * bulk)


def missed(values: Tensor, seed: int, confidence: float, which: Any = "top", **options: Any) -> bool:
    """Run from one random start and say whether an interval misses the truth after any of the products, or at the end.

    The matrix is diagonal: the start is uniform on the sphere, so the basis it is written in does not matter.
    """
    pairs = extreme_eigenpairs(diagonal_operator(values), which=which, confidence=confidence, seed=seed, **options)
    down = values.sort(descending=True).values
    truth = down if which == "top" else down.flip(0)
    assert {pairs.lowers is None, pairs.uppers is None} == {False} or "refuted" in "".join(pairs.reasons.values())
    missed = pairs.lowers is not None and bool((pairs.lowers > truth[: len(pairs.lowers)]).any())
    missed |= pairs.uppers is not None and bool((truth[: len(pairs.uppers)] > pairs.uppers).any())
    for _, _, lower, upper in pairs.history:  # no bound is no miss
        missed |= not (lower or -math.inf) <= float(truth[0]) <= (upper or math.inf)
    return missed


def unlucky(values: Tensor, seed: int, level: float, which: str) -> bool:
    """Say whether the first start of that seed is one of the share ``level`` under which the bound may fail."""
    n, at = len(values), int(values.argmax() if which == "top" else values.argmin())
    start = random_unit_vector(n, derived_seed(seed, "lanczos", "start", 0), torch.float64, CPU)
    return abs(float(start[at])) < start_overlap(n, level)


@pytest.mark.parametrize("count", [200, pytest.param(2000, marks=pytest.mark.slow)])
@pytest.mark.dear
def test_restarted_intervals_cover_the_truth_as_often_as_they_say(count: int) -> None:
    # Random operators, one start each; a run counts as a miss if its interval misses after any product, so
    # stopping early costs nothing. And no run may miss whose start has the overlap that the proof is about.
    misses, excused, random = 0, 0, np.random.default_rng(0)
    for seed in range(count):
        values, which = random_spectrum(random), "top" if seed % 2 else "bottom"
        miss = missed(values, seed, 0.95, which, rtol=1e-12, num_products=16, max_basis=6)
        excuse = unlucky(values, seed, 0.05, which)
        assert excuse or not miss
        misses, excused = misses + miss, excused + excuse
    assert 0 < misses <= excused <= int(stats.binom.ppf(0.999, count, 0.05)) < 0.11 * count


@pytest.mark.parametrize(
    ("count", "confidence"), [(20, 0.5), pytest.param(1000, 0.95, marks=pytest.mark.slow)], ids=["fast", "1,000"]
)
@pytest.mark.parametrize("kept", [True, False], ids=["with a basis", "three vectors"])
def test_ends_without_a_bound_are_rarer_than_unlucky_starts(count: int, confidence: float, kept: bool) -> None:
    # Random operators, each from one seed. A miss is an interval that misses after any product, also of a run that was
    # refuted later; those start afresh, so that hardly an end has no bound when the products are used up.
    solve: Any = extreme_eigenpairs if kept else largest_eigenvalue
    misses = afresh = open_ends = wrong = 0
    random = np.random.default_rng(0)
    for seed in range(count):
        values, which = random_spectrum(random), "top" if seed % 2 else "bottom"
        truth = float(values.max() if which == "top" else values.min())
        pairs = solve(diagonal_operator(values), which=which, confidence=confidence, seed=seed, rtol=1e-6)
        outer = [row[3 if which == "top" else 2] for row in pairs.history]  # the Ritz value is the other bound
        beyond = [bound is not None and (bound < truth if which == "top" else bound > truth) for bound in outer]
        misses, wrong = misses + any(beyond), wrong + beyond[-1]
        afresh, open_ends = afresh + (pairs.num_starts > 1), open_ends + (outer[-1] is None)
    allowed = int(stats.binom.ppf(0.999, count, 1 - confidence))
    assert wrong <= misses <= allowed and afresh > 0.2 * allowed
    assert open_ends <= count / 1000


@dataclass
class Starts:
    """The starts of the runs of one search, and the locked vectors beside which each was drawn."""

    seen: list[tuple[Tensor, Tensor]] = field(default_factory=list)

    def draw(self, operator: SymmetricOperator, seed: int, basis: Sequence[Tensor]) -> Tensor:
        start = random_direction(operator, seed, basis)
        locked = torch.stack(list(basis), 1) if basis else torch.zeros(operator.size, 0, dtype=start.dtype)
        self.seen.append((start.clone(), locked))
        return start

    def unlucky(self, values: Tensor, error: float) -> bool:
        """Say whether one is of the share of ``error`` under which its bound of the rest of the operator may fail."""
        for i, (start, locked) in enumerate(self.seen):
            rest = torch.linalg.svd(locked).U[:, locked.shape[1] :]  # a basis of the complement
            top = rest @ torch.linalg.eigh(rest.T @ (values[:, None] * rest)).eigenvectors[:, -1]
            if abs(float(start @ top)) < start_overlap(rest.shape[1], error * 0.5 ** (i + 1)):
                return True
        return False


@pytest.mark.parametrize("count", [100, pytest.param(1000, marks=pytest.mark.slow)])
@pytest.mark.dear
def test_verified_intervals_of_three_eigenvalues_cover_together(count: int, monkeypatch: pytest.MonkeyPatch) -> None:
    values = torch.cat([0.3 * spectrum("even", 80), torch.tensor([1.0, 0.97, 0.9, 0.9, 0.6], dtype=torch.float64)])
    misses, excused = 0, 0
    for seed in range(count):
        starts = Starts()
        monkeypatch.setattr("sharpness.linalg.locking.random_direction", starts.draw)
        miss = missed(values, seed, 0.5, k=3, rtol=3e-2, max_basis=12)
        excuse = starts.unlucky(values, 0.5)
        assert len(starts.seen) > 1 or excuse
        assert excuse or not miss
        misses, excused = misses + miss, excused + excuse
    assert 0 < misses <= excused <= int(stats.binom.ppf(0.999, count, 0.5))


def test_the_coverage_tests_can_fail() -> None:
    # At 50 % the same counts must find misses: the bound is not simply far away, and the test sees what it should.
    options: dict[str, Any] = {"rtol": 1e-12, "num_products": 18}
    for max_basis in (6, None):
        misses = sum(missed(spectrum("outliers", 80), s, 0.5, max_basis=max_basis, **options) for s in range(50))
        assert 15 <= misses <= int(stats.binom.ppf(0.999, 50, 0.5))


@pytest.mark.parametrize("rise", [1e-2, 1e-3, 1e-5])
@pytest.mark.parametrize("max_basis", [None, 5])
def test_the_interval_covers_an_eigenvalue_that_hides_in_the_rounding(rise: float, max_basis: int | None) -> None:
    # Float32, the identity plus one direction that is hardly larger: after a step or two the residual is near rounding,
    # and what is left of it may be that direction. The interval must not close on the wrong eigenvalue.
    misses, diagonal = 0, torch.ones(5000)
    diagonal[17] += rise
    for seed in range(30):
        pairs = extreme_eigenpairs(
            diagonal_operator(diagonal), rtol=1e-4, num_products=12, seed=seed, max_basis=max_basis
        )
        assert pairs.lowers is not None and pairs.uppers is not None
        misses += not float(pairs.lowers[0]) <= float(diagonal[17]) <= float(pairs.uppers[0])
    assert misses <= int(stats.binom.ppf(0.999, 30, 0.01))


def test_a_width_that_rounding_forbids_is_not_convergence() -> None:
    diagonal = torch.zeros(500)
    diagonal[3] = -1.0
    pairs = extreme_eigenpairs(diagonal_operator(diagonal), num_products=10)
    assert pairs.lowers is not None and pairs.uppers is not None
    assert float(pairs.lowers[0]) <= 0.0 <= float(pairs.uppers[0])
    assert not pairs.converged  # the largest eigenvalue is 0: no interval around it is narrow relative to it


@pytest.mark.parametrize("options", [{}, {"k": 3, "max_basis": 10}, {"k": 2, "which": "magnitude"}])
def test_float32_intervals_contain_the_float64_answer(options: dict[str, Any]) -> None:
    matrix = matrix_with_eigenvalues(1e3 * spectrum("outliers"), 2)
    pairs = extreme_eigenpairs(operator_of(matrix.float()), rtol=1e-4, seed=4, **options)
    truth = torch.tensor([6e3, 4e3, 3e3], dtype=torch.float64)[: len(pairs.eigenvalues)]
    assert pairs.lowers is not None and pairs.uppers is not None and pairs.converged
    assert bool((pairs.lowers <= truth).all()) and bool((truth <= pairs.uppers).all())


def test_a_start_that_proves_false_is_noticed() -> None:
    # A start nearly without the top eigenvector proves 3 or so; when the top appears after all, that is taken back, and
    # nothing that this start could prove would be true.
    values = torch.cat([spectrum("even", 3000), torch.tensor([3.0, 6.0], dtype=torch.float64)])
    krylov = Krylov(diagonal_operator(values), torch.cat([torch.ones(3001), torch.tensor([1e-9])]).double())
    end, bounds = End(1), []
    for _ in range(30):
        krylov.step()
        end.tighten(krylov.polynomials(), 3002, 0.01, np.zeros(0), 0, 0.0, 1e-12)
        bounds.append(float(end.bounds[0]))
    assert min(bounds) < 3.1 and bounds[-1] == math.inf and end.void


@pytest.mark.parametrize(
    ("which", "num_unlucky"),
    slow_but(
        [("top", 2), ("bottom", 1), ("both", 1), ("magnitude", 2)],
        product(["top", "bottom", "both", "magnitude"], [1, 2]),
    ),
)
def test_a_refuted_start_is_followed_by_another_with_its_own_share_of_the_error(
    monkeypatch: pytest.MonkeyPatch, which: Any, num_unlucky: int
) -> None:
    values, starts = torch.cat([spectrum("even", 400), torch.tensor([3.0, 6.0], dtype=torch.float64)]), list[int]()
    values = -values if which == "bottom" else values
    levels = set[float]()

    def draw(operator: SymmetricOperator, seed: int, basis: Sequence[Tensor]) -> Tensor:
        start = random_direction(operator, seed, basis)
        starts.append(seed)
        if len(starts) <= num_unlucky:
            start[-1] = 1e-9
        return start

    def bound(polynomials: Polynomials, size: int, level: float) -> float:
        levels.add(level)
        return upper_bound(polynomials, size, level)

    monkeypatch.setattr("sharpness.linalg.locking.random_direction", draw)
    monkeypatch.setattr("sharpness.linalg.locking.upper_bound", bound)
    pairs = extreme_eigenpairs(diagonal_operator(values), which=which, rtol=1e-9, num_products=200, seed=1)
    assert pairs.lowers is not None and pairs.uppers is not None
    assert pairs.converged or which == "both"  # the other end is 0: no interval is narrow relative to it
    assert float(pairs.lowers[0]) <= (-6.0 if which == "bottom" else 6.0) <= float(pairs.uppers[0])
    assert pairs.num_starts == len(set(starts)) == num_unlucky + 1
    ends = 2 if which in ("both", "magnitude") else 1
    assert sorted(levels, reverse=True) == pytest.approx([0.009 * 0.1**i / ends for i in range(num_unlucky + 1)])


def test_only_unlucky_starts_refute_themselves() -> None:
    # On the way of a Ritz value past its bound there may be a product at which the bound is that Ritz value: a width of
    # zero about something unconverged. The polynomials themselves say so; those of a good start never do.
    values = torch.cat([spectrum("even", 400), torch.tensor([3.0, 6.0], dtype=torch.float64)])
    level, counts = 1e-2, dict[bool, int]()
    for overlap in np.geomspace(0.001, 1.0, 40) * start_overlap(402, level) * 10:
        start = random_unit_vector(402, 0, torch.float64, CPU)
        start[-1] = 0
        start *= math.sqrt(1 - overlap**2) / norm(start)
        start[-1] = overlap
        krylov, refuted = Krylov(diagonal_operator(values), start), False
        for _ in range(30):
            krylov.step()
            polynomials = krylov.polynomials()
            refuted |= refutes_its_start(polynomials, 402, level, 1e-12)
            at_the_ritz_value = upper_bound(polynomials, 402, level) <= polynomials.largest_root * (1 + 1e-12)
            assert refuted or not at_the_ritz_value or polynomials.largest_root > 6 - 1e-9
            if refuted:  # for good
                break
        lucky = overlap >= start_overlap(402, level)
        assert refuted is not lucky
        counts[lucky] = counts.get(lucky, 0) + 1
    assert counts[True] > 10 and counts[False] > 10


def test_a_ritz_value_beyond_a_bound_refutes_all_bounds_of_its_end() -> None:
    end = End(2)
    end.bounds[:], end.beside = 3.1, 1.0
    end.refute(np.array([3.2, 1.0]), 0.2)  # that may be rounding
    assert end.bounds.tolist() == [3.1, 3.1] and not end.refuted
    end.refute(np.array([3.0, 3.4]), 0.2)
    assert end.bounds.tolist() == [math.inf, math.inf] and end.beside == math.inf and end.refuted


@pytest.mark.parametrize("num_products", range(11, 23))
def test_a_later_run_takes_back_what_an_unlucky_start_proved(
    num_products: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    # The first start hardly has the top eigenvector: it proves that nothing is beyond 3. The second run sees 6 coming,
    # and whenever it is stopped, no interval may close around what is not there yet.
    values = torch.cat([spectrum("even", 400), torch.tensor([3.0, 2.5, 6.0], dtype=torch.float64)])

    def draw(operator: SymmetricOperator, seed: int, basis: Sequence[Tensor]) -> Tensor:
        start = random_direction(operator, seed, basis)
        if not basis:
            start[-1] = 1e-13
        return start

    monkeypatch.setattr("sharpness.linalg.locking.random_direction", draw)
    pairs = extreme_eigenpairs(diagonal_operator(values), 2, rtol=1e-3, num_products=num_products)
    truth = torch.tensor([6.0, 3.0], dtype=torch.float64)
    if float(pairs.eigenvalues[0]) > 3.1:
        assert pairs.uppers is not None and pairs.num_starts >= 2
        assert bool((pairs.uppers >= truth).all()) and bool((pairs.eigenvalues <= truth + 1e-12).all())


def test_no_interval_closes_around_a_refuted_bound_after_a_breakdown(monkeypatch: pytest.MonkeyPatch) -> None:
    # Float32; a start without the top eigenvector in a space that is invariant up to rounding after two steps. What it
    # proved is about 3; the fresh vector then finds the 6, about which nothing is proven.
    values = torch.cat([torch.ones(2500), torch.full((2500,), 3.0), torch.tensor([6.0])])

    def draw(operator: SymmetricOperator, seed: int, basis: Sequence[Tensor]) -> Tensor:
        start = random_direction(operator, seed, basis)
        start[-1] = 0.0
        return start

    monkeypatch.setattr("sharpness.linalg.locking.random_direction", draw)
    for num_products in range(3, 12):
        pairs = extreme_eigenpairs(diagonal_operator(values), rtol=1e-5, num_products=num_products)
        assert pairs.num_products == num_products and not pairs.converged
        if float(pairs.eigenvalues[0]) > 3.1:
            assert pairs.uppers is None and "refuted" in pairs.reasons["uppers"]
    assert float(pairs.eigenvalues[0]) == pytest.approx(6.0)  # type: ignore[possibly-unbound]
