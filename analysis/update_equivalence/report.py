"""The report on batch sizes and learning rates: distances, noise and falls of the loss, and the verdicts.

The claims are those of the answer that scripts/update_equivalence.py describes; the rules of the verdicts are fixed.
"""

from __future__ import annotations

from collections.abc import Mapping
from functools import partial
from typing import Any

import numpy as np
import pandas as pd

from analysis.report.findings import Finding, variants
from analysis.report.numbers import ABSENT, difference, ratio
from analysis.report.report import Drawings, Report, TextTable
from analysis.report.verdicts import Least, Range, judge, judge_within
from analysis.runs import Tables, counts
from analysis.update_equivalence.figures import distance_figure, stability_figure, variance_figure
from analysis.update_equivalence.numbers import (
    COLUMNS,
    SHARED,
    at_training,
    change,
    crossings,
    geometric,
    growth,
    noise_scale,
    relative_change,
    shares,
    slope_within,
    split_by,
    with_curvature,
    with_stages,
)
from sharpness.plots.frames import floats, rows_where

CLOSE = 0.1
"""End points count as close where they lie apart by at most this share of the large step."""
WHY = "what a change of the rate by so much does to the step; the answer names no number"
NEAR = Range(-np.inf, CLOSE, WHY, ratio=True)
FIRST_ORDER = 0.5
"""Slopes are fitted where the rate of the large step times the top eigenvalue is at most this: a quarter of 2."""
SLOPE = Range(0.75, 1.25, "a square root would have 0.5, no dependence 0")
VARIANCE_SLOPE = Range(
    -1.1, -0.9, "the law is exact for batches drawn with replacement, so that little is left for error"
)
SAME_NORM = Range(0.8, 1.25, "a fifth of the length of the weights", ratio=True)
SAME_SHARE = Range(-0.1, 0.1, "one step in ten")
STEADIER = Least(0.05, "one step in twenty")
HELD = Least(1.05, "a twentieth of the length of the weights", ratio=True)


def report(tables: Tables, settings: Mapping[str, Any]) -> Report:
    """Return the figures, the table, the answer and the verdicts."""
    measured, training = staged(tables, settings), settings["base"]["training"]
    curved, apart, noise, fell = (measured[name] for name in ("curvatures", "distances", "variances", "falls"))
    note = f"{lost(apart)}{counts(tables)}"
    names, said = stage_names(settings), answer(apart, settings)
    drawings = Drawings(
        {
            "distance": lambda: distance_figure(apart, names, training["learning_rate"], CLOSE, f"{said} {note}"),
            "variance": lambda: variance_figure(noise, names, note),
            "stability": lambda: stability_figure(fell, note),
        }
    )
    table = stage_table(apart, noise, curved, settings, note)
    return Report(drawings, [table], [said], findings(measured, settings))


def staged(tables: Tables, settings: Mapping[str, Any]) -> dict[str, pd.DataFrame]:
    """Return the study's own measurements by name with their stages, the distances with the curvature there."""
    rows = {
        name: with_stages(tables.rows(name, *SHARED, *columns), settings["stages"]) for name, columns in COLUMNS.items()
    }
    small = settings["base"]["training"]["batch_size"]
    return rows | {"distances": with_curvature(rows["distances"], rows["curvatures"], small)}


def findings(measured: Mapping[str, pd.DataFrame], settings: Mapping[str, Any]) -> list[Finding]:
    """Return the verdict on each claim."""
    close = distance_findings(measured["distances"], measured["variances"], settings)
    return close + stability_findings(measured["falls"], settings)


def stage_names(settings: Mapping[str, Any]) -> dict[int, str]:
    """Return what each epoch of measurement is called.

    >>> stage_names({"stages": [0, 3]})
    {0: 'start', 3: 'epoch 3'}
    """
    return {stage: f"epoch {stage}" if stage else "start" for stage in settings["stages"]}


