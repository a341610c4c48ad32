"""Planted studies: how often is each verdict right, and what do few seeds say? Intervals: are the rules consistent?"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable
from dataclasses import replace
from functools import cache, partial
from typing import Any

import numpy as np
import pytest

from analysis.report.findings import Finding, Variant, over_all, with_discovery_rates, with_variants
from analysis.report.verdicts import Judged, Least, Range, judge, judge_within
from analysis.statistics.intervals import Interval, exponential, student
from analysis.statistics.resampling import Floats

M, SPREAD, STUDIES = 0.5, 0.65, 600
"""The smallest effect of interest and the deviation of pairs, as of test accuracy; and the number of studies."""
MONTE_CARLO = 3 * np.sqrt(0.025 * 0.975 / STUDIES)
LEAST, SAME = Least(M, "planted", "pp"), Range(-M, M, "planted", "pp")
HIGHER = partial(judge, null=0.0, direction=1, least=LEAST)
SIZES = (3, 5, 12, 50)


@cache
def studies(effect: float, n: int) -> list[Interval]:
    """Return the intervals of studies of n pairs with a planted effect."""
    return [student(each) for each in effect + SPREAD * np.random.default_rng(n).normal(size=(STUDIES, n))]


def shares(effect: float, n: int, rule: Callable[[Interval], Judged]) -> Counter[str]:
    """Return how often each verdict is given in those studies."""
    counts = Counter(rule(each).verdict for each in studies(effect, n))
    return Counter({verdict: count / STUDIES for verdict, count in counts.items()})


@pytest.mark.parametrize("n", SIZES)
def test_no_effect_and_an_opposite_one_are_hardly_ever_reproduced(n: int) -> None:
    for effect in (0.0, -M / 2, -3 * M):
        found = shares(effect, n, HIGHER)
        assert found["reproduced"] + found["reproduced in sign only"] <= 0.025 + MONTE_CARLO, effect


@pytest.mark.parametrize("n", SIZES)
def test_effects_of_interest_are_hardly_ever_contradicted(n: int) -> None:
    for effect in (M, 1.5 * M, 3 * M):
        assert shares(effect, n, HIGHER)["contradicted"] <= 0.025 + MONTE_CARLO, effect


def test_few_seeds_say_nothing_and_many_say_what_is_there() -> None:
    for effect in (0.0, M / 2, M):
        assert shares(effect, 3, HIGHER)["inconclusive"] > 0.8, effect
    assert shares(0.0, 50, HIGHER)["contradicted"] > 0.9
    assert shares(-3 * M, 50, HIGHER)["contradicted"] == 1
    assert shares(3 * M, 12, HIGHER)["reproduced"] > 0.99
    assert shares(3 * M, 5, HIGHER)["reproduced"] > 0.8


def test_an_effect_too_small_to_matter_is_reproduced_in_sign_at_most() -> None:
    for n in SIZES:
        assert shares(M / 2, n, HIGHER)["reproduced"] < 0.12, n  # chance lifts the number to M and the bound above 0
    many = shares(M / 2, 200, HIGHER)
    assert many["reproduced in sign only"] > 0.99


@pytest.mark.parametrize("n", SIZES)
def test_agreement_is_not_claimed_at_the_margin_nor_denied_within_it(n: int) -> None:
    rule = partial(judge_within, allowed=SAME)
    for effect in (M, 3 * M):
        assert shares(effect, n, rule)["reproduced"] <= 0.025 + MONTE_CARLO
        assert shares(-effect, n, rule)["reproduced"] <= 0.025 + MONTE_CARLO
    for effect in (0.0, M):
        assert shares(effect, n, rule)["contradicted"] <= 0.025 + MONTE_CARLO
    if n == 3:
        assert shares(0.0, n, rule)["inconclusive"] > 0.8
    if n == 50:
        assert shares(0.0, n, rule)["reproduced"] > 0.99 and shares(3 * M, n, rule)["contradicted"] > 0.99


@pytest.mark.parametrize("n", SIZES)
def test_a_number_off_a_value_on_either_side_errs_in_a_twentieth(n: int) -> None:
    rule = partial(judge, null=0.0, direction=0, least=LEAST)
    assert shares(0.0, n, rule)["reproduced"] <= 0.05 + 1.5 * MONTE_CARLO
    assert shares(-M, n, rule)["contradicted"] <= 0.025 + MONTE_CARLO
    if n == 50:
        assert shares(-3 * M, n, rule)["reproduced"] == 1 and shares(0.0, n, rule)["contradicted"] > 0.99


def settings_of(pairs: Floats) -> dict[str, Interval]:
    return {str(number): student(each) for number, each in enumerate(pairs)}


def test_settings_that_differ_do_not_make_a_claim_of_all_of_them() -> None:
    """The settings' truths spread by 2 M about 0: one heap of all pairs would find an effect most of the time."""
    rng = np.random.default_rng(0)
    pairs = 2 * M * rng.normal(size=(600, 5, 1)) + SPREAD * rng.normal(size=(600, 5, 12))
    found = [over_all("", "", "", settings_of(each), str, HIGHER).verdict for each in pairs]
    heap = [HIGHER(student(each.ravel())).verdict for each in pairs]
    wrong = {"reproduced", "reproduced in sign only"}
    assert np.mean([each in wrong for each in found]) <= 0.025 + 3 * np.sqrt(0.025 / 600)
    assert np.mean([each in wrong for each in heap]) > 0.2


