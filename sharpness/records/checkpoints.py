"""The checkpoints of the records of folders, and the names that tell them apart."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Sequence
from pathlib import Path

from sharpness.errors import InputError
from sharpness.records.probe_record import ProbeRecord
from sharpness.records.stored import records_in

Numbers = dict[str, dict[str, ProbeRecord]]
"""The records of checkpoints by probe, by the names of the checkpoints."""


def folders_of(paths: Iterable[Path]) -> list[Path]:
    """Return the folders with a ``probes.jsonl`` in and below these; :class:`InputError` where there is none."""
    found = list[Path]()
    for path in paths:
        own = sorted(file.parent for file in path.rglob("probes.jsonl")) if path.is_dir() else []
        if not own:
            raise InputError(f"expected a folder with results (a probes.jsonl in it or below), got {path}")
        found += own
    return list(dict.fromkeys(found))


def place_of(record: ProbeRecord) -> str:
    """Return the file of weights that a record is of, or their hash where the record names none.

    >>> place_of(ProbeRecord(probe="trace", quantity="trace", value=1.0, checkpoint_sha256="0123456789abcdef"))
    '0123456789ab'
    """
    path = (record.details.get("checkpoint") or {}).get("path")
    return str(path) if path else (record.checkpoint_sha256 or "weights without a file")[:12]


def by_checkpoint(folder: Path) -> Numbers:
    """Return the last record of each probe of each checkpoint in a folder, the checkpoints in the order of the file.

    They are named by the parts of their paths that tell them apart, and several sets of weights of one file, such as
    the last ones and their average, by the file's name for each.
    """
    places, found = dict[tuple[str, str], str](), dict[tuple[str, str], dict[str, ProbeRecord]]()
    for record in records_in(folder / "probes.jsonl"):
        reading = str((record.details.get("checkpoint") or {}).get("reading") or "")
        key = (record.checkpoint_sha256 or place_of(record), reading)
        places[key] = place_of(record)
        found.setdefault(key, {}).pop(record.probe, None)  # the newest of a probe stands last
        found[key][record.probe] = record
    files = Counter(file for file, _ in places)
    paths = [Path(f"{place} [{key[1]}]" if files[key[0]] > 1 else place) for key, place in places.items()]
    return dict(zip(distinct_names(paths), found.values(), strict=True))


def distinct_names(paths: Sequence[Path]) -> list[str]:
    """Return the last parts of paths that tell them apart; the same path twice gets its number.

    >>> distinct_names([Path("/a/run/w.pt"), Path("/b/run/w.pt")]), distinct_names([Path("/c/w.pt")])
    (['a/run/w.pt', 'b/run/w.pt'], ['w.pt'])
    """
    parts = [path.absolute().parts for path in paths]
    for depth in range(1, max(map(len, parts), default=0) + 1):
        names = ["/".join(each[-depth:]) for each in parts]
        if len(set(names)) == len(names):
            return names
    return [f"{each[-1]} ({i})" for i, each in enumerate(parts)]
