"""Measure what is missing at one checkpoint: subject -> probe -> record -> ``probes.jsonl``, skipping what is there."""

from __future__ import annotations

import contextlib
import hashlib
import inspect
import json
import shutil
import time
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any

from filelock import FileLock, Timeout
from torch import Tensor

from sharpness.environment import deterministic
from sharpness.errors import InputError, RunError, unknown_name
from sharpness.evidence import Progress, facts_of
from sharpness.loss import Loss
from sharpness.probes import PROBES
from sharpness.records import ProbeRecord
from sharpness.runs import RecordFolder
from sharpness.vectors import sha256_of

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
class Start:
    """The weights where training started, and what a record says of them."""

    weights: Tensor
    details: Mapping[str, Any] = field(default_factory=dict)


@dataclass(frozen=True, kw_only=True)
class Subject:
    """A checkpoint with its loss; ``start`` and ``far_end`` load the other points that some probes need.

    ``details`` go into every record. ``identity`` are plain values that a record must agree with to be of this loss,
    beside what is compared of every loss (:func:`sharpness.evidence.facts_of`) and the weights themselves.
    """

    loss: Loss
    checkpoint_sha256: str
    details: Mapping[str, Any] = field(default_factory=dict)
    identity: Mapping[str, Any] = field(default_factory=dict)
    start: Callable[[], Start] | None = None
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


def applicable(probes: Mapping[str, Any], subject: Subject, *, named: Collection[str]) -> dict[str, Any]:
    """Return the probes that have the points they need; one of ``named`` without is refused."""
    for name in probes:
        if name in named and (missing := subject.missing_point(name)):
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
    points = _points(name, subject)
    identity = _identity(name, probe, subject, points)
    if (known := _known(folder, identity)) is not None:
        return Outcome(name, "there already", known)
    if deadline is not None and time.perf_counter() >= deadline:
        return Outcome(name, "out of time", reason="it was not begun")
    products = folder.path / ".products" / hashlib.sha256(json.dumps(identity).encode()).hexdigest()[:16]
    with _only_here(products, name):
        try:
            with deterministic(subject.loss.device):
                record = _call(name, probe, subject, points, products, deadline, progress)
        except _TimeIsUp:
            return Outcome(name, "out of time", reason="it has no result before its end")
        record = replace(record, details={**record.details, "identity": identity["identity"]})
        with folder.lock():
            if (known := _known(folder, identity)) is not None:
                return Outcome(name, "there already", known)
            folder.append_record(record)
        if not _cut_short(record):
            shutil.rmtree(products, ignore_errors=True)
    return Outcome(name, "measured", record)


@contextlib.contextmanager
def _only_here(products: Path, name: str) -> Iterator[None]:
    """Hold one probe of one subject against other processes; :class:`RunError` where one is measuring it."""
    products.parent.mkdir(parents=True, exist_ok=True)
    lock = products.with_suffix(".lock")
    try:
        with FileLock(lock, blocking=False):
            yield
    except Timeout:
        raise RunError(f"{name}: another process is measuring it in {products.parents[1]}: wait for it") from None
    lock.unlink(missing_ok=True)
    with contextlib.suppress(OSError):  # other probes may have theirs there
        products.parent.rmdir()


def _points(name: str, subject: Subject) -> Start | FarEnd | None:
    """Load the other point that a probe needs."""
    needed = PROBES[name].points
    if "other" in needed and subject.far_end is not None:
        return subject.far_end()
    return subject.start() if "x0" in needed and subject.start is not None else None


def _call(
    name: str,
    probe: Any,
    subject: Subject,
    other: Start | FarEnd | None,
    products: Path,
    deadline: float | None,
    progress: Progress | None,
) -> ProbeRecord:
    """Call a probe with the points and options that it takes and return its record."""
    loss, points, details = subject.loss, [subject.loss.weights], dict(subject.details)
    options: dict[str, Any] = {}
    takes = inspect.signature(type(probe).__call__).parameters
    if other is not None:
        points.append(other.weights)
        details |= other.details
    if isinstance(other, FarEnd):
        loss, options = other.line, {"test_loss": other.test}
        details |= {"other_checkpoint_sha256": other.checkpoint_sha256}
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


def _identity(name: str, probe: Any, subject: Subject, other: Start | FarEnd | None) -> dict[str, Any]:
    """Return what a record must agree with to be this probe's of this subject, as JSON has it."""
    loss = other.line if isinstance(other, FarEnd) else subject.loss
    own = {**subject.identity, "weights_sha256": subject_sha256(subject)}
    if other is not None:
        own["other_weights_sha256"] = sha256_of([other.weights])
    if isinstance(other, FarEnd) and other.test is not None:
        own["test_data_sha256"] = other.test.data_sha256()
    known = {"probe": name, "knobs": deciding_knobs(asdict(probe)), "checkpoint_sha256": subject.checkpoint_sha256}
    return _plain({**known, **facts_of(loss), "identity": own})


def subject_sha256(subject: Subject) -> str:
    """Return the hash of the weights and buffers that are really measured, whatever file they came from."""
    return sha256_of([subject.loss.weights, *subject.loss.fixed_tensors()])


def _known(folder: RecordFolder, identity: Mapping[str, Any]) -> ProbeRecord | None:
    """Return the last whole record of this identity in a folder."""
    for record in reversed(folder.records()):
        row = record.to_dict()
        row |= {"knobs": deciding_knobs(row["knobs"]), "identity": record.details.get("identity")}
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
