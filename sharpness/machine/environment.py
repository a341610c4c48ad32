"""Facts of the machine and the installation that a result depends on: device, threads, memory, versions, commit."""

from __future__ import annotations

import contextlib
import functools
import hashlib
import importlib.metadata
import os
import platform
import resource
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import torch

from sharpness.errors import InputError

PACKAGES = ("sharpness", "torch", "numpy", "scipy")


def choose_device(name: str = "auto") -> torch.device:
    """Return the device of that name; ``auto`` is CUDA where there is one, else MPS, else the CPU.

    Raises :class:`InputError` for a name that torch does not know or a device that this machine does not have.
    The CUDA and MPS paths differ from the CPU's in this device alone; they have not been run on such hardware.

    >>> choose_device("cpu")
    device(type='cpu')
    """
    cuda, mps = torch.cuda.is_available(), torch.backends.mps.is_available()
    if name == "auto":
        return torch.device("cuda" if cuda else "mps" if mps else "cpu")
    try:
        device = torch.device(name)
    except RuntimeError:
        raise InputError(f"expected a device such as auto, cpu, cuda, cuda:1 or mps, got {name!r}") from None
    available = {"cpu": True, "cuda": cuda and (device.index or 0) < torch.cuda.device_count(), "mps": mps}
    if not available.get(device.type, False):
        raise InputError(f"expected a device of this machine, got {name!r}, which is not here: use --device auto")
    return device


@contextlib.contextmanager
def deterministic(device: torch.device) -> Iterator[None]:
    """Ask for deterministic kernels on CUDA while the context lasts; the CPU's are so for a fixed number of threads."""
    if device.type != "cuda":
        yield
        return
    os.environ.setdefault("CUBLAS_WORKSPACE_CONFIG", ":4096:8")
    before = torch.are_deterministic_algorithms_enabled()
    torch.use_deterministic_algorithms(True)
    try:
        yield
    finally:
        torch.use_deterministic_algorithms(before)


def derived_seed(*parts: object) -> int:
    """Return a 63-bit seed that is a function of its arguments alone, so that no stream of random numbers is replayed.

    >>> derived_seed(0, "epoch", 1) == derived_seed(0, "epoch", 2)
    False
    """
    digest = hashlib.sha256("/".join(map(str, parts)).encode()).digest()
    return int.from_bytes(digest[:8], "little") >> 1


def peak_memory(device: torch.device) -> int:
    """Return the peak bytes allocated on a CUDA device, else the peak resident memory of this process so far."""
    if device.type == "cuda":
        return torch.cuda.max_memory_allocated(device)
    unit = 1 if sys.platform == "darwin" else 1024
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit


@functools.cache
def versions() -> dict[str, str]:
    """Return the versions of Python and of the packages that produce the numbers."""
    return {"python": platform.python_version()} | {name: importlib.metadata.version(name) for name in PACKAGES}


@functools.cache
def git_commit() -> str | None:
    """Return the commit of the checkout this package runs from, ``+changes`` if files differ; ``None`` outside one."""
    folder = Path(__file__).parent
    try:
        _git(folder, "ls-files", "--error-unmatch", Path(__file__).name)  # else this is a copy inside another checkout
        commit = _git(folder, "rev-parse", "HEAD")
        return commit + ("+changes" if _git(folder, "status", "--porcelain", "--untracked-files=no") else "")
    except (OSError, subprocess.SubprocessError):
        return None


def _git(folder: Path, *arguments: str) -> str:
    command = ["git", "-C", str(folder), *arguments]
    return subprocess.run(command, capture_output=True, text=True, check=True, timeout=20).stdout.strip()
