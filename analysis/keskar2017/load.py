"""Read run folders into tidy tables, keeping every run in the count: finished, diverged and missing ones."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pandas as pd

from analysis.tidy import PROBE_FIELDS, final_checkpoint, read_config, read_manifest, status_of
from sharpness.errors import InputError
from sharpness.records import ProbeRecord, read_jsonl

ROLES = ("SB", "LB")
FINAL = ("train_loss", "test_loss", "train_accuracy", "test_accuracy")
CURVES = ("train_loss", "train_accuracy", "test_loss", "test_accuracy")
FACTS = (
    "step",
    "epochs_done",
    "seconds",
    "git_commit",
    "device",
    "threads",
    "data_sha256",
    "config_sha256",
    "versions",
)
RUN_COLUMNS = ("role", "seed", "run_id", "batch_size", "status", "reason", *FINAL, "generalisation_gap")
RUN_COLUMNS = (*RUN_COLUMNS, *FACTS, "checkpoint_sha256")
EPOCH_COLUMNS = ("role", "seed", "run_id", "status", "epoch", "step", *FINAL, "seconds")
PROBE_COLUMNS = ("role", "seed", "run_id", "probe", "quantity", *PROBE_FIELDS, "reason", "details")
CURVE_COLUMNS = ("seed", "run_id", "alpha", *CURVES)
VALUE_COLUMNS = ("role", "seed", "quantity", "value")


@dataclass(frozen=True)
class Cell:
    """One place of the study's grid: a role (``SB`` or ``LB``), a seed, and the folder its run is expected in."""

    role: str
    seed: int
    folder: Path


@dataclass(frozen=True)
class Study:
    """Everything the figures need, as tidy tables; losses in nats, accuracies and gaps in [0, 1].

    ``runs`` has one row per cell, ``epochs`` one per run and epoch, ``probes`` one per run, probe and quantity,
    ``curves`` one per seed and alpha, and ``values`` one per finite number of a finished run (role, seed, quantity).
    A number that was not measured is NaN in the tables, and ``reason`` says why.
    """

    runs: pd.DataFrame
    epochs: pd.DataFrame
    probes: pd.DataFrame
    curves: pd.DataFrame
    values: pd.DataFrame


def load_study(cells: Iterable[Cell]) -> Study:
    """Read the run of every cell; a cell without a finished run stays in ``runs`` as ``missing`` or ``diverged``.

    Raises :class:`InputError` for an unknown role, a cell given twice, a run of another seed than its cell says, or a
    damaged file.
    """
    cells = sorted(cells, key=lambda cell: (ROLES.index(_checked_role(cell)), cell.seed))
    if len({(cell.role, cell.seed) for cell in cells}) < len(cells):
        raise InputError("expected each role and seed once, got one of them twice: give one run folder per cell")
    runs = [_run_row(cell) for cell in cells]
    large = {run["seed"]: run for run in runs if run["role"] == "LB" and run["status"] == "finished"}
    epochs, probes, curves = [], [], []
    for cell, run in zip(cells, runs, strict=True):
        epochs += _epoch_rows(cell, run)
        records = _final_records(cell, run, large.get(cell.seed))
        probes += [_probe_row(run, record) for record in records]
        curves += [row for record in records if record.quantity == "loss_barrier" for row in _curve_rows(run, record)]
    return Study(
        runs=_frame(runs, RUN_COLUMNS, numbers=(*FINAL, "generalisation_gap")),
        epochs=_frame(epochs, EPOCH_COLUMNS, numbers=FINAL),
        probes=_frame(probes, PROBE_COLUMNS, numbers=PROBE_FIELDS[:5]),
        curves=_frame(curves, CURVE_COLUMNS, numbers=("alpha", *CURVES)),
        values=_frame(_value_rows(runs, probes), VALUE_COLUMNS, numbers=("value",)),
    )


def _checked_role(cell: Cell) -> str:
    if cell.role not in ROLES:
        raise InputError(f"expected the role SB or LB, got {cell.role!r}: name the cell's role")
    return cell.role


def _frame(rows: list[dict[str, Any]], columns: tuple[str, ...], numbers: tuple[str, ...]) -> pd.DataFrame:
    frame = pd.DataFrame(rows, columns=pd.Index(columns))
    return frame.astype(dict.fromkeys(numbers, float))


