"""The report on the critical batch along training: Merrill et al. 2025 (arXiv 2505.23971) in small, and the verdicts.

The claims are those of the abstract, as scripts/claims2026/merrill2025.py names them; the rules of the verdicts are at
the top of this file.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from functools import partial
from typing import Any

import numpy as np
import pandas as pd
from scipy.stats import gmean

from analysis.claims2026.merrill2025.figures import branches_figure, critical_figure, updates_figure
from analysis.claims2026.merrill2025.numbers import (
    ADAMS,
    ARMS,
    COLUMNS,
    EUCLIDEAN,
    LARGE,
    SMALL,
    SMOOTHED,
    WARM_UP,
    at_smallest,
    beside,
    checkpoints_of,
    criticals,
    doublings,
    growth,
    last_growth,
    less,
    noise_by,
    outcomes,
    over_noise,
    saved,
    trend,
)
from analysis.report.findings import Finding, variants
from analysis.report.numbers import ABSENT, correlation, difference, mean_and_std, ratio, significant
from analysis.report.report import Drawings, Report, TextTable
from analysis.report.verdicts import Judged, Least, Range, judge, judge_within
from analysis.runs import Tables, counts
from analysis.statistics.intervals import Interval, summarise
from sharpness.plots.frames import floats, records, rows_where

UNIT = "nats a byte"
GROWN = Least(2.0, "one step of the grid of batches", ratio=True)
LEVEL = Range(2**-0.5, 2**0.5, "half a step of the grid of batches, while the text seen doubles", ratio=True)
BELOW = Least(2.0, "within a factor of 2 it would do to choose a batch", ratio=True)
ORDERS = (100.0, np.inf)
"""Orders of magnitude, as the paper says, are two at least."""
FOLLOWS = Least(0.3, "two pairs of checkpoints in three are in the same order")
NO_HIGHER = Range(-np.inf, 0.02, "a hundredth of the loss is not seen in a training curve", UNIT)
HIGHER = Least(0.02, "a hundredth of the loss; less is not seen in a training curve", UNIT)
"""The sizes were fixed before any run of these seeds."""


def report(tables: Tables, settings: Mapping[str, Any]) -> Report:
    """Return the figures, the tables, where the rule of the warm-up holds, and the verdicts."""
    branches, noise = (tables.rows(name, *columns) for name, columns in COLUMNS.items())
    arms, note = outcomes(tables.runs), counts(tables)
    rows = criticals(branches, settings["tolerance"])
    drawings = {
        "critical": partial(critical_figure, rows, noise, note),
        "branches": partial(branches_figure, rows, settings["tolerance"], note),
        "updates": partial(updates_figure, arms, note),
    }
    if rows.empty or len(checkpoints_of(rows)) < 3:
        return Report(Drawings(drawings), [], ["Too little was measured: no number and no verdict is given."])
    text_tables = [checkpoint_table(rows, noise, note), arm_table(arms, note)]
    found = [*along(branches, noise, settings), *warm_up(arms, settings)]
    return Report(Drawings(drawings), text_tables, [*edges(rows), *rule_holds(rows, settings)], found)


def describe(settings: Mapping[str, Any]) -> str:
    """Say on what the claims were tested."""
    base = settings["base"]
    size = base["training"]["batch_size"]
    return (
        f"{base['model']['name']}, {settings['windows']} windows of {base['data']['context']} bytes of "
        f"{base['data']['name']}, batches of {size}, branches up to {size * max(settings['factors'])} over "
        f"{settings['window']} windows, {settings['seeds']} seeds"
    )


def along(branches: pd.DataFrame, noise: pd.DataFrame, settings: Mapping[str, Any]) -> list[Finding]:
    """Return the verdicts on the critical batch along training and on the noise scale beside it.

    Other tolerances, the smoothed loss of the paper and Adam's geometry are variants.
    """
    epsilon = settings["tolerance"]
    ways = {"": criticals(branches, epsilon)}
    ways |= {f"tolerance {other:g}": criticals(branches, other) for other in settings["other_tolerances"]}
    ways["smoothed loss of the batches"] = criticals(branches, epsilon, SMOOTHED)
    first, *_, last = checkpoints_of(ways[""])
    euclidean, adams = noise_by(noise, EUCLIDEAN), noise_by(noise, ADAMS)
    in_adams = {"in Adam's geometry": ways[""]}
    above, positive = partial(judge, null=1.0, direction=1), partial(judge, null=0.0, direction=1, least=FOLLOWS)
    claims = (
        (
            f"The critical batch grows in training (after {last} windows / after {first})",
            {name: growth(rows, first, last) for name, rows in ways.items()},
            (ratio, partial(above, least=GROWN)),
        ),
        (
            "The critical batch levels off (at the last checkpoint / at the one before)",
            {name: last_growth(rows) for name, rows in ways.items()},
            (ratio, partial(judge_within, allowed=LEVEL)),
        ),
        (
            "The noise scale is far below the critical batch (critical batch / noise scale, mean over the checkpoints)",
            {name: over_noise(rows, euclidean) for name, rows in ways.items()}
            | {name: over_noise(rows, adams) for name, rows in in_adams.items()},
            (ratio, partial(above, least=BELOW, size=ORDERS)),
        ),
        (
            "The critical batch goes with the noise scale, as in the smaller of the paper's models (Kendall's tau)",
            {name: trend(rows, euclidean) for name, rows in ways.items()}
            | {name: trend(rows, adams) for name, rows in in_adams.items()},
            (correlation, positive),
        ),
    )
    return [judged_ways(claim, describe(settings), found, *how) for claim, found, how in claims]


def judged_ways(
    claim: str,
    setting: str,
    found: Mapping[str, Interval],
    text: Callable[[Interval], str],
    rule: Callable[[Interval], Judged],
) -> Finding:
    """Return the finding on a number by its first way to be measured, the others as variants."""
    (_, chosen), *others = found.items()
    more = variants(dict(others), text, rule)
    return Finding(claim, setting, "critical", text(chosen), *rule(chosen), variants=more)


def warm_up(arms: pd.DataFrame, settings: Mapping[str, Any]) -> list[Finding]:
    """Return the verdicts on a batch that doubles as the critical batch grows."""
    kept, share = less(arms, WARM_UP, SMALL), saved(arms, WARM_UP)
    fewer = "" if share is None else f", with {100 * share:.0f} % fewer updates"
    claim = f"A warm-up of the batch ends at the loss of small batches (test loss, warm-up less small{fewer})"
    found = [Finding(claim, describe(settings), "updates", difference(kept), *judge_within(kept, NO_HIGHER))]
    off = less(arms, LARGE, WARM_UP)
    claim = "The batch that it comes to, taken from the start, ends higher (test loss, large less warm-up)"
    return [*found, Finding(claim, describe(settings), "updates", difference(off), *judge(off, 0.0, 1, HIGHER))]


def edges(rows: pd.DataFrame) -> list[str]:
    """Say where the critical batch is at an end of the batches tried, so that it may lie beyond."""
    each = records(rows)
    smallest = sum(at_smallest(row) for row in each)
    above = sum(bool(row["open"]) for row in each)
    return [
        f"Of {len(each)} critical batches {smallest} are the smallest batch tried, so that they may be smaller, and "
        f"{above} the largest, so that they may be larger."
    ]


def rule_holds(rows: pd.DataFrame, settings: Mapping[str, Any]) -> list[str]:
    """Say for how many seeds the warm-up doubles where the paper's rule would."""
    return [
        f"The warm-up doubles after {place} windows; the critical batch after {before} is more than twice its batch "
        f"for {held} of {seeds} seeds."
        for place, before, held, seeds in doublings(rows, settings)
    ]


