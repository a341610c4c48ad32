"""The branched critical batch size: the largest batch that learns as much from the same examples, by training on."""

from __future__ import annotations

import math
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch

from sharpness.data import random_subset
from sharpness.errors import InputError
from sharpness.linalg.sampling import student
from sharpness.machine.environment import derived_seed, peak_memory, versions
from sharpness.machine.progress import Progress
from sharpness.measure.batch_rules import Settings, rate_rule
from sharpness.measure.recorded import find_record, wanted_record
from sharpness.records import ProbeRecord
from sharpness.runs import RecordFolder, RunFolder
from sharpness.runs.folder import sha256_file
from sharpness.runs.networks import load_run_data
from sharpness.training.branches import Plan, train_branch

FEWEST_UPDATES = 8
AT_MOST, AT_LEAST = "at most", "at least"
Losses = Mapping[int, Sequence[float | None]]


@dataclass(frozen=True, kw_only=True)
class Branches:
    """The knobs of branches: which multiples of the run's batch, how long, how often, and what counts as as good.

    ``window`` is the number of examples of a branch; by default the training set, or as many as give the largest
    branch 16 updates. ``orders`` are repetitions with other examples in another order, over which the interval is.
    """

    factors: tuple[int, ...] = (1, 2, 4, 8)
    window: int | None = None
    orders: int = 5
    tolerance: float = 0.01
    examples: int = 1000
    confidence: float = 0.95

    def check(self) -> None:
        """Raise :class:`InputError` for bad knobs."""
        if len(self.factors) < 2 or sorted(set(self.factors)) != list(self.factors) or self.factors[0] < 1:
            raise InputError(f"expected two or more ascending multiples of the batch, got {list(self.factors)}: 1 2 4")
        if self.orders < 1:
            raise InputError(f"expected at least 1 order, got {self.orders}: 5 give an interval")
        if not self.tolerance >= 0:
            raise InputError(f"expected a tolerance of at least 0 nats, got {self.tolerance}: 0.01 is usual")


@dataclass(frozen=True)
class Largest:
    """The largest factor whose loss is within the tolerance, and what the error bars leave; reasons for ``None``.

    ``bound`` is ``at most`` where it is the smallest one tried, as nothing smaller is compared with it, and ``at
    least`` where it is the largest; else it is empty.
    """

    value: int | None
    lower: int | None
    upper: int | None
    bound: str = ""
    reasons: Mapping[str, str] = field(default_factory=dict)


def largest_within(losses: Losses, tolerance: float, confidence: float) -> Largest:
    """Return the largest k with ``L_k <= L_j + tolerance`` for all smaller j tried (Merrill et al. 2025).

    ``losses`` are those of each factor k, one for each order of the examples, the same orders for all; ``None`` is one
    that was not finite. The differences ``L_k - L_j`` are paired by order: ``value`` goes by their means, ``lower`` is
    the largest k for which the upper ends of their Student intervals are within the tolerance too, and ``upper`` the
    first factor beyond all whose lower ends are: it is excluded. ``upper`` is ``None`` where the largest one tried is
    not, ``lower`` where none but the smallest, with which nothing is compared, is surely as good.

    >>> largest_within({1: [2.0, 2.02], 2: [2.0, 2.02], 4: [2.1, 2.12]}, 0.01, 0.95)
    Largest(value=2, lower=2, upper=4, bound='', reasons={})
    >>> largest_within({2: [2.0, 2.02], 4: [2.1, 2.12]}, 0.01, 0.95).bound
    'at most'
    """
    factors = sorted(losses)
    orders = min(len(each) for each in losses.values())
    if any(value is None for value in losses[factors[0]]):
        reason = "the smallest branch diverged: its rate is too large here"
        return Largest(None, None, None, reasons={"value": reason})
    held: dict[str, list[int]] = {"value": [], "lower": [], "upper": []}
    for k in factors:
        ends = [_difference(losses[k], losses[j], confidence) for j in factors if j < k]
        for name, at in (("value", 0), ("lower", 2), ("upper", 1)):
            if all(each is not None and each[at] <= tolerance for each in ends):
                held[name].append(k)
    value = max(held["value"])
    bound = AT_MOST if value == factors[0] else AT_LEAST if value == factors[-1] else ""
    if orders < 2:
        reasons = dict.fromkeys(("lower", "upper"), "one order of the examples has no spread")
        return Largest(value, None, None, bound, reasons | _at_end(bound, value))
    excluded = [k for k in factors if k > max(held["upper"])]
    reasons = {} if excluded else {"upper": f"the largest branch, {factors[-1]} times the batch, is not excluded"}
    lower = max(held["lower"])
    if lower == factors[0]:
        reasons["lower"] = f"no branch beyond the smallest, {lower} times the batch, is surely as good"
    known = None if lower == factors[0] else lower
    return Largest(value, known, excluded[0] if excluded else None, bound, reasons | _at_end(bound, value))


