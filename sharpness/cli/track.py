"""``sharpness track``: the checkpoints of a training by the same probes, one table, CSV and figure over its steps."""

from __future__ import annotations

import os
import platform
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from rich.console import Console
from rich.table import Table
from rich.text import Text

from sharpness.checkpoints import file_sha256
from sharpness.checkpoints.series import Snapshot, find_snapshots
from sharpness.cli.knobs import Knobs
from sharpness.cli.options import Track
from sharpness.cli.output import make_console, print_json, say, warn_of
from sharpness.cli.probe import (
    announced,
    asked_probes,
    checked_folder,
    deadline_of,
    measure_all,
    options_of,
    show_checkpoint,
)
from sharpness.cli.tables import PLAIN, short
from sharpness.cli.work_bar import WorkBar
from sharpness.errors import InputError, RunError
from sharpness.machine.environment import choose_device
from sharpness.machine.progress import Progress
from sharpness.measure.points import with_start, with_trained
from sharpness.measure.runner import applicable
from sharpness.measure.subject import Subject, WarmStart
from sharpness.measure.user_checkpoint import UserCheckpoint, load_user_checkpoint
from sharpness.records import ProbeRecord
from sharpness.runs import RecordFolder

DEFAULT = ("eigenvalues", "critical_sharpness")
BySnapshot = dict[Snapshot, list[ProbeRecord]]


def run_track(command: Track, knobs: Knobs) -> None:
    """Measure one checkpoint after the other and show what was found, also where something ends it early."""
    deadline = deadline_of(command.seconds)
    console, device = make_console(command.json), choose_device("cpu" if command.ray else command.device)
    folder = checked_folder(command.out)
    asked, named = asked_probes(command, knobs, *DEFAULT)
    snapshots = find_snapshots(command.checkpoints)
    if command.ray is not None:
        measure_on_ray(command, knobs, snapshots, console)  # what follows then finds every record there
    first = _loaded(command, snapshots[0], device)
    show_checkpoint(console, first)
    say(console, f"{len(snapshots)} checkpoints, steps {snapshots[0].step} to {max(each.step for each in snapshots)}")
    probes = applicable(asked, first.subject, named=named)
    folder.path.mkdir(parents=True, exist_ok=True)
    found: BySnapshot = {snapshot: [] for snapshot in snapshots}
    try:
        with announced(console, _stand_ins(snapshots, first, folder), probes, folder) as bar:
            failed = list[str]()
            warm = {each.series: WarmStart() if command.warm else None for each in snapshots}
            for snapshot in snapshots:
                where: dict[str, Any] = {"found": found[snapshot].append, "where": _where(snapshot, snapshots)}
                try:
                    subject = _subject(command, snapshot, snapshots[0], first, device)
                    subject = replace(subject, warm=warm[snapshot.series])
                    measure_all(subject, probes, folder, deadline, named=named, bar=bar, **where)
                    del subject  # before the next one is read
                except RunError as error:
                    failed.append(str(error))
    finally:
        _show(console, command, found, first.checked.warnings)
    if failed:
        raise RunError("; ".join(failed))


def measure_on_ray(command: Track, knobs: Knobs, snapshots: Sequence[Snapshot], console: Console) -> None:
    """Measure each checkpoint as a task on a Ray cluster, into the records of ``--out``."""
    for name, given in (("--warm", command.warm), ("--seconds", command.seconds is not None)):
        if given:
            raise InputError(f"expected --ray without {name}, got both: the checkpoints are measured side by side")
    from sharpness.cli.jobs import Job  # Ray is for those who ask for it
    from sharpness.cli.ray_workers import RayWorkers

    with RayWorkers(str(command.ray), None, command.device, command.out, console) as workers:
        asked = replace(command, device=workers.device, ray=None)
        here = str(Path.cwd())
        jobs = [
            Job(_where(each, snapshots).strip(", "), measure_snapshot, (asked, knobs, each, here)) for each in snapshots
        ]
        workers.run("track", jobs)


def measure_snapshot(command: Track, knobs: Knobs, snapshot: Snapshot, folder: str, *, progress: Progress) -> None:
    """Measure one checkpoint on a node, from the folder in which the command was given."""
    if not Path(folder).is_dir():
        raise InputError(f"expected the folder {folder} on {platform.node()}, got none: all nodes must see it")
    os.chdir(folder)
    asked, named = asked_probes(command, knobs, *DEFAULT)
    subject = _loaded(command, snapshot, choose_device(command.device)).subject
    probes = applicable(asked, subject, named=named)
    with WorkBar(make_console(json_only=True), {}) as bar:
        for i, (name, probe) in enumerate(probes.items()):
            measure_all(subject, {name: probe}, RecordFolder(command.out), None, named=named, found=_keep, bar=bar)
            progress(i + 1, len(probes))


