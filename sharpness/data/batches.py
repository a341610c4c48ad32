"""Batches, pairs (inputs, targets) or dicts of tensors: the count that a mean loss averages over, and their hash."""

from __future__ import annotations

import copy
import hashlib
import operator
from collections.abc import Callable, Iterable, Iterator, Mapping
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from sharpness.errors import InputError

Batch = Any
IGNORED = -100
"""The label that PyTorch's cross-entropy and Hugging Face's losses leave out of their means."""


def batch_length(batch: Batch) -> int:
    """Return the number of examples of a batch, the length of its first tensor, however nested.

    >>> batch_length(((torch.zeros(5, 2), torch.zeros(5, 3)), torch.zeros(5)))
    5
    """
    for _, tensor in named_tensors(batch):
        if tensor.ndim:
            return len(tensor)
    raise InputError(f"expected a batch with a tensor of examples, got {type(batch).__name__}: pass (inputs, targets)")


def named_tensors(thing: Any, name: str = "") -> Iterator[tuple[str, Tensor]]:
    """Yield every tensor of a nested structure with the path to it, mappings in the order of their own keys."""
    if isinstance(thing, Tensor):
        yield name, thing
    elif isinstance(thing, Mapping | list | tuple):
        items = thing.items() if isinstance(thing, Mapping) else enumerate(thing)
        for key, item in items:
            yield from named_tensors(item, f"{name}/{key}")


def targets_of(batch: Batch) -> Any:
    """Return the second entry of a pair, or the ``labels`` of a dict (``None`` without them)."""
    return batch.get("labels") if isinstance(batch, Mapping) else batch[1]


def logits_of(output: Any) -> Tensor:
    """Return a network's output tensor, or its ``logits`` where the output is a structure."""
    return output if isinstance(output, Tensor) else output.logits


def averaged_count(criterion: Any, batch: Batch) -> float:
    """Return what the criterion divides by: the class targets not ignored, summed by class weight, or the examples.

    ``ignore_index`` and ``weight`` are read from a ``CrossEntropyLoss``, an ``NLLLoss`` or a ``functools.partial``;
    without a criterion labels of -100 are not counted. What it cannot see, such as an ``ignore_index`` inside a lambda,
    the ``count`` of :class:`sharpness.loss.Loss` can say.

    >>> averaged_count(torch.nn.CrossEntropyLoss(), (torch.zeros(2, 5, 3), torch.tensor([[1, -100, 0], [4, 4, -100]])))
    4.0
    """
    targets = targets_of(batch)
    if not isinstance(targets, Tensor) or targets.is_floating_point():
        return float(batch_length(batch))
    counted = targets[targets != ignored_label(criterion)]
    weight = _keywords(criterion).get("weight")
    return float(counted.numel() if weight is None else weight[counted.to(weight.device)].sum())


def cast_criterion(criterion: Any, device: torch.device, dtype: torch.dtype) -> Any:
    """Return a criterion whose own tensors, such as class weights, have the device and dtype of the outputs."""
    if isinstance(criterion, nn.Module):
        return copy.deepcopy(criterion).to(device=device, dtype=dtype)
    if isinstance(criterion, partial):
        return partial(criterion.func, *criterion.args, **cast(criterion.keywords, device, dtype))
    return criterion


def reduction_of(criterion: Any) -> str:
    """Return what a criterion says it does with its terms, from its attribute or a partial function's keyword.

    >>> reduction_of(torch.nn.MSELoss(reduction="sum")), reduction_of(partial(torch.nn.functional.mse_loss))
    ('sum', 'mean')
    """
    if isinstance(criterion, partial):
        return criterion.keywords.get("reduction", "mean")
    return getattr(criterion, "reduction", "mean")


def correct_predictions(criterion: Any, output: Any, batch: Batch) -> tuple[int, int]:
    """Return how many class predictions are right and how many there are; (0, 0) if this is no classifier."""
    targets, logits = targets_of(batch), logits_of(output)
    if not isinstance(targets, Tensor) or targets.is_floating_point() or targets.ndim != 1 or logits.ndim != 2:
        return 0, 0
    judged = targets != ignored_label(criterion)
    return int((logits.argmax(1) == targets)[judged].sum()), int(judged.sum())


