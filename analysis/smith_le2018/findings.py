"""The verdicts on the best batch size."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from functools import partial
from typing import Any

from analysis.report.findings import Finding, variants
from analysis.report.numbers import ABSENT, difference
from analysis.report.verdicts import Least, Range, judge, judge_within
from analysis.smith_le2018.numbers import SWEEPS, SweepPoint, rise_over_ends
from analysis.statistics.intervals import Interval

SLOPE = Range(0.75, 1.25, "a square root would have 0.5, no dependence 0")
RISE = Least(0.5, "half a point; the peaks of pilot seeds are two to five points high", "pp")
PROPORTIONAL = {
    "learning_rate": "The best batch size is proportional to the learning rate",
    "num_train": "The best batch size is proportional to the number of training images",
    "momentum": "The best batch size is proportional to 1/(1 - m)",
}


def setting_of(settings: Mapping[str, Any]) -> str:
    """Say on what the best batch sizes were found."""
    seeds = settings["seeds"]
    return (
        f"one hidden layer of {settings['hidden']} units, {settings['images']} images of "
        f"{settings['base']['data']['name']} as {settings['cells']} x {settings['cells']} cells, "
        f"{100 * settings['noise']:g} % random labels, rate {settings['rate']:g} and momentum {settings['momentum']:g} "
        f"unless varied, {settings['looks'][-1]} updates, batches up to the full one, {seeds} seed"
        f"{'s' if seeds > 1 else ''}"
    )


def sweep_findings(
    found: Sequence[SweepPoint],
    base: Mapping[str, Any],
    slopes: Mapping[str, Interval],
    equal: Mapping[str, Interval],
    settings: Mapping[str, Any],
) -> list[Finding]:
    """Return the verdicts on the peak, by its rise over both ends of the grid, and on the three slopes.

    The slopes after ``equal`` times are variants: the theory is of those, the paper's figures of equal updates.
    """
    setting = setting_of(settings)
    rises = {
        f"{SWEEPS[each.name].name} {each.value:g}": rise_over_ends(each.curve.accuracy)
        for each in found
        if each.value != base[each.name]
    }
    own = next((each for each in found if each.value == base[each.name]), None)
    none = Interval(None, None, None, 0, "no network was measured")
    rise = none if own is None else rise_over_ends(own.curve.accuracy)
    claim = "At a fixed number of updates test accuracy has a peak at a batch size inside the grid"
    number, rule = f"{_points(rise)} over the better end of the grid", partial(judge, null=0, direction=1, least=RISE)
    rest = variants(rises, _points, rule)
    findings = [Finding(claim, setting, "accuracy_vs_batch", number, *rule(rise), variants=rest)]
    for name, slope in slopes.items():
        of_slope = partial(judge_within, allowed=SLOPE, null=0)
        other = {"after equal times": equal[name]} if name in equal else {}
        rest = variants(other, _slope, of_slope)
        findings.append(
            Finding(PROPORTIONAL[name], setting, "best_batch", _slope(slope), *of_slope(slope), variants=rest)
        )
    return findings


def _slope(slope: Interval) -> str:
    return ABSENT if slope.value is None else f"log-log slope {difference(slope)}"


def _points(interval: Interval) -> str:
    return ABSENT if interval.value is None else f"{difference(interval)} pp"
