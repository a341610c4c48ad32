"""The end of a run: a budget used up, a goal reached, a loss that ceases to fall; and the files that close it."""

from __future__ import annotations

import copy
import math
import sys
from typing import Any

import torch
from torch import nn

from sharpness.loss.eval_mode import batch_norms
from sharpness.machine.distributed import num_ranks
from sharpness.machine.environment import git_commit, versions
from sharpness.training.averages import Average
from sharpness.training.position import Position
from sharpness.training.session import Session

Ending = dict[str, Any]
"""The manifest's account of how a run ended: ``status``, and ``ended_by`` or ``reason``."""


def budget_used(session: Session, at: Position) -> Ending | None:
    """Return the ending of a run that has used up a budget."""
    config, budget = session.config, session.config.budget
    used = {
        "epochs": bool(config.training.epochs) and at.epoch - 1 >= config.training.epochs,
        "updates": budget.updates is not None and at.update >= budget.updates,
        "examples": budget.examples is not None and at.examples >= budget.examples,
    }
    name = next((name for name, over in used.items() if over), None)
    return None if name is None else {"status": "finished", "ended_by": name}


def loss_ceased(session: Session, at: Position) -> Ending | None:
    """Return the ending of a run whose loss has ceased to improve.

    Keskar et al. 2017 train so long (section 2.2) without a rule of their own.
    """
    patience = session.config.budget.patience
    return {"status": "finished", "ended_by": "patience"} if patience is not None and at.stale >= patience else None


def goal_reached(session: Session, before: Position, at: Position) -> Ending | None:
    """Look at the goals where it is time, and return the ending with the steps to the result where one is reached."""
    budget = session.config.budget
    due = at.update % budget.check_every == 0 if budget.check_every else at.epoch > before.epoch
    if not due:
        return None
    reached: dict[str, Any] = {}
    if budget.train_loss is not None and (value := session.evaluate(session.train).loss) <= budget.train_loss:
        reached = {"ended_by": "train_loss", "reached": value}
    if budget.error is not None and not reached:
        accuracy = session.evaluate(session.held_out).accuracy
        if accuracy is not None and 1 - accuracy <= budget.error:
            reached = {"ended_by": "error", "reached": 1 - accuracy}
    return {"status": "finished", "steps_to_result": at.update, **reached} if reached else None


def close(session: Session, at: Position, ending: Ending) -> dict[str, Any]:
    """Evaluate and write the final weights and their averages, and the manifest that ends the run; return it."""
    run, epochs = session.run, at.epochs_done(len(session.train))
    if ending["status"] == "finished":
        ending = ending | {"final": session.evaluate_all()}
        if not all(math.isfinite(value) for value in ending["final"].values() if value is not None):
            ending = {
                "status": "diverged",
                "reason": f"the loss of the final weights was not finite at step {at.update}",
            }
    if ending["status"] == "finished":
        session.keep(at.update, {"step": at.update, "epoch": epochs})
        kept = {name: average for name, average in session.averages.items() if average.count}
        accounts = {name: _close_average(session, at, name, average) for name, average in kept.items()}
        if session.config.average.horizons:
            ending |= {"averages": accounts}
        elif accounts:
            ending |= {"average": accounts[session.config.average.kind]}
    position = {"step": at.update, "epochs_done": epochs, "examples": at.examples, "seconds": at.seconds}
    session.write(lambda: run.write_manifest({**ending, **position, **_circumstances(session)}))
    manifest = run.manifest()
    assert manifest is not None  # it was written just now
    return manifest


def _close_average(session: Session, at: Position, name: str, average: Average) -> dict[str, Any]:
    """Write averaged weights, with statistics of the training data, and return their account for the manifest."""
    model, file = _averaged_model(session, average), f"{name}-{at.update}"
    facts = {"step": at.update, "averaged": average.count}
    session.write(lambda: session.run.save_weights(file, model.state_dict(), facts))
    return {"name": file, "averaged": average.count, **session.evaluate_all(model)}


def _averaged_model(session: Session, average: Average) -> nn.Module:
    """Return a network with the averaged weights, its running statistics recomputed by one pass over the data.

    The pass is over the training examples as they are, in evaluation batches, each weighted by its examples.
    """
    model = copy.deepcopy(session.model)
    with torch.no_grad():
        for name, p in model.named_parameters():
            p.copy_(average.weights[name])
    if batch_norms(model) and all(norm.running_mean is not None for norm in batch_norms(model)):
        loss = session.loss_over(session.train, model).with_norm("recalibrate")
        model.load_state_dict({**model.state_dict(), **(loss.buffers_at(loss.weights, loss.batches) or {})})
    return model


def _circumstances(session: Session) -> dict[str, Any]:
    """Return the manifest's account of the data, the machine and the program."""
    return {
        "data_sha256": session.dataset.sha256,
        "data_source": session.dataset.source,
        "device": str(session.device),
        "processes": num_ranks(),
        "threads": torch.get_num_threads(),
        "versions": versions(),
        "git_commit": git_commit(),
        "command": sys.argv,
    }
