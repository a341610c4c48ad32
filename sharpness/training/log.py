"""The rows of ``train.jsonl`` and ``measures.jsonl``: evaluations, epochs, measurements while the weights move."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import replace
from typing import Any

from torch import Tensor

from sharpness.data import normalise
from sharpness.loss import Evaluation, Loss
from sharpness.loss.noise_scale import sgd_noise_scale
from sharpness.machine.distributed import num_ranks
from sharpness.training import schedules
from sharpness.training.noise import norms_of_parts
from sharpness.training.order import TrainingBatch, random_rows
from sharpness.training.position import Position
from sharpness.training.session import Session
from sharpness.training.tracker import Tracker

Measure = Callable[[int, Tensor], dict[str, Any] | None]
"""Called with the number of updates done and the weights; what it returns is added to the row of measurements."""
NOISE_BATCHES = 8
"""Random batches, each in halves, that the noise scale is measured on where no batch is cut into pieces anyway."""


def log_start(session: Session, at: Position) -> Position:
    """Log the row of epoch 0, at the initial weights, unless that was done."""
    if at.log_rows:
        return at
    row = {"epoch": 0, "step": 0} | session.evaluate_all() | {"seconds": 0.0}
    session.write(lambda: session.run.append_log(row))
    return replace(at, log_rows=1)


def log_epoch(session: Session, before: Position, at: Position) -> tuple[Position, str | None]:
    """Log the row of the epoch that an update ended, whole or cut by a budget.

    Return the position with the row counted and, where a loss was not finite, the reason for which the run ends, at
    the update that it was seen at.
    """
    config, total, sums = session.config, len(session.train), session.sums
    sums.gather()
    first_bad = sums.first_non_finite()
    test = _on_test_set(session, at)
    epoch = before.epochs_done(total)
    rate, batch = session.rate(epoch), schedules.batch_size(config, epoch, before.batch)
    row: dict[str, Any] = {"epoch": _plain(at.epochs_done(total)), "step": at.update}
    reason = None
    if first_bad is None and (test is None or math.isfinite(test.loss)):
        loss, accuracy = sums.means(session.dataset.predictions_per_example)
        row |= {"train_loss": loss, "train_accuracy": accuracy}
        row |= {"test_loss": test and test.loss, "test_accuracy": test and test.accuracy}
        at = _with_best(session, at, loss)
    else:
        at = at if first_bad is None else replace(at, update=at.update - len(sums.losses) + first_bad)
        reason = f"the loss was not finite at step {at.update}"
        row |= dict.fromkeys(("train_loss", "train_accuracy", "test_loss", "test_accuracy"))
        row |= {"step": at.update, "reason": reason}
    noise = sgd_noise_scale(rate, min(batch, total), total, schedules.momentum_of(config)) if rate else 0.0
    row |= {"learning_rate": rate, "batch_size": batch, "g": noise, "seconds": at.seconds}
    session.write(lambda: session.run.append_log(row))
    sums.clear()
    return replace(at, log_rows=at.log_rows + 1), reason


def _on_test_set(session: Session, at: Position) -> Evaluation | None:
    """Evaluate the test set where that is due, and where a budget cut the epoch."""
    now = at.epochs_done(len(session.train))
    due = schedules.is_due(session.config.measure.test_every, math.ceil(now) - 1, now)
    return session.evaluate(session.dataset.test) if due or now != int(now) else None


def _plain(epoch: float) -> int | float:
    return int(epoch) if epoch == int(epoch) else epoch


def _with_best(session: Session, at: Position, mean: float) -> Position:
    """Return the position with the best mean training loss of an epoch, and how many epochs it is old."""
    fall = session.config.budget.min_fall
    if at.best_loss is None or mean < at.best_loss * (1 - fall):
        return replace(at, best_loss=mean, stale=0)
    return replace(at, stale=at.stale + 1)


def log_measures(session: Session, at: Position, measure: Measure | None) -> Position:
    """Log one row of measurements at the present weights."""
    config, total = session.config, len(session.train)
    loss = session.loss_over(session.measured)
    epoch = at.epochs_done(total)
    if "noise_scale" in config.measure.names and config.training.accumulate == 1 and num_ranks() == 1:
        _measure_noise(session, loss, at)
    row: dict[str, Any] = {"step": at.update, "epoch": _plain(epoch)}
    row |= session.measures(loss, session.rate(epoch))
    row |= (measure(at.update, loss.weights) if measure is not None else None) or {}
    session.write(lambda: session.run.append_measure(row))
    return replace(at, measure_rows=at.measure_rows + 1)


def track(tracker: Tracker, at: Position, batch: TrainingBatch, total: int) -> Position:
    """Let the tracker measure if it is due, and return the position with its row counted."""
    row = tracker.step(batch.inputs, batch.targets, step=at.update, epoch=_plain(at.epochs_done(total)))
    return at if row is None else replace(at, measure_rows=at.measure_rows + 1)


def _measure_noise(session: Session, loss: Loss, at: Position) -> None:
    """Measure the noise scale on random batches in halves, at weights that do not move."""
    total = len(session.train)
    size = 2 * (min(schedules.batch_size(session.config, at.epochs_done(total), at.batch), total) // 2)
    for number in range(NOISE_BATCHES if size >= 2 else 0):
        rows = random_rows(session.config.training.seed, NOISE_BATCHES * at.update + number, total, size)
        batch = session.train.rows(rows)
        halves = norms_of_parts(loss, loss.weights, (normalise(batch.inputs, loss.dtype), batch.targets), parts=2)
        session.measures.noise.add(halves)
