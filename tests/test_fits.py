"""Planted laws: are slopes, critical batch sizes and change points found, and does an interval cover as it says?"""

from __future__ import annotations

import cProfile
from collections.abc import Callable

import numpy as np
import pytest
from scipy.optimize import nnls
from scipy.stats import t

from analysis.statistics import fits, piecewise
from analysis.statistics.fits import hyperbola, power_law_by, regimes, scaling_overhead
from analysis.statistics.hyperbolas import hyperbolas, nonnegative
from analysis.statistics.intervals import Interval
from analysis.statistics.piecewise import kinks, line
from analysis.statistics.resampling import Floats, bounds, curve_of, resampled_means, widening
from sharpness.errors import InputError

pytestmark = pytest.mark.dear

BATCHES = np.exp2(np.arange(2.0, 14.0))
NUM_EXPERIMENTS = 200


@pytest.fixture
def fewer_curves(monkeypatch: pytest.MonkeyPatch) -> None:
    """Draw enough curves for many experiments, none of which is read for its own ends."""
    monkeypatch.setattr(fits, "NUM_CURVES", 250)


def covers(interval: Interval, truth: float) -> bool:
    """An interval without a bound covers everything on that side."""
    low, high = interval.lower, interval.upper
    return (low is None or low <= truth) and (high is None or truth <= high)


def coverage(experiment: Callable[[np.random.Generator], Interval], truth: float, num: int = NUM_EXPERIMENTS) -> float:
    return float(np.mean([covers(experiment(np.random.default_rng(seed)), truth) for seed in range(num)]))


def noisy(steps: Floats, rng: np.random.Generator, replicates: int, noise: float) -> Floats:
    return steps * np.exp(noise * rng.standard_normal((replicates, len(steps))))


# Power laws.


@pytest.mark.parametrize(
    ("x", "y", "reason"),
    [
        ([1, 2, 2], [1, 2, 3], "needs at least 3 different x"),
        ([1, 2, np.nan, 4], [1, 2, 3, np.nan], "needs at least 3 different x"),
        ([1, 2, 0], [1, 2, 3], "a value is not positive"),
        ([1, 2, 3], [1, 2, -3], "a value is not positive"),
    ],
)
def test_power_laws_say_why_there_is_no_slope(x: list[float], y: list[float], reason: str) -> None:
    found = power_law_by(x, y, range(len(x)))
    assert (found.value, found.lower, found.upper, found.reason) == (None, None, None, reason)


def test_power_law_by_needs_three_groups_and_matching_lengths() -> None:
    assert power_law_by([1, 2, 4], [1, 2, 4], ["a", "b", "b"]) == Interval(
        None, None, None, 2, "needs at least 3 groups"
    )
    with pytest.raises(InputError, match=r"expected one y and one group per x, got \(3,\), \(3,\) and \(2,\)"):
        power_law_by([1, 2, 4], [1, 2, 4], [0, 1])


def grouped_slopes(rng: np.random.Generator, num_groups: int) -> Interval:
    """Slopes of 1 that differ by group, each seen at 15 points with little noise."""
    x = np.tile(2.0 ** np.arange(15), (num_groups, 1))
    slopes = 1 + 0.2 * rng.standard_normal((num_groups, 1))
    y = 3 * x**slopes * np.exp(0.02 * rng.standard_normal(x.shape))
    group = np.repeat(np.arange(num_groups), 15)
    return power_law_by(x.ravel(), y.ravel(), group)


@pytest.mark.parametrize("num_groups", [5, 12])
def test_power_law_by_covers_slopes_that_differ_by_group(num_groups: int) -> None:
    assert 0.88 <= coverage(lambda rng: grouped_slopes(rng, num_groups), 1.0) <= 1


def test_power_law_by_of_one_slope_and_any_labels_is_exact() -> None:
    x, group = [1.0, 10.0, 100.0] * 3, [None] * 3 + ["b"] * 3 + [3] * 3
    found = power_law_by(x, 5 * np.array(x) ** -0.5, np.array(group, dtype=object))
    assert [found.value, found.lower, found.upper] == pytest.approx([-0.5] * 3)
    assert found.n == 3


