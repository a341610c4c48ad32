"""SIGTERM as a request: finish the update in progress, save, and leave with :class:`sharpness.errors.Terminated`."""

from __future__ import annotations

import contextlib
import signal
import threading
from collections.abc import Callable, Iterator


@contextlib.contextmanager
def terminating() -> Iterator[Callable[[], bool]]:
    """Give the function that says whether SIGTERM has come since; elsewhere than in the main thread it never does.

    >>> with terminating() as asked_to_stop:
    ...     asked_to_stop()
    False
    """
    came = threading.Event()
    if threading.current_thread() is not threading.main_thread():
        yield came.is_set
        return
    before = signal.signal(signal.SIGTERM, lambda number, frame: came.set())
    try:
        yield came.is_set
    finally:
        signal.signal(signal.SIGTERM, before)
