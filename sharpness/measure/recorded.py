"""The rule of what was measured already, for studies that have read no data yet and for commands that have."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import asdict
from typing import Any

from sharpness.measure.subject import Subject
from sharpness.probes import PROBES
from sharpness.records import ProbeRecord, deciding_knobs
from sharpness.results import facts_of
from sharpness.runs import RecordFolder, RunFolder


def missing_probes(
    run: RunFolder, probes: Mapping[str, Any], other: RunFolder | None = None, num_examples: int | None = None
) -> dict[str, Any]:
    """Return the probes that ``probes.jsonl`` has no record of, for these knobs, weights and number of examples.

    No data are read for that, so a study that is done already says so at once.
    """
    weights = run.final_sha256()
    far_end = None if other is None else other.final_sha256()

    def facts(name: str) -> dict[str, Any]:
        second = far_end if "other" in PROBES[name].points else None
        known = {"checkpoint_sha256": weights, "other_checkpoint_sha256": second, "subset": num_examples}
        return {**known, "weight_decay": 0.0}  # studies measure the loss of the data

    return {
        name: probe
        for name, probe in probes.items()
        if find_record(run, wanted_record(name, probe, facts(name))) is None
    }


def is_recorded(folder: RecordFolder, name: str, probe: Any, subject: Subject) -> bool:
    """Say whether a folder seems to have the record of a probe of a subject, before anything is loaded for it.

    What only the measurement itself compares, such as other points, is left to it.
    """
    known = {"checkpoint_sha256": subject.checkpoint_sha256, **facts_of(subject.loss)}
    return find_record(folder, wanted_record(name, probe, known)) is not None


def wanted_record(name: str, probe: Any, facts: Mapping[str, Any]) -> dict[str, Any]:
    """Return what is known of a record before it is measured, by the names of its fields and of its details."""
    return _plain({"probe": name, "knobs": deciding_knobs(asdict(probe)), **facts})


def find_record(folder: RecordFolder, wanted: Mapping[str, Any]) -> ProbeRecord | None:
    """Return the last whole record of a folder that agrees with all that is known of the wanted one.

    A record that time cut short is not whole. Of the knobs those count that decide the number. Whoever has loaded data
    and network knows more of the record, and finds at most what is found without them. Raises :class:`InputError` that
    names the line for what is no record.
    """
    hashes = [value for name, value in wanted.items() if name.endswith("sha256") and value is not None]
    found = folder.index.candidates(wanted["probe"], wanted["knobs"], wanted["checkpoint_sha256"], hashes)
    return next((record for record in found if is_whole(record) and _agrees(record, wanted)), None)


def is_whole(record: ProbeRecord) -> bool:
    """Say whether the solve, and the solve of each layer, came to its own end."""
    layers = record.details.get("layers")
    parts = [record.details, *(layers if isinstance(layers, list | tuple) else ())]
    return all(part.get("stopped_by") != "seconds" for part in parts if isinstance(part, Mapping))


def _agrees(record: ProbeRecord, wanted: Mapping[str, Any]) -> bool:
    facts = {**record.details, **vars(record), "knobs": deciding_knobs(record.knobs)}
    return all(_plain(facts.get(name)) == value for name, value in wanted.items())


def _plain(thing: Any) -> Any:
    """Return a thing as it is read back from a file."""
    return json.loads(json.dumps(thing))