# The hyperbola.


def test_nonnegative_least_squares_is_that_of_scipy() -> None:
    rng = np.random.default_rng(0)
    u, steps, weights = rng.uniform(0.1, 10, 6), rng.uniform(0.1, 10, (300, 6)), rng.uniform(0.1, 10, (300, 6))
    steps[:100] *= u  # so that S_min is 0 in some, E_min in some and neither in some
    s, e = nonnegative(u, steps, weights)
    for k in range(300):
        root = np.sqrt(weights[k])
        expected, _ = nnls(np.stack([root, root * u], axis=1), root * steps[k])
        assert [s[k], e[k]] == pytest.approx(expected.tolist(), rel=1e-8, abs=1e-10)
    assert min(np.sum(s == 0), np.sum(e == 0), np.sum((s > 0) & (e > 0))) > 20


def test_hyperbola_solves_its_equations_relative_to_the_fit() -> None:
    """sum_j n_j (S_j - fit_j) / fit_j^2 = 0, and the same times 1 / B_j: S_j is not what it is divided by."""
    rng = np.random.default_rng(0)
    steps, counts = noisy(200 * (1 + 90 / BATCHES), rng, 50, 0.4), rng.integers(1, 9, len(BATCHES)).astype(float)
    log_s, log_e, log_b = hyperbolas(BATCHES, np.log(steps), counts)
    fitted = np.exp(log_s)[:, None] + np.exp(log_e)[:, None] / BATCHES
    for power in (0, 1):
        terms = counts * (steps - fitted) / fitted**2 / BATCHES**power
        assert np.sum(terms, axis=1) == pytest.approx(0, abs=1e-5 * np.sum(np.abs(terms), axis=1).min())
    assert log_b == pytest.approx(log_e - log_s)


@pytest.mark.parametrize(("s_min", "b_crit"), [(100.0, 64.0), (3.0, 4000.0), (5000.0, 2.0)])
def test_hyperbola_recovers_planted_numbers(s_min: float, b_crit: float) -> None:
    fit = hyperbola(BATCHES[::-1], s_min * (1 + b_crit / BATCHES[::-1]))
    for found, truth in ((fit.s_min, s_min), (fit.e_min, s_min * b_crit), (fit.b_crit, b_crit)):
        assert [found.value, found.lower, found.upper] == pytest.approx([truth] * 3, rel=1e-6)
        assert found.n == len(BATCHES) and found.reason is None


@pytest.mark.usefixtures("fewer_curves")
@pytest.mark.parametrize("replicates", [1, 5])
def test_hyperbola_covers_planted_numbers(replicates: int) -> None:
    batches, truth = BATCHES[:10], (200.0, 200.0 * 90, 90.0)
    covered = np.zeros((NUM_EXPERIMENTS, 3))
    for seed in range(NUM_EXPERIMENTS):
        steps = noisy(200 * (1 + 90 / batches), np.random.default_rng(seed), replicates, 0.15)
        fit = hyperbola(batches, steps)
        covered[seed] = [covers(part, x) for part, x in zip((fit.s_min, fit.e_min, fit.b_crit), truth, strict=True)]
    shares = covered.mean(axis=0)
    assert shares.min() >= 0.85, shares


def of_seeds(rng: np.random.Generator, num: int) -> Floats:
    """Return steps (seeds, batch sizes) of seeds that are slow or fast as wholes, at large batches more so."""
    own = 0.3 * rng.standard_normal((num, 1)) * (1 + 0.5 * np.sign(BATCHES[:10] - 100))
    return noisy(200 * (1 + 90 / BATCHES[:10]), rng, num, 0.03) * np.exp(own)


