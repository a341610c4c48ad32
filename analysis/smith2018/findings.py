"""The verdicts on growing the batch for decaying the rate, by rules fixed before any run."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import pandas as pd

from analysis.report.numbers import ABSENT, difference, ratio, significant
from analysis.report.verdicts import Finding, judge, judge_equivalent
from analysis.smith2018.numbers import CONTROL, EQUAL_NOISE, ORIGINAL
from analysis.statistics.intervals import Interval
from sharpness.plots.frames import records, rows_where

SAME_ACCURACY = 0.5
"""Percentage points of test accuracy within which two schedules are the same."""
WORDS = {"momentum": "momentum", "nesterov": "Nesterov's momentum", "sgd": "plain SGD", "adam": "Adam"}


def findings(final: pd.DataFrame, phases: pd.DataFrame, settings: Mapping[str, Any]) -> list[Finding]:
    """Return the verdicts: curves coincide, accuracies are the same, updates fall, and what larger steps do."""
    setting = setting_of(settings)
    found = []
    for optimizer in settings["rates"]:
        found += [_losses(phases, optimizer, setting), _accuracies(final, optimizer, setting)]
    found += [_control(phases, setting), _updates(final, setting), _larger_rate(final, setting)]
    return [*found, _larger_momentum(final, setting)]


def setting_of(settings: Mapping[str, Any]) -> str:
    """Say on what the schedules were compared."""
    base, seeds = settings["base"], settings["seeds"]
    return (
        f"{base['model']['name']}, {base['data']['num_train']} images of {base['data']['name']}, "
        f"{base['training']['epochs']} epochs, {seeds} seed{'s' if seeds > 1 else ''}"
    )


def interval_of(row: Mapping[str, Any]) -> Interval:
    """Return the interval that a row of the tables holds."""
    return Interval(row["difference"], row["lower"], row["upper"], row["n"], row["reason"])


def _losses(phases: pd.DataFrame, optimizer: str, setting: str) -> Finding:
    """Judge every phase after a milestone of both schedules: all must lie within the margin."""
    claim = f"With {WORDS[optimizer]} a decaying rate and a growing batch have one training loss against epochs"
    rows = [row for row in records(rows_where(phases, optimizer=optimizer)) if row["arm"] in EQUAL_NOISE]
    margin = rows[0]["margin"] if rows else None
    if margin is None or margin <= 0:
        why = "decaying the rate did not lower the training loss, so there is nothing to compare with"
        return Finding(claim, setting, "training_loss", ABSENT, "not testable here", why)
    texts = []
    for arm in EQUAL_NOISE:
        widest = max((row for row in rows if row["arm"] == arm), key=lambda row: abs(row["difference"] or 0))
        texts.append(f"{arm} {difference(interval_of(widest))} nats after epoch {widest['after']:g}")
    number = f"{', '.join(texts)}, where {significant(margin, 2)} is a tenth of the fall by decay"
    parts = {f"{row['arm']} after epoch {row['after']:g}": interval_of(row) for row in rows}
    return Finding(claim, setting, "training_loss", number, *judge_equivalent(parts, float(significant(margin, 3))))


def _accuracies(final: pd.DataFrame, optimizer: str, setting: str) -> Finding:
    claim = f"With {WORDS[optimizer]} test accuracy is the same whether the rate decays or the batch grows"
    return _same(claim, final, optimizer, EQUAL_NOISE, setting, "test_accuracy")


def _same(claim: str, final: pd.DataFrame, optimizer: str, arms: tuple[str, ...], setting: str, figure: str) -> Finding:
    rows = [row for row in records(rows_where(final, optimizer=optimizer)) if row["arm"] in arms]
    parts = {row["arm"]: interval_of(row) for row in rows}
    verdict, why = judge_equivalent(parts, SAME_ACCURACY)
    number = ", ".join(f"{name} {difference(each)} pp" for name, each in parts.items())
    return Finding(claim, setting, figure, number, verdict, why)


def _control(phases: pd.DataFrame, setting: str) -> Finding:
    """Judge that the margin is one that schedules can miss: neither decaying nor growing must."""
    claim = "With neither decay nor growth the training loss stays higher by more than the margin of the others"
    rows = records(rows_where(phases, optimizer="momentum", arm=CONTROL))
    if not rows or rows[-1]["margin"] is None:
        return Finding(claim, setting, "training_loss", ABSENT, "not testable here", "no control was trained")
    verdict, why = judge(interval_of(rows[-1]), float(significant(rows[-1]["margin"], 3)), 1)
    number = f"{difference(interval_of(rows[-1]))} nats after epoch {rows[-1]['after']:g}"
    return Finding(claim, setting, "training_loss", number, verdict, why)


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
    verdict, why = judge(times, 1, 1)
    number = f"{original:.0f} against {grown:.0f}, {ratio(times)} times as many"
    return Finding(claim, setting, "updates", number, verdict, f"{why}: counted, without spread")


def _larger_rate(final: pd.DataFrame, setting: str) -> Finding:
    claim = "A rate and a batch five times as large from the start keep test accuracy, with fewer updates still"
    return _same(claim, final, "momentum", ("larger rate",), setting, "fewer_updates")


def _larger_momentum(final: pd.DataFrame, setting: str) -> Finding:
    """Judge the paper's 93.3 % after 94.3 %: a momentum of 0.98 needs fewest updates and has not converged."""
    claim = "A larger momentum and batch on top take the fewest updates and lose test accuracy"
    row = _one(final, "larger momentum")
    verdict, why = judge(interval_of(row), 0, -1)
    updates = "" if row["updates"] is None else f" in {row['updates']:.0f} updates"
    number = ABSENT if row["difference"] is None else f"{difference(interval_of(row))} pp{updates}"
    return Finding(claim, setting, "fewer_updates", number, verdict, why)