def test_of_claims_that_stand_few_are_false() -> None:
    """Of 40 claims 8 are true; a study of 12 pairs each, 60 times."""
    rng, false, naive = np.random.default_rng(0), [], []
    true = np.arange(40) < 8
    for _ in range(60):
        pairs = 2 * M * true[:, None] + SPREAD * rng.normal(size=(40, 12))
        rule = partial(judge, null=0.0, direction=1, least=Least(0.01, "any effect"))
        found = with_discovery_rates([Finding("", "", "", "", *rule(student(each))) for each in pairs])
        reproduced = np.array([each.verdict == "reproduced" for each in found])
        stands = np.array([each.q is not None and each.q <= 0.05 for each in found])
        assert not np.any(stands & ~reproduced)
        false.append(np.sum(stands & ~true) / max(1, np.sum(stands)))
        naive.append(np.sum(reproduced & ~true) / max(1, np.sum(reproduced)))
    assert np.mean(false) < 0.05 < np.mean(naive)


def intervals(count: int = 400) -> list[Interval]:
    """Return intervals about and off 0, narrow and wide, lopsided too."""
    rng = np.random.default_rng(0)
    values, below, above = rng.normal(size=count), *rng.exponential(0.5, size=(2, count))
    return [Interval(v, v - a, v + b, 9, free=8) for v, a, b in zip(values, below, above, strict=True)]


def test_what_is_reproduced_has_a_small_p_value_and_what_is_not_resolved_has_not() -> None:
    rules: list[Callable[[Interval], Judged]] = [
        HIGHER,
        partial(judge, null=0.3, direction=-1, least=LEAST),
        partial(judge, null=0.0, direction=0, least=LEAST),
        partial(judge_within, allowed=SAME),
        partial(judge_within, allowed=Range(-M, np.inf, "")),
        partial(judge_within, allowed=Range(0.2, 1.5, ""), null=0.0),
    ]
    for rule in rules:
        judged = [rule(each) for each in intervals()]
        assert {each.verdict for each in judged} >= {"reproduced", "inconclusive", "contradicted"}
        assert all(each.p is not None and each.p < 0.05 for each in judged if each.verdict == "reproduced")
        bare = [rule(replace(each, free=None)) for each in intervals()]
        assert {each.p for each in bare} == {None}
        assert [each.verdict for each in bare] == [each.verdict for each in judged]
    for rule in (HIGHER, rules[3]):
        unresolved = [each.p for each in map(rule, intervals()) if each.verdict == "inconclusive"]
        assert all(p is not None and p > 0.05 for p in unresolved)


