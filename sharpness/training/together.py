"""Train runs that differ only in seed, learning rate or momentum as one, each with a run folder of its own."""

from __future__ import annotations

import contextlib
import copy
import math
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor

from sharpness.config import RunConfig, differences
from sharpness.data import Dataset, normalise
from sharpness.distributed import is_distributed
from sharpness.environment import deterministic
from sharpness.errors import InputError, Terminated
from sharpness.runs import RunFolder, remove_leftovers
from sharpness.training import loop
from sharpness.training.checks import check_config
from sharpness.training.ends import Outcome, after_update, begin, close
from sharpness.training.gradients import Told, clip
from sharpness.training.position import Position
from sharpness.training.session import Session
from sharpness.training.signals import terminating
from sharpness.training.stack import Stack

MAY_DIFFER = ("training.seed", "training.learning_rate", "training.momentum")
ENDS_APART = "runs would end at different updates"
ALONE: Mapping[str, tuple[Callable[[RunConfig], bool], str]] = {
    "training.compile": (lambda c: c.training.compile, "what is compiled is one network"),
    "training.autocast": (lambda c: c.training.autocast != "none", "runs would be equal to its 8 bits only"),
    "training.tf32": (lambda c: c.training.tf32, "runs would be equal to its 11 bits only"),
    "training.accumulate": (lambda c: c.training.accumulate > 1, "it saves the memory that this takes"),
    "training.sam_rho": (lambda c: c.training.sam_rho is not None, "its second gradient is taken run by run"),
    "training.proximal": (lambda c: c.training.proximal is not None, "its inner steps are taken run by run"),
    "model.synchronised": (lambda c: c.model.synchronised, "it is for several processes"),
    "batch.kind": (lambda c: c.batch.kind == "noise_scale", "batches would be of different sizes"),
    "budget.train_loss": (lambda c: c.budget.train_loss is not None, ENDS_APART),
    "budget.error": (lambda c: c.budget.error is not None, ENDS_APART),
    "budget.patience": (lambda c: c.budget.patience is not None, ENDS_APART),
}
"""What cannot be trained together, and why; the network must also draw no random numbers (dropout)."""


def group_together(configs: Sequence[RunConfig]) -> list[list[RunConfig]]:
    """Put configs that ask for it (``vectorised``) and differ only in what may differ into one group, others alone.

    Groups are in the order of their first configs, and so are the configs in each.

    >>> from sharpness.config import TrainingConfig
    >>> seeds = [RunConfig(training=TrainingConfig(seed=seed, vectorised=True)) for seed in (0, 1)]
    >>> [len(group) for group in group_together([seeds[0], RunConfig(), seeds[1]])]
    [2, 1]
    """
    groups: dict[object, list[RunConfig]] = {}
    for number, config in enumerate(configs):
        groups.setdefault(_shared(config) if config.training.vectorised else number, []).append(config)
    return list(groups.values())


def _shared(config: RunConfig) -> RunConfig:
    """Return what the configs of a group have in common."""
    return replace(config, training=replace(config.training, seed=0, learning_rate=1.0, momentum=0.0))


def check_together(configs: Sequence[RunConfig]) -> None:
    """Raise :class:`InputError` for configs that cannot be trained together, naming fields and reasons."""
    for config in configs:
        check_config(config)
    if not configs or not all(config.training.vectorised for config in configs):
        raise InputError("expected runs with training.vectorised = true, got others: set it, or train them one by one")
    first = configs[0]
    for number, config in enumerate(configs):
        if changed := differences(_shared(first), _shared(config)):
            raise InputError(
                f"expected runs that differ in {', '.join(MAY_DIFFER)} only, got {'; '.join(changed)}: group_together "
                "puts them into groups"
            )
        if config in configs[:number]:
            raise InputError(f"expected different runs, got {config.run_id} twice: leave one out")
    if len(configs) > 1 and (alone := [f"{name} ({why})" for name, (used, why) in ALONE.items() if used(first)]):
        raise InputError(
            f"expected what can be trained together, got {', '.join(alone)}: leave it out, or set vectorised = false"
        )


def train_together(
    configs: Sequence[RunConfig],
    dataset: Dataset,
    runs: Sequence[RunFolder],
    device: torch.device,
    progress: loop.Progress | None = None,
) -> list[dict[str, Any]]:
    """Train each config in the run folder beside it and return the manifests.

    Each run has its own weights, order and variation of examples, learning rate, momentum and optimiser, and ends equal
    to its single run (:func:`sharpness.training.train`) to rounding, which training may amplify as it goes on; adam
    moves weights whose gradient is rounding errors alone, such as biases before BatchNorm, as these say. One config
    alone is trained as a single run. Memory is that of all the runs at once; where one run's arithmetic fills the
    processor, nothing is gained.

    A run that diverges is closed as such and disturbs no other. Finished runs are skipped. A stopped call that is made
    again ends with the same bits as one that was not stopped, whenever the stop came. ``seconds`` are those of all the
    runs. SIGTERM and ``progress`` are as for ``train``. Raises :class:`InputError` as :func:`check_together` does, for
    several processes, and for networks that ``torch.func.vmap`` cannot map or that draw random numbers.
    """
    check_together(configs)
    if len(runs) != len(configs):
        raise InputError(f"expected a run folder for each of {len(configs)} configs, got {len(runs)}: give as many")
    if len(configs) == 1:
        return [loop.train(configs[0], dataset, runs[0], device, progress)]
    if is_distributed():
        raise InputError("expected one process to train runs together, got several: start one without torchrun")
    with contextlib.ExitStack() as held:
        for run in runs:
            held.enter_context(run.lock())
        held.enter_context(deterministic(device))
        todo = [(config, run) for config, run in zip(configs, runs, strict=True) if run.manifest() is None]
        if todo:
            data = dataset.to(device)
            _train([Session.open(config, data, run, device) for config, run in todo], device, progress)
        for run in runs:
            remove_leftovers(run)
        return [manifest for run in runs if (manifest := run.manifest()) is not None]


