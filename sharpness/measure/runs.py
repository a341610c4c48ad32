"""Probe the final weights of a training run over its own data; the records go into the run folder."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import torch
from torch import nn

from sharpness.data import Dataset, random_subset
from sharpness.errors import InputError
from sharpness.loss.determinism import check_deterministic
from sharpness.machine.environment import derived_seed
from sharpness.machine.progress import Progress
from sharpness.measure.runner import deciding_knobs, measure
from sharpness.measure.subject import Point, SplitLosses, Subject
from sharpness.probes import PROBES
from sharpness.records import ProbeRecord
from sharpness.runs import RunFolder
from sharpness.runs.networks import evaluation_batches, load_network, load_run_data, load_weights, network_loss


def missing_probes(
    run: RunFolder, probes: Mapping[str, Any], other: RunFolder | None = None, num_examples: int | None = None
) -> dict[str, Any]:
    """Return the probes that ``probes.jsonl`` has no record of, for these knobs, weights and number of examples.

    No data are read for that, so a study that is done already says so at once.
    """
    done = [_key(record) for record in run.records()]
    weights = checkpoint_sha256(run)
    second = None if other is None else checkpoint_sha256(other)
    missing = {}
    for name, probe in probes.items():
        far_end = second if "other" in PROBES[name].points else None
        if (name, deciding_knobs(asdict(probe)), weights, far_end, num_examples) not in done:
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
    check_subset(num_examples)
    for name in probes:
        if other is None and "other" in PROBES[name].points:
            raise InputError(
                f"expected a second run for the probe {name!r}, got one: it measures between two checkpoints"
            )
    probes = missing_probes(run, probes, other, num_examples)
    if not probes:
        return []
    subject = subject_of_run(run, device=device, other=other, num_examples=num_examples, data_dir=data_dir)
    check_deterministic(subject.loss)
    outcomes = [measure(name, probe, subject, run, progress=progress) for name, probe in probes.items()]
    return [outcome.record for outcome in outcomes if outcome.status == "measured" and outcome.record is not None]


def subject_of_run(
    run: RunFolder,
    *,
    device: torch.device,
    other: RunFolder | None = None,
    num_examples: int | None = None,
    data_dir: Path | None = None,
) -> Subject:
    """Return a run's final weights with the loss they were trained on; see :func:`probe_run`."""
    check_subset(num_examples)
    config, final = run.config(), run.final_checkpoint()
    dataset = load_run_data(config, data_dir).to(device)
    split = dataset.train
    if num_examples is not None:
        split = random_subset(split, num_examples, derived_seed(config.training.seed, "subset"))
        config = replace(config, data=replace(config.data, evaluation_batch_size=num_examples))
    model = load_network(run, final, dataset, device)
    return Subject(
        loss=network_loss(model, evaluation_batches(config, split)),
        checkpoint_sha256=checkpoint_sha256(run),
        details={"subset": num_examples},
        start=lambda: Point(weights=load_weights(run, "x0", dataset, device)),
        points=() if other is None else (lambda: _far_end(other, dataset, device),),
        split_losses=lambda: _split_losses(run, model, dataset),
    )


def check_subset(num_examples: int | None) -> None:
    """Raise :class:`InputError` for a subset of fewer than two examples."""
    if num_examples is not None and num_examples < 2:
        raise InputError(f"expected at least 2 examples, got {num_examples}: batch statistics need them")


def _far_end(other: RunFolder, dataset: Dataset, device: torch.device) -> Point:
    """Return the other run's final weights."""
    return Point(
        weights=load_weights(other, other.final_checkpoint(), dataset, device),
        name=other.config().run_id,
        checkpoint_sha256=checkpoint_sha256(other),
        details={"other_run_id": other.config().run_id},
    )


def _split_losses(run: RunFolder, model: nn.Module, dataset: Dataset) -> SplitLosses:
    """Return the losses of a run's network over its whole splits, for lines and planes."""
    train, test = (evaluation_batches(run.config(), split) for split in (dataset.train, dataset.test))
    losses = (network_loss(model, batches, calibration=train) for batches in (train, test))
    return SplitLosses(loss=next(losses), test=next(losses))


def checkpoint_sha256(run: RunFolder) -> str:
    """Return the SHA-256 of the run's final weights as its manifest has it."""
    name = run.final_checkpoint()
    manifest = run.manifest()
    assert manifest is not None  # final_checkpoint has read it
    return manifest["files"][f"{name}.safetensors"]


def _key(record: ProbeRecord) -> tuple[Any, ...]:
    details = record.details
    return (
        record.probe,
        deciding_knobs(record.knobs),
        record.checkpoint_sha256,
        details.get("other_checkpoint_sha256"),
        details.get("subset"),
    )
