"""``sharpness probe``: guards first, then every probe that was asked for, then table, records and figures."""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from rich.console import Console

from sharpness.cli.knobs import Knobs, apply_knobs
from sharpness.cli.options import Probe
from sharpness.cli.output import make_console, print_json, records_table, say, show_progress, warn
from sharpness.environment import choose_device
from sharpness.errors import InputError
from sharpness.probes.given import Given, load_given
from sharpness.probes.runner import Outcome, Subject, applicable, measure, probes_named
from sharpness.records import ProbeRecord
from sharpness.request import Request
from sharpness.runs import RecordFolder


def run_probe(command: Probe, knobs: Knobs) -> None:
    """Measure one checkpoint and show what was found."""
    deadline = deadline_of(command.seconds)
    console, device = make_console(command.json), choose_device(command.device)
    if command.out is None and (command.model or command.data or command.loss):
        raise InputError("expected --out DIR with another model, data or loss than a run folder's own, got none")
    check_out(command.out)
    named, asked = command.probes is not None, apply_knobs(probes_named(names_of(command.probes)), knobs)
    given = load_given(command, command.checkpoint, device, command.start)
    if command.out is None and given.run is None:
        raise InputError(f"expected --out DIR for the records of {command.checkpoint}, got none")
    show_given(console, given)
    probes = applicable(asked, given.subject, named=named)
    folder = open_out(command.out or given.path)
    outcomes = measure_all(console, given.subject, probes, folder, deadline, named=named)
    records = [outcome.record for outcome in outcomes if outcome.record is not None]
    if command.json:
        print_json(records)
    if records:
        console.print(records_table(records, str(folder.path)))
        label = given.path.name or str(given.path)
        figures = command.out or folder.path / "figures"
        draw(console, {label: records}, figures, {"checkpoint": str(given.path)})


def deadline_of(seconds: float | None) -> float | None:
    """Return the moment at which the whole command is to end, of ``time.perf_counter``."""
    if seconds is not None and not seconds > 0:
        raise InputError(f"expected a positive number of seconds, got {seconds}: leave it out for no bound")
    return None if seconds is None else time.perf_counter() + seconds


def names_of(text: str | None) -> list[str] | None:
    """Return the names of a comma-separated list, each once."""
    return None if text is None else list(dict.fromkeys(name.strip() for name in text.split(",")))


def check_out(out: Path | None) -> None:
    """Raise :class:`InputError` before any work where the folder for the results cannot be one."""
    if out is not None and out.exists() and not out.is_dir():
        raise InputError(f"expected a folder for the results, got the file {out}: choose another --out")


def open_out(out: Path) -> RecordFolder:
    """Return the folder for the records, made if it is not there."""
    out.mkdir(parents=True, exist_ok=True)
    return RecordFolder(out)


def show_given(console: Console, given: Given) -> None:
    """Print what is measured and how well it does, and every warning."""
    for line in given.lines():
        say(console, line)
    for warning in given.checked.warnings:
        warn(warning)


def measure_all(
    console: Console,
    subject: Subject,
    probes: Mapping[str, Any],
    folder: RecordFolder,
    deadline: float | None,
    *,
    named: bool,
    where: str = "",
) -> list[Outcome]:
    """Measure one probe after the other; one that cannot be had here is told and left out, unless it was named."""
    outcomes = []
    for name, probe in probes.items():
        title = f"{name}{where}"
        try:
            with show_progress(console, title, "steps") as progress:
                outcome = measure(name, probe, subject, folder, deadline=deadline, progress=progress)
        except InputError as error:
            if named:
                raise
            outcome = Outcome(name, "does not apply", reason=str(error))
        if outcome.status == "there already":
            say(console, f"{title}: in probes.jsonl already")
        elif outcome.record is None:
            warn(f"{title}: {outcome.status}: {outcome.reason}")
        outcomes.append(outcome)
    return outcomes


def draw(console: Console, records: Mapping[str, Sequence[ProbeRecord]], out: Path, facts: Mapping[str, Any]) -> None:
    """Draw a figure per probe, the networks by their labels in one, and say where they lie."""
    from sharpness.plots import Network, render_records  # the plotting libraries take a while to load

    networks = [Network(label, {record.probe: record for record in found}) for label, found in records.items()]
    rendered = render_records(networks, out, facts)
    for refusal in rendered.refusals:
        say(console, f"- {refusal}")
    say(console, "Figures (PDF, PNG, CSV, provenance JSON):")
    for path in rendered.files:
        if path.suffix == ".pdf":
            say(console, f"  {path}")


def options_of(command: Request) -> dict[str, Any]:
    """Return the options of a command that say what was measured, for provenance."""
    names = ("model", "data", "loss", "norm", "dtype", "parameters", "examples", "batch_size", "seed", "key", "ema")
    return {name: getattr(command, name) for name in names}
