"""How far the jobs of a study are: bars on a terminal, plain lines in a log."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager

from rich.console import Console
from rich.progress import Progress, TaskID

from sharpness.cli import bar_columns

PLAIN_SECONDS = 10.0
"""Without a terminal each job prints a line at its start and end, and at most one per this many seconds between."""

Show = Callable[[str, int, int], None]
"""``show(label, done, total)``: (label, 0, 0) when a job begins, (label, -1, 0) when it has ended."""


def display(console: Console, title: str, labels: Sequence[str]) -> AbstractContextManager[Show]:
    """Show the jobs of these labels while the context lasts."""
    return (_bars if console.is_terminal else _lines)(console, title, labels)


@contextmanager
def _bars(console: Console, title: str, labels: Sequence[str]) -> Iterator[Show]:
    """Show one bar per running job, and one for all of them."""
    with Progress(*bar_columns(), console=console) as progress:
        whole = progress.add_task(f"[bold]{title}", total=len(labels))
        tasks: dict[str, TaskID] = {}

        def show(label: str, done: int, total: int) -> None:
            if label not in tasks:
                tasks[label] = progress.add_task(f"  {label}", total=None)
            if done < 0:
                progress.remove_task(tasks[label])
                progress.advance(whole)
            elif total:
                progress.update(tasks[label], completed=done, total=total)

        yield show


@contextmanager
def _lines(console: Console, title: str, labels: Sequence[str]) -> Iterator[Show]:
    """Print plain lines, for logs."""
    begun: dict[str, float] = {}
    shown: dict[str, float] = {}
    finished: list[str] = []

    def show(label: str, done: int, total: int) -> None:
        now = time.monotonic()
        if label not in begun:
            begun[label] = shown[label] = now
            print(f"{title}: {label} ...", flush=True)
        elif done < 0:
            finished.append(label)
            seconds = now - begun[label]
            print(f"{title}: {label} done in {seconds:.0f} s ({len(finished)} of {len(labels)})", flush=True)
        elif total and now - shown[label] > PLAIN_SECONDS:
            shown[label] = now
            print(f"{title}: {label} {done} of {total}", flush=True)

    yield show
