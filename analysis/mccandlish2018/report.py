"""The figures, tables and verdicts of McCandlish et al. 2018 (arXiv 1812.06162) from the runs of the study."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict
from typing import Any

import pandas as pd

from analysis.mccandlish2018 import batch_figures as batch_figures
from analysis.mccandlish2018 import figures as figures
from analysis.mccandlish2018.findings import facts, findings
from analysis.mccandlish2018.results import Results, results_of
from analysis.report.numbers import ABSENT, ratio, significant
from analysis.report.report import Drawings, Report, TextTable
from analysis.runs import Tables, refused
from analysis.statistics.intervals import Interval
from sharpness.plots.frames import records


def report(tables: Tables, settings: Mapping[str, Any]) -> Report:
    """Return the figures, the tables, what the numbers show, and the verdicts."""
    results = results_of(tables, settings)
    drawings = Drawings(
        {
            "noise_scale": lambda: figures.noise_scale(results),
            "saturation": lambda: batch_figures.saturation(results),
            "line_search": lambda: figures.line_search(results),
            "front": lambda: batch_figures.front(results),
            "temperature": lambda: figures.temperature(results),
            "comparisons": lambda: figures.comparison(results),
            "branches": lambda: batch_figures.branches(results),
        }
    )
    return Report(drawings, [batch_sizes(results), best_rates(results)], sentences(tables, results), findings(results))


def batch_sizes(results: Results) -> TextTable:
    """Return the table of batch sizes by every kind of measurement."""
    numbers = facts(results)
    rows = [[name, ratio(interval), f"{interval.n}"] for name, interval in numbers.items()]
    plain = [{"quantity": name} | asdict(interval) for name, interval in numbers.items()]
    caption = (
        "Batch sizes in examples: of the front from its fit with a bootstrap interval, n its runs; otherwise the "
        "geometric mean over n seeds with its 95 % Student t interval. B_simple = tr Sigma / |G|^2, B_noise = "
        f"tr(H Sigma) / G^T H G. {results.counts}"
    )
    header = ["", "Batch size", "n"]
    return TextTable("batch_sizes", "Critical batch sizes and noise scales", header, rows, pd.DataFrame(plain), caption)


def best_rates(results: Results) -> TextTable:
    """Return the table of the front: the best learning rate of each batch size, steps and examples."""
    rows = []
    for row in records(results.tuned):
        steps = Interval(row["steps"], row["steps_lower"], row["steps_upper"], int(row["seeds"] or 0))
        rate = ABSENT if row["learning_rate"] is None else significant(row["learning_rate"], 2)
        examples = ABSENT if row["examples"] is None else significant(row["examples"], 3)
        edge = " (edge)" if row["at_edge"] else ""
        reached = f"{row['reached']} of {row['runs']}"
        rows.append([f"{row['batch_size']}", rate + edge, ratio(steps), examples, reached, f"{row['diverged']}"])
    caption = (
        "For each batch size the learning rate with the fewest steps to a training loss of "
        f"{results.settings['goal']:g} nats, geometric mean of the steps over the seeds that reached it with its 95 % "
        "Student t interval, and how many runs at all learning rates reached it or diverged; (edge): the lowest or "
        f"highest rate of the grid. {results.counts}"
    )
    header = ["Batch size", "Learning rate", "Steps", "Examples", "Reached", "Diverged"]
    return TextTable("front_table", "Steps and examples to the goal", header, rows, results.tuned, caption)


def sentences(tables: Tables, results: Results) -> list[str]:
    """Return what the numbers show as plain sentences, beginning with how many runs there are."""
    fit = results.fit
    said = [
        results.counts,
        f"The front has S_min = {ratio(fit.s_min)} steps, E_min = {ratio(fit.e_min)} examples and "
        f"B_crit = {ratio(fit.b_crit)}.",
    ]
    other = [row for row in refused(tables) if row.get("arm") != "front"]
    said += [f"{row['run_id']} did not finish: {row['reason']}." for row in other]
    return said
