"""The verdicts on growing the batch for decaying the rate.

The rules were fixed before any run but for one: that a wrong growth leaves the curve was judged by the mean over all
epochs, in which a curve that lies first above and then below looks right; it is the last phase now, as of the control.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import replace
from functools import partial
from typing import Any

import numpy as np
import pandas as pd

from analysis.report.findings import Finding, over_all, variants, with_variants
from analysis.report.numbers import ABSENT, difference, ratio
from analysis.report.verdicts import Judged, Least, Range, judge, judge_within
from analysis.smith2018.numbers import CONTROL, EQUAL_NOISE, MISMATCHED, ORIGINAL
from analysis.statistics.intervals import Interval
from sharpness.plots.frames import records, rows_where

SAME_ACCURACY = Range(-0.5, 0.5, "what a second seed moves", "pp")
ACCURACY = Least(0.5, "what a second seed moves", "pp")
SHARE = 0.1
"""Of the fall in training loss that decaying the rate brings: schedules within so much of it have one loss."""
CLOSE = "the paper's curves lie on each other, where the fall by decay is the height of its figure"
NEAR = Range(-SHARE, SHARE, CLOSE, "of the fall")
BEYOND = Range(SHARE, np.inf, "beyond the margin of the other schedules", "of the fall")
FEWER = Least(1.25, "a quarter fewer updates", ratio=True)
WORDS = {"momentum": "momentum", "nesterov": "Nesterov's momentum", "sgd": "plain SGD", "adam": "Adam"}


def findings(final: pd.DataFrame, phases: pd.DataFrame, settings: Mapping[str, Any]) -> list[Finding]:
    """Return the verdicts: curves coincide, accuracies are the same, updates fall, and what larger steps do.

    The optimisers are settings of one claim. Of the schedules the one that only grows the batch is judged, as the paper
    is named after it; the hybrid shares the original's runs and is a variant.
    """
    setting, optimizers = setting_of(settings), list(settings["rates"])
    found = [_losses(phases, optimizers, setting), _accuracies(final, optimizers, setting)]
    found += [_control(phases, setting), *_mismatched(phases, setting), _updates(final, setting)]
    found.append(_larger_rate(final, setting))
    return [*found, _larger_momentum(final, setting)]


def setting_of(settings: Mapping[str, Any]) -> str:
    """Say on what the schedules were compared."""
    base, seeds = settings["base"], settings["seeds"]
    return (
        f"{base['model']['name']}, {base['data']['num_train']} images of {base['data']['name']}, "
        f"{base['training']['epochs']} epochs, {seeds} seed{'s' if seeds > 1 else ''}"
    )


def interval_of(row: Mapping[str, Any], unit: float = 1.0) -> Interval:
    """Return the interval that a row of the tables holds, in a unit: Student's over the seeds."""
    value, lower, upper = (None if row[name] is None else row[name] / unit for name in ("difference", "lower", "upper"))
    return Interval(value, lower, upper, row["n"], row["reason"], free=row["n"] - 1)


def _share(phases: pd.DataFrame, optimizer: str, arm: str, phase: tuple[float, float] | None = None) -> Interval:
    """Return how far a schedule's training loss lies from the original's, as a share of the fall by decay.

    Of the epochs of one phase, without one of all after the first milestone.
    """
    rows = records(rows_where(phases, optimizer=optimizer, arm=arm))
    whole = (min((row["after"] for row in rows), default=0.0), max((row["until"] for row in rows), default=0.0))
    own = [row for row in rows if _phase(row) == (phase or whole)]
    if not own:
        return Interval(None, None, None, 0, "no such schedule was trained")
    fall = own[0]["fall"]
    if fall is None or fall <= 0:
        return Interval(None, None, None, own[0]["n"], "decaying the rate did not lower the training loss")
    return interval_of(own[0], fall)


def _phase(row: Mapping[str, Any]) -> tuple[float, float]:
    return row["after"], row["until"]


def _by_phase(phases: pd.DataFrame, optimizer: str, arm: str) -> dict[str, Interval]:
    """Return the shares of single phases by their epochs."""
    rows = records(rows_where(phases, optimizer=optimizer, arm=arm))[:-1]  # the last is that of all epochs
    return {f"epochs {r['after']:g} to {r['until']:g}": _share(phases, optimizer, arm, _phase(r)) for r in rows}


def _text(share: Interval) -> str:
    """Return a share of the fall as text."""
    return f"{difference(share)} of the fall by decay"


def _losses(phases: pd.DataFrame, optimizers: list[str], setting: str) -> Finding:
    """Judge the mean training loss after the first milestone; single phases are variants."""
    claim = "A decaying rate and a growing batch have one training loss against epochs, over the optimisers"
    hybrid, grown = EQUAL_NOISE
    shares = {WORDS[name]: _share(phases, name, grown) for name in optimizers}
    near = partial(judge_within, allowed=NEAR)
    found = over_all(claim, setting, "training_loss", shares, _text, near)
    others = {f"{WORDS[name]}, {hybrid}": _share(phases, name, hybrid) for name in optimizers}
    for name in optimizers:
        others |= {f"{WORDS[name]}, {part}": share for part, share in _by_phase(phases, name, grown).items()}
    return with_variants(found, *variants(others, _text, near))


