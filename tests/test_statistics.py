"""Differences, ratios and p values agree with SciPy, cover and control at their rate, and say why there is none."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np
import pytest
from scipy import stats

from analysis.statistics.intervals import Interval, p_value, paired_difference, paired_ratio, summarise
from analysis.statistics.multiplicity import discovery_rates
from analysis.statistics.selection import chosen_difference


def test_difference_and_ratio_agree_with_scipy() -> None:
    rng = np.random.default_rng(1)
    a, b = rng.lognormal(size=7), rng.lognormal(1, size=7)
    for ours, first, second, back in (
        (paired_difference(a, b), a, b, lambda x: x),
        (paired_ratio(a, b), np.log(a), np.log(b), np.exp),
    ):
        theirs = stats.ttest_rel(second, first).confidence_interval(0.95)
        expected = [back(np.mean(second - first)), back(theirs.low), back(theirs.high)]
        assert [ours.value, ours.lower, ours.upper] == pytest.approx(expected, rel=1e-10)
        assert ours.n == 7


def test_intervals_cover_the_planted_value_at_their_rate() -> None:
    rng, hits = np.random.default_rng(2), 0
    for _ in range(600):
        first = rng.normal(size=4)
        interval = paired_difference(first, first + 0.3 + rng.normal(size=4))
        assert interval.lower is not None
        assert interval.upper is not None
        hits += interval.lower <= 0.3 <= interval.upper
    # Three standard errors of a share of .95 over 600 trials; normal instead of t quantiles would give about .85.
    assert abs(hits / 600 - 0.95) < 0.027


def test_an_interval_after_a_choice_covers_the_best_setting_though_the_choice_is_often_wrong() -> None:
    """The better of two settings, by a third of a standard deviation, has the value 0, the other 9."""
    rng, hits, right = np.random.default_rng(3), 0, 0
    none = np.zeros((10, 1))
    for _ in range(100):
        scores = rng.normal(size=(10, 2)) + np.array([1 / 3, 0])
        found = chosen_difference((none, scores), (none, rng.normal(size=(10, 2)) + np.array([0, 9])))
        assert found.value is not None and found.lower is not None and found.upper is not None
        hits += found.lower <= 0 <= found.upper
        right += found.value < 4.5
    assert right < 90 < hits, "an interval at the setting that was chosen would cover no more often than that is right"


def test_an_interval_after_a_clear_choice_is_that_of_the_setting() -> None:
    rng = np.random.default_rng(4)
    first, values = rng.normal(size=(15, 1)), rng.normal(size=(15, 2)) + np.array([0, 9])
    found = chosen_difference((np.zeros((15, 1)), np.tile([0.0, 1.0], (15, 1))), (first, values))
    student = paired_difference(first[:, 0], values[:, 1])
    ours, theirs = ([each.value, each.lower, each.upper] for each in (found, student))
    assert ours == pytest.approx(theirs, abs=0.15 * (student.upper or 0.0) - 0.15 * (student.lower or 0.0))
    gap = np.where(np.eye(15, 2) > 0, np.nan, values)
    assert "has no such number" in str(chosen_difference((np.zeros((15, 1)), values), (first, gap)).reason)


def test_unpaired_and_few_values_are_left_out_with_a_reason() -> None:
    nan = float("nan")
    assert paired_difference([1, nan, 3], [2, 5, nan]).n == 1
    assert paired_difference([1, nan], [2, 5]).lower is None
    assert paired_difference([nan], [1]).reason == "no seed has both"
    assert paired_ratio([1, -1], [2, 2]).value is None
    assert summarise([nan, 4.0]).std is None
    assert summarise([1.0, 2.0, 4.0]).std == pytest.approx(np.std([1, 2, 4], ddof=1))


@pytest.mark.parametrize("null", [-0.3, 0.0, 0.2, 1.5])
def test_the_p_value_of_a_students_interval_is_that_of_the_t_test(null: float) -> None:
    rng = np.random.default_rng(5)
    a, b = rng.lognormal(size=(2, 6))
    theirs: list[Any] = [stats.ttest_rel(b, a + null), stats.ttest_1samp(np.log(b / a), null)]
    ours = [p_value(paired_difference(a, b), null), p_value(paired_ratio(a, b), float(np.exp(null)), log=True)]
    assert ours == pytest.approx([each.pvalue for each in theirs], rel=1e-9)


def test_a_p_value_is_below_a_twentieth_just_where_the_interval_excludes_the_null() -> None:
    skew = Interval(1.0, 0.9, 1.6, 9, free=8)
    inside, outside = (p_value(skew, null) for null in (1.59, 1.61))
    assert inside is not None and outside is not None and outside < 0.05 < inside
    assert p_value(skew, 0.9) == pytest.approx(0.05) and p_value(skew, 1.0) == 1.0
    certain = Interval(1.0, 1.0, 1.0, 4, free=3)
    assert (p_value(certain, 1.0), p_value(certain, 0.5)) == (1.0, 0.0)
    normal = Interval(1.0, 1 - 1.9599639845, 1 + 1.9599639845, 9, free=float("inf"))
    assert p_value(normal, 0.0) == pytest.approx(2 * stats.norm.sf(1.0))
    assert p_value(replace(skew, free=None), 0.0) is None and p_value(replace(skew, lower=None), 0.0) is None


def test_false_discoveries_are_controlled_where_few_claims_are_true() -> None:
    """Of 40 claims 10 are true, by 3 standard errors: of those that stand at 10 % no more than 10 % are false."""
    rng, false, found, naive = np.random.default_rng(6), [], [], []
    true = np.arange(40) < 10
    for _ in range(300):
        p = 2 * stats.norm.sf(np.abs(rng.normal(size=40) + 3 * true))
        stands = np.array([q is not None and q <= 0.1 for q in discovery_rates([*p, None])[:-1]])
        false.append(np.sum(stands & ~true) / max(1, np.sum(stands)))
        naive.append(np.sum((p <= 0.1) & ~true) / max(1, np.sum(p <= 0.1)))
        found.append(np.mean(stands[true]))
    assert np.mean(false) < 0.1 < np.mean(naive)  # 0.1 * 30 / 40 is expected
    assert np.mean(found) > 0.6


def test_discovery_rates_are_those_of_the_definition() -> None:
    p = np.random.default_rng(7).random(20)
    ordered = np.sort(p)
    for q, each in zip(discovery_rates(p.tolist()), p, strict=True):
        assert q == pytest.approx(min(20 * ordered[j] / (j + 1) for j in range(20) if ordered[j] >= each))
    assert discovery_rates([None]) == [None] and discovery_rates([]) == []
