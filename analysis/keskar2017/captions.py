"""The caption of each figure: what is drawn, over how many runs, and what the bars are."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence

import numpy as np
import pandas as pd

from analysis.keskar2017.association import short_of_the_goal
from analysis.keskar2017.curves import CURVES, splits_along
from analysis.keskar2017.numbers import (
    EPSILONS,
    LOSS,
    ROLES,
    Results,
    how_it_goes_on,
    not_positive,
    span,
    start_of_search,
)
from analysis.report import numbers
from analysis.runs import counts
from analysis.statistics.threshold import Threshold
from sharpness.plots.frames import floats, groups, records, rows_where
from sharpness.plots.networks import Network
from sharpness.plots.plane import plane_caption

NAMES = {"top_eigenvalue": "λ_max", "keskar_sharpness": "Metric 2.1", "worst_case": "adaptive worst case"}
"""The kinds of sharpness of the solutions that are held against test accuracy, as texts call them."""
MEANS = "means over the seeds with 95 % Student t intervals, of sharpness geometric"
PATHS = {"line": (3, "straight line"), "arc": (7, "arc (curvilinear path)")}
"""The paths between SB and LB: the figure of the paper and what they are called."""


def status_line(results: Results) -> str:
    """Return how many runs of each role of the first network finished, and which seeds diverged or are missing."""
    return "; ".join(_role_status(results, role) for role in ROLES) + "."


def _role_status(results: Results, role: str) -> str:
    runs = records(rows_where(results.tables.runs, network=results.first, role=role, arm="base"))
    sizes = sorted({int(run["batch_size"]) for run in runs if run.get("batch_size") is not None})
    batch = f" (batch {', '.join(map(str, sizes))})" if sizes else ""
    text = f"{sum(run['status'] == 'finished' for run in runs)} of {len(runs)} {role} runs{batch} finished"
    for status in ("diverged", "missing"):
        seeds = [str(run["seed"]) for run in runs if run["status"] == status]
        if seeds:
            text += f", {len(seeds)} {status} (seed {', '.join(seeds)})"
    return text


def unseen(table: pd.DataFrame) -> str:
    """Return how many values of sharpness a logarithmic axis cannot show, as a sentence, if any.

    >>> unseen(pd.DataFrame({"phi": [1.0, 0.0]}))
    'Not on the log axis: 1 sharpness of 0. '
    """
    count = not_positive(table, "phi")
    return f"Not on the log axis: {count} sharpness of 0. " if count else ""


AT_THE_END = "the test set was measured at the end alone"
"""What is said where no curve of the test set can be drawn."""


def training_curves(results: Results, table: pd.DataFrame) -> str:
    """Return the caption of loss and accuracy along training."""
    finished = {role: len(results.runs(role, "base", results.first)) for role in ROLES}
    runs = rows_where(results.tables.runs, network=results.first, arm="base")
    diverged = " A diverged run ends in a cross." if "diverged" in set(runs["status"]) else ""
    of_training = "mean over the epoch's own steps while the weights move (epoch 0: the whole training set)"
    if splits_along(table) == ["train"]:
        drawn = f"Loss (log axis) and accuracy of training, {of_training}; {AT_THE_END}. "
    else:
        drawn = (
            f"Loss (log axis) and accuracy. Left: training, {of_training}. Right: the whole test set, at the ends of "
            "the epochs after which it was measured. "
        )
    return (
        f"{drawn}Thin lines: one per seed, which sets the initial weights and the order of the examples. "
        "Thick lines with marks: mean over the finished runs "
        f"({', '.join(f'{role} n = {n}' for role, n in finished.items())}), geometric for the loss; no band is drawn. "
        f"The accuracy axes start above epoch 0 (before training).{diverged} {status_line(results)}"
    )


def pairs(results: Results) -> str:
    """Return the caption of the pairs."""
    return (
        "Small batch (SB) against large batch (LB). Top: test accuracy and test loss, one mark per run; "
        "grey lines join the two runs of a seed, black bars are means. Bottom: LB / SB of each measure at the final "
        "weights, geometric mean over the pairs with its 95 % Student t interval, log axis; the adaptive worst case is "
        f"the one that no rescaling of the layers moves. {results.setting(results.first)} {status_line(results)}"
    )


def accuracy_vs_sharpness(results: Results, table: pd.DataFrame) -> str:
    """Return the caption of test accuracy against sharpness."""
    confidences = sorted({f"{100 * c:g} % " for c in floats(table, "confidence") if np.isfinite(c)})
    start = start_of_search(results)
    metric = f"Metric 2.1 with epsilon = {EPSILONS[0]:g}" + (f" and start {start}" if start else "")
    absent = [
        f"{int(np.isnan(floats(table, q)).sum())} without {name}, {not_positive(table, q)} with {name} <= 0"
        for q, name in NAMES.items()
    ]
    return (
        f"Test accuracy against the top Hessian eigenvalue (top), the sharpness of Keskar et al. ({metric}; middle) "
        "and a worst case in units of the weights, which no rescaling of the layers moves (bottom), "
        f"on log axes. One mark per finished run (n = {len(table)}); grey lines join the two runs of a seed. Bars at "
        f"the top: {' or '.join(confidences)}interval of the eigenvalue itself, often smaller than the mark; the "
        "others have none. Titles: Kendall's tau-b within each role, with its 95 % bootstrap interval over the runs; "
        "over both roles two clusters alone would make a tau of about one half. "
        f"Finished runs not drawn: {'; '.join(absent)}. {status_line(results)}"
    )


def between(results: Results, path: str, network: str, table: pd.DataFrame) -> str:
    """Return the caption of loss and accuracy along the line or the arc of one network."""
    figure, words = PATHS[path]
    (first, rows), *others = groups(table, "seed")
    seeds = ", ".join(str(seed) for seed, _ in others)
    faint = f"; faint: the pairs of the other seeds ({seeds})" if others else ""
    gaps = sum(int(np.isnan(floats(table, name)).sum()) for name in CURVES)
    missing = f" Values that could not be measured leave gaps ({gaps})." if gaps else ""
    return (
        f"Cross-entropy (left axis, log) and accuracy (right axis) on the {words} through a small-batch solution "
        f"(alpha = 0) and the large-batch solution of the same seed (alpha = 1), as in Figure {figure} of Keskar et "
        f"al. (2017); solid: training set, dashed: test set. Bold: the pair of seed {first}{faint}. "
        f"n = {1 + len(others)} pair{'s' if others else ''}, {len(rows)} values of alpha each; no band is "
        f"drawn.{missing} {results.setting(network)}"
    )


def sketch(results: Results) -> str:
    """Return the caption of the slices through both minima."""
    return (
        "A flat and a sharp minimum as in the sketch of Figure 1 of Keskar et al. (2017), measured: how much more "
        "training loss there is than at the solution, on a slice through the SB and one through the LB solution, both "
        "in the direction of the line from SB to LB, against the Euclidean distance from the solution as a share of "
        f"that between both. Bold: mean over the seeds; thin: each seed. {results.setting()}"
    )


def surfaces(results: Results, network: str, table: pd.DataFrame, networks: Sequence[Network]) -> str:
    """Return the caption of the planes around both minima."""
    return (
        "The surface around the SB and the LB solution of the first seed, as Li et al. (2018) draw it: each in its own "
        "random directions, which are as long as its weights, filter by filter, so that one unit is the same share of "
        f"the weights in both. {plane_caption(table, networks, 'random_plane')} {results.setting(network)}"
    )


def accuracy_curves(results: Results, table: pd.DataFrame) -> str:
    """Return the caption of the accuracies of every network along training."""
    both = "test" in splits_along(table)
    dashed = "dashed: test, at the end of an epoch" if both else AT_THE_END
    return (
        "Accuracy along training, as in Figure 2 of Keskar et al. (2017): one line per run; "
        f"{'solid: ' if both else ''}training, mean over the epoch's own steps; {dashed}. The axis starts above epoch "
        f"0. {results.setting()}"
    )


def batch_size(results: Results, rows: pd.DataFrame, found: Threshold) -> str:
    """Return the caption of accuracy and sharpness against the batch size."""
    largest = rows_where(rows, batch_size=rows["batch_size"].max())
    loss = numbers.significant(float(np.mean(floats(largest, "train_loss"))), 2)
    few = "With equal epochs large batches make few updates. " if results.goal is None else ""
    if found.batch.value is None:
        seen = f"No threshold of the accuracy: {found.batch.reason}."
    else:
        seen = (
            f"Band: where accuracy begins to fall, {numbers.ratio(found.batch)}; permutation test, p = {found.p:.2g}."
        )
    return (
        f"Test accuracy and sharpness against the batch size at {results.held} and one learning rate, as in Figure 4 "
        f"of Keskar et al. (2017). One dot per run; marks: {MEANS}. {seen} Sharpness: "
        f"{results.measure}. {unseen(rows)}{few}The mean training loss at the largest batch is {loss} nats. "
        f"{results.setting(results.arms)}"
    )


def warm_start(results: Results, rows: pd.DataFrame) -> str:
    """Return the caption of LB started from iterates of SB; ``rows`` are those drawn."""
    both = "SB" in set(rows["role"])
    of_whom = "of the iterate and of LB trained from it" if both else f"of LB trained from it ({AT_THE_END})"
    return (
        "LB started from iterates of SB (warm, or piggybacked, starts), as in Figure 5 of Keskar et al. (2017): test "
        f"accuracy {of_whom} (top) and sharpness of that LB (bottom). One dot per run; marks: {MEANS}; dotted: the "
        "mean of LB from x0. Sharpness: "
        f"{results.measure}. {unseen(rows)}{results.setting(results.arms)}"
    )


def along_training(results: Results, rows: pd.DataFrame) -> str:
    """Return the caption of sharpness along training."""
    epochs = ", ".join(f"{epoch:g}" for epoch in sorted(set(rows["epoch"])))
    return (
        "Sharpness against training loss along training, as in Figure 6 of Keskar et al. (2017): at the ends of epochs "
        f"{epochs}. Thin: one line per run; marks: geometric means over the seeds at an epoch. Sharpness: "
        f"{results.measure}. {unseen(rows)}{results.setting(results.arms)}"
    )


def escape(results: Results) -> str:
    """Return the caption of training that goes on from the minima of LB and of SB."""
    return (
        "Does the noise of small batches leave a sharp minimum? Sharpness (top) and test accuracy (bottom) of the "
        "minimum that LB found (left) and of that which SB found (right), before and after training that goes on from "
        f"there as SB or as LB: {how_it_goes_on(results)}. Grey lines and dots: the seeds; marks: {MEANS}. Sharpness: "
        f"{results.measure}. {results.varied}. {counts(results.tables)}"
    )


def forests(results: Results, about: str, note: str) -> str:
    """Return the caption of the remedies or of the critics."""
    return (
        f"{about}: difference of test accuracy (top) and ratio of sharpness (bottom; {results.measure}), paired by "
        f"seed, with 95 % Student t intervals, of sharpness geometric. {note}{results.setting(results.arms)}"
    )


def above_the_goal(results: Results, arm: str) -> str:
    """Return how many runs of an arm did not reach the training loss that all were to reach, as a sentence, if any."""
    rows = rows_where(results.done, network=results.arms, arm=arm)
    losses = floats(rows, "train_loss")
    above = losses[losses > results.goal] if results.goal is not None else losses[:0]
    if not len(above):
        return ""
    return (
        f"With {arm} {len(above)} of {len(losses)} runs end above the training loss asked for, at {span(above, LOSS)} "
        "nats. "
    )


def equal_otherwise(results: Results) -> str:
    """Return why runs that end at one training loss are not compared at equal epochs or updates, as a sentence."""
    if results.goal is None:
        return ""
    return (
        "Every run ends at one training loss, so that none is trained less than another: it takes the epochs and "
        "updates that it needs, and neither can be equal as well. Equal epochs and equal updates are conditions of the "
        "preset full. "
    )


def _left_out(results: Results) -> str:
    short = Counter(short_of_the_goal(results))
    named = "; ".join(f"{name} ({count})" for name, count in short.items())
    return f"Left out, having ended above the training loss asked for: {named}. " if named else ""


def conditions(results: Results) -> str:
    """Return the caption of all conditions against the measures."""
    return (
        "Does sharpness go with generalisation? Change of test accuracy (left) and of test loss (right) against the "
        "factor by which each measure changes, from the SB run of the same seed and label noise; one mark per "
        "condition, mean over the seeds, by what was changed. Titles: Kendall's tau-b over the conditions of a seed, "
        "mean over the seeds with its 95 % Student t interval. A rescaling of the layers moves the first two measures "
        f"and not the last two. {_left_out(results)}{results.setting(results.arms)}"
    )