@pytest.mark.usefixtures("fewer_curves")
def test_hyperbola_over_seeds_covers_where_a_seed_is_slow_at_every_batch_size() -> None:
    covered = np.zeros((NUM_EXPERIMENTS, 2, 2))
    for number in range(NUM_EXPERIMENTS):
        steps = of_seeds(np.random.default_rng(number), 8)
        for row, paired in enumerate((True, False)):
            fit = hyperbola(BATCHES[:10], steps, paired=paired)
            covered[number, row] = covers(fit.s_min, 200.0), covers(fit.e_min, 200.0 * 90)
    of_pairs, of_runs = covered.mean(axis=0)
    assert of_pairs.min() >= 0.9 and of_runs.min() < 0.75, (of_pairs, of_runs)


def test_hyperbola_over_seeds_leaves_out_what_a_seed_did_not_reach() -> None:
    steps = of_seeds(np.random.default_rng(0), 5)
    whole, order = hyperbola(BATCHES[:10], steps, paired=True), np.random.default_rng(1).permutation(10)
    assert hyperbola(BATCHES[order], steps[:, order], paired=True) == whole
    steps[0, 4] = steps[3, 9] = np.nan
    holed = hyperbola(BATCHES[:10], steps, paired=True)
    assert holed.s_min.n == 48 and holed.s_min.lower is not None and holed.s_min.free == 4
    assert hyperbola(BATCHES[:10], steps[:1], paired=True).s_min.reason == "an interval needs at least 2 seeds"


def test_hyperbola_reads_replicates_with_gaps_and_one_long_column_alike() -> None:
    table = noisy(200 * (1 + 90 / BATCHES), np.random.default_rng(0), 3, 0.1)
    table[0, 4] = np.nan
    table[:, 7] = np.nan
    long = hyperbola(np.tile(BATCHES, 3), table.ravel())
    assert long == hyperbola(BATCHES, table)
    assert long.b_crit.n == 3 * 12 - 4


@pytest.mark.usefixtures("fewer_curves")
def test_hyperbola_without_a_bound_says_so_instead_of_giving_a_huge_one() -> None:
    perfect, flat = 1e5 / BATCHES, np.full(len(BATCHES), 70.0)
    for steps, reasons in (
        (perfect, ("perfect scaling throughout: no S_min can be told", None)),
        (flat, (None, "no scaling at all: no E_min can be told")),
    ):
        fit = hyperbola(BATCHES, steps)
        assert (fit.s_min.reason, fit.e_min.reason) == reasons
        assert fit.b_crit.value is None and fit.b_crit.reason == (reasons[0] or reasons[1])
    seen = set()
    for seed in range(30):
        for steps in (perfect, flat):
            fit = hyperbola(BATCHES, noisy(steps, np.random.default_rng(seed), 4, 0.1))
            for part in (fit.s_min, fit.e_min, fit.b_crit):
                numbers = [x for x in (part.value, part.lower, part.upper) if x is not None]
                assert all(1e-9 < x < 1e12 for x in numbers)
                assert (part.reason is None) == (len(numbers) == 3)
                seen.add((part.reason or "").partition(",")[0])
    assert {"no lower bound", "no upper bound"} <= seen


@pytest.mark.parametrize(
    ("batches", "steps", "reason"),
    [
        ([1, 2], [4, 2], "needs at least 3 batch sizes"),
        ([1, 2, 4, 8], [4, 2, np.nan, np.inf], "needs at least 3 batch sizes"),
        ([1, 2, 4], [4, 2, 0], "a number of steps is not positive"),
    ],
)
def test_hyperbola_says_why_there_is_no_fit(batches: list[float], steps: list[float], reason: str) -> None:
    fit = hyperbola(batches, steps)
    assert {fit.s_min.reason, fit.e_min.reason, fit.b_crit.reason} == {reason}
    assert fit.b_crit.value is None and fit.b_crit.n == np.sum(np.isfinite(steps))


def test_bad_tables_are_refused() -> None:
    with pytest.raises(InputError, match=r"expected steps for 3 batch sizes, got \(1, 2\)"):
        hyperbola([1, 2, 4], [4, 2])
    with pytest.raises(InputError, match="expected positive batch sizes"):
        regimes([0, 1, 2, 4], [4, 3, 2, 1])


