"""Arrays of an ``.npz`` file, whose sizes are checked before memory is taken for them; nothing in it is ever run.

The file is a zip of ``.npy`` entries: a magic string with the version, a header with type, order and shape, and the
elements. Source: the description of the format in ``numpy.lib.format``.
"""

from __future__ import annotations

import contextlib
import math
import zipfile
import zlib
from collections.abc import Collection, Iterator, Sequence
from pathlib import Path
from typing import IO, Any

import numpy as np

from sharpness.data.user_data import require_memory
from sharpness.errors import InputError, unknown_name

HEADERS = {(1, 0): np.lib.format.read_array_header_1_0, (2, 0): np.lib.format.read_array_header_2_0}
SUFFIX = ".npy"


def array_names(path: Path) -> list[str]:
    """Return the names of the arrays in an ``.npz`` file; :class:`InputError` for a file of any other kind."""
    with _readable(path), open(path, "rb") as stream, zipfile.ZipFile(stream) as archive:
        entries = archive.namelist()
    names = [entry.removesuffix(SUFFIX) for entry in entries if entry.endswith(SUFFIX)]
    if len(set(names)) < len(names):
        raise InputError(f"{path}: expected each array once, got two of one name: write the file again with np.savez")
    return names


def read_arrays(path: Path, names: Sequence[str], widened: Collection[str] = ()) -> list[np.ndarray[Any, Any]]:
    """Return arrays of an ``.npz`` file by name, in the byte order of this machine.

    Those ``widened`` will be turned into int64, and so will whole numbers other than bytes. Raises :class:`InputError`
    for a name that is not there, an array of Python objects, a header that does not fit its entry, more bytes than half
    of the free memory, and damage.
    """
    known = array_names(path)
    for name in names:
        if name not in known:
            raise InputError(f"{path}: {unknown_name('array', name, known)}")
    with _readable(path), open(path, "rb") as stream:
        with zipfile.ZipFile(stream) as archive:
            require_memory(str(path), sum(_checked_bytes(archive, path, name, name in widened) for name in names))
        stream.seek(0)
        with np.load(stream, allow_pickle=False) as arrays:
            return [_native(arrays[name]) for name in names]


def _checked_bytes(archive: zipfile.ZipFile, path: Path, name: str, widened: bool) -> int:
    """Return the bytes that one array will take, after a look at its header, which must say the same as the entry."""
    entry = archive.getinfo(name + SUFFIX)
    with archive.open(entry) as stream:
        shape, dtype = _header(stream, path, name)
        start = stream.tell()
    if dtype.hasobject:
        raise InputError(
            f"{path}: expected {name} as an array of numbers, got Python objects, whose reading can run code: "
            "save it with a dtype such as float32 or int64"
        )
    expected = start + math.prod(shape) * dtype.itemsize
    if expected != entry.file_size:
        raise InputError(
            f"{path}: expected {expected} bytes for {name} of shape {shape} and {dtype}, got {entry.file_size}: "
            "write the file again with np.savez"
        )
    copied = 0 if dtype.isnative else entry.file_size
    if dtype.kind in "iub" and (widened or dtype != np.uint8):
        copied += 8 * math.prod(shape)
    return entry.file_size + copied


def _header(stream: IO[bytes], path: Path, name: str) -> tuple[tuple[int, ...], np.dtype[Any]]:
    version = np.lib.format.read_magic(stream)
    if version not in HEADERS:
        raise InputError(f"{path}: expected {name} as an array of numbers, got .npy version {version}: use np.savez")
    shape, _, dtype = HEADERS[version](stream)
    return shape, dtype


def _native(array: np.ndarray[Any, Any]) -> np.ndarray[Any, Any]:
    return array if array.dtype.isnative else array.astype(array.dtype.newbyteorder("="))


@contextlib.contextmanager
def _readable(path: Path) -> Iterator[None]:
    """Turn what zipfile and numpy raise for a damaged file into one line."""
    try:
        yield
    except InputError:
        raise
    except (zipfile.BadZipFile, zlib.error, EOFError, NotImplementedError, RuntimeError, ValueError) as error:
        problem = " ".join(str(error).split())[:200] or type(error).__name__
        raise InputError(
            f"{path}: expected an .npz file, got {_describe(path)} ({problem}): write it again with np.savez"
        ) from error
    except OSError as error:
        raise InputError(f"{path}: expected a readable file, got: {error.strerror or error}") from error


def _describe(path: Path) -> str:
    """Name what a file is instead, from its first bytes."""
    with open(path, "rb") as stream:
        head = stream.read(16)
    kinds = {
        b"PK": "a damaged or truncated one",
        b"\x93NUMPY": "a single array (.npy)",
        b"version https://": "a Git LFS pointer",
        b"<": "a web page",
    }
    if not head:
        return "an empty file"
    return next((kind for start, kind in kinds.items() if head.startswith(start)), f"a file that starts with {head!r}")
