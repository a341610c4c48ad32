"""Train one network as its config says, so that a kill at any moment loses a few seconds at most.

:func:`one_update` is one update from its order to its log, and :func:`after_update` what is due after it.
"""

from __future__ import annotations

import contextlib
import math
import time
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor, nn

from sharpness.config import RunConfig
from sharpness.data import Dataset, normalise
from sharpness.errors import Terminated
from sharpness.machine.distributed import is_distributed, num_ranks, on_all_ranks, rank, sums_over_ranks
from sharpness.machine.environment import derived_seed, deterministic
from sharpness.machine.precision import subnormals_as_zero, tensor_float_32
from sharpness.machine.progress import Progress
from sharpness.models import BATCH_NORMS
from sharpness.runs import RunFolder, remove_leftovers
from sharpness.training import accumulation, proximal, sam, schedules
from sharpness.training.checks import check_config
from sharpness.training.ends import Ending, budget_used, close, goal_reached, loss_ceased
from sharpness.training.log import Measure, log_epoch, log_measures, log_start, track
from sharpness.training.noise import SquaredNorms
from sharpness.training.optimizers import set_rates
from sharpness.training.order import TrainingBatch
from sharpness.training.position import Position
from sharpness.training.session import Session
from sharpness.training.signals import terminating

RESUME_SECONDS = 10.0
"""The resume state is written after an update, but not more often than this."""


def train(
    config: RunConfig,
    dataset: Dataset,
    run: RunFolder,
    device: torch.device,
    progress: Progress | None = None,
    measure: Measure | None = None,
) -> dict[str, Any]:
    """Train until a budget is used up or a goal is reached, from where the folder stands, and return the manifest.

    Order and variation of the examples are functions of (seed, epoch, position) and everything else drawn at random of
    (seed, update), so a run that was stopped after any update and continued has the same bits as one that was not, on
    one machine type, device, number of threads and of processes. A non-finite loss ends the run with status
    ``diverged`` and the update it was seen at. SIGTERM saves after the update in progress and raises
    :class:`sharpness.errors.Terminated`. ``measure`` is called besides what ``measure.names`` asks for, at the same
    epochs.
    """
    check_config(config)
    alone = run.lock() if rank() == 0 else contextlib.nullcontext()
    with alone, deterministic(device), tensor_float_32(config.training.tf32):
        manifest = run.manifest()
        if manifest is None:
            manifest = _train(Session.open(config, dataset.to(device), run, device), progress, measure)
        on_all_ranks(lambda: remove_leftovers(run) if rank() == 0 else None)
        return manifest


def _train(session: Session, progress: Progress | None, measure: Measure | None) -> dict[str, Any]:
    device, ending = session.device, None
    at = log_start(session, session.restore())
    began = saved = time.perf_counter() - at.seconds
    session.network.train()
    own_draws = torch.random.fork_rng(devices=[device] if device.type == "cuda" else [])
    with own_draws, terminating() as asked_to_stop:
        while ending is None:
            before, at = at, one_update(session, at)
            at = replace(at, seconds=time.perf_counter() - began)
            at, ending = after_update(session, before, at, measure)
            stop, due = _agreed(asked_to_stop(), time.perf_counter() - saved > RESUME_SECONDS, device)
            if ending is None and (stop or due):
                session.save(at)
                saved = time.perf_counter()
                if stop:
                    path = session.run.path
                    raise Terminated(f"{path}: stopped after update {at.update}; the same command goes on there")
            if progress is not None and at.epoch > before.epoch:
                progress(at.epoch - 1, math.ceil(session.total_epochs))
    return close(session, at, ending)


def _agreed(stop: bool, due: bool, device: torch.device) -> tuple[bool, bool]:
    """Return whether any process was asked to stop and whether the first finds a save due: all must do the same."""
    if not is_distributed():
        return stop, due
    stops, first = sums_over_ranks(stop, due and rank() == 0, device=device)
    return bool(stops), bool(first)


@dataclass(frozen=True)
class StepStats:
    """The mean loss over the examples of a batch that this process sees, and how many of them were right."""

    loss: Tensor
    right: Tensor
    norms: SquaredNorms | None  # of the gradients of its parts, where the noise scale is asked for


