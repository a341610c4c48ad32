"""Files of ``torch.save``: looked through first, then read by torch's weights-only unpickler and by nothing else."""

from __future__ import annotations

import io
import mmap
from collections.abc import Collection, Sequence
from pathlib import Path
from typing import IO, Any, cast

import torch

from sharpness.checkpoints.pickle_globals import import_allowed, is_denied
from sharpness.checkpoints.pickle_scan import MODULE_FIELDS, Walk
from sharpness.checkpoints.wording import about, shown
from sharpness.checkpoints.zips import check_entries, open_zip
from sharpness.errors import InputError

MAX_PICKLE = 256 << 20
"""Bytes of the pickle in a zip archive, which are read at once; the tensors lie in other entries."""
LEGACY_PICKLES = 5
"""The older format's pickles: a magic number, a version, facts of the machine, the object and the storages' keys."""


def read_torch_zip(path: Path, allow: Sequence[str] = ()) -> Any:
    """Return what ``torch.save`` wrote to a zip archive; the tensors stay in the mapped file.

    ``allow`` holds the names of classes and functions that the pickle may refer to besides tensors and plain values.
    Raises :class:`InputError` for archives that :func:`sharpness.checkpoints.zips.check_entries` refuses, for pickles
    that refer to anything else or would make more than the file holds, and for damaged files.
    """
    with about(path, "a file of torch.save"):
        walk = Walk()
        with open_zip(path) as archive:
            sizes = check_entries(archive)
            if sizes["data.pkl"] > MAX_PICKLE:
                raise InputError(
                    f"expected a pickle of at most {MAX_PICKLE >> 20} MiB beside the tensors, got one of "
                    f"{sizes['data.pkl'] >> 20}: save model.state_dict() by itself"
                )
            folder = archive.namelist()[0].partition("/")[0]
            walk.through(io.BytesIO(archive.read(f"{folder}/data.pkl")))
        _check_names(walk, allow)
        for key, length in walk.storages.items():
            if sizes.get(f"data/{key}") != length:
                raise InputError(
                    f"expected {length} bytes in the entry {shown([f'data/{key}'])}, got "
                    f"{sizes.get(f'data/{key}', 'no such entry')}: damaged, so fetch or save it again"
                )
        # For a file of this name torch.load calls the reader of safetensors, so it is given the open file instead.
        if path.suffix == ".safetensors":
            with open(path, "rb") as stream:
                return _load(stream, walk.names, mmap=False)
        return _load(path, walk.names, mmap=True)


def read_torch_legacy(path: Path, allow: Sequence[str] = ()) -> Any:
    """Return what ``torch.save`` wrote before version 1.6: pickles one behind the other, then the storages.

    The tensors are copied out of the file once. ``allow`` and the errors are those of :func:`read_torch_zip`.
    """
    with (
        about(path, "a file of torch.save"),
        open(path, "rb") as file,
        mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as mapped,
    ):
        # Torch takes a file for a tar archive first, with a temporary folder for it; a mapped one it just reads.
        stream = cast(IO[bytes], mapped)
        walk = Walk()
        for _ in range(LEGACY_PICKLES):
            walk.through(stream)
        _check_names(walk, allow)
        # Each storage comes behind its length.
        stored, rest = sum(8 + length for length in walk.storages.values()), len(mapped) - mapped.tell()
        if stored > rest:
            raise InputError(f"expected {stored} bytes of tensors, got {rest}: truncated, so fetch or save it again")
        mapped.seek(0)
        return _load(stream, walk.names, mmap=False)


def _load(source: Path | IO[bytes], names: Collection[str], mmap: bool) -> Any:
    with torch.serialization.safe_globals(import_allowed(sorted(names))):
        return torch.load(source, map_location="cpu", weights_only=True, mmap=mmap)


def _check_names(walk: Walk, allow: Sequence[str]) -> None:
    """Refuse a whole module, and names that the user has not allowed, saying which could be."""
    if walk.fields >= MODULE_FIELDS:
        raise InputError(
            "expected a state dict, got a whole pickled module, which only its own code could read: "
            "save model.state_dict() instead, without the module among the hyperparameters either"
        )
    refused = sorted(walk.names.difference(allow))
    if denied := [name for name in refused if is_denied(name)]:
        raise InputError(
            f"expected tensors and plain values, got a pickle that refers to {shown(denied)}, which is never allowed: "
            "save model.state_dict() as safetensors where the file was made"
        )
    if refused:
        options = " ".join(f"--allow-global {shown([name])}" for name in refused[:5])
        raise InputError(
            f"expected tensors and plain values, got a pickle that refers to {shown(refused, 8)}: if you trust the "
            f"file add {options}, or save its state_dict() as safetensors"
        )
