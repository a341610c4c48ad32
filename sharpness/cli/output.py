"""The output on the terminal: bars with the time left, records as JSON, plain lines for logs."""

from __future__ import annotations

import json
import sys
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager

from rich.console import Console
from rich.progress import (
    BarColumn,
    MofNCompleteColumn,
    Progress,
    ProgressColumn,
    TextColumn,
    TimeElapsedColumn,
    TimeRemainingColumn,
)

from sharpness.records import ProbeRecord
from sharpness.records.rows import warnings_of


def make_console(json_only: bool = False) -> Console:
    """Return the console that people read; with ``json_only`` it stays silent."""
    return Console(quiet=json_only) if sys.stdout.isatty() else Console(width=130, quiet=json_only)


def say(console: Console, text: str, style: str | None = None) -> None:
    """Print one line as it is: no markup, no highlighting, no breaks."""
    console.print(text, style=style, markup=False, highlight=False, soft_wrap=True)


def warn(text: str) -> None:
    """Print a warning on standard error, where it stands beside any output."""
    print(f"warning: {text}", file=sys.stderr, flush=True)


def print_json(records: Sequence[ProbeRecord]) -> None:
    """Print records, one JSON object per line."""
    for record in records:
        print(json.dumps(record.to_dict(), allow_nan=False, sort_keys=True))


def bar_columns() -> tuple[ProgressColumn, ...]:
    """Return the columns of a progress bar: what, how far, how many, time spent and time left."""
    text = TextColumn("{task.description}")
    return text, BarColumn(), MofNCompleteColumn(), TimeElapsedColumn(), TimeRemainingColumn()


@contextmanager
def show_progress(console: Console, title: str, unit: str) -> Iterator[Callable[[int, int], None]]:
    """Show a bar on a terminal; elsewhere a line for each tenth; nothing on a silent console."""
    if console.quiet:
        yield lambda done, total: None
        return
    if not console.is_terminal:
        printed = [-1]

        def line(done: int, total: int) -> None:
            if 10 * done // total > printed[0]:
                printed[0] = 10 * done // total
                print(f"{title}: {done} of {total} {unit}", flush=True)

        yield line
        return
    with Progress(*bar_columns(), console=console) as bars:
        task = bars.add_task(title, total=None)
        yield lambda done, total: bars.update(task, completed=done, total=total)


def warn_of(records: Sequence[ProbeRecord], known: Sequence[str] = ()) -> None:
    """Print the warnings of records, each once, but not those that are ``known`` already."""
    for text in dict.fromkeys(text for record in records for text in warnings_of(record)):
        if text not in known:
            warn(text)
