"""Probe the final weights of a training run over its own data; the records go into the run folder."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from torch import nn

from sharpness.data import Dataset
from sharpness.errors import InputError
from sharpness.machine.progress import Progress
from sharpness.measure.guards import check_weights
from sharpness.measure.recorded import missing_probes
from sharpness.measure.runner import measure
from sharpness.measure.subject import Point, SplitLosses, Subject, shared_products
from sharpness.probes import PROBES
from sharpness.records import ProbeRecord
from sharpness.runs import RunFolder
from sharpness.runs.networks import (
    check_subset,
    evaluation_batches,
    load_network,
    load_run_data,
    load_weights,
    network_loss,
    subset_batches,
)


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
    check_weights(subject.loss)
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
    batches = subset_batches(config, dataset.train, num_examples, config.training.seed)
    model = load_network(run, final, dataset, device)
    loss = network_loss(config, model, batches)
    return Subject(
        loss=loss,
        checkpoint_sha256=run.final_sha256(),
        details={"subset": num_examples, "criterion": config.training.loss},
        start=lambda: Point(weights=load_weights(run, "x0", dataset, device)),
        points=() if other is None else (lambda: _far_end(other, dataset, device),),
        split_losses=lambda: _split_losses(run, model, dataset),
        shared=shared_products(loss),
    )


def _far_end(other: RunFolder, dataset: Dataset, device: torch.device) -> Point:
    """Return the other run's final weights."""
    return Point(
        weights=load_weights(other, other.final_checkpoint(), dataset, device),
        name=other.config().run_id,
        checkpoint_sha256=other.final_sha256(),
        details={"other_run_id": other.config().run_id},
    )


def _split_losses(run: RunFolder, model: nn.Module, dataset: Dataset) -> SplitLosses:
    """Return the losses of a run's network over its whole splits, for lines and planes."""
    config = run.config()
    train, test = (evaluation_batches(config, split) for split in (dataset.train, dataset.test))
    losses = (network_loss(config, model, batches, calibration=train) for batches in (train, test))
    return SplitLosses(loss=next(losses), test=next(losses))
