"""One bar over all that is to be measured, with the time left over all."""

from __future__ import annotations

import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Self

from rich.console import Console
from rich.progress import BarColumn, Progress, TextColumn, TimeElapsedColumn

from sharpness.cli.output import say
from sharpness.machine import progress


class WorkBar:
    """A bar whose length is in expected seconds; the time left goes by how the expected and the real ones compare.

    On a terminal it is one line that changes; elsewhere each part has a line at its beginning.
    """

    def __init__(self, console: Console, expected: Mapping[str, float]) -> None:
        self.console, self.expected = console, expected
        self.total = sum(expected.values())
        self.done, self.began, self.number = 0.0, time.perf_counter(), 0
        columns = TextColumn("{task.description}"), BarColumn(), TimeElapsedColumn(), TextColumn("{task.fields[left]}")
        self._bars = Progress(*columns, console=console)
        self._task = self._bars.add_task("", total=self.total, left="")

    def __enter__(self) -> Self:
        self.began = time.perf_counter()
        if self._moves:
            self._bars.start()
        return self

    def __exit__(self, *_: object) -> None:
        if self._moves:
            self._bars.stop()

    @property
    def _moves(self) -> bool:
        return self.console.is_terminal and not self.console.quiet

    @contextmanager
    def part(self, title: str) -> Iterator[progress.Progress]:
        """Show a part as it goes on; call what is yielded with its steps done and the most there can be."""
        seconds = self.expected.get(title, 0.0)
        self.number += 1
        name = f"{title} ({self.number} of {max(len(self.expected), self.number)})"
        if not self._moves:
            say(self.console, f"{name}{self._left(0.0)}")

        def report(done: int, total: int) -> None:
            if self._moves:
                within = seconds * done / total
                self._bars.update(
                    self._task, completed=self.done + within, description=name, left=self._left(within).strip(" ,")
                )

        report(0, 1)
        yield report
        self.done += seconds

    def _left(self, within: float) -> str:
        """Return the time left as the end of a line; nothing where that is not known or not worth a word."""
        left = time_left(self.total, self.done + within, time.perf_counter() - self.began)
        return f", about {duration(left)} left" if left >= 1 else ""


def time_left(total: float, done: float, elapsed: float) -> float:
    """Return the seconds left of a ``total`` that was expected, of which ``done`` took ``elapsed``.

    The prices of the parts are wrong each in its own way: that the first took thrice their price says little of the
    last. So the pace counts as if as much as all were done already, at its price.

    >>> time_left(total=300, done=0, elapsed=0), time_left(total=300, done=100, elapsed=300)
    (300.0, 300.0)
    """
    return (total - done) * (total + elapsed) / (total + done) if total else 0.0


def duration(seconds: float) -> str:
    """Return a time in the unit that people would say it in.

    >>> duration(8.3), duration(95), duration(7300)
    ('8 s', '1.6 min', '2.0 h')
    """
    if seconds < 90:
        return f"{seconds:.0f} s"
    return f"{seconds / 60:.1f} min" if seconds < 5400 else f"{seconds / 3600:.1f} h"
