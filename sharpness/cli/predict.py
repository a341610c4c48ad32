"""``sharpness predict``: what the curvature says that rounding and drift will cost, beside what they cost."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

from rich.table import Table

from sharpness.cli.options import Predict
from sharpness.cli.output import make_console, print_json, say, warn_of
from sharpness.cli.probe import announced, check_out, checked_folder, deadline_of, measure_all, show_checkpoint
from sharpness.cli.tables import PLAIN
from sharpness.machine.environment import choose_device
from sharpness.measure.user_checkpoint import load_user_checkpoint
from sharpness.probes import Drift, Rounding
from sharpness.probes.methods.quadratic_rise import BELOW_NOISE, FAILS
from sharpness.records import ProbeRecord

Row = Mapping[str, Any]


def run_predict(command: Predict) -> None:
    """Measure both, append their records to ``probes.jsonl``, and print the table and what it cannot tell."""
    deadline, console, device = deadline_of(command.seconds), make_console(command.json), choose_device(command.device)
    check_out(command)
    folder = checked_folder(command.out or command.checkpoint)
    rounding = Rounding(bits=command.bits, matrix=command.matrix)
    drift = Drift(distance=command.drift, matrix=command.matrix)
    rounding.check()
    drift.check()
    probes = {"rounding": rounding, "drift": drift}
    checkpoint = load_user_checkpoint(command, command.checkpoint, device)
    show_checkpoint(console, checkpoint)
    folder.path.mkdir(parents=True, exist_ok=True)
    records: list[ProbeRecord] = []
    with announced(console, {"": checkpoint.subject}, probes, folder) as bar:
        measure_all(checkpoint.subject, probes, folder, deadline, named=set(probes), found=records.append, bar=bar)
    if command.json:
        print_json(records)
    if records:
        console.print(predictions_table(records))
        warn_of(records, known=checkpoint.checked.warnings)
        for line in said(records):
            say(console, f"- {line}")


def predictions_table(records: list[ProbeRecord]) -> Table:
    """Return a table with a line for each change of the weights: expected, of this very change, and measured."""
    units = {f"{100 * record.confidence:g} %" for record in records if record.confidence is not None}
    table = Table(title="rise of the loss", title_justify="left", **PLAIN)
    table.add_column("change of the weights", no_wrap=True)
    for name in ("expected", f"interval {', '.join(sorted(units))}", "this one", "measured", "quadratic"):
        table.add_column(name, justify="right", no_wrap=True)
    for record in records:
        for row in record.details["rows"]:
            table.add_row(*_cells(record, row))
    return table


def _cells(record: ProbeRecord, row: Row) -> tuple[str, ...]:
    if "bits" in row:
        name, expected, low, high = (
            f"to {row['bits']} bits",
            row["expected"],
            row["expected_lower"],
            row["expected_upper"],
        )
        own = row["quadratic"]
    else:
        name = f"{100 * record.knobs['distance']:g} % of |w|, {row['direction']}"
        expected, low, high = (row.get(key) for key in ("quadratic", "lower", "upper"))
        own = row.get("quadratic_there", expected)
        expected = expected if low is not None else None
    interval = "" if low is None else f"[{low:.3g}, {high:.3g}]"
    shown = ("" if expected is None else f"{expected:.3g}", interval, f"{own:.3g}", f"{row['measured']:.3g}")
    return name, *shown, row["verdict"]


def said(records: list[ProbeRecord]) -> Iterator[str]:
    """Yield what the table means, and what no curvature can tell."""
    yield "Expected: the quadratic model's mean over independent errors. This one: the model along the very change."
    for record in records:
        for row in record.details["rows"]:
            name, *_, this, measured, verdict = _cells(record, row)
            if verdict == FAILS:
                yield f"{name}: the quadratic model fails, {this} against {measured} measured: curvature does not tell."
            elif verdict == BELOW_NOISE:
                yield f"{name}: the rise is below the rounding noise of {record.dtype}, {row['noise']:.1g}."
            elif "bits" in row and not row["single_lower"] <= row["measured"] <= row["single_upper"]:
                ends = f"[{row['single_lower']:.3g}, {row['single_upper']:.3g}]"
                yield f"{name}: {measured} is not in {ends}, where one rounding with independent errors would lie."
    most = [record.details["most_by_quadratic"] for record in records if record.probe == "drift"]
    if most and most[0] is not None:
        yield (
            f"Drift in a direction that is not known, as fine-tuning makes it: up to {most[0]:.3g} by the quadratic "
            "model; no curvature of this loss tells which direction it will be."
        )
    yield "It is the rise of this loss on these examples: neither accuracy nor other data are predicted."
