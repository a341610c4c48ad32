"""The numbers of McCandlish et al. 2018, as pure functions: noise scales, fronts, branches and line searches."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence

import numpy as np
import pandas as pd
from numpy.typing import ArrayLike

from analysis.statistics.hyperbolas import hyperbolas
from analysis.statistics.intervals import CONFIDENCE, Interval, paired_difference, paired_ratio
from analysis.statistics.resampling import Floats
from sharpness.plots.frames import floats, groups, records, rows_if, rows_where

NUM_BOOTSTRAPS = 1000
SEARCHED = ("rate", "fall", "change_at_2", "change_at_4")
ENDS = ("", "_lower", "_upper")


def with_noise_scale(rows: pd.DataFrame) -> pd.DataFrame:
    """Return rows with ``noise_scale``: tr Sigma / |G|^2 with the N training examples as the whole distribution.

    ``noise_trace`` is unbiased for a distribution that the examples are drawn from; Sigma of the N is 1 - 1/N times it.

    >>> table = pd.DataFrame({"square": [2.0], "noise_trace": [100.0], "num_train": [100]})
    >>> float(with_noise_scale(table)["noise_scale"].iloc[0])
    49.5
    """
    trace = (1 - 1 / floats(rows, "num_train")) * floats(rows, "noise_trace")
    return rows.assign(noise_scale=trace / floats(rows, "square"))


def tuned(runs: pd.DataFrame) -> pd.DataFrame:
    """Return for each batch size of the front its best learning rate and the steps and examples to the goal there.

    The best rate is the one at which most seeds reach the goal, and of those the one with the fewest steps (geometric
    mean over the seeds that do). ``at_edge`` says that it is the lowest or highest of the grid, so that a better one
    may lie beyond; ``runs`` and ``reached`` count all runs of the batch size. Steps with Student t intervals.
    """
    rows = []
    for size, at_size in groups(runs, "batch_size"):
        steps = {rate: _reached(at_rate) for rate, at_rate in groups(at_size, "learning_rate")}
        rows.append({"batch_size": int(size), "runs": len(at_size), "reached": sum(map(len, steps.values()))})
        rows[-1]["diverged"] = len(rows_where(at_size, status="diverged"))
        most = max(map(len, steps.values()), default=0)
        if not most:
            continue
        rate = min((r for r, x in steps.items() if len(x) == most), key=lambda r: float(np.mean(np.log(steps[r]))))
        found = level(steps[rate])
        rows[-1] |= {"learning_rate": rate, "at_edge": rate in (min(steps), max(steps)), "seeds": most}
        rows[-1] |= {"steps": found.value, "steps_lower": found.lower, "steps_upper": found.upper}
        rows[-1]["examples"] = found.value * size if found.value is not None else None
    columns = ("batch_size", "runs", "reached", "diverged", "learning_rate", "at_edge", "seeds")
    return pd.DataFrame(rows, columns=pd.Index([*columns, "steps", "steps_lower", "steps_upper", "examples"]))


def _reached(runs: pd.DataFrame) -> Floats:
    steps = floats(runs, "steps_to_result")
    return steps[np.isfinite(steps)]


def front(runs: pd.DataFrame) -> pd.DataFrame:
    """Return the runs at the best learning rate of their batch size that reached the goal, one row each."""
    best = {row["batch_size"]: row["learning_rate"] for row in records(tuned(runs))}
    chosen = [best.get(row["batch_size"]) == row["learning_rate"] for row in records(runs)]
    table = rows_where(runs.assign(chosen=chosen), chosen=True)
    return rows_where(table.assign(there=np.isfinite(floats(table, "steps_to_result"))), there=True)


def too_fast(runs: pd.DataFrame, factor: float = 2.0) -> pd.DataFrame:
    """Return for each seed the share of runs that do not reach the goal at ``factor`` times the best rate or more."""
    best = {row["batch_size"]: row["learning_rate"] for row in records(tuned(runs))}
    rows: dict[int, list[bool]] = {}
    for row in records(runs):
        if (rate := best.get(row["batch_size"])) is not None and row["learning_rate"] >= factor * rate * (1 - 1e-9):
            rows.setdefault(int(row["seed"]), []).append(row["steps_to_result"] is None)
    shares = [
        {"seed": seed, "share": float(np.mean(missed)), "runs": len(missed)} for seed, missed in sorted(rows.items())
    ]
    return pd.DataFrame(shares, columns=pd.Index(["seed", "share", "runs"]))


def misfit(runs: pd.DataFrame, s_min: float, e_min: float) -> Interval:
    """Return the root mean square of ``log(S / (S_min + E_min / B))`` over batch sizes, mean over seeds."""
    values = []
    for _, each in groups(runs, "seed"):
        fitted = s_min + e_min / floats(each, "batch_size")
        values.append(float(np.sqrt(np.mean(np.log(floats(each, "steps_to_result") / fitted) ** 2))))
    return mean(values)


def run_average(rows: pd.DataFrame, goal: float) -> dict[int, float]:
    """Return for each seed the mean of the noise scale over the steps from the start to where the loss meets the goal.

    By the trapezoidal rule, cut where the line between two checkpoints meets the goal; a run that does not meet it, or
    begins below it, has no mean.
    """
    means = {}
    for seed, run in groups(rows, "seed"):
        run = run.sort_values("step")
        steps, losses, scales = (floats(run, name) for name in ("step", "loss", "noise_scale"))
        below = np.flatnonzero(losses <= goal)
        if not len(below) or below[0] == 0:
            continue
        last = below[0]
        share = (losses[last - 1] - goal) / (losses[last - 1] - losses[last])
        x = np.append(steps[:last], steps[last - 1] + share * (steps[last] - steps[last - 1]))
        means[int(seed)] = float(np.trapezoid(np.interp(x, steps, scales), x) / (x[-1] - x[0]))
    return means


def pooled(rows: pd.DataFrame, by: Sequence[str]) -> pd.DataFrame:
    """Return tr Sigma / |G|^2 of several checkpoints together: both averaged apart, as the paper's moving averages are.

    The ratio of single ones swings as the weights do. One row for each combination of ``by``, and ``checkpoints``.
    """

    def scale(each: pd.DataFrame) -> float:
        trace = (1 - 1 / floats(each, "num_train")) * floats(each, "noise_trace")
        return float(np.mean(trace) / np.mean(floats(each, "square")))

    return _combined(rows, by, scale)


def typical(rows: pd.DataFrame, by: Sequence[str]) -> pd.DataFrame:
    """Return the geometric mean of the noise scale over checkpoints, for each combination of ``by``."""
    return _combined(rows, by, lambda each: float(np.exp(np.mean(np.log(floats(each, "noise_scale"))))))


def _combined(rows: pd.DataFrame, by: Sequence[str], scale: Callable[[pd.DataFrame], float]) -> pd.DataFrame:
    keys, result = list(zip(*(rows[name] for name in by), strict=True)), []
    for key in dict.fromkeys(keys):
        each = rows_where(rows.assign(chosen=[other == key for other in keys]), chosen=True)
        result.append({**dict(zip(by, key, strict=True)), "noise_scale": scale(each), "checkpoints": len(each)})
    return pd.DataFrame(result, columns=pd.Index([*by, "noise_scale", "checkpoints"]))


def windows(rows: pd.DataFrame, edges: Sequence[float]) -> pd.DataFrame:
    """Return the noise scale of each seed in windows of the training loss, tr Sigma and |G|^2 averaged apart.

    A window holds the checkpoints with a loss from one of the ascending ``edges`` to below the next. Columns ``seed``,
    ``window`` (0 for the lowest), ``low``, ``loss`` (geometric mean), ``noise_scale`` and ``checkpoints``.
    """
    losses = floats(rows, "loss")
    inside = rows.assign(window=np.searchsorted(edges, losses, side="right") - 1, log_loss=np.log(losses))
    place = floats(inside, "window")
    inside = rows_if(inside, (place >= 0) & (place < len(edges) - 1))
    table = pooled(inside, ["seed", "window"])
    places = zip(floats(table, "seed"), floats(table, "window"), strict=True)
    means = [np.exp(floats(rows_where(inside, seed=s, window=k), "log_loss").mean()) for s, k in places]
    return table.assign(low=[edges[int(k)] for k in table["window"]], loss=np.array(means, dtype=float))


def saturations(search: pd.DataFrame) -> pd.DataFrame:
    """Return for each seed and epoch the laws fitted to the best steps and falls that were found by batch size.

    ``rate = largest_rate / (1 + rate_scale / B)`` (2.6) and ``fall = largest_fall / (1 + fall_scale / B)`` (2.7), whose
    inverses are lines in 1/B, by least relative squares; ``rate_misfit`` and ``fall_misfit`` are the root mean squares
    of the logarithms about them over those about a power law. ``direct`` is B_noise from gradients and Hessian. NaN
    where fewer than three batch sizes have a best step, or the fit has no bend.
    """
    rows = []
    for seed, run in groups(search, "seed"):
        for epoch, each in groups(run, "epoch"):
            row = {"seed": int(seed), "epoch": epoch, "direct": float(floats(each, "curved_noise_scale")[0])}
            for name in ("rate", "fall"):
                fit = _saturation(floats(each, "batch_size"), floats(each, name))
                row |= dict(zip((f"largest_{name}", f"{name}_scale", f"{name}_misfit"), fit, strict=True))
            rows.append(row)
    names = [form.format(name) for name in ("rate", "fall") for form in ("largest_{}", "{}_scale", "{}_misfit")]
    return pd.DataFrame(rows, columns=pd.Index(["seed", "epoch", "direct", *names]))


def _saturation(sizes: Floats, values: Floats) -> tuple[float, float, float]:
    """Return the ceiling, the batch size of half of it, and the misfit over that of a power law."""
    there = np.isfinite(values) & (values > 0)
    if there.sum() < 3:
        return np.nan, np.nan, np.nan
    x, y = sizes[there], np.log(values[there])
    (low,), (_,), (scale,) = hyperbolas(x, -y[None], np.ones((1, len(x))))
    if not np.isfinite([low, scale]).all():
        return np.nan, np.nan, np.nan
    law = y + low + np.log1p(np.exp(scale) / x)
    power = y - np.polyval(np.polyfit(np.log(x), y, 1), np.log(x))
    ratio = np.sqrt(np.mean(law**2) / np.mean(power**2)) if power.any() else np.nan
    return float(np.exp(-low)), float(np.exp(scale)), float(ratio)


def tuned_branches(rows: pd.DataFrame) -> pd.DataFrame:
    """Return the fewest steps over the learning rates for each seed, epoch and batch size, and the rate that had them.

    ``at_edge`` says that it is the lowest or highest rate tried. NaN where no rate reached the target. ``loss`` and
    ``noise_scale`` are those of the common start.
    """
    best = []
    for seed, run in groups(rows, "seed"):
        for epoch, branch in groups(run, "epoch"):
            for size, each in groups(branch, "batch_size"):
                steps, rates = floats(each, "steps"), floats(each, "rate")
                row = {"seed": int(seed), "epoch": epoch, "batch_size": int(size)}
                row |= {name: float(floats(each, name)[0]) for name in ("loss", "noise_scale")}
                if np.isfinite(steps).any():
                    k = int(np.nanargmin(steps))
                    row |= {"steps": steps[k], "rate": rates[k], "at_edge": rates[k] in (rates.min(), rates.max())}
                best.append(row)
    columns = ["seed", "epoch", "batch_size", "steps", "rate", "at_edge", "loss", "noise_scale"]
    return pd.DataFrame(best, columns=pd.Index(columns))


def paired(rows: pd.DataFrame, value: str, key: str, first: object, second: object) -> Interval:
    """Return the geometric ratio of a value where ``key`` is ``second`` to where it is ``first``, paired by seed."""
    ends = [{row["seed"]: row[value] for row in records(rows_where(rows, **{key: one}))} for one in (first, second)]
    seeds = sorted(ends[0].keys() & ends[1].keys())
    return paired_ratio(*([np.nan if end[s] is None else end[s] for s in seeds] for end in ends))


def level(values: Iterable[float]) -> Interval:
    """Return the geometric mean over seeds with the Student t interval of the logarithms.

    >>> level([2.0, 8.0]).value
    4.0
    """
    x = np.asarray(list(values), dtype=float)
    return paired_ratio(np.ones_like(x), x)


def mean(values: ArrayLike) -> Interval:
    """Return the mean over seeds with its Student t interval.

    >>> mean([1.0, 1.0, 1.0])
    Interval(value=1.0, lower=1.0, upper=1.0, n=3, reason=None)
    """
    x = np.asarray(values, dtype=float)
    return paired_difference(np.zeros_like(x), x)


def predicted(rows: pd.DataFrame) -> pd.DataFrame:
    """Return line searches with what equations 2.6 and 2.7 predict for the examples searched on, as all there is.

    ``rate = |G|^2 / (G^T H G + tr(H Sigma) / B)`` and ``fall = |G|^2 rate / 2``; NaN where the curvature is negative.
    The moments measured are unbiased for a distribution that the n examples are drawn from: that of |G|^2 is less than
    the square of their own gradient by tr Sigma / n, and of G^T H G likewise; Sigma of the n is 1 - 1/n times theirs.
    """
    count, noise = floats(rows, "examples"), floats(rows, "noise_curvature")
    square = floats(rows, "gradient_square") + floats(rows, "noise_trace") / count
    along = floats(rows, "gradient_curvature") + noise / count
    felt = along + (1 - 1 / count) * noise / floats(rows, "batch_size")
    rate = np.divide(square, felt, out=np.full(len(rows), np.nan), where=felt > 0)
    scale = np.divide((1 - 1 / count) * noise, along, out=np.full(len(rows), np.nan), where=along > 0)
    return rows.assign(predicted_rate=rate, predicted_fall=square * rate / 2, curved_noise_scale=scale)


def lowest(rates: Floats, changes: Floats) -> tuple[Floats, Floats]:
    """Return rate and change of the lowest point of curves, shape ``(k, rates)``, by the parabola through three points.

    NaN where the lowest of the points is the first or the last, or a neighbour is not finite.

    >>> rates = np.array([1.0, 2.0, 4.0, 8.0])
    >>> [float(x[0]) for x in lowest(rates, (rates**2 - 6 * rates)[None])]
    [3.0, -9.0]
    """
    best = np.argmin(changes, axis=1)
    inside = (best > 0) & (best < len(rates) - 1)
    middle = np.where(inside, best, 1)
    places = middle[:, None] + np.array([-1, 0, 1])
    x, y = rates[places], np.take_along_axis(changes, places, axis=1)
    inside &= np.isfinite(y).all(axis=1)
    y = np.where(inside[:, None], y, x**2)
    first, second = (y[:, 1] - y[:, 0]) / (x[:, 1] - x[:, 0]), (y[:, 2] - y[:, 1]) / (x[:, 2] - x[:, 1])
    curvature = (second - first) / (x[:, 2] - x[:, 0])
    rate = (x[:, 0] + x[:, 1]) / 2 - first / np.where(inside, 2 * curvature, 1.0)
    value = y[:, 1] + (rate - x[:, 1]) * (first + curvature * (rate - x[:, 0]))
    return np.where(inside, rate, np.nan), np.where(inside, value, np.nan)


def at_rate(rates: Floats, changes: Floats, rate: Floats) -> Floats:
    """Return the values of curves, shape ``(k, rates)``, at one rate each, by the parabola through the points nearest.

    NaN beyond the rates, and where one of the points is not finite.

    >>> rates = np.array([1.0, 2.0, 4.0, 8.0])
    >>> at_rate(rates, (rates**2)[None], np.array([5.0])), at_rate(rates, (rates**2)[None], np.array([9.0]))
    (array([25.]), array([nan]))
    """
    known = np.isfinite(rate) & (rate >= rates[0]) & (rate <= rates[-1])
    target = np.where(known, rate, rates[0])
    first = np.clip(np.searchsorted(rates, target) - 1, 0, len(rates) - 3)
    places = first[:, None] + np.arange(3)
    x, y = rates[places], np.take_along_axis(changes, places, axis=1)
    known &= np.isfinite(y).all(axis=1)
    y, total = np.where(known[:, None], y, 0.0), np.zeros(len(target))
    for i in range(3):
        others = [j for j in range(3) if j != i]
        basis = np.prod([(target - x[:, j]) / (x[:, i] - x[:, j]) for j in others], axis=0)
        total += y[:, i] * basis
    return np.where(known, total, np.nan)


def searched(rows: pd.DataFrame, *, seed: int = 0) -> pd.DataFrame:
    """Return line searches with the best rate, the fall of the loss there and its change at 2 and 4 times the rate.

    All of the mean over batches, with 95 % percentile bootstrap intervals over the batches; NaN where the grid of rates
    does not hold them. A loss that was not finite counts as infinite.
    """
    rng, found = np.random.default_rng(seed), []
    for row in rows.to_dict("records"):
        rates, changes = np.asarray(row["rates"], dtype=float), np.array(row["changes"], dtype=float)
        if len(rates) < 3:
            found.append({f"{name}{end}": np.nan for name in SEARCHED for end in ENDS})
            continue
        changes = np.where(np.isfinite(changes), changes, np.inf)
        draws = rng.integers(len(changes), size=(NUM_BOOTSTRAPS, len(changes)))
        curves = np.concatenate([changes.mean(0)[None], changes[draws].mean(1)])
        rate, value = lowest(rates, curves)
        numbers = (rate, -value, at_rate(rates, curves, 2 * rate), at_rate(rates, curves, 4 * rate))
        bounds = {name: _bounds(values) for name, values in zip(SEARCHED, numbers, strict=True)}
        found.append({f"{n}{end}": x for n, each in bounds.items() for end, x in zip(ENDS, each, strict=True)})
    names = [f"{name}{end}" for name in SEARCHED for end in ENDS]
    return rows.assign(**{name: np.array([row[name] for row in found], dtype=float) for name in names})


def _bounds(values: Floats) -> tuple[float, float, float]:
    """Return the first of some values and the 95 % interval of the others, NaN where most of them are not there."""
    first, resampled = float(values[0]), values[1:][np.isfinite(values[1:])]
    if not np.isfinite(first) or len(resampled) < NUM_BOOTSTRAPS / 2:
        return first, np.nan, np.nan
    tail = 100 * (1 - CONFIDENCE) / 2
    lower, upper = np.percentile(resampled, [tail, 100 - tail])
    return first, float(lower), float(upper)
