"""The report on the stability of SGD: walks against the rates that theory gives, both senses of stability, escapes.

The claims are those of the papers that scripts/sgd_stability.py names and of the answer that
scripts/update_equivalence.py describes; the rules of the verdicts are at the top of this file.
"""

from __future__ import annotations

from collections.abc import Mapping
from functools import partial
from typing import Any

import numpy as np
import pandas as pd

from analysis.report.findings import Finding, over_all, variants
from analysis.report.numbers import ABSENT, difference, ratio
from analysis.report.report import Drawings, Report, TextTable
from analysis.report.verdicts import Least, Range, judge, judge_within
from analysis.runs import Tables, counts
from analysis.sgd_stability.figures import escape_figure, map_figure, penalty_figure, steady_figure
from analysis.sgd_stability.numbers import (
    COLUMNS,
    at_rate,
    by_seed,
    exit_rates,
    first_slope,
    ratios,
    ridge_rates,
    saturation,
    shift_errors,
    shifts,
    whole_ratio,
)
from analysis.statistics.intervals import Interval, paired_difference, student
from sharpness.plots.frames import floats, groups, rows_where

QUIET = 0.5
"""The rate, in units of 1 / lambda_max, at which steps that fall are compared: a quarter of gradient descent's largest,
near the computed one of batch 1."""
LEAVING = 1.0
"""The rate, in units of 1 / a, at which exits are compared: half of that at which gradient descent leaves."""
FEW = Range(-np.inf, 0.01, "one walk in a hundred")
SAME = Range(0.9, 1.1, "10 % is two to four steps of the grid of learning rates", ratio=True)
LINEAR = Range(0.75, 1.25, "a square root would have 0.5")
LARGER = Least(1.05, "one step of the grid of learning rates", ratio=True)
STEADIER = Least(0.05, "one step in twenty")
AS_STEADY = Range(-0.1, 0.1, "one step in ten")
PUSHED = Least(0.1, "one walk in ten")
"""The sizes were fixed when walks of seed 0 were known, which chose the grids; all verdicts count that seed too."""


def report(tables: Tables, settings: Mapping[str, Any]) -> Report:
    """Return the figures, the tables, the answer and the verdicts."""
    walks, ridge, basins, exits = read(tables)
    note = counts(tables)
    drawings = {
        "map": partial(map_figure, walks, ridge, note),
        "steady": partial(steady_figure, walks, note),
        "penalty": partial(penalty_figure, ridge, note),
        "escape": partial(escape_figure, basins, exits, note),
    }
    if ridge.empty or exits.empty:
        return Report(Drawings(drawings), [], ["No seed was measured: no number and no verdict is given."])
    made = [ridge_table(walks, ridge, note), basin_table(basins, exits, note)]
    return Report(Drawings(drawings), made, [answer(ridge)], findings(walks, ridge, basins, exits, settings))


def read(tables: Tables) -> tuple[pd.DataFrame, pd.DataFrame, pd.DataFrame, pd.DataFrame]:
    """Return the walks on least squares, their rates, the walks between basins, and the rates at which they leave."""
    walks, thresholds, basins = (tables.rows(name, *columns) for name, columns in COLUMNS.items())
    return walks, ridge_rates(walks, thresholds), basins, exit_rates(basins)


def findings(
    walks: pd.DataFrame, ridge: pd.DataFrame, basins: pd.DataFrame, exits: pd.DataFrame, settings: Mapping[str, Any]
) -> list[Finding]:
    """Return the verdict on each claim."""
    found = [*first_sense(ridge, settings), *penalty_findings(ridge, settings), *second_sense(walks, settings)]
    return [*found, *basin_findings(basins, exits, settings)]


def describe(settings: Mapping[str, Any]) -> str:
    """Say on what the claims on least squares were tested."""
    return (
        f"least squares on {settings['examples']} {settings['base']['data']['name']} images as "
        f"{settings['cells']} x {settings['cells']} cells, {settings['walks']} walks of {settings['steps']} steps, "
        f"{settings['seeds']} seeds"
    )


def describe_basins(settings: Mapping[str, Any]) -> str:
    """Say on what the claims on two basins were tested."""
    return (
        f"one weight, a basin {1 / settings['flatness']:g} times sharper than the other, {settings['basin_walks']} "
        f"walks of {settings['basin_steps']} steps, {settings['seeds']} seeds"
    )


def answer(ridge: pd.DataFrame) -> str:
    """Say in numbers where the mean square and where walks become unstable, at the smallest and the full batch."""
    plain = rows_where(ridge, penalty=0.0)
    small, full = groups(plain, "batch")[0], groups(plain, "batch")[-1]
    parts = []
    for batch, own in (small, full):
        rates = [whole_ratio(np.ones(len(own)), by_seed(own, name)) for name in ("stable_rate", "half_rate")]
        parts.append(f"{ratio(rates[0])} computed and {ratio(rates[1])} measured at B = {batch}")
    return (
        "Without a penalty the largest stable learning rate times lambda_max is "
        f"{' and '.join(parts)}; measured is where half of the walks run away."
    )


