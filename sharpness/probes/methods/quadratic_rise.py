"""A measured rise of the loss beside that of the quadratic model."""

from __future__ import annotations

import torch
from torch import Tensor

from sharpness.loss import Loss

TOLERANCE = 0.25
"""Of the measured rise: how far the quadratic one may be from it where the model is said to hold."""
HOLDS, FAILS, BELOW_NOISE = "holds", "fails", "below noise"


def rounding_noise(loss: Loss, w: Tensor, base: float) -> float:
    """Return the rounding noise of a difference of losses near w, with ``base`` the loss there.

    It is what the loss changes by when all weights grow by a unit in their last place, at least one of the loss itself.
    """
    eps = torch.finfo(w.dtype).eps
    return max(eps * abs(base), abs(loss.value(w * (1 + eps)) - base))


def judged(quadratic: float, measured: float, noise: float) -> str:
    """Say whether the quadratic model holds for a rise.

    >>> judged(1.0, 1.2, 0.0), judged(1.0, 2.0, 0.0), judged(1.0, 1.1, 0.5)
    ('holds', 'fails', 'below noise')
    """
    if max(abs(measured), abs(quadratic)) < 4 * noise:
        return BELOW_NOISE
    return HOLDS if abs(measured - quadratic) <= TOLERANCE * abs(measured) + 4 * noise else FAILS
