"""JSON Lines and whole files that survive a kill, a power loss and a full disk (standard library only)."""

from __future__ import annotations

import contextlib
import errno
import hashlib
import json
import os
import shutil
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from sharpness.errors import InputError, RunError
from sharpness.parsing import parse_json

DIGEST_BYTES = hashlib.sha256().digest_size
SEAL = "sha256"
MAX_LINE = 64 << 20
"""Bytes of a line of JSON; the longest that is written here, of a density or a plane, has a hundredth of that."""
BLOCK = 1 << 20


def append_jsonl(path: Path, row: Mapping[str, Any], *, sync: bool = True) -> None:
    """Append one row as one line with a single write and fsync, first cutting off a half-written last line.

    A process killed while it appends leaves at most one partial line, which the next append removes and
    :func:`read_jsonl` ignores; an append that fails leaves none. Without ``sync`` a power loss, and nothing else, can
    take the row. NaN raises ``ValueError`` before anything is written, a full disk :class:`RunError`.
    """
    line = (json.dumps(row, allow_nan=False, sort_keys=True) + "\n").encode()
    created = not path.exists()
    with _saying_where(path, len(line)):
        descriptor = os.open(path, os.O_RDWR | os.O_CREAT, 0o644)
        try:
            length = _complete_length(descriptor)
            os.ftruncate(descriptor, length)
            os.lseek(descriptor, 0, os.SEEK_END)
            try:
                _write_all(descriptor, line)
                if sync:
                    os.fsync(descriptor)
            except OSError:
                os.ftruncate(descriptor, length)
                raise
        finally:
            os.close(descriptor)
        if created:
            fsync_folder(path.parent)


def _complete_length(descriptor: int) -> int:
    """Return the number of bytes up to and including the last newline of an open file."""
    end = os.fstat(descriptor).st_size
    while end > 0:
        start = max(0, end - BLOCK)
        if (last := os.pread(descriptor, end - start, start).rfind(b"\n")) >= 0:
            return start + last + 1
        end = start
    return 0


@dataclass(frozen=True, slots=True)
class Line:
    """A complete line of a JSON Lines file: which file, its number from 1, the byte where it begins, its content."""

    path: Path
    number: int
    start: int
    content: bytes

    @property
    def end(self) -> int:
        """The byte where the next line begins."""
        return self.start + len(self.content)

    def row(self) -> dict[str, Any]:
        """Return the JSON object of the line; :class:`InputError` that names the line for anything else."""
        try:
            row = parse_json(self.content)
            if isinstance(row, dict):
                return row
            reason = "not an object"
        except ValueError as error:
            reason = str(error)
        shown = self.content[:40].rstrip()
        raise self.naming(f"expected one JSON object per line, got {shown!r}: remove that line ({reason})")

    def naming(self, error: object) -> InputError:
        """Return the error for a line that is none of those that belong there."""
        return InputError(f"{self.path}:{self.number}: {error}")


def iterate_lines(path: Path, start: int = 0, number: int = 1) -> Iterator[Line]:
    """Yield the complete lines of a file one by one, from a line that begins at the byte ``start`` on.

    A partial last line is ignored, and a file that is not there has none. Raises :class:`InputError` for a line longer
    than any that is written here.
    """
    if not path.exists():
        return
    with open(path, "rb") as stream:
        stream.seek(start)
        while (content := stream.readline(MAX_LINE)).endswith(b"\n"):
            yield Line(path, number, start, content)
            start, number = start + len(content), number + 1
        if len(content) == MAX_LINE:
            raise InputError(f"{path}:{number}: expected lines of at most {MAX_LINE} bytes, got more: remove that line")


def read_jsonl(path: Path) -> list[dict[str, Any]]:
    """Return the rows of a JSON Lines file; a partial last line is ignored.

    Raises :class:`InputError` naming the file and line when a complete line is no JSON object.
    """
    return [line.row() for line in iterate_lines(path)]


