"""The claims of McCandlish et al. 2018 and Merrill et al. 2025, each with its number and a verdict by a fixed rule."""

from __future__ import annotations

from collections.abc import Callable, Mapping

import numpy as np
import pandas as pd

from analysis.mccandlish2018.numbers import level, mean, misfit, paired, too_fast
from analysis.mccandlish2018.results import Results, edges_of
from analysis.report.findings import Finding, over_all, variants, with_variants
from analysis.report.numbers import ABSENT, rounded
from analysis.report.numbers import ratio as ratio_text
from analysis.report.verdicts import Judged, Least, Range, judge, judge_within
from analysis.statistics.fits import power_law_by
from analysis.statistics.intervals import Interval, quotient
from sharpness.plots.frames import floats, groups, rows_where

PROPORTIONAL = Range(0.75, 1.25, "a square root would have 0.5, no dependence 0")
WITHIN_2 = Range(0.5, 2.0, "the paper speaks of agreement within a factor of 2 or of no dependence", ratio=True)
ORDER = Range(0.1, 10.0, "the paper claims the order of magnitude", ratio=True)
ON_HYPERBOLA = Range(-np.inf, 0.2, "as far as seeds of one batch size lie apart")
TOO_FAST = 2.0
GROWS = Least(1.25, "the noise scale of one network moves as much between checkpoints", ratio=True)
SLOPE = Least(0.1, "the noise scale then grows by a quarter while the loss falls tenfold")
MOST = Range(0.5, np.inf, "most are more than half", ends=())
BEND = Range(0.5, 2.0, "a bend placed wrong by a factor of 2 errs by a third in the best step at B_noise", ratio=True)
TENFOLD = Range(
    10.0,
    np.inf,
    "below, the noise scale has the order of magnitude; set with the first ratios known",
    ratio=True,
)
MISFITS = Least(2.0, "half the misfit is plain to see in a figure", ratio=True)
RISES = Least(0.1, "a tenth of the best fall is lost")


def findings(results: Results) -> list[Finding]:
    """Return the verdict on every claim."""
    return [
        *_along_training(results),
        *_best_steps(results),
        *_saturation(results),
        *_front(results),
        *_temperature(results),
        *_sizes(results),
        *_by_branches(results),
    ]


def setting(results: Results) -> str:
    """Say what the claims were tested on."""
    base = results.settings["base"]
    data, count = base["data"]["name"], base["data"]["num_train"]
    some = "all" if count is None else f"{count}"
    return f"{base['model']['name']} on {some} examples of {data}, plain SGD"


def slope_text(interval: Interval) -> str:
    """Return a slope or a share with its interval.

    >>> slope_text(Interval(0.98, 0.91, 1.04, 5))
    '0.98 [0.91, 1.04]'
    """
    if interval.value is None:
        return ABSENT
    bounds = (ABSENT if x is None else rounded(x, 2) for x in (interval.lower, interval.upper))
    return f"{rounded(interval.value, 2)} [{', '.join(bounds)}]"


def growth(results: Results) -> Interval:
    """Return the noise scale in the lowest window of the loss over that in the highest, paired by seed."""
    return paired(results.windows, "noise_scale", "window", len(edges_of(results.settings)) - 2, 0)


def _from_start(results: Results) -> Interval:
    """Return the noise scale in the lowest window of the loss over that of the initial weights, paired by seed."""
    start = rows_where(results.along, step=0).assign(place="start")
    end = rows_where(results.windows, window=0).assign(place="end")
    return paired(pd.concat([start, end]), "noise_scale", "place", "start", "end")


