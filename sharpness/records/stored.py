"""Records as they lie in a ``probes.jsonl``, read one by one: a folder may hold very many.

Most of a line are the details of its probe. A glance leaves them where they are, to be read when one is asked for.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from sharpness.errors import InputError
from sharpness.files import Line, iterate_lines
from sharpness.parsing import parse_json
from sharpness.records.probe_record import ProbeRecord, checked_fields

BEFORE, AFTER = b', "details": {', b'}, "device": '
"""What stands around the details in a line of :func:`sharpness.files.append_jsonl`, whose keys are sorted."""


class StoredDetails(Mapping[str, Any]):
    """The details of a record, read from its line at each use, so that many records take little memory."""

    __slots__ = ("_number", "_path", "_size", "_start")

    def __init__(self, line: Line) -> None:
        self._path, self._number, self._start, self._size = line.path, line.number, line.start, len(line.content)

    def _read(self) -> Mapping[str, Any]:
        with open(self._path, "rb") as stream:
            stream.seek(self._start)
            line = Line(self._path, self._number, self._start, stream.read(self._size))
        return read_record(line).details

    def __getitem__(self, name: str) -> Any:
        """Return one detail."""
        return self._read()[name]

    def __iter__(self) -> Iterator[str]:
        """Yield the names."""
        return iter(self._read())

    def __len__(self) -> int:
        """Return their number."""
        return len(self._read())


def read_record(line: Line) -> ProbeRecord:
    """Return the record of a line; :class:`InputError` that names the line for what is none."""
    row = line.row()
    try:
        return ProbeRecord.from_dict(row)
    except InputError as error:
        raise line.naming(error) from error


def records_in(path: Path) -> list[ProbeRecord]:
    """Return the records of a ``probes.jsonl``; :class:`InputError` that names the line for what is none."""
    return [read_record(line) for line in iterate_lines(path)]


def glance(line: Line) -> dict[str, Any]:
    """Return the fields of a record by name, checked, with :class:`StoredDetails` where the line is as we write them.

    Raises :class:`InputError` that names the line for what is no record; damage to details alone is seen when they are
    read.
    """
    row = _without_details(line.content)
    row = line.row() if row is None else row
    try:
        fields = checked_fields(row)
    except InputError as error:
        raise line.naming(error) from error
    return {"details": StoredDetails(line)} | fields


def detail(line: Line, name: str) -> Any:
    """Return a detail that is a number, a text or null without reading the others where it stands there once.

    >>> from pathlib import Path
    >>> detail(Line(Path("probes.jsonl"), 1, 0, b'{"details": {"subset": 200}}'), "subset")
    200
    """
    key = f'"{name}": '.encode()
    count = line.content.count(key)
    if count == 1 and (match := re.compile(re.escape(key) + rb'(null|\d+|"[^"\\]*")[,}]').search(line.content)):
        return json.loads(match[1])
    return read_record(line).details.get(name) if count else None


def _without_details(content: bytes) -> dict[str, Any] | None:
    """Return the row of a line but for its details, ``None`` where it is not one that was written here."""
    start, end = content.find(BEFORE), content.rfind(AFTER)
    if not 0 <= start < end:
        return None
    try:
        row = parse_json(content[:start] + content[end + 1 :])
    except ValueError:
        return None
    return row if isinstance(row, dict) and "details" not in row else None
