"""The tables of the study: SB against LB, Tables 2 to 4 of the paper, the remedies, and what the critics ask for."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import pandas as pd

from analysis.keskar2017.captions import above_the_goal, equal_otherwise, status_line
from analysis.keskar2017.comparisons import comparisons
from analysis.keskar2017.findings import WORDS
from analysis.keskar2017.numbers import (
    EPSILONS,
    ROLES,
    Results,
    difference,
    pair,
    ratio,
    solutions,
    span,
    start_of_search,
)
from analysis.report import numbers
from analysis.report.report import TextTable
from analysis.statistics.intervals import Interval, Summary, summarise
from sharpness.plots.frames import floats, rows_where

QUANTITIES = (
    ("test_accuracy", "test accuracy", "%", False),
    ("test_loss", "test loss", "nats", False),
    ("train_loss", "train loss", "nats", False),
    ("top_eigenvalue", "λ_max", "nats", True),
    ("trace", "trace", "nats", True),
    ("keskar_sharpness", "Metric 2.1", "%", True),
    ("worst_case", "adaptive worst case", "nats", True),
    ("distance_from_start", "distance from start", "", True),
)
"""The quantities that are compared of the solutions: column, name, unit, and whether a ratio means something."""
REMEDIES = (
    ("none, SB", "SB", "base"),
    ("none, LB", "LB", "base"),
    ("augmentation, SB", "SB", "augmentation"),
    ("augmentation, LB", "LB", "augmentation"),
    ("conservative, LB", "LB", "conservative"),
    ("robust (SAM), LB", "LB", "robust (SAM)"),
    ("growing batch, SB to LB", "LB", "growing batch"),
)
"""The remedies that are compared: the name of each, and role and arm of its runs."""
MEAN = "Mean ± sample standard deviation over the finished runs"
PAIRED = "differences and geometric ratios are paired by seed, with 95 % Student t intervals"


def of_networks_and_arms(results: Results) -> list[TextTable]:
    """Return the tables of all networks' pairs and of what is varied on one."""
    return [accuracies(results), *(sharpness(results, s) for s in NUMBERS), remedies(results), critics(results)]


@dataclass(frozen=True)
class Compared:
    """A quantity of the solutions of the first network, in its unit: both roles, LB - SB and LB / SB paired by seed.

    ``larger`` counts the seeds in which it is larger for LB; a ratio that means nothing has no value.
    """

    quantity: str
    label: str
    unit: str
    roles: Mapping[str, Summary]
    difference: Interval
    ratio: Interval
    larger: int


def compared(results: Results) -> list[Compared]:
    """Return small against large batch on the first network."""
    table = solutions(results)
    small, large = (rows_where(table, role=role) for role in ROLES)
    found = []
    for column, words, unit, has_ratio in QUANTITIES:
        change = difference(small, large, column)
        one = Compared(
            quantity=column,
            label=words,
            unit=unit,
            roles={"SB": summarise(floats(small, column)), "LB": summarise(floats(large, column))},
            difference=change,
            ratio=ratio(small, large, column) if has_ratio else Interval(None, None, None, change.n),
            larger=int(np.sum(np.greater(*pair(large, small, column)))),
        )
        found.append(one)
    return found


def pairs(results: Results) -> TextTable:
    """Return the table of small against large batch on the first network."""
    rows, values = [], []
    for each in compared(results):
        counts = [*(summary.n for summary in each.roles.values()), each.difference.n]
        n = str(counts[0]) if len(set(counts)) == 1 else f"{counts[0]}, {counts[1]} ({counts[2]} paired)"
        label = f"{each.label} [{each.unit}]" if each.unit else each.label
        changes = [numbers.difference(each.difference), numbers.ratio(each.ratio)]
        rows.append([label, *map(numbers.mean_and_std, each.roles.values()), *changes, n])
        named = {"quantity": each.quantity, "label": each.label, "unit": each.unit} | _named(each.roles)
        values.append(named | {"pairs": each.difference.n} | _bounds(difference=each.difference, ratio=each.ratio))
    start = start_of_search(results)
    caption = (
        f"{MEAN} of a role; LB - SB and the geometric ratio LB / SB paired by seed with 95 % Student t intervals. "
        f"λ_max and trace are of the Hessian of the training loss; Metric 2.1 has ε = {EPSILONS[0]:g}"
        f"{'' if start is None else f' and starts at {start}'}; the adaptive worst case is the rise of the loss within "
        f"half the size of each weight, which no rescaling of the layers changes. {results.setting(results.first)} "
        f"{status_line(results)}"
    )
    header = ("", "SB", "LB", "LB - SB [95 %]", "LB / SB [95 %]", "n")
    title = "Small batch (SB) against large batch (LB)"
    return TextTable("pairs_table", title, header, rows, pd.DataFrame(values), caption)