# The three regimes.


def three_pieces(x: Floats, first: float, last: float, slope: float) -> Floats:
    """Log steps with kinks at log batch sizes first and last."""
    return 12 - np.minimum(x, first) + slope * (np.clip(x, first, last) - first)


def scanned(x: Floats, y: Floats, weights: Floats) -> tuple[float, float]:
    """The kinks found by an explicit least squares for every pair of places."""
    places, root, best = np.linspace(x[0], x[-1], piecewise.NUM_KINKS), np.sqrt(weights), (np.inf, 0.0, 0.0)
    for i, first in enumerate(places):
        for last in places[i:]:
            share = np.clip((x - first) / (last - first), 0, 1) if last > first else 0 * x
            columns = np.stack([1 - share, share], axis=1) if last > first else np.ones((len(x), 1))
            offset = (1 - share) * np.minimum(x, first)
            levels = np.linalg.lstsq(columns * root[:, None], (y + offset) * root, rcond=None)[0]
            if last > first:
                slope = (levels[1] - levels[0] + first) / (last - first)
                if not piecewise.DISTINCT - 1 <= slope <= -piecewise.DISTINCT:
                    continue
            best = min(best, (float(np.sum(weights * (y + offset - columns @ levels) ** 2)), first, last))
    return best[1], best[2]


