"""``sharpness collect``: one tidy table over the records of many folders."""

from __future__ import annotations

import csv
import io
from pathlib import Path
from typing import Any

from sharpness.cli.options import Collect
from sharpness.cli.output import make_console, say
from sharpness.errors import InputError
from sharpness.files import write_atomically
from sharpness.machine.extras import extra
from sharpness.records.checkpoints import folders_of, place_of
from sharpness.records.stored import records_in
from sharpness.records.tables import frame_of, tidy_rows


def run_collect(command: Collect) -> None:
    """Read every folder and write the table; nothing is written where one of them is damaged."""
    if command.csv is None and command.parquet is None:
        raise InputError("expected --csv FILE or --parquet FILE, got neither: name the table to write")
    if command.parquet is not None:
        extra("pyarrow", "parquet")
    folders = folders_of(command.folders)
    rows = [row for folder in folders for row in rows_of_folder(folder)]
    if not rows:
        raise InputError(
            f"expected records in {', '.join(map(str, command.folders))}, got none: measure something first"
        )
    console = make_console()
    for path, content in ((command.csv, _csv), (command.parquet, _parquet)):
        if path is not None:
            path.parent.mkdir(parents=True, exist_ok=True)
            write_atomically(path, content(rows))
            say(console, f"{path}: {len(rows)} numbers of {len(folders)} folder{'s' if len(folders) != 1 else ''}")


def rows_of_folder(folder: Path) -> list[dict[str, Any]]:
    """Return the tidy rows of a folder's records, each with the folder, the checkpoint, its loss and its accuracy."""
    rows = []
    for record in records_in(folder / "probes.jsonl"):
        at = record.details.get("at_checkpoint") or {}
        where = {"folder": str(folder), "checkpoint": place_of(record)}
        of_it = {"loss": at.get("loss"), "accuracy": at.get("accuracy")}
        rows += [{**where, **row, **of_it} for row in tidy_rows([record])]
    return rows


def _csv(rows: list[dict[str, Any]]) -> bytes:
    stream = io.StringIO()
    writer = csv.DictWriter(stream, list(rows[0]), lineterminator="\n")
    writer.writeheader()
    writer.writerows(rows)
    return stream.getvalue().encode()


def _parquet(rows: list[dict[str, Any]]) -> bytes:
    stream = io.BytesIO()
    frame_of(rows).to_parquet(stream, index=False)
    return stream.getvalue()
