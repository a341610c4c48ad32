"""The measurements of `merrill2025.py` along a run: branches with the critical batch by the paper's rule, noise scales.

Both look at held-out text, which the run has not learnt: a language model in its first pass is trained on new text too.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from scripts.runner.grid import Rows
from scripts.runner.site import Checkpoint, Site
from sharpness.data import Split
from sharpness.errors import InputError
from sharpness.measure.batch_rules import Settings
from sharpness.measure.critical_batch import AT_LEAST, Branches, largest_within, plans, window_of
from sharpness.measure.preconditioner import preconditioner_at
from sharpness.probes import GradientNoise, PreconditionedNoise
from sharpness.results import ProbeResult
from sharpness.runs.networks import network_loss
from sharpness.training.branches import train_branch

LOSSES = {"held out": "loss", "smoothed": "smoothed"}
"""The losses that branches are compared by: at the end on fixed held-out text, or smoothed over the last batches."""
CONFIDENCE = 0.95


def branches(
    site: Site, *, step: int, factors: Sequence[int], window: int, orders: int, tolerances: Sequence[float]
) -> Rows:
    """Return the critical batch at a checkpoint by each loss and tolerance, with the losses of its branches.

    Each branch goes on with ``k`` times the batch, the root of ``k`` times the rate and Adam's betas as they are. The
    rule is that of :func:`sharpness.measure.critical_batch.largest_within` with the mean over the ``orders``;
    ``critical`` is in examples, and ``open`` says that the largest branch was as good as all others.
    """
    training, run = site.config.training, site.run
    checkpoint, knobs = checkpoint_of(site, step), Branches(factors=tuple(factors), window=window, orders=orders)
    knobs.check()
    # Without its beta2 here, as another batch would get another one.
    known = Settings(optimizer=training.optimizer, batch_size=training.batch_size, learning_rate=training.learning_rate)
    state, held_out, found = run.load_optimizer(step), held_out_text(site), list[dict[str, Any]]()
    for plan in plans(knobs, known, window_of(knobs, known, len(site.dataset.train))):
        made = train_branch(run, checkpoint.name, site.dataset, plan, held_out, site.device, state)
        found.append({"factor": plan.batch_size // known.batch_size} | made)
        site.progress(len(found), orders * len(factors))
    rows: Rows = []
    for by, name in LOSSES.items():
        losses = {k: [row[name] for row in found if row["factor"] == k] for k in factors}
        shared = place_of(checkpoint, training.batch_size) | {"by": by}
        rows += [shared | ruled(losses, tolerance, training.batch_size) for tolerance in tolerances]
    return rows


def ruled(losses: dict[int, list[float | None]], tolerance: float, batch: int) -> dict[str, Any]:
    """Return what the paper's rule says with one tolerance, and the losses that it says it of, by batch size."""
    largest = largest_within(losses, tolerance, CONFIDENCE)
    return {
        "tolerance": tolerance,
        "critical": None if largest.value is None else largest.value * batch,
        "open": largest.bound == AT_LEAST,
        "reason": largest.reasons.get("value"),
        "losses": {str(k * batch): values for k, values in losses.items()},
    }


def noise(site: Site, *, steps: Sequence[int]) -> Rows:
    """Return the noise scale at checkpoints, in windows: Euclidean, and in the geometry of Adam's own state."""
    rows: Rows = []
    for number, step in enumerate(steps, 1):
        checkpoint = checkpoint_of(site, step)
        loss = network_loss(site.config, site.network(checkpoint.name), site.batches(held_out_text(site)))
        own = preconditioner_at(Path(site.run.optimizer_file(step)), loss, None)
        results: dict[str, ProbeResult] = {
            "Euclidean": GradientNoise(num_hvps=0, batch_sizes=(), confidence=CONFIDENCE)(loss),
            "Adam's": PreconditionedNoise(confidence=CONFIDENCE)(loss, preconditioner=own),
        }
        shared = place_of(checkpoint, site.config.training.batch_size) | {"loss": loss.value(loss.weights)}
        for geometry, result in results.items():
            record = result.to_record()
            ends = {"value": record.value, "lower": record.lower, "upper": record.upper}
            rows.append(shared | {"geometry": geometry, **ends, "reason": record.reasons.get("value")})
        site.progress(number, len(steps))
    return rows


def held_out_text(site: Site) -> Split:
    """Return the windows that are held out of the training text."""
    if site.dataset.held_out is None:
        raise InputError("expected held-out windows, got num_validation=0: branches are compared on them")
    return site.dataset.held_out


def checkpoint_of(site: Site, step: int) -> Checkpoint:
    """Return the checkpoint after so many updates; :class:`InputError` where none was kept."""
    kept = {each.step: each for each in site.checkpoints()}
    if step not in kept:
        raise InputError(f"expected a checkpoint after {step} updates, got those of {sorted(kept)}: see keep_every")
    return kept[step]


def place_of(checkpoint: Checkpoint, batch: int) -> dict[str, Any]:
    """Return where a checkpoint lies: updates, and windows seen before it."""
    return {"step": checkpoint.step, "windows": checkpoint.step * batch}
