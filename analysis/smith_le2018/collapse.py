"""Accuracy against the noise scale after equal times: do the curves of all learning rates and momenta fall on one?"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any

import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from numpy.typing import NDArray

from analysis.report.findings import Finding, variants
from analysis.report.numbers import ABSENT, difference
from analysis.report.report import Drawing
from analysis.report.verdicts import Least, Range, judge, judge_within
from analysis.smith_le2018.numbers import by_seed, settings_in
from analysis.statistics.intervals import Interval, student
from analysis.statistics.resampling import Floats
from sharpness.plots.axes import log_axis
from sharpness.plots.frames import floats, groups, rows_if, rows_where
from sharpness.plots.style import COLUMN, new_figure, shades

STEP = 2**0.5
"""The factor between the noise scales at which curves are compared."""
SHOWN = 12
"""Percentage points below the highest mean that are shown."""
MORE = Least(0.1, "a tenth of the variance between the means")
SAME = Range(-0.5, 0.5, "half a point; the peaks of pilot seeds are two to five points high", "pp")
MARKERS = ("o", "s", "^", "D", "v", "P", "X", "*")


@dataclass(frozen=True)
class ScaledCurve:
    """The accuracies (%, seeds x batches) of one setting, with the noise scales and batch sizes, g growing."""

    g: Floats
    batch: Floats
    accuracy: Floats
    speed: float
    """The learning rate over 1 - m."""
    momentum: float


Curves = Mapping[str, ScaledCurve]


def equal_times(rows: pd.DataFrame, images: int) -> pd.DataFrame:
    """Return the accuracies of all settings of so many images after one time, the largest that all of them reach.

    The time is updates times ``rate / (1 - m)``, the ``speed``; ``g`` is ``speed (N / B - 1)``.
    """
    own = rows_where(rows, num_train=images)
    speed = floats(own, "learning_rate") / (1 - floats(own, "momentum"))
    own = own.assign(speed=speed, time=speed * floats(own, "updates"))
    own = own.assign(g=speed * (images / floats(own, "batch_size") - 1))
    if own.empty:
        return own
    time = min(floats(each, "time").max() for _, each in own.groupby(["learning_rate", "momentum"]))
    return rows_if(own, np.isclose(floats(own, "time"), time, rtol=1e-6))


def setting_name(setting: Mapping[str, Any]) -> str:
    """Return a setting in words."""
    return rf"$\epsilon$ = {setting['learning_rate']:g}, m = {setting['momentum']:g}"


def curves(rows: pd.DataFrame) -> dict[str, ScaledCurve]:
    """Return the curve of each setting, by its name, without the batch sizes at which a network diverged."""
    found = {}
    for setting in settings_in(rows):
        own, columns = rows_where(rows, **setting), []
        seeds = len(set(own["seed"]))
        for g, here in groups(own, "g"):
            values = by_seed(here)
            if len(values) == seeds:
                columns.append((g, float(here["batch_size"].iloc[0]), [values[seed] for seed in sorted(values)]))
        if columns:
            g, batch, accuracy = (np.array(each, dtype=float) for each in zip(*columns, strict=True))
            speed = float(own["speed"].iloc[0])
            found[setting_name(setting)] = ScaledCurve(g, batch, accuracy.T, speed, setting["momentum"])
    return found


def at_scales(found: Curves) -> tuple[Floats, dict[str, Floats]]:
    """Return noise scales ``sqrt(2)`` apart, and each setting's accuracies there, linear in log g between its own."""
    low, high = reached_by_all(found)
    scales, values = np.exp(np.arange(np.log(low), np.log(high) + 1e-9, np.log(STEP))), {}
    for name, each in found.items():
        noisy = each.g > 0
        rows = [np.interp(np.log(scales), np.log(each.g[noisy]), row[noisy]) for row in each.accuracy]
        values[name] = np.array(rows)
    return scales, values


def reached_by_all(found: Curves) -> tuple[float, float]:
    """Return the smallest and the largest noise scale above 0 that all settings reach."""
    lows, highs = zip(*((each.g[each.g > 0].min(), each.g.max()) for each in found.values()), strict=True)
    return max(lows), min(highs)


