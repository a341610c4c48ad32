"""A figure for every probe that the records are of, with the numbers drawn and where they come from."""

from __future__ import annotations

import contextlib
import re
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from sharpness.errors import InputError, place_of, reason_of
from sharpness.plots.kinds import kinds_of, save_kind
from sharpness.plots.networks import Network, Rendered, check_networks, far_end, with_record
from sharpness.plots.save import record_facts, remove_figure, rendered_with


def render(networks: Sequence[Network], out: Path, provenance: Mapping[str, Any]) -> Rendered:
    """Write the figures of all probes, in the order in which the networks have records of them."""
    check_networks(networks)
    probes = list(dict.fromkeys(probe for network in networks for probe in network.records))
    for probe in probes:
        if not re.fullmatch(r"\w[\w-]*", probe):
            raise InputError(f"expected a probe's name of letters, digits, _ and -, got {probe!r}: it names files")
    files, refusals = [], []
    for probe in probes:
        for name, kind in kinds_of(probe).items():
            with _telling_odd_details(probe):
                table = kind.table(networks)
            if name == probe:
                refusals += _refusals(networks, probe, set(table["network"]))
            if table.empty:
                remove_figure(out, name)
                refusals.append(f"{name} was not drawn: no network has a value to draw.")
                continue
            with _telling_odd_details(probe):
                files += save_kind(kind, table, networks, out, name, _origin(networks, probe, provenance))
    return Rendered(files, refusals)


@contextlib.contextmanager
def _telling_odd_details(probe: str) -> Iterator[None]:
    """Turn what comes up where a record's details are not those of its probe into one line: files can be edited."""
    try:
        yield
    except InputError:
        raise
    except (AttributeError, LookupError, TypeError, ValueError, ArithmeticError) as error:
        raise InputError(
            f"expected the details of a record of {probe}, got others: {reason_of(error)} ({place_of(error)}): remove "
            "its line from probes.jsonl and measure it again"
        ) from error


def _refusals(networks: Sequence[Network], probe: str, drawn: set[str]) -> list[str]:
    """Say of each network that is not in the figure, or has no value there, why."""
    texts = []
    far_ends = [far_end(networks, record) for _, record in with_record(networks, probe)]
    for network in networks:
        record = network.records.get(probe)
        if record is None and network in far_ends:
            continue
        if record is None:
            texts.append(f"{probe} is without {network.label}: there is no record of it.")
        elif record.value is None:
            texts.append(f"{probe} of {network.label} has no value: {record.reasons.get('value', 'no reason given')}.")
        elif network.label not in drawn:
            texts.append(f"{probe} is without {network.label}: its record has nothing to draw.")
    return texts


def _origin(networks: Sequence[Network], probe: str, provenance: Mapping[str, Any]) -> dict[str, Any]:
    """Return what the caller knows, each network's facts and record of the probe, and what renders the figure."""
    entries = [
        {
            "label": network.label,
            **network.facts,
            "record": record_facts(record) | {"checkpoint_sha256": record.checkpoint_sha256},
        }
        for network, record in with_record(networks, probe)
    ]
    return {"schema": 1, **provenance, "networks": entries, "rendered_with": rendered_with()}
