"""Measures that a rescaling of the weights moves though it changes no output of the network."""

from __future__ import annotations

from sharpness.records.probe_record import ProbeRecord

INVARIANT: dict[str, dict[str, object]] = {
    "adaptive_radius": {},
    "average_case": {"scaling": "adaptive"},
    "fisher_rao_norm": {},
    "pac_bayes": {"scaling": "magnitude"},
    "relative_flatness": {},
    "rounding": {},
    "sam": {"scaling": "adaptive"},
    "worst_case": {"scaling": "adaptive"},
}
"""The probes that stay where they are, with the knobs for which they do; of all others the value moves."""


def is_invariant(record: ProbeRecord) -> bool:
    """Return whether a number stays where layers are rescaled so that no output changes (Dinh et al. 2017).

    >>> is_invariant(ProbeRecord(probe="worst_case", quantity="rise", value=1.0, knobs={"scaling": "plain"}))
    False
    """
    knobs = INVARIANT.get(record.probe)
    return knobs is not None and all(record.knobs.get(name) == value for name, value in knobs.items())
