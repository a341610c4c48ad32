"""The progress of a study's jobs: bars on a terminal, plain lines in a log."""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path

from rich.console import Console
from rich.progress import Progress, TaskID

from sharpness.cli import bar_columns

PLAIN_SECONDS = 10.0
"""Each job prints a line at its start and end without a terminal, and between at most one in so many seconds."""

Show = Callable[[str, int, int], None]
"""``show(label, done, total)``: (label, 0, 0) when a job begins, (label, -1, 0) when it has ended, in any order."""


@contextmanager
def display(console: Console, title: str, labels: Sequence[str]) -> Iterator[Show]:
    """Show the jobs of these labels while the context lasts.

    Reports travel on their own: one of a job that has ended or is none of these is not shown, nor a second beginning.
    """
    left, begun = Counter(labels), set[str]()
    with (_bars if console.is_terminal else _lines)(console, title, len(labels)) as draw:

        def show(label: str, done: int, total: int) -> None:
            if not left[label]:
                return
            if label not in begun:
                begun.add(label)
                draw(label, 0, 0)
            if done < 0:
                left[label] -= 1
                begun.discard(label)
            if done or total:
                draw(label, done, total)

        yield show


def show_files(console: Console, files: Iterable[Path]) -> None:
    """Print where the figures and tables lie, one line each whatever its formats."""
    console.print("\nFigures (PDF, PNG, CSV, provenance JSON):", highlight=False)
    for path in files:
        if path.suffix in {".pdf", ".md"}:
            console.print(f"  {path}", highlight=False, soft_wrap=True)


def show_times(console: Console, spent: Mapping[str, float]) -> None:
    """Print the seconds of each stage and of all of them."""
    times = ", ".join(f"{name} {seconds:.0f} s" for name, seconds in spent.items())
    console.print(f"\n{times}; {sum(spent.values()):.0f} s in all", highlight=False)


@contextmanager
def _bars(console: Console, title: str, count: int) -> Iterator[Show]:
    """Show one bar per running job, and one for all of them."""
    with Progress(*bar_columns(), console=console) as progress:
        whole = progress.add_task(f"[bold]{title}", total=count)
        tasks: dict[str, TaskID] = {}

        def show(label: str, done: int, total: int) -> None:
            if label not in tasks:
                tasks[label] = progress.add_task(f"  {label}", total=None)
            elif done < 0:
                progress.remove_task(tasks.pop(label))
                progress.advance(whole)
            else:
                progress.update(tasks[label], completed=done, total=total)

        yield show


@contextmanager
def _lines(_: Console, title: str, count: int) -> Iterator[Show]:
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
            print(f"{title}: {label} done in {now - begun.pop(label):.0f} s ({len(finished)} of {count})", flush=True)
        elif now - shown[label] > PLAIN_SECONDS:
            shown[label] = now
            print(f"{title}: {label} {done} of {total}", flush=True)

    yield show
