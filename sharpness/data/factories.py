"""Data that a function of the user's makes, ``package.module:factory``: used as they are."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from typing import Any

import torch
from torch import Tensor
from torch.utils.data import Dataset, IterableDataset, default_collate

from sharpness.config.spec import Spec
from sharpness.data.batches import Batch, attributes_of, batch_length, is_example_list, split, taken, targets_of
from sharpness.data.dataset import Examples
from sharpness.data.digests import batch_sha256
from sharpness.data.still import cannot_move, refuse_loader, refuse_moving
from sharpness.data.user_data import DataRequest, Loaded, count_classes
from sharpness.errors import InputError
from sharpness.machine.random_states import random_states_kept
from sharpness.machine.users_code import import_object, users_own


def load_from_factory(spec: Spec, request: DataRequest) -> Loaded:
    """Call ``factory(**options)`` and take what it returns.

    A pair of tensors (inputs, targets), a longer tuple, a dict of tensors and a map-style dataset, whose items are read
    in order, are cut into batches here; a loader or any other iterable of batches keeps its batches. Items and batches
    are read twice and kept; with the request's ``freeze`` once. Raises :class:`InputError` for data that change between
    the two, and for anything else.
    """
    factory = import_object(spec.name, "data")
    if not callable(factory):
        raise InputError(f"{spec.text}: expected a function that returns data, got {type(factory).__name__}")
    with users_own(spec.text, "options that the factory takes", "check the name and its options"):
        made = factory(**spec.options)
    if isinstance(made, tuple | list) and len(made) == 2 and all(isinstance(part, Tensor) for part in made):
        return _pair(spec, request, *made)
    if isinstance(made, Mapping) or (isinstance(made, tuple | list) and made and isinstance(made[-1], Tensor)):
        return _one_batch(spec, request, made)
    if isinstance(made, IterableDataset):
        raise InputError(
            f"{spec.text}: expected a dataset with numbered items, got an iterable one: return a DataLoader of it"
        )
    if isinstance(made, Dataset):
        return _dataset(spec, request, made)
    if isinstance(made, Iterable):
        return _own_batches(spec, request, _read(spec, made, request.freeze))
    raise InputError(
        f"{spec.text}: expected a dataset, a loader, batches or tensors, got {type(made).__name__}: return one of these"
    )


def _pair(spec: Spec, request: DataRequest, inputs: Tensor, targets: Tensor) -> Loaded:
    try:
        examples = Examples(inputs, targets)
    except InputError as error:
        raise InputError(f"{spec.text}: {error}") from error
    return Loaded(request.drawn(examples), len(examples), count_classes(targets, spec.text))


def _read(spec: Spec, batches: Iterable[Batch], freeze: bool) -> list[Batch]:
    """Return the batches of one pass, after another one that found the same unless ``freeze``."""
    cpu = torch.device("cpu")
    with random_states_kept(cpu):
        if freeze or cannot_move(batches):
            return list(batches)
        try:
            refuse_loader(batches)
            first = list(batches)
            refuse_moving(batches, [batch_sha256(batch) for batch in first], cpu)
        except InputError as error:
            raise InputError(f"{spec.text}: {error}") from error
    return first


def _one_batch(spec: Spec, request: DataRequest, batch: Batch) -> Loaded:
    _require_batch(spec, batch)
    total = batch_length(batch)
    rows = request.rows(total)
    drawn = batch if len(rows) == total else taken(batch, rows.tolist())
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
        batches = _read(spec, _Collated(dataset, groups), request.freeze)
    except (RuntimeError, TypeError) as error:
        problem = " ".join(str(error).split())[:160]
        raise InputError(
            f"{spec.text}: expected items of one form and shape, got items that cannot be stacked ({problem}): "
            "return a DataLoader with a collate_fn"
        ) from error
    for batch in batches:
        _require_batch(spec, batch)
    note = "items read once and kept, as asked" if request.freeze else "items read and kept"
    return Loaded(_pairs(batches), total, _classes(spec, batches), (note,))


class _Collated:
    """The items of a dataset in groups that are stacked, read anew at every pass."""

    def __init__(self, dataset: Dataset[Any], groups: list[list[int]]) -> None:
        self.dataset, self.groups = dataset, groups

    def __iter__(self) -> Iterator[Batch]:
        return (default_collate([self.dataset[row] for row in group]) for group in self.groups)


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
            parts.append(batch if len(rows) == length else taken(batch, rows.tolist()))
        start += length
    notes = (f"{len(batches)} batches of the factory's own, read and kept",)
    return Loaded(_pairs(parts), total, _classes(spec, batches), notes, own_batches=True)


def _pairs(batches: list[Batch]) -> list[Batch]:
    """Return batches with pairs as tuples, which stackers and loaders return as lists."""
    return [tuple(batch) if isinstance(batch, list) and not is_example_list(batch) else batch for batch in batches]


def _require_batch(spec: Spec, batch: Batch) -> None:
    several = is_example_list(batch) or (isinstance(batch, tuple | list) and len(batch) >= 2)
    if not several and not isinstance(batch, Mapping) and not attributes_of(batch):
        raise InputError(
            f"{spec.text}: expected batches that are pairs (inputs, targets), longer tuples, dicts of tensors, lists "
            f"of dicts or batches of graphs, got {type(batch).__name__}: return such batches"
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
