"""Batches of any form: pairs, several inputs, dicts, lists of examples, graphs; their length, parts and casts."""

from __future__ import annotations

import copy
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import fields, is_dataclass, replace
from typing import Any

import torch
from torch import Tensor, nn

from sharpness.errors import InputError

Batch = Any
IGNORED = -100
"""The label that PyTorch's cross-entropy and Hugging Face's losses leave out of their means."""


def batch_length(batch: Batch) -> int:
    """Return the number of examples: graphs of a graph batch, entries of a list of examples, of the targets, of inputs.

    >>> batch_length(((torch.zeros(5, 2), torch.zeros(5, 3)), torch.zeros(5)))
    5
    >>> batch_length(([torch.zeros(3, 8, 8), torch.zeros(3, 6, 6)], [{"boxes": torch.zeros(1, 4)}, {}]))
    2
    """
    if isinstance(graphs := getattr(batch, "num_graphs", None), int):
        return graphs
    if is_example_list(batch):
        return len(batch)
    targets = targets_of(batch)
    if is_example_list(targets) or (isinstance(targets, Tensor) and targets.ndim):
        return len(targets)
    for _, tensor in named_tensors(batch):
        if tensor.ndim:
            return len(tensor)
    raise InputError(f"expected a batch with a tensor of examples, got {type(batch).__name__}: pass (inputs, targets)")


def is_example_list(thing: Any) -> bool:
    """Return whether this is a list with one mapping per example, as detectors take their boxes."""
    return isinstance(thing, list | tuple) and len(thing) > 0 and all(isinstance(item, Mapping) for item in thing)


def targets_of(batch: Batch) -> Any:
    """Return the last entry of a pair or longer tuple, the ``labels`` of a dict, ``y`` or ``labels`` of a graph batch.

    It is ``None`` where there are none.
    """
    if isinstance(batch, Mapping):
        return batch.get("labels")
    if isinstance(batch, list | tuple):
        return batch[-1] if len(batch) > 1 and not is_example_list(batch) else None
    return next((value for name in ("y", "labels") if (value := getattr(batch, name, None)) is not None), None)


def named_tensors(thing: Any, name: str = "") -> Iterator[tuple[str, Tensor]]:
    """Yield every tensor of a nested structure with the path to it, mappings in the order of their own keys."""
    if isinstance(thing, Tensor):
        yield name, thing
    elif isinstance(thing, Mapping | list | tuple):
        items = thing.items() if isinstance(thing, Mapping) else enumerate(thing)
        for key, item in items:
            yield from named_tensors(item, f"{name}/{key}")
    else:
        for key, item in attributes_of(thing).items():
            yield from named_tensors(item, f"{name}.{key}")


def attributes_of(thing: Any) -> dict[str, Any]:
    """Return the attributes of a dataclass or of a plain object that hold tensors, such as a batch of graphs; or none.

    >>> from types import SimpleNamespace
    >>> attributes_of(SimpleNamespace(x=torch.zeros(1), name="a"))
    {'x': tensor([0.])}
    """
    if isinstance(thing, type | nn.Module | Tensor | Mapping | list | tuple):
        return {}
    if is_dataclass(thing):
        found = {item.name: getattr(thing, item.name) for item in fields(thing)}
    elif callable(to_dict := getattr(thing, "to_dict", None)):  # PyTorch Geometric keeps its attributes in a store
        found = to_dict()
    else:
        found = getattr(thing, "__dict__", {})
    if not isinstance(found, Mapping):
        return {}
    return {key: value for key, value in found.items() if next(iter(named_tensors(value)), None) is not None}


def cast(thing: Any, device: torch.device, dtype: torch.dtype) -> Any:
    """Move every tensor of a batch to a device, floating ones to a dtype, complex ones to the complex one of its size.

    >>> cast((torch.zeros(2), torch.tensor([1, 0])), torch.device("cpu"), torch.float64)
    (tensor([0., 0.], dtype=torch.float64), tensor([1, 0]))
    """
    if not isinstance(thing, Tensor):
        return rebuilt(thing, lambda item: cast(item, device, dtype))
    if thing.is_complex():
        moved = thing.to(device, dtype.to_complex())
    else:
        moved = thing.to(device, dtype) if thing.is_floating_point() else thing.to(device)
    # A leaf of its own, so that a backward pass leaves the .grad of the user's inputs alone.
    return moved.detach().requires_grad_() if thing.requires_grad else moved


