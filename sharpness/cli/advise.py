"""``sharpness advise``: a batch size with rate, beta2 and warm-up, and what each number rests on."""

from __future__ import annotations

import csv
import io
from collections.abc import Iterator
from dataclasses import fields, replace
from typing import Any

from rich.table import Table

from sharpness.cli.options import Advise
from sharpness.cli.output import make_console, print_json, say, warn, warn_of
from sharpness.cli.probe import announced, check_out, checked_folder, deadline_of, measure_all, show_checkpoint
from sharpness.cli.tables import PLAIN
from sharpness.errors import InputError
from sharpness.files import write_atomically
from sharpness.linalg.knobs import check_confidence
from sharpness.machine.environment import choose_device
from sharpness.measure.advise import (
    advice_of,
    branched_of,
    check_branches,
    checkpoint_of,
    noise_in_geometry,
    record_of,
    settings_of,
)
from sharpness.measure.batch_rules import ADAM, Advice, Choice, Settings, check_overhead, ends_text
from sharpness.measure.critical_batch import Branches
from sharpness.measure.recorded import find_record
from sharpness.measure.user_checkpoint import UserCheckpoint, load_user_checkpoint
from sharpness.probes import GradientNoise
from sharpness.records import ProbeRecord
from sharpness.runs import RecordFolder, RunFolder


def run_advise(command: Advise) -> None:
    """Measure noise scales, and branches where asked, append their records, and print the table and its grounds."""
    deadline, console, device = deadline_of(command.seconds), make_console(command.json), choose_device(command.device)
    check_out(command)
    check_overhead(command.overhead)
    check_confidence(command.confidence, "0.95")
    folder = checked_folder(command.out or command.checkpoint)
    knobs = _branches(command)
    run = RunFolder.open(command.checkpoint) if (command.checkpoint / "config.toml").is_file() else None
    if run is None and (knobs is not None or command.step is not None):
        asked = "--branches" if knobs is not None else "--step"
        raise InputError(f"expected a run folder of the trainer with {asked}, got {command.checkpoint}: leave it out")
    name = None if run is None else checkpoint_of(run, command.step)
    settings = _settings(command, run, name)
    if run is not None and knobs is not None:
        check_branches(run, str(name), settings, knobs)
    weights = None if run is None else run.path / f"{name}.safetensors"
    checkpoint = load_user_checkpoint(command, command.checkpoint, device, weights)
    show_checkpoint(console, checkpoint)
    folder.path.mkdir(parents=True, exist_ok=True)
    records: list[ProbeRecord] = []
    probes: dict[str, Any] = {"gradient_noise": GradientNoise(confidence=command.confidence)}
    if settings.optimizer in ADAM:
        probes["preconditioned_noise"] = noise_in_geometry(settings, checkpoint.subject.loss, command.confidence)
    with announced(console, {"": checkpoint.subject}, probes, folder) as bar:
        measure_all(checkpoint.subject, probes, folder, deadline, named=set(probes), found=records.append, bar=bar)
        if run is not None and knobs is not None:
            options: dict[str, Any] = {"device": device, "data_dir": command.data_dir, "deadline": deadline}
            with bar.part("branches") as progress:
                found = branched_of(run, str(name), settings, knobs, folder=folder, progress=progress, **options)
            if found is None:
                warn("branches: out of time")
            records += [] if found is None else [found]
    if len(records) >= len(probes):
        _show(command, checkpoint, folder, records, settings)


def _show(
    command: Advise, checkpoint: UserCheckpoint, folder: RecordFolder, records: list[ProbeRecord], settings: Settings
) -> None:
    """Print the tables and what they rest on, and keep the advice as a record and as CSV."""
    console = make_console(command.json)
    found = advice_of(records, settings, command.overhead, command.confidence)
    advised = record_of(found, records[0])
    if not _kept(folder, advised):
        with folder.lock():
            folder.append_record(advised)
    write_atomically(folder.path / "advice.csv", advice_csv(found))
    if command.json:
        print_json([*records, advised])
    console.print(noise_table(found, records))
    console.print(advice_table(found))
    warn_of(records, known=checkpoint.checked.warnings)
    for line in said(found, records):
        say(console, f"- {line}")


def _kept(folder: RecordFolder, advised: ProbeRecord) -> bool:
    """Say whether the folder has this very advice."""
    names = ("probe", "knobs", "checkpoint_sha256", "data_sha256", "value", "lower", "upper")
    return find_record(folder, {name: getattr(advised, name) for name in names}) is not None