def lost(apart: pd.DataFrame) -> str:
    """Say how many walks of small steps left the finite numbers."""
    gone = int(np.isnan(floats(apart, "distance")).sum())
    return f"{gone} of {len(apart)} distances are not finite and left out. " if gone else ""


def multiple(small: int) -> str:
    """Return by how much a batch B is larger than one of ``small`` examples, as text.

    >>> multiple(1), multiple(8)
    ('B', 'B / 8')
    """
    return "B" if small == 1 else f"B / {small}"


def answer(apart: pd.DataFrame, settings: Mapping[str, Any]) -> str:
    """Answer when a larger batch may replace a smaller learning rate, in numbers."""
    found, small = crossings(apart, CLOSE), settings["base"]["training"]["batch_size"]
    each = {key: geometric(floats(part, "product")) for key, part in split_by(found, "stage", "large_batch")}
    known = {key: interval for key, interval in each.items() if interval.value is not None}
    if not known:
        return f"No B and stage has distances on both sides of {100 * CLOSE:g} % for all seeds: no threshold is given."
    names, times = stage_names(settings), multiple(small)
    ends = [choose(known, key=lambda key: known[key].value or 0.0) for choose in (min, max)]
    parts = [f"{ratio(known[key])} (B = {key[1]}, {names[key[0]]})" for key in dict.fromkeys(ends)]
    missing = len(each) - len(known)
    return (
        f"One step of batch B replaces {times} steps of batch {small}, and so a batch {times} times larger a rate as "
        f"many times smaller, to within {100 * CLOSE:g} % of the step while the rate of the large step times "
        f"lambda_max is below {' to '.join(parts)}; a step on a quadratic loss diverges at 2. {missing} of "
        f"{len(each)} pairs of B and stage have no such threshold within the grid for all seeds."
    )


def describe(settings: Mapping[str, Any]) -> str:
    """Say on what the claims were tested."""
    base = settings["base"]
    training, examples = base["training"], base["data"]["num_train"] or "all"
    return (
        f"{base['model']['name']} on {base['data']['name']} ({examples} examples), plain SGD, batch "
        f"{training['batch_size']} at {training['learning_rate']:g} against batch {settings['large_batch']} at as many "
        f"times the rate, {settings['seeds']} seeds"
    )


def distance_findings(apart: pd.DataFrame, noise: pd.DataFrame, settings: Mapping[str, Any]) -> list[Finding]:
    """Return the verdicts on how close the end points are and on the noise, by rules fixed before the first run."""
    training = settings["base"]["training"]
    small = training["batch_size"]
    near = apart.loc[floats(apart, "product") <= FIRST_ORDER]
    close = at_training(apart, training["learning_rate"], settings["large_batch"])
    rate = slope_within(near, "rate", "distance", ["seed", "stage", "large_batch", "draw"])
    batch = slope_within(near, "large_batch", "distance", ["seed", "stage", "rate", "draw"])
    spread = slope_within(noise, "large_batch", "variance", ["seed", "stage"])
    range_ = f"slope in logarithms where the large step's rate times lambda_max is at most {FIRST_ORDER:g}"
    times = multiple(small)
    claim = (
        f"{times} steps of batch {small} end close to one step of batch B at {times} times the rate: apart by less "
        f"than {100 * CLOSE:g} % of the step at the training's own rates (mean over the checkpoints)"
    )
    setting = describe(settings)
    return [
        Finding(claim, setting, "distance", ratio(close), *judge_within(close, NEAR)),
        *(
            Finding(claim, setting, figure, difference(slope), *judge_within(slope, allowed, null=0.0))
            for claim, figure, slope, allowed in (
                (f"the distance grows in proportion to the rate ({range_})", "distance", rate, SLOPE),
                (f"the distance grows in proportion to B ({range_})", "distance", batch, SLOPE),
                (
                    "the gradient of a batch has variance sigma^2 / B (slope in logarithms)",
                    "variance",
                    spread,
                    VARIANCE_SLOPE,
                ),
            )
        ),
    ]


