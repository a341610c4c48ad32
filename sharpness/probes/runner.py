"""Measure what is missing at one checkpoint: subject -> probe -> record -> ``probes.jsonl``, skipping what is there."""

from __future__ import annotations

import hashlib
import inspect
import json
import shutil
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any

from torch import Tensor

from sharpness.environment import deterministic
from sharpness.errors import InputError, unknown_name
from sharpness.loss import Loss
from sharpness.probes import PROBES
from sharpness.probes.evidence import Progress, facts_of
from sharpness.records import ProbeRecord
from sharpness.runs import RecordFolder

POINTS = {
    "x0": "the weights where training started: give --start",
    "other": "a second checkpoint: use sharpness compare",
}
DISK_SHARE = 0.1  # of the free disk that kept products may take


@dataclass(frozen=True, kw_only=True)
class FarEnd:
    """The second checkpoint of a line: its weights, the losses on the line, and what a record says of it."""

    weights: Tensor
    line: Loss
    test: Loss | None
    checkpoint_sha256: str
    details: Mapping[str, Any] = field(default_factory=dict)


@dataclass(frozen=True, kw_only=True)
class Subject:
    """A checkpoint with its loss; ``start`` and ``far_end`` load the other points that some probes need.

    ``details`` go into every record.
    """

    loss: Loss
    checkpoint_sha256: str
    details: Mapping[str, Any] = field(default_factory=dict)
    start: Callable[[], Tensor] | None = None
    far_end: Callable[[], FarEnd] | None = None

    def missing_point(self, name: str) -> str | None:
        """Return what the probe of this name needs and is not here, or ``None``."""
        there = {"w": True, "x0": self.start is not None, "other": self.far_end is not None}
        return next((POINTS[point] for point in PROBES[name].points if not there[point]), None)


@dataclass(frozen=True)
class Outcome:
    """What became of one probe: ``measured``, ``there already``, ``out of time`` or ``does not apply``."""

    name: str
    status: str
    record: ProbeRecord | None = None
    reason: str = ""


class _TimeIsUp(Exception):
    """Raised inside a probe that has no bound of its own."""


def probes_named(names: Sequence[str] | None) -> dict[str, Any]:
    """Return the named probes with their default knobs, all of them without names; :class:`InputError` for others.

    >>> list(probes_named(["keskar"]))
    ['keskar']
    """
    for name in names or ():
        if name not in PROBES:
            raise unknown_name("probe", name, PROBES)
    return {name: PROBES[name].probe() for name in names or PROBES}


def applicable(probes: Mapping[str, Any], subject: Subject, *, named: bool) -> dict[str, Any]:
    """Return the probes that have the points they need; with ``named`` the first one without is refused."""
    for name in probes:
        if named and (missing := subject.missing_point(name)):
            raise InputError(f"expected for the probe {name!r} {missing}")
    return {name: probe for name, probe in probes.items() if subject.missing_point(name) is None}


def measure(
    name: str,
    probe: Any,
    subject: Subject,
    folder: RecordFolder,
    *,
    deadline: float | None = None,
    progress: Progress | None = None,
) -> Outcome:
    """Measure one probe unless ``probes.jsonl`` has its record, and append that; ``deadline`` is of ``perf_counter``.

    A solve that ran out of time is recorded as it stands and goes on from its kept products when it is asked for again.
    """
    far_end = subject.far_end() if subject.far_end is not None and "other" in PROBES[name].points else None
    identity = _identity(name, probe, subject, far_end)
    if (known := _known(folder, identity)) is not None:
        return Outcome(name, "there already", known)
    if deadline is not None and time.perf_counter() >= deadline:
        return Outcome(name, "out of time", reason="it was not begun")
    products = folder.path / ".products" / hashlib.sha256(json.dumps(identity).encode()).hexdigest()[:16]
    try:
        with deterministic(subject.loss.device):
            record = _call(name, probe, subject, far_end, products, deadline, progress)
    except _TimeIsUp:
        return Outcome(name, "out of time", reason="it has no result before its end")
    with folder.lock():
        if (known := _known(folder, identity)) is not None:
            return Outcome(name, "there already", known)
        folder.append_record(record)
    if not _cut_short(record):
        shutil.rmtree(products, ignore_errors=True)
    return Outcome(name, "measured", record)