def per_doubling(speeds: Sequence[float], values: Sequence[Floats]) -> Floats:
    """Return each seed's change of accuracy per doubling of the speed at an equal noise scale, seeds x scales.

    The slope of the least-squares line over the settings.

    >>> per_doubling([1, 2, 4], [np.array([[5.0]]), np.array([[6.0]]), np.array([[7.0]])])
    array([[1.]])
    """
    x = np.log2(np.asarray(speeds, dtype=float))
    x = x - x.mean()
    return np.tensordot(x, np.array(values), axes=1) / np.sum(x * x)


def explained(found: Curves, which: NDArray[np.int64]) -> dict[str, float]:
    """Return the share of the variance between means that g, B and the speed alone explain, over the seeds given.

    Each setting's means are predicted by the other settings: those at its g, or at its B, linear in the logarithm
    between theirs, on average over the settings that reach so far; and for the speed the mean of theirs, linear in its
    logarithm. One less the squared errors over the variance of the means: below 0 it predicts worse than one mean.
    Means are those of the noise scales that all settings reach.
    """
    low, high = reached_by_all(found)
    kept = {}
    for name, own in found.items():
        inside = (own.g >= low * 0.999) & (own.g <= high * 1.001)
        mean = own.accuracy[which].mean(axis=0)[inside]
        kept[name] = (np.log(own.g[inside]), np.log(own.batch[inside]), mean, np.log(own.speed))
    means = np.concatenate([each[2] for each in kept.values()])
    errors = {"g": 0.0, "B": 0.0, "speed": 0.0}
    for name, (g, batch, mean, speed) in kept.items():
        others = [each for other, each in kept.items() if other != name]
        for key, at, place in (("g", g, 0), ("B", batch, 1)):
            guesses = np.array([_inside(at, each[place], each[2]) for each in others])
            known = np.isfinite(guesses).any(axis=0)
            guess = np.where(known, np.nanmean(np.where(known, guesses, 0.0), axis=0), means.mean())
            errors[key] += float(np.sum((mean - guess) ** 2))
        speeds, levels = zip(*sorted((each[3], each[2].mean()) for each in others), strict=True)
        errors["speed"] += float(np.sum((mean - np.interp(speed, speeds, levels)) ** 2))
    total = float(np.sum((means - means.mean()) ** 2))
    return {key: 1 - error / total for key, error in errors.items()}


def _inside(at: Floats, x: Floats, y: Floats) -> Floats:
    """Interpolate y over x, in any order, NaN beyond its ends."""
    order = np.argsort(x)
    return np.interp(at, x[order], y[order], left=np.nan, right=np.nan)


def shares(found: Curves) -> tuple[dict[str, float], Interval]:
    """Return the shares of variance explained, and that of g less the better of the others with its interval.

    Student's t with the jackknife's standard error, seeds left out one by one (Efron 1982). Resampled seeds would not
    do: repeated ones make the means noisier, which lowers every share, and the interval could end below the value.
    """
    seeds = np.arange(len(next(iter(found.values())).accuracy))
    value = explained(found, seeds)
    without = np.array([_lead(explained(found, np.delete(seeds, seed))) for seed in seeds])
    return value, student(_lead(value) - (len(seeds) - 1) * (without - without.mean()))


def _lead(each: Mapping[str, float]) -> float:
    return each["g"] - max(each["B"], each["speed"])


