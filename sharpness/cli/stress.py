"""``sharpness stress``: every measure before and after a rescaling that changes no output, and which of them moved."""

from __future__ import annotations

import json
import time
from collections.abc import Iterator, Mapping
from dataclasses import asdict
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.table import Table

from sharpness.cli.knobs import Knobs
from sharpness.cli.options import Stress
from sharpness.cli.output import make_console, say, warn
from sharpness.cli.probe import asked_probes, checked_folder, deadline_of, options_of, show_checkpoint
from sharpness.errors import InputError, unknown_name
from sharpness.files import append_jsonl, iterate_lines
from sharpness.machine.environment import choose_device
from sharpness.measure.runner import applicable
from sharpness.measure.stress import STRESS_HEADS, stress_cells, stress_test, usable_rescalings
from sharpness.measure.subject import subject_sha256
from sharpness.measure.user_checkpoint import UserCheckpoint, load_user_checkpoint
from sharpness.parsing import shown_value
from sharpness.records import ProbeRecord
from sharpness.results import facts_of
from sharpness.symmetries.rescaling import Rescaling

Row = dict[str, Any]


def run_stress(command: Stress, knobs: Knobs) -> None:
    """Measure before and after, append a row per probe to ``stress.jsonl``, print the table and draw the figure."""
    deadline = deadline_of(command.seconds)
    console, device = make_console(command.json), choose_device(command.device)
    checked_folder(command.out)
    asked, named = asked_probes(command, knobs, "all")
    if command.trained_on is not None:
        raise InputError("expected no --trained-on with stress, got one: its directions are those of --data")
    checkpoint = load_user_checkpoint(command, command.checkpoint, device)
    show_checkpoint(console, checkpoint)
    rescaling = _chosen(console, command, checkpoint)
    if rescaling is None:
        return
    # PyHessian reads the module's own buffers, which stay as they are.
    points = {name: probe for name, probe in asked.items() if name in named or name not in ("pyhessian", "distance")}
    rows = []
    for name, probe in applicable(points, checkpoint.subject, named=named).items():
        if deadline is not None and time.perf_counter() >= deadline:
            warn(f"{name}: out of time: it was not begun")
            continue
        try:
            rows.append(_row(name, probe, checkpoint, rescaling, command))
        except InputError as error:
            if name in named:
                raise
            warn(f"{name}: does not apply: {error}")
    if command.json:
        _print_rows(rows)
    if rows:
        console.print(stress_table(rows, f"{rescaling.name}, alpha = {command.alpha:g} ({rescaling.kind})"))
        _draw(console, rows, command)


def _chosen(console: Console, command: Stress, checkpoint: UserCheckpoint) -> Rescaling | None:
    """Return the rescaling to use; with ``--rescaling list`` print those there are instead."""
    usable, refused = usable_rescalings(checkpoint.subject.loss, command.alpha)
    by_name = {rescaling.name: rescaling for rescaling in usable}
    if command.rescaling == "list":
        for rescaling in usable:
            say(console, f"{rescaling.kind:<4}  {rescaling.name}")
        for name, reason in refused.items():
            say(console, f"not usable  {name}: {reason}")
        return None
    if command.rescaling is None:
        return usable[0]
    if command.rescaling in refused:
        raise InputError(refused[command.rescaling])
    if command.rescaling not in by_name:
        raise unknown_name("rescaling", command.rescaling, by_name)
    return by_name[command.rescaling]


def _row(name: str, probe: Any, checkpoint: UserCheckpoint, rescaling: Rescaling, command: Stress) -> Row:
    """Return the row of one probe, from ``stress.jsonl`` if it is there, else measured and appended."""
    subject, path = checkpoint.subject, command.out / "stress.jsonl"
    key = {
        "probe": name,
        "rescaling": rescaling.name,
        "alpha": command.alpha,
        "knobs": asdict(probe),
        "checkpoint_sha256": subject.checkpoint_sha256,
        "facts": facts_of(subject.loss),
        "identity": dict(subject.identity) | {"weights": subject_sha256(subject)},
    }
    key["facts"]["batch_sizes"] = list(key["facts"]["batch_sizes"])
    for row in rows_of(path):
        if row["key"] == key:
            return row
    (result,) = stress_test(subject.loss, {name: probe}, command.alpha, rescaling=rescaling)
    sides = {"before": result.before, "after": result.after}
    records = {when: side.to_record(subject.checkpoint_sha256).to_dict() for when, side in sides.items()}
    row = {"key": key, "kind": rescaling.kind, "moved": result.moved, "reason": result.reason, **records}
    row["details"] = dict(subject.details)
    command.out.mkdir(parents=True, exist_ok=True)
    append_jsonl(path, row)
    return row


def rows_of(path: Path) -> Iterator[Row]:
    """Yield the rows of a ``stress.jsonl``; :class:`InputError` that names the line for what is none."""
    for line in iterate_lines(path):
        row = line.row()
        moved = row.get("moved")
        if not isinstance(row.get("kind"), str) or moved not in (True, False, None):
            raise line.naming("expected a kind, and true, false or null as moved, got others: remove that line")
        for name in ("key", "before", "after"):
            if not isinstance(row.get(name), dict):
                raise line.naming(f"expected an object as {name}, got {shown_value(row.get(name))}: remove that line")
        for name in ("before", "after"):
            try:
                ProbeRecord.from_dict(row[name])
            except InputError as error:
                raise line.naming(error) from error
        yield row


def _print_rows(rows: list[Row]) -> None:
    for row in rows:
        print(json.dumps(row, allow_nan=False, sort_keys=True))


def stress_table(rows: list[Row], title: str) -> Table:
    """Return the table of values before and after, their ratio, and whether they moved."""
    table = Table(title=title, title_justify="left")
    for name in STRESS_HEADS:
        table.add_column(name, justify="left" if name == "quantity" else "right")
    for row in rows:
        before, after = (ProbeRecord.from_dict(row[when]) for when in ("before", "after"))
        table.add_row(*stress_cells(before, after, row["moved"]))
    return table


def _draw(console: Console, rows: list[Row], command: Stress) -> None:
    from sharpness.plots.stress import render_stress  # the plotting libraries take a while to load

    facts: Mapping[str, Any] = {"checkpoint": str(command.checkpoint), **options_of(command)}
    files: list[Path] = render_stress(rows, command.out, facts)
    for path in files:
        if path.suffix == ".pdf":
            say(console, f"figure: {path}")
