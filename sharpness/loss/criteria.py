"""Losses by spec, and what a model's own loss averages over."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Mapping
from functools import partial
from typing import Any

from torch import Tensor
from torch.nn import functional as F

from sharpness.data.batches import IGNORED, Batch, targets_of
from sharpness.errors import InputError, unknown_name
from sharpness.spec import parse_spec
from sharpness.users_code import import_object, users_own

Criterion = Callable[[Any, Any], Tensor]

LOSSES: dict[str, tuple[str, Criterion | None]] = {
    "cross_entropy": ("mean cross-entropy of class numbers, in nats", F.cross_entropy),
    "mse": ("mean squared error over all entries", F.mse_loss),
    "model": ("the model's own: model(**batch).loss, weighted by the labels it counts", None),
}


def load_loss(text: str | None, batch: Batch) -> tuple[str, Criterion | None]:
    """Return name and criterion of a spec, ``None`` for the model's own loss; without a spec what suits the data.

    Dict batches with labels suit the model's own loss, class numbers cross-entropy, other numbers squared errors. A
    criterion of the user's, ``package.module:function``, is called as ``criterion(output, targets)`` and returns a
    mean. Raises :class:`InputError` for an unknown name.

    >>> import torch
    >>> load_loss(None, (torch.zeros(2, 3), torch.tensor([0, 1])))[0]
    'cross_entropy'
    """
    text = text or default_loss(batch)
    spec = parse_spec(text, ())
    if spec.importable:
        criterion = import_object(spec.name, "a loss")
        return text, _bound(criterion, text, spec.options)
    if spec.name not in LOSSES:
        raise unknown_name("loss", spec.name, [*LOSSES, "package.module:function"])
    spec.checked(())
    criterion = LOSSES[spec.name][1]
    if criterion is None and not isinstance(batch, Mapping):
        raise InputError(f"expected batches that are dicts for --loss model, got pairs: use one of {', '.join(LOSSES)}")
    return spec.name, criterion


def default_loss(batch: Batch) -> str:
    """Return the name of the loss that suits a batch."""
    targets = targets_of(batch)
    if isinstance(batch, Mapping):
        return "model"
    return "cross_entropy" if isinstance(targets, Tensor) and not targets.is_floating_point() else "mse"


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


def shifted_count(batch: Batch) -> float:
    """Return the number of labels that count where each is predicted from those before it: the first has no place.

    >>> import torch
    >>> shifted_count({"labels": torch.tensor([[5, 6, -100], [7, 8, 9]])})
    3.0
    """
    return float((targets_of(batch)[:, 1:] != IGNORED).sum())