def collapse_findings(rows: pd.DataFrame, setting: str) -> list[Finding]:
    """Return the verdicts on the collapse: variance explained, equal accuracy at equal g, and momentum for rate."""
    claims = (
        "After equal times the noise scale explains more of the test accuracy over learning rates, momenta and batch "
        "sizes than the batch size or the learning rate alone (shares of variance)",
        "At equal noise scale and time accuracy does not change with the learning rate, up to the best noise scale "
        "(change per doubling of eps/(1 - m))",
        "Nor does it beyond the best noise scale (change per doubling)",
        "A momentum stands for a learning rate 1/(1 - m) times as large: equal accuracy after equal times at equal "
        "noise scale (difference)",
    )
    found = curves(rows)
    if len({each.speed for each in found.values()}) < 2 or len(next(iter(found.values())).accuracy) < 2:
        none = Interval(None, None, None, 0, "needs 2 seeds and 2 learning rates at least")
        return [Finding(claim, setting, "collapse", ABSENT, *judge_within(none, SAME)) for claim in claims]
    value, lead = shares(found)
    text = f"{difference(lead)}: {value['g']:.2f} by g, {value['B']:.2f} by B, {value['speed']:.2f} by the rate"
    first = Finding(claims[0], setting, "collapse", text, *judge(lead, 0, 1, MORE))
    scales, values = at_scales(found)
    slopes = per_doubling([each.speed for each in found.values()], list(values.values()))
    best = int(np.argmax(np.mean([each.mean(axis=0) for each in values.values()], axis=0)))
    rule, shown = partial(judge_within, allowed=SAME), _points
    each = {f"g = {g:.3g}": student(slopes[:, place]) for place, g in enumerate(scales)}
    up_to, beyond = over_scales(slopes[:, : best + 1]), over_scales(slopes[:, best + 1 :])
    apart = over_scales(np.concatenate([slopes[:, :0], *momentum_pairs(found, values).values()], axis=1))
    return [
        first,
        Finding(claims[1], setting, "collapse", shown(up_to), *rule(up_to), variants=variants(each, shown, rule)),
        Finding(claims[2], setting, "collapse", shown(beyond), *rule(beyond)),
        Finding(claims[3], setting, "collapse", shown(apart), *rule(apart)),
    ]


def over_scales(values: Floats) -> Interval:
    """Return the mean over noise scales of numbers, seeds x noise scales, with its Student t interval over seeds."""
    if not values.size:
        return Interval(None, None, None, 0, "there is no such noise scale or pair of settings")
    return student(values.mean(axis=1))


def momentum_pairs(found: Curves, values: Mapping[str, Floats]) -> dict[str, Floats]:
    """Return for pairs of settings of one speed the accuracy of the larger momentum less that of the smaller.

    Seeds x noise scales.
    """
    return {
        f"{more} less {less}": values[more] - values[less]
        for more in found
        for less in found
        if found[more].momentum > found[less].momentum and np.isclose(found[more].speed, found[less].speed)
    }


def _points(interval: Interval) -> str:
    return ABSENT if interval.value is None else f"{difference(interval)} pp"


def draw_collapse(rows: pd.DataFrame, ended: str) -> Drawing | str:
    """Draw accuracy after equal times against the batch size, and against the noise scale."""
    found = curves(rows)
    if not found:
        return "no network was measured after equal times"
    figure, axes = new_figure(COLUMN, 4.6, 2, 1)
    speeds = sorted({round(each.speed, 6) for each in found.values()})
    colors, numbers, tops = shades(speeds), [], []
    for (name, own), marker in zip(found.items(), MARKERS, strict=False):
        mean, color = own.accuracy.mean(axis=0), colors[round(own.speed, 6)]
        style = {"color": color, "marker": marker, "markersize": 3, "linewidth": 0.9, "label": name}
        for ax, x in ((axes[0, 0], own.batch), (axes[1, 0], own.g)):
            order = np.argsort(x)
            order = order[x[order] > 0]
            ax.plot(x[order], mean[order], **style)
        tops.append(mean.max())
        facts = {"setting": name, "speed": own.speed, "batch": own.batch, "g": own.g, "mean": mean}
        numbers.append(pd.DataFrame(facts))
    table = pd.concat(numbers, ignore_index=True)
    seen = rows_if(table, floats(table, "mean") > max(tops) - SHOWN)
    _finish(axes[0, 0], floats(table, "batch"), "Batch size $B$", max(tops))
    _finish(axes[1, 0], floats(seen, "g"), r"Noise scale $g = \epsilon\,(N/B - 1)/(1 - m)$", max(tops))
    figure.legend(*axes[0, 0].get_legend_handles_labels(), loc="outside upper center", ncols=2)
    caption = (
        "Test accuracy of several learning rates and momenta after equal times, that is updates times eps/(1 - m), "
        "against the batch size (top) and against the noise scale (bottom): were the noise scale all that counts, the "
        "curves at the bottom would be one. Means over seeds; of one colour are settings of one eps/(1 - m). The full "
        f"batch has no noise and is left out at the bottom. The axes end {SHOWN} points below the highest mean. {ended}"
    )
    return Drawing(figure, table, caption)


def _finish(ax: Axes, x: Floats, label: str, top: float) -> None:
    log_axis(ax.xaxis, x)
    ax.set(xlabel=label, ylabel="Test accuracy (%)", ylim=(top - SHOWN, top + 1))
