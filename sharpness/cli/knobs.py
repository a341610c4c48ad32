"""Knobs of single probes on the command line: ``--eigenvalues.k 5`` (no torch here)."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from typing import Any

from sharpness.config import from_dict
from sharpness.config.spec import literal
from sharpness.errors import InputError

KNOB = re.compile(r"--(?P<probe>[a-z]\w*)\.(?P<knob>[\w-]+)(=(?P<value>.*))?", re.DOTALL)
Knobs = dict[str, dict[str, Any]]


def split_knobs(arguments: Sequence[str]) -> tuple[list[str], Knobs]:
    """Return the arguments without the knobs, and the knobs by probe.

    >>> split_knobs(["probe", "a.pt", "--eigenvalues.k", "5", "--density.starts=2", "--ema"])
    (['probe', 'a.pt', '--ema'], {'eigenvalues': {'k': 5}, 'density': {'starts': 2}})
    """
    rest, knobs, waiting = list[str](), Knobs(), list(arguments)
    while waiting:
        argument = waiting.pop(0)
        match = KNOB.fullmatch(argument)
        if match is None:
            rest.append(argument)
            continue
        value = match["value"]
        if value is None:
            if not waiting or waiting[0].startswith("--"):
                raise InputError(f"expected a value behind {argument}, got none: write {argument} VALUE")
            value = waiting.pop(0)
        knobs.setdefault(match["probe"], {})[match["knob"].replace("-", "_")] = literal(value)
    return rest, knobs


def apply_knobs(probes: Mapping[str, Any], knobs: Knobs) -> dict[str, Any]:
    """Return the probes with their knobs set; :class:`InputError` for an unknown knob, wrong type or unused probe."""
    for name in knobs:
        if name not in probes:
            raise InputError(f"expected knobs of probes that are measured ({', '.join(probes)}), got --{name}.…")
    changed = {}
    for name, probe in probes.items():
        values = knobs.get(name, {})
        changed[name] = from_dict(type(probe), {**asdict(probe), **values}, f"--{name}") if values else probe
    return changed