def first_sense(ridge: pd.DataFrame, settings: Mapping[str, Any]) -> list[Finding]:
    """Return the verdicts on where walks run away: below and at the computed rate, and how that goes with B."""
    setting, plain = describe(settings), rows_where(ridge, penalty=0.0)
    below = student([floats(own, "share_below").mean() for _, own in groups(ridge, "seed")])
    claim = (
        "First sense of stability: up to the computed rate no walk runs away (share of walks at the largest rate "
        "below it, mean over batch sizes and penalties)"
    )
    found = [Finding(claim, setting, "map", difference(below), *judge_within(below, FEW))]
    claim = (
        "The rate at which half of the walks run away is that at which their mean square stops shrinking, by "
        "Mulayoff & Michaeli's formula (measured over computed, no penalty)"
    )
    at_half = ratios(plain, "half_rate", "stable_rate")
    found.append(over_all(claim, setting, "map", at_half, ratio, partial(judge_within, allowed=SAME), log=True))
    slope = student(first_slope(plain, "half_rate"))
    claim = (
        "Ma et al.'s linear scaling: at the smallest batches the largest rate grows as B (slope in logarithms "
        "between the two smallest)"
    )
    found.append(Finding(claim, setting, "map", difference(slope), *judge_within(slope, LINEAR, null=0.0)))
    flat = whole_ratio(*saturation(plain))
    claim = (
        "Ma et al.'s saturation: beyond the batch size max |x|^2 / lambda_max + 1 the largest rate grows no more "
        "(full batch over the first batch beyond)"
    )
    return [*found, Finding(claim, setting, "map", ratio(flat), *judge_within(flat, SAME))]


def penalty_findings(ridge: pd.DataFrame, settings: Mapping[str, Any]) -> list[Finding]:
    """Return the verdicts on an L2 penalty and the first sense: whether it helps, and whether as much as computed."""
    setting, penalty = describe(settings), sorted(set(ridge["penalty"]) - {0.0})[0]
    moved = {f"B = {b}": whole_ratio(np.ones(len(x)), x) for b, x in shifts(ridge, penalty, "half_rate").items()}
    first, *others = moved
    rule = partial(judge, null=1.0, direction=1, least=LARGER)
    claim = (
        f"First sense: an L2 penalty (mu = {penalty:g} lambda_max) lets the rate be larger before walks run away "
        f"(with over without, {first})"
    )
    rest = variants({name: moved[name] for name in others}, ratio, rule)
    helped = Finding(claim, setting, "penalty", ratio(moved[first]), *rule(moved[first]), variants=rest)
    claim = "An L2 penalty moves the largest rate as computed (measured shift over computed, batch sizes and penalties)"
    as_computed = partial(judge_within, allowed=SAME)
    return [helped, over_all(claim, setting, "penalty", shift_errors(ridge), ratio, as_computed, log=True)]


def second_sense(walks: pd.DataFrame, settings: Mapping[str, Any]) -> list[Finding]:
    """Return the verdicts on steps in which the loss falls, at one rate: large against small batches, L2 or none."""
    setting = describe(settings)
    near = at_rate(walks, QUIET)
    (_, small), *_, (_, full) = groups(rows_where(near, penalty=0.0), "batch")
    steadier = paired_difference(by_seed(small, "falls"), by_seed(full, "falls"))
    claim = (
        f"Second sense: at one rate ({QUIET:g} / lambda_max) the loss falls in a larger share of the early steps of "
        "the full batch than of the smallest (difference)"
    )
    found = [Finding(claim, setting, "steady", difference(steadier), *judge(steadier, 0, 1, STEADIER))]
    penalty = sorted(set(near["penalty"]) - {0.0})[0]
    changed = {
        f"B = {batch}": paired_difference(
            by_seed(rows_where(own, penalty=0.0), "falls"), by_seed(rows_where(own, penalty=penalty), "falls")
        )
        for batch, own in groups(near, "batch")
    }
    claim = (
        f"An L2 penalty (mu = {penalty:g} lambda_max) does not help with the second sense: the share of falling steps "
        f"stays within {AS_STEADY.high:g} (change)"
    )
    return [*found, over_all(claim, setting, "steady", changed, difference, partial(judge_within, allowed=AS_STEADY))]


