"""The report of Keskar et al. 2017: figures, tables, sentences and verdicts of ``scripts/keskar2017.py``."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from functools import partial
from typing import Any

import pandas as pd

from analysis.keskar2017 import arm_figures, captions, figures, tables
from analysis.keskar2017.association import changes
from analysis.keskar2017.comparisons import Comparison, comparisons
from analysis.keskar2017.curves import curves, from_solution, in_per_cent, splits_along, training_table
from analysis.keskar2017.findings import accuracy_threshold, findings
from analysis.keskar2017.numbers import (
    ROLES,
    Results,
    batch_rows,
    drawable,
    going_on,
    results_of,
    solutions,
    warm_rows,
)
from analysis.keskar2017.sentences import checks_of_arms, checks_of_pairs, correlations, of_pairs
from analysis.report.report import Drawing, Drawings, Report
from analysis.report.texts import slug
from analysis.runs import Tables
from sharpness.plots.frames import floats, records, rows_if, rows_where
from sharpness.plots.grids import plane_table
from sharpness.plots.networks import Network
from sharpness.plots.plane import plane_figure
from sharpness.records import ProbeRecord

Draw = Callable[[], Drawing | str]
"""Returns a drawing, or the reason why there is none."""
SURFACE = "random_plane"
MEASURES = ("top_eigenvalue", "trace", "keskar_sharpness", "worst_case")
"""The measures of sharpness of the first network's pairs; the last is the one that no rescaling moves."""
ACCURACY_COLUMNS = ["test_accuracy", "test_loss", "top_eigenvalue", "lower", "upper", "confidence", *MEASURES[1:]]


def report(loaded: Tables, settings: Mapping[str, Any]) -> Report:
    """Return everything that the study shows: of the first network's pairs, and with arms of all networks."""
    results = results_of(loaded, settings)
    drawings, sentences, checks = of_first_pairs(results), of_pairs(results), checks_of_pairs(results)
    if settings["arms"] is None:
        return Report(Drawings(drawings), [tables.pairs(results)], sentences, checks=checks)
    drawings |= of_networks_and_arms(results)
    if settings["beside"]:
        drawings["conditions"] = partial(_conditions, results)
    if settings["ranges"]["sharp_starts"]:
        drawings["escape"] = partial(_escape, results)
    return Report(
        Drawings(drawings),
        [tables.pairs(results), *tables.of_networks_and_arms(results)],
        sentences,
        findings(results, settings["preset"]),
        [*checks, *checks_of_arms(results)],
    )


def of_first_pairs(results: Results) -> dict[str, Draw]:
    """Return what draws each figure of the first network's pairs, by name."""
    return {
        "pairs": partial(_pairs, results),
        "training_curves": partial(_training_curves, results),
        f"line_{slug(results.first)}": partial(_between, results, "line", results.first),
        "accuracy_vs_sharpness": partial(_accuracy_vs_sharpness, results),
    }


def of_networks_and_arms(results: Results) -> dict[str, Draw]:
    """Return what draws each figure of all networks' pairs, and of what is varied on one, by name."""
    between = {
        f"{path}_{slug(network)}": partial(_between, results, path, network)
        for path in captions.PATHS
        for network in results.networks
    }
    return {
        "sketch": partial(_sketch, results),
        **{f"surfaces_{slug(network)}": partial(_surfaces, results, network) for network in results.networks},
        "accuracy_curves": partial(_accuracy_curves, results),
        **between,
        "batch_size": partial(_batch_size, results),
        "warm_start": partial(_warm_start, results),
        "along_training": partial(_along_training, results),
        "remedies": partial(_remedies, results),
        "critics": partial(_critics, results),
    }


def _training_curves(results: Results) -> Drawing | str:
    table = training_table(results)
    if not splits_along(table):
        return "no run has a finite training loss after epoch 0"
    return Drawing(figures.training_curves(table), table, captions.training_curves(results, table))


def _pairs(results: Results) -> Drawing | str:
    table = solutions(results).filter(["role", "seed", *ACCURACY_COLUMNS])
    ratios = {
        each.label.replace("λ_max", r"$\lambda_{\max}$"): each.ratio
        for each in tables.compared(results)
        if each.quantity in MEASURES
    }
    if all(each.value is None for each in ratios.values()):
        return "no pair of finished runs has a measure of sharpness"
    return Drawing(figures.pairs(table, ratios), table, captions.pairs(results))


def _accuracy_vs_sharpness(results: Results) -> Drawing | str:
    table = solutions(results).filter(["role", "seed", *ACCURACY_COLUMNS])
    if all(drawable(table, quantity).empty for quantity in captions.NAMES):
        return "no finished run has both a test accuracy and a positive sharpness"
    figure = figures.accuracy_vs_sharpness(table, correlations(table))
    return Drawing(figure, table, captions.accuracy_vs_sharpness(results, table))


def _between(results: Results, path: str, network: str) -> Drawing | str:
    table = curves(results, path, network)
    if table.empty:
        return "no pair of finished runs was measured"
    return Drawing(figures.between(table, path), table, captions.between(results, path, network, table))


