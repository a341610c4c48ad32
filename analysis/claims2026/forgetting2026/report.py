"""The report on forgetting and rounding: what five ends of training do to sharpness, and what sharpness foretells.

The claims are those of the papers that scripts/claims2026/forgetting2026.py names; the rules of the verdicts are at the
top of this file.
"""

from __future__ import annotations

from collections.abc import Mapping
from functools import partial
from typing import Any

import numpy as np
import pandas as pd

from analysis.claims2026.forgetting2026.figures import damage_figure, path_figure, predicted_figure
from analysis.claims2026.forgetting2026.numbers import (
    ARMS,
    COLUMNS,
    against_expected,
    less,
    networks,
    over,
    shares_inside,
    tau,
)
from analysis.report.findings import Finding, variants
from analysis.report.numbers import ABSENT, difference, mean_and_std, ratio
from analysis.report.report import Drawings, Report, TextTable
from analysis.report.verdicts import Least, Range, judge, judge_within
from analysis.runs import Tables, counts
from analysis.statistics.intervals import Interval, student, summarise
from sharpness.plots.frames import floats, rows_if, rows_where

BETTER = Least(0.01, "less is not seen in a training curve", "nats a byte")
SHARPER = Least(1.2, "a fifth, ten times the width of an eigenvalue's interval", ratio=True)
COSTLIER = Least(1.2, "a fifth; less would not decide how a network is rounded", ratio=True)
FORGETFUL = Least(1.05, "a twentieth; less would not decide how a network is trained", ratio=True)
FOLLOWS = Least(0.2, "three pairs of networks in five are in the same order")
AS_EXPECTED = Range(0.8, 1.25, "a quarter is what `sharpness predict` calls holding", ratio=True)
INSIDE = Range(0.9, np.inf, "of intervals at 95 %, but for a few of so few networks", about=1.0)
"""The sizes were fixed before any run of these seeds."""

MEASURES = {
    "top_eigenvalue": "λ_max",
    "critical_sharpness": "critical sharpness",
    "expected_4": "expected rise at 4 bits",
    "before": "test loss on the first text",
}
DAMAGES = {"measured_4": "rise at 4 bits", "measured_3": "rise at 3 bits", "forgetting": "forgetting"}


def report(tables: Tables, settings: Mapping[str, Any]) -> Report:
    """Return the figures, the tables and the verdicts."""
    curvature, path = (tables.rows(name, *columns) for name, columns in COLUMNS.items())
    rows, note = networks(curvature, path, settings), counts(tables)
    drawings = {
        "damage": partial(damage_figure, rows, note),
        "path": partial(path_figure, path, settings["target"], note),
        "predicted": partial(predicted_figure, rows, settings["bits"], note),
    }
    if rows.empty:
        return Report(Drawings(drawings), [], ["No network was measured: no number and no verdict is given."])
    text_tables = [network_table(rows, settings, note), tau_table(rows, note)]
    return Report(Drawings(drawings), text_tables, [], findings(rows, settings))


def findings(rows: pd.DataFrame, settings: Mapping[str, Any]) -> list[Finding]:
    """Return the verdict on each claim."""
    return [*decay(rows, settings), *remedies(rows, settings), *followed(rows, settings), *predictions(rows, settings)]


def describe(settings: Mapping[str, Any]) -> str:
    """Say on what the claims were tested."""
    base = settings["base"]
    return (
        f"{base['model']['name']}, {base['data']['num_train']} windows of {base['data']['context']} bytes of "
        f"{base['data']['name']}, {settings['updates']} updates, then {settings['second']['name']}, "
        f"{settings['seeds']} seeds"
    )