def _keep(record: ProbeRecord) -> None:
    """Leave a record where it was written."""


def _where(snapshot: Snapshot, snapshots: Sequence[Snapshot]) -> str:
    several = len({each.series for each in snapshots}) > 1
    return f", {snapshot.series} step {snapshot.step}" if several else f", step {snapshot.step}"


def _loaded(command: Track, snapshot: Snapshot, device: torch.device) -> UserCheckpoint:
    run = snapshot.run
    path, weights = (snapshot.path, None) if run is None else (run, snapshot.path)
    return with_trained(command, with_start(command, load_user_checkpoint(command, path, device, weights)))


def _subject(
    command: Track, snapshot: Snapshot, at_first: Snapshot, first: UserCheckpoint, device: torch.device
) -> Subject:
    """Return a checkpoint with its loss.

    Raises :class:`RunError` for one that cannot be read, such as weights that are NaN, and :class:`InputError` for one
    of another architecture than the first.
    """
    if snapshot == at_first:
        return first.subject
    try:
        subject = _loaded(command, snapshot, device).subject
    except InputError as error:
        raise RunError(str(error)) from None
    if subject.loss.layout != first.subject.loss.layout:
        raise InputError(
            f"expected checkpoints of one architecture, got other parameters in {snapshot.path} than in "
            f"{at_first.path}: track each architecture with an --out of its own"
        )
    return subject


def _stand_ins(snapshots: Sequence[Snapshot], first: UserCheckpoint, folder: RecordFolder) -> dict[str, Subject]:
    """Return the first checkpoint's subject for each one, with its own hash where there are records to be found."""
    if not folder.index.path.is_file():
        return {_where(each, snapshots): first.subject for each in snapshots}
    hashes = {_where(each, snapshots): file_sha256(each.path) or "" for each in snapshots}
    return {where: replace(first.subject, checkpoint_sha256=found) for where, found in hashes.items()}


def _show(console: Console, command: Track, found: BySnapshot, known: Sequence[str]) -> None:
    """Print the table, and write CSV and figure of what was measured."""
    records = [record for each in found.values() for record in each]
    if command.json:
        print_json(records)
    if not records:
        return
    console.print(track_table(found, str(command.out)))
    warn_of(next(each for each in reversed(found.values()) if each), known)  # of all of them it would be a wall of text
    from sharpness.plots.track import render_track  # the plotting libraries take a while to load

    rows = [row for snapshot, of_it in found.items() for row in _rows(snapshot, of_it)]
    facts = {"checkpoints": [str(path) for path in command.checkpoints], **options_of(command)}
    for path in render_track(rows, command.out, facts):
        if path.suffix in (".pdf", ".csv"):
            say(console, f"  {path}")


def _rows(snapshot: Snapshot, records: Sequence[ProbeRecord]) -> Iterator[Mapping[str, Any]]:
    """Yield what the CSV says of each record of one checkpoint."""
    for record in records:
        number = {name: getattr(record, name) for name in ("quantity", "value", "lower", "upper", "confidence")}
        cost = {name: getattr(record, name) for name in ("converged", "num_hvps", "num_gradients", "seconds")}
        where = {"series": snapshot.series, "step": snapshot.step, "checkpoint": str(snapshot.path)}
        loss = record.details.get("at_checkpoint", {})
        rates = {"learning_rate": snapshot.rate, "edge": snapshot.edge}
        yield {**where, "probe": record.probe, **number, **cost, **rates, "loss": loss.get("loss")}


def track_table(found: BySnapshot, title: str) -> Table:
    """Return a table with a line for each checkpoint and a column for each quantity; CSV and records have the rest."""
    quantities = list(dict.fromkeys(record.quantity for records in found.values() for record in records))
    table = Table(title=Text(title), title_justify="left", **PLAIN)
    several = len({snapshot.series for snapshot in found}) > 1
    for name in (*["series"] * several, "step", *quantities, "edge"):
        table.add_column(short(name), justify="left" if name == "series" else "right", no_wrap=True)
    for snapshot, records in found.items():
        values = {record.quantity: record.value for record in records}
        cells = [short(snapshot.series)] * several + [str(snapshot.step)]
        cells += ["" if values.get(name) is None else f"{values[name]:.5g}" for name in quantities]
        table.add_row(*map(Text, [*cells, "" if snapshot.edge is None else f"{snapshot.edge:.5g}"]))
    return table