def _call(
    name: str,
    probe: Any,
    subject: Subject,
    far_end: FarEnd | None,
    products: Path,
    deadline: float | None,
    progress: Progress | None,
) -> ProbeRecord:
    """Call a probe with the points and options that it takes and return its record."""
    loss, points, details = subject.loss, [subject.loss.weights], dict(subject.details)
    options: dict[str, Any] = {}
    takes = inspect.signature(type(probe).__call__).parameters
    if far_end is not None:
        loss, points, options = far_end.line, [*points, far_end.weights], {"test_loss": far_end.test}
        details |= {**far_end.details, "other_checkpoint_sha256": far_end.checkpoint_sha256}
    elif "x0" in PROBES[name].points and subject.start is not None:
        points.append(subject.start())
    if "resume" in takes and _fits_on_disk(probe, loss, products):
        options["resume"] = products
    if deadline is not None and hasattr(probe, "seconds"):
        left = max(deadline - time.perf_counter(), 1e-3)
        probe = replace(probe, seconds=left if probe.seconds is None else min(left, probe.seconds))
    elif deadline is not None:
        progress = _until(deadline, progress)
    record = probe(loss, *points, **options, progress=progress).to_record(subject.checkpoint_sha256)
    return replace(record, details={**record.details, **details})


def _until(deadline: float, progress: Progress | None) -> Progress:
    def step(done: int, total: int) -> None:
        if progress is not None:
            progress(done, total)
        if time.perf_counter() >= deadline and done < total:
            raise _TimeIsUp

    return step


def _fits_on_disk(probe: Any, loss: Loss, products: Path) -> bool:
    """Say whether the products of a whole solve may be kept: one vector each."""
    most = getattr(probe, "num_hvps", None) or probe.steps * probe.starts
    parent = next(folder for folder in products.parents if folder.exists())
    return most * loss.weights.numel() * loss.weights.element_size() <= DISK_SHARE * shutil.disk_usage(parent).free


def _identity(name: str, probe: Any, subject: Subject, far_end: FarEnd | None) -> dict[str, Any]:
    """Return what a record must agree with to be this probe's of this subject, as JSON has it."""
    far = {} if far_end is None else {"other_checkpoint_sha256": far_end.checkpoint_sha256}
    facts = facts_of(subject.loss if far_end is None else far_end.line)
    known = {"probe": name, "knobs": deciding_knobs(asdict(probe)), "checkpoint_sha256": subject.checkpoint_sha256}
    return _plain({**known, **far, **facts})


def _known(folder: RecordFolder, identity: Mapping[str, Any]) -> ProbeRecord | None:
    """Return the last whole record of this identity in a folder."""
    for record in reversed(folder.records()):
        row = record.to_dict()
        row |= {
            "knobs": deciding_knobs(row["knobs"]),
            "other_checkpoint_sha256": record.details.get("other_checkpoint_sha256"),
        }
        if not _cut_short(record) and all(row[key] == value for key, value in identity.items()):
            return record
    return None


def deciding_knobs(knobs: Mapping[str, Any]) -> dict[str, Any]:
    """Return the knobs that decide the number: not how long it may take, nor what is left out."""
    return {name: value for name, value in knobs.items() if name != "seconds" and value is not None}


def _plain(thing: Any) -> Any:
    return json.loads(json.dumps(thing))


def _cut_short(record: ProbeRecord) -> bool:
    """Say whether time ended a solve, the whole or that of a layer."""
    parts = [record.details, *record.details.get("layers", ())]
    return any(part.get("stopped_by") == "seconds" for part in parts)
