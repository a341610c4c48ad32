"""Recipes for large batches: errors and steps of each, verdicts, and the time to a goal on many workers."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from functools import partial
from typing import Any

import numpy as np
import pandas as pd

from analysis.large_batch_recipes.figures import recipes_figure, workers_figure
from analysis.large_batch_recipes.numbers import (
    BASE,
    best_batch,
    best_recipes,
    excess,
    fastest_batches,
    outcomes,
    projection,
)
from analysis.large_batch_recipes.resnet50_on_paper import paper_table
from analysis.large_batch_recipes.tables import recipe_table, worker_table
from analysis.report.findings import Finding, variants
from analysis.report.numbers import ABSENT, difference, significant
from analysis.report.report import Drawings, Report
from analysis.report.verdicts import Judged, Least, Range, judge, judge_within
from analysis.runs import Tables, counts
from analysis.statistics.intervals import Interval
from sharpness.plots.frames import floats, groups, records, rows_where

MARGIN = 1.0
"""Percentage points of error by which a recipe may be worse than the base batch and still count as keeping it."""
KEPT = Range(
    -np.inf, MARGIN, "Goyal et al. call 0.1 points more kept and the 1.2 points more without warm-up a failure", "pp"
)
BROKEN = Range(MARGIN, np.inf, "beyond what counts as kept", "pp")
HIGHER = Least(0.5, "what a second seed moves", "pp")
BEST_BATCHES = Range(2.0, 32.0, "what the paper says", ratio=True)
Claim = tuple[str, Mapping[str, Interval], Callable[[Interval], Judged]]
"""A claim, differences of errors, of which the first is the claim's own and others are variants, and the rule."""


def report(tables: Tables, settings: Mapping[str, Any]) -> Report:
    """Return the figures, the tables, what the projection says, and the verdicts."""
    runs, note = outcomes(tables, settings), counts(tables)
    fastest = best_recipes(runs)
    projected = projection(fastest, settings)
    drawings = Drawings(
        {
            "recipes": lambda: recipes_figure(runs, settings, MARGIN, note),
            "workers": lambda: workers_figure(runs, fastest, projected, settings, note),
        }
    )
    tables_shown = [recipe_table(runs, settings, note), worker_table(projected, settings, note), paper_table()]
    return Report(drawings, tables_shown, sentences(runs, projected), findings(runs, settings))


def sentences(runs: pd.DataFrame, projected: pd.DataFrame) -> list[str]:
    """Return what the projection says."""
    best = fastest_batches(projected)
    if best.empty:
        return ["No recipe reached the goal with all its runs, so no time is projected."]
    lines = []
    for topology, rows in groups(best, "topology"):
        one = floats(rows_where(rows, workers=1), "seconds")[0]
        first = records(rows.sort_values("seconds"))[0]
        lines.append(
            f"By a {topology} the goal comes soonest on {first['workers']} workers at batch {first['batch']} "
            f"({first['recipe']}): {significant(one / first['seconds'], 2)} times sooner than on one worker."
        )
    return lines


def findings(runs: pd.DataFrame, settings: Mapping[str, Any]) -> list[Finding]:
    """Return the verdict on each claim, by rules that were fixed before the first run."""
    base = settings["base"]
    examples = base["data"]["num_train"] or "all"
    setting = (
        f"{base['model']['name']} on {base['data']['name']} ({examples} examples), base batch "
        f"{base['training']['batch_size']}, {settings['seeds']} seeds; errors in percentage points; the rate was "
        "chosen by the test error of another seed at the base batch"
    )
    found = [_finding(*each, setting) for each in [*kept(runs, settings), *compared(runs, settings)]]
    best = best_batch(runs)
    claim = (
        "Masters & Luschi 2018: batches of 2 to 32 have the lowest error (the best one, by the linear rule from the "
        f"base batch, where the rate was chosen; {base['model']['name']} has BatchNorm)"
    )
    number = (
        ABSENT if best.value is None else f"{best.value:g} [{best.lower:g}, {best.upper:g}], a bootstrap over seeds"
    )
    found.append(Finding(claim, setting, "recipes", number, *judge_within(best, BEST_BATCHES)))
    claim = "Mikami et al. 2018: ResNet-50 on ImageNet in 122 seconds"
    why = "it takes a cluster of GPUs; the table resnet50_on_paper says what each step may then take"
    return [*found, Finding(claim, setting, "resnet50_on_paper", ABSENT, "not testable here", why)]


def _finding(claim: str, excesses: Mapping[str, Interval], rule: Callable[[Interval], Judged], setting: str) -> Finding:
    (_, own), *others = excesses.items()
    return Finding(
        claim, setting, "recipes", difference(own), *rule(own), variants=variants(dict(others), difference, rule)
    )


def kept(runs: pd.DataFrame, settings: Mapping[str, Any]) -> Iterator[Claim]:
    """Yield the claims that a recipe keeps the error of the base batch, to within the margin.

    Up to a batch, as Goyal et al. have it: that their rule breaks beyond is a claim of its own. Smaller batches, and
    the other rule of LARS, share the base runs and are variants.
    """
    small, large = settings["base"]["training"]["batch_size"], settings["claim_batch"]
    smaller = [batch for batch in settings["batches"] if batch < large]
    own = {"Goyal et al. 2017": ("linear + warm-up",), "You et al. 2017": ("LARS, linear", "LARS, sqrt")}
    for paper, recipes in (own | {"Hoffer et al. 2017": ("sqrt + ghost + longer",)}).items():
        cases = [(recipe, large) for recipe in recipes]
        cases += [("linear + warm-up", batch) for batch in smaller] if paper.startswith("Goyal") else []
        found = {f"{recipe}, batch {batch}": excess(runs, (BASE, small), (recipe, batch)) for recipe, batch in cases}
        claim = f"{paper}: {recipes[0]}, batch {large}: the error is at most {MARGIN:g} above that of batch {small}"
        yield claim, found, partial(judge_within, allowed=KEPT)


def compared(runs: pd.DataFrame, settings: Mapping[str, Any]) -> Iterator[Claim]:
    """Yield the claims that one recipe has a lower error than another."""
    small, large, largest = (
        settings["base"]["training"]["batch_size"],
        settings["claim_batch"],
        max(settings["batches"]),
    )
    goyal, hoffer, warm = "Goyal et al. 2017", "Hoffer et al. 2017", ("linear + warm-up", largest)
    breaks = f"{goyal}: the rule breaks beyond some batch (here {largest}: the error is over {MARGIN:g} above)"
    yield breaks, {"": excess(runs, (BASE, small), warm)}, partial(judge_within, allowed=BROKEN)
    rows = [
        (f"{goyal}: without warm-up it is higher (batch {large})", ("linear + warm-up", large), ("linear", large)),
        (
            f"{hoffer}: at the same rate it grows with the batch ({small} to {large})",
            (BASE, small),
            ("fixed rate", large),
        ),
        (f"{hoffer}: the square-root rule lowers it (batch {large})", ("sqrt", large), ("fixed rate", large)),
        (f"{hoffer}: ghost batch norm lowers it further (batch {large})", ("sqrt + ghost", large), ("sqrt", large)),
    ]
    higher = partial(judge, null=0.0, direction=1, least=HIGHER)
    for claim, lower, other in rows:
        yield claim, {"": excess(runs, lower, other)}, higher
    lars = {rule: excess(runs, (f"LARS, {rule}", largest), warm) for rule in ("linear", "sqrt")}
    claim = f"You et al. 2017: LARS, linear, has a lower error than the linear rule with warm-up (batch {largest})"
    yield claim, lars, higher
