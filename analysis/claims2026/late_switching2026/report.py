"""The report on late switching: Wang et al. 2026 (arXiv 2602.14208) in small, and the verdicts.

The claims are those of the abstract, as scripts/claims2026/late_switching2026.py names them; the rules of the verdicts
are at the top of this file.
"""

from __future__ import annotations

from collections.abc import Mapping
from functools import partial
from typing import Any

import numpy as np
import pandas as pd

from analysis.claims2026.late_switching2026.figures import catch_up_figure, rates_figure
from analysis.claims2026.late_switching2026.numbers import (
    ARMS,
    EARLY,
    LARGE,
    LATE,
    SMALL,
    at_own_rates,
    judged,
    leads,
    left_over,
    less,
    outcomes,
)
from analysis.report.findings import Finding, variants
from analysis.report.numbers import difference, mean_and_std, significant
from analysis.report.report import Drawings, Report, TextTable
from analysis.report.verdicts import Least, Range, judge, judge_within
from analysis.runs import Tables, counts
from analysis.statistics.intervals import summarise
from sharpness.plots.frames import floats, rows_where

UNIT = "nats a byte"
SEEN = Least(0.02, "a hundredth of the loss; less is not seen in a training curve", UNIT)
CAUGHT_UP = Range(-np.inf, 0.25, "a quarter of the lead is hardly seen beside the whole")
"""The sizes were fixed before any run of these seeds."""


def report(tables: Tables, settings: Mapping[str, Any]) -> Report:
    """Return the figures, the table and the verdicts."""
    rows, note = outcomes(tables.runs), counts(tables)
    drawings = {
        "rates": partial(rates_figure, rows, note),
        "catch_up": lambda: catch_up_figure(leads(rows) if len(rows) else rows, note),
    }
    own = at_own_rates(rows)
    if own.empty:
        return Report(Drawings(drawings), [], ["Too few runs finished: no number and no verdict is given."])
    return Report(Drawings(drawings), [way_table(own, note)], [], findings(rows, settings))


def describe(settings: Mapping[str, Any]) -> str:
    """Say on what the claims were tested."""
    base = settings["base"]
    return (
        f"{base['model']['name']}, {settings['windows']} windows of {base['data']['context']} bytes of "
        f"{base['data']['name']}, batches of {settings['small']} and {settings['large']}, {settings['seeds']} seeds"
    )


def findings(rows: pd.DataFrame, settings: Mapping[str, Any]) -> list[Finding]:
    """Return the verdict on each claim; at one rate for all, the best of large batches, it is a variant."""
    setting, own = describe(settings), at_own_rates(rows)
    shared = pd.concat([judged(rows, arm, LARGE) for arm in ARMS])
    lower = partial(judge, null=0.0, direction=-1, least=SEEN)
    found = []
    for other, name in ((EARLY, "an early one"), (LARGE, "large batches alone"), (SMALL, "small batches alone")):
        claim = f"A late switch ends lower than {name} after the same bytes (test loss, late less {other})"
        at_own = less(own, LATE, other)
        more = variants({"at the best rate of large batches": less(shared, LATE, other)}, difference, lower)
        found.append(Finding(claim, setting, "rates", difference(at_own), *lower(at_own), variants=more))
    left = left_over(rows)
    claim = (
        "Fast catch-up: after as many updates again the loss is that of large batches from the start (share of their "
        "lead at the switch that is left)"
    )
    return [*found, Finding(claim, setting, "catch_up", difference(left), *judge_within(left, CAUGHT_UP))]


def way_table(own: pd.DataFrame, note: str) -> TextTable:
    """Return for each way to use the bytes its rate, its updates and its loss."""
    text, plain = [], []
    for arm in ARMS:
        rows = rows_where(own, arm=arm)
        if rows.empty:
            continue
        rate, loss = float(np.median(floats(rows, "learning_rate"))), summarise(floats(rows, "test_loss"))
        steps, against = summarise(floats(rows, "step")), less(own, arm, LARGE)
        cells = [significant(rate, 3), mean_and_std(steps), mean_and_std(loss), difference(against)]
        text.append([arm, *cells, str(len(rows))])
        facts = {"arm": arm, "learning_rate": rate, "updates": steps.mean, "test_loss": loss.mean, "std": loss.std}
        plain.append(facts | {"less_large": against.value, "lower": against.lower, "upper": against.upper})
    caption = (
        "Learning rate chosen on held-out text of the other seeds (median), updates and test loss of each way to use "
        "the same bytes, mean ± sample standard deviation over the seeds, and the loss less that of large batches with "
        f"its 95 % interval; nats a byte. {note}"
    )
    header = ["", "rate", "updates", "test loss", "less large", "n"]
    return TextTable("ways", "Four ways to use the same bytes", header, text, pd.DataFrame(plain), caption)
