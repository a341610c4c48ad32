"""Figures of Hessian spectra from probe records: the density, the layers' eigenvalues, how the top one converged."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from analysis.runs import final_checkpoint, read_config, read_manifest, read_probes
from sharpness.errors import InputError
from sharpness.plots.kinds import CONVERGENCE, KINDS, save_kind
from sharpness.plots.networks import MAX_NETWORKS, Network, Rendered
from sharpness.plots.save import record_facts, remove_figure, rendered_with
from sharpness.records import ProbeRecord

FACTS = (
    "step",
    "epochs_done",
    "seconds",
    "git_commit",
    "device",
    "threads",
    "data_sha256",
    "config_sha256",
    "versions",
)
FIGURES = {
    "density": ("density", KINDS["density"]),
    "layers": ("layers", KINDS["layers"]),
    "convergence": ("eigenvalues", CONVERGENCE),
}
"""The figures by name: the probe whose records each needs, and what draws it."""


def render_spectra(
    folders: Iterable[Path], out: Path, knobs: Mapping[str, Mapping[str, Any]], num_examples: int | None
) -> Rendered:
    """Read the runs and write the figures ``density``, ``layers`` and ``convergence`` into ``out``.

    ``knobs`` holds for each of the probes ``density``, ``layers`` and ``eigenvalues`` the knobs of the records to draw
    and ``num_examples`` their number of examples (``None``: all), so that all marks of a figure describe one loss. A
    figure for which no run has a record is not written, an older one of that name is removed, and a sentence says why.
    Raises :class:`InputError` for no runs, too many to tell apart, a run that is not finished, or a damaged file.
    """
    networks = load_networks(folders, knobs, num_examples)
    files, refusals = [], []
    for name, (probe, kind) in FIGURES.items():
        absent = [network for network in networks if probe not in network.records]
        table = kind.table(networks)
        if table.empty:
            remove_figure(out, name)
            reason = f"no run has a record of the probe {probe!r}"
            refusals.append(f"{name} was not drawn: {reason if len(absent) == len(networks) else 'nothing is finite'}.")
            continue
        drawn = set(table["network"])
        refusals += [f"{name} is without {n.label}: nothing to draw." for n in networks if n.label not in drawn]
        files += save_kind(kind, table, networks, out, name, provenance(networks))
    return Rendered(files, refusals)


def load_networks(
    folders: Iterable[Path], knobs: Mapping[str, Mapping[str, Any]], num_examples: int | None
) -> list[Network]:
    """Read each run with the last record per probe of these knobs, on its final weights and so many examples."""
    networks = [_load(Path(folder), knobs, num_examples) for folder in folders]
    if not 1 <= len(networks) <= MAX_NETWORKS:
        raise InputError(f"expected 1 to {MAX_NETWORKS} runs, got {len(networks)}: more cannot be told apart")
    if len({network.facts["run_id"] for network in networks}) < len(networks):
        raise InputError("expected each run once, got one of them twice: give different run folders")
    for form in ("batch {batch_size}", "batch {batch_size}, seed {seed}", "{run_id}"):
        labels = [form.format(**network.facts) for network in networks]
        if max(Counter(labels).values()) == 1:
            break
    return [replace(network, label=label) for network, label in zip(networks, labels, strict=True)]


def _load(folder: Path, knobs: Mapping[str, Mapping[str, Any]], num_examples: int | None) -> Network:
    manifest, training = _manifest(folder), read_config(folder).get("training", {})
    checkpoint = final_checkpoint(manifest.get("files") or {})
    kept: dict[str, ProbeRecord] = {}
    for record in read_probes(folder):
        asked = dict(record.knobs) == dict(knobs.get(record.probe, {})) and record.probe in knobs
        if asked and record.checkpoint_sha256 == checkpoint and record.details.get("subset") == num_examples:
            kept[record.probe] = record
    facts: dict[str, Any] = {key: manifest.get(key) for key in ("run_id", "status", *FACTS)}
    facts |= {"checkpoint_sha256": checkpoint, "batch_size": training.get("batch_size"), "seed": training.get("seed")}
    return Network(label=folder.name, facts=facts, records=kept)


def _manifest(folder: Path) -> dict[str, Any]:
    if not (folder / "manifest.json").exists():
        raise InputError(f"expected the folder of a finished run, got {folder} without a manifest.json: train it first")
    manifest = read_manifest(folder)
    if manifest.get("status") != "finished":
        raise InputError(f"{folder}: expected a finished run, got status {manifest.get('status')!r}: choose another")
    return manifest


def provenance(networks: Sequence[Network]) -> dict[str, Any]:
    """Return where the numbers come from: every run with its hashes, the records drawn, and what rendered them."""
    return {
        "schema": 1,
        "runs": [
            {"label": network.label, **network.facts}
            | {"records": {name: record_facts(record) for name, record in sorted(network.records.items())}}
            for network in networks
        ],
        "rendered_with": rendered_with(),
    }
