"""Perturbations of weights: the scale of each weight, random draws, plain or normalised logits, and the checks."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from functools import partial
from typing import Any

import torch
from torch import Tensor

from sharpness.curvature.likelihoods import OF_CLASSES, kind_of
from sharpness.errors import InputError, RunError, unknown_name
from sharpness.loss import Loss
from sharpness.probes.methods.apgd import BALLS, Ball
from sharpness.vectors import norm


def _plain(w: Tensor) -> Tensor:
    return torch.ones_like(w)


def _filter(w: Tensor) -> Tensor:
    """Return for each entry the length of its row, the weights into one unit; a vector or number is entry by entry."""
    if w.ndim < 2:
        return w.abs()
    rows = w.flatten(1)
    return rows.norm(dim=1, keepdim=True).expand_as(rows).reshape(w.shape)


SCALINGS: dict[str, Callable[[Tensor], Tensor]] = {"plain": _plain, "adaptive": torch.abs, "filter": _filter}
"""The scale c of each weight as a function of its parameter: 1, its size, or the length of its filter."""


def scale_of(loss: Loss, w: Tensor, scaling: str) -> Tensor:
    """Return the scale c of each weight, shape (n,), on the device: perturbations are ``c * u`` for u in a ball.

    ``adaptive`` is ``|w_i|`` (Kwon et al. 2021, element-wise T_w; Andriushchenko et al. 2023, c = |w|): what is found
    does not change under rescalings that keep the network's function, and weights of 0 stay. ``filter`` gives all
    weights into one unit or channel the length of that row, and single weights such as biases their size (Kwon et al.
    2021, filter-wise T_w, with rows of fully connected layers as 1 x 1 filters as in Li et al. 2018).
    """
    if scaling not in SCALINGS:
        raise unknown_name("scaling", scaling, SCALINGS)
    pieces = loss.layout.unflatten(loss.point(w)).values()
    return torch.cat([SCALINGS[scaling](piece).reshape(-1) for piece in pieces])


def normalised(logits: Tensor) -> Tensor:
    """Return logits (classes in dimension 1) with mean 0 and length 1 over the classes of each example.

    Logit normalisation of Andriushchenko et al. 2023 (arXiv 2302.07011) as in their code, which subtracts the mean
    first: softmax does not see it, but the length does. Equal logits stay 0.

    >>> normalised(torch.tensor([[3.0, 1.0]]))
    tensor([[ 0.7071, -0.7071]])
    """
    return torch.nn.functional.normalize(logits - logits.mean(1, keepdim=True), dim=1)


def _checked(criterion: Any, logits: Tensor) -> Tensor:
    """Return normalised logits; :class:`InputError` where dimension 1 holds no classes, or none that are known."""
    if logits.ndim < 2 or logits.shape[1] < 2:
        raise InputError(
            f"expected logits of 2 or more classes in dimension 1, got outputs of shape {tuple(logits.shape)}: one "
            "logit alone is normalised to 0, use logits='plain'"
        )
    if logits.ndim > 2 and kind_of(criterion)[0] not in OF_CLASSES:
        raise InputError(
            f"expected N x classes logits, or N x classes x ... for cross_entropy, got shape {tuple(logits.shape)}, "
            "whose classes may be in any dimension: use logits='plain', or a network that returns N x classes"
        )
    return normalised(logits)


LOGITS: dict[str, Callable[[Loss], Loss]] = {
    "plain": lambda loss: loss,
    "normalised": lambda loss: loss.on_outputs(partial(_checked, loss.criterion)),
}
"""What the loss is taken of: the outputs, or those of length 1, so that scaling all logits changes nothing."""


def of_logits(loss: Loss, logits: str) -> Loss:
    """Return the loss of plain or normalised logits.

    Raises :class:`InputError` for another name, and where it is evaluated on outputs of fewer than 2 classes, or of
    more dimensions than N x classes with another criterion than torch's of classes.
    """
    if logits not in LOGITS:
        raise unknown_name("logits", logits, LOGITS)
    return LOGITS[logits](loss)


def parts_of(loss: Loss, m: int | None) -> Iterator[tuple[float, Loss]]:
    """Yield the loss over each part of at most m examples with its share of the mean; without m the whole loss."""
    if m is None:
        yield 1.0, loss
    else:
        yield from loss.parts(m)


def choose_ball(name: str) -> Ball:
    """Return the ball of a norm; :class:`InputError` for another name than ``l2`` and ``linf``."""
    if name not in BALLS:
        raise unknown_name("norm", name, BALLS)
    return BALLS[name]


def check_radius(name: str, value: float, usual: str) -> None:
    """Raise :class:`InputError` unless a radius or deviation is positive."""
    if not value > 0:
        raise InputError(f"expected a positive {name}, got {value}: {usual}")


def check_finite(value: float, where: str, cure: str) -> float:
    """Return the loss, or raise :class:`RunError` where it is no finite number."""
    if not math.isfinite(value):
        raise RunError(f"expected a finite loss {where}, got {value}: {cure}")
    return value


def finite_value_and_grad(loss: Loss, w: Tensor, where: str, cure: str) -> tuple[float, Tensor]:
    """Return loss and gradient, or raise :class:`RunError` where either is not finite: it would have no direction."""
    value, gradient = loss.value_and_grad(w)
    if not math.isfinite(length := norm(gradient)) or not math.isfinite(value):
        raise RunError(f"expected a finite loss and gradient {where}, got {value:g} and length {length:g}: {cure}")
    return value, gradient