def basin_findings(basins: pd.DataFrame, exits: pd.DataFrame, settings: Mapping[str, Any]) -> list[Finding]:
    """Return the verdicts on noise that pushes a weight out of a sharp basin, and on the condition for it."""
    setting, near = describe_basins(settings), at_rate(basins, LEAVING)
    (batch, small), *_, (_, full) = groups(rows_where(near, basin="sharp"), "batch")
    pushed = paired_difference(by_seed(full, "ended_flat"), by_seed(small, "ended_flat"))
    claim = (
        f"Noise pushes the weight out of the sharp basin: walks that end in the flat one, B = {batch} less the full "
        f"batch, at the rate {LEAVING:g} / a, half of that at which the full batch leaves (difference of shares)"
    )
    found = [Finding(claim, setting, "escape", difference(pushed), *judge(pushed, 0, 1, PUSHED))]
    stay = student(by_seed(rows_where(near, basin="flat", batch=batch), "left"))
    claim = f"It does not push it out of the flat one (share of walks that left it, B = {batch}, same rate)"
    found.append(Finding(claim, setting, "escape", difference(stay), *judge_within(stay, FEW)))
    below = student([floats(own, "share_below").mean() for _, own in groups(exits, "seed")])
    no_larger = "while the mean square shrinks no larger share can (Ville 1939)"
    bound = Range(-np.inf, settings["start"] ** 2, no_larger, ends=())
    claim = (
        "Where Wu et al.'s condition calls the sharp basin stable, as good as no walk leaves (share at the largest "
        "rate below it, mean over batch sizes)"
    )
    found.append(Finding(claim, setting, "escape", difference(below), *judge_within(below, bound)))
    claim = "Half of the walks leave where that condition ends (measured rate over 2 a / (a^2 + p s^2))"
    as_computed = partial(judge_within, allowed=SAME)
    at_half = ratios(exits, "half_rate", "stable_rate")
    found.append(over_all(claim, setting, "escape", at_half, ratio, as_computed, log=True))
    slope = student(first_slope(exits, "half_rate"))
    claim = (
        "eta / B alone decides at the smallest batches: the rate at which half leave grows as B (slope in logarithms "
        "between the two smallest)"
    )
    return [*found, Finding(claim, setting, "escape", difference(slope), *judge_within(slope, LINEAR, null=0.0))]


def ridge_table(walks: pd.DataFrame, ridge: pd.DataFrame, note: str) -> TextTable:
    """Return for each batch size the rates on least squares, without and with the weaker penalty, and the falls."""
    penalty = sorted(set(ridge["penalty"]) - {0.0})[0]
    quiet = rows_where(at_rate(walks, QUIET), penalty=0.0)
    text, plain = [], []
    for batch, own in groups(ridge, "batch"):
        numbers = {
            f"{name}, penalty {each:g}": _mean(rows_where(own, penalty=each), name)
            for each in (0.0, penalty)
            for name in ("stable_rate", "half_rate", "typical_rate")
        }
        numbers["falls"] = _mean(rows_where(quiet, batch=batch), "falls")
        text.append([str(batch), *map(ratio, numbers.values())])
        plain += [_plain(batch, name, each) for name, each in numbers.items()]
    header = ["B", *(f"{of}{name}" for of in ("", "L2: ") for name in ("computed", "half", "typical")), "falls"]
    caption = (
        "Learning rates in units of 1 / λ_max on least squares, geometric means over seeds with 95 % intervals: where "
        "the mean square stops shrinking (computed), where half of the walks run away, and where the growth of a "
        f"typical walk becomes positive ({ABSENT}: not within the grid for all seeds), without and with an L2 penalty "
        f"of {penalty:g} λ_max; and the share of early steps in which the loss falls at {QUIET:g} / λ_max without one. "
        f"{note}"
    )
    return TextTable("ridge", "Largest rates on least squares", header, text, pd.DataFrame(plain), caption)


def basin_table(basins: pd.DataFrame, exits: pd.DataFrame, note: str) -> TextTable:
    """Return for each batch size the rates at which walks leave the sharp basin, and the shares at one rate."""
    near, text, plain = at_rate(basins, LEAVING), [], []
    for batch, own in groups(exits, "batch"):
        numbers = {name: _mean(own, name) for name in ("stable_rate", "half_rate", "typical_rate")}
        shares = {
            basin: student(by_seed(rows_where(near, batch=batch, basin=basin), "left")) for basin in ("sharp", "flat")
        }
        text.append([str(batch), *map(ratio, numbers.values()), *map(difference, shares.values())])
        plain += [_plain(batch, name, each) for name, each in (numbers | shares).items()]
    header = ["B", "linear stability", "half left", "typical", "left sharp", "left flat"]
    caption = (
        "Learning rates in units of 1 / a, a the curvature of the sharp basin, geometric means over seeds with 95 % "
        "intervals: where linear stability ends (computed), where half of the walks left it, and where a typical step "
        f"away from its minimum begins to grow ({ABSENT}: not within the grid for all seeds); and the shares that left "
        f"the sharp and the flat basin at the rate {LEAVING:g} / a. {note}"
    )
    return TextTable("basins", "Leaving a sharp basin", header, text, pd.DataFrame(plain), caption)


def _mean(rows: pd.DataFrame, column: str) -> Interval:
    return whole_ratio(np.ones(len(rows)), by_seed(rows, column))


def _plain(batch: int, name: str, each: Interval) -> dict[str, Any]:
    bounds = {"value": each.value, "lower": each.lower, "upper": each.upper, "n": each.n}
    return {"batch": batch, "quantity": name} | bounds
