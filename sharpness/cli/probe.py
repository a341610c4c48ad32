"""``sharpness probe``: guards first, then every probe that was asked for, then table, records and figures."""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Collection, Mapping, Sequence
from pathlib import Path
from typing import Any

from rich.console import Console

from sharpness.checkpoints import recognise
from sharpness.cli.knobs import Knobs, apply_knobs
from sharpness.cli.options import Advise, Predict, Probe
from sharpness.cli.output import make_console, print_json, say, warn, warn_of
from sharpness.cli.tables import records_table
from sharpness.cli.work_bar import WorkBar, duration
from sharpness.config.spec import names_in
from sharpness.errors import InputError, RunError
from sharpness.machine.environment import choose_device
from sharpness.measure.costs import Price, Work, expected_work, price_of
from sharpness.measure.points import with_start, with_trained
from sharpness.measure.recorded import is_recorded
from sharpness.measure.request import ProbeRequest, Request
from sharpness.measure.runner import Outcome, applicable, measure, probes_named
from sharpness.measure.subject import Subject
from sharpness.measure.user_checkpoint import UserCheckpoint, load_user_checkpoint
from sharpness.probes import QUICK
from sharpness.records import ProbeRecord
from sharpness.runs import RecordFolder


def run_probe(command: Probe, knobs: Knobs) -> None:
    """Measure one checkpoint and show what was found, also where something fails or Ctrl-C ends it."""
    deadline = deadline_of(command.seconds)
    console, device = make_console(command.json), choose_device(command.device)
    check_out(command)
    folder = checked_folder(command.out or command.checkpoint)
    asked, named = asked_probes(command, knobs, "quick")
    checkpoint = with_trained(command, with_start(command, load_user_checkpoint(command, command.checkpoint, device)))
    show_checkpoint(console, checkpoint)
    probes = applicable(asked, checkpoint.subject, named=named)
    folder.path.mkdir(parents=True, exist_ok=True)
    records: list[ProbeRecord] = []
    try:
        with announced(console, {"": checkpoint.subject}, probes, folder) as bar:
            measure_all(checkpoint.subject, probes, folder, deadline, named=named, found=records.append, bar=bar)
    finally:
        if command.json:
            print_json(records)
        if records:
            console.print(records_table(records, str(folder.path)))
            warn_of(records, known=checkpoint.checked.warnings)
            label = checkpoint.path.name or str(checkpoint.path)
            figures = command.out or folder.path / "figures"
            draw(console, {label: records}, figures, {"checkpoint": str(checkpoint.path), **options_of(command)})


def deadline_of(seconds: float | None) -> float | None:
    """Return the moment at which the whole command is to end, of ``time.perf_counter``."""
    if seconds is not None and not seconds > 0:
        raise InputError(f"expected a positive number of seconds, got {seconds}: leave it out for no bound")
    return None if seconds is None else time.perf_counter() + seconds


def asked_probes(command: ProbeRequest, knobs: Knobs, *default: str) -> tuple[dict[str, Any], set[str]]:
    """Return the probes to measure with their knobs, and the names among them that must not be left out.

    Without ``--probes`` they are those of ``default`` and those whose knobs were given. Those that were named, alone or
    by a knob, must not be left out.
    """
    given = [] if command.probes is None else names_in(command.probes, "probes")
    probes = probes_named(given or [*default, *knobs])
    return apply_knobs(probes, knobs), {*given, *knobs} - {"quick", "all"}


def check_out(command: Probe | Predict | Advise) -> None:
    """Raise :class:`InputError` where records of a file, or of a run folder with other options, have no folder.

    A study takes those of a run folder for its own, and of these options it compares the number of examples alone.
    """
    if command.out is not None:
        return
    if recognise(command.checkpoint) != "run folder":
        raise InputError(f"expected --out DIR for the records of {command.checkpoint}, got none: name a folder")
    options = options_of(command) | {name: getattr(command, name, None) for name in ("start", "trained_on")}
    options |= {"no_strict": not command.strict}
    changed = [name for name, value in options.items() if value not in (None, False, "auto", "float32")]
    if own := [name for name in changed if name != "examples"]:
        raise InputError(
            f"expected --out DIR with --{own[0].replace('_', '-')}, got none: "
            "a run folder holds the records of its own model, data and loss"
        )