def accuracies(results: Results) -> TextTable:
    """Return Table 2 of the paper, with the gap between the test accuracies and the distance from the start."""
    header = ["", "train SB [%]", "train LB [%]", "test SB [%]", "test LB [%]", "test LB - SB [pp]"]
    rows, values = [], []
    for network in results.networks:
        sides = [results.runs(role, "base", network) for role in ROLES]
        means = {
            f"{split}_{role}": summarise(floats(side, f"{split}_accuracy"))
            for split in ("train", "test")
            for role, side in zip(ROLES, sides, strict=True)
        }
        gap, far = difference(sides[0], sides[1], "test_accuracy"), ratio(sides[1], sides[0], "distance_from_start")
        texts = [numbers.mean_and_std(mean) for mean in means.values()]
        rows.append([network, *texts, numbers.difference(gap), numbers.ratio(far), str(gap.n)])
        values.append({"network": network} | _named(means) | _bounds(gap=gap, distance=far))
    caption = (
        f"Table 2 of Keskar et al. (2017) in form: {MEAN[0].lower()}{MEAN[1:]}, at the end, in evaluation mode; the "
        f"last but one column is the ratio of the distances from the start; {PAIRED}. {results.setting()}"
    )
    title = "Accuracies, and distances from the start (Table 2)"
    columns = [*header, "distance SB / LB", "pairs"]
    return TextTable("table2_accuracies", title, columns, rows, pd.DataFrame(values), caption)


NUMBERS = {"full": ("table3_sharpness", 3), "subspace": ("table4_subspace", 4)}
"""The tables of sharpness by space: the name here, and the number in the paper."""


def sharpness(results: Results, space: str) -> TextTable:
    """Return Table 3 (full space) or 4 (random dimensions) of the paper: Metric 2.1 in both boxes."""
    name, number = NUMBERS[space]
    known = rows_where(results.sharpness, arm="base", space=space)
    searched = [(n, s, rows_where(known, network=n, search=s)) for n in results.networks for s in WORDS]
    shown = [(n, s, found) for n, s, found in searched if len(found) or s == "published"]
    lines = [_sharpness_row(*each) for each in shown]
    climbs = [f"{n}: {sum(found['complete'])} of {len(found)}" for n, s, found in shown if s == "climbed"]
    p = results.subspace
    where = "full space" if space == "full" else f"span of {p} random columns with standard normal entries"
    ended = f"Climbs with nothing left to gain: {'; '.join(climbs)} boxes. " if climbs else ""
    caption = (
        f"Table {number} of Keskar et al. (2017) in form: Metric 2.1 in per cent, {where}. Published: 10 iterations "
        "of L-BFGS-B, which start here from the corner of the box along the gradient (the paper does not say where); "
        f"climbed: until it stops growing. Both bound the metric from below. {ended}{MEAN}; {PAIRED}. "
        f"{results.setting()}"
    )
    header = [""]
    for epsilon in EPSILONS:
        header += [f"SB, ε = {epsilon:g} [%]", "LB [%]", "LB / SB"]
    title = f"Sharpness in {'the full space' if space == 'full' else f'{p} random dimensions'} (Table {number})"
    rows, values = [cells for cells, _ in lines], pd.DataFrame([line for _, line in lines])
    return TextTable(name, title, [*header, "pairs"], rows, values, caption)


def _sharpness_row(network: str, search: str, found: pd.DataFrame) -> tuple[list[str], dict[str, Any]]:
    cells, line, pairs = [f"{network}, {search}"], {"network": network, "search": search}, 0
    for epsilon in EPSILONS:
        sides = {role: rows_where(found, epsilon=epsilon, role=role) for role in ROLES}
        means = {f"phi_{role}_{epsilon:g}": summarise(floats(side, "phi")) for role, side in sides.items()}
        factor = ratio(sides["SB"], sides["LB"], "phi")
        cells += [*map(numbers.mean_and_std, means.values()), numbers.ratio(factor)]
        line |= _named(means) | _bounds(**{f"ratio_{epsilon:g}": factor})
        pairs = factor.n
    return [*cells, str(pairs)], line


