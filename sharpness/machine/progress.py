"""The callable by which long work says how far it is, and a bar of it for terminals and notebooks."""

from __future__ import annotations

import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from html import escape
from typing import Any

Progress = Callable[[int, int], None]
"""Called with the number of expensive steps done and the most there can be."""


@contextmanager
def ending(progress: Progress | None) -> Iterator[Progress | None]:
    """Pass on what is said of the progress; at the end say that all is done, though it were less than the most.

    >>> with ending(lambda done, total: print(done, "of", total)) as progress:
    ...     progress(3, 100)
    3 of 100
    3 of 3
    """
    if progress is None:
        yield None
        return
    last = (0, 0)

    def pass_on(done: int, total: int) -> None:
        nonlocal last
        last = (done, total)
        progress(done, total)

    yield pass_on
    if last[0] < last[1]:
        progress(last[0], last[0])


WIDTH = 30
"""Characters of a bar on a terminal."""
PAUSE = 0.1
"""Seconds between two drawings."""


class ProgressBar:
    """A bar for ``progress=`` of any probe: one line of a terminal, a bar in a notebook, nothing elsewhere.

    >>> bar = ProgressBar("eigenvalues")
    >>> bar(3, 12)
    >>> str(bar).startswith("eigenvalues 3 of 12, ")
    True
    """

    def __init__(self, title: str = "") -> None:
        self.title, self.done, self.total = title, 0, 0
        self._began, self._drawn = time.perf_counter(), float("-inf")
        self._handle: Any = None

    def __call__(self, done: int, total: int) -> None:
        """Show that so many of at most so many steps are done."""
        self.done, self.total = done, total
        now = time.perf_counter()
        if now - self._drawn < PAUSE and done < total:
            return
        self._drawn = now
        if (display := _notebook()) is not None:
            if self._handle is None:
                self._handle = display(self, display_id=True)
            else:
                self._handle.update(self)
        elif sys.stderr.isatty():
            filled = WIDTH * done // max(total, 1)
            bar = "#" * filled + "-" * (WIDTH - filled)
            print(f"\r[{bar}] {self}", end="\n" if done >= total else "", file=sys.stderr, flush=True)

    def __str__(self) -> str:
        """Return how far it is and how long it has taken."""
        return f"{self.title} {self.done} of {self.total}, {time.perf_counter() - self._began:.1f} s".strip()

    def _repr_html_(self) -> str:
        """Return the bar that notebooks show."""
        return f'<progress value="{self.done}" max="{max(self.total, 1)}"></progress> {escape(str(self))}'


def _notebook() -> Callable[..., Any] | None:
    """Return what shows a thing in the notebook that this runs in; ``None`` where it is none."""
    ipython = sys.modules.get("IPython")
    shell = None if ipython is None else ipython.get_ipython()
    if shell is None or not hasattr(shell, "kernel"):
        return None
    from IPython.display import display  # pyright: ignore[reportMissingImports]

    return display