def _branches(command: Advise) -> Branches | None:
    if not command.branches:
        return None
    knobs = Branches(
        factors=command.branches,
        window=command.window,
        orders=command.orders,
        tolerance=command.tolerance,
        confidence=command.confidence,
    )
    knobs.check()
    return knobs


def _settings(command: Advise, run: RunFolder | None, checkpoint: str | None) -> Settings:
    """Return what the checkpoint was trained with: a run's own settings, and what the command says."""
    given = {
        "optimizer": command.optimizer,
        "batch_size": command.batch,
        "learning_rate": command.rate,
        "beta2": command.beta2,
        "warmup": command.warmup,
    }
    given = {name: value for name, value in given.items() if value is not None}
    if run is not None and checkpoint is not None:
        return replace(settings_of(run, checkpoint), **given)
    if missing := [name for name in ("optimizer", "batch_size") if name not in given]:
        option = {"optimizer": "--optimizer NAME", "batch_size": "--batch N"}[missing[0]]
        raise InputError(f"expected {option} that {command.checkpoint} was trained with, got none: only a run says so")
    return Settings(**given)


def noise_table(found: Advice, records: list[ProbeRecord]) -> Table:
    """Return a table with a line for each noise scale, that of the curvature too."""
    table = Table(title="noise scale, examples", title_justify="left", **PLAIN)
    table.add_column("geometry", no_wrap=True)
    for name in ("value", f"interval {100 * found.confidence:g} %"):
        table.add_column(name, justify="right", no_wrap=True)
    curved = records[0].details.get("noise_scale") or {}
    rows = {name: (scale.value, scale.lower, scale.upper) for name, scale in found.noise_scales.items()}
    rows["Euclidean, by curvature"] = curved.get("value"), curved.get("lower"), curved.get("upper")
    for name, (value, lower, upper) in rows.items():
        table.add_row(name, _number(value), ends_text(lower, upper))
    return table


def advice_table(found: Advice) -> Table:
    """Return a table with a line for each choice and all that goes with its batch size."""
    table = Table(title="batch size", title_justify="left", **PLAIN)
    for name in found.heads:
        table.add_column(name, justify="left" if name == "choice" else "right", no_wrap=True)
    for cells in found.cells:
        table.add_row(*cells)
    return table


def _number(value: float | None) -> str:
    return "none" if value is None else f"{value:.3g}"


def said(found: Advice, records: list[ProbeRecord]) -> Iterator[str]:
    """Yield what the table rests on, choice by choice and column by column, and what it cannot know."""
    yield "*: advised. Updates and examples to a loss are in units of the fewest that any batch size needs."
    for choice in found.choices:
        yield f"{choice.name}: {choice.rests_on}"
        for name in ("batch_size", "lower", "upper", "learning_rate"):
            if reason := choice.reasons.get(name):
                yield f"{choice.name}: no {ENDS.get(name, name.replace('_', ' '))}: {reason}"
    for column, ground in found.rests_on.items():
        yield f"{column}: {ground}"
    for record in records:
        if source := record.details.get("preconditioner_source"):
            yield f"Adam's geometry: P {source}"
        if record.probe == "branches":
            yield _of_branches(record)
    for line in found.unknown:
        yield f"not known: {line}"


ENDS = {"lower": "lower end", "upper": "upper end"}


def _of_branches(record: ProbeRecord) -> str:
    """Return the mean losses of the branches by batch size, and under which conditions."""
    by_size: dict[int, list[float | None]] = {}
    for row in record.details["rows"]:
        by_size.setdefault(row["batch_size"], []).append(row["loss"])
    means = []
    for size, losses in by_size.items():
        finite = [loss for loss in losses if loss is not None]
        means.append(f"{size}: {sum(finite) / len(finite):.4f}" if len(finite) == len(losses) else f"{size}: diverged")
    knobs, window = record.knobs, record.details["rows"][0]["window"]
    return (
        f"branches: loss after {window} examples by batch size {', '.join(means)}, means over {knobs['orders']} "
        f"orders; the largest within {knobs['tolerance']:g} nats of all smaller ones counts; the optimiser's state "
        f"{record.details['optimizer_state']}"
    )


def advice_csv(found: Advice) -> bytes:
    """Return the choices as CSV, a row each, empty where there is no number."""
    stream = io.StringIO()
    writer = csv.DictWriter(stream, [each.name for each in fields(Choice)], lineterminator="\n")
    writer.writeheader()
    writer.writerows(found.rows())  # None is written as nothing
    return stream.getvalue().encode()