def mirrored(interval: Interval) -> Interval:
    value, lower, upper = (-float(x or 0) for x in (interval.value, interval.lower, interval.upper))
    return Interval(value, upper, lower, interval.n, free=interval.free)


def test_a_claim_and_its_mirror_image_are_judged_alike() -> None:
    for each in intervals():
        up = judge(each, 0.2, 1, LEAST, (0.4, 1.0))
        down = judge(mirrored(each), -0.2, -1, LEAST, (-1.0, -0.4))
        assert (up.verdict, up.p) == (down.verdict, pytest.approx(down.p))


def test_ratios_are_judged_as_their_logarithms_are() -> None:
    least, size = Least(float(np.exp(M)), "planted", ratio=True), (1.5, 4.0)
    for each in intervals():
        logs = judge(each, 0.1, -1, LEAST, (float(np.log(1.5)), float(np.log(4.0))))
        ratio = judge(exponential(each), float(np.exp(0.1)), -1, least, size)
        assert (ratio.verdict, ratio.p) == (logs.verdict, pytest.approx(logs.p))
        within = judge_within(exponential(each), Range(0.5, 2.0, "", ratio=True))
        assert within[:1] == judge_within(each, Range(float(np.log(0.5)), float(np.log(2.0)), ""))[:1]
        assert within.p == pytest.approx(judge_within(each, Range(float(np.log(0.5)), float(np.log(2.0)), "")).p)


def test_a_claimed_size_is_held_against_the_number() -> None:
    one = Least(1.5, "planted", ratio=True)
    sharper: Any = partial(judge, null=1.0, direction=1, least=one, size=(10, 1000))
    assert sharper(Interval(23.0, 14.0, 37.0, 5)).verdict == "reproduced"
    assert sharper(Interval(5.0, 3.0, 7.0, 5)).verdict == "reproduced in sign only"
    assert sharper(Interval(1.2, 1.1, 1.3, 5)).verdict == "reproduced in sign only"
    assert sharper(Interval(1.1, 0.9, 1.3, 5)).verdict == "contradicted"
    assert sharper(Interval(12.0, 0.4, 360.0, 5)).verdict == "inconclusive"


def test_without_an_interval_nothing_is_judged() -> None:
    for rule in (HIGHER, partial(judge_within, allowed=SAME)):
        assert rule(Interval(3.0, None, None, 1, "one seed"))[:2] == ("not testable here", "one seed")
        assert rule(Interval(None, None, None, 0))[:2] == ("not testable here", "no interval can be given")


def test_reasons_tell_an_opposite_sign_from_an_effect_too_small() -> None:
    assert "lies below 0, not above" in HIGHER(Interval(-1.0, -1.5, -0.5, 5)).why
    assert "as good as none" in HIGHER(Interval(0.1, -0.2, 0.4, 5)).why
    assert HIGHER(Interval(0.9, 0.6, 1.2, 5)).why == "the interval lies above 0, by 0.5 pp or more"
    assert HIGHER(Interval(0.9, 0.6, 1.2, 5)).smallest_effect == "0.5 pp: planted"


def test_a_claim_over_settings_rests_on_their_mean_and_lists_them() -> None:
    three = {"A": student([1.0, 1.1, 0.9]), "B": student([1.2, 1.1, 1.3]), "C": student([0.8, 0.9, 1.0])}
    found = over_all("claim", "setting", "figure", three, lambda each: f"{each.value:.1f}", HIGHER)
    assert found.number == "mean over 3: 1.0" and found.verdict == "reproduced"
    assert found.p is not None and [each.name for each in found.variants] == ["A", "B", "C"]
    two = over_all("", "", "", {name: three[name] for name in "BA"}, lambda each: f"{each.value:.1f}", HIGHER)
    assert two.number == "B: 1.2" and len(two.variants) == 2
    lost = over_all("", "", "", three | {"D": Interval(None, None, None, 0, "no run")}, str, HIGHER)
    assert (lost.verdict, lost.why) == ("not testable here", "D: no run")
    more = with_variants(found, Variant("D", "2.0", "inconclusive", "")).variants
    assert [each.name for each in more] == ["A", "B", "C", "D"]


