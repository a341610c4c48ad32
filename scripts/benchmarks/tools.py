"""How the curvature benchmark measures: time, peak memory, the number of products, and what is installed."""

from __future__ import annotations

import ctypes
import gc
import importlib
import sys
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from statistics import median
from typing import Any, TypeVar

from torch import Tensor

from sharpness.errors import RunError

T = TypeVar("T")
STATUS, CLEAR = Path("/proc/self/status"), Path("/proc/self/clear_refs")
INSTALL = "pip install -e '.[benchmark]' -c constraints.txt"


class NotInstalledError(RunError):
    """A peer is missing, so its rows are to be measured again once it is there."""


def peer(module: str, install: str = INSTALL) -> Any:
    """Return another library by the name of its module; :class:`NotInstalledError` where it is missing."""
    try:
        return importlib.import_module(module)
    except ImportError as error:
        raise NotInstalledError(f"{module} cannot be imported ({error}): {install}") from error


def hide_broken_torchvision() -> None:
    """Hide a torchvision that fails to load: transformers would try to, although text needs none.

    It fails where its build is for another torch, as that of the package index is beside a torch for CPUs alone.
    """
    try:
        importlib.import_module("torchvision")
    except (ImportError, RuntimeError):
        modules: dict[str, Any] = sys.modules
        modules["torchvision"] = None


@dataclass(frozen=True)
class Answer:
    """What a tool says of the top eigenvalue; ``converged`` is by the tool's own rule, ``None`` if it tells nothing."""

    value: float
    num_hvps: int
    converged: bool | None
    lower: float | None = None
    upper: float | None = None
    reasons: dict[str, str] = field(default_factory=dict)


@dataclass(frozen=True)
class Cost:
    """Seconds of a call, and the bytes by which its peak rose above what was resident before it."""

    seconds: float
    peak_bytes: int | None
    reasons: dict[str, str]


class Counted:
    """A function of one vector that counts its calls."""

    def __init__(self, function: Callable[..., Any]) -> None:
        self.function, self.calls = function, 0

    def __call__(self, *arguments: Any) -> Any:
        self.calls += 1
        return self.function(*arguments)


def measured(call: Callable[[], T]) -> tuple[T, Cost]:
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
        return result, Cost(seconds, None, {"peak_bytes": "this system has no /proc/self/status"})
    if not reset and peak <= old_peak:
        return result, Cost(seconds, None, {"peak_bytes": "below an earlier peak, which may not be cleared here"})
    return result, Cost(seconds, peak - before, {})


def resident(name: str) -> int | None:
    """Return VmRSS (resident now) or VmHWM (its peak) of this process in bytes; ``None`` where Linux does not say."""
    if not STATUS.exists():
        return None
    for line in STATUS.read_text().splitlines():
        if line.startswith(name + ":"):
            return 1024 * int(line.split()[1])
    return None


def _reset_high_water() -> bool:
    """Set VmHWM to VmRSS; ``False`` where the system forbids it."""
    try:
        CLEAR.write_text("5")
        return True
    except OSError:
        return False


def _trim() -> None:
    if sys.platform == "linux":
        trim = getattr(ctypes.CDLL(None), "malloc_trim", None)
        if trim is not None:
            trim(0)


def seconds_of(call: Callable[[], object]) -> float:
    """Return the seconds of one call."""
    started = time.perf_counter()
    call()
    return time.perf_counter() - started


def interleaved(calls: Mapping[str, Callable[[], object]], repeats: int) -> dict[str, float]:
    """Return the median seconds of each call, made in turns so that a slow spell of the machine meets all of them."""
    seconds: dict[str, list[float]] = {name: [] for name in calls}
    for _ in range(repeats):
        for name, call in calls.items():
            seconds[name].append(seconds_of(call))
    return {name: median(values) for name, values in seconds.items()}


def vector_bytes(v: Tensor) -> int:
    """Return the bytes of one vector of the network's size."""
    return v.numel() * v.element_size()
