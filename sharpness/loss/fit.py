"""Data, network and criterion fit together: what torch's own errors say without naming a cure, or do not say at all."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from torch import Tensor, nn
from torch.nn import functional as F

from sharpness.data.batches import Batch, targets_of
from sharpness.errors import InputError
from sharpness.loss.counts import ignored_label
from sharpness.loss.square_loss import square_loss


def check_inputs(model: nn.Module, batch: Batch) -> None:
    """Refuse images of other channels than the first convolution takes, and token numbers beyond the vocabulary."""
    _check_channels(model, batch)
    _check_tokens(model, batch)


def check_targets(criterion: Any, output: Tensor | None, batch: Batch) -> None:
    """Refuse class numbers that there is no output for, and squared errors of two shapes."""
    check_labels(criterion, output, batch)
    _check_squared_errors(criterion, output, targets_of(batch))


def _check_channels(model: nn.Module, batch: Batch) -> None:
    if not isinstance(batch, list | tuple) or not isinstance(batch[0], Tensor) or batch[0].ndim != 4:
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


def check_labels(criterion: Any, outputs: Tensor | None, batch: Batch) -> None:
    """Refuse class numbers that there is no output for; the outputs may be those of another batch."""
    labels = targets_of(batch)
    if outputs is None or outputs.ndim < 2 or outputs.is_complex() or not isinstance(labels, Tensor):
        return
    if criterion is not None and isinstance(batch, Mapping) and outputs.ndim == 3:
        raise InputError("expected one label for each example, got one for each token: use --loss model")
    if labels.is_floating_point() or labels.is_complex() or not takes_classes(criterion):
        return
    classes = outputs.shape[-1] if isinstance(batch, Mapping) else outputs.shape[1]
    counted = labels if criterion is square_loss else labels[labels != ignored_label(criterion)]  # it leaves none out
    if counted.numel() and not 0 <= int(counted.min()) <= int(counted.max()) < classes:
        raise InputError(
            f"expected labels from 0 to {classes - 1} for {classes} outputs, got {int(counted.min())} to "
            f"{int(counted.max())}: give the labels or the num_classes that belong to this model"
        )


def takes_classes(criterion: Any) -> bool:
    """Return whether integer targets are class numbers to a criterion: to those of classes, and a model's own loss.

    >>> takes_classes(F.cross_entropy), takes_classes(F.mse_loss), takes_classes(lambda output, target: output.mean())
    (True, False, False)
    """
    kind = getattr(criterion, "func", criterion)
    of_classes = (F.cross_entropy, F.nll_loss, F.multi_margin_loss, square_loss)
    modules = (nn.CrossEntropyLoss, nn.NLLLoss, nn.MultiMarginLoss)
    return criterion is None or kind in of_classes or isinstance(kind, modules)


def _check_squared_errors(criterion: Any, outputs: Tensor | None, targets: Any) -> None:
    """Refuse outputs and targets of two shapes: torch would pair each with each, silently but for a warning."""
    kind = getattr(criterion, "func", criterion)
    by_entry = (F.mse_loss, F.l1_loss, F.smooth_l1_loss, F.huber_loss)
    modules = (nn.MSELoss, nn.L1Loss, nn.SmoothL1Loss, nn.HuberLoss)
    if not (kind in by_entry or isinstance(kind, modules)) or outputs is None or not isinstance(targets, Tensor):
        return
    if outputs.shape[1:] != targets.shape[1:]:
        raise InputError(
            f"expected targets of the shape of the outputs, {tuple(outputs.shape[1:])} for each example, got "
            f"{tuple(targets.shape[1:])}: torch pairs each with each; reshape one of them, as in output.squeeze(1), or "
            "use cross_entropy (--loss cross_entropy) for class numbers"
        )