def split(batch: Batch, size: int) -> list[Batch]:
    """Cut a batch into pieces of at most ``size`` examples, in order; what is not one entry per example goes along.

    >>> [len(x) for x, _ in split((torch.zeros(5, 2), torch.zeros(5)), 2)]
    [2, 2, 1]
    """
    length = batch_length(batch)
    if length <= size:
        return [batch]
    return [_part(batch, slice(start, start + size), length) for start in range(0, length, size)]


def taken(batch: Batch, rows: Sequence[int]) -> Batch:
    """Return these examples of a batch, in this order.

    >>> taken({"x": torch.arange(3), "labels": [{"a": 1}, {"a": 2}, {"a": 3}]}, [2, 0])
    {'x': tensor([2, 0]), 'labels': [{'a': 3}, {'a': 1}]}
    """
    return _part(batch, list(rows), batch_length(batch))


def _part(batch: Batch, rows: slice | list[int], length: int) -> Batch:
    """Take examples of everything in a batch that has ``length`` of them: tensors by rows, lists by items."""
    listed = is_example_list(targets_of(batch))

    def part(thing: Any) -> Any:
        if isinstance(thing, Tensor):
            return thing[rows] if thing.ndim and len(thing) == length else thing
        if isinstance(thing, list | tuple) and _has_an_item_per_example(thing, length, listed):
            items = list(thing)[rows] if isinstance(rows, slice) else [thing[i] for i in rows]
            return items if isinstance(thing, list) else tuple(items)
        return rebuilt(thing, part)

    return part(batch) if is_example_list(batch) else rebuilt(batch, part)


def _has_an_item_per_example(things: Sequence[Any], length: int, listed: bool) -> bool:
    """Return whether a list holds examples, and not inputs each of which has an entry per example."""
    if len(things) != length or hasattr(things, "_fields"):
        return False
    return listed or not any(isinstance(item, Tensor) and item.ndim and len(item) == length for item in things)


def joined(batches: Sequence[Batch]) -> Batch:
    """Return batches end to end; what has no entry per example must be the same in all and goes along.

    >>> joined([(torch.zeros(2, 1), torch.tensor([0, 1])), (torch.zeros(1, 1), torch.tensor([2]))])[1]
    tensor([0, 1, 2])
    """
    return _joined(list(batches), [batch_length(batch) for batch in batches])


def _joined(things: list[Any], lengths: list[int]) -> Any:
    first = things[0]
    if isinstance(first, Tensor):
        if all(thing.ndim and len(thing) == length for thing, length in zip(things, lengths, strict=True)):
            if len({(thing.shape[1:], thing.dtype) for thing in things}) > 1:
                shapes = ", ".join(sorted({str(tuple(thing.shape[1:])) for thing in things}))
                raise InputError(f"expected examples of one shape to draw batches from, got {shapes}: pad them alike")
            return torch.cat(things)
        if not all(torch.equal(first, thing) for thing in things):
            raise InputError("expected tensors with an entry per example to draw batches from, got others that differ")
        return first
    if is_example_list(first):
        return [item for thing in things for item in thing]
    if isinstance(first, Mapping):
        return {key: _joined([thing[key] for thing in things], lengths) for key in first}
    if isinstance(first, list | tuple):
        items = [_joined(list(parts), lengths) for parts in zip(*things, strict=True)]
        return type(first)(*items) if hasattr(first, "_fields") else type(first)(items)
    return first


def rebuilt(thing: Any, change: Callable[[Any], Any]) -> Any:
    """Return a mapping, list or tuple (named ones too) with every item changed; anything else as it is.

    Of an object that holds tensors it is a copy with those changed.
    """
    if isinstance(thing, Mapping):
        return {key: change(value) for key, value in thing.items()}
    if isinstance(thing, list | tuple):
        items = [change(item) for item in thing]
        return type(thing)(*items) if hasattr(thing, "_fields") else type(thing)(items)
    changed = {name: change(value) for name, value in attributes_of(thing).items()}
    if not changed:
        return thing
    if is_dataclass(thing) and not isinstance(thing, type):
        return replace(thing, **changed)
    other = copy.copy(thing)
    for name, value in changed.items():
        setattr(other, name, value)
    return other


def copied(thing: Any) -> Any:
    """Return a batch whose tensors are copies: it stays when a loader fills its own anew, or a network changes them.

    >>> numbers = torch.zeros(2)
    >>> kept = copied((numbers, ["text"]))
    >>> numbers += 1
    >>> kept
    (tensor([0., 0.]), ['text'])
    """
    if isinstance(thing, Tensor):
        return thing.detach().clone().requires_grad_(thing.requires_grad)
    return rebuilt(thing, copied)