def decay(rows: pd.DataFrame, settings: Mapping[str, Any]) -> list[Finding]:
    """Return the verdicts on a rate that falls at the end, against one that stays; a cosine is a variant."""
    setting = describe(settings)
    claim = "Decay lowers the loss of pretraining (test loss on the first text, WSD less constant)"
    lower = partial(judge, null=0.0, direction=-1, least=BETTER)
    found = [_compared(claim, setting, "path", lower, difference, less, rows, "before", "WSD", "constant", "cosine")]
    ratios = (
        ("Decay leads to sharper minima (λ_max, WSD / constant)", "damage", "top_eigenvalue", SHARPER),
        ("Decay raises the error of quantisation (rise at 4 bits, WSD / constant)", "damage", "measured_4", COSTLIER),
        ("Decay makes it forget more (forgetting, WSD / constant)", "damage", "forgetting", FORGETFUL),
    )
    for claim, figure, column, least in ratios:
        rule = partial(judge, null=1.0, direction=1, least=least)
        one = _compared(claim, setting, figure, rule, ratio, over, rows, column, "WSD", "constant", "cosine")
        found.append(one)
    claim = "After decay the second text is learnt less well (its test loss in the end, WSD less constant)"
    worse = partial(judge, null=0.0, direction=1, least=BETTER)
    return [
        *found,
        _compared(claim, setting, "path", worse, difference, less, rows, "second", "WSD", "constant", "cosine"),
    ]


def remedies(rows: pd.DataFrame, settings: Mapping[str, Any]) -> list[Finding]:
    """Return the verdicts on averages, SAM and a shorter decay, each against WSD."""
    setting = describe(settings)
    claims = (
        ("Averages withstand rounding (rise at 4 bits, average / WSD)", "measured_4", "average", "WSD", COSTLIER),
        ("SAM leads to flatter minima (λ_max, SAM / WSD)", "top_eigenvalue", "SAM", "WSD", SHARPER),
        ("SAM lowers the error of quantisation (rise at 4 bits, SAM / WSD)", "measured_4", "SAM", "WSD", COSTLIER),
        ("SAM forgets less (forgetting, SAM / WSD)", "forgetting", "SAM", "WSD", FORGETFUL),
        ("A shorter decay forgets less (forgetting, WSD / cosine)", "forgetting", "WSD", "cosine", FORGETFUL),
    )
    found = []
    for claim, column, arm, other, least in claims:
        rule = partial(judge, null=1.0, direction=-1, least=least)
        found.append(_compared(claim, setting, "damage", rule, ratio, over, rows, column, arm, other))
    return found


def _compared(
    claim: str,
    setting: str,
    figure: str,
    rule: Any,
    text: Any,
    number: Any,
    rows: pd.DataFrame,
    column: str,
    arm: str,
    other: str,
    *arms: str,
) -> Finding:
    """Return the finding on a number of one arm against another, more arms and other forms of it as variants."""
    found = number(rows, column, arm, other)
    more = {each: number(rows, column, each, other) for each in arms}
    if column == "measured_4" and "measured_3" in rows:
        more |= {"3 bits": number(rows, "measured_3", arm, other)}
    if column == "forgetting":
        later = [name for name in rows if str(name).startswith("forgetting_at_")]
        more |= {str(name).replace("_", " "): number(rows, name, arm, other) for name in later}
    return Finding(claim, setting, figure, text(found), *rule(found), variants=variants(more, text, rule))


def followed(rows: pd.DataFrame, settings: Mapping[str, Any]) -> list[Finding]:
    """Return the verdicts on whether damages follow sharpness over all networks.

    Other measures are variants, and the networks without those of the cosine, whose sharpness is far from the others'.
    """
    claims = {
        "measured_4": "Sharper networks lose more at 4 bits (Kendall's tau with λ_max)",
        "forgetting": "Sharper networks forget more (Kendall's tau with λ_max)",
    }
    rule = partial(judge, null=0.0, direction=1, least=FOLLOWS)
    result = []
    for damage, claim in claims.items():
        first, *others = (name for name in MEASURES if name in rows)
        found = tau(rows, first, damage)
        more = {f"with {MEASURES[name]}": tau(rows, name, damage) for name in others}
        more["without cosine"] = tau(rows_if(rows, rows["arm"] != "cosine"), first, damage)
        text = variants(more, difference, rule)
        result.append(Finding(claim, describe(settings), "damage", difference(found), *rule(found), variants=text))
    return result


