"""What a batch is: a pair (inputs, targets) or a dict of tensors; what its mean loss averages over, and its hash."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Mapping
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn

Batch = Any


def batch_length(batch: Batch) -> int:
    """Return the number of examples of a batch, the length of its first tensor."""
    return len(next(iter(batch.values())) if isinstance(batch, Mapping) else batch[0])


def targets_of(batch: Batch) -> Any:
    """Return the second entry of a pair, or the ``labels`` of a dict (``None`` without them)."""
    return batch.get("labels") if isinstance(batch, Mapping) else batch[1]


def logits_of(output: Any) -> Tensor:
    """Return a network's output tensor, or its ``logits`` where the output is a structure."""
    return output if isinstance(output, Tensor) else output.logits


def averaged_count(criterion: Any, batch: Batch) -> float:
    """Return what the criterion divides by: the class targets not ignored, summed by class weight, or the examples.

    ``ignore_index`` and ``weight`` are read from a ``CrossEntropyLoss``, an ``NLLLoss`` or a ``functools.partial``;
    without a criterion labels of -100 are not counted. What it cannot see, such as the shift of labels inside a causal
    language model or an ``ignore_index`` inside a lambda, the ``count`` of :class:`sharpness.loss.Loss` can say.

    >>> averaged_count(torch.nn.CrossEntropyLoss(), (torch.zeros(2, 5, 3), torch.tensor([[1, -100, 0], [4, 4, -100]])))
    4.0
    """
    targets = targets_of(batch)
    if not isinstance(targets, Tensor) or targets.is_floating_point():
        return float(batch_length(batch))
    counted = targets[targets != _ignored(criterion)]
    weight = _keywords(criterion).get("weight")
    return float(counted.numel() if weight is None else weight[counted.to(weight.device)].sum())


def correct_predictions(criterion: Any, output: Any, batch: Batch) -> tuple[int, int]:
    """Return how many class predictions are right and how many there are; (0, 0) if this is no classifier."""
    targets, logits = targets_of(batch), logits_of(output)
    if not isinstance(targets, Tensor) or targets.is_floating_point() or targets.ndim != 1 or logits.ndim != 2:
        return 0, 0
    judged = targets != _ignored(criterion)
    return int((logits.argmax(1) == targets)[judged].sum()), int(judged.sum())


def _ignored(criterion: Any) -> int:
    return _keywords(criterion).get("ignore_index", -100)


def _keywords(criterion: Any) -> Mapping[str, Any]:
    """Return the keywords of a cross-entropy given as a module or as a partial function."""
    if isinstance(criterion, nn.CrossEntropyLoss | nn.NLLLoss):
        return {"ignore_index": criterion.ignore_index, "weight": criterion.weight}
    return criterion.keywords if isinstance(criterion, partial) else {}


def cast(thing: Any, device: torch.device, dtype: torch.dtype) -> Any:
    """Move a tensor, or every tensor of a batch, to a device, and floating ones to a dtype.

    >>> cast((torch.zeros(2), torch.tensor([1, 0])), torch.device("cpu"), torch.float64)
    (tensor([0., 0.], dtype=torch.float64), tensor([1, 0]))
    """
    if isinstance(thing, Tensor):
        return thing.to(device, dtype) if thing.is_floating_point() else thing.to(device)
    if isinstance(thing, Mapping):
        return {key: cast(value, device, dtype) for key, value in thing.items()}
    if isinstance(thing, list | tuple):
        items = [cast(item, device, dtype) for item in thing]
        return (
            type(thing)(*items) if hasattr(thing, "_fields") else type(thing)(items)
        )  # a named tuple takes them singly
    return thing


def data_sha256(batches: Iterable[Batch]) -> str:
    """Return the SHA-256 of the data in order, whatever the split into batches.

    >>> x, y = torch.arange(6.0).view(3, 2), torch.tensor([0, 1, 0])
    >>> data_sha256([(x, y)]) == data_sha256([(x[:2], y[:2]), (x[2:], y[2:])])
    True
    """
    hashers: dict[str, Any] = {}
    for batch in batches:
        items = batch.items() if isinstance(batch, Mapping) else enumerate(batch)
        for key, tensor in items:
            if isinstance(tensor, Tensor):
                hashers.setdefault(str(key), hashlib.sha256()).update(_bytes(tensor))
    return hashlib.sha256("".join(f"{key}{h.hexdigest()}" for key, h in sorted(hashers.items())).encode()).hexdigest()


def _bytes(tensor: Tensor) -> Any:
    return tensor.detach().cpu().contiguous().reshape(-1).view(torch.uint8).numpy().data
