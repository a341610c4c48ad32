"""What every probe reports besides its number: on what, where, in which precision and for how long it was measured."""

from __future__ import annotations

import time
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from typing import Any

import torch

from sharpness.loss import Loss
from sharpness.machine.environment import peak_memory, versions
from sharpness.machine.progress import Progress as Progress
from sharpness.records import ProbeRecord


@dataclass(frozen=True, kw_only=True)
class Evidence:
    """The conditions of one measurement, shared by the results of all probes."""

    seconds: float
    dtype: str
    device: str
    threads: int
    peak_memory: int
    num_examples: int
    batch_sizes: tuple[int, ...]
    norm: str
    parameters: Mapping[str, Any]
    data_sha256: str
    versions: Mapping[str, str]

    @classmethod
    def collect(cls, loss: Loss, started: float) -> Evidence:
        """Return the conditions of a measurement on ``loss`` that began at ``started`` of ``time.perf_counter()``."""
        return cls(
            seconds=time.perf_counter() - started,
            device=str(loss.device),
            threads=torch.get_num_threads(),
            peak_memory=peak_memory(loss.device),
            versions=versions(),
            **facts_of(loss),
        )


def facts_of(loss: Loss) -> dict[str, Any]:
    """Return what says which function a loss is, but for the weights: data, precision, norm mode and parameters."""
    return {
        "dtype": str(loss.dtype).removeprefix("torch."),
        "num_examples": loss.num_examples,
        "batch_sizes": tuple(sorted(set(loss.data.batch_sizes), reverse=True)),
        "norm": loss.norm,
        "parameters": {
            "count": loss.layout.size,
            "tensors": len(loss.layout.names),
            "selection": "trainable" if loss.selection is None else list(loss.selection),
        },
        "data_sha256": loss.data_sha256(),
    }


@dataclass(frozen=True)
class ProbeInfo:
    """One row of ``sharpness probes`` or ``landscapes``: the class, the points it is called with, and what it asks."""

    probe: type[Any]
    points: tuple[str, ...]
    description: str


@dataclass(frozen=True, kw_only=True)
class ProbeResult:
    """What each probe returns: a value, what is proven about it, what it cost, and the conditions.

    ``lower`` and ``upper`` enclose the value with probability ``confidence``; fields that do not apply are ``None``
    and ``reasons`` says why.
    """

    probe: str
    quantity: str
    knobs: Mapping[str, Any]
    value: float | None
    evidence: Evidence
    lower: float | None = None
    upper: float | None = None
    confidence: float | None = None
    residual: float | None = None
    converged: bool | None = None
    num_hvps: int = 0
    num_gradients: int = 0
    num_forwards: int = 0
    seed: int | None = None
    hvp_backend: str | None = None
    reasons: Mapping[str, str] = field(default_factory=dict)

    @property
    def seconds(self) -> float:
        """Wall time of the measurement."""
        return self.evidence.seconds

    def details(self) -> dict[str, Any]:
        """Return what only this probe reports, as plain types."""
        return {}

    def to_record(self, checkpoint_sha256: str | None = None) -> ProbeRecord:
        """Return the record of this result, tied to the weights file that was probed."""
        names = ProbeResult.__dataclass_fields__.keys() - {"evidence"}
        reasons = dict(self.reasons)
        if checkpoint_sha256 is None:
            reasons["checkpoint_sha256"] = "the weights did not come from a file"
        for name in ("lower", "upper", "confidence", "residual", "converged", "seed", "hvp_backend"):
            if getattr(self, name) is None:
                reasons.setdefault(name, "does not apply to this probe")
        common = {name: getattr(self, name) for name in names}
        return ProbeRecord(
            **(common | {"reasons": reasons}),
            **asdict(self.evidence),
            details=self.details(),
            checkpoint_sha256=checkpoint_sha256,
        )