def predictions(rows: pd.DataFrame, settings: Mapping[str, Any]) -> list[Finding]:
    """Return the verdicts on what `sharpness predict` says of rounding and drift."""
    setting, rule = describe(settings), partial(judge_within, allowed=AS_EXPECTED)
    claim = "The expected rise is the measured one, by the quadratic model (measured over expected, 4 bits)"
    each = {bits: against_expected(rows, f"measured_{bits}", f"expected_{bits}") for bits in settings["bits"]}
    others, found = {f"{bits} bits": one for bits, one in each.items() if bits != 4}, each[4]
    first = Finding(claim, setting, "predicted", ratio(found), *rule(found), variants=variants(others, ratio, rule))
    inside = student(shares_inside(rows, settings["bits"]))
    shares = {f"{bits} bits": student(shares_inside(rows, [bits])) for bits in settings["bits"]}
    claim = "The measured rise is where one rounding with independent errors would lie (share of roundings, all bits)"
    rule = partial(judge_within, allowed=INSIDE)
    more = variants(shares, difference, rule)
    second = Finding(claim, setting, "predicted", difference(inside), *rule(inside), variants=more)
    return [first, second, drifted(rows, settings)]


def drifted(rows: pd.DataFrame, settings: Mapping[str, Any]) -> Finding:
    """Return the verdict on the rise under a drift as far as the second text moves the weights."""
    rule = partial(judge_within, allowed=AS_EXPECTED)
    claim = (
        "The expected rise under a drift in random directions, as far as the second text moves the weights, is the "
        "measured one (measured over expected)"
    )
    found = against_expected(rows, "measured_drift", "expected_drift")
    others = {
        "expected of the directions that were measured": against_expected(rows, "measured_drift", "quadratic_drift"),
        "in the sharpest direction": against_expected(rows, "measured_sharpest", "quadratic_sharpest"),
    }
    more = variants(others, ratio, rule)
    return Finding(claim, describe(settings), "predicted", ratio(found), *rule(found), variants=more)


def network_table(rows: pd.DataFrame, settings: Mapping[str, Any], note: str) -> TextTable:
    """Return for each way to end the training its measures and damages."""
    columns = {
        "before": "test loss",
        "top_eigenvalue": "λ_max",
        "critical_sharpness": "λ_c",
        **{f"measured_{bits}": f"{bits} bits" for bits in settings["bits"] if bits < 8},
        "forgetting": "forgetting",
        "second": "second text",
        "moved": "moved",
    }
    text, plain = [], []
    for arm in ARMS:
        own = rows_where(rows, arm=arm)
        found = {name: summarise(floats(own, name)) for name in columns}
        text.append([arm, *map(mean_and_std, found.values()), str(len(own))])
        plain += [{"arm": arm, "quantity": n, "mean": s.mean, "std": s.std, "n": s.n} for n, s in found.items()]
    caption = (
        "Mean ± sample standard deviation over the seeds, by the end of training: test loss on the first text, top "
        "eigenvalue and critical sharpness of its training loss, the rise of that loss when weights are rounded "
        f"to few bits, the rise of the test loss until that on the second text is {settings['target']:g}, the test "
        "loss on the second text in the end, and how far it moved the weights, over their length; losses and rises in "
        f"nats a byte ({ABSENT}: not measured, or not reached). {note}"
    )
    header = ["", *columns.values(), "n"]
    return TextTable("networks", "Five ends of training", header, text, pd.DataFrame(plain), caption)


def tau_table(rows: pd.DataFrame, note: str) -> TextTable:
    """Return which measure goes with which damage over all networks."""
    text, plain = [], []
    for measure, label in MEASURES.items():
        if measure not in rows:
            continue
        found = {damage: tau(rows, measure, damage) for damage in DAMAGES if damage in rows}
        text.append([label, *(difference(each) for each in found.values())])
        plain += [_plain(measure, damage, each) for damage, each in found.items()]
    header = ["", *(label for damage, label in DAMAGES.items() if damage in rows)]
    caption = (
        "Kendall's tau-b of each measure with each damage over all networks, five ends of training at each seed, with "
        f"95 % intervals from resampled seeds. {note}"
    )
    return TextTable("taus", "Which measure goes with which damage", header, text, pd.DataFrame(plain), caption)


def _plain(measure: str, damage: str, each: Interval) -> dict[str, Any]:
    bounds = {"tau": each.value, "lower": each.lower, "upper": each.upper, "n": each.n}
    return {"measure": measure, "damage": damage} | bounds