def remedies(results: Results) -> TextTable:
    """Return accuracy and sharpness under each remedy, against LB and against SB without."""
    header = ["", "test accuracy [%]", "minus LB [pp]", "φ [%]", "φ / φ of SB", "φ / φ of LB", "n"]
    small, large = (results.runs(role, "base") for role in ROLES)
    rows, values = [], []
    for name, role, arm in REMEDIES:
        runs = results.runs(role, arm)
        means = {column: summarise(floats(runs, column)) for column in ("test_accuracy", "phi")}
        gain = difference(large, runs, "test_accuracy")
        to_small, to_large = (ratio(side, runs, "phi") for side in (small, large))
        accuracy, phi = (numbers.mean_and_std(mean) for mean in means.values())
        texts = [numbers.difference(gain), numbers.ratio(to_small), numbers.ratio(to_large)]
        itself = {"none, SB": (1,), "none, LB": (0, 2)}.get(name, ())  # compared with itself it says nothing
        texts = [numbers.ABSENT if number in itself else text for number, text in enumerate(texts)]
        rows.append([name, accuracy, texts[0], phi, *texts[1:], str(len(runs))])
        values.append({"remedy": name} | _named(means) | _bounds(minus_LB=gain, over_SB=to_small, over_LB=to_large))
    caption = (
        "Remedies of Appendix E and section 5 of Keskar et al. (2017) with settings of our own: mirror images and "
        "shifts by up to 2 pixels (no rotations); conservative training with lambda 1e-3 and 3 inner steps of Adam; "
        "robust training as SAM with rho 0.05 (adversarial and stability training, which change the inputs, were not "
        "run); a batch that grows from SB to LB in three steps. "
        f"φ: {results.measure}, on the unchanged training examples. {above_the_goal(results, 'augmentation')}"
        f"{MEAN}; {PAIRED}. {results.setting(results.arms)}"
    )
    return TextTable("remedies_table", "Remedies", header, rows, pd.DataFrame(values), caption)


def critics(results: Results) -> TextTable:
    """Return LB against SB under each condition that the critics ask for."""
    header = ["", "η of LB", "updates of LB", "train loss SB", "train loss LB"]
    header += ["test LB - SB [pp]", "φ LB / SB", "pairs"]
    rows, values, notes = [], [], []
    for each in comparisons(results):
        sides = {"train_loss_SB": each.small, "train_loss_LB": each.large}
        losses = {name: summarise(floats(side, "train_loss")) for name, side in sides.items()}
        gap, factor = each.difference("test_accuracy"), each.ratio("phi")
        texts = [*map(numbers.mean_and_std, losses.values()), numbers.difference(gap), numbers.ratio(factor)]
        pairs = len(pair(each.small, each.large, "test_accuracy")[0])
        rows.append([each.name, _common(each.large, "rate"), _common(each.large, "step"), *texts, str(pairs)])
        values.append({"condition": each.name} | _named(losses) | _bounds(gap=gap, phi_ratio=factor))
        notes += [f"{each.name[0].upper()}{each.name[1:]}: {each.note}. "] if each.note else []
    further = "; as many updates as SB makes; both trained to one training loss" if results.goal is None else ""
    caption = (
        "LB against SB under the conditions of the paper's critics: learning rates scaled by LB / SB or its root, or "
        f"the best of those tried for each by accuracy on held-out examples{further}. {equal_otherwise(results)}"
        "Where nothing is said SB is that of the first row. "
        f"φ: {results.measure}. {''.join(notes)}{MEAN}; {PAIRED}, and where rates are tuned resamples "
        f"of the seeds that choose them anew. {results.setting(results.arms)}"
    )
    return TextTable("critics_table", "LB against SB as the critics ask", header, rows, pd.DataFrame(values), caption)


def _common(rows: pd.DataFrame, name: str) -> str:
    """Return the learning rate or the number of updates of the runs: one number, or their range."""
    values = floats(rows, name)
    if not len(values):
        return numbers.ABSENT
    return span(values, "{:.3g}".format if name == "rate" else "{:.0f}".format)


def _named(summaries: Mapping[str, Summary]) -> dict[str, Any]:
    """Return mean, standard deviation and number of each summary as columns."""
    row: dict[str, Any] = {}
    for name, summary in summaries.items():
        row |= {f"{name}_mean": summary.mean, f"{name}_std": summary.std, f"{name}_n": summary.n}
    return row


def _bounds(**intervals: Interval) -> dict[str, Any]:
    """Return value and bounds of each interval as columns."""
    row: dict[str, Any] = {}
    for name, each in intervals.items():
        row |= {name: each.value, f"{name}_lower": each.lower, f"{name}_upper": each.upper}
    return row
