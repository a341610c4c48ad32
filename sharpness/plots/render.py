"""A page of all numbers and a figure for every curve, with the numbers drawn and where they come from."""

from __future__ import annotations

import contextlib
import re
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from sharpness.errors import InputError, place_of, reason_of
from sharpness.plots.kinds import COURSES, OVERVIEW, PAGE, kinds_of, save_kind
from sharpness.plots.networks import Network, Rendered, check_networks, far_end, with_record
from sharpness.plots.save import record_facts, remove_figure, rendered_with
from sharpness.records import ProbeRecord


def render(networks: Sequence[Network], out: Path, provenance: Mapping[str, Any]) -> Rendered:
    """Write the page of all numbers, then the figures of all probes, in the order of the networks' records."""
    check_networks(networks)
    probes = list(dict.fromkeys(probe for network in networks for probe in network.records))
    for probe in probes:
        if not re.fullmatch(r"\w[\w-]*", probe):
            raise InputError(f"expected a probe's name of letters, digits, _ and -, got {probe!r}: it names files")
    files, refusals = _page(networks, out, provenance), []
    for probe in probes:
        if not kinds_of(probe):
            refusals += _refusals(networks, probe, {network.label for network, _ in with_record(networks, probe)})
        for name, kind in kinds_of(probe).items():
            with _telling_odd_details(probe):
                table = kind.table(networks)
            if table.empty and probe in COURSES and _has_value(networks, probe):
                remove_figure(out, name)
                continue
            if name == probe:
                refusals += _refusals(networks, probe, set(table["network"]))
            if table.empty:
                remove_figure(out, name)
                refusals.append(f"{name} was not drawn: no network has a value to draw.")
                continue
            with _telling_odd_details(probe):
                files += save_kind(kind, table, networks, out, name, _origin(networks, probe, provenance))
    return Rendered(files, refusals)


def _page(networks: Sequence[Network], out: Path, provenance: Mapping[str, Any]) -> list[Path]:
    """Write the page of all numbers; where there are too few for one, remove an older one."""
    with _telling_odd_details("its probe"):
        table = PAGE.table(networks)
        if table.empty:
            remove_figure(out, OVERVIEW)
            return []
        return save_kind(PAGE, table, networks, out, OVERVIEW, _origin(networks, None, provenance))


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


def _origin(networks: Sequence[Network], probe: str | None, provenance: Mapping[str, Any]) -> dict[str, Any]:
    """Return what the caller knows, each network's facts and records (of one probe or all), and what renders them."""
    if probe is None:
        entries = [
            {"label": n.label, **n.facts, "records": {name: _facts(record) for name, record in n.records.items()}}
            for n in networks
        ]
    else:
        entries = [
            {"label": network.label, **network.facts, "record": _facts(record)}
            for network, record in with_record(networks, probe)
        ]
    return {"schema": 1, **provenance, "networks": entries, "rendered_with": rendered_with()}


def _has_value(networks: Sequence[Network], probe: str) -> bool:
    return any(record.value is not None for _, record in with_record(networks, probe))


def _facts(record: ProbeRecord) -> dict[str, Any]:
    return record_facts(record) | {"checkpoint_sha256": record.checkpoint_sha256}
