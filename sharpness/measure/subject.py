"""The subject of a measurement: a checkpoint with its loss, further points, and the losses between them."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from torch import Tensor

from sharpness.landscapes import LANDSCAPES
from sharpness.linalg.shared_products import NUM_SHARED, SharedProducts
from sharpness.loss import Loss
from sharpness.machine.memory import free_memory
from sharpness.probes import PROBES
from sharpness.probes.preconditioned_sharpness import Preconditioner
from sharpness.results import ProbeInfo, facts_of
from sharpness.vectors import sha256_of

MEASURABLE: Mapping[str, ProbeInfo] = {**LANDSCAPES, **PROBES}
"""Everything that is measured at a checkpoint, by name."""

SHARED_SHARE = 0.1  # of the free memory that shared products may take

POINTS = {
    "x0": "the weights where training started: give --start",
    "other": "a second checkpoint: use sharpness compare or sharpness landscape",
    "third": "three checkpoints: name two more",
    "trajectory": "the checkpoints of a trajectory: name at least two more, in the order of training",
}


@dataclass(frozen=True, kw_only=True)
class Point:
    """Weights beside those of the subject, shape (n,): their name, the hash of their file, what a record says of them.

    The hash is ``None`` where they did not come from a file of their own.
    """

    weights: Tensor
    name: str = ""
    checkpoint_sha256: str | None = None
    details: Mapping[str, Any] = field(default_factory=dict)


@dataclass(frozen=True, kw_only=True)
class SplitLosses:
    """The losses on lines and planes, where the statistics of BatchNorm are not those of a checkpoint."""

    loss: Loss
    test: Loss | None
    details: Mapping[str, Any] = field(default_factory=dict)


@dataclass
class WarmStart:
    """The vector that the last solve of a series found, for the next one to begin with; shape (n,)."""

    vector: Tensor | None = None


@dataclass(frozen=True, kw_only=True)
class Subject:
    """A checkpoint with its loss; ``start``, ``points``, ``split_losses``, ``trained`` and ``preconditioner`` load
    what some probes need beside it.

    ``details`` go into every record. ``identity`` are plain values that a record must agree with to be of this loss,
    beside what is compared of every loss (:func:`sharpness.results.facts_of`) and the weights themselves.
    """

    loss: Loss
    checkpoint_sha256: str
    name: str = "checkpoint"
    details: Mapping[str, Any] = field(default_factory=dict)
    identity: Mapping[str, Any] = field(default_factory=dict)
    start: Callable[[], Point] | None = None
    points: Sequence[Callable[[], Point]] = ()
    split_losses: Callable[[], SplitLosses] | None = None
    sampled: bool = False  # whether the examples are a random choice of more
    trained: Callable[[], Loss] | None = None  # the loss whose gradient gives the direction of some probes
    preconditioner: Callable[[], Preconditioner] | None = None  # that of the optimiser that made the checkpoint
    shared: SharedProducts | None = None  # products that several probes ask for
    warm: WarmStart | None = None  # what eigenvalues begin with along a training

    def missing_point(self, name: str) -> str | None:
        """Return what the probe of this name needs and is not here, or ``None``."""
        count = len(self.points)
        there = {"w": True, "x0": self.start is not None}
        there |= {"other": count >= 1, "third": count >= 2, "trajectory": count >= 2}
        return next((POINTS[point] for point in MEASURABLE[name].points if not there[point]), None)

    def points_for(self, name: str) -> list[Point]:
        """Return the points that the probe of this name is called with after the weights."""
        needed = MEASURABLE[name].points
        if "x0" in needed and self.start is not None:
            return [self.start()]
        if "trajectory" in needed:
            return [load() for load in self.points]
        return [load() for point, load in zip(("other", "third"), self.points, strict=False) if point in needed]


@dataclass(frozen=True)
class Companions:
    """The points and losses that one probe is called with beside the weights and the loss."""

    points: Sequence[Point] = ()
    losses: SplitLosses | None = None
    trained: Loss | None = None
    preconditioner: Preconditioner | None = None


def subject_sha256(subject: Subject) -> str:
    """Return the hash of the weights and buffers that are really measured, whatever file they came from."""
    return sha256_of([subject.loss.weights, *subject.loss.fixed_tensors()])


def identity_of(subject: Subject, companions: Companions) -> dict[str, Any]:
    """Return what a record of this subject must agree with beside its probe and knobs."""
    own: dict[str, Any] = {**subject.identity, "weights_sha256": subject_sha256(subject)}
    own |= {} if subject.warm is None else {"warm_start": True}
    losses, trained = companions.losses, companions.trained
    if companions.points:
        own["points_sha256"] = [sha256_of([point.weights]) for point in companions.points]
    if losses is not None and losses.test is not None:
        own["test_data_sha256"] = losses.test.data_sha256()
    if trained is not None:
        own["trained_on_sha256"] = trained.data_sha256()
    if companions.preconditioner is not None and (diagonal := companions.preconditioner.diagonal) is not None:
        own["preconditioner_sha256"] = sha256_of([diagonal])
    loss = subject.loss if losses is None else losses.loss
    return {"checkpoint_sha256": subject.checkpoint_sha256, **facts_of(loss), "identity": own}


def details_of(subject: Subject, companions: Companions) -> dict[str, Any]:
    """Return what a record says of the subject, the other points and the losses beside its own."""
    details = dict(subject.details) | dict(companions.losses.details if companions.losses else {})
    if (trained := companions.trained) is not None:
        details |= {"trained_on_examples": trained.num_examples, "trained_on_sha256": trained.data_sha256()}
    if len(companions.points) == 1:
        (point,) = companions.points
        details |= point.details
        if point.checkpoint_sha256 is not None:
            details["other_checkpoint_sha256"] = point.checkpoint_sha256
    elif companions.points:
        details["others"] = [{**p.details, "checkpoint_sha256": p.checkpoint_sha256} for p in companions.points]
    return details


def shared_products(loss: Loss) -> SharedProducts | None:
    """Return an empty store of products, or ``None`` where those of a solve would take too much of the memory."""
    needed = NUM_SHARED * loss.weights.numel() * loss.weights.element_size()
    return SharedProducts() if needed <= SHARED_SHARE * free_memory(loss.weights.device) else None