def _points(interval: Interval) -> str:
    """Return a difference of accuracies as text."""
    return f"{difference(interval)} pp"


def _gain(final: pd.DataFrame, optimizer: str, arm: str) -> Interval:
    rows = records(rows_where(final, optimizer=optimizer, arm=arm))
    return interval_of(rows[0]) if rows else Interval(None, None, None, 0, "no such schedule was trained")


def _accuracies(final: pd.DataFrame, optimizers: list[str], setting: str) -> Finding:
    claim = "Test accuracy is the same whether the rate decays or the batch grows, over the optimisers"
    hybrid, grown = EQUAL_NOISE
    same = partial(judge_within, allowed=SAME_ACCURACY)
    gains = {WORDS[name]: _gain(final, name, grown) for name in optimizers}
    found = over_all(claim, setting, "test_accuracy", gains, _points, same)
    others = {f"{WORDS[name]}, {hybrid}": _gain(final, name, hybrid) for name in optimizers}
    return with_variants(found, *variants(others, _points, same))


def _control(phases: pd.DataFrame, setting: str) -> Finding:
    """Judge that the margin is one that schedules can miss: with neither decay nor growth the loss stays up."""
    claim = "With neither decay nor growth the training loss stays higher by more than the margin of the others"
    share = _in_last_phase(phases, CONTROL)
    return Finding(claim, setting, "training_loss", _text(share), *judge_within(share, BEYOND))


def _in_last_phase(phases: pd.DataFrame, arm: str) -> Interval:
    """Return the share of the epochs after the last milestone, where a control has had its way longest.

    A curve that crosses the other one has a mean difference near 0 over all epochs, however far it strays.
    """
    rows = records(rows_where(phases, optimizer="momentum", arm=arm))
    return _share(phases, "momentum", arm, max(map(_phase, rows), default=None))


def _mismatched(phases: pd.DataFrame, setting: str) -> Iterator[Finding]:
    """Judge whether a batch that grows by the wrong factor misses the curve at its end, on either side of it."""
    for arm, factor in zip(MISMATCHED, (2, 25), strict=True):
        claim = f"Not any annealing will do: with a batch that grows by {factor} the training loss leaves the curve"
        share = _in_last_phase(phases, arm)
        parts = {**_by_phase(phases, "momentum", arm), "all epochs": _share(phases, "momentum", arm)}
        found = Finding(claim, setting, "controls", _text(share), *_beyond(share))
        yield with_variants(found, *variants(parts, _text, _beyond))


def _beyond(share: Interval) -> Judged:
    return judge_within(_size_of(share), BEYOND)


def _size_of(share: Interval) -> Interval:
    """Return a difference that is below 0 as one above."""
    if share.value is None or share.value >= 0 or share.lower is None or share.upper is None:
        return share
    return replace(share, value=-share.value, lower=-share.upper, upper=-share.lower)


def _one(final: pd.DataFrame, arm: str) -> dict[str, Any]:
    rows = records(rows_where(final, optimizer="momentum", arm=arm))
    return rows[0] if rows else {"n": 0} | dict.fromkeys(("updates", "difference", "lower", "upper", "reason"))


def _updates(final: pd.DataFrame, setting: str) -> Finding:
    """Judge the ratio of updates counted in the runs: it has no spread, as the schedules fix it."""
    claim = "Growing the batch takes fewer updates for the same epochs than decaying the rate"
    original, grown = _one(final, ORIGINAL)["updates"], _one(final, "increasing")["updates"]
    if original is None or grown is None:
        return Finding(claim, setting, "updates", ABSENT, "not testable here", "no run of each finished")
    times = Interval(original / grown, original / grown, original / grown, int(_one(final, "increasing")["n"]))
    judged = judge(times, 1, 1, FEWER)
    number = f"{original:.0f} against {grown:.0f}, {ratio(times)} times as many"
    return Finding(claim, setting, "updates", number, *judged._replace(why=f"{judged.why}: counted, without spread"))


def _larger_rate(final: pd.DataFrame, setting: str) -> Finding:
    claim = "A rate and a batch five times as large from the start keep test accuracy, with fewer updates still"
    change = _gain(final, "momentum", "larger rate")
    return Finding(claim, setting, "fewer_updates", _points(change), *judge_within(change, SAME_ACCURACY))


def _larger_momentum(final: pd.DataFrame, setting: str) -> Finding:
    """Judge the paper's 93.3 % after 94.3 %: a momentum of 0.98 needs fewest updates and has not converged."""
    claim = "A larger momentum and batch on top take the fewest updates and lose test accuracy"
    row = _one(final, "larger momentum")
    updates = "" if row["updates"] is None else f" in {row['updates']:.0f} updates"
    number = ABSENT if row["difference"] is None else f"{difference(interval_of(row))} pp{updates}"
    return Finding(claim, setting, "fewer_updates", number, *judge(interval_of(row), 0, -1, ACCURACY))