def test_other_cut_offs_show_what_hangs_on_the_one_chosen() -> None:
    near = Interval(0.108, 0.100, 0.118, 5)
    found = Finding("", "", "", "", *judge_within(near, Range(-np.inf, 0.1, "a tenth of a step", ratio=True)))
    wanted = {"0.1 or less": "inconclusive", "0.05 or less": "contradicted", "0.2 or less": "reproduced"}
    assert found.cutoffs == found.to_dict()["cutoffs"] == wanted and found.q is None and found.variants == ()
    over = over_all("", "", "", dict.fromkeys("ABC", near), str, partial(judge_within, allowed=Range(0, 0.2, "")))
    assert over.cutoffs == {"0 to 0.2": over.verdict, "0.05 to 0.15": "reproduced", "-0.1 to 0.3": "reproduced"}
    slope = judge_within(Interval(0.7, 0.65, 0.94, 8), Range(0.75, 1.25, "a root has 0.5"), null=0.0)
    assert slope.cutoffs == {
        "0.75 to 1.25": "reproduced in sign only",
        "0.875 to 1.125": "reproduced in sign only",
        "0.5 to 1.5": "reproduced",
    }


@pytest.mark.parametrize(
    ("allowed", "half", "twice"),
    [
        (Range(-0.5, 0.5, "", "pp"), "-0.25 to 0.25 pp", "-1 to 1 pp"),
        (Range(-1.25, -0.75, ""), "-1.125 to -0.875", "-1.5 to -0.5"),
        (Range(0.5, 2.0, "", ratio=True), "0.7071 to 1.414", "0.25 to 4"),
        (Range(0.1, 10.0, "", ratio=True), "0.3162 to 3.162", "0.01 to 100"),
        (Range(-np.inf, 0.02, "", "nats"), "0.01 nats or less", "0.04 nats or less"),
        (Range(-0.5, np.inf, ""), "-0.25 or more", "-1 or more"),
        (Range(10.0, np.inf, "", ratio=True), "5 or more", "20 or more"),
        (Range(0.98, np.inf, "", about=1.0), "0.99 or more", "0.96 or more"),
        (Range(1.44, np.inf, "", ratio=True, about=1.0), "1.2 or more", "2.074 or more"),
    ],
)
def test_other_ranges_are_half_and_twice_as_wide(allowed: Range, half: str, twice: str) -> None:
    assert [each.amount for each in allowed.others] == [half, twice]
    ranges = sorted((allowed, *allowed.others), key=lambda each: (each.low, -each.high))  # each holds the next
    for each in map(exponential, intervals(150)) if allowed.ratio else intervals(150):
        found = [judge_within(each, range_).verdict for range_ in ranges]
        told = judge_within(each, allowed).cutoffs
        assert [told[range_.amount] for range_ in ranges] == found and len(told) == 3
        assert found == sorted(found, key=["reproduced", "inconclusive", "contradicted"].index), "a narrower is harder"


def test_ends_that_the_paper_sets_have_no_others_and_named_ones_take_their_place() -> None:
    wide, none = Interval(0.6, 0.4, 0.8, 5), Interval(None, None, None, 0)
    assert judge_within(wide, Range(2, 32, "the paper", ends=())).cutoffs == {}
    assert judge_within(none, SAME).cutoffs == HIGHER(wide).cutoffs == {}
    named = Range(-0.5, 0.5, "", ends=((-0.3, 0.3), (-0.9, 0.9)))
    assert judge_within(wide, named).cutoffs == {
        "-0.5 to 0.5": "inconclusive",
        "-0.3 to 0.3": "contradicted",
        "-0.9 to 0.9": "reproduced",
    }
