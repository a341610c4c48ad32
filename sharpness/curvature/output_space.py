"""Matrices in the space of a network's outputs: the criterion's Hessian and the second moments of its gradients."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor

from sharpness.loss.graphs import needing_second_derivatives
from sharpness.vectors import refuse_non_finite

Criterion = Callable[[Any, Any], Tensor]
OutputProduct = Callable[[Tensor], Tensor]


def criterion_hessian(criterion: Criterion, outputs: Tensor, targets: Any) -> OutputProduct:
    """Return ``t -> H t`` with H the Hessian of the mean criterion with respect to the outputs, of any shape.

    >>> product = criterion_hessian(torch.nn.functional.mse_loss, torch.zeros(2, 3), torch.ones(2, 3))
    >>> product(torch.ones(2, 3))[0]                     # 2 / 6
    tensor([0.3333, 0.3333, 0.3333])
    """
    z = outputs.detach().requires_grad_()
    with torch.enable_grad(), needing_second_derivatives():
        gradient = _gradient(criterion, z, targets, create_graph=True)

    def product(t: Tensor) -> Tensor:
        if not gradient.requires_grad:
            return torch.zeros_like(t)  # a criterion linear in the outputs
        with needing_second_derivatives():
            return torch.autograd.grad(gradient, z, t, retain_graph=True)[0]

    return product


def _gradient(criterion: Criterion, z: Tensor, targets: Any, create_graph: bool) -> Tensor:
    """Return the criterion's gradient by the outputs; loss and gradient are refused where they are not finite."""
    value = criterion(z, targets)
    refuse_non_finite("loss", [("a batch", value.detach())], "check the data and the weights")
    if not value.requires_grad:
        return torch.zeros_like(z)
    (gradient,) = torch.autograd.grad(value, z, create_graph=create_graph)
    refuse_non_finite("gradients", [("the outputs of a batch", gradient.detach())], "check the data and the weights")
    return gradient


def gradient_moments(criterion: Criterion, outputs: Tensor, targets: Any, count: float) -> OutputProduct:
    """Return ``t -> (1 / c) sum_n g_n <g_n, t_n>`` with g_n the gradient of example n's summed loss by its outputs.

    ``c = count`` is what the criterion's mean divides by; for one prediction per example that is the number of
    examples. An example is one entry of the first dimension, so a sentence is one example, with all its tokens.
    """
    z = outputs.detach().requires_grad_()
    with torch.enable_grad():
        mean_gradient = _gradient(criterion, z, targets, create_graph=False)

    def product(t: Tensor) -> Tensor:
        overlaps = (mean_gradient * t).flatten(1).sum(1)
        return count * mean_gradient * overlaps.view(-1, *[1] * (t.ndim - 1))

    return product


def mean_of(products: Sequence[OutputProduct]) -> OutputProduct:
    """Return the mean of matrices.

    >>> mean_of([lambda t: t, lambda t: 3 * t])(torch.ones(1))
    tensor([2.])
    """
    return lambda t: torch.stack([product(t) for product in products]).mean(0)