def checkpoint_table(rows: pd.DataFrame, noise: pd.DataFrame, note: str) -> TextTable:
    """Return for each checkpoint the loss, the critical batch and both noise scales."""
    text, plain = [], []
    for windows in checkpoints_of(rows):
        own = rows_where(rows, windows=windows)
        both = {each: beside(own, noise_by(noise, each)) for each in (EUCLIDEAN, ADAMS)}
        loss = summarise(floats(both[EUCLIDEAN], "loss"))
        numbers = {"critical": middle(floats(own, "critical"))}
        numbers |= {f"noise_{each}": middle(floats(table, "value")) for each, table in both.items()}
        above = sum(bool(row["open"]) for row in records(own))
        shown = [ABSENT if value is None else significant(value, 3) for value in numbers.values()]
        text.append([str(windows), mean_and_std(loss), *shown, f"{above} of {len(own)}"])
        plain.append({"windows": windows, "loss": loss.mean, **numbers, "open": above, "n": len(own)})
    caption = (
        "Along training: loss on held-out text (mean ± sample standard deviation over the seeds, nats a byte), the "
        "critical batch, the noise scale, plain and in the geometry of Adam's state (geometric means over the seeds, "
        "in windows; – where one is missing or not positive), and for how many seeds the largest branch was as good "
        f"as all others. {note}"
    )
    header = ["windows seen", "loss", "critical batch", "noise scale", "in Adam's geometry", "open above"]
    return TextTable("checkpoints", "The critical batch along training", header, text, pd.DataFrame(plain), caption)


def middle(values: np.ndarray) -> float | None:
    """Return the geometric mean, none where a value is missing or not positive.

    >>> middle(np.array([2.0, 8.0])), middle(np.array([2.0, np.nan]))
    (4.0, None)
    """
    return float(gmean(values)) if len(values) and bool(np.all(values > 0)) else None


def arm_table(arms: pd.DataFrame, note: str) -> TextTable:
    """Return for each way to train its updates and its loss."""
    text, plain = [], []
    for arm in ARMS:
        own = rows_where(arms, arm=arm)
        steps, loss = summarise(floats(own, "step")), summarise(floats(own, "test_loss"))
        against, share = less(arms, arm, SMALL), saved(arms, arm)
        spared = ABSENT if share is None else f"{100 * share:.0f} %"
        text.append([arm, mean_and_std(steps), spared, mean_and_std(loss), difference(against), str(len(own))])
        facts = {"arm": arm, "updates": steps.mean, "saved": share, "test_loss": loss.mean, "std": loss.std}
        plain.append(facts | {"n": loss.n, "less_small": against.value, "lower": against.lower, "upper": against.upper})
    caption = (
        "Updates and test loss of each way to train on the same bytes, mean ± sample standard deviation over "
        f"the seeds, and the loss less that of small batches with its 95 % interval; nats a byte. {note}"
    )
    header = ["", "updates", "fewer", "test loss", "less small", "n"]
    return TextTable("arms", "Three ways to train", header, text, pd.DataFrame(plain), caption)
