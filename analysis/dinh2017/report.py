"""The report on Dinh et al. (2017): which measures see the function, which its weights, and the verdicts.

The claims are identities that hold for every network, so the interval of a number is its range over the runs
(:func:`analysis.dinh2017.numbers.spread`). A range has no law, so these findings have no p value.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from functools import partial
from typing import Any

import numpy as np
import pandas as pd

from analysis.dinh2017.figures import curvature_figure, fraction, measures_figure, volume_figure
from analysis.dinh2017.numbers import (
    COLUMNS,
    MEASURES,
    against,
    area_growth,
    end_slopes,
    farthest,
    flags_of,
    predictions,
    reversals,
    spread,
    with_ratios,
)
from analysis.report.findings import Finding
from analysis.report.numbers import ABSENT, significant
from analysis.report.report import Drawings, Report, TextTable
from analysis.report.texts import slug
from analysis.report.verdicts import Judged, Least, Range, judge, judge_within
from analysis.runs import Tables, counts
from analysis.statistics.intervals import Interval
from sharpness.plots.frames import floats, records, rows_where

SAME = 1e-2
"""By so much a measure may differ and count as the same: the tolerance of the top eigenvalue."""
SLOPE = 0.1
"""By so much a slope may differ."""
OUTPUTS = Range(-np.inf, 1e-5, "float32 rounds by 1e-7, and a hundred times that is no change")
BOUND = Range(0.98, np.inf, "the eigenvalue and that of the block are each known to 1 %", about=1.0)
TRACE = Range(0.9, 1.1, "the error of both random estimates")
STAYS = Range(1 - SAME, 1 + SAME, "the tolerance of the top eigenvalue")
KEPT = Range(-np.inf, 1 + SAME, "the tolerance of the top eigenvalue", about=1.0)
MOVES = Least(1.1, "ten times the tolerance of the top eigenvalue", ratio=True)
GROWS = Range(0.9, 1.1, "the error of an area told from some thousands of points")
ABOVE = Range(1.0, np.inf, "an order is turned round, or a rise reached, or it is not", ends=())
"""The rules were fixed beforehand, the factor that counts as moved when the first results were known."""


def report(tables: Tables, _: Mapping[str, Any]) -> Report:
    """Return the figures, the tables and the verdicts, which depend on no setting."""
    measures, blocks, constant, areas = (tables.rows(name, *columns) for name, columns in COLUMNS.items())
    table, note = with_ratios(measures), counts(tables)
    expected = predictions(blocks, table)
    networks = list(dict.fromkeys(tables.runs["network"]))
    drawings = {"curvature": partial(curvature_figure, table, expected, note)}
    for network in networks:
        drawings[f"measures_{slug(network)}"] = partial(measures_figure, table, network, MEASURES, note)
    drawings["volume"] = partial(volume_figure, areas, note)
    moved = [moved_table(rows_where(table, network=network), network, note) for network in networks]
    found = findings(table, expected, constant, areas)
    return Report(Drawings(drawings), [each for each in moved if each.rows], sentences(table), found)


def moved_table(table: pd.DataFrame, network: str, note: str) -> TextTable:
    """Return how far each measure of one kind of network moves, and whether the order of SB and LB can be reversed."""
    rows, numbers, reach = [], [], {}
    for measure, (title, moves) in MEASURES.items() if (floats(table, "alpha") != 1).any() else ():
        own, pairs = rows_where(table, measure=measure), reversals(table, measure)
        flags, alphas = flags_of(own), sorted({1.0, *floats(own, "alpha")})
        ends = alphas[0], alphas[-1]
        reach.setdefault(f"{fraction(ends[0])} and {fraction(ends[1])}", []).append(title)
        ratios = [spread(floats(rows_where(own, alpha=alpha), "ratio")) for alpha in ends]
        turned = int(np.sum(floats(pairs, "factor") > 1))
        cells = [*map(range_text, ratios), f"{sum(flags)} of {len(flags)}", "yes" if moves else "no"]
        rows.append([title, *cells, range_text(spread(pairs["order"])), f"{turned} of {len(pairs)}"])
        facts = {"moved": sum(flags), "compared": len(flags), "expected_to_move": moves}
        facts |= {"order": spread(pairs["order"]).value, "reversed": turned, "pairs": len(pairs)}
        for alpha, end in zip(ends, ratios, strict=True):
            ratio = {"ratio": end.value, "least": end.lower, "largest": end.upper, "n": end.n}
            numbers.append({"network": network, "measure": measure, "alpha": alpha} | ratio | facts)
    header = ["measure", "smallest alpha", "largest alpha", "moved", "should", "LB / SB", "reversed"]
    common = max(reach, key=lambda ends: len(reach[ends]), default="")
    others = "".join(f", for {', '.join(of)} {ends}" for ends, of in reach.items() if ends != common)
    caption = (
        f"{network}: each measure after the rescaling by the smallest and the largest alpha ({common}{others}) over "
        "that before, median and range over the runs; how often it moved, by its own interval where it has one and by "
        "1 % otherwise, of all runs and alphas; whether theory says that it does; LB / SB of one seed at alpha = 1; "
        f"and in how many pairs some alpha of the flatter network alone makes it the sharper one. {note}"
    )
    title = f"Measures under the rescaling, {network}"
    return TextTable(f"moved_{slug(network)}", title, header, rows, pd.DataFrame(numbers), caption)


def range_text(interval: Interval, digits: int = 3) -> str:
    """Return a median with its range, the median alone where they are the same to these digits.

    >>> range_text(Interval(2.0, 1.0, 30.0, 3)), range_text(Interval(1.00001, 0.99999, 1.0, 3))
    ('2.00 [1.00, 30.0]', '1.00')
    """
    if interval.value is None or interval.lower is None or interval.upper is None:
        return ABSENT
    value, lower, upper = (significant(x, digits) for x in (interval.value, interval.lower, interval.upper))
    return value if lower == value == upper else f"{value} [{lower}, {upper}]"


def findings(table: pd.DataFrame, expected: pd.DataFrame, constant: pd.DataFrame, areas: pd.DataFrame) -> list[Finding]:
    """Return the verdict on every claim, by the rules at the top of this file."""
    both = " and ".join(dict.fromkeys(table["network"])) or "no network"
    moved = f"moved_{slug(both.partition(' and ')[0])}"
    outputs = spread(floats(rows_where(table, measure="outputs"), "value"))
    above, sums = (
        spread(against(table, expected, *names)) for names in (("top_eigenvalue", "bound"), ("trace", "sum"))
    )
    result = [
        _within("The rescaling changes no output (largest change over largest output)", both, outputs, OUTPUTS),
        _within("λ_max is at or above its bound from the blocks (λ_max over the bound)", both, above, BOUND),
        _within("The trace is the sum over the blocks (trace over the sum)", both, sums, TRACE),
    ]
    result += [each for network in dict.fromkeys(expected["network"]) for each in _slopes(table, expected, network)]
    for name in ("keskar_box", "adaptive_box", "relative_flatness", "fisher_rao_norm"):
        title, moves = MEASURES[name]
        far = spread(farthest(table, name))
        if moves:
            claim = f"{title[0].upper()}{title[1:]} moves (farthest factor of a run)"
            result.append(_finding(claim, both, moved, far, judge(far, 1, 1, MOVES)))
        else:
            claim = f"{title[0].upper()}{title[1:]} does not move (farthest factor of a run)"
            result.append(_finding(claim, both, moved, far, judge_within(far, STAYS)))
    turned = spread(reversals(table, "top_eigenvalue")["factor"], "pair")
    claim = "Some α makes the flatter of SB and LB the sharper one by λ_max (largest λ_max over the other's)"
    result.append(_finding(claim, both, moved, turned, judge_within(turned, ABOVE)))
    kept = [floats(reversals(table, name), "factor") for name, (_, moves) in MEASURES.items() if not moves]
    stays = spread(np.concatenate(kept), "pair")
    claim = "No α changes the order of SB and LB by a measure that does not move (largest value over the other's)"
    result.append(_finding(claim, both, moved, stays, judge_within(stays, KEPT)))
    return [*result, _constant(constant), _volume(areas)]


def _slopes(table: pd.DataFrame, expected: pd.DataFrame, network: str) -> list[Finding]:
    """Return the verdicts on the slopes of the top eigenvalue at both ends of alpha."""
    own, predicted = rows_where(table, network=network), records(rows_where(expected, network=network))[0]
    result = []
    for side, where in ((-1, "near"), (1, "far")):
        slope, words = predicted[f"{where}_slope"], {"near": "small", "far": "large"}[where]
        found = spread(end_slopes(own, "top_eigenvalue", side))
        claim = f"{network}: λ_max goes as α^{slope + 0.0:g} for {words} α (slope in log-log)"
        near = Range(slope - SLOPE, slope + SLOPE, "the next whole power, and half of it, are far off")
        result.append(_within(claim, network, found, near))
    return result


def _within(claim: str, setting: str, found: Interval, allowed: Range) -> Finding:
    return _finding(claim, setting, "curvature", found, judge_within(found, allowed))


def _finding(claim: str, setting: str, figure: str, found: Interval, judged: Judged) -> Finding:
    number = f"{range_text(found, 4)}, median and range, n = {found.n}"
    return Finding(claim, setting, figure, number, *judged)


def _constant(constant: pd.DataFrame) -> Finding:
    """Return the verdict on the ball that holds a constant network after the rescaling."""
    claim = (
        "T_α makes the worst case in an l2 ball at least that of a constant network (its rise over that found before)"
    )
    if constant.empty:
        return _finding(claim, "no network", "curvature", nothing := spread([]), judge_within(nothing, ABOVE))
    inside = constant.loc[floats(constant, "distance") <= floats(constant, "epsilon") * (1 + 1e-5)]
    rises = (floats(inside, "constant_loss") - floats(inside, "loss")) / floats(inside, "found_rise")
    found = spread(rises)
    setting = f"{constant['network'].iloc[0]}, radius {floats(constant, 'epsilon')[0]:g}"
    judged = judge_within(found, ABOVE)
    why = f"{judged.why}; the rise before is what an ascent found, a lower bound"
    return _finding(claim, setting, "curvature", found, judged._replace(why=why))


def _volume(areas: pd.DataFrame) -> Finding:
    """Return the verdict on a region of low loss without bound, on the network of two weights."""
    found = spread(area_growth(areas))
    claim = (
        "The region around a minimum where the loss stays low has infinite volume (Theorem 2): on y = w2 relu(w1 x) "
        "its area within a radius R grows as log R for ever (slope over that in closed form, outer half of the radii)"
    )
    setting = "y = w2 relu(w1 x), mean brightness of images and their class"
    if len(areas):
        setting += f", R up to {floats(areas, 'radius').max():g}, rise {100 * floats(areas, 'rise')[0]:g} %"
    return _finding(claim, setting, "volume", found, judge_within(found, GROWS))


def sentences(table: pd.DataFrame) -> Sequence[str]:
    """Say what a measure did otherwise than theory says, where one cannot tell, and what has no value and why."""
    result = []
    for measure, (title, moves) in MEASURES.items():
        own = rows_where(table, measure=measure)
        flags = flags_of(own)
        odd = sum(flag != moves for flag in flags)
        if odd:
            said = "moved by less than it can tell" if moves else "moved, which theory excludes,"
            result.append(f"{title[0].upper()}{title[1:]} {said} in {odd} of {len(flags)} rescalings.")
        absent = [row for row in records(own) if row["value"] is None]
        if absent:
            result.append(f"No {title} in {len(absent)} of {len(own)} cases: {absent[0]['reason']}.")
        negative = int(np.sum(floats(own, "value") <= 0))
        if negative:
            result.append(f"No ratio of the {title} where it is not positive: {negative} of {len(own)} values.")
    return result or ["Every measure did at every alpha what theory says of it."] if len(table) else []
