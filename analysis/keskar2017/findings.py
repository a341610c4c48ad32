"""The claims of Keskar et al. 2017 and of their critics, each with its number and a verdict by a fixed rule."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Literal

import numpy as np
import pandas as pd

from analysis.keskar2017.comparisons import comparisons
from analysis.keskar2017.curves import at_equal_loss, curves, over_training, rises, slope_changes
from analysis.keskar2017.numbers import EPSILONS, Results, batch_rows, difference, ratio, warm_rows
from analysis.report import numbers
from analysis.report.texts import slug
from analysis.report.verdicts import Finding, Verdict, judge, judge_value
from analysis.statistics.fits import power_law_by
from analysis.statistics.intervals import Interval, paired_difference, paired_ratio
from analysis.statistics.threshold import Threshold, threshold
from sharpness.plots.frames import floats, rows_where

MAGNITUDES = (10.0, 1000.0)
"""LB / SB of sharpness where the paper says one to two orders of magnitude; its own tables have 9 to 223."""
DISTANCES = (3.0, 10.0)
"""SB / LB of the distance from the start, as the paper says."""
MARGIN = 0.5
"""Percentage points by which the accuracy of LB may lie below that of SB and count as no worse; set before any run."""
WORDS = {"published": "as published", "climbed": "climbed until it stops growing"}
TIMIT = Finding(
    claim="The same holds for F2 on TIMIT",
    setting="F2 on TIMIT",
    figure="table2_accuracies",
    number="not run",
    verdict="not testable here",
    why="TIMIT is licensed and not here: give your own features with --preset timit --data-dir FOLDER",
)


def findings(results: Results, preset: str) -> list[Finding]:
    """Return every claim with its verdict, in the order of the paper."""
    result = [finding for network in results.networks for finding in of_pairs(results, network)]
    for about in (of_batch_size, of_warm_starts, of_training, of_remedies, of_critics):
        result += about(results)
    return result if preset == "timit" else [*result, TIMIT]


def _ratio(
    claim: str,
    setting: str,
    figure: str,
    interval: Interval,
    direction: Literal[-1, 1] = 1,
    size: tuple[float, float] | None = None,
) -> Finding:
    """Return the finding that a ratio lies above or below 1, and within a size if the claim has one."""
    return Finding(claim, setting, figure, numbers.ratio(interval), *judge(interval, 1.0, direction, size))


def _difference(
    claim: str, setting: str, figure: str, interval: Interval, direction: Literal[-1, 1], unit: str = "pp"
) -> Finding:
    """Return the finding that a difference has a sign."""
    number = f"{numbers.difference(interval)} {unit}".strip()
    return Finding(claim, setting, figure, number, *judge(interval, 0.0, direction))


def of_pairs(results: Results, network: str) -> Iterator[Finding]:
    """Yield what is claimed of one network's small- and large-batch solutions."""
    small, large = (results.runs(role, "base", network) for role in ("SB", "LB"))
    setting, table = results.networks[network], "table2_accuracies"
    claim = "LB generalises worse: test accuracy LB - SB"
    yield _difference(claim, setting, table, difference(small, large, "test_accuracy"), -1)
    yield from _of_sharpness(results, network)
    for path, words in (("line", "straight line"), ("arc", "arc")):
        beside = paired_difference(*rises(curves(results, path, network)))
        claim = f"On the {words} the loss rises more beside LB than beside SB"
        yield _difference(claim, setting, f"{path}_{slug(network)}", beside, 1, "nats")
    far = ratio(large, small, "distance_from_start")
    claim = "SB ends 3 to 10 times as far from its start as LB"
    yield Finding(claim, setting, table, numbers.ratio(far), *judge_value(far, *DISTANCES))


def _of_sharpness(results: Results, network: str) -> Iterator[Finding]:
    known = rows_where(results.sharpness, network=network, arm="base")
    spaces = {"full": ("the full space", "table3_sharpness")}
    spaces["subspace"] = (f"{results.subspace} random dimensions", "table4_subspace")
    for space, (where, table) in spaces.items():
        for search, words in WORDS.items():
            rows = rows_where(known, space=space, search=search)
            if rows.empty and search == "climbed":
                continue  # not asked for on this network
            for epsilon in EPSILONS:
                box = rows_where(rows, epsilon=epsilon)
                found = ratio(*(rows_where(box, role=role) for role in ("SB", "LB")), column="phi")
                claim = f"LB is 1 to 2 orders sharper: phi LB / SB in {where}, epsilon {epsilon:g}, {words}"
                yield _ratio(claim, results.networks[network], table, found, size=MAGNITUDES)


def accuracy_threshold(rows: pd.DataFrame) -> Threshold:
    """Return the batch size beyond which test accuracy (per cent) falls, of runs that differ in it alone."""
    table = rows.pivot_table(index="seed", columns="batch_size", values="test_accuracy")
    return threshold(np.asarray(table.columns, dtype=float), table.to_numpy())


