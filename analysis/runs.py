"""Read the runs of a study into tidy tables, keeping every run in the count: finished, diverged and missing ones."""

from __future__ import annotations

import hashlib
import json
import math
import re
import sys
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pandas as pd

from sharpness.errors import InputError
from sharpness.files import iterate_lines, read_jsonl
from sharpness.parsing import MAX_TOML, parse_toml, read_bounded, read_object, shown_value
from sharpness.plots.frames import records, rows_where
from sharpness.plots.save import rendered_with
from sharpness.records import ProbeRecord
from sharpness.records.stored import detail, glance, read_record

Place = tuple[Mapping[str, Any], Path]
"""The labels of a run and the folder it is expected in."""
SPLITS = ("train", "validation", "test")
FINAL = tuple(f"{split}_{name}" for split in SPLITS for name in ("loss", "accuracy"))
OUTCOME = ("ended_by", "reached", "steps_to_result", "step", "examples", "epochs_done", "seconds")
FACTS = ("git_commit", "device", "threads", "data_sha256")
PROBE_FIELDS = ("value", "lower", "upper", "confidence", "residual", "converged", "num_examples", "norm", "dtype")
PROBE_COLUMNS = ("probe", "quantity", *PROBE_FIELDS, "knobs", "details", "reason")
MANIFEST_SCHEMA = 1
SETTINGS = {
    "training": ("optimizer", "learning_rate", "batch_size", "momentum", "weight_decay", "epochs", "seed"),
    "model": ("name", "norm"),
    "data": ("num_train",),
}
SETTING_COLUMNS = ("model", *(key for keys in SETTINGS.values() for key in keys if key != "name"))
LOGGED = ("run_id", "status", "epoch", "step")
LOSSES = tuple(f"{split}_{name}" for split in ("train", "test") for name in ("loss", "accuracy"))


@dataclass(frozen=True)
class Tables:
    """Everything that a study's figures need; losses in nats, accuracies in [0, 1].

    The labels are columns of every table. ``runs`` has a row per place, ``epochs`` one per run and logged epoch,
    ``tracked`` one per run and measurement while training, ``probes`` one per run, probe and quantity, and
    ``measured`` by name the rows of a study's own measurements. What was not measured is NaN or None.
    """

    runs: pd.DataFrame
    epochs: pd.DataFrame = field(default_factory=pd.DataFrame)
    tracked: pd.DataFrame = field(default_factory=pd.DataFrame)
    probes: pd.DataFrame = field(default_factory=pd.DataFrame)
    measured: Mapping[str, pd.DataFrame] = field(default_factory=dict)

    @property
    def finished(self) -> pd.DataFrame:
        """The runs that finished."""
        return rows_where(self.runs, status="finished")

    def rows(self, name: str, *columns: str) -> pd.DataFrame:
        """Return a table of the study's own measurements, with these columns even where nothing was measured."""
        return with_columns(self.measured.get(name, pd.DataFrame()), columns)


def load(places: Iterable[Place], measured: Iterable[Path]) -> Tables:
    """Read the run of every place and the files of the study's tasks; a place without a finished run stays in ``runs``.

    Raises :class:`InputError` for a damaged file or a label that is also a column.
    """
    places = list(places)
    runs, epochs, tracked, probes = [], [], [], []
    for labels, folder in places:
        row = _run_row(labels, folder)
        runs.append(row)
        shared = dict(labels) | {"run_id": row["run_id"], "status": row["status"]}
        if row["status"] != "missing":  # half of a curve beside whole ones would mislead
            epochs += [shared | each for each in read_jsonl(folder / "train.jsonl")]
            tracked += [shared | each for each in read_jsonl(folder / "measures.jsonl")]
        if row["status"] == "finished":
            probes.append((shared, _probe_rows(folder, row["checkpoint_sha256"])))
    current = {row["run_id"]: row["checkpoint_sha256"] for row in runs if row["status"] == "finished"}
    labels = [str(name) for labels, _ in places for name in labels]
    return Tables(
        runs=with_columns(pd.DataFrame(runs), SETTING_COLUMNS),
        epochs=with_columns(pd.DataFrame(epochs), [*labels, *LOGGED, *LOSSES]),
        tracked=with_columns(pd.DataFrame(tracked), [*labels, *LOGGED, "top_eigenvalue"]),
        probes=with_columns(_probes_table(probes), [*labels, "run_id", "probe", "quantity", *PROBE_FIELDS]),
        measured=_measured(measured, current),
    )