def checked_folder(out: Path) -> RecordFolder:
    """Return the folder for the results, its records read and checked; nothing is made yet.

    Raises :class:`InputError` where it cannot be a folder to write to, or holds lines that are no records.
    """
    place = next(folder for folder in (out, *out.absolute().parents) if folder.exists())
    if not place.is_dir() or not os.access(place, os.W_OK | os.X_OK):
        raise InputError(f"expected a folder to write to for the results, got {place} for {out}: choose another --out")
    folder = RecordFolder(out)
    folder.index.refresh()
    return folder


def show_checkpoint(console: Console, checkpoint: UserCheckpoint) -> None:
    """Print what is measured and how well it does, and every warning."""
    for line in checkpoint.lines():
        say(console, line)
    for warning in checkpoint.checked.warnings:
        warn(warning)


def announced(
    console: Console, subjects: Mapping[str, Subject], probes: Mapping[str, Any], folder: RecordFolder
) -> WorkBar:
    """Say what the probes will take at these subjects, by their titles, and return the bar over all of it.

    What the folder has records of takes nothing. A gradient is timed, a product too where much is asked for, and a few
    gradients of single examples where a probe takes those.
    """
    expected: dict[str, float] = {}
    work, count = Work(), 0
    prices: dict[int, Price] = {}  # one for each loss: the checkpoints of a training stand for one
    for where, subject in subjects.items():
        here = {name: probe for name, probe in probes.items() if subject.missing_point(name) is None}
        missing = {name: probe for name, probe in here.items() if not is_recorded(folder, name, probe, subject)}
        works = expected_work(missing, subject.loss)
        if missing and id(subject.loss) not in prices:
            whole = sum(works.values(), Work())
            prices[id(subject.loss)] = price_of(subject.loss, whole, products=len(missing) > len(QUICK))
        for name in here:
            each = works.get(name, Work())
            expected[f"{name}{where}"] = prices[id(subject.loss)].seconds(each) if name in missing else 0.0
            work += each
        count += len(missing)
    if (total := sum(expected.values())) >= 1:
        there = len(expected) - count
        say(console, f"{count} measures will take about {duration(total)} here: {work} over the data")
        if there:
            say(console, f"{there} more are in probes.jsonl already")
    return WorkBar(console, expected)


def measure_all(
    subject: Subject,
    probes: Mapping[str, Any],
    folder: RecordFolder,
    deadline: float | None,
    *,
    named: Collection[str],
    found: Callable[[ProbeRecord], None],
    bar: WorkBar,
    where: str = "",
) -> list[Outcome]:
    """Measure one probe after the other and hand each record to ``found``; return what became of each.

    A probe that cannot be had here is told and left out, unless it is among ``named``. Raises :class:`RunError` at the
    end for those that failed.
    """
    outcomes, failed = [], []
    for name, probe in probes.items():
        title = f"{name}{where}"
        try:
            with bar.part(title) as progress:
                outcome = measure(name, probe, subject, folder, deadline=deadline, progress=progress)
        except InputError as error:
            if name in named:
                raise
            outcome = Outcome(name, "does not apply", reason=str(error))
        except RunError as error:
            failed.append(f"{title}: {error}")
            continue
        if outcome.record is not None:
            found(outcome.record)
        if outcome.status == "there already":
            say(bar.console, f"{title}: in probes.jsonl already")
        elif outcome.record is None:
            warn(f"{title}: {outcome.status}: {outcome.reason}")
        outcomes.append(outcome)
    if failed:
        raise RunError("; ".join(failed))
    return outcomes


def draw(console: Console, records: Mapping[str, Sequence[ProbeRecord]], out: Path, facts: Mapping[str, Any]) -> None:
    """Draw the page of all numbers and the curves, the networks by their labels, and say where they lie."""
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
    names = ("model", "data", "loss", "weight_decay", "norm", "dtype", "parameters", "examples", "batch_size", "seed")
    how = ("count", "coupled", "freeze", "training", "fused", "key", "ema")
    return {name: getattr(command, name) for name in (*names, *how)}
