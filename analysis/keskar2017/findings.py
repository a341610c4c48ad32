"""The claims of Keskar et al. 2017 and of their critics, each with its number and a verdict by a fixed rule."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from functools import partial
from typing import Literal

import numpy as np
import pandas as pd

from analysis.keskar2017.association import MEASURES, OUTCOMES, association, changes
from analysis.keskar2017.comparisons import Comparison, against_each_rate, comparisons
from analysis.keskar2017.curves import at_equal_loss, curves, over_training, rises, slope_changes
from analysis.keskar2017.numbers import EPSILONS, Results, batch_rows, difference, how_it_goes_on, ratio, warm_rows
from analysis.report import numbers
from analysis.report.findings import Finding, over_all, variants, with_variants
from analysis.report.texts import slug
from analysis.report.verdicts import Judged, Least, Range, judge, judge_within
from analysis.statistics.fits import power_law_by
from analysis.statistics.intervals import Interval, paired_difference, paired_ratio
from analysis.statistics.threshold import Threshold, threshold
from sharpness.plots.frames import floats, rows_where

MAGNITUDES = (10.0, 1000.0)
"""LB / SB of sharpness where the paper says one to two orders of magnitude; its own tables have 9 to 223."""
DISTANCES = Range(3.0, 10.0, "what the paper says", ratio=True, ends=())
SEED = "what a second seed moves here, and a quarter of the smallest gap of the paper's convolutional networks"
ACCURACY = Least(0.5, SEED, "pp")
NO_WORSE = Range(-ACCURACY.size, np.inf, SEED, "pp")
SHARPER = Least(
    1.5, "phi of one batch size differs by a quarter between seeds, and the paper speaks of factors of ten", ratio=True
)
RISE = Least(0.05, "the training loss of a solution itself; less is not seen in the paper's Figure 3", "nats")
FALL = Least(0.25, "half a point over two doublings, and a second seed moves half a point", "pp per doubling")
SLOPE = Least(0.1, "a doubling of the batch then changes phi by 7 %, a quarter of what a second seed does")
TAU = Least(0.2, "60 of 100 pairs of minima are then ordered as claimed, little better than a coin")
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
    result = list(of_pairs(results))
    for about in (of_batch_size, of_warm_starts, of_training, of_remedies, of_critics, of_conditions):
        result += about(results)
    return result if preset == "timit" else [*result, TIMIT]


def points(interval: Interval) -> str:
    """Return a difference of accuracies as text.

    >>> points(Interval(-1.0, -2.0, 0.0, 5))
    '-1.0 [-2.0, +0.0] pp'
    """
    return f"{numbers.difference(interval)} pp"


def sharper(interval: Interval, direction: Literal[-1, 1] = 1, size: tuple[float, float] | None = None) -> Judged:
    """Return the verdict on a claim that a ratio of sharpness lies above or below 1."""
    return judge(interval, 1.0, direction, SHARPER, size)


def of_pairs(results: Results) -> Iterator[Finding]:
    """Yield what is claimed of the small- and large-batch solutions, over all networks.

    Networks are settings of their own. Boxes, spaces and searches are the same solutions measured otherwise: the claim
    is that of the full space, the larger box and the search as published, which the paper's Table 3 begins with; on the
    straight line, which is its Figure 3, and not on the arc.
    """
    setting, table = "; ".join(results.networks.values()), "table2_accuracies"
    pairs = {name: [results.runs(role, "base", name) for role in ("SB", "LB")] for name in results.networks}
    gaps = {name: difference(small, large, "test_accuracy") for name, (small, large) in pairs.items()}
    rule = partial(judge, null=0.0, direction=-1, least=ACCURACY)
    yield over_all("LB generalises worse: test accuracy LB - SB", setting, table, gaps, points, rule)
    yield _of_sharpness(results, setting)
    yield _of_rises(results, setting)
    far = {name: ratio(large, small, "distance_from_start") for name, (small, large) in pairs.items()}
    claim, rule = (
        "SB ends 3 to 10 times as far from its start as LB",
        partial(judge_within, allowed=DISTANCES, null=1.0),
    )
    yield over_all(claim, setting, table, far, numbers.ratio, rule, log=True)


def _of_sharpness(results: Results, setting: str) -> Finding:
    rule = partial(sharper, size=MAGNITUDES)
    first = {name: _phi(results, name, "full", "published", EPSILONS[0]) for name in results.networks}
    claim = f"LB is 1 to 2 orders sharper: phi LB / SB in the full space, epsilon {EPSILONS[0]:g}, as published"
    found = over_all(claim, setting, "table3_sharpness", first, numbers.ratio, rule, log=True)
    spaces = {"full": "the full space", "subspace": f"{results.subspace} random dimensions"}
    others = {
        f"{name}, {where}, epsilon {epsilon:g}, {words}": _phi(results, name, space, search, epsilon)
        for name in results.networks
        for space, where in spaces.items()
        for search, words in WORDS.items()
        for epsilon in EPSILONS
        if (space, search, epsilon) != ("full", "published", EPSILONS[0])
    }
    measured = {name: each for name, each in others.items() if each.n}  # climbed on few networks alone
    return with_variants(found, *variants(measured, numbers.ratio, rule))


def _phi(results: Results, network: str, space: str, search: str, epsilon: float) -> Interval:
    rows = rows_where(results.sharpness, network=network, arm="base", space=space, search=search, epsilon=epsilon)
    return ratio(*(rows_where(rows, role=role) for role in ("SB", "LB")), column="phi")


def _of_rises(results: Results, setting: str) -> Finding:
    rule = partial(judge, null=0.0, direction=1, least=RISE)
    found = {
        path: {name: paired_difference(*rises(curves(results, path, name))) for name in results.networks}
        for path in ("line", "arc")
    }
    claim, figure = "On the straight line the loss rises more beside LB than beside SB", f"line_{slug(results.first)}"
    line = over_all(claim, setting, figure, found["line"], nats, rule)
    arcs = {f"{name}, on the arc": each for name, each in found["arc"].items()}
    return with_variants(line, *variants(arcs, nats, rule))


def nats(interval: Interval) -> str:
    """Return a difference of losses as text."""
    return f"{numbers.difference(interval)} nats"


def accuracy_threshold(rows: pd.DataFrame) -> Threshold:
    """Return the batch size beyond which test accuracy (per cent) falls, of runs that differ in it alone."""
    table = rows.pivot_table(index="seed", columns="batch_size", values="test_accuracy")
    return threshold(np.asarray(table.columns, dtype=float), table.to_numpy())


def of_batch_size(results: Results) -> Iterator[Finding]:
    """Yield what Figure 4 is about."""
    rows, where = batch_rows(results), (results.networks[results.arms], "batch_size")
    found = accuracy_threshold(rows)
    judged, number = judge(found.fall, 0.0, 1, FALL), "none seen"
    if found.batch.value is not None:
        number = f"from {numbers.ratio(found.batch)} on, by {numbers.difference(found.fall)} pp per doubling"
    elif found.p is not None:
        judged = judged._replace(why=f"{judged.why}; {found.batch.reason}")
    claim = "Test accuracy falls beyond a threshold of the batch size"
    yield Finding(claim, *where, number, *judged._replace(p=found.p))
    slope = power_law_by(floats(rows, "batch_size"), floats(rows, "phi"), rows["seed"])
    claim = "Sharpness grows with the batch size: slope of log phi on log B"
    yield Finding(claim, *where, numbers.difference(slope), *judge(slope, 0.0, 1, SLOPE))
    change = Interval(None, None, None, 0, "no threshold was seen")
    if found.batch.value is not None:
        changes = slope_changes(rows, found.batch.value)
        change = paired_difference(np.zeros(len(changes)), changes)
    claim = "Beyond the threshold sharpness grows less: slope after - before"
    yield Finding(claim, *where, numbers.difference(change), *judge(change, 0.0, -1, SLOPE))


def of_warm_starts(results: Results) -> Iterator[Finding]:
    """Yield what Figure 5 is about."""
    rows, where = warm_rows(results), (results.networks[results.arms], "warm_start")
    most = max(floats(rows, "warm_epochs"), default=0.0)
    cold, warm = (rows_where(rows, warm_epochs=epochs) for epochs in (0, most or np.nan))
    pair = f"LB started after {most:g} epochs of SB against LB from the start"
    flatter = ratio(cold, warm, "phi")
    claim = f"Warm starts give flatter LB minima: phi, {pair}"
    yield Finding(claim, *where, numbers.ratio(flatter), *sharper(flatter, -1))
    gain = difference(cold, warm, "test_accuracy")
    claim = f"Warm starts improve LB: test accuracy, {pair}"
    yield Finding(claim, *where, points(gain), *judge(gain, 0.0, 1, ACCURACY))


def of_training(results: Results) -> Iterator[Finding]:
    """Yield what Figure 6 is about."""
    rows = results.tables.rows("along_training", "role", "seed")
    where = (results.networks[results.arms], "along_training")
    words = "while the loss falls: phi at the end over phi after the first epoch"
    equal = "At the lowest training loss that both reach along training LB is sharper: phi LB / SB"
    claims: tuple[tuple[str, Interval, Literal[-1, 1]], ...] = (
        (f"LB grows sharper {words}", over_training(rows, "LB"), 1),
        (f"SB ends flatter {words}", over_training(rows, "SB"), -1),
        (equal, paired_ratio(*at_equal_loss(rows)), 1),
    )
    for claim, found, direction in claims:
        yield Finding(claim, *where, numbers.ratio(found), *sharper(found, direction))


def of_remedies(results: Results) -> Iterator[Finding]:
    """Yield what is claimed of the remedies: LB minima stay sharper than those of SB, and growing batches help."""
    for arm in ("augmentation", "conservative", "robust (SAM)"):
        alike = results.runs("SB", arm)
        small, words = (alike, "SB with it") if len(alike) else (results.runs("SB", "base"), "SB without")
        large = results.runs("LB", arm)
        found = ratio(small, large, "phi")
        claim = f"LB stays sharp with {arm} training: phi over that of {words}"
        yield Finding(claim, results.ended(small, large), "remedies", numbers.ratio(found), *sharper(found))
    claim = "A batch that grows (dynamic sampling) gives flatter minima than LB: phi over that of LB"
    constant, growing = (results.runs("LB", arm) for arm in ("base", "growing batch"))
    found = ratio(constant, growing, "phi")
    yield Finding(claim, results.ended(constant, growing), "remedies", numbers.ratio(found), *sharper(found, -1))


def of_critics(results: Results) -> Iterator[Finding]:
    """Yield for each condition whether LB is no worse than SB, which the critics say, and whether LB is still sharper.

    That a gap is closed can be told only where there is one under the paper's own condition, which comes first. The
    conditions share their SB runs, so that sharpness is one claim: at equal training loss, the last of them.
    """
    first, *others = comparisons(results)
    gap = first.difference("test_accuracy")
    there = judge(gap, 0.0, -1, ACCURACY).verdict == "reproduced"
    for each in others:
        where = (results.networks[results.arms] + (f"; {each.note}" if each.note else ""), "critics")
        left = each.difference("test_accuracy")
        judged = judge_within(left, NO_WORSE)
        if not there and left.lower is not None:
            reason = f"with {results.held} and one rate there is no resolved gap to close ({points(gap)})"
            judged = Judged("not testable here", reason, judged.smallest_effect, None)
        claim = f"Critics: with {each.name} LB is worse by no more than {ACCURACY.amount}: test accuracy LB - SB"
        yield Finding(claim, *where, points(left), *judged)
    yield _still_sharper(results, others)


def of_conditions(results: Results) -> Iterator[Finding]:
    """Yield whether sharper runs generalise worse over all conditions, where these were measured in several ways.

    The claim is that of the top eigenvalue; the other measures of the same runs are variants.
    """
    table, where = changes(results), (results.networks[results.arms], "conditions")
    if table.dropna(subset=["fisher_rao_norm"]).empty:
        return
    sides: tuple[tuple[str, Literal[-1, 1]], ...] = (("test_accuracy", -1), ("test_loss", 1))
    for outcome, direction in sides:
        rule = partial(judge, null=0.0, direction=direction, least=TAU)
        found = {name: association(table, measure, outcome) for measure, name in MEASURES.items()}
        first, *_ = found
        more = variants({name: each for name, each in found.items() if name != first}, numbers.difference, rule)
        worse = "lower" if direction < 0 else "higher"
        claim = f"Sharper minima have a {worse} {OUTCOMES[outcome]}: tau over the conditions of a seed, {first}"
        yield Finding(claim, *where, numbers.difference(found[first]), *rule(found[first]), variants=more)
    yield from _of_escape(results)


def _of_escape(results: Results) -> Iterator[Finding]:
    """Yield whether the noise of SB leaves the minimum of LB, against LB that goes on as long, and the reverse."""
    stays, leaves = results.runs("LB", "from LB"), results.runs("SB", "from LB")
    where = (f"{results.varied}; {how_it_goes_on(results)}", "escape")
    flatter = ratio(stays, leaves, "phi")
    claim = "Noise pushes the weights out of a sharp minimum: from that of LB, phi of SB over that of LB going on"
    yield Finding(claim, *where, numbers.ratio(flatter), *sharper(flatter, -1))
    gain = difference(stays, leaves, "test_accuracy")
    claim = "What noise finds there generalises better: from the minimum of LB, test accuracy of SB minus that of LB"
    yield Finding(claim, *where, points(gain), *judge(gain, 0.0, 1, ACCURACY))
    back = ratio(results.runs("SB", "from SB"), results.runs("LB", "from SB"), "phi")
    claim = "Without noise a flat minimum gets sharper: from that of SB, phi of LB over that of SB going on"
    yield Finding(claim, *where, numbers.ratio(back), *sharper(back))


def _still_sharper(results: Results, others: list[Comparison]) -> Finding:
    found: Mapping[str, Interval] = {each.name: each.ratio("phi") for each in others}
    *rest, last = found
    ways = {name: found[name] for name in rest}
    if results.goal is not None:  # the last has the rates tuned
        ways |= {name: ratio(*sides, "phi") for name, sides in against_each_rate(results).items()}
    claim, setting = f"LB is sharper with {last} too: phi LB / SB", results.networks[results.arms]
    more = variants(ways, numbers.ratio, sharper)
    return Finding(claim, setting, "critics", numbers.ratio(found[last]), *sharper(found[last]), variants=more)