def ignored_label(criterion: Any) -> int:
    """Return the class number that a criterion leaves out of its mean.

    >>> ignored_label(torch.nn.CrossEntropyLoss(ignore_index=255)), ignored_label(None)
    (255, -100)
    """
    return _keywords(criterion).get("ignore_index", IGNORED)


def _keywords(criterion: Any) -> Mapping[str, Any]:
    """Return the keywords of a cross-entropy given as a module or as a partial function."""
    if isinstance(criterion, nn.CrossEntropyLoss | nn.NLLLoss):
        return {"ignore_index": criterion.ignore_index, "weight": criterion.weight}
    known = isinstance(criterion, partial) and criterion.func in (F.cross_entropy, F.nll_loss)
    return criterion.keywords if known else {}


def cast(thing: Any, device: torch.device, dtype: torch.dtype) -> Any:
    """Move a tensor, or every tensor of a batch, to a device, and floating ones to a dtype.

    >>> cast((torch.zeros(2), torch.tensor([1, 0])), torch.device("cpu"), torch.float64)
    (tensor([0., 0.], dtype=torch.float64), tensor([1, 0]))
    """
    if isinstance(thing, Tensor):
        return thing.to(device, dtype) if thing.is_floating_point() else thing.to(device)
    return rebuilt(thing, lambda item: cast(item, device, dtype))


def split(batch: Batch, size: int) -> list[Batch]:
    """Cut a batch into pieces of at most ``size`` examples, in order; what is not one tensor per example goes along.

    >>> [len(x) for x, _ in split((torch.zeros(5, 2), torch.zeros(5)), 2)]
    [2, 2, 1]
    """
    length = batch_length(batch)
    if length <= size:
        return [batch]
    return [_slice(batch, start, start + size, length) for start in range(0, length, size)]


def _slice(thing: Any, start: int, stop: int, length: int) -> Any:
    """Take examples ``start`` to ``stop`` of everything in a batch that has ``length`` of them."""
    if isinstance(thing, Tensor):
        return thing[start:stop] if thing.ndim and len(thing) == length else thing
    return rebuilt(thing, lambda item: _slice(item, start, stop, length))


def rebuilt(thing: Any, change: Callable[[Any], Any]) -> Any:
    """Return a mapping, list or tuple (named ones too) with every item changed; anything else as it is."""
    if isinstance(thing, Mapping):
        return {key: change(value) for key, value in thing.items()}
    if isinstance(thing, list | tuple):
        items = [change(item) for item in thing]
        return type(thing)(*items) if hasattr(thing, "_fields") else type(thing)(items)
    return thing


def data_sha256(batches: Iterable[Batch]) -> str:
    """Return the SHA-256 over the digests of all examples in order, whatever the split into batches.

    >>> x, y = torch.arange(6.0).view(3, 2), torch.tensor([0, 1, 0])
    >>> data_sha256([(x, y)]) == data_sha256([(x[:2], y[:2]), (x[2:], y[2:])])
    True
    """
    return sha256_of_digests([example_digests(batches)])


def sha256_of_digests(shards: Iterable[bytes]) -> str:
    """Return the SHA-256 of the data whose consecutive shards have these example digests."""
    return hashlib.sha256(b"".join(shards)).hexdigest()


def example_digests(batches: Iterable[Batch]) -> bytes:
    """Return the SHA-256 of every example, one after the other: 32 bytes each.

    One digest per example, so that processes that hold consecutive shards can put theirs together.
    """
    digests = bytearray()
    for batch in batches:
        tensors = [
            (path.encode(), _rows(tensor)) for path, tensor in sorted(named_tensors(batch), key=operator.itemgetter(0))
        ]
        for i in range(batch_length(batch)):
            hasher = hashlib.sha256()
            for key, rows in tensors:
                hasher.update(key)
                hasher.update(rows[min(i, len(rows) - 1)])
            digests += hasher.digest()
    return bytes(digests)


def _rows(tensor: Tensor) -> Any:
    """Return the bytes of a tensor, one row per example (one row in all for a number)."""
    tensor = tensor.detach().cpu().contiguous()
    length = len(tensor) if tensor.ndim else 1
    return tensor.reshape(length, tensor.numel() // max(length, 1)).view(torch.uint8).numpy()
