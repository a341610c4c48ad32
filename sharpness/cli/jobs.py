"""Calls that are done elsewhere, in processes or on a cluster, and how far they are: bars, or plain lines in a log."""

from __future__ import annotations

import ctypes
import sys
import time
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

from rich.console import Console
from rich.progress import Progress, TaskID

from sharpness.cli.output import bar_columns
from sharpness.errors import InputError, RunError

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


@dataclass(frozen=True)
class Job:
    """One call ``function(*arguments, progress=...)`` with a label to show; the function must be importable by name."""

    label: str
    function: Callable[..., None]
    arguments: tuple[Any, ...]


def call(job: Job, report: Show) -> None:
    """Do a job in this worker and report its beginning and how far it is.

    Raises :class:`InputError`, :class:`RunError` and :class:`OSError` as they are, anything else as a
    :class:`RunError` with its text, since not every exception survives the way to the parent.
    """
    report(job.label, 0, 0)
    try:
        job.function(*job.arguments, progress=lambda done, total: report(job.label, done, total))
    except (InputError, RunError, OSError):
        raise
    except Exception as error:
        raise RunError(
            f"{job.label} failed with {type(error).__name__}: {' '.join(str(error).split())[:300]}"
        ) from error
    _give_memory_back()


def _give_memory_back() -> None:
    """Ask glibc to return freed memory to the system, so that one job's peak does not stand beside the next one's."""
    if sys.platform == "linux":
        trim = getattr(ctypes.CDLL(None), "malloc_trim", None)
        if trim is not None:
            trim(0)
