"""Measure a run's final checkpoint: weights -> loss -> guard -> probes -> ``probes.jsonl``, skipping what is there."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import torch

from sharpness.checkpoints import load_network, load_weights, network_loss
from sharpness.data import Dataset, load_dataset, random_subset
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
    wanted = {name: (name, asdict(probe), weights, second, num_examples) for name, probe in probes.items()}
    return {name: probes[name] for name, key in wanted.items() if key not in done}


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
    probes = missing_probes(run, probes, other, num_examples)
    if not probes:
        return []
    config = run.config()
    dataset = load_dataset(
        config.data.name, data_dir=data_dir, num_train=config.data.num_train, num_test=config.data.num_test
    ).to(device)
    model = load_network(run, run.final_checkpoint(), dataset, device)
    split = dataset.train
    if num_examples is not None:
        split = random_subset(split, num_examples, derived_seed(config.training.seed, "subset"))
        config = replace(config, data=replace(config.data, evaluation_batch_size=num_examples))
    loss = network_loss(model, config, split)
    check_deterministic(loss)
    records = []
    with deterministic(device):
        for name, probe in probes.items():
            record = _measure(name, probe, loss, run, other, dataset, progress)
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
    points, details = [loss.weights], {}
    options: dict[str, Any] = {"progress": progress}
    if "x0" in PROBES[name].points:
        points.append(load_weights(run, "x0", dataset, loss.device))
    if "other" in PROBES[name].points:
        if other is None:
            raise InputError(
                f"expected a second run for the probe {name!r}, got one: it measures between two checkpoints"
            )
        points.append(load_weights(other, other.final_checkpoint(), dataset, loss.device))
        options["test_loss"] = network_loss(loss.model, run.config(), dataset.test)
        details = {"other_run_id": other.config().run_id, "other_checkpoint_sha256": _checkpoint_sha256(other)}
    record = probe(loss, *points, **options).to_record(_checkpoint_sha256(run))
    subset = None if loss.num_examples == len(dataset.train) else loss.num_examples
    return replace(record, details={**record.details, **details, "subset": subset})


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
