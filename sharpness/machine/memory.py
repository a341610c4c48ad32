"""Free memory, and running out of it as told from other errors."""

from __future__ import annotations

import contextlib
import gc
import os
import resource
from collections.abc import Iterator
from pathlib import Path

import torch

from sharpness.errors import says_out_of_memory

CACHE_SHARE = 0.5  # of the free memory that kept graphs may take: the rest is for vectors and for one batch's own graph


def free_memory(device: torch.device) -> int:
    """Return the bytes that this process can still take on a device.

    On the CPU the limits of its control groups count too (version 2), and processes of ``torchrun`` on one machine
    share what is free evenly.

    >>> free_memory(torch.device("cpu")) > 0
    True
    """
    if device.type == "cuda":
        free, _ = torch.cuda.mem_get_info(device)
        return free + torch.cuda.memory_reserved(device) - torch.cuda.memory_allocated(device)
    known = [number for number in (_meminfo(), *_control_groups()) if number is not None]
    free = min(known) if known else 1 << 31  # a system that tells neither: the kept graphs get 1 GiB
    return free // int(os.environ.get("LOCAL_WORLD_SIZE", "1"))


@contextlib.contextmanager
def bounded_memory() -> Iterator[None]:
    """Let whatever takes more than the free memory fail with an error inside, instead of the system ending the process.

    Nothing is bounded where the system does not tell how much this process has, and mapped files do not count.
    """
    used, (soft, hard) = _data_size(), resource.getrlimit(resource.RLIMIT_DATA)
    if used is None:
        yield
        return
    most = used + free_memory(torch.device("cpu"))
    resource.setrlimit(resource.RLIMIT_DATA, (most if soft == resource.RLIM_INFINITY else min(most, soft), hard))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_DATA, (soft, hard))


def cache_budget(cache: int | str, device: torch.device) -> int:
    """Return the bytes that kept graphs may take: ``cache`` itself, or for ``auto`` half of what is free now."""
    return int(CACHE_SHARE * free_memory(device)) if cache == "auto" else int(cache)


def is_out_of_memory(error: BaseException) -> bool:
    """Say whether an error means that memory ran out, on the CPU (whose allocator has no type of its own) or a GPU."""
    return isinstance(error, torch.OutOfMemoryError) or says_out_of_memory(error)


def release(device: torch.device) -> None:
    """Give unused memory back after an error whose traceback is gone."""
    gc.collect()
    if device.type == "cuda":
        torch.cuda.empty_cache()


def _proc_bytes(file: str, entry: str) -> int | None:
    """Return an entry of one of Linux's tables of memory, in bytes; ``None`` elsewhere."""
    try:
        lines = Path(file).read_text().splitlines()
    except OSError:
        return None
    return next((int(line.split()[1]) * 1024 for line in lines if line.startswith(f"{entry}:")), None)


def _meminfo() -> int | None:
    """Return what Linux calls available, in bytes."""
    return _proc_bytes("/proc/meminfo", "MemAvailable")


def _data_size() -> int | None:
    """Return the bytes of private memory that this process has asked for, used or not, as Linux tells them."""
    return _proc_bytes("/proc/self/status", "VmData")


def _control_groups() -> list[int | None]:
    """Return what this process's control group and those above it may still take; ``None`` without a limit."""
    try:
        own = Path("/proc/self/cgroup").read_text().strip().rpartition("::")[2]
    except OSError:
        return []
    root = Path("/sys/fs/cgroup")
    folder = root / own.lstrip("/")
    return [_control_group(group) for group in (folder, *folder.parents) if group.is_relative_to(root)]


def _control_group(folder: Path) -> int | None:
    try:
        return int((folder / "memory.max").read_text()) - int((folder / "memory.current").read_text())
    except (OSError, ValueError):  # no such file, or the word "max"
        return None
