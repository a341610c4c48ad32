"""Measurements of Keskar et al. 2017 beside the probes: sharpness along training, slices through two minima."""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from sharpness.errors import InputError
from sharpness.loss import Loss
from sharpness.machine.environment import deterministic
from sharpness.probes import KeskarSharpness
from sharpness.runs import RunFolder
from sharpness.runs.networks import evaluation_batches, load_network, load_run_data, network_loss
from sharpness.vectors import norm

Rows = list[dict[str, Any]]
Progress = Callable[[int, int], None]
REACH = 0.2
"""Half length of a slice as a share of the distance between the two minima."""


def along_training(
    folders: Sequence[Path],
    device: torch.device,
    data_dir: Path | None,
    progress: Progress,
    *,
    epochs: Sequence[int],
    subspace: int | None,
) -> Rows:
    """Return training loss (nats) and Metric 2.1 (per cent, epsilon 1e-3, as published) at kept checkpoints of a run.

    In the full space, or with ``subspace`` in so many random dimensions.
    The points of Figure 6 of Keskar et al. (2017). Raises :class:`InputError` where no checkpoint of an epoch was kept.
    """
    run = RunFolder.open(folders[0])
    config, dataset = run.config(), load_run_data(run.config(), data_dir).to(device)
    batches, names, rows = evaluation_batches(config, dataset.train), kept_checkpoints(run.path), []
    with deterministic(device):
        for done, epoch in enumerate(epochs, 1):
            if epoch not in names:
                raise InputError(f"expected a checkpoint of epoch {epoch} in {run.path}, got none: set keep_every = 1")
            model = load_network(run, names[epoch], dataset, device)
            found = KeskarSharpness(subspace=subspace)(network_loss(model, batches))
            rows.append({"epoch": epoch, "loss": found.loss, "phi": found.value})
            progress(done, len(epochs))
    return rows


def kept_checkpoints(folder: Path) -> dict[float, str]:
    """Return the names of the checkpoints of a run by the epoch that each was written at."""
    facts = {path.stem: json.loads(path.read_text()) for path in folder.glob("checkpoint-*.json")}
    return {fact["epoch"]: name for name, fact in facts.items()}


def slices(
    folders: Sequence[Path], device: torch.device, data_dir: Path | None, progress: Progress, *, num_points: int
) -> Rows:
    """Return training and test loss (nats) on short slices through the SB and the LB minimum (the two folders).

    Both slices have the direction of the line from SB to LB; ``distance`` is Euclidean, in the weights, from the
    minimum towards LB. What BatchNorm does is that of the interpolations: statistics of the batch, or
    recomputed at each point.
    """
    runs = [RunFolder.open(folder) for folder in folders]
    config, dataset = runs[0].config(), load_run_data(runs[0].config(), data_dir).to(device)
    train, test = (evaluation_batches(config, split) for split in (dataset.train, dataset.test))
    model = load_network(runs[0], runs[0].final_checkpoint(), dataset, device)
    losses = {
        "train_loss": network_loss(model, train, calibration=train),
        "test_loss": network_loss(model, test, calibration=train),
    }
    small = losses["train_loss"].weights
    other = load_network(runs[1], runs[1].final_checkpoint(), dataset, device)
    large = network_loss(other, train).weights
    with deterministic(device):
        return slices_between(small, large, losses, num_points, progress)


def slices_between(small: Tensor, large: Tensor, losses: dict[str, Loss], num_points: int, progress: Progress) -> Rows:
    """Return the losses at ``x + t (large - small) / |large - small|`` for x = small and x = large, t evenly spaced."""
    length, rows = norm(large - small), []
    direction = (large - small) / length
    for role, centre in (("SB", small), ("LB", large)):
        for t in np.linspace(-REACH * length, REACH * length, num_points).tolist():
            values = {name: loss.value(centre + t * direction) for name, loss in losses.items()}
            rows.append({"role": role, "distance": t, **values, "length": length})
            progress(len(rows), 2 * num_points)
    return rows