def stability_findings(fell: pd.DataFrame, settings: Mapping[str, Any]) -> list[Finding]:
    """Return the verdicts on the two senses of stability, by rules fixed before the first run.

    What is claimed of batches of either size is judged of small ones, at which both senses are at stake.
    """
    setting, arms = describe(settings), ("SB", "LB")
    steadier = change(shares(fell, "SB"), shares(fell, "LB"))
    claim = (
        "second sense of stability: the loss falls in a larger share of the steps of large batches than of small ones"
    )
    judged = judge(steadier, 0, 1, STEADIER)
    found = [Finding(claim, setting, "stability", difference(steadier), *judged)]
    held = partial(judge, null=1.0, direction=-1, least=HELD)
    smaller = {arm: relative_change(growth(fell, arm), growth(fell, f"{arm} + L2")) for arm in arms}
    claim = "first sense: an L2 penalty holds the weights down (growth with it over growth without, small batches)"
    large = variants({"large batches": smaller["LB"]}, ratio, held)
    found.append(Finding(claim, setting, "stability", ratio(smaller["SB"]), *held(smaller["SB"]), variants=large))
    same = partial(judge_within, allowed=SAME_SHARE)
    helped = {arm: change(shares(fell, arm), shares(fell, f"{arm} + L2")) for arm in arms}
    claim = (
        f"it does not help with the second: the share of falling steps stays within {SAME_SHARE.high:g} (small batches)"
    )
    large = variants({"large batches": helped["LB"]}, difference, same)
    found.append(Finding(claim, setting, "stability", difference(helped["SB"]), *same(helped["SB"]), variants=large))
    alike = relative_change(growth(fell, "SB"), growth(fell, "LB"))
    claim = "the batch size does not decide the first: weights grow alike (large over small, 0.8 to 1.25)"
    return [*found, Finding(claim, setting, "stability", ratio(alike), *judge_within(alike, SAME_NORM))]


def stage_table(
    apart: pd.DataFrame, noise: pd.DataFrame, curved: pd.DataFrame, settings: Mapping[str, Any], note: str
) -> TextTable:
    """Return what was measured at each stage, over the seeds."""
    large, rate = settings["large_batch"], settings["base"]["training"]["learning_rate"]
    crossed = crossings(apart, CLOSE)
    text, plain = [], []
    for stage, name in stage_names(settings).items():
        here, there = rows_where(curved, stage=stage), rows_where(crossed, stage=stage, large_batch=large)
        numbers = {
            quantity: geometric(floats(here, quantity)) for quantity in ("loss", "top_eigenvalue", "along_gradient")
        }
        numbers["simple_noise_scale"] = geometric(noise_scale(noise, stage))
        numbers["distance"] = at_training(apart, rate, large, stage)
        numbers["product_within"] = geometric(floats(there, "product"))
        text.append([name, *map(ratio, numbers.values())])
        for quantity, each in numbers.items():
            bounds = {"value": each.value, "lower": each.lower, "upper": each.upper, "n": each.n}
            plain.append({"stage": name, "quantity": quantity} | bounds)
    header = ["", "loss", "λ_max", "|H g| / |g|", "B_simple", f"distance, B = {large}", f"product, B = {large}"]
    unsure = len(curved) - int(floats(curved, "converged").sum())
    caption = (
        "At each checkpoint of the runs of small batches, geometric means over seeds with 95 % intervals: the loss "
        "over the training set (nats), the top eigenvalue of its Hessian and its curvature along the gradient, the "
        "simple noise scale of the training set, the relative distance at the training's own rate, and the product "
        f"of the large step's rate and λ_max at which that distance passes {100 * CLOSE:g} % ({ABSENT}: not within "
        f"the grid for all seeds). {unsure} of {len(curved)} eigenvalues did not reach 1 %. {note}"
    )
    return TextTable("stages", "A larger batch for a smaller rate", header, text, pd.DataFrame(plain), caption)
