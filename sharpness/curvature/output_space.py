"""Matrices in the space of a network's outputs: the criterion's Hessian and the second moments of its gradients."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from sharpness.errors import InputError
from sharpness.loss.graphs import needing_second_derivatives
from sharpness.machine.environment import derived_seed
from sharpness.vectors import refuse_non_finite

Criterion = Callable[[Any, Any], Tensor]
OutputProduct = Callable[[Tensor], Tensor]


def criterion_hessian(criterion: Criterion, outputs: Tensor, targets: Any) -> OutputProduct:
    """Return ``t -> H t`` with H the Hessian of the mean criterion with respect to the outputs, of any shape.

    >>> product = criterion_hessian(F.mse_loss, torch.zeros(2, 3), torch.ones(2, 3))
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


def sampled_targets(criterion: Criterion, outputs: Tensor, targets: Tensor, seed: int, first_example: int) -> Tensor:
    """Draw targets from the distribution that the network predicts: classes, Gaussians for MSE, coins for BCE.

    The draw of an example depends on the seed and on its position in the data alone, so it is the same for any split.
    For MSE over d numbers per example the variance is ``d / 2`` (1/2 where it sums), with which ``-log p`` is the loss
    plus a constant.
    Targets that the criterion ignores stay. Raises :class:`InputError` for other criteria.

    >>> certain = torch.tensor([[0.0, 99.0], [99.0, 0.0]])
    >>> sampled_targets(F.cross_entropy, certain, torch.tensor([0, 0]), seed=0, first_example=0)
    tensor([1, 0])
    """
    kind, keywords = _kind(criterion)
    if keywords.get("label_smoothing") or keywords.get("weight") is not None or keywords.get("pos_weight") is not None:
        raise InputError(
            "expected a plain likelihood for the Monte-Carlo Fisher matrix, got class weights or label smoothing: "
            "use the empirical Fisher or the Gauss-Newton matrix"
        )
    if kind in ("cross_entropy", "nll_loss") and targets.is_floating_point():
        raise InputError(
            "expected class indices to draw for cross-entropy, got probabilities: use the Gauss-Newton matrix"
        )
    shape = targets.shape[1:] if kind in ("cross_entropy", "nll_loss") else outputs.shape[1:]
    normal = kind == "mse_loss"
    noise = torch.stack(
        [_noise(shape, derived_seed(seed, "fisher", first_example + i), normal) for i in range(len(outputs))]
    )
    noise = noise.to(outputs)
    if normal:
        terms = 1 if keywords.get("reduction") == "sum" else outputs[0].numel()
        return outputs.detach() + (terms / 2) ** 0.5 * noise
    if kind == "binary_cross_entropy_with_logits":
        return (noise < outputs.detach().sigmoid()).to(targets.dtype)
    ignored = keywords.get("ignore_index", -100)
    if 0 <= ignored < outputs.shape[1]:
        raise InputError(f"expected an ignore_index that is no class, got {ignored}: it could be drawn; use -100")
    probabilities = outputs.detach().exp() if kind == "nll_loss" else outputs.detach().softmax(1)
    drawn = (probabilities.cumsum(1) < noise.unsqueeze(1)).sum(1).clamp(max=outputs.shape[1] - 1)
    return torch.where(targets == ignored, targets, drawn)


def coins_per_example(criterion: Criterion, outputs: Tensor) -> int:
    """Return d for binary cross-entropy averaged over d outputs per example, else 1.

    With drawn targets the second moment of that mean's gradient is 1 / d of the mean's Gauss-Newton matrix, because the
    d coins are independent; for MSE the variance of the draw takes care of it.
    """
    kind, keywords = _kind(criterion)
    averaged = kind == "binary_cross_entropy_with_logits" and keywords.get("reduction") != "sum"
    return outputs[0].numel() if averaged else 1


def _noise(shape: torch.Size, seed: int, normal: bool) -> Tensor:
    generator = torch.Generator().manual_seed(seed)
    return (torch.randn if normal else torch.rand)(shape, generator=generator, dtype=torch.float64)


_MODULES: dict[type[nn.Module], str] = {
    nn.CrossEntropyLoss: "cross_entropy",
    nn.NLLLoss: "nll_loss",
    nn.MSELoss: "mse_loss",
    nn.BCEWithLogitsLoss: "binary_cross_entropy_with_logits",
}


def _kind(criterion: Criterion) -> tuple[str, dict[str, Any]]:
    """Return which of PyTorch's likelihoods a criterion is, with its options."""
    for module, name in _MODULES.items():
        if isinstance(criterion, module):
            return name, {
                key: getattr(criterion, key, None) for key in ("weight", "pos_weight", "label_smoothing", "reduction")
            } | {"ignore_index": getattr(criterion, "ignore_index", -100)}
    function, keywords = (criterion.func, criterion.keywords) if isinstance(criterion, partial) else (criterion, {})
    for name in _MODULES.values():
        if function is getattr(F, name):
            return name, dict(keywords)
    raise InputError(
        "expected cross_entropy, nll_loss, mse_loss or binary_cross_entropy_with_logits of torch for the Monte-Carlo "
        f"Fisher matrix, got {criterion!r}: use the empirical Fisher or the Gauss-Newton matrix"
    )
