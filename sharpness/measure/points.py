"""The other points and losses of a request: checkpoints on lines and planes, and the start of training."""

from __future__ import annotations

import copy
import math
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from torch.nn.modules.batchnorm import _BatchNorm

from sharpness.checkpoints import load_into, read_checkpoint
from sharpness.checkpoints.formats import recognise
from sharpness.checkpoints.wording import shown
from sharpness.data import random_subset
from sharpness.data.batches import Batch, cast
from sharpness.data.sources import load_data, load_test_data
from sharpness.errors import InputError
from sharpness.loss import Loss
from sharpness.loss.eval_mode import batch_norms
from sharpness.machine.environment import derived_seed
from sharpness.measure.adapter_folder import check_same_adapter, folder_of_model
from sharpness.measure.guards import check_before_probing
from sharpness.measure.request import ProbeRequest, Request
from sharpness.measure.subject import Point, SplitLosses, Subject
from sharpness.measure.user_checkpoint import UserCheckpoint, batch_size_of, named_inputs, run_seed, weights_file
from sharpness.runs import RunFolder
from sharpness.runs.networks import evaluation_batches, load_run_data
from sharpness.vectors import flatten

SAME_LOSS = 1e-4
"""The relative difference that rounding may make between two evaluations of one loss in batches of other sizes."""


def with_far_end(request: Request, first: UserCheckpoint, second: UserCheckpoint, name: str) -> Subject:
    """Return the first subject with the second checkpoint at the far end of the line between them.

    Raises :class:`InputError` where the two have other parameters, and as soon as the far end is asked for where more
    than these differs: no line in these parameters then ends at the second checkpoint.
    """
    ours, theirs = first.subject.loss, second.subject.loss
    if ours.layout != theirs.layout:
        raise InputError(
            f"expected two checkpoints of one architecture, got other parameters in {second.path}: the table shows them"
        )
    if ours.weight_decay != theirs.weight_decay:
        raise InputError(
            f"expected one loss for both checkpoints, got a weight_decay of {ours.weight_decay:g} and of "
            f"{theirs.weight_decay:g}: give --weight-decay as a number"
        )
    point = Point(
        weights=theirs.weights,
        name=name,
        checkpoint_sha256=second.subject.checkpoint_sha256,
        details={"other_checkpoint": str(second.path)},
    )

    def far_end() -> Point:
        check_same_adapter(request, first.path, first.model, second.path)
        _check_held(ours, theirs.tensors(theirs.weights), second.path)
        _check_same_loss(first, second)
        return point

    return replace(first.subject, points=(far_end,), split_losses=lambda: split_losses_of(request, first))


def _check_held(loss: Loss, tensors: Mapping[str, Tensor], path: Path) -> None:
    """Raise :class:`InputError` where a checkpoint has other tensors than those that the loss holds fixed.

    BatchNorm's own have a rule of theirs (:func:`split_losses_of`), and integers that stand alone count updates.
    """
    norms = {name: module for name, module in loss.model.named_modules() if isinstance(module, _BatchNorm)}
    free = {f"{name}.{own}".lstrip(".") for name, module in norms.items() for own, _ in module.named_buffers()}
    ours = loss.tensors(loss.weights)

    def same(name: str) -> bool:
        held, there = ours.get(name), tensors.get(name)
        if held is None or there is None:
            return False
        counts = held.ndim == 0 and not held.is_floating_point()
        return counts or torch.equal(cast(there.detach(), loss.device, loss.dtype), held)

    other = [name for name in {**ours, **tensors} if name not in {*loss.layout.names, *free} and not same(name)]
    if other:
        raise InputError(
            f"expected checkpoints that differ in the measured parameters alone, got another {shown(other)} in {path}: "
            "measure all parameters that differ, or each checkpoint by itself"
        )


def _check_same_loss(first: UserCheckpoint, second: UserCheckpoint) -> None:
    """Raise :class:`InputError` where the first checkpoint's network and criterion give the second another loss.

    Both are evaluated with the second's own statistics of BatchNorm.
    """
    ours, theirs = first.subject.loss, second.subject.loss
    there = ours.with_tensors(theirs.tensors(theirs.weights)).value(theirs.weights)
    own = second.checked.evaluation.loss
    if math.isclose(there, own, rel_tol=SAME_LOSS):
        return
    options = {
        "--model": (first.model.spec, second.model.spec),
        "--loss": (first.loss_name, second.loss_name),
        "--norm": (ours.norm, theirs.norm),
        "--batch-size": (ours.data.batch_sizes[0], theirs.data.batch_sizes[0]),
    }
    differing = [f"{name} ({a} and {b})" for name, (a, b) in options.items() if a != b] or ["what their networks do"]
    raise InputError(
        f"expected one loss for both checkpoints, got {there:.6g} for {second.path} by that of the first and {own:.6g} "
        f"by its own: they differ in {', '.join(differing)}, so give what is right for both, or measure each by itself"
    )


def with_points(request: Request, first: UserCheckpoint, name: str, files: Sequence[tuple[str, Path]]) -> Subject:
    """Return the first subject under its name, with further checkpoints of its network by name and file, read at once.

    Raises what reading and matching a checkpoint raises, and :class:`InputError` where more differs than the parameters
    of its loss.
    """
    loss = first.subject.loss
    for _, path in files:
        check_same_adapter(request, first.path, first.model, path)
    points = [point_of(request, path, loss, other) for other, path in files]
    loads: list[Callable[[], Point]] = [lambda p=point: p for point in points]
    losses = partial(split_losses_of, request, first)
    return replace(first.subject, name=name, points=tuple(loads), split_losses=losses)