def _along_training(results: Results) -> list[Finding]:
    edges, table, ratio = edges_of(results.settings), results.windows, growth(results)
    slope = power_law_by(floats(table, "loss"), floats(table, "noise_scale"), floats(table, "seed"))
    ends = f"{edges[-2]:.3g} to {edges[-1]:.3g} nats to {edges[0]:.3g} to {edges[1]:.3g}"

    def grows(interval: Interval) -> Judged:
        return judge(interval, 1, 1, GROWS, (10, np.inf))

    start = variants({"from the initial weights, in the transient of the start": _from_start(results)}, _grown, grows)
    first = _finding(
        results,
        "noise_scale",
        f"The noise scale grows tenfold or more from a loss of {ends}",
        _grown(ratio),
        grows(ratio),
    )
    return [
        with_variants(first, *start),
        _finding(
            results,
            "noise_scale",
            "The noise scale grows as the loss falls, after the transient of the start",
            f"slope of log B_simple on log loss = {slope_text(slope)}",
            judge(slope, 0, -1, SLOPE),
        ),
    ]


def _grown(ratio: Interval) -> str:
    return f"end / start = {ratio_text(ratio)}"


def _best_steps(results: Results) -> list[Finding]:
    made, search = [], results.search
    for name, what in (("rate", "best step"), ("fall", "fall of the loss at the best step")):
        x, y = floats(search, f"predicted_{name}"), floats(search, name)
        y = np.where(y > 0, y, np.nan)  # a mean over batches that rises at once has no best step
        slope = power_law_by(x, y, floats(search, "seed"))
        ratios = [_geometric(y[rows] / x[rows]) for rows in _by_seed(search)]
        ratio = level(ratios)
        number = f"slope of log found on log predicted = {slope_text(slope)}"
        claim = f"The noise scale predicts the {what} of a batch size (equations 2.6, 2.7)"
        made.append(_finding(results, "line_search", claim, number, judge_within(slope, PROPORTIONAL, null=0)))
        number = f"found / predicted = {ratio_text(ratio)}"
        claim = f"The predicted {what} is right to a factor of 2"
        made.append(_finding(results, "line_search", claim, number, judge_within(ratio, WITHIN_2)))
    at_2, at_4 = (mean([_ratio_mean(search, name, rows) for rows in _by_seed(search)]) for name in ("2", "4"))
    number = f"change at 4 best steps over the best fall = {slope_text(at_4)}; at 2, where 0 is due, {slope_text(at_2)}"
    claim = "A step beyond twice the best one raises the loss"
    made.append(_finding(results, "line_search", claim, number, judge(at_4, 0, 1, RISES)))
    return made


def bend(results: Results, name: str) -> Interval:
    """Return B_noise fitted to the best steps (``rate``) or falls over that measured directly.

    Geometric mean over the moments of training, then over seeds.
    """
    table = results.saturation
    ratios = floats(table, f"{name}_scale") / floats(table, "direct")
    return level(_geometric(ratios[rows]) for rows in _by_seed(table))


def _bend_at(results: Results, name: str) -> dict[str, Interval]:
    """Return the same of each moment of training alone."""
    moments = groups(results.saturation, "epoch")
    return {
        f"epoch {epoch:.2g}": level(floats(rows, f"{name}_scale") / floats(rows, "direct")) for epoch, rows in moments
    }


def _saturation(results: Results) -> list[Finding]:
    made, table = [], results.saturation
    for name, what in (("rate", "best step"), ("fall", "fall of the loss at the best step")):
        claim = f"The {what} saturates with the batch size where the law says: at the measured B_noise"
        ratio, alone = bend(results, name), _bend_at(results, name)
        number, judged = _bend_text(ratio), judge_within(ratio, BEND)
        finding = _finding(results, "saturation", claim, number, judged)
        made.append(with_variants(finding, *variants(alone, _bend_text, lambda each: judge_within(each, BEND))))
    ratio = level(_geometric(floats(table, "rate_misfit")[rows]) for rows in _by_seed(table))
    claim = "The best step follows the saturating law rather than a power of the batch size"
    number = f"misfit of the law / of a power law = {ratio_text(ratio)}"
    made.append(_finding(results, "saturation", claim, number, judge(ratio, 1, -1, MISFITS)))
    return made


def _bend_text(ratio: Interval) -> str:
    return f"B_noise fitted / measured = {ratio_text(ratio)}"


