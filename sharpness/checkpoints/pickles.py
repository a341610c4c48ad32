"""Files of ``torch.save`` and ``pickle.dump``, read without running anything; tensors stay in the mapped file."""

from __future__ import annotations

import io
import mmap
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Any, cast

import torch

from sharpness.checkpoints.pickle_machine import Machine
from sharpness.checkpoints.pickle_values import Stored, refuse
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
        return _read_legacy(cast(IO[bytes], view), torch.UntypedStorage.from_file(str(path), False, len(view)))


def read_pickle(path: Path) -> Pickled:
    """Return what ``pickle.dump`` wrote, where every storage is bytes in the older format of ``torch.save``.

    The errors are those of :func:`read_torch_zip`.
    """
    with about(path, "a pickle"):
        if (size := path.stat().st_size) > MAX_PICKLE:
            raise InputError(
                f"expected a pickle of at most {MAX_PICKLE >> 20} MiB, got one of {size >> 20}: save the state dict "
                "with torch.save or as safetensors"
            )
        found = dict[int, tuple[bytes, Stored]]()  # the bytes too, so that no others get their number

        def read_bytes(machine: Machine, content: bytes) -> Stored:
            if id(content) not in found:
                copied = torch.frombuffer(bytearray(content), dtype=torch.uint8).untyped_storage()
                stored = _read_legacy(io.BytesIO(content), copied, machine).content
                if not isinstance(stored, Stored):
                    refuse("bytes that hold no storage")
                found[id(content)] = content, stored
            return found[id(content)][1]

        machine = Machine(lambda *_: refuse("a storage outside the pickle"), read_bytes)
        return Pickled(machine.run(io.BytesIO(path.read_bytes())), frozenset(machine.names))


def _read_legacy(stream: IO[bytes], mapped: Any, outer: Machine | None = None) -> Pickled:
    """Return what lies in a stream, with the storages behind its pickles as parts of the same bytes as one storage."""
    # The places of the storages stand behind the object, so it is read twice: they are only counted first.
    counting, places = Machine(lambda *_: None, work=outer.work if outer else 0), dict[str, int]()
    *_, keys = [counting.run(stream) for _ in range(LEGACY_PICKLES)]
    if outer is not None:
        outer.work = counting.work
    end = stream.tell()
    for key in keys:
        stored = counting.storages[key]
        places[key] = end + LENGTH
        end += LENGTH + stored.numel * stored.dtype.itemsize
    if end > mapped.nbytes() or places.keys() != counting.storages.keys():
        raise InputError(f"expected {end} bytes, got {mapped.nbytes()}: truncated, so fetch or save it again")
    machine = Machine(lambda key, numel, dtype: _part(mapped, places[key], numel * dtype.itemsize))
    stream.seek(0)
    *_, content = [machine.run(stream) for _ in range(LEGACY_PICKLES - 1)]
    return Pickled(content, frozenset(machine.names))
