"""The tools that are compared, and what their calls cost: seconds, peak memory and the number of products."""

from __future__ import annotations

import ctypes
import gc
import importlib
import importlib.metadata
import re
import sys
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

from sharpness.errors import RunError

T = TypeVar("T")
STATUS, CLEAR = Path("/proc/self/status"), Path("/proc/self/clear_refs")
INSTALL = "pip install -e '.[benchmark]' -c constraints.txt"


@dataclass(frozen=True)
class Tool:
    """A tool of a table: its label, its call, its distribution, and a note on how it differs from the others."""

    label: str
    call: Callable[..., Any]
    distribution: str
    note: str | None = None
    noisy_top: bool = False
    """Whether it adds random noise to the largest loss of a landscape."""

    @property
    def version(self) -> str:
        """The version that is installed."""
        return importlib.metadata.version(self.distribution)


class NotInstalledError(RunError):
    """A peer is missing, so its rows are to be measured again once it is there."""


def peer(module: str, install: str = INSTALL) -> Any:
    """Return another library by the name of its module; :class:`NotInstalledError` where it is missing."""
    try:
        return importlib.import_module(module)
    except ImportError as error:
        raise NotInstalledError(f"{module} cannot be imported ({error}): {install}") from error


class Counted:
    """A function that counts its calls."""

    def __init__(self, function: Callable[..., Any]) -> None:
        self.function, self.calls = function, 0

    def __call__(self, *arguments: Any) -> Any:
        self.calls += 1
        return self.function(*arguments)


def seconds_of(call: Callable[[], object]) -> float:
    """Return the seconds of one call."""
    started = time.perf_counter()
    call()
    return time.perf_counter() - started


def interleaved(calls: Mapping[str, Callable[[], object]], repeats: int) -> dict[str, list[float]]:
    """Return the seconds of each call, made in turns so that a slow spell of the machine meets all of them."""
    rounds = [{name: seconds_of(call) for name, call in calls.items()} for _ in range(repeats)]
    return {name: [each[name] for each in rounds] for name in calls}


def measured(call: Callable[[], T]) -> tuple[T, dict[str, Any]]:
    """Return the result of a call with its seconds and its peak memory above that before it (Linux; else a reason).

    Freed memory goes back to the system first: what the allocator still held would hide as much of the peak.
    """
    gc.collect()
    _trim()
    reset = _reset_high_water()
    before, old_peak = resident("VmRSS"), resident("VmHWM")
    started = time.perf_counter()
    result = call()
    seconds = time.perf_counter() - started
    peak = resident("VmHWM")
    if before is None or peak is None or old_peak is None:
        reason = "this system has no /proc/self/status"
    elif not reset and peak <= old_peak:
        reason = "below an earlier peak, which may not be cleared here"
    else:
        return result, {"seconds": seconds, "peak_bytes": peak - before, "reasons": {}}
    return result, {"seconds": seconds, "peak_bytes": None, "reasons": {"peak_bytes": reason}}


def resident(name: str) -> int | None:
    """Return VmRSS (resident now), VmHWM (its peak) or RssAnon (this process's own) in bytes; ``None`` off Linux."""
    status = STATUS.read_text() if STATUS.exists() else ""
    found = re.search(rf"^{name}:\s+(\d+)", status, re.MULTILINE)
    return None if found is None else 1024 * int(found[1])


def _reset_high_water() -> bool:
    """Set VmHWM to VmRSS; ``False`` where the system forbids it."""
    try:
        CLEAR.write_text("5")
        return True
    except OSError:
        return False


def _trim() -> None:
    """Give what the allocator holds back to the system, where the C library can."""
    trim = getattr(ctypes.CDLL(None), "malloc_trim", None) if sys.platform == "linux" else None
    if trim is not None:
        trim(0)