def _at_end(bound: str, factor: int) -> dict[str, str]:
    """Return why a factor at an end of those tried has no end of an interval there."""
    words = {
        AT_MOST: {"lower": "no smaller batch was compared"},
        AT_LEAST: {"upper": f"the largest branch, {factor} times the batch, is as good as all smaller ones"},
    }
    return words.get(bound, {})


def _difference(
    ours: Sequence[float | None], theirs: Sequence[float | None], confidence: float
) -> tuple[float, float, float] | None:
    """Return the mean of the paired differences and both ends; ``None`` where a branch has no loss."""
    pairs = [(a, b) for a, b in zip(ours, theirs, strict=True) if b is not None]
    if not pairs or any(a is None for a, _ in pairs):
        return None if any(a is None for a in ours) else (-math.inf, -math.inf, -math.inf)
    found = np.array([float(a) - b for a, b in pairs if a is not None])
    half = 0.0
    if len(found) > 1:
        half = student(len(found) - 1, confidence) * float(found.std(ddof=1)) / math.sqrt(len(found))
    return float(found.mean()), float(found.mean()) - half, float(found.mean()) + half


def branched_batch(
    run: RunFolder,
    checkpoint: str,
    settings: Settings,
    knobs: Branches,
    folder: RecordFolder | None,
    *,
    device: torch.device,
    data_dir: Path | None = None,
    deadline: float | None = None,
    state: Mapping[str, Any] | None = None,
    progress: Progress | None = None,
) -> ProbeRecord | None:
    """Return the record of the branched critical batch of a run at a checkpoint, the folder's own where it has one.

    Each branch takes the rate scaled by the rule of its optimiser. Where no batch beyond the smallest is as good, the
    record has no value, and its reason says that it is at most the smallest. ``None`` where ``deadline`` of
    ``perf_counter`` came first. Raises :class:`InputError` for knobs that fit neither the rule nor the training set.
    """
    knobs.check()
    began = time.perf_counter()
    sha256 = sha256_file(run.path / f"{checkpoint}.safetensors")
    identity = {"settings": asdict(settings), "state": state is not None}
    wanted = wanted_record("branches", knobs, {"checkpoint_sha256": sha256, "identity": identity})
    if folder is not None and (known := find_record(folder, wanted)) is not None:
        return known
    dataset, training = load_run_data(run.config(), data_dir).to(device), run.config().training
    count = min(knobs.examples, len(dataset.train))
    seen = random_subset(dataset.train, count, derived_seed(training.seed, "branches"))
    rows: list[dict[str, Any]] = []
    for plan in plans(knobs, settings, window_of(knobs, settings, len(dataset.train))):
        if deadline is not None and time.perf_counter() >= deadline:
            return None
        found = train_branch(run, checkpoint, dataset, plan, seen, device, state)
        rows.append({"factor": plan.batch_size // settings.batch_size, **asdict(plan), **found})
        if progress is not None:
            progress(len(rows), knobs.orders * len(knobs.factors))
    record = _record(rows, knobs, settings, state is not None, count, began, device)
    facts = {"checkpoint_sha256": sha256, "data_sha256": dataset.sha256, "seed": training.seed, "dtype": training.dtype}
    record = replace(record, details={**record.details, "identity": wanted["identity"]}, **facts)
    if folder is not None:
        folder.path.mkdir(parents=True, exist_ok=True)
        with folder.lock():
            folder.append_record(record)
    return record


def plans(knobs: Branches, settings: Settings, window: int) -> Iterator[Plan]:
    """Yield the branches, all factors of one order of the examples before the next order."""
    for order in range(knobs.orders):
        for factor in knobs.factors:
            size = settings.batch_size * factor
            yield Plan(size, settings.scaled_rate(size), settings.half_life, order, window)


def window_of(knobs: Branches, settings: Settings, total: int) -> int:
    """Return the examples of each branch; :class:`InputError` where the largest one would hardly move."""
    largest = settings.batch_size * knobs.factors[-1]
    if largest > total:
        raise InputError(
            f"expected branches of at most the {total} training examples, got one of {largest}: leave out the factor "
            f"{knobs.factors[-1]}"
        )
    window = max(total, 16 * largest) if knobs.window is None else knobs.window
    if window < FEWEST_UPDATES * largest:
        raise InputError(
            f"expected a window of at least {FEWEST_UPDATES * largest} examples, {FEWEST_UPDATES} updates of the "
            f"largest branch, got {window}: make it longer or leave out the factor {knobs.factors[-1]}"
        )
    return window


def _record(
    rows: Sequence[Mapping[str, Any]],
    knobs: Branches,
    settings: Settings,
    kept: bool,
    examples: int,
    began: float,
    device: torch.device,
) -> ProbeRecord:
    losses = {k: [row["loss"] for row in rows if row["factor"] == k] for k in knobs.factors}
    found = largest_within(losses, knobs.tolerance, knobs.confidence)
    sizes, reasons = _in_examples(found, settings.batch_size)
    first = "as it was kept" if kept else "rebuilt from batches at the checkpoint, as it was not kept"
    missing = {
        "residual": "does not apply to branches",
        "converged": "as many branches as were asked for",
        "sampling": "the interval is over orders of the examples",
        "hvp_backend": "no products with the Hessian",
    }
    return ProbeRecord(
        probe="branches",
        quantity="branched_critical_batch",
        value=sizes["value"],
        lower=sizes["lower"],
        upper=sizes["upper"],
        confidence=knobs.confidence if knobs.orders > 1 else None,
        knobs=asdict(knobs),
        num_gradients=sum(row["updates"] for row in rows),
        seconds=time.perf_counter() - began,
        peak_memory=peak_memory(device),
        device=str(device),
        threads=torch.get_num_threads(),
        num_examples=examples,
        versions=versions(),
        details={
            "rows": list(rows),
            "batch_size": settings.batch_size,
            "rate_rule": rate_rule(settings.optimizer)[0],
            "optimizer_state": "has none" if settings.optimizer == "sgd" else first,
        },
        reasons={**missing, **reasons},
    )


def _in_examples(found: Largest, batch_size: int) -> tuple[dict[str, int | None], dict[str, str]]:
    """Return the number and its ends in examples, none for an upper bound, and the reasons for what is missing."""
    ends, reasons = {"value": found.value, "lower": found.lower, "upper": found.upper}, dict(found.reasons)
    sizes = {name: None if end is None else end * batch_size for name, end in ends.items()}
    if found.bound == AT_MOST:
        reasons["value"] = f"at most {sizes['value']}, the smallest batch tried, as no larger one is as good"
        sizes["value"] = None
    return sizes, reasons
