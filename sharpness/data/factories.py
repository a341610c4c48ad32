"""Data that a function of the user's makes, ``package.module:factory``: used as they are."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

import torch
from torch import Tensor
from torch.utils.data import Dataset, IterableDataset, default_collate

from sharpness.data.batches import Batch, batch_length, split, targets_of
from sharpness.data.dataset import Examples
from sharpness.data.user_data import DataRequest, Loaded, count_classes
from sharpness.errors import InputError
from sharpness.spec import Spec
from sharpness.users_code import import_object, users_own


def load_from_factory(spec: Spec, request: DataRequest) -> Loaded:
    """Call ``factory(**options)`` and take what it returns.

    A pair of tensors (inputs, targets), a dict of tensors and a map-style dataset, whose items are read once in order,
    are cut into batches here; a loader or any other iterable of batches is read once and keeps its batches. Raises
    :class:`InputError` for anything else.
    """
    factory = import_object(spec.name, "data")
    if not callable(factory):
        raise InputError(f"{spec.text}: expected a function that returns data, got {type(factory).__name__}")
    with users_own(spec.text, "options that the factory takes", "check the name and its options"):
        made = factory(**spec.options)
    if isinstance(made, tuple | list) and len(made) == 2 and all(isinstance(part, Tensor) for part in made):
        return _pair(spec, request, *made)
    if isinstance(made, Mapping):
        return _mapping(spec, request, made)
    if isinstance(made, IterableDataset):
        raise InputError(
            f"{spec.text}: expected a dataset with numbered items, got an iterable one: return a DataLoader of it"
        )
    if isinstance(made, Dataset):
        return _dataset(spec, request, made)
    if isinstance(made, Iterable):
        return _own_batches(spec, request, list(made))
    raise InputError(
        f"{spec.text}: expected a dataset, a loader, batches or tensors, got {type(made).__name__}: return one of these"
    )


def rows_of(batch: Batch, rows: Tensor) -> Batch:
    """Return some of the examples of a batch; what is not one row per example goes along.

    >>> rows_of({"x": torch.arange(4.0), "scale": 2}, torch.tensor([0, 3]))
    {'x': tensor([0., 3.]), 'scale': 2}
    """
    length = batch_length(batch)

    def chosen(part: Any) -> Any:
        if isinstance(part, Tensor):
            return part[rows.to(part.device)] if part.ndim and len(part) == length else part
        if isinstance(part, Mapping):
            return {key: chosen(item) for key, item in part.items()}
        if isinstance(part, list | tuple):
            items = [chosen(item) for item in part]
            return type(part)(*items) if hasattr(part, "_fields") else type(part)(items)
        return part

    return chosen(batch)


def _pair(spec: Spec, request: DataRequest, inputs: Tensor, targets: Tensor) -> Loaded:
    try:
        examples = Examples(inputs, targets)
    except InputError as error:
        raise InputError(f"{spec.text}: {error}") from error
    return Loaded(request.drawn(examples), len(examples), count_classes(targets, spec.text))


def _mapping(spec: Spec, request: DataRequest, batch: Mapping[str, Tensor]) -> Loaded:
    _require_batch(spec, batch)
    total = batch_length(batch)
    rows = request.rows(total)
    drawn = batch if len(rows) == total else rows_of(batch, rows)
    return Loaded(split(drawn, request.batch_size), total, _classes(spec, [batch]))


def _dataset(spec: Spec, request: DataRequest, dataset: Dataset[Any]) -> Loaded:
    """Read the items drawn, once: a dataset that changes its items at random gives the loss fixed ones so."""
    try:
        total = len(dataset)  # pyright: ignore[reportArgumentType]
    except (TypeError, NotImplementedError) as error:
        raise InputError(f"{spec.text}: expected a dataset that has a length, got one without: add __len__") from error
    rows = request.rows(total).tolist()
    groups = [rows[start : start + request.batch_size] for start in range(0, len(rows), request.batch_size)]
    try:
        batches = [default_collate([dataset[row] for row in group]) for group in groups]
    except (RuntimeError, TypeError) as error:
        problem = " ".join(str(error).split())[:160]
        raise InputError(
            f"{spec.text}: expected items of one form and shape, got items that cannot be stacked ({problem}): "
            "return a DataLoader with a collate_fn"
        ) from error
    for batch in batches:
        _require_batch(spec, batch)
    return Loaded(_pairs(batches), total, _classes(spec, batches), ("items read once and kept",))


def _own_batches(spec: Spec, request: DataRequest, batches: list[Batch]) -> Loaded:
    """Keep the batches given, and of a drawn subset those that have some of it."""
    for batch in batches:
        _require_batch(spec, batch)
    lengths = [batch_length(batch) for batch in batches]
    total = sum(lengths)
    chosen = request.rows(total)
    parts, start = list[Batch](), 0
    for batch, length in zip(batches, lengths, strict=True):
        rows = chosen[(chosen >= start) & (chosen < start + length)] - start
        if len(rows):
            parts.append(batch if len(rows) == length else rows_of(batch, rows))
        start += length
    notes = (f"{len(batches)} batches of the factory's own, read once and kept",)
    return Loaded(_pairs(parts), total, _classes(spec, batches), notes, own_batches=True)


def _pairs(batches: list[Batch]) -> list[Batch]:
    """Return batches with pairs as tuples, which stackers and loaders return as lists."""
    return [batch if isinstance(batch, Mapping) else tuple(batch) for batch in batches]


def _require_batch(spec: Spec, batch: Batch) -> None:
    if not isinstance(batch, Mapping) and not (isinstance(batch, tuple | list) and len(batch) == 2):
        raise InputError(
            f"{spec.text}: expected batches that are pairs (inputs, targets) or dicts of tensors, "
            f"got {type(batch).__name__}: return such batches"
        )
    try:
        length = batch_length(batch)
    except InputError as error:
        raise InputError(f"{spec.text}: {error}") from error
    if length == 0:
        raise InputError(f"{spec.text}: expected batches of at least one example, got an empty one: leave it out")


def _classes(spec: Spec, batches: list[Batch]) -> int | None:
    """Return the number of classes where every batch has class numbers, in a dict one for each example."""
    labels = list[Tensor]()
    for batch in batches:
        targets = targets_of(batch)
        if not isinstance(targets, Tensor) or targets.is_floating_point():
            return None
        if isinstance(batch, Mapping) and targets.ndim != 1:  # tokens, of which a language model predicts the next
            return None
        labels.append(targets.flatten())
    return count_classes(torch.cat(labels), spec.text)