def _by_network(table: pd.DataFrame, results: Results) -> pd.DataFrame:
    """Return the rows in the order of the networks."""
    return pd.concat([rows_where(table, network=network) for network in results.networks], ignore_index=True)


def _sketch(results: Results) -> Drawing | str:
    rows = results.tables.rows("slices")
    if rows.empty:
        return "no slice through two minima was measured"
    table = _by_network(from_solution(rows), results)
    return Drawing(figures.sketch(table), table, captions.sketch(results))


def _accuracy_curves(results: Results) -> Drawing | str:
    columns = ["network", "role", "seed", "status", "epoch", "train_accuracy", "test_accuracy"]
    table = _by_network(in_per_cent(rows_where(results.tables.epochs, arm="base").filter(columns)), results)
    if not splits_along(table):
        return "no run of a pair was trained"
    return Drawing(figures.accuracy_curves(table), table, captions.accuracy_curves(results, table))


def _batch_size(results: Results) -> Drawing | str:
    rows = batch_rows(results)
    if not (floats(rows, "phi") > 0).any():
        return "no run of the batch sizes has a sharpness"
    found = accuracy_threshold(rows)
    table = rows.filter(["batch_size", "seed", "train_loss", "test_accuracy", "phi"])
    return Drawing(arm_figures.batch_size(table, found), table, captions.batch_size(results, rows, found))


def _warm_start(results: Results) -> Drawing | str:
    large = warm_rows(results)
    if not (floats(large, "warm_epochs") > 0).any():
        return "no run was started from an iterate of SB"
    columns = ["role", "warm_epochs", "seed", "test_accuracy", "phi"]
    small = rows_where(results.tables.epochs, network=results.arms, role="SB", arm="base", status="finished")
    starts = [epochs for epochs in large["warm_epochs"] if epochs > 0]
    iterates = in_per_cent(small.assign(warm_epochs=small["epoch"])).dropna(subset=["test_accuracy"])
    parts = [large, rows_if(iterates, iterates["warm_epochs"].isin(starts))]
    table = pd.concat([part.filter(columns) for part in parts if len(part)], ignore_index=True)
    return Drawing(arm_figures.warm_start(table), table, captions.warm_start(results, table))


def _along_training(results: Results) -> Drawing | str:
    rows = results.tables.rows("along_training", "phi")
    if not (floats(rows, "phi") > 0).any():
        return "no checkpoint was measured"
    table = rows.filter(["role", "seed", "epoch", "loss", "phi"])
    return Drawing(arm_figures.along_training(table), table, captions.along_training(results, rows))


def _surfaces(results: Results, network: str) -> Drawing | str:
    rows = records(rows_where(results.tables.rows("surfaces", "network", "role", "record"), network=network))
    found = {row["role"]: ProbeRecord.from_dict(row["record"]) for row in rows}
    networks = [Network(figures.ROLE[role].label, {SURFACE: found[role]}) for role in ROLES if role in found]
    table = plane_table(networks, SURFACE)
    if len(networks) < len(ROLES) or table.empty:
        return "no plane around both minima was measured"
    return Drawing(
        plane_figure(table, networks, SURFACE, columns=1), table, captions.surfaces(results, network, table, networks)
    )


def _escape(results: Results) -> Drawing | str:
    table = going_on(results)
    if rows_if(table, table["after"] != "").empty:
        return "no training went on from a minimum"
    return Drawing(arm_figures.escape(table), table.drop(columns="place"), captions.escape(results))


def _remedies(results: Results) -> Drawing | str:
    about = "LB with each remedy against SB without, or with augmentation against SB with it"
    small = results.runs("SB", "base")
    sides = {
        name.removesuffix(", LB"): (
            results.runs("SB", arm) if arm == "augmentation" else small,
            results.runs(role, arm),
        )
        for name, role, arm in tables.REMEDIES
        if role == "LB"
    }
    note = captions.above_the_goal(results, "augmentation")
    return _forests([Comparison(name, *pair) for name, pair in sides.items()], about, note, results)


def _critics(results: Results) -> Drawing | str:
    about = "LB against SB under the conditions of the table of that name"
    return _forests(comparisons(results), about, captions.equal_otherwise(results), results)


def _forests(sides: Sequence[Comparison], about: str, note: str, results: Results) -> Drawing | str:
    differences = {each.name: each.difference("test_accuracy") for each in sides}
    ratios = {each.name: each.ratio("phi") for each in sides}
    if all(each.value is None for each in ratios.values()):
        return "no pair has a sharpness"
    rows = [
        {"name": name, "what": what, "value": each.value, "lower": each.lower, "upper": each.upper, "n": each.n}
        for what, found in (("difference of test accuracy", differences), ("ratio of sharpness", ratios))
        for name, each in found.items()
    ]
    figure = arm_figures.forests(differences, ratios)
    return Drawing(figure, pd.DataFrame(rows), captions.forests(results, about, note))


def _conditions(results: Results) -> Drawing | str:
    table = changes(results)
    if table.empty:
        return "no condition has a run beside the SB run of its seed"
    return Drawing(arm_figures.conditions(table), table, captions.conditions(results))
