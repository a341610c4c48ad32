"""The measurements of McCandlish et al. 2018 at the checkpoints of a run: noise scales and line searches.

Batches of line searches are drawn with replacement, so that ``Cov(G_B) = Sigma / B`` holds exactly.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from scripts.runner.grid import Rows
from scripts.runner.site import Checkpoint, Site
from sharpness.data import Split, normalise
from sharpness.errors import InputError
from sharpness.loss import Loss
from sharpness.machine.environment import derived_seed
from sharpness.probes.gradient_noise import GradientNoise
from sharpness.runs.networks import network_loss
from sharpness.vectors import norm

MOMENTS = ("gradient_square", "noise_trace", "gradient_curvature", "noise_curvature")


def noise_scales(site: Site, *, epochs: Sequence[float] | None, band: Sequence[float] | None, examples: int) -> Rows:
    """Return the noise of the gradient of one run at its checkpoints of these epochs, ``None`` for all.

    With ``band`` only at those whose loss lies between these. The gradient (``square``) and the loss are those of the
    whole training set, which is what the run descends, without error; the covariance is estimated from ``examples``
    drawn from it (``noise_trace``, with a 95 % interval).
    """
    batches, rows = site.batches(site.dataset.train), []
    every = [site.checkpoint("x0"), *site.checkpoints()]
    chosen = every if epochs is None else [checkpoint_at(site, epoch) for epoch in epochs]
    for number, checkpoint in enumerate(chosen, 1):
        loss = subset_loss(site, checkpoint, examples)
        whole = loss.over(batches)
        if band is None or band[0] <= whole.value(whole.weights) <= band[1]:
            rows.append(place_of(checkpoint) | noise_of(whole, loss))
        site.progress(number, len(chosen))
    return rows


def noise_of(whole: Loss, subset: Loss) -> dict[str, Any]:
    """Return loss and squared gradient of the whole training set and the trace of Sigma from a subset of it."""
    value, gradient = whole.value_and_grad(whole.weights)
    # In float32 a unit of ReLU next to its kink may be on for an example alone and off for it in a batch, and the probe
    # refuses gradients that do not add up.
    trace = GradientNoise(num_hvps=0, batch_sizes=())(subset.in_precision(torch.float64)).numbers["noise_trace"]
    row = {"loss": value, "square": norm(gradient) ** 2, "num_train": whole.num_examples}
    return row | {"noise_trace": trace.value, "noise_trace_lower": trace.lower, "noise_trace_upper": trace.upper}


def line_search(
    site: Site,
    *,
    epoch: float,
    examples: int,
    num_hvps: int,
    batch_sizes: Sequence[int],
    batches: Sequence[int],
    octaves: tuple[float, float],
    per_octave: int,
) -> Rows:
    """Return for each batch size by how much steps ``w - rate G_B`` of random batches change the loss, batch by batch.

    The loss is over ``examples`` of the training set, from which the batches are drawn with replacement, ``batches`` so
    many of each size; the rates lie around the one that equation 2.6 predicts, ``octaves`` below and above,
    ``per_octave`` to each factor of 2. Beside them stand the moments that the prediction is made of.
    """
    checkpoint = checkpoint_at(site, epoch)
    loss = subset_loss(site, checkpoint, examples)
    result = GradientNoise(num_hvps=num_hvps, batch_sizes=tuple(batch_sizes))(loss)
    shared = place_of(checkpoint) | {"loss": loss.value(loss.weights), "examples": loss.num_examples}
    shared |= {name: result.numbers[name].value for name in MOMENTS}
    grid = 2.0 ** (torch.arange(octaves[0] * per_octave, octaves[1] * per_octave + 1, dtype=torch.float64) / per_octave)
    rows = []
    each = zip(batch_sizes, batches, result.by_batch_size, strict=True)
    for number, (size, draws, predicted) in enumerate(each, 1):
        centre = predicted["step"]["value"]
        rates = (grid * centre).tolist() if centre is not None else []
        seed = derived_seed(site.config.training.seed, "line search", epoch, size)
        changes = step_changes(loss, size, rates, draws, seed) if rates else []
        predictions = {f"predicted_{key}": predicted["step"][key] for key in ("value", "lower", "upper")}
        rows.append(shared | predictions | {"batch_size": size, "rates": rates, "changes": changes})
        site.progress(number, len(batch_sizes))
    return rows


def step_changes(loss: Loss, size: int, rates: Sequence[float], batches: int, seed: int) -> list[list[float]]:
    """Return ``L(w - rate G_B) - L(w)`` for each random batch (rows) and rate (columns), at the loss's own weights."""
    w, before = loss.weights, loss.value(loss.weights)
    inputs, targets = (torch.cat(parts) for parts in zip(*loss.batches, strict=True))
    generator = torch.Generator().manual_seed(seed)
    changes = []
    for _ in range(batches):
        rows = torch.randint(len(targets), (size,), generator=generator).to(targets.device)
        gradient = loss.over([(inputs[rows], targets[rows])]).grad(w)
        changes.append([finite(loss.value(w - rate * gradient) - before) for rate in rates])
    return changes


def subset_loss(site: Site, checkpoint: Checkpoint, examples: int) -> Loss:
    """Return the loss at a checkpoint over a subset of the training set, the same at all checkpoints of a run."""
    batches = [one_batch(site.subset(site.dataset.train, examples))]
    return network_loss(site.config, site.network(checkpoint.name), batches)


def one_batch(split: Split) -> tuple[Tensor, Tensor]:
    return normalise(split.inputs, torch.float32), split.targets


def checkpoint_at(site: Site, epoch: float) -> Checkpoint:
    """Return the run's checkpoint of an epoch, to one batch; :class:`InputError` where none was kept."""
    kept = [site.checkpoint("x0"), *site.checkpoints()]
    nearest = min(kept, key=lambda each: abs(each.epoch - epoch))
    if abs(nearest.epoch - epoch) > site.config.training.batch_size / len(site.dataset.train) + 1e-9:
        found = ", ".join(f"{each.epoch:.3g}" for each in kept)
        raise InputError(
            f"{site.run.path}: expected a checkpoint of epoch {epoch:g}, got those of {found}: keep it too"
        )
    return nearest


def place_of(checkpoint: Checkpoint) -> dict[str, Any]:
    """Return step and epoch of a checkpoint, as rows have them."""
    return {"step": checkpoint.step, "epoch": checkpoint.epoch}


def finite(value: float) -> float | None:
    return value if math.isfinite(value) else None
