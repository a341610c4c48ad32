"""Divisors of the mean over a batch: what a criterion says of itself, and candidates where it says nothing."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from functools import partial
from typing import Any

from torch import Tensor, nn
from torch.nn import functional as F

from sharpness.data.batches import IGNORED, Batch, batch_length, is_example_list, named_tensors, targets_of

Count = Callable[[Batch], float]
REDUCTIONS = ("mean", "sum", "batchmean")
SHIFTED = "labels but the first"


def reduction_of(criterion: Any) -> str:
    """Return what a criterion says it does with its terms, from its attribute or a partial function's keyword.

    >>> import torch
    >>> reduction_of(torch.nn.MSELoss(reduction="sum")), reduction_of(partial(torch.nn.functional.mse_loss))
    ('sum', 'mean')
    """
    if isinstance(criterion, partial):
        return criterion.keywords.get("reduction", "mean")
    return getattr(criterion, "reduction", "mean")


def averaged_count(criterion: Any, batch: Batch) -> float:
    """Return what the criterion divides by: the class targets not ignored, summed by class weight, or the examples.

    ``ignore_index`` and ``weight`` are read from a ``CrossEntropyLoss``, an ``NLLLoss`` or a ``functools.partial``,
    ``ignore_index`` from any criterion that has it; without a criterion labels of -100 are not counted. What it cannot
    see, such as an ``ignore_index`` inside a lambda, the ``count`` of :class:`sharpness.loss.Loss` can say.

    >>> import torch
    >>> averaged_count(torch.nn.CrossEntropyLoss(), (torch.zeros(2, 5, 3), torch.tensor([[1, -100, 0], [4, 4, -100]])))
    4.0
    """
    targets = targets_of(batch)
    if not isinstance(targets, Tensor) or targets.is_floating_point() or targets.is_complex():
        return float(batch_length(batch))
    counted = targets[targets != ignored_label(criterion)]
    weight = _keywords(criterion).get("weight")
    return float(counted.numel() if weight is None else weight[counted.to(weight.device)].sum())


def ignored_label(criterion: Any) -> int:
    """Return the class number that a criterion leaves out of its mean.

    >>> import torch
    >>> ignored_label(torch.nn.CrossEntropyLoss(ignore_index=255)), ignored_label(None)
    (255, -100)
    """
    own = getattr(criterion, "ignore_index", None)
    return own if isinstance(own, int) else _keywords(criterion).get("ignore_index", IGNORED)


def _keywords(criterion: Any) -> Mapping[str, Any]:
    """Return the keywords of a cross-entropy given as a module or as a partial function."""
    if isinstance(criterion, nn.CrossEntropyLoss | nn.NLLLoss):
        return {"ignore_index": criterion.ignore_index, "weight": criterion.weight}
    known = isinstance(criterion, partial) and criterion.func in (F.cross_entropy, F.nll_loss)
    return criterion.keywords if known else {}


def shifted_labels(batch: Batch) -> float:
    """Return the number of labels that count where each is predicted from those before it: the first has no place.

    >>> import torch
    >>> shifted_labels({"labels": torch.tensor([[5, 6, -100], [7, 8, 9]])})
    3.0
    """
    targets = targets_of(batch)
    return float((targets[:, 1:] != IGNORED).sum()) if isinstance(targets, Tensor) and targets.ndim > 1 else math.nan


def examples(batch: Batch) -> float:
    """Return the number of examples."""
    return float(batch_length(batch))


def entries(batch: Batch) -> float:
    """Return the number of entries of the targets."""
    targets = targets_of(batch)
    return float(targets.numel()) if isinstance(targets, Tensor) else math.nan


def counted_labels(batch: Batch) -> float:
    """Return the number of labels that are not -100."""
    targets = targets_of(batch)
    return float((targets != IGNORED).sum()) if isinstance(targets, Tensor) else math.nan


def boxes(batch: Batch) -> float:
    """Return the number of boxes: over the examples' targets the length of the first tensor that each holds.

    >>> import torch
    >>> boxes((torch.zeros(2, 3), [{"boxes": torch.zeros(4, 4)}, {"boxes": torch.zeros(1, 4)}]))
    5.0
    """
    targets = targets_of(batch)
    if not is_example_list(targets):
        return math.nan
    found = [next((t for _, t in named_tensors(target) if t.ndim), None) for target in targets]
    return float(sum(0 if tensor is None else len(tensor) for tensor in found))


def candidates(criterion: Any) -> dict[str, Count]:
    """Return what a mean may divide by, by name, the likeliest first; NaN where a batch has no such thing."""
    if reduction_of(criterion) == "batchmean":
        return {"examples": examples}
    stated = partial(averaged_count, criterion)
    return {
        "the criterion's own count": stated,
        "examples": examples,
        "targets": entries,
        "labels other than -100": counted_labels,
        "boxes": boxes,
        SHIFTED: shifted_labels,
    }
