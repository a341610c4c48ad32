"""Weights in several files with a JSON index, which says in which file each tensor is."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path, PurePosixPath, PureWindowsPath
from typing import Any

from torch import Tensor

from sharpness.checkpoints.formats import MAX_INDEX
from sharpness.checkpoints.wording import about, shown
from sharpness.errors import InputError
from sharpness.parsing import parse_object

AGAIN = "fetch or save all files again"


def read_shards(index: Path, read: Callable[[Path], Any]) -> tuple[dict[str, Tensor], tuple[Path, ...]]:
    """Return the tensors of all files that an index names, and the files in the order of their names.

    ``read`` reads one of them. Raises :class:`InputError` for files that do not lie beside the index or are not there,
    and for tensors that are missing, twice, or not in the file in which the index has them.
    """
    with about(index, "an index of several files"):
        places, total = _read_index(index)
        files = {name: file_beside(index, name) for name in sorted(set(places.values()))}
    tensors: dict[str, Tensor] = {}
    for name, file in files.items():
        content = read(file)
        with about(file, "one of several files of tensors"):
            here = {key for key, place in places.items() if place == name}
            tensors |= _checked(content, here, tensors, index)
    found = sum(tensor.numel() * tensor.itemsize for tensor in tensors.values())
    if total is not None and found != total:
        raise InputError(f"{index}: expected {total} bytes of tensors in all files, got {found}: {AGAIN}")
    return tensors, tuple(files.values())


def file_beside(folder_or_file: Path, name: str) -> Path:
    """Return the path of a file in a folder, or beside a file, whose name another file gives.

    Raises :class:`InputError` for a name that leads anywhere else, also through a link, and for a file that is not
    there. Hugging Face's cache keeps files apart and has links to them, which may be followed to where it keeps them.
    """
    folder = folder_or_file if folder_or_file.is_dir() else folder_or_file.parent
    plain = PurePosixPath(name).name == name == PureWindowsPath(name).name
    if not plain or name in ("", ".", "..") or not name.isprintable():
        raise InputError(f"expected names of files in the same folder, got {shown([name])}, which leads out: {AGAIN}")
    path = folder / name
    if not path.is_file():
        raise InputError(f"expected the file {shown([name])} beside it, got none: {AGAIN}")
    home = folder.resolve()
    cache = home.parent.parent / "blobs" if home.parent.name == "snapshots" else home
    if path.resolve().parent not in (home, cache):
        raise InputError(f"expected files in the same folder, got {shown([name])}, a link that leaves it: {AGAIN}")
    return path


def _read_index(index: Path) -> tuple[dict[str, str], float | None]:
    """Return the file's name for each tensor, and the number of bytes of all tensors where the index has it."""
    if (size := index.stat().st_size) > MAX_INDEX:
        raise InputError(f"expected an index of at most {MAX_INDEX >> 20} MiB, got {size >> 20}: {AGAIN}")
    content = parse_object(index.read_bytes(), "an index of several files")
    places, metadata = content.get("weight_map"), content.get("metadata", {})
    if not isinstance(places, dict) or not places or not all(isinstance(place, str) for place in places.values()):
        raise InputError(f"expected a weight_map from the names of tensors to those of files, got none: {AGAIN}")
    total = metadata.get("total_size") if isinstance(metadata, dict) else None
    return places, total if isinstance(total, int | float) else None


def _checked(content: Any, here: set[str], others: Mapping[str, Tensor], index: Path) -> dict[str, Tensor]:
    """Return the content of one file if it is the tensors that the index has there."""
    if not isinstance(content, dict) or not all(isinstance(value, Tensor) for value in content.values()):
        raise InputError(f"expected named tensors only, got other things as well: {AGAIN}")
    if twice := content.keys() & others.keys():
        raise InputError(f"expected each tensor in one file, got {shown(sorted(twice))} in an earlier one too: {AGAIN}")
    if missing := here - content.keys():
        raise InputError(f"expected {shown(sorted(missing))} in this file, as {index.name} has it, got none: {AGAIN}")
    if extra := content.keys() - here:
        raise InputError(
            f"expected only the tensors that {index.name} has here, got {shown(sorted(map(str, extra)))} too: {AGAIN}"
        )
    return content
