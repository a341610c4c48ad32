"""Up to four networks with their records, from which figures are drawn."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from sharpness.errors import InputError
from sharpness.records import ProbeRecord

MAX_NETWORKS = 4


@dataclass(frozen=True)
class Network:
    """One network: its label in the figures, its records by probe, and any facts about it that go beside the figures.

    >>> Network("A", {"distance": ProbeRecord(probe="distance", quantity="distance_from_start", value=3.0)}).label
    'A'
    """

    label: str
    records: Mapping[str, ProbeRecord] = field(default_factory=dict)
    facts: Mapping[str, Any] = field(default_factory=dict)


@dataclass(frozen=True)
class Rendered:
    """The files that were written, and a sentence for everything that was not drawn."""

    files: list[Path]
    refusals: list[str]


def check_networks(networks: Sequence[Network]) -> None:
    """Raise :class:`InputError` for no networks, more than can be told apart, or one label twice."""
    if not 1 <= len(networks) <= MAX_NETWORKS:
        raise InputError(f"expected 1 to {MAX_NETWORKS} networks, got {len(networks)}: more cannot be told apart")
    labels = [network.label for network in networks]
    if twice := sorted({label for label in labels if labels.count(label) > 1}):
        raise InputError(f"expected a label of its own for each network, got {twice[0]!r} twice: rename one")


def with_record(networks: Sequence[Network], probe: str) -> list[tuple[Network, ProbeRecord]]:
    """Return the networks that have a record of the probe, each with that record."""
    return [(network, network.records[probe]) for network in networks if probe in network.records]


def far_end(networks: Sequence[Network], record: ProbeRecord) -> Network | None:
    """Return the network whose weights are the other end of a record of a pair, if it is one of these."""
    weights = record.details.get("other_checkpoint_sha256")
    for network in networks:
        if weights is not None and weights in {each.checkpoint_sha256 for each in network.records.values()}:
            return network
    return None


def end_names(networks: Sequence[Network], network: Network, record: ProbeRecord) -> tuple[str, str]:
    """Return the names of both ends of a network's record of a pair."""
    other = far_end(networks, record)
    names = (other and other.label, *(record.details.get(key) for key in ("other_run_id", "other_checkpoint")))
    return network.label, next((str(name) for name in names if name is not None), "another checkpoint")


def matrix_of(record: ProbeRecord) -> str:
    """Return which matrix a record is of; without such a knob it is the Hessian."""
    return str(record.knobs.get("matrix", "hessian"))


def companion(network: Network, record: ProbeRecord, probe: str) -> ProbeRecord | None:
    """Return the network's record of another probe if both are of one matrix: same loss, data and weights."""
    other = network.records.get(probe)
    if other is None or matrix_of(other) != matrix_of(record):
        return None
    names = ("checkpoint_sha256", "data_sha256", "num_examples", "norm", "dtype")
    return other if all(getattr(other, name) == getattr(record, name) for name in names) else None
