"""The caption of each figure: what is drawn, over how many runs, and what the bars are."""

from __future__ import annotations

import numpy as np
import pandas as pd

from analysis.keskar2017.drawn import SHARPNESS, not_positive
from analysis.keskar2017.load import CURVES, ROLES, Study
from analysis.keskar2017.pair_tables import keskar_setting
from sharpness.plots.frames import floats, groups, records, rows_where

NAMES = {"top_eigenvalue": "lambda_max", "keskar_sharpness": "phi"}


def status_line(study: Study) -> str:
    """Say how many runs of each role finished, diverged or are missing, and which seeds did not finish."""
    return "; ".join(_role_status(study, role) for role in ROLES) + "."


def _role_status(study: Study, role: str) -> str:
    runs = records(rows_where(study.runs, role=role))
    sizes = sorted({int(run["batch_size"]) for run in runs if run["batch_size"] is not None})
    batch = f" (batch {', '.join(map(str, sizes))})" if sizes else ""
    text = f"{sum(run['status'] == 'finished' for run in runs)} of {len(runs)} {role} runs{batch} finished"
    for status in ("diverged", "missing"):
        seeds = [str(run["seed"]) for run in runs if run["status"] == status]
        if seeds:
            text += f", {len(seeds)} {status} (seed {', '.join(seeds)})"
    return text


def training_caption(study: Study) -> str:
    """Return the caption of the training curves."""
    counts = ", ".join(f"{role} n = {len(rows_where(study.runs, role=role, status='finished'))}" for role in ROLES)
    diverged = " A diverged run ends in a cross." if len(rows_where(study.runs, status="diverged")) else ""
    return (
        "Loss (log axis) and accuracy. Left: training, mean over the epoch's own steps while the weights move "
        "(epoch 0: the whole training set). Right: the whole test set at the end of each epoch. "
        "Thin lines: one per seed, which sets the initial weights and the order of the examples. "
        f"Thick lines with marks: mean over the finished runs ({counts}), geometric for the loss; no band is drawn. "
        f"The accuracy axes start above epoch 0 (before training).{diverged} {status_line(study)}"
    )


def interpolation_caption(study: Study, table: pd.DataFrame) -> str:
    """Return the caption of the linear interpolation."""
    (first, rows), *others = groups(table, "seed")
    seeds = ", ".join(str(seed) for seed, _ in others)
    faint = f"; faint: the pairs of the other seeds ({seeds})" if others else ""
    gaps = sum(int(np.isnan(floats(table, name)).sum()) for name in CURVES)
    missing = f" Values that could not be measured leave gaps ({gaps})." if gaps else ""
    return (
        "Cross-entropy (left axis, log) and accuracy (right axis) on the straight line through a small-batch solution "
        "(alpha = 0) and the large-batch solution of the same seed (alpha = 1); solid: training set, dashed: test set. "
        f"Bold: the pair of seed {first}{faint}. n = {1 + len(others)} "
        f"pair{'s' if others else ''}, {len(rows)} values of alpha each; no band is drawn.{missing} "
        f"{status_line(study)}"
    )


def gap_caption(study: Study, table: pd.DataFrame) -> str:
    """Return the caption of the generalisation gap against sharpness."""
    confidences = sorted({f"{100 * c:g} % " for c in floats(table, "confidence") if np.isfinite(c)})
    setting = keskar_setting(study)
    metric = f"Metric 2.1 with epsilon = {setting[0]:g} and start {setting[1]}" if setting else "Metric 2.1"
    absent = [
        f"{int(np.isnan(floats(table, q)).sum())} without {NAMES[q]}, {not_positive(table, q)} with {NAMES[q]} <= 0"
        for q in SHARPNESS
    ]
    return (
        "Generalisation gap (train minus test accuracy, percentage points) against the top Hessian eigenvalue (left) "
        f"and the sharpness of Keskar et al. ({metric}; right), both on log axes. One mark per finished run "
        f"(n = {len(table)}); grey lines join the two runs of a seed. Bars on the left: {' or '.join(confidences)}"
        "interval of the eigenvalue itself, often smaller than the mark; phi has none. Titles: Kendall's tau-b with "
        "its 95 % percentile bootstrap interval over runs. "
        f"Finished runs not drawn: {'; '.join(absent)}. {status_line(study)}"
    )