def one_update(session: Session, at: Position) -> Position:
    """Make the update that begins at a position: order, rate, forward, backward, step, log.

    The log is the sums of an epoch, from which :func:`after_update` writes rows.
    """
    training, parameters = session.config.training, session.parameters
    done = at.epochs_done(len(session.train))  # epochs, a fraction

    asked = schedules.batch_size(session.config, done, at.batch)
    size = min(asked, len(session.train) - at.seen)
    batch = next_batch(session, at, size)

    rate = session.rate(done)  # schedules.learning_rate
    set_rates(session.optimizer, training, rate, asked * session.dataset.predictions_per_example)

    seed_draws(derived_seed(training.seed, "update", at.update, rank()), session.device)  # of dropout and the like
    anchors = [p.detach().clone() for p in parameters] if training.proximal is not None else []
    passes = []
    # One step, or with conservative training several, which are held near the weights before them.
    for _ in range(1 if training.proximal is None else training.proximal_steps):
        passes.append(forward_backward(session, batch))
        if training.sam_rho is not None:
            worst = sam.at_worst_point(parameters, training.sam_rho, training.sam_adaptive)
            with worst, sam.fixed_statistics(session.network):
                forward_backward(session, batch)  # its gradient is the one that the step takes
        if training.proximal is not None:
            proximal.add_gradient(parameters, anchors, training.proximal)
        if training.clip_norm is not None:
            nn.utils.clip_grad_norm_(parameters, training.clip_norm)
        with subnormals_as_zero():
            session.optimizer.step()

    stats = passes[0]  # at the weights before the update
    session.sums.add(stats.loss * (batch.weight / num_ranks()), stats.right, size)
    if stats.norms is not None:
        session.measures.noise.add(stats.norms)
    at = at.after(size, len(session.train))
    return at if session.tracker is None else track(session.tracker, at, batch, len(session.train))


def forward_backward(session: Session, batch: TrainingBatch) -> StepStats:
    """Give the parameters the gradient of the mean loss over a batch, in pieces with ``accumulate``."""
    network, training = session.network, session.config.training
    losses, right = [], []
    for inputs, targets, share in accumulation.pieces_of(batch, training.accumulate, network, session.norm_watch):
        with _precision(training.autocast, inputs.device):
            logits = network(inputs).to(inputs.dtype)
        loss = session.criterion(logits, targets)
        if not losses:
            # The old gradients go after the forward pass: freed before it, their memory would go to activations.
            for p in session.parameters:
                p.grad = None
        weight = share * batch.weight  # not 1 where processes have uneven shares, over which DDP averages
        (loss if weight == 1 else loss * weight).backward()
        losses.append(share * loss.detach())
        right.append((logits.argmax(1) == targets).sum())
    return StepStats(_sum(losses), _sum(right), session.norm_watch.take(batch))


def _precision(autocast: str, device: torch.device) -> contextlib.AbstractContextManager[Any]:
    return torch.autocast(device.type, torch.bfloat16) if autocast == "bfloat16" else contextlib.nullcontext()


def _sum(numbers: list[Tensor]) -> Tensor:
    return numbers[0] if len(numbers) == 1 else torch.stack(numbers).sum()


def next_batch(session: Session, at: Position, size: int) -> TrainingBatch:
    """Return this process's share of the batch that begins at a position: varied, as numbers."""
    order, varied = session.epoch_of(at.epoch)
    first, last = rank() * size // num_ranks(), (rank() + 1) * size // num_ranks()
    rows = order[at.seen + first : at.seen + last]
    images = session.train.inputs.index_select(0, rows)  # copies whole rows, which indexing does not on a CPU
    if varied is not None:
        images = varied(images, at.seen + first)
    inputs = normalise(images, getattr(torch, session.config.training.dtype))
    return TrainingBatch(
        inputs, session.train.targets.index_select(0, rows), weight=num_ranks() * (last - first) / size
    )


def seed_draws(seed: int, device: torch.device) -> None:
    """Seed the generators that a network may draw from.

    ``torch.manual_seed`` seeds those of devices that are not there too, which takes a while.
    """
    torch.default_generator.manual_seed(seed)
    if device.type == "cuda":
        torch.cuda.manual_seed(seed)


def after_update(
    session: Session, before: Position, at: Position, measure: Measure | None
) -> tuple[Position, Ending | None]:
    """Do what is due after an update and return where the run stands, and how it ended if it did."""
    config, total = session.config, len(session.train)
    was, now = before.epochs_done(total), at.epochs_done(total)
    for average in session.averages.values():
        average.after_update(session.model, was, now)
    ending = budget_used(session, at)
    if at.epoch > before.epoch or ending is not None:
        at, reason = log_epoch(session, before, at)
        if reason is not None:
            return at, {"status": "diverged", "reason": reason}
        ending = ending or loss_ceased(session, at)
    ending = goal_reached(session, before, at) or ending
    if (config.measure.names or measure is not None) and schedules.is_due(config.measure.every, was, now):
        at = log_measures(session, at, measure)
    if config.batch.kind == "noise_scale" and schedules.is_due(config.batch.every, was, now):
        least = num_ranks() * (2 if config.model.norm in BATCH_NORMS else 1)
        size = schedules.measured_batch(config, session.measures.noise.simple, at.batch, least, total)
        at = replace(at, batch=size)
    if config.measure.keep_every and ending is None and schedules.is_due(config.measure.keep_every, was, now):
        session.keep(at.update, {"step": at.update, "epoch": now})
    return at, ending
