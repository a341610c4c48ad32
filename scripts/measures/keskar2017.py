"""Measurements of Keskar et al. 2017 beside the probes: sharpness along training, slices through two minima."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from torch import Tensor

from scripts.runner.grid import Rows
from scripts.runner.site import Site
from sharpness.errors import InputError
from sharpness.landscapes import RandomPlane
from sharpness.loss import Loss
from sharpness.machine.environment import deterministic
from sharpness.machine.progress import Progress
from sharpness.probes import KeskarSharpness
from sharpness.runs.networks import network_loss
from sharpness.vectors import norm

REACH = 0.2
"""Half length of a slice as a share of the distance between the two minima."""


def along_training(site: Site, *, epochs: Sequence[int], subspace: int | None) -> Rows:
    """Return training loss (nats) and Metric 2.1 (per cent, epsilon 1e-3, as published) at kept checkpoints of a run.

    In the full space, or with ``subspace`` in so many random dimensions.
    The points of Figure 6 of Keskar et al. (2017). Raises :class:`InputError` where no checkpoint of an epoch was kept.
    """
    names = {checkpoint.epoch: checkpoint.name for checkpoint in site.checkpoints()}
    batches, rows = site.batches(site.dataset.train), []
    with deterministic(site.device):
        for done, epoch in enumerate(epochs, 1):
            if epoch not in names:
                raise InputError(
                    f"expected a checkpoint of epoch {epoch} in {site.run.path}, got none: set keep_every = 1"
                )
            found = KeskarSharpness(subspace=subspace)(network_loss(site.config, site.network(names[epoch]), batches))
            rows.append({"epoch": epoch, "loss": found.loss, "phi": found.value})
            site.progress(done, len(epochs))
    return rows


def slices(site: Site, *, num_points: int) -> Rows:
    """Return training and test loss (nats) on short slices through the SB and the LB minimum (the two runs).

    Both slices have the direction of the line from SB to LB; ``distance`` is Euclidean, in the weights, from the
    minimum towards LB. What BatchNorm does is that of the interpolations: statistics of the batch, or
    recomputed at each point.
    """
    train, test = site.losses()
    losses = {"train_loss": train, "test_loss": test}
    small, large = (site.weights(run.final_checkpoint(), run) for run in site.runs)
    with deterministic(site.device):
        return slices_between(small, large, losses, num_points, site.progress)


def surfaces(site: Site, *, num_points: int) -> Rows:
    """Return the training loss in a plane of two random directions around the SB and the LB minimum (the two runs).

    The directions are drawn anew for each and are as long, filter by filter, as its weights (Li et al. 2018), so that
    no rescaling of the layers moves the picture. The rows have the ``role`` and the ``record`` of the plane.
    """
    train, _ = site.losses()
    rows, plane = [], RandomPlane(num_points=num_points)
    for role, run in zip(("SB", "LB"), site.runs, strict=True):
        result = plane(train, site.weights(run.final_checkpoint(), run), progress=site.progress)
        rows.append({"role": role, "record": result.to_record(run.final_sha256()).to_dict()})
    return rows


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