def _run_row(cell: Cell) -> dict[str, Any]:
    """Return what one run was and where it ended; only a finished run has final numbers."""
    config, manifest = _config(cell), read_manifest(cell.folder)
    status, reason = status_of(cell.folder, manifest)
    row: dict[str, Any] = dict.fromkeys(RUN_COLUMNS) | {key: manifest.get(key) for key in FACTS}
    row |= {"role": cell.role, "seed": cell.seed, "status": status, "reason": reason}
    row["run_id"] = manifest.get("run_id", cell.folder.name)
    row["batch_size"] = config.get("training", {}).get("batch_size")
    row["checkpoint_sha256"] = final_checkpoint(manifest.get("files", {}))
    if status == "finished":
        row |= {key: manifest["final"][key] for key in FINAL}
        if None not in (row["train_accuracy"], row["test_accuracy"]):
            row["generalisation_gap"] = row["train_accuracy"] - row["test_accuracy"]
    return row


def _config(cell: Cell) -> dict[str, Any]:
    config = read_config(cell.folder)
    seed = config.get("training", {}).get("seed", cell.seed)
    if seed != cell.seed:
        path = cell.folder / "config.toml"
        raise InputError(f"{path}: expected a run of seed {cell.seed}, got seed {seed}: give the folder of that seed")
    return config


def _epoch_rows(cell: Cell, run: Mapping[str, Any]) -> list[dict[str, Any]]:
    # A run still in progress is counted as missing; half of its curve beside whole ones would mislead.
    if run["status"] == "missing":
        return []
    shared = {key: run[key] for key in ("role", "seed", "run_id", "status")}
    return [shared | row for row in read_jsonl(cell.folder / "train.jsonl")]


def _final_records(cell: Cell, run: Mapping[str, Any], large: Mapping[str, Any] | None) -> list[ProbeRecord]:
    """Return the last record of each probe and quantity, preferring those measured on the run's final weights."""
    if run["status"] != "finished":
        return []
    kept: dict[tuple[str, str], ProbeRecord] = {}
    for row in read_jsonl(cell.folder / "probes.jsonl"):
        record = ProbeRecord.from_dict(row)
        key, fault = (record.probe, record.quantity), _fault(record, run, large)
        if fault is None:
            kept[key] = record
        else:
            kept.setdefault(key, ProbeRecord(probe=key[0], quantity=key[1], value=None, reasons={"value": fault}))
    return list(kept.values())


def _fault(record: ProbeRecord, run: Mapping[str, Any], large: Mapping[str, Any] | None) -> str | None:
    """Say why a record does not describe the run's final weights (or, of a pair, those of the LB run), if so."""
    if _differ(record.checkpoint_sha256, run["checkpoint_sha256"]):
        return "measured on other weights than the run's final checkpoint"
    if record.details.get("subset") is not None and record.probe != "pyhessian":
        return "measured on a subset of the examples"
    if record.quantity != "loss_barrier":
        return None
    if large is None:
        return "there is no finished LB run of this seed"
    if _differ(record.details.get("other_checkpoint_sha256"), large["checkpoint_sha256"]):
        return "the other end is not the final checkpoint of the LB run of this seed"
    return None


def _differ(ours: str | None, theirs: str | None) -> bool:
    return ours is not None and theirs is not None and ours != theirs


def _probe_row(run: Mapping[str, Any], record: ProbeRecord) -> dict[str, Any]:
    row = {key: run[key] for key in ("role", "seed", "run_id")}
    row |= {key: getattr(record, key) for key in ("probe", "quantity", *PROBE_FIELDS, "details")}
    return row | {"reason": "; ".join(f"{name}: {why}" for name, why in record.reasons.items()) or None}


def _curve_rows(run: Mapping[str, Any], record: ProbeRecord) -> list[dict[str, Any]]:
    alphas = record.details.get("alphas", [])
    lists = {name: record.details.get(name) or [None] * len(alphas) for name in CURVES}
    shared = {"seed": run["seed"], "run_id": run["run_id"]}
    return [shared | {"alpha": alpha} | {name: lists[name][i] for name in CURVES} for i, alpha in enumerate(alphas)]


def _value_rows(runs: list[dict[str, Any]], probes: list[dict[str, Any]]) -> list[dict[str, Any]]:
    rows = [
        {"role": run["role"], "seed": run["seed"], "quantity": key, "value": run[key]}
        for run in runs
        for key in (*FINAL, "generalisation_gap")
    ]
    rows += [{key: probe[key] for key in VALUE_COLUMNS} for probe in probes]
    return [row for row in rows if row["value"] is not None]
