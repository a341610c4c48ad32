"""The evidence of logistic regressions: its figure and table, where it is best, and the verdicts on it."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.lines import Line2D

from analysis.report.findings import Finding
from analysis.report.numbers import ABSENT, difference, mean_and_std
from analysis.report.report import Drawing, TextTable
from analysis.report.verdicts import Least, Range, judge, judge_within
from analysis.statistics.intervals import Interval, paired_difference, summarise
from analysis.statistics.rank_correlation import kendall_tau
from sharpness.plots.axes import log_axis
from sharpness.plots.frames import floats, groups, rows_where
from sharpness.plots.style import ACCURACY_COLOR, COLUMN, LOSS_COLOR, Line, new_figure

SWEPT = ("labels", "draw", "strength", "log_evidence_ratio", "test_loss", "train_accuracy", "test_accuracy")
MINIMA = ("labels", "draw", "best_evidence_at", "lowest_loss_at", "decades_apart", "tau", "lowest_ratio", "gain")
MINIMA = (*MINIMA, "lowest_loss")
STRENGTHS = "the test loss hardly differs between strengths a factor of three apart"
TOGETHER = Range(-math.inf, 0.5, STRENGTHS, "decades")
"""How far apart in L2 strength two minima may lie and coincide."""
RANKS = Least(0.2, "three of five pairs of strengths then stand in the same order, where chance has half")
GAIN = "hardly worth mentioning below it (Jeffreys, Theory of Probability, 1961, appendix B)"
WORTH_A_MENTION = Range(-np.inf, math.log(10) / 2, GAIN, "nats")


def minima(swept: pd.DataFrame) -> pd.DataFrame:
    """Return for each kind of labels and draw where evidence and test loss are lowest, and how they go together.

    ``decades_apart`` is the size of ``log10`` of the strength of the best evidence over that of the lowest test loss,
    NaN where one of them is an end of the sweep; ``tau`` is Kendall's tau-b of both over the strengths; ``gain`` is
    by how many nats the best evidence beats the null model, 0 where it does not.
    """
    rows = []
    for labels, kind in groups(swept, "labels"):
        for draw, each in groups(kind, "draw"):
            each = each.sort_values("strength")
            strengths, ratio, loss = (floats(each, name) for name in ("strength", "log_evidence_ratio", "test_loss"))
            first, second = int(np.argmin(ratio)), int(np.argmin(loss))
            ends = {0, len(strengths) - 1}
            apart = np.nan if ends & {first, second} else float(abs(np.log10(strengths[first] / strengths[second])))
            tau = kendall_tau(ratio, loss).value
            rows.append(
                {"labels": labels, "draw": draw}
                | {"best_evidence_at": strengths[first], "lowest_loss_at": strengths[second]}
                | {"decades_apart": apart, "tau": np.nan if tau is None else tau, "lowest_ratio": ratio[first]}
                | {"gain": max(0.0, -float(ratio[first])), "lowest_loss": loss[second]}
            )
    return pd.DataFrame(rows, columns=pd.Index(MINIMA))


def over_draws(lowest: pd.DataFrame, labels: str, name: str) -> Interval:
    """Return the mean of a column over the draws of a kind of labels, with its Student t interval."""
    if lowest.empty:
        return Interval(None, None, None, 0, "no sweep of the evidence was measured")
    values = floats(rows_where(lowest, labels=labels), name)
    found = paired_difference(np.zeros(len(values)), values)
    if found.n == 0:
        return Interval(None, None, None, 0, "the minima lie at the ends of the sweep")
    return found


def evidence_findings(lowest: pd.DataFrame, settings: Mapping[str, Any]) -> list[Finding]:
    """Return the verdicts on the evidence: minima together, ranks together, random labels no better than nothing."""
    swept, data = settings["evidence"], settings["base"]["data"]["name"]
    draws = swept["draws"]
    first, second = swept["classes"]
    setting = (
        f"logistic regression, {swept['num_train']} images of classes {first} and {second} of {data}, "
        f"{draws} draw{'s' if draws > 1 else ''}"
    )
    apart, tau, gain = (
        over_draws(lowest, labels, name)
        for labels, name in (("informative", "decades_apart"), ("informative", "tau"), ("random", "gain"))
    )
    ends = int(np.sum(np.isnan(floats(rows_where(lowest, labels="informative"), "decades_apart"))))
    inside = f" ({ends} draws have a minimum at an end)" if ends and apart.n else ""
    return [
        Finding(
            "With true labels the evidence is best at the L2 strength of the lowest test loss",
            setting,
            "evidence",
            f"{_shown(apart)} decades apart{inside}",
            *judge_within(apart, TOGETHER),
        ),
        Finding(
            "With true labels a better evidence goes with a lower test loss over the L2 strengths",
            setting,
            "evidence",
            f"Kendall's tau-b {_shown(tau)}",
            *judge(tau, 0, 1, RANKS),
        ),
        Finding(
            "With random labels no L2 strength has better evidence than a model that knows nothing",
            setting,
            "evidence",
            f"best gain over it {_shown(gain)} nats{_times(lowest)}",
            *judge_within(gain, WORTH_A_MENTION),
        ),
    ]


def _shown(interval: Interval) -> str:
    return ABSENT if interval.value is None else difference(interval)


def _times(lowest: pd.DataFrame) -> str:
    """Say in how many draws random labels beat the null model at all."""
    gains = floats(rows_where(lowest, labels="random"), "gain")
    return "" if not len(gains) else f", above 0 in {int(np.sum(gains > 0))} of {len(gains)} draws"


def draw_evidence(swept: pd.DataFrame, ended: str) -> Drawing | str:
    """Draw accuracies, test loss and log evidence ratio against the L2 strength, for both kinds of labels."""
    if swept.empty:
        return "no sweep of the evidence was measured"
    figure, axes = new_figure(COLUMN, 4.6, 3, 2)
    percent = swept.assign(**{f"{name} (%)": 100 * floats(swept, f"{name}_accuracy") for name in ("train", "test")})
    for column, (labels, rows) in enumerate(groups(percent, "labels")):
        top, middle, bottom = axes[:, column]
        _draws(top, rows, "train (%)", LOSS_COLOR, "-")
        _draws(top, rows, "test (%)", LOSS_COLOR, "--")
        _draws(middle, rows, "test_loss", LOSS_COLOR, "--")
        _draws(bottom, rows, "log_evidence_ratio", ACCURACY_COLOR, "-")
        bottom.axhline(0, color="0.3", linewidth=0.5)
        top.set(ylim=(38, 104), title=f"{NAMES.get(labels, labels)} labels")
        log_axis(middle.yaxis, floats(percent, "test_loss"))
        _around_minimum(bottom, floats(rows, "log_evidence_ratio"))
        bottom.set_xlabel(r"L2 strength $\lambda$")
        for ax in (top, middle, bottom):
            log_axis(ax.xaxis, floats(percent, "strength"), padding=1.2)
            ax.tick_params(labelbottom=ax is bottom)
    for ax, name in zip(axes[:, 0], ("Accuracy (%)", "Test loss (nats)", "Log evidence\nratio (nats)"), strict=True):
        ax.set_ylabel(name)
    figure.legend(handles=_handles(), loc="outside upper center", ncols=2)
    draws = len(set(swept["draw"]))
    caption = (
        "Logistic regression with true (left) and random labels (right) against the strength of its L2 term. Top: "
        "accuracy. Middle: cross-entropy over the test images (log). Bottom: log evidence ratio around its minimum, "
        "each panel on its own linear scale: cost plus Occam term minus those of a model that gives each class 1/2; "
        "below 0, the thin line, the evidence is better than that model's. Exact eigenvalues of the Hessian, float64. "
        f"Thick: mean over {draws} draw{'s' if draws > 1 else ''} of the training images and random labels; thin: each "
        f"draw. Dots: each draw's minimum. The draws read no run of the study. {ended}"
    )
    return Drawing(figure, swept, caption)


NAMES = {"informative": "true"}
ROOM = 0.6
"""Above the minimum of the evidence so many times its depth below 0 are shown, and what is beyond is cut."""
LEAST_DEPTH = 10.0
"""Nats that count as the depth where the evidence is hardly below 0."""


def _around_minimum(ax: Axes, values: np.ndarray) -> None:
    low = float(np.min(values))
    depth = max(-low, LEAST_DEPTH)
    ax.set_ylim(low - 0.1 * depth, low + ROOM * depth)


def _handles() -> list[Line2D]:
    lines: dict[str, Line] = {"training images": "-", "test images": "--"}
    handles = [Line2D([], [], color=LOSS_COLOR, linestyle=line, label=name) for name, line in lines.items()]
    return [*handles, Line2D([], [], color=ACCURACY_COLOR, linestyle="-", label="evidence")]


def _draws(ax: Axes, rows: pd.DataFrame, name: str, color: str, line: str) -> None:
    """Draw each draw thin and their mean thick."""
    for _, each in groups(rows, "draw"):
        each = each.sort_values("strength")
        ax.plot(floats(each, "strength"), floats(each, name), color=color, linestyle=line, linewidth=0.4, alpha=0.3)
        if name in ("test_loss", "log_evidence_ratio"):
            low = int(np.argmin(floats(each, name)))
            place = floats(each, "strength")[low], floats(each, name)[low]
            ax.plot(*place, marker="o", markersize=3, color=color, markeredgecolor="white", markeredgewidth=0.4)
    strengths = groups(rows, "strength")
    means = [float(np.mean(floats(each, name))) for _, each in strengths]
    ax.plot([strength for strength, _ in strengths], means, color=color, linestyle=line)


def evidence_text(lowest: pd.DataFrame, ended: str) -> TextTable:
    """Return the table of where the evidence and the test loss are lowest."""
    rows = []
    for labels, each in groups(lowest, "labels"):
        logs = [summarise(np.log10(floats(each, name))) for name in ("best_evidence_at", "lowest_loss_at")]
        others = [summarise(floats(each, name)) for name in ("lowest_ratio", "lowest_loss")]
        rows.append([labels, *map(mean_and_std, [*logs, *others])])
    header = ["Labels", "log10 strength, best evidence", "log10 strength, lowest test loss"]
    header += ["Lowest log ratio (nats)", "Lowest test loss (nats)"]
    caption = (
        "Logistic regressions over a sweep of the L2 strength: mean ± sample standard deviation over "
        f"{len(set(lowest['draw']))} draws of the training images and random labels. A log evidence ratio below 0 is "
        f"better than a model that gives each class 1/2. The draws read no run of the study. {ended}"
    )
    return TextTable("evidence_table", "Evidence and test loss", header, rows, lowest, caption)
