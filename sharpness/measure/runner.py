"""Measure what is missing at one checkpoint: subject -> probe -> record -> ``probes.jsonl``, skipping what is there."""

from __future__ import annotations

import contextlib
import hashlib
import inspect
import json
import shutil
import time
from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from filelock import FileLock, Timeout

from sharpness.errors import InputError, RunError, unknown_name
from sharpness.landscapes.evaluations import PointsMissing
from sharpness.loss import Loss
from sharpness.machine.environment import deterministic
from sharpness.machine.progress import Progress
from sharpness.measure.costs import cheapest_first
from sharpness.measure.recorded import find_record, is_whole, wanted_record
from sharpness.measure.subject import Companions, Subject, details_of, identity_of
from sharpness.probes import PROBES, QUICK
from sharpness.probes.preconditioned_sharpness import Preconditioner
from sharpness.records import ProbeRecord
from sharpness.runs import RecordFolder
from sharpness.runs import folder as run_folder

GROUPS = {"quick": tuple(QUICK), "all": tuple(PROBES)}
"""Names for several probes at once."""

DISK_SHARE = 0.1  # of the free disk that kept products may take


@dataclass(frozen=True)
class Outcome:
    """The outcome of one probe: ``measured``, ``there already``, ``out of time``, ``waiting`` or ``does not apply``."""

    name: str
    status: str
    record: ProbeRecord | None = None
    reason: str = ""


class _TimeIsUp(Exception):
    """Raised inside a probe that has no bound of its own."""


def probes_named(names: Sequence[str]) -> dict[str, Any]:
    """Return the named probes with their default knobs; :class:`InputError` for others.

    ``quick`` are those of a first answer, with knobs of their own, and ``all`` are all.

    >>> list(probes_named(["keskar"])), len(probes_named(["quick"])) < len(probes_named(["all"]))
    (['keskar'], True)
    """
    chosen: dict[str, Any] = {}
    for name in names:
        if name not in (*PROBES, *GROUPS):
            raise unknown_name("probe", name, [*GROUPS, *PROBES])
        chosen |= QUICK if name == "quick" else {each: PROBES[each].probe() for each in GROUPS.get(name, (name,))}
    return chosen


def applicable(probes: Mapping[str, Any], subject: Subject, *, named: Collection[str]) -> dict[str, Any]:
    """Return the probes that have the points they need; one of ``named`` without is refused.

    Those that were named come first, in their order; the others of a group, cheapest first, after them.
    """
    for name in probes:
        if name in named and (missing := subject.missing_point(name)):
            raise InputError(f"expected for the probe {name!r} {missing}")
    there = {name: probe for name, probe in probes.items() if subject.missing_point(name) is None}
    grouped = {name: probe for name, probe in there.items() if name not in named}
    return {name: there[name] for name in there if name in named} | cheapest_first(grouped, subject.loss)


def measure(
    name: str,
    probe: Any,
    subject: Subject,
    folder: RecordFolder,
    *,
    deadline: float | None = None,
    progress: Progress | None = None,
    part: tuple[int, int] = (0, 1),
) -> Outcome:
    """Measure one probe unless ``probes.jsonl`` has its record, and append that; ``deadline`` is of ``perf_counter``.

    A solve that ran out of time is recorded as it stands and goes on from its kept products when it is asked for again.
    ``part`` is this process's share of the points of a landscape: it is recorded by the process that finds all there.
    """
    companions = Companions(
        points=subject.points_for(name),
        losses=subject.split_losses() if subject.split_losses is not None and _takes(probe, "test_loss") else None,
        trained=subject.trained() if subject.trained is not None and _takes(probe, "trained") else None,
        preconditioner=_preconditioner(probe, subject),
    )
    wanted = wanted_record(name, probe, identity_of(subject, companions))
    if (known := find_record(folder, wanted)) is not None:
        return Outcome(name, "there already", known)
    if deadline is not None and time.perf_counter() >= deadline:
        return Outcome(name, "out of time", reason="it was not begun")
    products = folder.path / ".products" / hashlib.sha256(json.dumps(wanted).encode()).hexdigest()[:16]
    with _only_here(products, name, part):
        try:
            with deterministic(subject.loss.device):
                record = _call(name, probe, subject, companions, products, deadline, progress, part)
        except _TimeIsUp:
            return Outcome(name, "out of time", reason="it has no result before its end")
        except PointsMissing as error:
            return Outcome(name, "waiting", reason=str(error))
        record = replace(record, details={**record.details, "identity": wanted["identity"]})
        with folder.lock():
            if (known := find_record(folder, wanted)) is not None:
                return Outcome(name, "there already", known)
            folder.append_record(record)
        if is_whole(record):
            shutil.rmtree(products, ignore_errors=True)
    return Outcome(name, "measured", record)