def _front(results: Results) -> list[Finding]:
    shares = too_fast(results.runs, TOO_FAST)
    share = mean(floats(shares, "share")) if len(shares) else Interval(None, None, None, 0, "no run has such a rate")
    fit = results.fit
    miss = Interval(None, None, None, 0, fit.b_crit.reason)
    if fit.s_min.value is not None and fit.e_min.value is not None:
        miss = misfit(results.front, fit.s_min.value, fit.e_min.value)
    ratio = quotient(results.run_average, fit.b_crit)
    runs = int(floats(shares, "runs").sum())
    return [
        _finding(
            results,
            "front",
            "Most trainings at twice the best learning rate or more do not reach the goal",
            f"share = {slope_text(share)} of {runs} runs",
            judge_within(share, MOST),
        ),
        _finding(
            results,
            "front",
            "Steps and examples to the goal lie on a hyperbola (equation 2.11)",
            f"root mean square of log steps about the fit = {slope_text(miss)}",
            judge_within(miss, ON_HYPERBOLA),
        ),
        _finding(
            results,
            "front",
            "The mean noise scale until the goal predicts the critical batch size to a factor of 10",
            f"B_simple / B_crit = {ratio_text(ratio)}",
            judge_within(ratio, ORDER),
        ),
    ]


def temperature_slope(results: Results, knob: str) -> Interval:
    """Return the slope of log B_simple on log(B / rate) over runs in which one of the two was changed."""
    chosen = [each in (knob, "none") for each in results.cooled["knob"]]
    rows = rows_where(results.cooled.assign(chosen=chosen), chosen=True)
    return power_law_by(floats(rows, "slowness"), floats(rows, "noise_scale"), floats(rows, "seed"))


def _temperature(results: Results) -> list[Finding]:
    made = []
    for knob, what in (("rate", "the inverse learning rate"), ("batch", "the batch size")):
        slope = temperature_slope(results, knob)
        claim = f"After equally many examples the noise scale is proportional to {what} (appendix C)"
        number = f"slope of log B_simple = {slope_text(slope)}"
        made.append(_finding(results, "temperature", claim, number, judge_within(slope, PROPORTIONAL, null=0)))
    return made


def comparisons(results: Results) -> dict[str, Interval]:
    """Return ratios of the noise scale at equal loss: of the larger data set, the wider network, the harder task."""
    sizes, settings = results.sizes, results.settings
    small, large = (str(size) for size in settings["data_sizes"])
    return {
        f"{large} / {small} examples": paired(rows_where(sizes, arm="data"), "noise_scale", "case", small, large),
        "wide / narrow network": paired(rows_where(sizes, arm="width"), "noise_scale", "case", *settings["widths"]),
        "hard / easy task": paired(results.tasks, "noise_scale", "task", "easy", "hard"),
    }


def _sizes(results: Results) -> list[Finding]:
    data, width, task = comparisons(results).items()
    widths = " and ".join(results.settings["widths"])
    return [
        _finding(
            results,
            "comparisons",
            "At equal loss the noise scale does not depend on the size of the data set",
            f"{data[0]} = {ratio_text(data[1])}",
            judge_within(data[1], WITHIN_2),
        ),
        _finding(
            results,
            "comparisons",
            "At equal loss the noise scale hardly depends on the size of the network",
            f"{widths}: {width[0]} = {ratio_text(width[1])}",
            judge_within(width[1], WITHIN_2),
        ),
        _finding(
            *(results, "comparisons", "At equal loss the noise scale is larger for a harder task"),
            f"two classes, {task[0]} = {ratio_text(task[1])}",
            judge(task[1], 1, 1, GROWS),
        ),
    ]


def scale_at(results: Results, epoch: float) -> Interval:
    """Return the noise scale of the checkpoint of an epoch, from which its branches come."""
    return level(floats(rows_where(results.along, epoch=epoch), "noise_scale"))


