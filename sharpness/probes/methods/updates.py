"""The update along which the loss is looked at: a given one, another task's gradient, or the loss's own."""

from __future__ import annotations

import torch
from torch import Tensor

from sharpness.errors import InputError
from sharpness.loss import Loss


def chosen_update(loss: Loss, x: Tensor, gradient: Tensor, update: Tensor | None, trained: Loss | None) -> Tensor:
    """Return the direction d of the step ``w - eta d``: given, another loss's gradient, or the loss's own.

    Raises :class:`InputError` for both at once, other parameters or shapes, and directions that are not finite.
    """
    if update is not None and trained is not None:
        raise InputError("expected an update or a trained loss, got both: the update of a loss is its gradient")
    if trained is not None and trained.layout != loss.layout:
        raise InputError("expected two losses of the same parameters, got others: make both from the same model")
    d = update if update is not None else gradient if trained is None else trained.grad(x)
    if d.shape != x.shape:
        raise InputError(f"expected an update of shape {tuple(x.shape)}, got {tuple(d.shape)}: use one flat vector")
    d = loss.point(d)
    if not bool(torch.isfinite(d).all()):
        raise InputError("expected a finite update, got NaN or infinity: check the optimizer's state and the weights")
    return d