def point_of(request: Request, path: Path, loss: Loss, name: str = "", *, start: bool = False) -> Point:
    """Return the parameters of a loss as another file of weights for the same network has them, shape ``(n,)``.

    The request's choice between several sets of weights in a file holds for this file too, and what the loss holds
    fixed must be the same in it. Neither is so of the ``start`` of training, to which only distances are taken.
    """
    model = copy.deepcopy(loss.model)
    file = weights_file(path, RunFolder.open(path) if recognise(path) == "run folder" else None)
    checkpoint = read_checkpoint(file, request.allow_global)
    choice: dict[str, Any] = {} if start else {"key": request.key, "ema": request.ema}
    load_into(model, checkpoint, strict=request.strict, **choice)
    if not start:
        _check_held(loss, dict([*model.named_parameters(), *model.named_buffers()]), path)
    return Point(
        weights=flatten(model, loss.layout),
        name=name,
        checkpoint_sha256=checkpoint.sha256,
        details={"other_checkpoint": str(path)},
    )


def with_start(request: ProbeRequest, checkpoint: UserCheckpoint) -> UserCheckpoint:
    """Return the checkpoint with the weights where training started, of a named file or a run folder's own.

    A file that was named is read at once.
    """
    loss, run = checkpoint.subject.loss, checkpoint.run
    if request.start is not None:
        start = _renamed(point_of(request, request.start, loss, start=True))
        return replace(checkpoint, subject=replace(checkpoint.subject, start=lambda: start))
    if run is None:
        return checkpoint
    file = run.path / "x0.safetensors"
    subject = replace(checkpoint.subject, start=lambda: _renamed(point_of(request, file, loss, start=True)))
    return replace(checkpoint, subject=subject)


def with_trained(request: ProbeRequest, checkpoint: UserCheckpoint) -> UserCheckpoint:
    """Return the checkpoint with the loss over the data of ``trained_on``, whose gradient some probes go along."""
    if request.trained_on is None:
        return checkpoint
    ours = checkpoint.subject.loss
    data = load_data(
        request.trained_on,
        batch_size=batch_size_of(request, checkpoint.run),
        examples=request.examples,
        seed=request.seed or 0,
        data_dir=request.data_dir,
        model=folder_of_model(checkpoint.model.spec),
    )
    trained, _ = check_before_probing(lambda: ours.with_data(named_inputs(ours.model, data.batches)))
    return replace(checkpoint, subject=replace(checkpoint.subject, trained=lambda: trained))


def _renamed(point: Point) -> Point:
    """Return a point as the start of training: its file and hash under names of their own, as it is no far end."""
    facts = {
        "start_checkpoint": point.details["other_checkpoint"],
        "start_checkpoint_sha256": point.checkpoint_sha256,
    }
    return Point(weights=point.weights, name=point.name, details=facts)


def split_losses_of(request: Request, checkpoint: UserCheckpoint) -> SplitLosses:
    """Return the losses on lines and planes, over the data and over the test split that belongs to them.

    Running statistics, where the network has them and they are in use, are recomputed at each point: those of a
    checkpoint belong to its own weights only. An explicit ``norm='frozen'`` keeps the first checkpoint's.
    """
    ours = checkpoint.subject.loss
    moving = request.norm != "frozen" and ours.norm == "frozen" and bool(batch_norms(ours.model))
    test = _test_batches(request, checkpoint)

    def here(batches: Iterable[Batch]) -> Loss:
        if not moving:
            return ours if batches is ours.batches else ours.with_data(batches)
        options: dict[str, Any] = {"norm": "recalibrate", "calibration": ours.batches, "dtype": ours.dtype}
        options |= {"weight_decay": ours.weight_decay, **ours.stated}
        return Loss(ours.model, ours.criterion, batches, parameters=ours.selection, **options)

    loss = here(ours.batches)
    if test is None:
        return SplitLosses(loss=loss, test=None)
    test_loss = here(named_inputs(ours.model, test))
    facts = {"test_examples": test_loss.num_examples, "test_data_sha256": test_loss.data_sha256()}
    return SplitLosses(loss=loss, test=test_loss, details=facts)


def _test_batches(request: Request, checkpoint: UserCheckpoint) -> Sequence[Batch] | None:
    """Return the test split that belongs to the data, a subset of it where one of the data was asked for."""
    if checkpoint.run is not None and request.data is None:
        dataset, config = load_run_data(checkpoint.run.config(), request.data_dir), checkpoint.run.config()
        split = dataset.test
        if request.examples is not None and request.examples < len(split):
            split = random_subset(split, request.examples, derived_seed(run_seed(request, checkpoint.run), "subset"))
        return evaluation_batches(config, split)
    options: dict[str, Any] = {"batch_size": batch_size_of(request, checkpoint.run), "data_dir": request.data_dir}
    test = load_test_data(checkpoint.data.spec, examples=request.examples, seed=request.seed or 0, **options)
    return None if test is None else test.batches
