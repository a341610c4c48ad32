"""Losses by spec, and what a model's own loss averages over."""

from __future__ import annotations

import copy
import inspect
from collections.abc import Callable, Mapping
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from sharpness.config.spec import parse_spec
from sharpness.data.batches import IGNORED, Batch, cast, taken, targets_of
from sharpness.errors import InputError, unknown_name
from sharpness.loss.calls import tensor_in
from sharpness.loss.counts import ignored_label
from sharpness.loss.square_loss import square_loss
from sharpness.machine.users_code import import_object, users_own

Criterion = Callable[[Any, Any], Tensor]

LOSSES: dict[str, tuple[str, Criterion | None]] = {
    "cross_entropy": ("mean cross-entropy of class numbers, in nats", F.cross_entropy),
    "square": ("half the squared distance from one-hot class numbers, mean over the examples", square_loss),
    "mse": ("mean squared error over all entries", F.mse_loss),
    "model": ("the model's own: model(**batch).loss, weighted by the labels it counts", None),
}


def load_loss(text: str | None, batch: Batch, of_classes: str = "cross_entropy") -> tuple[str, Criterion | None]:
    """Return name and criterion of a spec, ``None`` for the model's own loss; without a spec what suits the data.

    Dict batches with labels suit the model's own loss, class numbers the loss named ``of_classes``, other numbers
    squared errors. A
    criterion of the user's, ``package.module:function``, is called as ``criterion(output, targets)`` and returns a
    mean. Raises :class:`InputError` for an unknown name.

    >>> import torch
    >>> load_loss(None, (torch.zeros(2, 3), torch.tensor([0, 1])))[0]
    'cross_entropy'
    """
    text = text or default_loss(batch, of_classes)
    spec = parse_spec(text, ())
    if spec.importable:
        criterion = import_object(spec.name, "a loss")
        return text, _bound(criterion, text, spec.options)
    if spec.name not in LOSSES:
        raise unknown_name("loss", spec.name, [*LOSSES, "package.module:function"])
    spec.checked(())
    criterion = LOSSES[spec.name][1]
    return spec.name, criterion


def default_loss(batch: Batch, of_classes: str) -> str:
    """Return the name of the loss that suits a batch, ``of_classes`` where its targets are class numbers."""
    targets = targets_of(batch)
    if isinstance(batch, Mapping) or not isinstance(targets, Tensor):
        return "model"
    return "mse" if targets.is_floating_point() or targets.is_complex() else of_classes


def _bound(given: Any, text: str, options: Mapping[str, Any]) -> Criterion:
    """Return a function with its options; a class such as a criterion module is called with them first."""
    criterion: Any = given
    with users_own(text, "options that the loss takes", "check the name and its options"):
        if inspect.isclass(given):
            return criterion(**options)
    if not callable(given):
        raise InputError(f"{text}: expected a loss that can be called, got {type(given).__name__}: give a function")
    return partial(criterion, **options) if options else criterion


def first_label_counts(value: Callable[[Batch], float], batch: Batch) -> bool:
    """Return whether a model's own loss looks at the first label of a sequence; causal language models shift it away.

    ``value`` is that loss of a batch. Asked of the model itself, with another label in the first place: its class does
    not always tell.
    """
    labels = targets_of(batch)
    if not isinstance(labels, Tensor) or labels.ndim != 2 or labels.shape[1] < 2 or labels.is_floating_point():
        return True
    values = []
    for label in (IGNORED, 0):
        changed = labels[:1].clone()
        changed[:, 0] = label
        changed[:, -1] = 0  # at least one label counts in both
        one = {k: v[:1] if isinstance(v, Tensor) and v.ndim and len(v) == len(labels) else v for k, v in batch.items()}
        values.append(value({**one, "labels": changed}))
    return values[0] != values[1]


def copies_labels(value: Callable[[Batch], float], batch: Batch) -> bool:
    """Return whether a model's own loss asks for tokens that the model sees, where a batch's labels are its inputs.

    ``value`` is that loss of a batch. Asked of the model itself, with another token in the place of a label: a model
    that predicts it from others gives the same loss.
    """
    places = (batch["labels"][:, 1:] != IGNORED).nonzero()
    if not len(places) or not first_label_counts(value, batch):
        return False
    row, place = int(places[0, 0]), int(places[0, 1]) + 1
    one = taken(batch, [row])
    labels = torch.full_like(one["labels"], IGNORED)
    labels[0, place] = one["labels"][0, place]
    tokens = one["input_ids"].clone()
    tokens[0, place] = int(tokens[0, place] == 0)
    return value({**one, "labels": labels}) != value({**one, "labels": labels, "input_ids": tokens})


def cast_criterion(criterion: Any, device: torch.device, dtype: torch.dtype) -> Any:
    """Return a criterion whose own tensors, such as class weights, have the device and dtype of the outputs."""
    if isinstance(criterion, nn.Module):
        return copy.deepcopy(criterion).to(device=device, dtype=dtype)
    if isinstance(criterion, partial):
        return partial(criterion.func, *criterion.args, **cast(criterion.keywords, device, dtype))
    return criterion


def correct_predictions(criterion: Any, output: Any, batch: Batch) -> tuple[int, int]:
    """Return how many class predictions are right and how many there are; (0, 0) if this is no classifier.

    Logits are N x classes for N targets; those of a criterion of torch's may be N x classes x ... for N x ... targets,
    as for each byte of a text.
    """
    targets, logits = targets_of(batch), tensor_in(output)
    if not isinstance(targets, Tensor) or targets.is_floating_point() or targets.is_complex() or not targets.ndim:
        return 0, 0
    if logits is None or logits.is_complex() or logits.ndim < 2 or logits.shape[1] < 2:
        return 0, 0
    if (len(logits), *logits.shape[2:]) != targets.shape or (targets.ndim > 1 and not is_known(criterion)):
        return 0, 0
    judged = targets != ignored_label(criterion)
    return int((logits.argmax(1) == targets)[judged].sum()), int(judged.sum())


def is_known(criterion: Any) -> bool:
    """Return whether this is one of torch's or this package's criteria, which take one tensor of outputs.

    >>> is_known(nn.MSELoss()), is_known(partial(F.cross_entropy)), is_known(lambda output, target: output)
    (True, True, False)
    """
    kind = criterion.func if isinstance(criterion, partial) else criterion
    home = getattr(kind if inspect.isroutine(kind) else type(kind), "__module__", None) or ""
    return kind is square_loss or home.split(".")[0] == "torch"
