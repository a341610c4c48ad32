"""Files of ``torch.save``: their pickles read without running anything, the tensors left in the mapped file."""

from __future__ import annotations

import io
import mmap
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Any, cast

import torch

from sharpness.checkpoints.pickle_machine import Machine
from sharpness.checkpoints.wording import about, shown
from sharpness.checkpoints.zips import Entry, check_entries, open_zip
from sharpness.errors import InputError

MAX_PICKLE = 256 << 20
"""Bytes of the pickle in a zip archive, which are read at once; the tensors lie in other entries."""
LEGACY_PICKLES = 5
"""The older format's pickles: a magic number, a version, facts of the machine, the object and the storages' keys."""
LENGTH = 8
"""Bytes of the number of entries in front of each storage of the older format."""


@dataclass(frozen=True, eq=False)
class Pickled:
    """The content of a file, and the names of the classes and functions in it that stayed inert."""

    content: Any
    names: frozenset[str]


def read_torch_zip(path: Path) -> Pickled:
    """Return what ``torch.save`` wrote to a zip archive; the tensors stay in the mapped file.

    Raises :class:`InputError` for archives that :func:`sharpness.checkpoints.zips.check_entries` refuses, for pickles
    that would make more than the file holds, and for damaged files.
    """
    with about(path, "a file of torch.save"):
        with open_zip(path) as archive:
            entries = check_entries(archive)
            pickled = _read_entry(archive.fp, entries["data.pkl"], MAX_PICKLE)
            swapped = "byteorder" in entries and _read_entry(archive.fp, entries["byteorder"], 16) != _ORDER
        mapped = torch.UntypedStorage.from_file(str(path), False, path.stat().st_size)

        def read_storage(key: str, numel: int, dtype: torch.dtype) -> torch.UntypedStorage:
            entry, length = entries.get(f"data/{key}"), numel * dtype.itemsize
            if entry is None or entry.length != length:
                got = "no such entry" if entry is None else entry.length
                raise InputError(
                    f"expected {length} bytes in the entry {shown([f'data/{key}'])}, got {got}: damaged, so fetch or "
                    "save it again"
                )
            storage = _part(mapped, entry.start, length)
            if swapped:  # the file is mapped for this process alone, and stays as it is
                storage.byteswap(dtype)
            return storage

        machine = Machine(read_storage)
        return Pickled(machine.run(io.BytesIO(pickled)), frozenset(machine.names))


_ORDER = sys.byteorder.encode()


def _part(mapped: Any, start: int, length: int) -> torch.UntypedStorage:
    """Return some bytes of a mapped file, which stay there."""
    return mapped[start : start + length]


def _read_entry(stream: IO[bytes] | None, entry: Entry, most: int) -> bytes:
    assert stream is not None
    if entry.length > most:
        raise InputError(
            f"expected a pickle of at most {most >> 20} MiB beside the tensors, got one of {entry.length >> 20}: "
            "save model.state_dict() by itself"
        )
    stream.seek(entry.start)
    return stream.read(entry.length)


def read_torch_legacy(path: Path) -> Pickled:
    """Return what ``torch.save`` wrote before version 1.6: pickles one behind the other, then the storages.

    The errors are those of :func:`read_torch_zip`.
    """
    with (
        about(path, "a file of torch.save"),
        open(path, "rb") as file,
        mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as view,
    ):
        # The places of the storages stand behind the object, so it is read twice: they are only counted first.
        counting, places = Machine(lambda *_: None), dict[str, int]()
        *_, keys = [counting.run(cast(IO[bytes], view)) for _ in range(LEGACY_PICKLES)]
        end = view.tell()
        for key in keys:
            stored = counting.storages[key]
            places[key] = end + LENGTH
            end += LENGTH + stored.numel * stored.dtype.itemsize
        if end > len(view) or places.keys() != counting.storages.keys():
            raise InputError(f"expected {end} bytes, got {len(view)}: truncated, so fetch or save it again")
        mapped = torch.UntypedStorage.from_file(str(path), False, len(view))
        machine = Machine(lambda key, numel, dtype: _part(mapped, places[key], numel * dtype.itemsize))
        view.seek(0)
        *_, content = [machine.run(cast(IO[bytes], view)) for _ in range(LEGACY_PICKLES - 1)]
        return Pickled(content, frozenset(machine.names))