def settled_scale(results: Results, epoch: float) -> Interval:
    """Return the noise scale where the branches of an epoch begin, after the settling updates."""
    there = rows_where(results.branches, epoch=epoch)
    return level(floats(there.drop_duplicates("seed"), "noise_scale"))


def branch_ratios(results: Results, scale: Callable[[Results, float], Interval]) -> dict[str, Interval]:
    """Return the critical batch size of the branches over a noise scale, by moment of training."""
    fits = results.branch_fits.items()
    return {f"epoch {epoch:.2g}": quotient(fit.b_crit, scale(results, epoch)) for epoch, fit in fits}


def _by_branches(results: Results) -> list[Finding]:
    fits = [fit.b_crit for fit in results.branch_fits.values()]
    rise = Interval(None, None, None, 0, "needs two checkpoints")
    if len(fits) > 1:
        rise = quotient(fits[-1], fits[0])
    claim = "The critical batch size by branches is tenfold the noise scale or more (Merrill et al.)"
    ratios = branch_ratios(results, scale_at)
    tenfold = over_all(claim, setting(results), "branches", ratios, _over_scale, _tenfold, log=True)
    later = branch_ratios(results, settled_scale)
    settled = {f"{name}, noise after settling": ratio for name, ratio in later.items()}
    return [
        _finding(
            results,
            "branches",
            "The critical batch size measured by branches grows during training (Merrill et al.)",
            f"last / first checkpoint = {ratio_text(rise)}",
            judge(rise, 1, 1, GROWS),
        ),
        with_variants(tenfold, *variants(settled, _over_scale, _tenfold)),
    ]


def _over_scale(ratio: Interval) -> str:
    return f"critical / B_simple = {ratio_text(ratio)}"


def _tenfold(ratio: Interval) -> Judged:
    return judge_within(ratio, TENFOLD)


def _finding(results: Results, figure: str, claim: str, number: str, judged: Judged) -> Finding:
    return Finding(claim, setting(results), figure, number, *judged)


def _by_seed(rows: pd.DataFrame) -> list[np.ndarray]:
    """Return for each seed which rows are its."""
    return [np.asarray(rows["seed"] == seed) for seed, _ in groups(rows, "seed")]


def _geometric(values: np.ndarray) -> float:
    finite = values[np.isfinite(values) & (values > 0)]
    return float(np.exp(np.mean(np.log(finite)))) if len(finite) else np.nan


def _ratio_mean(search: pd.DataFrame, times: str, rows: np.ndarray) -> float:
    """Return the mean over line searches of the change at so many best steps in units of the best fall."""
    ratios = (floats(search, f"change_at_{times}") / floats(search, "fall"))[rows]
    return float(np.mean(ratios[np.isfinite(ratios)])) if np.isfinite(ratios).any() else np.nan


def facts(results: Results) -> Mapping[str, Interval]:
    """Return the numbers of batch sizes side by side: the front's, the noise scale's and the branches', by name."""
    start = level(floats(rows_where(results.along, step=0), "noise_scale"))
    numbers = {
        "B_crit of the front": results.fit.b_crit,
        "B_simple at the initial weights": start,
        "B_simple, mean until the goal": results.run_average,
    }
    for low, rows in reversed(groups(results.windows, "low")):
        numbers[f"B_simple at a loss of {low:.3g} to {2 * low:.3g}"] = level(floats(rows, "noise_scale"))
    for epoch, rows in groups(results.saturation, "epoch"):
        numbers[f"B_noise at epoch {epoch:.2g}"] = level(floats(rows, "direct"))
        numbers[f"B_noise from the best steps, epoch {epoch:.2g}"] = level(floats(rows, "rate_scale"))
    for epoch, fit in results.branch_fits.items():
        numbers[f"critical by branches, epoch {epoch:.2g}"] = fit.b_crit
        numbers[f"B_simple at epoch {epoch:.2g}"] = scale_at(results, epoch)
        numbers[f"B_simple after settling, epoch {epoch:.2g}"] = settled_scale(results, epoch)
    return numbers