@dataclass
class _Member:
    """One of the runs: where it stands, and how it ended if it did."""

    session: Session
    at: Position
    began: float
    outcome: Outcome | None = None


def _train(sessions: Sequence[Session], device: torch.device, progress: loop.Progress | None) -> None:
    _check_network(sessions[0])
    places = _slots([begin(session, session.restore()) for session in sessions])
    now = time.perf_counter()
    going = [_Member(session, at, now - at.seconds) for session, at in zip(sessions, places, strict=True)]
    stack = Stack({member.at.slot: member.session.model for member in going}, places[0].slots)
    saved = _save(going)  # from the first, so that all know their slots
    with terminating() as asked_to_stop:
        while going:
            epoch = min(member.at.epoch for member in going)
            _update(stack, going)
            ended = [member for member in going if member.outcome is not None]
            going = [member for member in going if member.outcome is None]
            stop = asked_to_stop()
            if stop or ended or time.perf_counter() - saved > loop.RESUME_SECONDS:
                saved = _save(going)
            for member in ended:
                _close(member, device)
            if going and stop:
                raise Terminated(
                    f"{len(going)} runs stopped after update {min(member.at.update for member in going)}; the same "
                    "command goes on there"
                )
            if progress is not None and all(member.at.epoch > epoch for member in going):
                progress(epoch, math.ceil(sessions[0].total_epochs))


def _slots(places: Sequence[Position]) -> list[Position]:
    """Give every run a slot, that of its saved state where it has one.

    Other slots or another number of them could mean other kernels and other alignments, and so other bits.
    """
    slots = max(len(places), *(at.slots for at in places))
    kept = {at.slot: number for number, at in reversed(list(enumerate(places))) if at.slots > 1}
    free = iter(slot for slot in range(slots) if slot not in kept)
    return [
        replace(at, slot=at.slot if kept.get(at.slot) == number else next(free), slots=slots)
        for number, at in enumerate(places)
    ]


def _check_network(session: Session) -> None:
    """Refuse a network that cannot be mapped over, before anything is written."""
    stack = Stack({0: copy.deepcopy(session.model)}, 1)
    size = min(session.config.training.batch_size, len(session.train))
    batch = session.train.first(size)
    dtype = getattr(torch, session.config.training.dtype)
    try:
        stack.backward(normalise(batch.inputs, dtype).unsqueeze(0), batch.targets.unsqueeze(0), [0])
    except RuntimeError as error:
        reason = " ".join(str(error).split())[:200]
        raise InputError(
            f"expected a network that torch.func.vmap can map to train runs of {session.config.model.name} together, "
            f"got: {reason}: set vectorised = false"
        ) from error


def _update(stack: Stack, going: Sequence[_Member]) -> None:
    """Make one update of all the runs, or where a stop came between their saves, of those that are behind."""
    first = min(member.at.update for member in going)
    due = [member for member in going if member.at.update == first]
    sizes = [loop.prepare(member.session, member.at) for member in due]
    training = due[0].session.config.training
    images, classes = _batches(due, sizes[0])
    losses, right = stack.backward(images, classes, [member.at.slot for member in due], training.label_smoothing)
    for member, size in zip(due, sizes, strict=True):
        session, before = member.session, member.at
        clip(session.optimizer.param_groups[0]["params"], session.config.training)
        session.optimizer.step()
        session.count(Told(losses[before.slot], right[before.slot]), size, 1.0)
        at = replace(before.after(size, len(session.train)), seconds=time.perf_counter() - member.began)
        member.at, member.outcome = after_update(session, before, at, None)


def _batches(due: Sequence[_Member], size: int) -> tuple[Tensor, Tensor]:
    """Return the runs' next batches, varied, as numbers, with an axis for the slots; idle ones get another's rows."""
    at, session = due[0].at, due[0].session
    epochs = {member.at.slot: member.session.epoch_of(at.epoch) for member in due}
    idle = epochs[at.slot]
    rows = torch.stack([epochs.get(slot, idle)[0][at.seen : at.seen + size] for slot in range(at.slots)])
    images = session.train.inputs[rows]
    for slot, (_, varied) in epochs.items():
        if varied is not None:
            images[slot] = varied(images[slot], at.seen)
    return normalise(images, getattr(torch, session.config.training.dtype)), session.train.targets[rows]


def _save(members: Sequence[_Member]) -> float:
    """Save every run, and return when. A stop in between leaves some behind, and these catch up first."""
    for member in members:
        member.session.save(member.at)
    return time.perf_counter()


def _close(member: _Member, device: torch.device) -> None:
    assert member.outcome is not None  # it has ended
    facts = loop.facts(member.session, device) | {"trained_together": member.at.slots}
    close(member.session, member.at, member.outcome, facts)
