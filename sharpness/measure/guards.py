"""Guards before any number: the network fits the data, the loss is one function, the checkpoint knows the task."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any, TypeVar

from torch import Tensor

from sharpness.data.batches import IGNORED, Batch, cast, named_tensors, split, targets_of
from sharpness.errors import InputError
from sharpness.loss import Evaluation, Loss
from sharpness.loss.calls import tensor_in
from sharpness.loss.counts import ignored_label
from sharpness.loss.criteria import copies_labels
from sharpness.loss.eval_mode import RUNNING_STATISTICS
from sharpness.machine.distributed import on_all_ranks
from sharpness.machine.users_code import users_own
from sharpness.vectors import refuse_non_finite

T = TypeVar("T")
LARGE_INPUT = 20.0
"""Standardised inputs stay below about 5 and those in [0, 1] below 1; bytes fed as they are reach 255."""
STANDARD_ERRORS = 3.0


@dataclass(frozen=True)
class Checked:
    """Loss and accuracy of the checkpoint on the data, and what looks wrong about them, one sentence each."""

    evaluation: Evaluation
    warnings: tuple[str, ...]


def check_before_probing(build: Callable[[], Loss]) -> tuple[Loss, Checked]:
    """Return the loss that ``build`` makes and what it says of the checkpoint.

    Raises :class:`InputError` where the network does not take the data, labels or token numbers are out of range,
    weights or loss are not finite, two passes differ, a model's own loss is not the mean over its labels, or it asks
    for tokens that the model sees.
    """
    loss = _fitting(build, "data that fit this network")
    first = cast(next(iter(loss.batches)), loss.device, loss.dtype)
    outputs = _fitting(lambda: _logits(loss, split(first, 2)[0] if loss.divisible else first), "data that fit it")
    check_weights(loss)
    _fitting(lambda: on_all_ranks(lambda: _refuse_copying(loss, first)), "data that fit it")
    evaluation = _fitting(lambda: loss.evaluate(loss.weights), "a loss that fits outputs and targets")
    if not math.isfinite(evaluation.loss):
        raise InputError(
            f"expected a finite loss at the checkpoint, got {evaluation.loss}: it diverged, or the inputs are not "
            "those it was trained on"
        )
    facts = [warning for warning in (_odd_inputs(loss), _near_chance(loss, evaluation, outputs)) if warning]
    return loss, Checked(evaluation, tuple(facts))


def _fitting(work: Callable[[], T], expected: str) -> T:
    """Return what ``work`` does; what a network or a criterion raises against its input is bad input."""
    with users_own("measuring", expected, "check --model, --data and --loss"):
        return work()


def _logits(loss: Loss, batch: Batch) -> Tensor | None:
    """Return the outputs for a batch if they are logits, else ``None``."""
    with loss.evaluating(loss.weights) as forward:
        return tensor_in(forward(batch))


def check_weights(loss: Loss) -> None:
    """Raise :class:`InputError` for NaN or infinite weights and running statistics; other buffers may hold them."""
    statistics = [(n, b) for n, b in loss.model.named_buffers() if n.rpartition(".")[2] in RUNNING_STATISTICS]
    named = [*loss.model.named_parameters(), *statistics]
    refuse_non_finite("weights", named, "the training diverged or the file is damaged")


def _refuse_copying(loss: Loss, first: Batch) -> None:
    """Raise :class:`InputError` where a model's own loss asks for the very tokens that the model sees."""
    if not loss.own_loss or not _repeats(first) or not copies_labels(loss.value_of_batch, first):
        return
    if all(map(_repeats, loss.batches)):
        raise InputError(
            "expected labels to be predicted from other tokens, got labels equal to the input_ids that the network "
            "sees: hide some of them from a masked language model (text:FILE,mask=0.15), or give an encoder-decoder "
            "the pairs of its task"
        )


def _repeats(batch: Batch) -> bool:
    """Return whether the labels of a batch are its tokens, but for those that are left out."""
    tokens, labels = (batch.get("input_ids"), batch.get("labels")) if isinstance(batch, Mapping) else (None, None)
    if not isinstance(tokens, Tensor) or not isinstance(labels, Tensor) or tokens.ndim != 2:
        return False
    return tokens.shape == labels.shape and bool((tokens == labels)[labels != IGNORED].all())


def _class_labels(loss: Loss) -> Iterator[Tensor]:
    """Yield the class numbers of every batch, on the CPU; nothing where the targets are others."""
    for batch in loss.batches:
        labels = targets_of(batch)
        if isinstance(labels, Tensor) and not labels.is_floating_point():
            yield labels.cpu()


def _odd_inputs(loss: Loss) -> str | None:
    """Return a warning with the statistics where floating inputs are far from those of any usual training."""
    count, total, squares, low, high = 0, 0.0, 0.0, math.inf, -math.inf
    for batch in loss.batches:
        x = next((tensor for _, tensor in named_tensors(batch)), None)
        if x is None or not x.is_floating_point() or not x.numel():
            return None
        x = x.double()
        count, total, squares = count + x.numel(), total + float(x.sum()), squares + float(x.square().sum())
        low, high = min(low, float(x.min())), max(high, float(x.max()))
    mean = total / max(count, 1)
    deviation = math.sqrt(max(squares / max(count, 1) - mean**2, 0.0))
    if max(abs(low), abs(high)) <= LARGE_INPUT:
        return None
    return (
        f"inputs run from {low:.4g} to {high:.4g} (mean {mean:.4g}, standard deviation {deviation:.4g}): most networks "
        "are trained on inputs in [0, 1] or standardised ones; if this one was, add scale=255 to --data"
    )


def _near_chance(loss: Loss, evaluation: Evaluation, outputs: Tensor | None) -> str | None:
    """Return a warning where the checkpoint does no better than a guess: its preprocessing or labels may be others."""
    if outputs is None or outputs.ndim < 2:
        return None
    shares: Counter[int] = Counter()
    for labels in _class_labels(loss):
        values, counts = labels[labels != ignored_label(loss.criterion)].unique(return_counts=True)
        shares.update(dict(zip(values.tolist(), counts.tolist(), strict=True)))
    number = shares.total()
    if not number:
        return None
    usual, classes = max(shares.values()) / number, outputs.shape[-1]
    if evaluation.accuracy is not None:
        bound = max(usual, 1 / classes)
        if evaluation.accuracy > bound + STANDARD_ERRORS * math.sqrt(bound * (1 - bound) / number):
            return None
        accuracy = f"accuracy {100 * evaluation.accuracy:.1f} %"
        what = f"{accuracy} is no better than naming the commonest class ({100 * bound:.1f} %)"
    else:
        guess = -sum(n / number * math.log(n / number) for n in shares.values())
        if loss.criterion is not None or evaluation.loss - loss.penalty(loss.weights) < guess:
            return None
        what = f"loss {evaluation.loss:.3g} is no better than guessing labels by how common they are ({guess:.3g})"
    return f"{what}: is this the preprocessing, and are these the labels, that the checkpoint was trained with?"


def describe(evaluation: Evaluation) -> dict[str, Any]:
    """Return loss and accuracy for a record."""
    return {"loss": evaluation.loss, "accuracy": evaluation.accuracy}
