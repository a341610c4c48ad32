"""Guards before any number: the network fits the data, the loss is one function, the checkpoint knows the task."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any, TypeVar

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from sharpness.data.batches import Batch, batch_length, cast, ignored_label, logits_of, split, targets_of
from sharpness.errors import InputError
from sharpness.loss import Evaluation, Loss
from sharpness.loss.determinism import check_deterministic
from sharpness.users_code import users_own

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
    weights or loss are not finite, two passes differ, or a model's own loss is not the mean over its labels.
    """
    loss = _fitting(build, "data that fit this network")
    first = cast(next(iter(loss.batches)), loss.device, loss.dtype)
    _check_channels(loss.model, first)
    _check_tokens(loss.model, first)
    outputs = _fitting(lambda: _logits(loss, split(first, 2)[0]), "data that fit this network")
    _check_labels(loss, outputs)
    _check_squared_errors(loss, outputs, targets_of(first))
    _fitting(lambda: check_deterministic(loss), "a loss that fits outputs and targets")
    _fitting(lambda: _check_weights_of_parts(loss, first), "a loss that fits outputs and targets")
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
    with torch.no_grad(), loss.measuring():
        output = loss.at(loss.pieces(loss.weights), lambda model: loss.forward(model, batch))
    return logits_of(output) if isinstance(output, Tensor) or hasattr(output, "logits") else None


def _check_channels(model: nn.Module, batch: Batch) -> None:
    """Compare images with the first convolution: the error of the convolution itself does not name the cure."""
    if isinstance(batch, Mapping) or not isinstance(batch[0], Tensor) or batch[0].ndim != 4:
        return
    found = next(((n, m) for n, m in model.named_modules() if isinstance(m, nn.Conv2d)), None)
    channels = batch[0].shape[1]
    if found is not None and found[1].in_channels != channels:
        raise InputError(
            f"expected images of {found[1].in_channels} channels for {found[0]}, got {tuple(batch[0].shape[1:])}: "
            "arrays are N x C x H x W, a folder of images takes channels=, and timm's models in_chans="
        )


def _check_tokens(model: nn.Module, batch: Batch) -> None:
    """Refuse token numbers beyond the vocabulary: on a GPU they would abort the process without naming anything."""
    tokens = batch.get("input_ids") if isinstance(batch, Mapping) else None
    table = next((m for m in model.modules() if isinstance(m, nn.Embedding)), None)
    if hasattr(model, "get_input_embeddings"):
        table = model.get_input_embeddings()  # pyright: ignore[reportCallIssue]
    if isinstance(tokens, Tensor) and isinstance(table, nn.Embedding) and tokens.numel():
        low, high = int(tokens.min()), int(tokens.max())
        if low < 0 or high >= table.num_embeddings:
            raise InputError(
                f"expected token numbers from 0 to {table.num_embeddings - 1}, got {low} to {high}: use the tokenizer "
                "that belongs to the model"
            )


def _check_labels(loss: Loss, outputs: Tensor | None) -> None:
    if outputs is None or outputs.ndim < 2 or outputs.is_complex():
        return
    first = next(iter(loss.batches))
    if loss.criterion is not None and isinstance(first, Mapping) and outputs.ndim == 3:
        raise InputError("expected one label for each example, got one for each token: use --loss model")
    classes = outputs.shape[-1] if isinstance(first, Mapping) else outputs.shape[1]
    for labels in _class_labels(loss):
        counted = labels[labels != ignored_label(loss.criterion)]
        if counted.numel() and not 0 <= int(counted.min()) <= int(counted.max()) < classes:
            raise InputError(
                f"expected labels from 0 to {classes - 1} for {classes} outputs, got {int(counted.min())} to "
                f"{int(counted.max())}: give the labels or the num_classes that belong to this model"
            )


def _check_squared_errors(loss: Loss, outputs: Tensor | None, targets: Any) -> None:
    """Refuse outputs and targets of two shapes: torch would pair each with each, silently but for a warning."""
    kind = getattr(loss.criterion, "func", loss.criterion)
    if not (kind is F.mse_loss or isinstance(kind, nn.MSELoss)) or outputs is None or not isinstance(targets, Tensor):
        return
    if outputs.shape[1:] != targets.shape[1:]:
        raise InputError(
            f"expected targets of the shape of the outputs, {tuple(outputs.shape[1:])} for each example, got "
            f"{tuple(targets.shape[1:])}: reshape them, or use --loss cross_entropy for class numbers"
        )


def _class_labels(loss: Loss) -> Iterator[Tensor]:
    """Yield the class numbers of every batch, on the CPU; nothing where the targets are others."""
    for batch in loss.batches:
        labels = targets_of(batch)
        if isinstance(labels, Tensor) and not labels.is_floating_point():
            yield labels.cpu()


def _check_weights_of_parts(loss: Loss, batch: Batch) -> None:
    """Refuse a loss that is not the mean over what is counted: no split of the data would agree with it."""
    if batch_length(batch) < 2 or loss.norm == "batch":
        return
    pieces = split(batch, math.ceil(batch_length(batch) / 2))
    with torch.no_grad(), loss.measuring():
        point = loss.pieces(loss.weights)

        def value(piece: Batch) -> float:
            return float(loss.at(point, lambda model: loss.criterion_value(loss.forward(model, piece), piece)))

        whole, counts = value(batch), [loss.data.count(piece) for piece in pieces]
        terms = [count * value(piece) for count, piece in zip(counts, pieces, strict=True) if count]
        # A criterion that says of itself that it sums is taken as a sum.
        parts = sum(value(piece) for piece in pieces) if loss.data.summed else sum(terms) / max(sum(counts), 1e-300)
    if abs(whole - parts) > 1e-3 * (1 + abs(whole)):
        raise InputError(
            f"expected a loss that is the mean over its labels, got {whole:.6g} for a batch and {parts:.6g} for its "
            "halves put together: return a mean over examples, or name an ignored class as the option ignore_index"
        )


def _odd_inputs(loss: Loss) -> str | None:
    """Return a warning with the statistics where floating inputs are far from those of any usual training."""
    count, total, squares, low, high = 0, 0.0, 0.0, math.inf, -math.inf
    for batch in loss.batches:
        x = next(iter(batch.values()), None) if isinstance(batch, Mapping) else batch[0]
        if not isinstance(x, Tensor) or not x.is_floating_point():
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
