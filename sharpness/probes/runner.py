"""Measure a run's final checkpoint: weights -> loss -> guard -> probes -> ``probes.jsonl``, skipping what is there."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import torch

from sharpness.checkpoints import evaluation_batches, load_network, load_run_data, load_weights, network_loss
from sharpness.data import Dataset, random_subset
from sharpness.determinism import check_deterministic
from sharpness.environment import derived_seed, deterministic
from sharpness.errors import InputError, unknown_name
from sharpness.loss import Loss
from sharpness.probes import PROBES
from sharpness.probes.evidence import Progress
from sharpness.records import ProbeRecord
from sharpness.runs import RunFolder


def choose_probes(names: Sequence[str] | None) -> dict[str, Any]:
    """Return the named probes with their default knobs; without names, those that need one run only.

    >>> list(choose_probes(["keskar"]))
    ['keskar']
    """
    if names is None:
        names = [name for name, info in PROBES.items() if "other" not in info.points]
    for name in names:
        if name not in PROBES:
            raise unknown_name("probe", name, PROBES)
    return {name: PROBES[name].probe() for name in names}


def missing_probes(
    run: RunFolder, probes: Mapping[str, Any], other: RunFolder | None = None, num_examples: int | None = None
) -> dict[str, Any]:
    """Return the probes that ``probes.jsonl`` has no record of, for these knobs, weights and number of examples."""
    done = [_key(record) for record in run.records()]
    weights = _checkpoint_sha256(run)
    second = None if other is None else _checkpoint_sha256(other)
    missing = {}
    for name, probe in probes.items():
        far_end = second if "other" in PROBES[name].points else None
        if (name, asdict(probe), weights, far_end, num_examples) not in done:
            missing[name] = probe
    return missing


def probe_run(
    run: RunFolder,
    probes: Mapping[str, Any],
    *,
    device: torch.device,
    other: RunFolder | None = None,
    num_examples: int | None = None,
    data_dir: Path | None = None,
    progress: Progress | None = None,
) -> list[ProbeRecord]:
    """Measure what is missing on the run's final weights over its training set, append the records and return them.

    ``other`` is the run at the far end of probes between two checkpoints. ``num_examples`` takes a seeded random subset
    of the training set, as one batch. Raises :class:`InputError` for an unfinished run or a loss that is not one
    function, before anything is measured.
    """
    if num_examples is not None and num_examples < 2:
        raise InputError(f"expected at least 2 examples, got {num_examples}: batch statistics need them")
    for name in probes:
        if other is None and "other" in PROBES[name].points:
            raise InputError(
                f"expected a second run for the probe {name!r}, got one: it measures between two checkpoints"
            )
    probes = missing_probes(run, probes, other, num_examples)
    if not probes:
        return []
    config = run.config()
    dataset = load_run_data(config, data_dir).to(device)
    model = load_network(run, run.final_checkpoint(), dataset, device)
    split = dataset.train
    if num_examples is not None:
        split = random_subset(split, num_examples, derived_seed(config.training.seed, "subset"))
        config = replace(config, data=replace(config.data, evaluation_batch_size=num_examples))
    loss = network_loss(model, evaluation_batches(config, split))
    check_deterministic(loss)
    records = []
    with deterministic(device):
        for name, probe in probes.items():
            record = _measure(name, probe, loss, run, other, dataset, progress)
            record = replace(record, details={**record.details, "subset": num_examples})
            records.append(record)
            with run.lock():
                if missing_probes(run, {name: probe}, other, num_examples):
                    run.append_record(record)
    return records


def _measure(
    name: str,
    probe: Any,
    loss: Loss,
    run: RunFolder,
    other: RunFolder | None,
    dataset: Dataset,
    progress: Progress | None,
) -> ProbeRecord:
    """Call one probe with the points that it needs and return its record."""
    options: dict[str, Any] = {"progress": progress}
    if "other" in PROBES[name].points:
        assert other is not None  # checked before anything was measured
        config, far_end = run.config(), load_weights(other, other.final_checkpoint(), dataset, loss.device)
        train, test = (evaluation_batches(config, split) for split in (dataset.train, dataset.test))
        line, test_loss = (network_loss(loss.model, batches, calibration=train) for batches in (train, test))
        result = probe(line, loss.weights, far_end, test_loss=test_loss, **options)
        details = {"other_run_id": other.config().run_id, "other_checkpoint_sha256": _checkpoint_sha256(other)}
    else:
        start = [load_weights(run, "x0", dataset, loss.device)] if "x0" in PROBES[name].points else []
        result, details = probe(loss, loss.weights, *start, **options), {}
    record = result.to_record(_checkpoint_sha256(run))
    return replace(record, details={**record.details, **details})


def _checkpoint_sha256(run: RunFolder) -> str:
    name = run.final_checkpoint()
    manifest = run.manifest()
    assert manifest is not None  # final_checkpoint has read it
    return manifest["files"][f"{name}.safetensors"]


def _key(record: ProbeRecord) -> tuple[Any, ...]:
    details = record.details
    return (
        record.probe,
        dict(record.knobs),
        record.checkpoint_sha256,
        details.get("other_checkpoint_sha256"),
        details.get("subset"),
    )
