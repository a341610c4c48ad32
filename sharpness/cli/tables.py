"""Records as tables on the terminal: a line for each number, readable at 80 columns, what it lacks below."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

from rich import box
from rich.table import Table
from rich.text import Text

from sharpness.records import ProbeRecord
from sharpness.records.rows import Row, rows_of

PLAIN: dict[str, Any] = {"box": box.SIMPLE_HEAD, "pad_edge": False, "padding": (0, 1, 0, 0), "caption_style": ""}
LONGEST = 23  # characters of a name: with the numbers beside it a line has at most 80


def records_table(records: Sequence[ProbeRecord], title: str) -> Table:
    """Return a table with a line for each number: its interval or error, products and seconds; notes stand below."""
    counts = {record.num_examples for record in records}
    over = f", {counts.pop()} examples" if len(counts) == 1 else ""
    table = Table(title=Text(title + over), title_justify="left", caption_justify="left", **PLAIN)
    table.add_column("measure", no_wrap=True)
    for name in ("value", "interval", "at", "HVPs", "s"):
        table.add_column(name, justify="right", no_wrap=True)
    for record in records:
        costs = [str(record.num_hvps), f"{record.seconds or 0:.1f}"]
        for i, row in enumerate(rows_of(record)):
            table.add_row(*map(Text, [*_cells(row), *(["", ""] if i else costs)]))
    notes = dict.fromkeys(note for record in records for note in _notes(record))
    if notes:
        table.caption = Text("\n".join(notes))
    return table


def short(name: str) -> str:
    """Return a name of at most :data:`LONGEST` characters, its end kept.

    >>> short("encoder.layers.11.self_attn.k_proj: top 2")
    '…elf_attn.k_proj: top 2'
    """
    return name if len(name) <= LONGEST else f"…{name[1 - LONGEST :]}"


def _cells(row: Row) -> list[str]:
    stopped = row.converged if row.converged.startswith("residual") else ""
    value = "none" if row.number is None and row.value else row.value
    value += "*" * (row.converged == "no" and row.number is not None)
    return [short(row.quantity), value, " ".join(part for part in (row.interval, stopped) if part), row.confidence]


def _notes(record: ProbeRecord) -> Iterator[str]:
    """Yield what a record says of a value that it lacks, of an end that was not reached, and of its matrix."""
    if record.value is None:
        yield f"{record.quantity}: no value: {record.reasons.get('value', 'no reason recorded')}"
    elif any(row.converged == "no" for row in rows_of(record)):
        yield f"* {record.quantity}: not converged: {record.reasons.get('converged', 'no reason recorded')}"
    if source := record.details.get("preconditioner_source"):
        yield f"{record.quantity}: P {source}"


def comparison_table(pairs: Sequence[tuple[ProbeRecord | None, ProbeRecord | None]], titles: tuple[str, str]) -> Table:
    """Return a table of the same quantities at two checkpoints side by side, with the ratio of the values."""
    table = Table()
    table.add_column("quantity")
    for title in (*titles, "ratio"):
        table.add_column(title, justify="right")
    for pair in pairs:
        sides = [{} if record is None else {row.quantity: row for row in rows_of(record)} for record in pair]
        for name in dict.fromkeys([*sides[0], *sides[1]]):
            rows = [side.get(name) for side in sides]
            cells = ["" if row is None else f"{row.value} {row.interval}".strip() for row in rows]
            table.add_row(name, *cells, _ratio(*(None if row is None else row.number for row in rows)))
    return table


def _ratio(first: float | None, second: float | None) -> str:
    return "" if not first or second is None else f"{second / first:.3g}"