def test_kinks_are_those_of_an_explicit_scan(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(piecewise, "NUM_KINKS", 17)
    rng = np.random.default_rng(0)
    x, weights = np.sort(rng.uniform(0, 8, 9)), rng.integers(1, 5, 9).astype(float)
    curves = np.stack(
        [three_pieces(x, *kink, -0.4) + 0.2 * rng.standard_normal(9) for kink in [(2, 5), (4, 4), (0, 8)]]
    )
    found = kinks(x, curves, weights)
    for k in range(3):
        assert tuple(found[:, k]) == pytest.approx(scanned(x, curves[k], weights))


@pytest.mark.parametrize(("first", "last", "slope"), [(4, 7, -0.5), (3, 9, -0.2), (6, 6, 0.0), (2, 8, -0.8)])
def test_planted_kinks_are_recovered(first: int, last: int, slope: float) -> None:
    x = np.log(2.0) * np.arange(13)
    log_steps = three_pieces(x, np.log(2) * first, np.log(2) * last, slope)
    found = regimes(np.exp2(np.arange(13.0)), np.exp(log_steps))
    assert found.perfect_until.value == pytest.approx(2**first)  # every kink is a place of the scan
    assert found.flat_from.value == pytest.approx(2**last)
    assert line(x, log_steps, np.ones(13), np.log(2) * first, np.log(2) * last) == pytest.approx(log_steps)


@pytest.mark.usefixtures("fewer_curves")
def test_regimes_cover_planted_kinks() -> None:
    batches = np.exp2(np.arange(14.0))
    steps = np.exp(three_pieces(np.log(batches), np.log(2) * 4, np.log(2) * 9, -0.5))
    covered = []
    for seed in range(40):
        found = regimes(batches, noisy(steps, np.random.default_rng(seed), 5, 0.1))
        covered.append([covers(found.perfect_until, 2.0**4), covers(found.flat_from, 2.0**9)])
    shares = np.mean(covered, axis=0)
    assert shares.min() >= 0.85, shares


def test_regimes_that_are_not_there_or_do_not_end_are_named() -> None:
    x, batches = np.log(2.0) * np.arange(9), np.exp2(np.arange(9.0))
    cases = {
        "perfect": (0 - x, "does not end", "still fall"),
        "flat": (0 * x, "does not hold", "do not fall"),
        "between": (-0.5 * x, "does not hold", "still fall"),
    }
    for log_steps, until, flat in cases.values():
        found = regimes(batches, 1000 * np.exp(log_steps))
        assert found.perfect_until.value is None and until in str(found.perfect_until.reason)
        assert found.flat_from.value is None and flat in str(found.flat_from.reason)
    assert regimes(batches[:3], [4, 2, 1]).flat_from.reason == "needs at least 4 batch sizes"


@pytest.mark.usefixtures("fewer_curves")
def test_perfect_scaling_with_noise_has_no_end() -> None:
    """Now and then, as 95 % allow, the noise looks like an end; mostly there is no upper bound, and it says why."""
    batches = np.exp2(np.arange(9.0))
    ends = [regimes(batches, noisy(1e4 / batches, np.random.default_rng(k), 4, 0.1)).perfect_until for k in range(20)]
    without = [end for end in ends if end.upper is None]
    assert len(without) >= 17
    assert all(end.reason and "does not end within the batch sizes measured" in end.reason for end in without)
    assert {end.value is None for end in without} == {True, False}


def test_one_curve_of_four_batch_sizes_has_no_interval() -> None:
    found = regimes([1, 4, 16, 64], [100, 25, 15, 15]).perfect_until
    assert found.value is not None and (found.lower, found.upper) == (None, None)
    assert found.reason == "an interval needs more than 4 runs or at least 2 at every batch size"


def test_the_redrawn_curves_are_fitted_together() -> None:
    # One by one they would take minutes, and hundreds of calls of functions each.
    samples = noisy(1000 * (1 + 90 / BATCHES), np.random.default_rng(0), 5, 0.1)
    with cProfile.Profile() as profile:
        regimes(BATCHES, samples)
    assert sum(entry.callcount for entry in profile.getstats()) < 10 * fits.NUM_CURVES


# The overhead over perfect scaling.


def test_scaling_overhead_on_a_hyperbola_is_a_fifth_of_the_critical_batch_size() -> None:
    batches = np.geomspace(1, 10000, 4001)
    assert scaling_overhead(batches, 7 * (1 + 500 / batches)).value == pytest.approx(100, rel=0.02)


def test_scaling_overhead_stops_at_the_first_batch_size_beyond_it() -> None:
    found = scaling_overhead([1, 2, 4, 8], [[80, 60, 20, 10], [80, 60, 20, 10]])
    assert found == Interval(1.0, 1.0, 1.0, 8)  # 4 and 8 are within it again, but not "all smaller ones"
    assert scaling_overhead([1, 2, 4, 8], [80, 60, 20, 10], tolerance=1.5).value == 8
    assert scaling_overhead([1, 2], [8, 4]).reason == "an interval needs at least 2 runs at every batch size"
    assert scaling_overhead([1], [8]).reason == "needs at least 2 batch sizes"


def test_scaling_overhead_without_an_end_has_no_upper_bound() -> None:
    found = scaling_overhead([1, 2, 4, 8], [[80, 40, 20, 10], [82, 40, 20, 10]])
    assert (found.value, found.lower, found.upper) == (8, 8, None)
    assert found.reason == "no upper bound, 100 % of the resamples: no end within the batch sizes measured"


# Resampling.


def test_widened_resamples_are_as_wide_as_student_t() -> None:
    values = np.random.default_rng(0).standard_normal(40)
    lower, upper = bounds(resampled_means(values, 200_000, np.random.default_rng(1)))
    half = t.ppf(0.975, 39) * np.std(values, ddof=1) / np.sqrt(40)
    assert [lower, upper] == pytest.approx([np.mean(values) - half, np.mean(values) + half], abs=0.03 * half)
    assert widening(2, 1, 1) == pytest.approx(np.sqrt(2) * 12.706 / 1.95996, rel=1e-4)


def test_a_curve_sorts_batches_and_leaves_out_those_without_steps() -> None:
    curve = curve_of([8, 2, 4], [[1, 4, np.nan], [2, 4, np.inf]], least=2)
    assert not isinstance(curve, str)
    assert curve.batches.tolist() == [2, 8] and curve.n == 4
    assert np.exp(curve.logs) == pytest.approx([4, np.sqrt(2)])
