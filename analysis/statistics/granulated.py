"""The granulated Kendall coefficient: does a measure follow the gap when one hyper-parameter changes at a time?"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from analysis.statistics.intervals import NUM_RESAMPLES, Interval
from analysis.statistics.rank_correlation import kendall_tau, tau_interval
from analysis.statistics.resampling import Floats, resampled_means
from sharpness.errors import InputError
from sharpness.plots.frames import floats


@dataclass(frozen=True)
class Granulated:
    """Kendall's tau-b of a measure with the gap: over all runs, per hyper-parameter (psi) and their mean (Psi).

    ``left_out`` counts the runs without a finite measure and gap, such as diverged ones, and ``constant`` by
    hyper-parameter the groups without a tau: those of a single run, or with a constant series.
    """

    overall: Interval
    by_hyper: dict[str, Interval]
    mean: Interval
    left_out: int
    constant: dict[str, int]


def granulated_tau(
    runs: pd.DataFrame,
    measure: str,
    gap: str,
    varied: Sequence[str],
    *,
    average: Sequence[str] = (),
    seed: int = 0,
) -> Granulated:
    """Return the granulated tau of column ``measure`` with column ``gap`` over the hyper-parameters ``varied``.

    psi_i = mean over all settings of the other hyper-parameters of tau over the runs that differ in i alone,
    Psi = mean_i psi_i (Jiang et al. 2020, section 4.2)

    A table has one row per run. Over ``average``, such as the seed, measure and gap are averaged first; a seed may be
    in ``varied`` instead. Tau is tau-b, so that a group in which a series is constant has none and is left out, where
    the paper's tau counts as 0. The intervals are bootstraps over runs (overall) and over groups (psi, Psi), taken as
    independent although groups of different hyper-parameters share runs; where all groups have the same tau, see
    ``unseen_groups``. Psi is the mean over the hyper-parameters that have a psi; its reason names others.

    >>> table = pd.DataFrame({"lr": [1, 2, 1, 2], "width": [1, 1, 2, 2], "m": [1, 2, 3, 4], "gap": [1, 2, 4, 3]})
    >>> {name: psi.value for name, psi in granulated_tau(table, "m", "gap", ["lr", "width"]).by_hyper.items()}
    {'lr': 0.0, 'width': 1.0}
    """
    table, left_out = _settings(runs, measure, gap, list(varied), list(average))
    rng = np.random.default_rng(seed)
    psis, draws, constant = {}, {}, {}
    for hyper in varied:
        taus, constant[hyper] = group_taus(table, measure, gap, [name for name in varied if name != hyper])
        psis[hyper], draws[hyper] = psi_interval(taus, rng)
    overall = kendall_tau(floats(table, measure), floats(table, gap), seed=seed)
    return Granulated(overall, psis, _mean(psis, draws), left_out, constant)


def _settings(
    runs: pd.DataFrame, measure: str, gap: str, varied: list[str], average: list[str]
) -> tuple[pd.DataFrame, int]:
    """Return one row per setting, its hyper-parameters as numbers of their values, and how many runs were left out."""
    missing = [name for name in (*varied, *average, measure, gap) if name not in runs]
    if missing or not varied:
        raise InputError(f"expected columns and at least one hyper-parameter, got none for {missing}: name others")
    finite = np.isfinite(floats(runs, measure)) & np.isfinite(floats(runs, gap))
    kept = runs.loc[finite]
    codes = {name: pd.factorize(kept[name], use_na_sentinel=False)[0] for name in (*varied, *average)}
    setting = numbered([codes[name] for name in varied], len(kept))
    if number := len(kept) - 1 - numbered(list(codes.values()), len(kept)).max(initial=-1):
        raise InputError(
            f"expected one run per setting of {[*varied, *average]}, got {number} more: name what tells them apart in "
            "varied or average"
        )
    means = kept[[measure, gap]].groupby(setting).mean()
    first = np.unique(setting, return_index=True)[1]
    return means.assign(**{name: codes[name][first] for name in varied}), int(np.sum(~finite))


def numbered(columns: Sequence[NDArray[np.intp]], length: int) -> NDArray[np.intp]:
    """Return in which group of equal rows each row is, the groups numbered from 0 as they first appear.

    ``columns`` are of whole numbers from 0 on, (length,) each; without any, all rows are one group.

    >>> numbered([np.array([0, 0, 1, 0]), np.array([1, 0, 1, 1])], 4)
    array([0, 1, 2, 0])
    """
    group = np.zeros(length, dtype=np.intp)
    for column in columns:
        group = pd.factorize(group * (1 + column.max(initial=0)) + column)[0]
    return group


def group_taus(table: pd.DataFrame, measure: str, gap: str, fixed: Sequence[str]) -> tuple[Floats, int]:
    """Return tau-b within each group of rows that agree in ``fixed``, and how many groups have none."""
    x, y = floats(table, measure), floats(table, gap)
    group = numbered([table[name].to_numpy() for name in fixed], len(table))
    taus = np.array([tau_b(x[group == each], y[group == each]) for each in range(group.max(initial=-1) + 1)])
    return taus[np.isfinite(taus)], int(np.sum(~np.isfinite(taus)))


def tau_b(x: Floats, y: Floats) -> float:
    """Return Kendall's tau-b, NaN where a series is constant or has one value.

    >>> tau_b(np.array([1.0, 2.0, 3.0]), np.array([1.0, 3.0, 2.0]))
    0.333...
    """
    signs_x, signs_y = (np.sign(each[:, None] - each[None, :]) for each in (x, y))
    untied = np.sum(np.abs(signs_x)) * np.sum(np.abs(signs_y))
    return float(np.sum(signs_x * signs_y) / np.sqrt(untied)) if untied else float("nan")


def psi_interval(taus: Floats, rng: np.random.Generator) -> tuple[Interval, Floats | None]:
    """Return psi with its interval and its resamples; ``n`` is the number of groups."""
    n = len(taus)
    if n == 0:
        return Interval(None, None, None, 0, "one series is constant in every group"), None
    psi = float(np.mean(taus))
    if n == 1:
        return Interval(psi, None, None, 1, "an interval needs at least 2 groups"), None
    draws = unseen_groups(psi, n, rng) if np.ptp(taus) < 1e-12 else resampled_means(taus, NUM_RESAMPLES, rng)
    return tau_interval(psi, draws, n, free=n - 1), draws


def unseen_groups(psi: float, n: int, rng: np.random.Generator) -> Floats:
    """Return draws of psi where all n groups have the same tau, and resampling them would show no spread at all.

    A share 1 - p of groups never seen in n is put at the far end of [-1, 1], p = U^(1/n) with U uniform: the exact
    (Clopper-Pearson) lower bound of p is 0.025^(1/n), 0.40 for 4 groups and 0.79 for 16.
    """
    p = rng.random(NUM_RESAMPLES) ** (1 / n)
    far = np.where(np.abs(psi) < 1, rng.choice([-1.0, 1.0], NUM_RESAMPLES), -psi)
    return p * psi + (1 - p) * far


def _mean(psis: dict[str, Interval], draws: dict[str, Floats | None]) -> Interval:
    """Return Psi over the hyper-parameters that have a psi; ``n`` is their number."""
    values = [psi.value for psi in psis.values() if psi.value is not None]
    if not values:
        return Interval(None, None, None, 0, "no hyper-parameter has a psi")
    without = [name for name, psi in psis.items() if psi.value is None]
    reason = f"without {', '.join(without)}: no psi" if without else None
    known = [each for each in draws.values() if each is not None]
    mean = float(np.mean(values))
    if len(known) < len(values):
        return Interval(mean, None, None, len(values), "a psi has no interval")
    return tau_interval(mean, np.mean(known, axis=0), len(values), reason)
