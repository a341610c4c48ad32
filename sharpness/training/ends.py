"""What happens between updates: log rows, measurements, kept checkpoints, goals, and the end of a run."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import asdict, replace
from typing import Any

from torch import Tensor

from sharpness.data import Split, normalise
from sharpness.loss import Evaluation, Loss
from sharpness.machine.distributed import num_ranks
from sharpness.noise_scale import sgd_noise_scale
from sharpness.training import schedules
from sharpness.training.measures import piece_norms, random_rows
from sharpness.training.position import Position
from sharpness.training.session import Session

Measure = Callable[[int, Tensor], dict[str, Any] | None]
Outcome = dict[str, Any]
NOISE_BATCHES = 8
"""Random batches, each in halves, that the noise scale is measured on where no batch is cut into pieces anyway."""
NAMES = ("train_loss", "train_accuracy", "test_loss", "test_accuracy")


def begin(session: Session, at: Position) -> Position:
    """Log the row of epoch 0 and measure at the initial weights, unless that was done."""
    if at.log_rows:
        return at
    row = {"epoch": 0, "step": 0} | _everywhere(session) | {"seconds": 0.0}
    session.write(lambda: session.run.append_log(row))
    return replace(at, log_rows=1)


def after_update(
    session: Session, before: Position, at: Position, measure: Measure | None
) -> tuple[Position, Outcome | None]:
    """Do what is due after an update and return where the run stands, and how it ended if it did."""
    config, total = session.config, len(session.train)
    was, now = before.epochs_done(total), at.epochs_done(total)
    session.average.after_update(session.model, was, now)
    outcome = _budget_used(session, at)
    if at.epoch > before.epoch or outcome is not None:
        at, failed = _log(session, before, at)
        outcome = failed or outcome or _ceased(session, at)
    if outcome is None or outcome["status"] == "finished":
        outcome = _goal_reached(session, before, at) or outcome
        if _passes(config.measure.every, was, now) and (config.measure.names or measure is not None):
            at = _measure(session, at, measure)
        if config.batch.kind == "noise_scale" and _passes(config.batch.every, was, now):
            at = replace(at, batch=_asked_batch(session, at))
        if config.measure.keep_every and _passes(config.measure.keep_every, was, now) and outcome is None:
            facts = {"step": at.update, "epoch": now}
            state = session.model.state_dict()
            session.write(lambda: session.run.save_weights(f"checkpoint-{at.update}", state, facts))
    return at, outcome


def close(session: Session, at: Position, outcome: Outcome, facts: Mapping[str, Any]) -> dict[str, Any]:
    """Evaluate and write the final weights and their average, and the manifest that ends the run."""
    total, run = len(session.train), session.run
    if outcome["status"] == "finished":
        outcome = outcome | {"final": _everywhere(session)}
        if not all(math.isfinite(value) for value in outcome["final"].values() if value is not None):
            reason = f"the loss of the final weights was not finite at step {at.update}"
            outcome = {"status": "diverged", "reason": reason}
    if outcome["status"] == "finished":
        place = {"step": at.update, "epoch": at.epochs_done(total)}
        state = session.model.state_dict()
        session.write(lambda: run.save_weights(f"checkpoint-{at.update}", state, place))
        if session.average.count:
            outcome |= {"average": _close_average(session, at)}
    position = {
        "step": at.update,
        "epochs_done": at.epochs_done(total),
        "examples": at.examples,
        "seconds": at.seconds,
    }
    session.write(lambda: run.write_manifest({**outcome, **position, **facts}))
    manifest = run.manifest()
    assert manifest is not None  # it was written just now
    return manifest


def _close_average(session: Session, at: Position) -> dict[str, Any]:
    """Write the averaged weights, with statistics of the training data, and return what the manifest says of them."""
    kind = session.config.average.kind
    model = session.averaged_model()
    name = f"{kind}-{at.update}"
    facts = {"step": at.update, "averaged": session.average.count}
    session.write(lambda: session.run.save_weights(name, model.state_dict(), facts))
    return {"name": name, "averaged": session.average.count, **_everywhere(session, model)}


def _log(session: Session, before: Position, at: Position) -> tuple[Position, Outcome | None]:
    """Log the row of the epoch, whole or cut by a budget; a loss that is not finite ends the run."""
    config, total, sums = session.config, len(session.train), session.sums
    sums.gather()
    first_bad = sums.first_non_finite()
    test = _evaluate(session, session.dataset.test)
    epoch = before.epochs_done(total)
    rate, batch = session.rate(epoch), schedules.batch_size(config, epoch, before.batch)
    row: dict[str, Any] = {"epoch": _plain(at.epochs_done(total)), "step": at.update}
    momentum = schedules.momentum_of(config)
    facts = {"learning_rate": rate, "batch_size": batch, "g": sgd_noise_scale(rate, min(batch, total), total, momentum)}
    failed = None
    if first_bad is None and math.isfinite(test.loss):
        mean, accuracy = sums.means()
        row |= dict(zip(NAMES, (mean, accuracy, test.loss, test.accuracy), strict=True))
        at = _with_best(session, at, mean)
    else:
        step = at.update if first_bad is None else at.update - len(sums.losses) + first_bad
        reason = f"the loss was not finite at step {step}"
        row |= {"step": step} | dict.fromkeys(NAMES) | {"reason": reason}
        failed = {"status": "diverged", "reason": reason}
        at = replace(at, update=step)
    row |= facts | {"seconds": at.seconds}
    session.write(lambda: session.run.append_log(row))
    sums.clear()
    return replace(at, log_rows=at.log_rows + 1), failed


def _plain(epoch: float) -> int | float:
    return int(epoch) if epoch == int(epoch) else epoch


def _with_best(session: Session, at: Position, mean: float) -> Position:
    """Return the position with the best mean training loss of an epoch, and how many epochs it is old."""
    fall = session.config.budget.min_fall
    if at.best_loss is None or mean < at.best_loss * (1 - fall):
        return replace(at, best_loss=mean, stale=0)
    return replace(at, stale=at.stale + 1)


def _budget_used(session: Session, at: Position) -> Outcome | None:
    config, budget = session.config, session.config.budget
    used = {
        "epochs": bool(config.training.epochs) and at.epoch - 1 >= config.training.epochs,
        "updates": budget.updates is not None and at.update >= budget.updates,
        "examples": budget.examples is not None and at.examples >= budget.examples,
    }
    name = next((name for name, over in used.items() if over), None)
    return None if name is None else {"status": "finished", "ended_by": name}


def _ceased(session: Session, at: Position) -> Outcome | None:
    """Say whether the loss has ceased to improve (Keskar et al. 2017, section 2.2, without a rule of its own)."""
    patience = session.config.budget.patience
    return {"status": "finished", "ended_by": "patience"} if patience is not None and at.stale >= patience else None


def _goal_reached(session: Session, before: Position, at: Position) -> Outcome | None:
    """Look at the targets where it is time, and end the run with the steps to the result where one is reached."""
    budget = session.config.budget
    if budget.train_loss is None and budget.error is None:
        return None
    due = at.update % budget.check_every == 0 if budget.check_every else at.epoch > before.epoch
    if not due:
        return None
    reached: dict[str, Any] = {}
    if budget.train_loss is not None and (value := _evaluate(session, session.train).loss) <= budget.train_loss:
        reached = {"ended_by": "train_loss", "reached": value}
    if budget.error is not None and not reached:
        accuracy = _evaluate(session, session.held_out).accuracy
        if accuracy is not None and 1 - accuracy <= budget.error:
            reached = {"ended_by": "error", "reached": 1 - accuracy}
    return {"status": "finished", "steps_to_result": at.update, **reached} if reached else None


def _measure(session: Session, at: Position, measure: Measure | None) -> Position:
    """Log one row of measurements at the present weights."""
    config, total = session.config, len(session.train)
    split = session.train.first(min(config.measure.examples, total) or None)
    loss = session.loss_over(split)
    epoch = at.epochs_done(total)
    if "noise_scale" in config.measure.names and config.training.accumulate == 1 and num_ranks() == 1:
        _add_noise(session, loss, at)
    row: dict[str, Any] = {"step": at.update, "epoch": _plain(epoch)}
    row |= session.measures(loss, session.rate(epoch))
    row |= (measure(at.update, loss.weights) if measure is not None else None) or {}
    session.write(lambda: session.run.append_measure(row))
    return replace(at, measure_rows=at.measure_rows + 1)


def _add_noise(session: Session, loss: Loss, at: Position) -> None:
    """Measure the noise scale on random batches in halves, at weights that do not move."""
    total = len(session.train)
    size = 2 * (min(schedules.batch_size(session.config, at.epochs_done(total), at.batch), total) // 2)
    for number in range(NOISE_BATCHES if size >= 2 else 0):
        rows = random_rows(session.config.training.seed, NOISE_BATCHES * at.update + number, total, size)
        rows = rows.to(session.train.inputs.device)
        batch = (normalise(session.train.inputs[rows], loss.dtype), session.train.targets[rows])
        session.measures.noise.add(*piece_norms(loss, loss.weights, batch, 2))


def _asked_batch(session: Session, at: Position) -> int | None:
    """Return the batch size that the measured noise scale asks for, the present one where it is not known."""
    simple = session.measures.noise.simple
    if simple is None:
        return at.batch
    asked = max(1, round(math.sqrt(session.config.batch.ratio * simple)))
    least = 1 if session.config.model.norm == "none" else 2
    return max(least * num_ranks(), min(asked, len(session.train)))


def _everywhere(session: Session, model: Any = None) -> dict[str, float | None]:
    """Return loss and accuracy over the whole training, held-out and test examples, in evaluation mode."""
    splits = {"train": session.train, "test": session.dataset.test}
    if session.config.data.num_validation:
        splits["validation"] = session.held_out
    row = {}
    for name, split in splits.items():
        row |= {f"{name}_{key}": value for key, value in asdict(_evaluate(session, split, model)).items()}
    return row


def _evaluate(session: Session, split: Split, model: Any = None) -> Evaluation:
    loss = session.loss_over(split, model)
    return loss.evaluate(loss.weights)


def _passes(every: float, was: float, now: float) -> bool:
    """Say whether a multiple of ``every`` epochs lies after ``was`` and not after ``now``.

    >>> _passes(0.5, 0.4, 0.5), _passes(0.5, 0.5, 0.9)
    (True, False)
    """
    return math.floor(now / every + 1e-9) > math.floor(was / every + 1e-9)