@contextlib.contextmanager
def _only_here(products: Path, name: str, part: tuple[int, int]) -> Iterator[None]:
    """Hold one part of a probe of a subject against other processes; :class:`RunError` where one is measuring it."""
    products.parent.mkdir(parents=True, exist_ok=True)
    lock = products.with_suffix(f".{part[0]}.lock")
    held = FileLock(lock, timeout=run_folder.LOCK_SECONDS)
    try:
        held.acquire()
    except Timeout:
        raise RunError(f"{name}: another process is measuring it in {products.parents[1]}: wait for it") from None
    try:
        yield
    finally:  # a probe that does not apply leaves nothing behind either
        held.release()
        lock.unlink(missing_ok=True)
        with contextlib.suppress(OSError):  # other probes may have theirs there
            products.parent.rmdir()


def _call(
    name: str,
    probe: Any,
    subject: Subject,
    companions: Companions,
    products: Path,
    deadline: float | None,
    progress: Progress | None,
    part: tuple[int, int],
) -> ProbeRecord:
    """Call a probe with the points and options that it takes and return its record."""
    losses, loss = companions.losses, subject.loss if companions.losses is None else companions.losses.loss
    options: dict[str, Any] = {} if losses is None else {"test_loss": losses.test}
    if companions.trained is not None:
        options["trained"] = companions.trained
    if companions.preconditioner is not None:
        options["preconditioner"] = companions.preconditioner
    if subject.sampled and _takes(probe, "sampled"):
        options["sampled"] = True
    if _takes(probe, "names"):
        options["names"] = (subject.name, *(point.name for point in companions.points))
    if _takes(probe, "part"):
        options["part"] = part
    elif part != (0, 1):
        raise InputError(f"expected no --part for {name}, got one: it is not made of points that can be shared out")
    if subject.shared is not None and _takes(probe, "shared"):
        options["shared"] = subject.shared
    if subject.warm is not None and subject.warm.vector is not None and _takes(probe, "start"):
        options["start"] = subject.warm.vector
    if _takes(probe, "resume") and _fits_on_disk(probe, loss, products):
        options["resume"] = products
    if deadline is not None and hasattr(probe, "seconds"):
        left = max(deadline - time.perf_counter(), 1e-3)
        probe = replace(probe, seconds=left if probe.seconds is None else min(left, probe.seconds))
    elif deadline is not None:
        progress = _until(deadline, progress)
    weights = [subject.loss.weights, *(point.weights for point in companions.points)]
    result = probe(loss, *weights, **options, progress=progress)
    if subject.warm is not None and getattr(result, "eigenvectors", None) is not None:
        subject.warm.vector = result.eigenvectors[0]
    record = result.to_record(subject.checkpoint_sha256)
    details = {**record.details, **details_of(subject, companions)}
    if warnings := [*record.details.get("warnings", ()), *subject.details.get("warnings", ())]:
        details["warnings"] = warnings
    return replace(record, details=details)


def _preconditioner(probe: Any, subject: Subject) -> Preconditioner | None:
    """Return the optimiser's own P for a probe that takes one, unless it is told to take another."""
    if subject.preconditioner is None or not _takes(probe, "preconditioner") or probe.source is not None:
        return None
    return subject.preconditioner()


def _takes(probe: Any, option: str) -> bool:
    return option in inspect.signature(probe.measure).parameters


def _until(deadline: float, progress: Progress | None) -> Progress:
    def step(done: int, total: int) -> None:
        if progress is not None:
            progress(done, total)
        if time.perf_counter() >= deadline and done < total:
            raise _TimeIsUp

    return step


def _fits_on_disk(probe: Any, loss: Loss, products: Path) -> bool:
    """Say whether the products of a whole solve may be kept: one vector each; points of a landscape always are."""
    if not hasattr(probe, "matrix"):
        return True
    most = getattr(probe, "num_hvps", None) or probe.steps * probe.starts
    parent = next(folder for folder in products.parents if folder.exists())
    return most * loss.weights.numel() * loss.weights.element_size() <= DISK_SHARE * shutil.disk_usage(parent).free
