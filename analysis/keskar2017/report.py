"""What ``scripts/keskar2017_more.py`` shows: tables and figures of Keskar et al. 2017 beyond the pairs, verdicts."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from analysis import numbers
from analysis.keskar2017 import figures
from analysis.keskar2017.curves import curves, from_minimum
from analysis.keskar2017.findings import accuracy_threshold, findings
from analysis.keskar2017.numbers import Results, batch_rows, comparisons, results_of, warm_rows
from analysis.keskar2017.tables import REMEDIES, tables_of
from analysis.report import Drawing, Rendered, Report, drawn_all, write_study
from analysis.texts import slug
from analysis.tidy import Place, Tables, counts, load, refused
from sharpness.plots.frames import floats, groups, rows_where

PATHS = {"line": (3, "straight line"), "arc": (7, "arc (curvilinear path)")}


def render(places: Iterable[Place], measured: Iterable[Path], settings: Mapping[str, Any], out: Path) -> Rendered:
    """Read the runs and write figures, tables and verdicts into ``out``."""
    tables = load(places, measured)
    return write_study(report(tables, settings), tables, settings, out)


def report(tables: Tables, settings: Mapping[str, Any]) -> Report:
    """Return everything that the study shows."""
    results = results_of(tables, settings)
    verdicts = findings(results, settings["preset"])
    return Report(drawn_all(drawings(results)), tables_of(results), list(sentences(results)), verdicts)


def sentences(results: Results) -> Iterator[str]:
    """Yield how many runs there are, which did not finish, and what was chosen or left out in the comparisons."""
    yield counts(results.tables)
    for row in refused(results.tables):
        who = ", ".join(str(row[name]) for name in ("network", "role", "arm") if row[name])
        yield f"{who}, seed {row['seed']} {row['status']}: {row['reason'] or 'no reason given'}."
    for each in comparisons(results):
        if each.note:
            yield f"{each.name[0].upper()}{each.name[1:]}: {each.note}."


def drawings(results: Results) -> dict[str, Callable[[], Drawing | str]]:
    """Return what draws each figure, by name."""
    drawn: dict[str, Callable[[], Drawing | str]] = {
        "sketch": partial(_sketch, results),
        "training_curves": partial(_training_curves, results),
    }
    drawn |= {
        f"{path}_{slug(name)}": partial(_between, results, path, name) for path in PATHS for name in results.networks
    }
    return drawn | {
        "batch_size": partial(_batch_size, results),
        "warm_start": partial(_warm_start, results),
        "along_training": partial(_along_training, results),
        "remedies": partial(_remedies, results),
        "critics": partial(_critics, results),
    }


def _by_network(table: pd.DataFrame, results: Results) -> pd.DataFrame:
    """Return the rows in the order of the networks."""
    return pd.concat([rows_where(table, network=network) for network in results.networks], ignore_index=True)


def unseen(table: pd.DataFrame) -> str:
    """Say how many values of sharpness a logarithmic axis cannot show, if any.

    >>> unseen(pd.DataFrame({"phi": [1.0, 0.0]}))
    'Not on the log axis: 1 sharpness of 0. '
    """
    count = int(np.sum(floats(table, "phi") <= 0))
    return f"Not on the log axis: {count} sharpness of 0. " if count else ""


def _sketch(results: Results) -> Drawing | str:
    rows = results.tables.rows("slices")
    if rows.empty:
        return "no slice through two minima was measured"
    table = _by_network(from_minimum(rows), results)
    caption = (
        "A flat and a sharp minimum as in the sketch of Figure 1 of Keskar et al. (2017), measured: loss (log axis) on "
        "a slice through the SB and one through the LB solution, both in the direction of the line from SB to LB, "
        "against the Euclidean distance from the lowest training loss of each. Solid: training, dashed: test. Bold: "
        f"the first seed; thin: the others. {results.setting()}"
    )
    return Drawing(figures.sketch(table), table, caption)


def _training_curves(results: Results) -> Drawing | str:
    rows = rows_where(results.tables.epochs, arm="base")
    if rows.empty:
        return "no run of a pair was trained"
    kept = rows.filter(["network", "role", "seed", "status", "epoch", "train_accuracy", "test_accuracy"])
    scaled = {f"{split}_accuracy": 100 * floats(kept, f"{split}_accuracy") for split in ("train", "test")}
    table = _by_network(kept.assign(**scaled), results)
    caption = (
        "Accuracy along training, as in Figure 2 of Keskar et al. (2017): one line per run; solid: training, mean over "
        "the epoch's own steps; dashed: test, at the end of the epoch. The axis starts above epoch 0. "
        f"{results.setting()}"
    )
    return Drawing(figures.training_curves(table), table, caption)


def _between(results: Results, path: str, network: str) -> Drawing | str:
    table = curves(results.tables, path, network)
    if table.empty:
        return "no pair of finished runs was measured"
    number, words = PATHS[path]
    seeds = [seed for seed, _ in groups(table, "seed")]
    caption = (
        f"Cross-entropy (left, log) and accuracy (right) on the {words} through SB (alpha = 0) and LB (alpha = 1) of "
        f"one seed, as in Figure {number} of Keskar et al. (2017); solid: training, dashed: test. Bold: seed "
        f"{seeds[0]}; n = {len(seeds)} pairs. {results.setting(network)}"
    )
    return Drawing(figures.between(table, path), table, caption)


def _batch_size(results: Results) -> Drawing | str:
    rows = batch_rows(results)
    if not (floats(rows, "phi") > 0).any():
        return "no run of the batch sizes has a sharpness"
    found = accuracy_threshold(rows)
    largest = rows_where(rows, batch_size=rows["batch_size"].max())
    loss = numbers.significant(float(np.mean(floats(largest, "train_loss"))), 2)
    if found.batch.value is None:
        seen = f"No threshold of the accuracy: {found.batch.reason}."
    else:
        seen = (
            f"Band: where accuracy begins to fall, {numbers.ratio(found.batch)}; permutation test, p = {found.p:.2g}."
        )
    caption = (
        "Test accuracy and sharpness against the batch size at equal epochs and one learning rate, as in Figure 4 of "
        f"Keskar et al. (2017). One dot per run, lines through the means, of sharpness geometric. {seen} Sharpness: "
        f"{results.measure}. {unseen(rows)}With "
        f"equal epochs large batches make few updates: the mean training loss at the largest is {loss} nats. "
        f"{results.setting(results.arms)}"
    )
    table = rows.filter(["batch_size", "seed", "train_loss", "test_accuracy", "phi"])
    return Drawing(figures.batch_size(table, found), table, caption)


def _warm_start(results: Results) -> Drawing | str:
    large = warm_rows(results)
    if not (floats(large, "warm_epochs") > 0).any():
        return "no run was started from an iterate of SB"
    small = rows_where(results.tables.epochs, network=results.arms, role="SB", arm="base", status="finished")
    small = small.assign(test_accuracy=100 * floats(small, "test_accuracy"))
    caption = (
        "LB started from iterates of SB (warm, or piggybacked, starts), as in Figure 5 of Keskar et al. (2017): test "
        "accuracy of the iterate and of LB trained from it (top) and sharpness of that LB (bottom). One dot per run, "
        "lines through the means, of sharpness geometric; dotted: LB from x0. Sharpness: "
        f"{results.measure}. {unseen(large)}{results.setting(results.arms)}"
    )
    shown = large.filter(["warm_epochs", "seed", "test_accuracy", "phi"]).assign(role="LB")
    iterates = small.filter(["epoch", "seed", "test_accuracy"]).rename(columns={"epoch": "warm_epochs"})
    table = pd.concat([shown, iterates.assign(role="SB")], ignore_index=True)
    return Drawing(figures.warm_start(table), table, caption)


def _along_training(results: Results) -> Drawing | str:
    rows = results.tables.rows("along_training")
    if rows.empty or not (floats(rows, "phi") > 0).any():
        return "no checkpoint was measured"
    epochs = ", ".join(f"{epoch:g}" for epoch in sorted(set(rows["epoch"])))
    caption = (
        "Sharpness against training loss along training, as in Figure 6 of Keskar et al. (2017): at the ends of epochs "
        f"{epochs}. Thin: one line per run; marks: geometric means over the seeds at an epoch. Sharpness: "
        f"{results.measure}. {unseen(rows)}{results.setting(results.arms)}"
    )
    table = rows.filter(["role", "seed", "epoch", "loss", "phi"])
    return Drawing(figures.along_training(table), table, caption)


def _remedies(results: Results) -> Drawing | str:
    rows = [{"name": name, "runs": {role: results.runs(role, arm)}} for name, role, arm in REMEDIES]
    return _arms(rows, "The remedies of the table of that name", results)


def _critics(results: Results) -> Drawing | str:
    rows = [{"name": each.name, "runs": {"SB": each.small, "LB": each.large}} for each in comparisons(results)]
    return _arms(rows, "SB and LB under the conditions of the table of that name", results)


def _arms(rows: list[dict[str, Any]], about: str, results: Results) -> Drawing | str:
    parts = [
        runs.filter(["seed", "test_accuracy", "phi"]).assign(name=row["name"], role=role)
        for row in rows
        for role, runs in row["runs"].items()
        if len(runs)
    ]
    if not any((floats(part, "phi") > 0).any() for part in parts):
        return "no run has a sharpness"
    table = pd.concat(parts, ignore_index=True)
    caption = (
        f"{about}: test accuracy and sharpness ({results.measure}). One dot per finished run, marks at the means "
        f"(geometric for sharpness). {unseen(table)}{results.setting(results.arms)}"
    )
    return Drawing(figures.arms(rows), table, caption)
