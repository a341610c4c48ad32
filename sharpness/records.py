"""One measured number with its evidence, and JSON Lines files that survive a kill (standard library only)."""

from __future__ import annotations

import contextlib
import errno
import json
import math
import os
import shutil
from collections.abc import Iterator, Mapping
from dataclasses import asdict, dataclass, field, fields
from pathlib import Path
from typing import Any

from sharpness.errors import InputError, RunError

SCHEMA = 1


@dataclass(frozen=True, kw_only=True)
class ProbeRecord:
    """One number and everything needed to judge it: interval, residual, costs, seed, dtype, hashes of its inputs.

    ``data_sha256`` is the hash of the data as the loss saw them; ``peak_memory`` is the peak of the process so far (on
    CUDA, of what it allocated there). A field that could not be measured is ``None`` and ``reasons`` says why under the
    field's name; a record never holds NaN or infinity. Losses are in nats, shares and accuracies in [0, 1], times in
    seconds, memory in bytes. ``checkpoint_sha256`` is the hash of the weights file that was probed; ``details`` holds
    what only this probe has.

    >>> ProbeRecord(probe="distance", quantity="distance_from_start", value=3.0).value
    3.0
    """

    probe: str
    quantity: str
    value: float | None
    lower: float | None = None
    upper: float | None = None
    confidence: float | None = None
    residual: float | None = None
    converged: bool | None = None
    knobs: Mapping[str, Any] = field(default_factory=dict)
    num_hvps: int = 0
    num_gradients: int = 0
    num_forwards: int = 0
    seconds: float | None = None
    peak_memory: int | None = None
    seed: int | None = None
    dtype: str | None = None
    device: str | None = None
    threads: int | None = None
    num_examples: int | None = None
    norm: str | None = None
    batch_sizes: tuple[int, ...] | None = None
    hvp_backend: str | None = None
    parameters: Mapping[str, Any] | None = None
    data_sha256: str | None = None
    checkpoint_sha256: str | None = None
    versions: Mapping[str, str] = field(default_factory=dict)
    details: Mapping[str, Any] = field(default_factory=dict)
    reasons: Mapping[str, str] = field(default_factory=dict)
    schema: int = SCHEMA

    def to_dict(self) -> dict[str, Any]:
        """Return the record as plain JSON types; a non-finite number becomes ``None`` with a reason.

        >>> ProbeRecord(probe="p", quantity="q", value=float("nan")).to_dict()["reasons"]
        {'value': 'nan is not finite'}
        """
        reasons = dict(self.reasons)
        row = {key: _finite(value, key, reasons) for key, value in asdict(self).items() if key != "reasons"}
        return row | {"reasons": reasons}

    @classmethod
    def from_dict(cls, row: Mapping[str, Any]) -> ProbeRecord:
        """Rebuild a record from a line of ``probes.jsonl``; a newer schema is refused with :class:`InputError`."""
        if row.get("schema", 0) > SCHEMA:
            raise InputError(
                f"expected a record of schema {SCHEMA} or older, got {row['schema']}: update the package to read it"
            )
        names = {f.name for f in fields(cls)}
        if missing := {"probe", "quantity", "value"} - row.keys():
            raise InputError(
                f"expected a probe record, got a line without {', '.join(sorted(missing))}: remove that line"
            )
        known = {key: value for key, value in row.items() if key in names}
        if known.get("batch_sizes") is not None:
            known["batch_sizes"] = tuple(known["batch_sizes"])
        return cls(**known)


def _finite(value: Any, path: str, reasons: dict[str, str]) -> Any:
    """Replace every non-finite float in a tree of plain types by ``None``, noting where and what it was."""
    if isinstance(value, float) and not math.isfinite(value):
        reasons.setdefault(path, f"{value} is not finite")
        return None
    if isinstance(value, Mapping):
        return {str(key): _finite(item, f"{path}.{key}", reasons) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [_finite(item, f"{path}[{i}]", reasons) for i, item in enumerate(value)]
    return value


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
    size = os.fstat(descriptor).st_size
    if size == 0 or os.pread(descriptor, 1, size - 1) == b"\n":
        return size
    return os.pread(descriptor, size, 0).rfind(b"\n") + 1


def read_jsonl(path: Path) -> list[dict[str, Any]]:
    """Read the complete lines of a JSON Lines file; a partial last line is ignored, a damaged one raises.

    Raises :class:`InputError` naming the file and line when a complete line is not JSON.
    """
    if not path.exists():
        return []
    rows = []
    *lines, _partial = path.read_bytes().split(b"\n")
    for number, line in enumerate(lines, 1):
        try:
            rows.append(json.loads(line))
            if not isinstance(rows[-1], dict):
                raise ValueError("not an object")
        except ValueError as error:
            raise InputError(
                f"{path}:{number}: expected one JSON object per line, got {line[:40]!r}: remove that line ({error})"
            ) from error
    return rows


def write_atomically(path: Path, content: bytes | memoryview, keep: Path | None = None) -> None:
    """Write a file so that a kill leaves the old content or the new: temporary file, fsync, ``os.replace``.

    With ``keep`` the old file is moved there when the new one is whole; a kill between the two moves leaves it there
    alone. Raises :class:`RunError` with the bytes needed and free when the disk is full.
    """
    temporary = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    with _saying_where(path, len(content)):
        try:
            descriptor = os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o644)
            try:
                _write_all(descriptor, content)
                os.fsync(descriptor)
            finally:
                os.close(descriptor)
            if keep is not None and path.exists():
                os.replace(path, keep)
            os.replace(temporary, path)
        finally:
            temporary.unlink(missing_ok=True)
        fsync_folder(path.parent)


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