def with_columns(table: pd.DataFrame, columns: Iterable[str]) -> pd.DataFrame:
    """Return a table that has these columns after its own, without values where it had none.

    >>> list(with_columns(pd.DataFrame({"seed": [0]}), ["seed", "loss"]))
    ['seed', 'loss']
    """
    every = pd.Index(dict.fromkeys([*table.columns, *columns]))
    # Columns without rows are objects, which merge with columns of any kind.
    return table.reindex(columns=every) if len(table) else pd.DataFrame(columns=every)


def read_config(folder: Path) -> dict[str, Any]:
    """Return a run's config by tables, empty where there is none; damage is :class:`InputError`."""
    path = folder / "config.toml"
    if not path.exists():
        return {}
    try:
        config = parse_toml(read_bounded(path, "a config", MAX_TOML).decode())
    except InputError:
        raise
    except ValueError as error:
        raise InputError(f"expected TOML in {path}, got an error: {error}") from error
    return {name: table for name, table in config.items() if isinstance(table, dict)}


def read_manifest(folder: Path) -> dict[str, Any]:
    """Return a run's manifest, empty where there is none; damage and a newer schema are :class:`InputError`."""
    path = folder / "manifest.json"
    if not path.exists():
        return {}
    manifest = read_object(path, "a manifest")
    schema = manifest.get("schema", 0)
    if type(schema) is not int or schema > MANIFEST_SCHEMA:
        raise InputError(f"{path}: expected schema {MANIFEST_SCHEMA}, got {shown_value(schema)}: update the package")
    for name in ("files", "final", "average"):
        if not isinstance(manifest.get(name) or {}, dict):
            raise InputError(f"{path}: expected an object as {name}, got {shown_value(manifest[name])}: train again")
    return manifest


def read_probes(folder: Path) -> Iterator[ProbeRecord]:
    """Yield all probe records of a run, one by one; :class:`InputError` that names the line for what is none."""
    return map(read_record, iterate_lines(folder / "probes.jsonl"))


def status_of(folder: Path, manifest: Mapping[str, Any]) -> tuple[str, str | None]:
    """Return ``finished``, ``diverged`` or ``missing``, and the reason of the last two."""
    if not folder.is_dir():
        return "missing", "there is no run folder"
    if not manifest:
        return "missing", "the run folder has no manifest: training has not finished"
    if manifest.get("status") in ("finished", "diverged"):
        return manifest["status"], manifest.get("reason")
    return "missing", f"the manifest's status is {manifest.get('status')!r}"


def final_checkpoint(files: Mapping[str, str]) -> str | None:
    """Return the hash of the checkpoint with the highest step.

    >>> final_checkpoint({"checkpoint-9.safetensors": "a", "checkpoint-10.safetensors": "b", "train.jsonl": "c"})
    'b'
    """
    pattern = r"checkpoint-(\d{1,18})\.safe"
    steps = {int(m[1]): digest for name, digest in files.items() if (m := re.match(pattern, name))}
    return steps[max(steps)] if steps else None


def _run_row(labels: Mapping[str, Any], folder: Path) -> dict[str, Any]:
    """Return what one run was and where it ended; only a finished run has final numbers."""
    manifest = read_manifest(folder)
    status, reason = status_of(folder, manifest)
    row: dict[str, Any] = {"run_id": manifest.get("run_id", folder.name), "status": status, "reason": reason}
    row |= _settings(folder) | {key: manifest.get(key) for key in (*OUTCOME, *FACTS)}
    row["checkpoint_sha256"] = final_checkpoint(manifest.get("files") or {})
    final, average = (manifest.get(key) or {} for key in ("final", "average"))
    row |= {key: final.get(key) for key in FINAL} | {f"average_{key}": average.get(key) for key in FINAL}
    clash = row.keys() & labels.keys() - {name for keys in SETTINGS.values() for name in keys} - {"model"}
    if clash:
        raise InputError(f"expected labels that are no columns of their own, got {sorted(clash)}: rename them")
    return dict(labels) | {key: value for key, value in row.items() if key not in labels}


def _settings(folder: Path) -> dict[str, Any]:
    config = read_config(folder)
    if not config:
        return {}
    row = {key: config.get(table, {}).get(key) for table, keys in SETTINGS.items() for key in keys}
    row["model"] = row.pop("name")
    return row


