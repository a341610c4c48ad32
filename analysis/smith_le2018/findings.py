"""The verdicts on the best batch size, by rules fixed before any run."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from analysis.report.findings import Finding
from analysis.report.numbers import ABSENT, difference
from analysis.report.verdicts import Least, Range, judge, judge_within
from analysis.statistics.intervals import Interval

SLOPE = Range(0.75, 1.25, "a square root would have 0.5, no dependence 0")
RISE = Least(0.5, "what a second seed moves", "pp")
PROPORTIONAL = {
    "learning_rate": "The best batch size is proportional to the learning rate",
    "num_train": "The best batch size is proportional to the number of training images",
    "momentum": "The best batch size is proportional to 1/(1 - m)",
}


def setting_of(settings: Mapping[str, Any]) -> str:
    """Say on what the best batch sizes were found."""
    base, seeds = settings["base"], settings["seeds"]
    training = base["training"]
    return (
        f"one hidden layer of 800 units, {base['data']['num_train']} images of {base['data']['name']}, rate "
        f"{training['learning_rate']:g} and momentum {training['momentum']:g} unless varied (the paper's rate of 1 "
        f"does not train here), {base['budget']['updates']} updates, {seeds} seed{'s' if seeds > 1 else ''}"
    )


def sweep_findings(rise: Interval, slopes: Mapping[str, Interval], settings: Mapping[str, Any]) -> list[Finding]:
    """Return the verdicts on the peak, by its rise over both ends of the grid, and on the three slopes."""
    setting = setting_of(settings)
    number = f"{difference(rise)} pp over the better end of the grid"
    claim = "At a fixed number of updates test accuracy has a peak at a batch size inside the grid"
    found = [Finding(claim, setting, "accuracy_vs_batch", number, *judge(rise, 0, 1, RISE))]
    for name, slope in slopes.items():
        judged = judge_within(slope, SLOPE, null=0)
        if settings["more"]:
            grid = f"batches up to {max(settings['batches'])}, of the base setting up to {max(settings['more'])}"
            judged = judged._replace(why=f"{judged.why}; {grid}")
        number = ABSENT if slope.value is None else f"log-log slope {difference(slope)}"
        found.append(Finding(PROPORTIONAL[name], setting, "best_batch", number, *judged))
    return found
