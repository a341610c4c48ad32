"""The precision of float32 numbers: of products, full or TF32 on CUDA, and of those too small for the format."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator
from functools import partial
from typing import Any

import torch


@contextlib.contextmanager
def full_precision() -> Iterator[None]:
    """Compute float32 products in float32 (``ieee``) on every backend, and put the user's choices back afterwards.

    Set by the legacy switches where there are some: torch refuses to read those once the newer ones say something
    else, and networks read them in their ``forward``, as ``torch.backends.cudnn.flags`` does.
    """
    with _choices_kept():
        _set_tf32(False)
        torch.set_float32_matmul_precision("highest")
        for switch in (_backends().mkldnn.conv, _backends().mkldnn.rnn):
            switch.fp32_precision = "ieee"
        yield


@contextlib.contextmanager
def tensor_float_32(on: bool) -> Iterator[None]:
    """Compute float32 products on CUDA in TF32 while the context lasts, if ``on``; else leave them as they are."""
    if not on:
        yield
        return
    with _choices_kept():
        _set_tf32(True)
        yield


@contextlib.contextmanager
def subnormals_as_zero() -> Iterator[None]:
    """Take numbers below the format's smallest normal one (1.2e-38 in float32) as 0 while the context lasts.

    Moments and velocities of a weight without gradient, as of a pixel that is always black, shrink by a factor in each
    update and end there, where a CPU computes many times as slowly. Their share of a step is far below the rounding of
    a weight. The switch is the thread's: other threads of the pool keep theirs, and so does a CPU that has none.

    >>> with subnormals_as_zero():
    ...     float(torch.tensor(1e-30) * 1e-10)
    0.0
    """
    before = float(_SMALL * 1e-10) == 0
    torch.set_flush_denormal(True)
    try:
        yield
    finally:
        torch.set_flush_denormal(before)


_SMALL = torch.tensor(1e-30)


def _backends() -> Any:
    return torch.backends  # pyright does not know the newer switches


def _set_tf32(on: bool) -> None:
    _backends().cuda.matmul.allow_tf32 = on
    _backends().cudnn.allow_tf32 = on


@contextlib.contextmanager
def _choices_kept() -> Iterator[None]:
    """Put every switch back to what it is now: the legacy ones first, because setting those sets the newer ones."""
    backends = _backends()
    switches = (backends.cuda.matmul, backends.cudnn.conv, backends.cudnn.rnn)
    switches += (backends.mkldnn.matmul, backends.mkldnn.conv, backends.mkldnn.rnn)
    before, legacy = [switch.fp32_precision for switch in switches], _legacy_choices()
    try:
        yield
    finally:
        for put_back in legacy:
            put_back()
        for switch, precision in zip(switches, before, strict=True):
            if switch.fp32_precision != precision:
                switch.fp32_precision = precision


def _legacy_choices() -> list[Callable[[], None]]:
    """Return what puts back each legacy switch that can be read; torch refuses where only newer ones were used."""
    backends, found = _backends(), list[Callable[[], None]]()
    for holder in (backends.cuda.matmul, backends.cudnn):
        with contextlib.suppress(RuntimeError):
            found.append(partial(setattr, holder, "allow_tf32", holder.allow_tf32))
    with contextlib.suppress(RuntimeError):  # last: the others change it
        found.append(partial(torch.set_float32_matmul_precision, torch.get_float32_matmul_precision()))
    return found
