"""The report on small batches of language: Marek et al. 2025 (arXiv 2507.07101) in small, and the verdicts.

The claims are those of the paper's abstract, as scripts/claims2026/marek2025.py names them; the rules of the verdicts
are at the top of this file.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from functools import partial
from typing import Any

import numpy as np
import pandas as pd

from analysis.claims2026.marek2025.figures import losses_figure, rates_figure
from analysis.claims2026.marek2025.numbers import FIXED, HELD, SGD, batches_of, gap, less, of, outcomes, tuned
from analysis.report.findings import Finding, variants
from analysis.report.numbers import difference, mean_and_std, significant
from analysis.report.report import Drawings, Report, TextTable
from analysis.report.verdicts import Least, Range, judge, judge_within
from analysis.runs import Tables, counts
from analysis.statistics.intervals import summarise
from sharpness.plots.frames import floats, rows_where

UNIT = "nats a byte"
BETTER = Least(0.02, "a hundredth of the loss; less is not seen in a training curve", UNIT)
AS_GOOD = Range(-np.inf, 0.02, "a hundredth of the loss is not seen in a training curve", UNIT)
CLOSE = Range(-np.inf, 0.05, "a fortieth of the loss", UNIT)
GROWS = Least(0.05, "as much as counts as close at batch 1", UNIT)
STEADIER = Least(0.01, "half of what is seen in a training curve", UNIT)
"""The sizes were fixed before any run of these seeds."""


def report(tables: Tables, settings: Mapping[str, Any]) -> Report:
    """Return the figures, the table, where a grid was too narrow, and the verdicts."""
    rows, note = outcomes(tables.runs), counts(tables)
    best = tuned(rows)
    drawings = {"losses": partial(losses_figure, best, note), "rates": partial(rates_figure, rows, note)}
    if best.empty or len(batches_of(best)) < 2:
        return Report(Drawings(drawings), [], ["Too few runs finished: no number and no verdict is given."])
    return Report(Drawings(drawings), [tuned_table(best, note)], [at_edges(best)], findings(best, settings))


def describe(settings: Mapping[str, Any]) -> str:
    """Say on what the claims were tested."""
    base = settings["base"]
    return (
        f"{base['model']['name']}, {settings['windows']} windows of {base['data']['context']} bytes of "
        f"{base['data']['name']}, batches {min(settings['batches'])} to {max(settings['batches'])}, "
        f"{settings['seeds']} seeds"
    )


def findings(best: pd.DataFrame, settings: Mapping[str, Any]) -> list[Finding]:
    """Return the verdict on each claim."""
    setting, (small, *middle, large) = describe(settings), batches_of(best)
    held = less(of(best, HELD, small), of(best, FIXED, small))
    lower = partial(judge, null=0.0, direction=-1, least=BETTER)
    more = {f"B = {b}": less(of(best, HELD, b), of(best, FIXED, b)) for b in middle}
    claim = f"Holding the half-life in bytes is better than a fixed beta2 at batch {small} (test loss, held less fixed)"
    found = [
        Finding(claim, setting, "losses", difference(held), *lower(held), variants=variants(more, difference, lower))
    ]
    equal = less(of(best, HELD, small), of(best, HELD, large))
    as_good = partial(judge_within, allowed=AS_GOOD)
    more = {f"B = {b}": less(of(best, HELD, b), of(best, HELD, large)) for b in middle}
    claim = f"Small batches are as good as large ones at equal bytes (AdamW, test loss, batch {small} less {large})"
    text = variants(more, difference, as_good)
    found.append(Finding(claim, setting, "losses", difference(equal), *as_good(equal), variants=text))
    off = less(of(best, HELD, large, "beside"), of(best, HELD, small, "beside"))
    claim = (
        f"Small batches are less sensitive to the rate (AdamW, what half and twice the tuned rate cost, batch {large} "
        f"less {small})"
    )
    found.append(Finding(claim, setting, "rates", difference(off), *judge(off, 0.0, 1, STEADIER)))
    return [*found, *without_momentum(best, setting)]


def without_momentum(best: pd.DataFrame, setting: str) -> list[Finding]:
    """Return the verdicts on SGD without momentum against AdamW."""
    small, *middle, large = batches_of(best)
    close = less(of(best, SGD, small), of(best, HELD, small))
    claim = f"SGD without momentum is close to AdamW at batch {small} (test loss, SGD less AdamW)"
    beyond = at_end(best, SGD, small)
    found = [with_reason(Finding(claim, setting, "losses", difference(close), *judge_within(close, CLOSE)), beyond)]
    grown = less(gap(best, large), gap(best, small))
    rule = partial(judge, null=0.0, direction=1, least=GROWS)
    more = {f"B = {b}": less(gap(best, b), gap(best, small)) for b in middle}
    claim = f"The gap between SGD and AdamW grows with the batch (that at batch {large} less that at {small})"
    text = variants(more, difference, rule)
    grows = Finding(claim, setting, "losses", difference(grown), *rule(grown), variants=text)
    return [*found, with_reason(grows, beyond)]


def at_end(best: pd.DataFrame, way: str, batch: int) -> str:
    """Say for how many seeds the rate of a cell is the first or the last of its grid; empty for none."""
    edges = of(best, way, batch, "edge").astype(bool)
    count = int(edges.sum())
    told = f"the rate of {way} at batch {batch} is at an end of those tried for {count} of {len(edges)} seeds"
    return told if count else ""


def with_reason(finding: Finding, more: str) -> Finding:
    """Return a finding with more of what its verdict rests on, if there is more."""
    return replace(finding, why=f"{finding.why}; {more}") if more else finding


def at_edges(best: pd.DataFrame) -> str:
    """Say how often the chosen rate was the first or the last of its grid, so that a better one may lie beyond."""
    edges = int(np.asarray(best["edge"], dtype=bool).sum())
    return f"The chosen rate is at an end of its grid in {edges} of {len(best)} choices."


def tuned_table(best: pd.DataFrame, note: str) -> TextTable:
    """Return for each way to train and batch size the chosen rate, the loss, and what rates beside it cost."""
    text, plain = [], []
    for way in (HELD, FIXED, SGD):
        for batch in batches_of(best):
            own = rows_where(best, way=way, batch=batch)
            if own.empty:
                continue
            rate = float(np.median(floats(own, "learning_rate")))
            loss, beside = summarise(floats(own, "test_loss")), summarise(floats(own, "beside"))
            text.append([way, str(batch), significant(rate, 3), mean_and_std(loss), mean_and_std(beside)])
            facts = {"way": way, "batch": batch, "learning_rate": rate, "test_loss": loss.mean, "std": loss.std}
            plain.append(facts | {"beside": beside.mean, "beside_std": beside.std, "n": loss.n})
    caption = (
        "The learning rate chosen on held-out text of the other seeds (median), the test loss there, and how much "
        "higher it is at the next rates of the grid, half and twice as large: mean ± sample standard deviation over "
        f"the seeds, nats a byte. {note}"
    )
    header = ["", "B", "rate", "test loss", "half and twice the rate"]
    return TextTable("tuned", "Losses at the tuned rate", header, text, pd.DataFrame(plain), caption)
