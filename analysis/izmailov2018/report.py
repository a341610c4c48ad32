"""Stochastic weight averaging: what the runs of Izmailov et al. (2018, arXiv 1803.05407) in small show."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from functools import partial
from typing import Any

import numpy as np
import pandas as pd

from analysis.izmailov2018.figures import accuracy_figure, along_figure, line_figure, rays_figure
from analysis.izmailov2018.numbers import (
    COLUMNS,
    KINDS,
    SGD,
    SWA,
    arms_of,
    average_against_best,
    average_against_its_own,
    averaged,
    gain,
    line_ends,
    means_at,
    outcomes,
    stationarity,
    swa_at,
    width_ratio,
    widths,
)
from analysis.izmailov2018.planes import plane_drawing
from analysis.report.findings import Finding, variants
from analysis.report.numbers import ABSENT, difference, mean_and_std, ratio
from analysis.report.report import Drawings, Report, TextTable
from analysis.report.verdicts import Judged, Least, Range, judge, judge_within
from analysis.runs import Tables, counts
from analysis.statistics.intervals import Interval, paired_ratio, summarise
from sharpness.plots.frames import floats, records, rows_where

GAIN = Least(0.25, "just below the smallest gain in the paper's tables, 0.27 points on CIFAR-10", "pp")
WIDER = Least(1.1, "a tenth of the width; less is not seen in the paper's figure of rays", ratio=True)
LOWER = Least(1.05, "a twentieth of the loss; less is not seen in the paper's figure of the line", ratio=True)
STATIONARY = Range(0.8, 1.25, "a fifth is little beside the fall to SGD's loss, threefold on pilot seeds", ratio=True)


def report(tables: Tables, settings: Mapping[str, Any]) -> Report:
    """Return the figures, the tables and the verdicts."""
    note = counts(tables)
    measured = {name: tables.rows(name, *columns) for name, columns in COLUMNS.items()}
    ends = outcomes(tables.runs, measured["along"], settings)
    wide = widths(measured["rays"], settings["error_rise"], settings["loss_rise"])
    drawings = {
        "accuracy": partial(accuracy_figure, ends, note),
        "along": partial(along_figure, measured["along"], ends, note),
        "rays": partial(rays_figure, measured["rays"], note),
        "line": partial(line_figure, measured["line"], note),
        "plane": partial(plane_drawing, "plane", measured["plane"], note),
        "basin": partial(plane_drawing, "basin", measured["basin"], note),
    }
    text_tables = [accuracy_table(ends, note), width_table(wide, settings, note)]
    found = findings(_setting(tables), measured, ends, wide, settings)
    said = [*distances(measured["along"], measured["line"], settings), *sentences(measured["rays"], wide)]
    return Report(Drawings(drawings), text_tables, said, found)


def accuracy_table(ends: pd.DataFrame, note: str) -> TextTable:
    """Return error and loss of every arm, and the difference of each from SGD."""
    rows, numbers = [], []
    for arm in arms_of(ends):
        own, against = rows_where(ends, arm=arm), gain(ends, SGD, arm)
        error, last = (summarise(100 * floats(own, name)) for name in ("test_error", "last_error"))
        train, test = (summarise(floats(own, f"{split}_loss")) for split in ("train", "test"))
        compared = ABSENT if arm == SGD else difference(against)
        rows.append([arm, mean_and_std(error), compared, *map(mean_and_std, (last, train, test)), str(len(own))])
        facts = {"arm": arm, "test_error": error.mean, "test_error_std": error.std, "last_test_error": last.mean}
        facts |= {"train_loss": train.mean, "train_loss_std": train.std, "test_loss": test.mean, "n": len(own)}
        numbers.append(facts | {"difference": against.value, "lower": against.lower, "upper": against.upper})
    header = ["", "test error [%]", "minus SGD [pp]", "unaveraged [%]", "train loss [nats]", "test loss [nats]", "n"]
    caption = (
        "Mean ± sample standard deviation over the finished runs of the solution of each arm (of SWA the averaged "
        "weights); its test error minus that of SGD, paired by seed with 95 % Student t intervals; and the test error "
        f"of the same run's last weights without averaging. {note}"
    )
    return TextTable("accuracy_table", "SGD and SWA", header, rows, pd.DataFrame(numbers), caption)


def width_table(wide: pd.DataFrame, settings: Mapping[str, Any], note: str) -> TextTable:
    """Return how far from SGD and SWA a stated rise is reached, and the ratio of the distances."""
    rises = rise_texts(settings)
    rows, numbers = [], []
    for kind in KINDS:
        own, (compared, facts) = rows_where(wide, kind=kind), width_ratio(wide, kind)
        means = [summarise(means_at(floats(own, "seed"), floats(own, name))[1]) for name in (SGD, SWA)]
        reached = f"{facts['sgd_reached']}, {facts['swa_reached']} of {facts['rays']}"
        rows.append([rises[kind], *map(mean_and_std, means), ratio(compared), reached])
        numbers.append(
            {"rise": rises[kind], "sgd": means[0].mean, "swa": means[1].mean, "ratio": compared.value}
            | {"lower": compared.lower, "upper": compared.upper, "n": compared.n, **facts}
        )
    header = ["rise of", "SGD", "SWA", "SWA / SGD", "rays reached"]
    caption = (
        "Distance along random rays at which the solution's loss or error has risen by so much: mean ± sample standard "
        "deviation over the seeds of the mean over the rays; ratio by the same directions, geometric mean over the "
        f"rays of a seed, with its 95 % Student t interval over the seeds. {note}"
    )
    return TextTable("width_table", "Width along random rays", header, rows, pd.DataFrame(numbers), caption)


def rise_texts(settings: Mapping[str, Any]) -> dict[str, str]:
    """Return the stated rises in words."""
    return {
        "error": f"test error by {100 * settings['error_rise']:g} pp",
        "loss": f"train loss by {settings['loss_rise']:g} nats",
    }


def findings(
    setting: str,
    measured: Mapping[str, pd.DataFrame],
    ends: pd.DataFrame,
    wide: pd.DataFrame,
    settings: Mapping[str, Any],
) -> list[Finding]:
    """Return the verdict on every claim.

    The rise of the loss along a ray is seen on the same rays as the rise of the error, and larger budgets of SWA are
    the same runs gone on: they are variants. That training is stationary is what the paper's picture of SGD at a
    constant rate needs, and so a claim about the setting.
    """
    along, at = measured["along"], line_ends(measured["line"])
    _, *more = sorted(settings["budgets"])
    later = {f"at {budget:g} of the budget": gain(ends, SGD, swa_at(budget)) for budget in more}
    claim = "SWA has a lower test error than SGD at the same budget"
    result = [_lower(claim, setting, "accuracy", gain(ends, SGD, SWA), later)]
    claim = f"SWA has a lower test error at {more[-1]:g} of the budget than at 1"
    result.append(_lower(claim, setting, "along", gain(ends, SWA, swa_at(more[-1]))))
    claim = "The average has a lower test error than the weights that it averages have in the mean"
    result.append(_lower(claim, setting, "along", average_against_its_own(along)))
    wider = {rise: width_ratio(wide, kind)[0] for kind, rise in rise_texts(settings).items()}
    (rise, found), *rest = wider.items()
    claim = f"SWA is wider: the {rise} is reached farther along random rays (SWA / SGD)"
    result.append(_higher(claim, setting, "rays", found, WIDER, dict(rest)))
    loss = paired_ratio(floats(at, SGD), floats(at, SWA))
    result.append(_higher("On their line the train loss is lower at SGD (SWA / SGD)", setting, "line", loss, LOWER))
    walls = [paired_ratio(np.ones(len(at)), floats(at, f"beyond_{far}")) for far in (1, 2)]
    claim = "SGD lies nearer to a wall: train loss as far beyond SGD over that beyond SWA"
    result.append(_higher(claim, setting, "line", walls[0], LOWER, {"twice as far": walls[1]}))
    claim = "The average of three weights along a cyclical run has a lower test error than the best of them"
    result.append(_lower(claim, setting, "plane", average_against_best(measured["three_points"])))
    claim = "Training is stationary at SWA's rate: train loss of the second half of the weights over that of the first"
    steady = stationarity(along)
    judged = judge_within(steady, STATIONARY)
    result.append(Finding(claim, setting, "along", f"{ratio(steady)}, n = {steady.n}", *judged))
    return result


def _lower(
    claim: str, setting: str, figure: str, found: Interval, others: Mapping[str, Interval] | None = None
) -> Finding:
    """Return the finding that a difference of test errors is negative."""

    def text(each: Interval) -> str:
        return f"{difference(each)} pp, n = {each.n}"

    def rule(each: Interval) -> Judged:
        return judge(each, 0.0, -1, GAIN)

    return Finding(claim, setting, figure, text(found), *rule(found), variants=variants(others or {}, text, rule))


def _higher(
    claim: str, setting: str, figure: str, found: Interval, least: Least, others: Mapping[str, Interval] | None = None
) -> Finding:
    """Return the finding that a ratio is above 1."""

    def text(each: Interval) -> str:
        return f"{ratio(each)}, n = {each.n}"

    def rule(each: Interval) -> Judged:
        return judge(each, 1.0, 1, least)

    return Finding(claim, setting, figure, text(found), *rule(found), variants=variants(others or {}, text, rule))


def _setting(tables: Tables) -> str:
    """Return on which network and how many examples the runs were trained."""
    known = rows_where(tables.runs, status="finished")
    if known.empty:
        return "no finished run"
    run = records(known)[0]
    return f"{run['model']}, {run['num_train'] or 'all'} training examples, batch {run['batch_size']}"


def distances(along: pd.DataFrame, line: pd.DataFrame, settings: Mapping[str, Any]) -> Sequence[str]:
    """Say how far the weights at SWA's rate and those of SGD lie from the average: whether they are a shell around it.

    Of a run's distances the spread is the sample standard deviation over the mean.
    """
    if along.empty or line.empty:
        return []
    runs = [floats(own, "distance") for _, own in along.groupby("seed")]
    mean, spread = summarise([run.mean() for run in runs]), summarise([run.std(ddof=1) / run.mean() for run in runs])
    sgd = summarise(floats(line.drop_duplicates("seed"), "distance"))
    return [
        f"The weights at SWA's rate lie {mean_and_std(mean)} from the average of them all, with a spread of "
        f"{mean_and_std(spread)} of that within one run; those of SGD lie {mean_and_std(sgd)} from the average of the "
        f"first {averaged(settings)}."
    ]


def sentences(rays: pd.DataFrame, wide: pd.DataFrame) -> Sequence[str]:
    """Say how long the weights of both solutions are, which decides what a distance means, and what was left out."""
    result = []
    if len(rays):
        lengths = [floats(rows_where(rays, net=name).sort_values("seed"), "length") for name in (SGD, SWA)]
        text = ratio(paired_ratio(*lengths))
        result.append(
            f"The weights of SWA are {text} times as long as those of SGD; without BatchNorm a distance is to be seen "
            "against that."
        )
    for kind, name in KINDS.items():
        _, facts = width_ratio(wide, kind)
        for net, count in ((SGD, facts["sgd_reached"]), (SWA, facts["swa_reached"])):
            if count < facts["rays"]:
                what = "left out" if net == SGD else "counted with the whole length of the ray"
                missing = facts["rays"] - count
                result.append(
                    f"The rise of the {name} is not reached on {missing} of {facts['rays']} rays of {net}: {what}."
                )
    return result