def intact_rows(path: Path) -> Iterator[dict[str, Any]]:
    """Yield those rows of a JSON Lines file that are as :func:`sealed_row` made them, whatever stands between them."""
    for line in iterate_lines(path):
        with contextlib.suppress(InputError):
            if is_sealed(row := line.row()):
                yield row


def sealed_row(row: Mapping[str, Any]) -> dict[str, Any]:
    """Return a row with the SHA-256 of all that it holds, for :func:`is_sealed`."""
    return {**row, SEAL: _row_sha256(row)}


def is_sealed(row: Mapping[str, Any]) -> bool:
    """Say whether a row is as :func:`sealed_row` made it.

    >>> row = sealed_row({"cell": 3, "loss": "0.5"})
    >>> is_sealed(row), is_sealed(row | {"loss": "0.4"})
    (True, False)
    """
    return row.get(SEAL) == _row_sha256({name: value for name, value in row.items() if name != SEAL})


def _row_sha256(row: Mapping[str, Any]) -> str:
    return hashlib.sha256(json.dumps(row, allow_nan=False, sort_keys=True).encode()).hexdigest()


def write_atomically(
    path: Path, content: bytes | memoryview, keep: Path | None = None, *, seal: bool = False, sync: bool = True
) -> None:
    """Write a file so that a kill leaves the old content or the new: temporary file, fsync, ``os.replace``.

    With ``keep`` the old file is moved there when the new one is whole; a kill between the two moves leaves it there
    alone. With ``seal`` the SHA-256 of the content stands at the file's end, for :func:`read_sealed`; such a file needs
    no ``sync`` where a power loss may take it. Raises :class:`RunError` with the bytes needed and free when the disk is
    full.
    """
    temporary = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    parts = [content, hashlib.sha256(content).digest()] if seal else [content]
    with _saying_where(path, sum(map(len, parts))):
        try:
            descriptor = os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o644)
            try:
                for part in parts:
                    _write_all(descriptor, part)
                if sync:
                    os.fsync(descriptor)
            finally:
                os.close(descriptor)
            if keep is not None and path.exists():
                os.replace(path, keep)
            os.replace(temporary, path)
        finally:
            temporary.unlink(missing_ok=True)
        if sync:
            fsync_folder(path.parent)


def read_sealed(path: Path) -> memoryview:
    """Return the content that :func:`write_atomically` sealed; ``ValueError`` if the bytes are not those written.

    >>> import tempfile
    >>> path = Path(tempfile.mkdtemp()) / "kept"
    >>> write_atomically(path, b"abc", seal=True)
    >>> bytes(read_sealed(path))
    b'abc'
    """
    whole = memoryview(path.read_bytes())
    content, digest = whole[:-DIGEST_BYTES], whole[-DIGEST_BYTES:]
    if hashlib.sha256(content).digest() != digest:
        raise ValueError("its SHA-256 is not the one at its end")
    return content


def _write_all(descriptor: int, content: bytes | memoryview) -> None:
    """Write with one call; where the system takes only a part, go on with the rest."""
    left = memoryview(content)
    while left:
        left = left[os.write(descriptor, left) :]


@contextlib.contextmanager
def _saying_where(path: Path, size: int) -> Iterator[None]:
    """Name the file in the errors of writing ``size`` bytes, and turn a full disk into a :class:`RunError`."""
    try:
        yield
    except OSError as error:
        if error.errno in (errno.ENOSPC, errno.EDQUOT):
            raise RunError(
                f"expected {size} bytes free for {path}, got {shutil.disk_usage(path.parent).free} ({error.strerror}): "
                "make room there, then run the same command again; what was written before is whole"
            ) from error
        if error.errno is not None and error.filename is None:
            error.filename = str(path)  # the system does not know the name of an open file
        raise


def fsync_folder(folder: Path) -> None:
    """Flush a folder's own entries, so that a file created or renamed in it survives a power loss (POSIX only)."""
    if os.name == "posix":
        descriptor = os.open(folder, os.O_RDONLY)
        try:
            os.fsync(descriptor)
        finally:
            os.close(descriptor)
