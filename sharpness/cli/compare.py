"""``sharpness compare``: two checkpoints by the same probes, and the line between them."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

from rich.console import Console
from rich.table import Table
from torch import nn

from sharpness.checkpoints import MatchReport, MismatchError
from sharpness.cli.knobs import Knobs
from sharpness.cli.options import Compare
from sharpness.cli.output import make_console, print_json, say, warn_of
from sharpness.cli.probe import (
    announced,
    asked_probes,
    checked_folder,
    deadline_of,
    draw,
    measure_all,
    options_of,
    show_checkpoint,
)
from sharpness.cli.tables import comparison_table
from sharpness.errors import InputError
from sharpness.machine.environment import choose_device
from sharpness.measure.points import with_far_end, with_start, with_trained
from sharpness.measure.runner import applicable
from sharpness.measure.user_checkpoint import UserCheckpoint, load_user_checkpoint
from sharpness.probes import PROBES
from sharpness.records import ProbeRecord
from sharpness.records.checkpoints import distinct_names


def run_compare(command: Compare, knobs: Knobs) -> None:
    """Measure both checkpoints and the line, and show the numbers side by side."""
    deadline = deadline_of(command.seconds)
    console, device = make_console(command.json), choose_device(command.device)
    folder = checked_folder(command.out)
    asked, named = asked_probes(command, knobs, "quick", "interpolation")
    first = with_trained(command, with_start(command, load_user_checkpoint(command, command.first, device)))
    try:
        theirs = replace(command, key=command.second_key, ema=command.second_ema)
        second = with_trained(command, load_user_checkpoint(theirs, command.second, device))
    except MismatchError as error:
        show_table(report_table(error.report))
        raise
    titles = distinct_names([first.path, second.path])
    for title, checkpoint in zip(titles, (first, second), strict=True):
        say(console, f"{title}:", "bold")
        show_checkpoint(console, checkpoint)
    _check_alike(first, second)
    subjects = (with_far_end(command, first, second, titles[1]), second.subject)
    probes = applicable(asked, subjects[0], named=named)
    folder.path.mkdir(parents=True, exist_ok=True)
    found: dict[str, list[ProbeRecord]] = {title: [] for title in titles}
    try:
        by_title = {f", {t}": s for t, s in zip(titles, subjects, strict=True)}
        with announced(console, by_title, probes, folder) as bar:
            for name, probe in probes.items():  # one by one on both, so that time that is short ends in whole rows
                for title, subject in zip(titles, subjects, strict=True):
                    if subject.missing_point(name) is None:
                        where: dict[str, Any] = {"found": found[title].append, "where": f", {title}"}
                        measure_all(subject, {name: probe}, folder, deadline, named=named, bar=bar, **where)
    finally:
        _show(console, command, found, titles, [*first.checked.warnings, *second.checked.warnings])


def _show(
    console: Console, command: Compare, found: dict[str, list[ProbeRecord]], titles: list[str], known: list[str]
) -> None:
    """Print the numbers side by side and draw the figures of what was measured."""
    records = [record for side in found.values() for record in side]
    if command.json:
        print_json(records)
    if records:
        first, second = ({record.probe: record for record in found[title]} for title in titles)
        pairs = [(first.get(name), second.get(name)) for name in PROBES if name in first or name in second]
        console.print(comparison_table(pairs, (titles[0], titles[1])))
        warn_of(records, known)
        facts = {"checkpoints": [str(command.first), str(command.second)], **options_of(command)}
        draw(console, found, command.out, facts)


def _check_alike(first: UserCheckpoint, second: UserCheckpoint) -> None:
    """Refuse two networks of other shapes, with a table of what differs, or two sets of data."""
    ours, theirs = first.subject.loss, second.subject.loss
    if ours.layout != theirs.layout:
        show_table(shape_table(ours.model, theirs.model))
        raise InputError(
            f"expected two checkpoints of one architecture, got {first.path} and {second.path} with other shapes: "
            "the table above shows them"
        )
    if ours.data_sha256() != theirs.data_sha256():
        raise InputError("expected both checkpoints on the same data, got two data sets: give one with --data")


def show_table(table: Table) -> None:
    """Print a table of what does not fit, above the line that refuses it."""
    Console(stderr=True, width=130).print(table)


def report_table(report: MatchReport) -> Table:
    """Return a table of the tensors in which a file differs from the model."""
    table = Table(title=f"{report.path} against the model", title_justify="left")
    for column in ("tensor", "file", "model"):
        table.add_column(column)
    for name, file, model in report.wrong_shape:
        table.add_row(name, str(file), str(model))
    for name in report.missing:
        table.add_row(name, "absent", "there")
    for name in report.unexpected:
        table.add_row(name, "there", "absent")
    return table


def shape_table(first: nn.Module, second: nn.Module) -> Table:
    """Return a table of the parameters whose shapes differ or that only one of the networks has."""
    ours, theirs = ({name: tuple(p.shape) for name, p in model.named_parameters()} for model in (first, second))
    table = Table(title="Parameters that differ", title_justify="left")
    for column in ("parameter", "first", "second"):
        table.add_column(column)
    for name in dict.fromkeys([*ours, *theirs]):
        if ours.get(name) != theirs.get(name):
            table.add_row(name, str(ours.get(name, "absent")), str(theirs.get(name, "absent")))
    return table
