"""``sharpness landscape``: guards first, then the points of a line, a plane or a curve, then record and figures."""

from __future__ import annotations

import re
from collections.abc import Sequence
from pathlib import Path

from rich.console import Console

from sharpness.checkpoints import MismatchError
from sharpness.checkpoints.series import step_of
from sharpness.cli.compare import report_table, show_table
from sharpness.cli.knobs import Knobs, apply_knobs
from sharpness.cli.options import Landscape
from sharpness.cli.output import (
    make_console,
    print_json,
    say,
    show_progress,
    warn,
    warn_of,
)
from sharpness.cli.probe import checked_folder, deadline_of, draw, options_of, show_checkpoint
from sharpness.cli.tables import records_table
from sharpness.errors import InputError, unknown_name
from sharpness.landscapes import LANDSCAPES
from sharpness.machine.environment import choose_device
from sharpness.measure.points import with_points
from sharpness.measure.runner import measure
from sharpness.measure.subject import POINTS
from sharpness.measure.user_checkpoint import load_user_checkpoint
from sharpness.records import ProbeRecord
from sharpness.records.checkpoints import distinct_names

PART = re.compile(r"(\d+)/(\d+)")


def run_landscape(command: Landscape, knobs: Knobs) -> None:
    """Measure one landscape and draw it; a part of one ends without either while others are missing."""
    deadline, part = deadline_of(command.seconds), part_of(command.part)
    console, device = make_console(command.json), choose_device(command.device)
    if command.name not in LANDSCAPES:
        raise unknown_name("landscape", command.name, LANDSCAPES)
    _check_count(command.name, len(command.checkpoints))
    _check_html(command)
    folder = checked_folder(command.out)
    landscape = apply_knobs({command.name: LANDSCAPES[command.name].probe()}, knobs)[command.name]
    paths, names = in_order(command)
    checkpoint = load_user_checkpoint(command, paths[0], device)
    show_checkpoint(console, checkpoint)
    try:
        subject = with_points(command, checkpoint, names[0], list(zip(names[1:], paths[1:], strict=True)))
    except MismatchError as error:
        show_table(report_table(error.report))
        raise
    folder.path.mkdir(parents=True, exist_ok=True)
    with show_progress(console, command.name, "points") as progress:
        outcome = measure(command.name, landscape, subject, folder, deadline=deadline, progress=progress, part=part)
    if outcome.record is None:
        text = f"{command.name}: {outcome.status}: {outcome.reason}; what is done is kept in {command.out}"
        say(console, text) if outcome.status == "waiting" else warn(text)
        return
    if outcome.status == "there already":
        say(console, f"{command.name}: in probes.jsonl already")
    _show(console, command, names[0], outcome.record, checkpoint.checked.warnings)


def in_order(command: Landscape) -> tuple[Sequence[Path], list[str]]:
    """Return the checkpoints and their names, those of a trajectory by step where all have one, the last one first."""
    paths, names = command.checkpoints, distinct_names(command.checkpoints)
    if "trajectory" not in LANDSCAPES[command.name].points:
        return paths, names
    steps = [step_of(path) for path in paths]
    known = [step for step in steps if step is not None]
    if len(set(known)) < len(paths):
        return paths, names
    *before, last = sorted(zip(known, paths, strict=True))
    return [path for _, path in (last, *before)], [f"step {step}" for step, _ in (last, *before)]


def part_of(text: str) -> tuple[int, int]:
    """Return which of how many shares, from 0, of a text such as ``2/4``; :class:`InputError` for another.

    >>> part_of("2/4")
    (1, 4)
    """
    match = PART.fullmatch(text)
    if match is None or not 1 <= int(match[1]) <= int(match[2]):
        raise InputError(f"expected --part I/N with I from 1 to N, got {text!r}")
    return int(match[1]) - 1, int(match[2])


def _check_count(name: str, count: int) -> None:
    """Refuse too few or too many checkpoints before any is read."""
    points = LANDSCAPES[name].points
    if "trajectory" in points:
        if count < 3:
            raise InputError(f"expected for the landscape {name!r} {POINTS['trajectory']}, got {count}")
    elif count != len(points):
        raise InputError(f"expected {len(points)} checkpoints for the landscape {name!r}, got {count}")


def _check_html(command: Landscape) -> None:
    """Refuse what cannot be drawn as a surface, or the library that is missing for it, before anything is measured."""
    if not command.html:
        return
    if not command.name.endswith("_plane"):
        raise InputError(f"expected a plane with --html, got {command.name}: leave --html out")
    from sharpness.plots.interactive import require_library

    require_library()


def _show(console: Console, command: Landscape, name: str, record: ProbeRecord, known: Sequence[str]) -> None:
    if command.json:
        print_json([record])
    console.print(records_table([record], str(command.out)))
    warn_of([record], known)
    facts = {"checkpoints": [str(path) for path in command.checkpoints], **options_of(command)}
    draw(console, {name: [record]}, command.out, facts)
    if command.html:
        from sharpness.plots.interactive import save_interactive

        path = Path(command.out) / f"{command.name}.html"
        save_interactive(record, path)
        say(console, f"Surface to turn: {path}")