def of_batch_size(results: Results) -> Iterator[Finding]:
    """Yield what Figure 4 is about."""
    rows, where = batch_rows(results), (results.networks[results.arms], "batch_size")
    found = accuracy_threshold(rows)
    fall, number, verdict = found.fall, "none seen", judge(found.fall, 0.0, 1)
    if found.batch.value is not None:
        number = f"from {numbers.ratio(found.batch)} on, by {numbers.difference(fall)} pp per doubling"
    elif found.p is not None:  # the test was made, and no fall is resolved
        verdict = ("not reproduced", found.batch.reason or "")
    yield Finding("Test accuracy falls beyond a threshold of the batch size", *where, number, *verdict)
    slope = power_law_by(floats(rows, "batch_size"), floats(rows, "phi"), rows["seed"])
    yield _difference("Sharpness grows with the batch size: slope of log phi on log B", *where, slope, 1, "")
    change = Interval(None, None, None, 0, "no threshold was seen")
    if found.batch.value is not None:
        changes = slope_changes(rows, found.batch.value)
        change = paired_difference(np.zeros(len(changes)), changes)
    yield _difference("Beyond the threshold sharpness grows less: slope after - before", *where, change, -1, "")


def of_warm_starts(results: Results) -> Iterator[Finding]:
    """Yield what Figure 5 is about."""
    rows, where = warm_rows(results), (results.networks[results.arms], "warm_start")
    most = max(floats(rows, "warm_epochs"), default=0.0)
    cold, warm = (rows_where(rows, warm_epochs=epochs) for epochs in (0, most or np.nan))
    pair = f"LB started after {most:g} epochs of SB against LB from the start"
    yield _ratio(f"Warm starts give flatter LB minima: phi, {pair}", *where, ratio(cold, warm, "phi"), -1)
    gain = difference(cold, warm, "test_accuracy")
    yield _difference(f"Warm starts improve LB: test accuracy, {pair}", *where, gain, 1)


def of_training(results: Results) -> Iterator[Finding]:
    """Yield what Figure 6 is about."""
    rows = results.tables.rows("along_training", "role", "seed")
    where = (results.networks[results.arms], "along_training")
    words = "while the loss falls: phi at the end over phi after the first epoch"
    yield _ratio(f"LB grows sharper {words}", *where, over_training(rows, "LB"))
    yield _ratio(f"SB ends flatter {words}", *where, over_training(rows, "SB"), -1)
    claim = "At the lowest training loss that both reach along training LB is sharper: phi LB / SB"
    yield _ratio(claim, *where, paired_ratio(*at_equal_loss(rows)))


def of_remedies(results: Results) -> Iterator[Finding]:
    """Yield what is claimed of the remedies: LB minima stay sharper than those of SB, and growing batches help."""
    where = (results.networks[results.arms], "remedies")
    for arm in ("augmentation", "conservative", "robust (SAM)"):
        alike = results.runs("SB", arm)
        small, words = (alike, "SB with it") if len(alike) else (results.runs("SB", "base"), "SB without")
        found = ratio(small, results.runs("LB", arm), "phi")
        yield _ratio(f"LB stays sharp with {arm} training: phi over that of {words}", *where, found)
    claim = "A batch that grows (dynamic sampling) gives flatter minima than LB: phi over that of LB"
    found = ratio(results.runs("LB", "base"), results.runs("LB", "growing batch"), "phi")
    yield _ratio(claim, *where, found, -1)


def no_worse(interval: Interval, margin: float) -> tuple[Verdict, str]:
    """Return the verdict on a claim that a difference lies above -margin, fixed beforehand, with the reason.

    >>> no_worse(Interval(0.1, -0.4, 0.6, 5), 0.5)
    ('reproduced', 'the interval lies above -0.5')
    >>> no_worse(Interval(0.1, -0.6, 0.8, 5), 0.5)
    ('not reproduced', 'the interval reaches below -0.5, too wide to say')
    """
    if interval.lower is None or interval.upper is None:
        return "not testable here", interval.reason or "no interval can be given"
    if interval.lower >= -margin:
        return "reproduced", f"the interval lies above {-margin:g}"
    if interval.upper < -margin:
        return "not reproduced", f"the interval lies below {-margin:g}"
    return "not reproduced", f"the interval reaches below {-margin:g}, too wide to say"


def of_critics(results: Results) -> Iterator[Finding]:
    """Yield for each condition whether LB is no worse than SB, which the critics say, and whether it is still sharper.

    That a gap is closed can be told only where there is one under the paper's own condition, which comes first.
    """
    first, *others = comparisons(results)
    gap = difference(first.small, first.large, "test_accuracy")
    for each in others:
        where = (results.networks[results.arms] + (f"; {each.note}" if each.note else ""), "critics")
        left = difference(each.small, each.large, "test_accuracy")
        verdict = no_worse(left, MARGIN)
        if judge(gap, 0.0, -1)[0] != "reproduced" and left.lower is not None:
            reason = f"with equal epochs and one rate there is no resolved gap to close ({numbers.difference(gap)} pp)"
            verdict = ("not testable here", reason)
        claim = f"Critics: with {each.name} LB is worse by no more than {MARGIN:g} pp: test accuracy LB - SB"
        yield Finding(claim, *where, f"{numbers.difference(left)} pp", *verdict)
        claim = f"LB is sharper with {each.name} too: phi LB / SB"
        yield _ratio(claim, *where, ratio(each.small, each.large, "phi"))
