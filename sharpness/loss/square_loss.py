"""The square loss of a classifier: half the squared distance of its outputs from the one-hot vectors of the classes."""

from __future__ import annotations

import torch
from torch import Tensor

from sharpness.errors import InputError


def square_loss(outputs: Tensor, targets: Tensor) -> Tensor:
    """Return ``1/2 sum_k (f_k - y_k)^2`` on average over the examples, y being 1 at the class and 0 elsewhere.

    ``outputs`` are N x K, ``targets`` N class numbers, or N x K numbers that are taken as they are. It is K/2 times the
    mean squared error over all entries, and its Hessian by the outputs of an example is I / N. As in the code of Cohen
    et al. 2021 (arXiv 2103.00065), whose ``SquaredLoss`` is half the sum of squares and is divided by N. Raises
    :class:`InputError` for other shapes.

    >>> square_loss(torch.tensor([[1.0, 0.0], [2.0, 3.0]]), torch.tensor([0, 0]))     # (0 + (1 + 9) / 2) / 2
    tensor(2.5000)
    """
    of_classes = not targets.is_floating_point()
    if outputs.ndim != 2 or targets.shape != (outputs.shape[:1] if of_classes else outputs.shape):
        raise InputError(
            "expected N x K outputs with N class numbers, or N x K numbers, for the square loss, got "
            f"{tuple(outputs.shape)} with {tuple(targets.shape)}: use cross_entropy or a loss of your own"
        )
    if of_classes:  # by comparison, which torch.func.vmap and a GPU take without looking at the numbers
        targets = targets.unsqueeze(1) == torch.arange(outputs.shape[1], device=outputs.device)
    return (outputs - targets.to(outputs.dtype)).square().sum(1).mean() / 2