def _probe_rows(folder: Path, checkpoint: str | None) -> Iterator[tuple[Any, ...]]:
    """Yield the records of the final weights, the last one of each probe, quantity, knobs, examples and other end.

    Each is a tuple by :data:`PROBE_COLUMNS`; there may be very many, so each text is there once.
    """
    kept: dict[bytes, tuple[Any, ...]] = {}
    texts: dict[str | None, str | None] = {}
    for line in iterate_lines(folder / "probes.jsonl"):
        record = glance(line)
        if record.get("checkpoint_sha256") not in (None, checkpoint):
            continue
        knobs = {sys.intern(name): value for name, value in record.get("knobs", {}).items()}
        measured = [detail(line, name) for name in ("subset", "other_checkpoint_sha256")]
        key = repr([record["probe"], record["quantity"], knobs, *measured]).encode()
        reasons = "; ".join(f"{name}: {why}" for name, why in record.get("reasons", {}).items())
        row = record | {"knobs": knobs, "reason": reasons or None}
        for name in ("probe", "quantity", "norm", "dtype", "reason"):
            row[name] = texts.setdefault(row.get(name), row.get(name))
        kept[hashlib.sha256(key).digest()] = tuple(map(row.get, PROBE_COLUMNS))
    yield from kept.values()


def _probes_table(places: Iterable[tuple[Mapping[str, Any], Iterable[tuple[Any, ...]]]]) -> pd.DataFrame:
    """Return the table of what :func:`_probe_rows` yields for each place, its labels before them.

    It is put together by columns, which take a tenth of the memory of dictionaries by rows.
    """
    columns, count = dict[str, list[Any]](), 0
    for shared, rows in places:
        found = list(rows)
        here = {name: [value] * len(found) for name, value in shared.items()} if found else {}
        here |= {name: list(values) for name, values in zip(PROBE_COLUMNS, zip(*found, strict=True), strict=False)}
        for name, values in here.items():
            columns[name] = columns.get(name, [math.nan] * count) + values
        count += len(found)
        for column in columns.values():  # labels that this place has not
            column += [math.nan] * (count - len(column))
    return pd.DataFrame(columns)


def _measured(files: Iterable[Path], current: Mapping[str, str | None]) -> dict[str, pd.DataFrame]:
    """Return the rows of every task that was done on the weights that its runs have now."""
    tables: dict[str, list[dict[str, Any]]] = {}
    for path in files:
        content = json.loads(path.read_text(encoding="utf-8"))
        if all(current.get(run) == digest for run, digest in content["checkpoints"].items()):
            labels = content["labels"] | {"run_id": next(iter(content["checkpoints"]), None)}
            tables.setdefault(content["name"], []).extend(labels | row for row in content["rows"])
    return {name: pd.DataFrame(rows) for name, rows in tables.items()}


def provenance(tables: Tables, settings: Mapping[str, Any]) -> dict[str, Any]:
    """Return where the numbers of a study come from; the runs themselves stand in ``runs.csv`` beside the figures."""
    runs = tables.runs
    facts = {name: sorted({str(value) for value in runs[name].dropna()}) for name in FACTS}
    counts = {status: len(rows_where(runs, status=status)) for status in ("finished", "diverged", "missing")}
    return {
        "schema": 1,
        "settings": dict(settings),
        "runs": counts,
        **facts,
        "runs_sha256": hashlib.sha256(runs_csv(tables).encode()).hexdigest(),
        "rendered_with": rendered_with("scipy", "seaborn"),
    }


def runs_csv(tables: Tables) -> str:
    """Return every run of the study with its outcome and hashes as CSV."""
    return tables.runs.to_csv(index=False, lineterminator="\n")


def counts(tables: Tables) -> str:
    """Say how many runs finished, diverged or are missing.

    Every caption ends with it, so that no run is left out of the count.
    """
    runs = tables.runs
    text = f"{len(tables.finished)} of {len(runs)} runs finished"
    for status in ("diverged", "missing"):
        number = len(rows_where(runs, status=status))
        if number:
            text += f", {number} {status}"
    return text + "."


def refused(tables: Tables) -> list[dict[str, Any]]:
    """Return the runs that did not finish, with their reasons."""
    return [row for row in records(tables.runs) if row["status"] != "finished"]
