"""The places of records in a ``probes.jsonl``: a folder with many is read once, and what is asked for is found."""

from __future__ import annotations

import os
from collections.abc import Collection, Iterator, Mapping
from pathlib import Path
from typing import Any

from sharpness.files import Line, iterate_lines
from sharpness.records import ProbeRecord, deciding_knobs
from sharpness.records.stored import glance, read_record


class RecordIndex:
    """The places of the records of a file by probe, knobs and weights; records themselves are not kept.

    Every line is read and checked once, but for the details of its probe. Lines that are appended afterwards, by
    whatever process, are read when the next record is asked for.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        self._forget()

    def candidates(
        self, probe: str, knobs: Mapping[str, Any], checkpoint: str | None, texts: Collection[str] = ()
    ) -> Iterator[ProbeRecord]:
        """Yield the records of a probe with these knobs (of any time) and weights, the newest first.

        Those without one of the ``texts``, such as hashes, in their line are left out. Raises :class:`InputError` that
        names the file and line for what is no record.
        """
        self.refresh()
        places = self._places.get(_key(probe, knobs, checkpoint), [])
        wanted = [text.encode() for text in texts]
        with open(self.path if places else os.devnull, "rb") as stream:
            for number, start, end in reversed(places):
                stream.seek(start)
                line = Line(self.path, number, start, stream.read(end - start))
                if all(text in line.content for text in wanted):
                    yield read_record(line)

    def refresh(self) -> None:
        """Read and check the lines that were not read yet, all of them where the file is another one."""
        if self.path.exists():
            found = self.path.stat()
            if found.st_ino != self._file or found.st_size < self._end:
                self._forget()
                self._file = found.st_ino
        for line in iterate_lines(self.path, self._end, self._number):
            row = glance(line)
            key = _key(row["probe"], row.get("knobs", {}), row.get("checkpoint_sha256"))
            self._places.setdefault(key, []).append((line.number, line.start, line.end))
            self._end, self._number = line.end, line.number + 1

    def _forget(self) -> None:
        self._places: dict[int, list[tuple[int, int, int]]] = {}
        self._file, self._end, self._number = None, 0, 1


def _key(probe: str, knobs: Mapping[str, Any], checkpoint: str | None) -> int:
    """Return a number that is equal where these are, 1 and 1.0 alike; others share one by rare chance."""
    return hash((probe, _frozen(deciding_knobs(knobs)), checkpoint))


def _frozen(thing: Any) -> Any:
    if isinstance(thing, dict):
        return frozenset(
            (name, _frozen(value) if type(value) in (dict, list) else value) for name, value in thing.items()
        )
    return tuple(map(_frozen, thing)) if isinstance(thing, list | tuple) else thing
