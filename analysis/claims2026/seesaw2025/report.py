"""The report on Seesaw: Meterez et al. 2025 (arXiv 2510.14717) in small, and the verdicts.

The claims are those of the abstract, and what makes them worth testing: that decay matters here, and that a growing
batch is no free lunch. The rules of the verdicts are at the top of this file.
"""

from __future__ import annotations

from collections.abc import Mapping
from functools import partial
from typing import Any

import pandas as pd

from analysis.claims2026.seesaw2025.figures import rates_figure, updates_figure
from analysis.claims2026.seesaw2025.numbers import (
    ARMS,
    CONSTANT,
    CONTROL,
    HALVED,
    SEESAW,
    edges,
    judged,
    less,
    outcomes,
    saved,
)
from analysis.report.findings import Finding
from analysis.report.numbers import difference, mean_and_std
from analysis.report.report import Drawings, Report, TextTable
from analysis.report.verdicts import Least, Range, judge, judge_within
from analysis.runs import Tables, counts
from analysis.statistics.intervals import summarise
from sharpness.plots.frames import floats, groups, rows_where

UNIT = "nats a byte"
SEEN = Least(0.02, "a hundredth of the loss; less is not seen in a training curve", UNIT)
SAME = Range(-0.02, 0.02, "a hundredth of the loss is not seen in a training curve", UNIT)
THIRD = Range(0.31, 0.41, "five points around the 36 % of a cosine in the abstract")
"""The sizes were fixed before any run of these seeds."""


def report(tables: Tables, settings: Mapping[str, Any]) -> Report:
    """Return the figures, the table, where the grid was too narrow, and the verdicts."""
    rows, note = outcomes(tables.runs), counts(tables)
    chosen = judged(rows)
    drawings = {"updates": partial(updates_figure, chosen, note), "rates": partial(rates_figure, rows, note)}
    if chosen.empty:
        return Report(Drawings(drawings), [], ["Too few runs finished: no number and no verdict is given."])
    seeds = len(groups(rows, "seed"))
    at_end = f"The chosen rate is at an end of its grid for {edges(rows, chosen)} of {seeds} seeds."
    return Report(Drawings(drawings), [schedule_table(chosen, note)], [at_end], findings(chosen, settings))


def describe(settings: Mapping[str, Any]) -> str:
    """Say on what the claims were tested."""
    base = settings["base"]
    return (
        f"{base['model']['name']}, {settings['windows']} windows of {base['data']['context']} bytes of "
        f"{base['data']['name']}, batches from {base['training']['batch_size']}, {settings['steps']} steps of the "
        f"schedule, {settings['seeds']} seeds"
    )


def findings(chosen: pd.DataFrame, settings: Mapping[str, Any]) -> list[Finding]:
    """Return the verdict on each claim."""
    setting = describe(settings)
    above = partial(judge, null=0.0, direction=1, least=SEEN)
    numbers = (
        (
            "Seesaw ends at the loss of halving after the same bytes (test loss, Seesaw less halved)",
            less(chosen, SEESAW, HALVED),
            partial(judge_within, allowed=SAME),
        ),
        (
            "Seesaw takes about 36 % fewer updates (share of those of halving; a matter of the schedule)",
            saved(chosen),
            partial(judge_within, allowed=THIRD),
        ),
        (
            "Halving lowers the loss, so that there is something to keep (test loss, constant less halved)",
            less(chosen, CONSTANT, HALVED),
            above,
        ),
        (
            "With the rate kept and the batch four times as large the loss is not kept (control less Seesaw)",
            less(chosen, CONTROL, SEESAW),
            above,
        ),
    )
    return [Finding(claim, setting, "updates", difference(each), *rule(each)) for claim, each, rule in numbers]


def schedule_table(chosen: pd.DataFrame, note: str) -> TextTable:
    """Return for each schedule its updates and its losses."""
    text, plain = [], []
    for arm in ARMS:
        own = rows_where(chosen, arm=arm)
        steps, loss = summarise(floats(own, "step")), summarise(floats(own, "test_loss"))
        against = less(chosen, arm, HALVED)
        text.append([arm, mean_and_std(steps), mean_and_std(loss), difference(against), str(len(own))])
        facts = {"arm": arm, "updates": steps.mean, "test_loss": loss.mean, "std": loss.std, "n": loss.n}
        plain.append(facts | {"less_halved": against.value, "lower": against.lower, "upper": against.upper})
    caption = (
        "Updates and test loss of each schedule at the rate that halving chose on held-out text of the other seeds, "
        "mean ± sample standard deviation over the seeds, and the loss less that of halving with its 95 % interval; "
        f"nats a byte. {note}"
    )
    header = ["", "updates", "test loss", "less halved", "n"]
    return TextTable("schedules", "Four schedules", header, text, pd.DataFrame(plain), caption)
