"""The report on Andriushchenko et al. (2023): which measures go with the generalisation gap, with verdicts."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from functools import partial
from typing import Any

import numpy as np
import pandas as pd

from analysis.andriushchenko2023.figures import scatter_figure, tau_figure
from analysis.andriushchenko2023.numbers import (
    MEASURES,
    SHARPNESS,
    TARGETS,
    VARIED,
    all_taus,
    mean_contrast,
    measured_runs,
    settings_of,
    tau_of,
)
from analysis.report.findings import Finding, variants, with_variants
from analysis.report.numbers import ABSENT, difference
from analysis.report.report import Drawings, Report, TextTable
from analysis.report.verdicts import Judged, Least, Range, judge, judge_within
from analysis.runs import Tables, counts
from analysis.statistics.intervals import Interval
from sharpness.plots.frames import floats

MAIN = "worst_linf_adaptive_normalised"
"""The measure that claims about one measure are tested on, and what they are about: chosen before the first run."""
TARGET = "accuracy_gap"
PAIRS = (
    ("worst_l2_adaptive", "worst_l2_plain"),
    ("worst_linf_adaptive", "worst_linf_plain"),
    ("average_adaptive", "average_plain"),
    ("sam_adaptive", "sam_plain"),
    ("pac_bayes_adaptive", "pac_bayes_plain"),
    ("relative_flatness", "trace"),
    ("fisher_rao_norm", "fisher_trace"),
)
"""Measures that know how large the weights are, each with the one that does not."""
STRONG = 0.5
"""A correlation is called strong from this |tau| on; fixed before the first run, as the paper names no number."""
WEAK = Range(
    -STRONG,
    STRONG,
    "the paper names no number; from it on three of four pairs of settings stand in one order",
    ends=((-0.3, 0.3), (-0.7, 0.7)),
)
"""Beside it stand the verdicts of two of three and of 17 of 20 pairs of settings in one order."""
ORDERED = Least(0.2, "three of five pairs of settings then stand in the same order, where chance has half")
CONTRAST = Least(0.1, "one pair of settings in twenty more in the same order")
FEWEST = 10
"""Settings that a verdict needs: below, the bootstrap of a tau of 1 has no width."""
NO_SHIFT = "no accuracy on shifted test data was measured"


def report(tables: Tables, settings: Mapping[str, Any]) -> Report:
    """Return the figures, the table of all correlations and the verdicts."""
    runs = measured_runs(tables)
    taus, note = all_taus(runs), f"{left_out(tables, runs)} {counts(tables)}"
    drawings = Drawings(
        {
            "tau": lambda: tau_figure(taus, TARGET, note),
            "scatter": lambda: scatter_figure(runs, taus, TARGET, note),
        }
    )
    found = findings(runs, taus, describe(tables, settings))
    return Report(drawings, [tau_table(taus, note)], [note, *unmeasured(runs)], found)


def left_out(tables: Tables, runs: pd.DataFrame) -> str:
    """Say how many finished runs missed the training loss, and of which settings they are."""
    missed = tables.finished.loc[[run not in set(runs["run_id"]) for run in tables.finished["run_id"]]]
    if missed.empty:
        return f"All {len(runs)} finished runs ended at the training loss."
    parts = []
    for name in VARIED:
        values = missed[name].value_counts().sort_index()
        parts.append(f"{name.replace('_', ' ')} " + ", ".join(f"{value} ({count})" for value, count in values.items()))
    return (
        f"{len(missed)} of {len(tables.finished)} finished runs missed the training loss and are left out "
        f"({'; '.join(parts)})."
    )


def unmeasured(runs: pd.DataFrame) -> list[str]:
    """Say which measures are not there for every run."""
    absent = {name: int(np.isnan(floats(runs, name)).sum()) for name in MEASURES}
    missing = [f"{name} {count}" for name, count in absent.items() if count]
    return [f"Runs without a value: {', '.join(missing)}."] if missing else []


def describe(tables: Tables, settings: Mapping[str, Any]) -> str:
    """Return on what the claims were tested."""
    data, budget = settings["base"]["data"], settings["base"]["budget"]
    models = ", ".join(sorted({str(name) for name in tables.runs["model"].dropna()}))
    images = "all" if data["num_train"] is None else data["num_train"]
    return (
        f"{models} on {images} images of {data['name']}, train loss {budget['train_loss']:g}, {settings['seeds']} "
        f"seeds; {TARGETS[TARGET]}"
    )


def strongest(taus: pd.DataFrame, target: str) -> tuple[str, Interval]:
    """Return the sharpness with the largest |tau| with a target over all settings, and its tau.

    Choosing the largest of many makes it too large, which works against a claim that none is.
    """
    known = {name: tau for name in SHARPNESS if (tau := tau_of(taus, name, target)).value is not None}
    if not known:
        return "none", Interval(None, None, None, 0, "no measure has a correlation")
    name = max(known, key=lambda each: abs(known[each].value or 0))
    return name, known[name]


def with_enough(interval: Interval) -> Interval:
    """Return an interval, without its bounds where it rests on too few settings for a verdict."""
    if interval.value is None or interval.n >= FEWEST:
        return interval
    return Interval(interval.value, None, None, interval.n, f"a verdict needs at least {FEWEST} settings")


def findings(runs: pd.DataFrame, taus: pd.DataFrame, setting: str) -> list[Finding]:
    """Return the verdict on each claim, by rules that were fixed before the first run."""
    settings, (best, largest) = settings_of(runs), strongest(taus, TARGET)
    rather = mean_contrast(settings, [((name, "learning_rate"), (name, TARGET)) for name in SHARPNESS], sizes=True)
    aware = mean_contrast(settings, [((better, TARGET), (plain, TARGET)) for better, plain in PAIRS])
    main, single = (tau_of(taus, MAIN, TARGET, over) for over in ("all", "mean"))
    claims = [
        _weak(f"{MAIN} correlates weakly with the gap (tau)", setting, main, single),
        _weak(f"no sharpness correlates strongly with the gap (tau of the strongest, {best})", setting, largest),
    ]
    falls = partial(judge, null=0, direction=-1, least=ORDERED)
    more = partial(judge, null=0, direction=1, least=CONTRAST)
    norms = tau_of(taus, "spectral_product", TARGET)
    known = np.isfinite(floats(runs, "shifted_error")).any()
    shifted = tau_of(taus, MAIN, "shifted_error") if known else Interval(None, None, None, 0, NO_SHIFT)
    claims += [
        _finding(claim, setting, interval, rule)
        for claim, interval, rule in (
            (f"{MAIN} falls with the learning rate (tau)", tau_of(taus, MAIN, "learning_rate"), falls),
            ("sharpness goes rather with the learning rate (mean |tau| with it minus with the gap)", rather, more),
            ("measures that know the size of the weights do better (mean tau minus that of plain ones)", aware, more),
            ("norms of the weights anticorrelate with the gap (tau of the product of spectral norms)", norms, falls),
            ("sharper minima do better on shifted test data (tau with the error on corrupted images)", shifted, falls),
        )
    ]
    return claims


def _weak(claim: str, setting: str, tau: Interval, single: Interval | None = None) -> Finding:
    """Return the finding that a tau is not strong, with the granulated one as a variant."""
    weak = partial(judge_within, allowed=WEAK)
    named = {} if single is None else {"one hyper-parameter at a time (granulated)": single}
    return with_variants(_finding(claim, setting, tau, weak), *variants(named, _text, weak))


def _text(interval: Interval) -> str:
    return f"{difference(interval)}, n = {interval.n}" if interval.value is not None else ABSENT


def _finding(claim: str, setting: str, interval: Interval, rule: Callable[[Interval], Judged]) -> Finding:
    return Finding(claim, setting, "tau", _text(interval), *rule(with_enough(interval)))


def tau_table(taus: pd.DataFrame, note: str) -> TextTable:
    """Return the table of tau over all settings with each target, and granulated with the main one."""
    header = ["", *(f"{text} τ" for text in TARGETS.values()), "granulated τ"]
    rows = []
    for name in MEASURES:
        intervals = [tau_of(taus, name, target) for target in TARGETS] + [tau_of(taus, name, TARGET, "mean")]
        rows.append([name.replace("_", " "), *(difference(interval) for interval in intervals)])
    caption = (
        "Kendall's tau-b with its 95 % bootstrap interval over the settings, each averaged over its seeds; larger "
        f"values of a measure are sharper. Granulated: mean over settings that differ in one hyper-parameter alone, "
        f"with the {TARGETS[TARGET]}. {note}"
    )
    return TextTable("tau_table", "Sharpness and generalisation", header, rows, taus, caption)
