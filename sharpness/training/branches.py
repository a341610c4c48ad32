"""Branches of a run: training that goes on from one checkpoint with several batch sizes, for the same examples."""

from __future__ import annotations

import copy
import itertools
import math
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from functools import reduce
from typing import Any

import torch

from sharpness.config import AverageConfig, BatchConfig, BudgetConfig, MeasureConfig, RunConfig, ScheduleConfig
from sharpness.data import Dataset, Split
from sharpness.machine.environment import deterministic
from sharpness.machine.precision import tensor_float_32
from sharpness.runs import RunFolder
from sharpness.training.loop import forward_backward, next_batch, one_update
from sharpness.training.optimizers import set_rates
from sharpness.training.order import random_rows
from sharpness.training.position import Position
from sharpness.training.session import Session

FIRST_BRANCH_EPOCH = 10**6
"""The orders of examples of branches are those of epochs that no run comes to."""
PASSES_APART = 10**4
SETTLING = 10
"""Batches that the optimiser's state is rebuilt from, where it was not kept."""
NEWEST = 0.5
"""The weight of the last batch in the smoothed loss (Merrill et al. 2025)."""


@dataclass(frozen=True)
class Plan:
    """One branch: its batch size and rate, which order of the examples, and how many of them it sees."""

    batch_size: int
    learning_rate: float
    beta2_half_life: float | None
    order: int
    window: int


def branch_config(config: RunConfig, start: str, plan: Plan) -> RunConfig:
    """Return a run's config for a branch from the weights ``start``: one rate and one batch size, no end of its own.

    >>> branch = branch_config(RunConfig(), "a/checkpoint-3.safetensors", Plan(128, 0.002, None, 0, 1000))
    >>> branch.training.batch_size, branch.training.learning_rate, branch.schedule.kind
    (128, 0.002, 'constant')
    """
    training = replace(
        config.training,
        start=start,
        batch_size=plan.batch_size,
        learning_rate=plan.learning_rate,
        beta2_half_life=plan.beta2_half_life,
        epochs=2 * FIRST_BRANCH_EPOCH,
    )
    own = {"schedule": ScheduleConfig(), "batch": BatchConfig(), "average": AverageConfig()}
    return replace(config, training=training, **own, budget=BudgetConfig(), measure=MeasureConfig())


@contextmanager
def branching(run: RunFolder, checkpoint: str, plan: Plan, dataset: Dataset, device: torch.device) -> Iterator[Session]:
    """Go on from a checkpoint of a run, in training mode and with random numbers that are not the caller's."""
    config = branch_config(run.config(), f"{run.path.name}/{checkpoint}.safetensors", plan)
    own_draws = torch.random.fork_rng(devices=[device] if device.type == "cuda" else [])
    with own_draws, deterministic(device), tensor_float_32(config.training.tf32):
        session = Session.open(config, dataset, run, device)
        session.network.train()
        yield session


def train_branch(
    run: RunFolder,
    checkpoint: str,
    dataset: Dataset,
    plan: Plan,
    seen: Split,
    device: torch.device,
    state: Mapping[str, Any] | None = None,
) -> dict[str, Any]:
    """Train one branch from a checkpoint of a run and return its updates and its loss over ``seen`` at the end.

    After Merrill et al. 2025 (arXiv 2505.23971): weights and optimiser go on with another batch size at a rate scaled
    by rule. The updates are those of the trainer, SAM, clipping and all, at one rate. Branches of one ``order`` see the
    same ``window`` examples in the same order, the last batch of a pass being what is left of it; where the window is
    larger than the training set it is made of whole passes. Deviations: ``loss`` is that of fixed examples in
    evaluation mode, beside theirs, which is ``smoothed`` over the batches, and without the optimiser's ``state``
    moments and velocities are rebuilt from :data:`SETTLING` batches at weights that stay. A loss is ``None`` where it
    is not finite. Nothing is written into the run's folder.
    """
    with branching(run, checkpoint, plan, dataset, device) as session:
        total, seed = len(session.train), session.config.training.seed
        first = FIRST_BRANCH_EPOCH + PASSES_APART * plan.order
        if plan.window < total:
            session.train = session.train.rows(random_rows(seed, first, total, plan.window))
        passes = math.ceil(plan.window / len(session.train))
        if state is not None:
            # A copy: the optimiser would go on in the tensors that it is given, and the next branch begin there.
            session.optimizer.load_state_dict(copy.deepcopy(dict(state)))
        else:
            _settle(session, Position(epoch=first + PASSES_APART // 2))
        at = Position(epoch=first)
        while at.epoch < first + passes:
            at = one_update(session, at)
        losses = {"loss": session.evaluate(seen).loss, "smoothed": smoothed(torch.stack(session.sums.losses).tolist())}
    finite = {name: value if math.isfinite(value) else None for name, value in losses.items()}
    return {"updates": at.update, "examples": at.examples, **finite}


def smoothed(losses: Sequence[float], newest: float = NEWEST) -> float:
    """Return the moving average at the last batch: ``s_1 = l_1``, ``s_t = newest l_t + (1 - newest) s_(t-1)``.

    >>> smoothed([4.0, 2.0, 1.0])
    2.0
    """
    return reduce(lambda mean, loss: newest * loss + (1 - newest) * mean, losses)


def _settle(session: Session, at: Position) -> None:
    """Rebuild the state of an optimiser that has any: steps of rate 0, at which no weight moves."""
    training = session.config.training
    if training.optimizer == "sgd":
        return
    tokens = training.batch_size * session.dataset.predictions_per_example
    for _ in itertools.repeat(None, SETTLING):
        size = min(training.batch_size, len(session.train) - at.seen)
        forward_backward(session, next_batch(session, at, size))
        set_rates(session.optimizer, training, 0.0, tokens)
        session.optimizer.step()
        at = at.after(size, len(session.train))
