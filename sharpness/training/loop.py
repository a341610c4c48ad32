"""Train one network as its config says, so that a kill at any moment loses a few seconds at most."""

from __future__ import annotations

import contextlib
import math
import sys
import time
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import torch

from sharpness.config import RunConfig
from sharpness.data import Dataset, normalise
from sharpness.errors import Terminated
from sharpness.loss.eval_mode import tensor_float_32
from sharpness.machine.distributed import num_ranks, on_all_ranks, rank, sums_over_ranks
from sharpness.machine.environment import derived_seed, deterministic, git_commit, versions
from sharpness.runs import RunFolder, remove_leftovers
from sharpness.training import schedules
from sharpness.training.checks import check_config
from sharpness.training.ends import Measure, after_update, begin, close
from sharpness.training.gradients import Batch, update
from sharpness.training.position import Position
from sharpness.training.session import Session
from sharpness.training.signals import terminating

Progress = Callable[[int, int], None]
"""Called with the number of epochs done and the most there can be."""
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
    one machine type, device, number of threads and of processes. The loss is the mean cross-entropy (nats). A
    non-finite loss ends the run with status ``diverged`` and the update it was seen at. SIGTERM saves after the update
    in progress and raises :class:`sharpness.errors.Terminated`. ``measure`` is called besides what
    ``measure.names`` asks for, at the same epochs.
    """
    check_config(config)
    alone = run.lock() if rank() == 0 else contextlib.nullcontext()
    with alone, deterministic(device), tensor_float_32(config.training.tf32):
        manifest = run.manifest() or _train(config, dataset.to(device), run, device, progress, measure)
        on_all_ranks(lambda: remove_leftovers(run) if rank() == 0 else None)
        return manifest


def _train(
    config: RunConfig,
    dataset: Dataset,
    run: RunFolder,
    device: torch.device,
    progress: Progress | None,
    measure: Measure | None,
) -> dict[str, Any]:
    session = Session.open(config, dataset, run, device)
    at, outcome = begin(session, session.restore()), None
    began = saved = time.perf_counter() - at.seconds
    session.network.train()
    own_draws = torch.random.fork_rng(devices=[device] if device.type == "cuda" else [])
    with own_draws, terminating() as asked_to_stop:
        while outcome is None:
            before = at
            at = replace(one_update(session, at), seconds=time.perf_counter() - began)
            at, outcome = after_update(session, before, at, measure)
            stop, due = _agreed(asked_to_stop(), time.perf_counter() - saved > RESUME_SECONDS, device)
            if outcome is None and (stop or due):
                session.save(at)
                saved = time.perf_counter()
                if stop:
                    raise Terminated(f"{run.path}: stopped after update {at.update}; the same command goes on there")
            if progress is not None and at.epoch > before.epoch:
                progress(at.epoch - 1, math.ceil(session.total_epochs))
    return close(session, at, outcome, facts(session, device))


def _seed(seed: int, device: torch.device) -> None:
    """Seed what a network may draw from: torch.manual_seed takes a while, for devices that are not there too."""
    torch.default_generator.manual_seed(seed)
    if device.type == "cuda":
        torch.cuda.manual_seed(seed)


def _agreed(stop: bool, due: bool, device: torch.device) -> tuple[bool, bool]:
    """Return whether any process was asked to stop and whether the first finds a save due: all must do the same."""
    stops, first = sums_over_ranks(stop, due and rank() == 0, device=device)
    return bool(stops), bool(first)


def one_update(session: Session, at: Position) -> Position:
    """Make the update that begins at a position."""
    config, split = session.config, session.train
    size = prepare(session, at)
    batch = batch_at(session, at, size)
    _seed(derived_seed(config.training.seed, "update", at.update, rank()), session.device)  # for dropout and the like
    told = update(session.network, session.optimizer, session.backward, batch, config.training)
    session.count(told, size, batch.weight)
    return at.after(size, len(split))


def prepare(session: Session, at: Position) -> int:
    """Set the learning rate of the update that begins at a position, and return the size of its batch."""
    total = len(session.train)
    epoch = at.epochs_done(total)
    rate = session.rate(epoch)
    for group in session.optimizer.param_groups:
        group["lr"] = rate
    return min(schedules.batch_size(session.config, epoch, at.batch), total - at.seen)


def batch_at(session: Session, at: Position, size: int) -> Batch:
    """Return this process's share of the batch that begins at a position: varied, as numbers."""
    config, split = session.config, session.train
    order, varied = session.epoch_of(at.epoch)
    rows = order[at.seen : at.seen + size]
    first, last = rank() * size // num_ranks(), (rank() + 1) * size // num_ranks()
    images = split.inputs[rows[first:last]]
    if varied is not None:
        images = varied(images, at.seen + first)
    dtype = getattr(torch, config.training.dtype)
    # DistributedDataParallel averages over processes, whose shares may be uneven.
    weight = num_ranks() * (last - first) / size
    return Batch(normalise(images, dtype), split.targets[rows[first:last]], weight)


def facts(session: Session, device: torch.device) -> dict[str, Any]:
    """Return what the manifest says of where a run was trained."""
    return {
        "data_sha256": session.dataset.sha256,
        "data_source": session.dataset.source,
        "device": str(device),
        "processes": num_ranks(),
        "threads": torch.get_num_threads(),
        "versions": versions(),
        "git_commit": git_commit(),
        "command": sys.argv,
    }
