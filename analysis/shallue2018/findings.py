"""The claims of Shallue et al. (2018), each with its number and a verdict by a rule that is fixed here."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from functools import partial
from typing import Literal

import numpy as np
import pandas as pd

from analysis.report.findings import Finding, over_all, variants
from analysis.report.numbers import ABSENT, difference, ratio, rounded
from analysis.report.verdicts import Least, Range, judge, judge_within
from analysis.shallue2018 import numbers as of
from analysis.shallue2018.numbers import Results
from analysis.statistics.intervals import NUM_RESAMPLES, Interval, paired_difference, paired_ratio, quotient
from analysis.statistics.resampling import resampled_means
from sharpness.plots.frames import floats, rows_where

HALF = "half way to a slope of -0.5, which is neither"
PERFECT, FLAT = Range(-1.25, -0.75, HALF), Range(-0.25, 0.25, HALF)
AXES = "the paper's axes have ticks at factors of two, on which a quarter is not seen"
SAME = Range(0.8, 1.25, AXES, ratio=True)
ORDER = Range(0.1, 10.0, "the paper claims the order of magnitude", ratio=True)
FURTHER = Least(1.25, AXES, ratio=True)
LOGS = Least(np.log(FURTHER.size), "a factor of 1.25 between two critical batch sizes")
POWER = Least(0.1, "over a hundredfold batch the rate is then off by a factor of 1.6")
BREAKDOWN = Range(1.5, np.inf, "the paper names no number; half as many steps again", ratio=True, about=1.0)
"""A rule breaks down where its rate needs so many times the steps of the tuned one."""
BEST = "the best trial differs by more than a point between searches"
POINT, NO_WORSE = Least(1.0, BEST, "pp"), Range(-np.inf, 1.0, BEST, "pp")


def findings(results: Results) -> list[Finding]:
    """Return the verdict on every claim."""
    return [
        *_regimes(results),
        *_optimisers(results),
        *_useful_batches(results),
        *_rates(results),
        *_quality(results),
        _noise(results),
    ]


def setting(results: Results, names: Sequence[str]) -> str:
    """Say what a claim was tested on, and what else the workloads differ in when they are compared."""
    own = [results.of(name) for name in names]
    facts = {
        "goal: held-out error": [f"{each['goal']:g}" for each in own],
        "trials per search": [" + ".join(map(str, each["trials"])) for each in own],
        "rates searched": ["{:g} to {:g}".format(*each["space"]["rates"]) for each in own],
        "1 - m searched": ["{:g} to {:g}".format(*each["space"]["one_minus_momentum"]) for each in own],
    }
    said = [f"{what} {'; '.join(values)}" for what, values in facts.items() if len(set(values)) > 1]
    goal = [] if len(set(facts["goal: held-out error"])) > 1 else [f"goal: held-out error {own[0]['goal']:g}"]
    return "; ".join([*names, *goal, *([f"they differ in {', '.join(said)}"] if said else [])])


def slope(interval: Interval) -> str:
    """Return a slope with its interval.

    >>> slope(Interval(-0.98, -1.04, -0.91, 5))
    '-0.98 [-1.04, -0.91]'
    """
    if interval.value is None:
        return f"none ({interval.reason})"
    value, low, high = (
        ABSENT if x is None else rounded(x, 2) for x in (interval.value, interval.lower, interval.upper)
    )
    return f"{value} [{low}, {high}]"


def _ratio(interval: Interval) -> str:
    return f"none ({interval.reason})" if interval.value is None else ratio(interval)


def _regimes(results: Results) -> list[Finding]:
    made = []
    for part, claim, allowed, null in (
        ("first", "Steps fall as 1/B at small batches, over the workloads", PERFECT, 0.0),
        ("last", "Steps do not fall at the largest batches, over the workloads", FLAT, None),
    ):
        slopes: dict[str, Interval] = {name: getattr(w, part) for name, w in results.workloads.items()}
        rule = partial(judge_within, allowed=allowed, null=null)
        where = setting(results, list(slopes))
        made.append(over_all(claim, where, "steps_vs_batch", slopes, lambda each: f"slope {slope(each)}", rule))
    return made


def _optimisers(results: Results) -> list[Finding]:
    """Judge the first of the other optimisers; all share the searches of the plain one, so the rest are variants."""
    plain, first, *rest = results.named("optimisers")
    smallest, where = min(results.of(plain)["batches"]), setting(results, [plain, first, *rest])
    same = {
        other: of.ratio_of(*(of.steps_at(results.best, name, smallest) for name in (plain, other)))
        for other in (first, *rest)
    }
    further = {other: critical_ratio(results, plain, other) for other in (first, *rest)}
    count, rule = _of_searches(results, further[first]), partial(judge, null=1.0, direction=1, least=FURTHER)
    agree = partial(judge_within, allowed=SAME)
    return [
        Finding(
            f"{first} needs as many steps as {plain} at small batches",
            where,
            "steps_vs_batch",
            f"steps at B = {smallest}, ratio {_ratio(same[first])}",
            *agree(same[first]),
            variants=variants({name: same[name] for name in rest}, _ratio, agree),
        ),
        Finding(
            f"{first} scales to larger batches than {plain}",
            where,
            "useful_batch",
            f"critical batch size, ratio {_ratio(further[first])}{count}",
            *rule(further[first]),
            variants=variants({name: further[name] for name in rest}, _ratio, rule),
        ),
    ]


def critical_ratio(results: Results, first: str, second: str) -> Interval:
    """Return how much larger the critical batch size of the second workload is, over the searches."""
    return of.ratio_of(*(of.critical_batches(results.best, name) for name in (first, second)))


def _of_searches(results: Results, interval: Interval) -> str:
    """Say how many searches a ratio of critical batch sizes rests on: one without such a size is left out."""
    return f" from {interval.n} of {results.settings['seeds']} searches"


def _useful_batches(results: Results) -> list[Finding]:
    (*networks, text), data = results.named("networks"), results.named("data")
    by_network, by_data = (critical_ratio(results, *pair) for pair in (networks, data))
    by_text = critical_ratio(results, networks[0], text)
    made = [
        Finding(
            claim,
            setting(results, [networks[0], other]),
            "useful_batch",
            f"critical batch size, {other} / {networks[0]} {_ratio(found)}{_of_searches(results, found)}",
            *judge(found, 1.0, 0, FURTHER),
        )
        for claim, other, found in (
            ("The largest useful batch depends on the network", networks[1], by_network),
            ("The largest useful batch of a transformer on a text is another", text, by_text),
        )
    ]
    excess = larger_effect(results.best, networks, data)
    ratio_of_data = _ratio(by_data) + _of_searches(results, by_data)
    number = f"|log ratio| of networks minus that of data {difference(excess)}; ratio of data {ratio_of_data}"
    claim, where = "The amount of data matters less to it than the network", setting(results, [*networks, data[1]])
    return [*made, Finding(claim, where, "useful_batch", number, *judge(excess, 0.0, 1, LOGS))]


def larger_effect(best: pd.DataFrame, networks: Sequence[str], data: Sequence[str], seed: int = 0) -> Interval:
    """Return by how much the log ratio of critical batch sizes of two networks exceeds that of two amounts of data.

    ``|mean log B_2 - mean log B_1|`` of the one minus the same of the other, with a bootstrap over the searches of
    every workload, widened for their small number. The size of a noisy difference is too large, in both terms.
    """
    logs = {name: np.log(of.critical_batches(best, name).dropna().to_numpy(dtype=float)) for name in (*networks, *data)}
    fewest = min(map(len, logs.values()))
    if fewest < 3:
        return Interval(None, None, None, fewest, "needs at least 3 searches with a critical batch size")

    def excess(means: Mapping[str, np.ndarray]) -> np.ndarray:
        return np.abs(means[networks[1]] - means[networks[0]]) - np.abs(means[data[1]] - means[data[0]])

    rng = np.random.default_rng(seed)
    drawn = {name: resampled_means(values, NUM_RESAMPLES, rng) for name, values in logs.items()}
    lower, upper = np.percentile(excess(drawn), [2.5, 97.5])
    value = excess({name: np.array(values.mean()) for name, values in logs.items()})
    return Interval(float(value), float(lower), float(upper), fewest, free=fewest - 1)


def _rates(results: Results) -> list[Finding]:
    made = []
    slopes = {name: results.workloads[name].rate for name in results.named("optimisers")}
    for name, power in (("linear", 1.0), ("square-root", 0.5)):
        claim, where = (
            f"The best effective learning rate does not follow the {name} rule",
            setting(results, list(slopes)),
        )
        departs = partial(judge, null=power, direction=0, least=POWER)
        made.append(over_all(claim, where, "optimal_rate", slopes, lambda each: f"slope {slope(each)}", departs))
    plain, base = results.named("optimisers")[0], results.settings["base_batch"]
    largest, table = max(results.of(plain)["batches"]), rule_table(results)
    for rule, name in (("linear", "linear"), ("sqrt", "square-root")):
        rows = rows_where(table, rule=rule, batch_size=largest)
        excess = paired_ratio(rows["tuned_steps"], rows["steps"])
        missed = len(rows_where(rows, censored=True))
        number = f"steps / tuned steps at B = {largest}: {_ratio(excess)}; {missed} of {len(rows)} missed the goal"
        number += f", {_beyond(rows)} have no trial within 1.5 times the rule's rate"
        claim = f"The {name} rule from B = {base} breaks down at the largest batch"
        # One trial near the rule's rate against the best of a search: above 1 even for a perfect rule.
        made.append(Finding(claim, setting(results, [plain]), "rules", number, *judge_within(excess, BREAKDOWN)))
    return made


def rule_table(results: Results) -> pd.DataFrame:
    """Return the steps that the scaling rules lead to with plain SGD."""
    plain = results.named("optimisers")[0]
    trials, best = (rows_where(table, workload=plain) for table in (results.trials, results.best))
    return of.by_rule(trials, best, results.settings["base_batch"])


def _beyond(rows: pd.DataFrame) -> int:
    """Return at how many starts the rate of a rule is more than 1.5 times that of the nearest trial, or less."""
    away = np.abs(np.log(floats(rows, "rate") / floats(rows, "nearest_rate")))
    return int(np.sum(away > np.log(1.5)))


def _quality(results: Results) -> list[Finding]:
    budgets = results.settings["budgets"]
    small, large = min(budgets["batches"]), max(budgets["batches"])
    where = f"{budgets['workload']}; {budgets['epochs']} epochs or {budgets['updates']} steps; test error"
    claims: Sequence[tuple[str, str, Literal[-1, 0, 1]]] = (
        ("epochs", "At equal epochs the small batch ends with the lower error", 1),
        ("steps", "At equal steps the large batch ends with the lower error", -1),
        ("any", "With the better of both budgets the large batch is no worse (by 1 pp)", 0),
    )
    made = []
    for kind, claim, direction in claims:
        errors = [100 * of.errors_at(results.solutions, kind, size) for size in (small, large)]
        shared = errors[0].index.intersection(errors[1].index)
        change = paired_difference(errors[0].loc[shared], errors[1].loc[shared])
        number = f"B = {large} minus B = {small}: {difference(change)} pp"
        judged = judge(change, 0.0, direction, POINT) if direction else judge_within(change, NO_WORSE)
        made.append(Finding(claim, where, "solution_quality", number, *judged))
    return made


def _noise(results: Results) -> Finding:
    """Compare the critical batch size with B_simple in every workload."""
    shares = {name: quotient(w.noise, w.hyperbola.b_crit) for name, w in results.workloads.items()}
    claim = "The noise scale predicts the critical batch size to an order of magnitude, over the workloads"
    rule, where = partial(judge_within, allowed=ORDER), setting(results, list(shares))
    text = "B_simple / critical batch {}".format
    return over_all(claim, where, "useful_batch", shares, lambda each: text(_ratio(each)), rule, log=True)
