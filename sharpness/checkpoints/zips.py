"""Zip archives as ``torch.save`` writes them: nothing compressed, nothing overlapping, every checksum right."""

from __future__ import annotations

import struct
import zipfile
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import IO
from zipfile import ZipFile, ZipInfo

from sharpness.errors import InputError

MAX_DIRECTORY = 64 << 20
"""Bytes of the list of entries: room for half a million, where a large network has some thousands of tensors."""
LOCAL_HEADER = struct.Struct("<4s22xHH")
DIRECTORY_ENTRY = 46
END, LOCATOR, END64 = b"PK\x05\x06", b"PK\x06\x07", b"PK\x06\x06"


@dataclass(frozen=True)
class Entry:
    """The place of an entry's bytes in the file."""

    start: int
    length: int


def open_zip(path: Path) -> ZipFile:
    """Return the archive, whose list of entries is bounded and ends where the file does.

    Readers of zip files differ in where they look for that list. With nothing before, between or behind the entries,
    the list and its end, they all find the same one. Raises :class:`InputError` for any other file.
    """
    with open(path, "rb") as stream:
        _check_directory(stream)
    try:
        return ZipFile(path)
    except zipfile.BadZipFile as error:
        raise InputError(f"expected a zip archive, got a damaged one ({error}): fetch or save it again") from error


def _check_directory(stream: IO[bytes]) -> None:
    tail = _tail(stream, 98)
    position = stream.seek(0, 2) - 22
    if len(tail) < 22 or tail[-22:-18] != END or tail[-2:] != b"\0\0":
        raise InputError(
            "expected a zip archive, got its beginning without its end, or with something behind the end: "
            "truncated or damaged, so fetch or save it again"
        )
    count, size, offset = struct.unpack("<10xHLL2x", tail[-22:])
    if tail[-42:-38] == LOCATOR and tail[-98:-94] == END64:
        count, size, offset = struct.unpack("<32xQQQ", tail[-98:-42])
        position -= 76
    if offset + size != position or count * DIRECTORY_ENTRY > size:
        raise InputError("expected a zip archive, got one whose list of entries is damaged: fetch or save it again")
    if size > MAX_DIRECTORY:
        raise InputError(
            f"expected at most {MAX_DIRECTORY >> 20} MiB for the list of entries of a zip archive, got {size >> 20}: "
            "no checkpoint needs that"
        )


def _tail(stream: IO[bytes], length: int) -> bytes:
    stream.seek(max(0, stream.seek(0, 2) - length))
    return stream.read()


def check_entries(archive: ZipFile) -> dict[str, Entry]:
    """Return the place of every entry by its name, without the folder that they all lie in.

    Raises :class:`InputError` unless the entries are stored as they are, lie one behind the other from the beginning of
    the file to the list of entries, have different names in one folder, and agree with their checksums.
    """
    entries = sorted(archive.infolist(), key=lambda entry: entry.header_offset)
    _check_names(entries)
    for entry in entries:
        if entry.flag_bits & 0x1:
            raise InputError(f"expected a plain zip archive, got {entry.filename!r} encrypted: save it without")
        if entry.compress_type != zipfile.ZIP_STORED or entry.file_size != entry.compress_size:
            raise InputError(
                f"expected entries stored as they are, got {entry.filename!r} compressed from {entry.file_size} to "
                f"{entry.compress_size} bytes: torch.save never does that, so unpack it or save it again"
            )
    places = _places(archive, entries)
    if (damaged := _first_damaged(archive)) is not None:
        raise InputError(
            f"expected entries that agree with their checksums, got {damaged!r}, which does not: damaged, or saved "
            "with torch.serialization.set_crc32_options(False), so fetch or save it again"
        )
    return {entry.filename.partition("/")[2]: place for entry, place in zip(entries, places, strict=True)}


def _check_names(entries: Iterable[ZipInfo]) -> None:
    names: set[str] = set()
    folders: set[str] = set()
    for entry in entries:
        folder, slash, name = entry.filename.partition("/")
        if entry.orig_filename != entry.filename or not slash:
            raise InputError(f"expected entries in one folder, got {entry.orig_filename!r}: not written by torch.save")
        folders.add(folder)
        if name.casefold() in names or len(folders) > 1:
            raise InputError(
                f"expected entries of different names in one folder, got {entry.filename!r} as well: save it again"
            )
        names.add(name.casefold())


def _places(archive: ZipFile, entries: list[ZipInfo]) -> list[Entry]:
    """Return where the bytes of each lie; each begins behind the end of the one before it, the first with the file."""
    assert archive.fp is not None
    places: list[Entry] = []
    starts = [entry.header_offset for entry in entries]
    for entry, following in zip(entries, [*starts[1:], archive.start_dir], strict=True):
        archive.fp.seek(entry.header_offset)
        header = archive.fp.read(LOCAL_HEADER.size)
        if len(header) < LOCAL_HEADER.size:
            raise InputError(f"expected a zip archive, got one cut off in {entry.filename!r}: fetch or save it again")
        signature, name_length, extra_length = LOCAL_HEADER.unpack(header)
        place = Entry(entry.header_offset + LOCAL_HEADER.size + name_length + extra_length, entry.file_size)
        if signature != b"PK\x03\x04" or place.start + place.length > following or starts[0] != 0:
            raise InputError(
                "expected entries one behind the other from the start of the file, got "
                f"{entry.filename!r} overlapping what follows or out of place: save it again"
            )
        places.append(place)
    return places


def _first_damaged(archive: ZipFile) -> str | None:
    try:
        return archive.testzip()
    except zipfile.BadZipFile as error:  # the entry's own header says otherwise than the list of entries
        return str(error)
