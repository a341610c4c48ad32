"""The quantities that a tracker measures: each is a function of one point of the training, and what it goes on from."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor

from sharpness.curvature import HessianOperator
from sharpness.curvature.preconditioned import Preconditioned
from sharpness.data.batches import Batch
from sharpness.errors import RunError
from sharpness.landscapes.line_search import first_crossing
from sharpness.loss import Loss
from sharpness.training.measures import TopEigenvalue
from sharpness.training.noise import NoiseScale, norms_of_parts
from sharpness.training.tracker.stepping import Edge, Stepping
from sharpness.vectors import dot

Row = dict[str, Any]
RTOL, MOST_PRODUCTS = 0.05, 8
"""A solve ends at a residual of a twentieth of the eigenvalue (its error is the square over the gap) or with these."""
TOL, MOST_TRIALS = 1 / 16, 40
"""The bracket of a critical step, as in the probe; nothing checks for a crossing that doubling jumped over."""
UPHILL = "the update points uphill"


@dataclass
class Memory:
    """The state between measurements: last eigenvectors, the last critical step, averages of the noise scale."""

    hessian: TopEigenvalue = field(default_factory=lambda: TopEigenvalue(RTOL, MOST_PRODUCTS))
    preconditioned: TopEigenvalue = field(default_factory=lambda: TopEigenvalue(RTOL, MOST_PRODUCTS))
    noise: NoiseScale = field(default_factory=NoiseScale)
    critical_step: float | None = None


@dataclass(frozen=True)
class Point:
    """The loss over the examples of a measurement at the present weights, and what the optimiser is about to do."""

    loss: Loss
    batch: Batch
    stepping: Stepping
    memory: Memory

    @property
    def w(self) -> Tensor:
        """The present weights."""
        return self.loss.weights


def top_eigenvalue(at: Point) -> Row:
    """Return the top eigenvalue of the Hessian, each solve started from the vector of the last."""
    row = _named("top_eigenvalue", at.memory.hessian.solve(HessianOperator(at.loss, at.w)))
    return row | _to_edge("top_eigenvalue", row["top_eigenvalue"], at.stepping.of_hessian())


def preconditioned_sharpness(at: Point) -> Row:
    """Return the top eigenvalue of ``P^-1/2 H P^-1/2``, P Adam's (Cohen et al. 2022, arXiv 2207.14484)."""
    operator = Preconditioned(HessianOperator(at.loss, at.w), at.stepping.preconditioner(at.w))
    row = _named("preconditioned_sharpness", at.memory.preconditioned.solve(operator))
    edge = at.stepping.of_preconditioned()
    return row | _to_edge("preconditioned_sharpness", row["preconditioned_sharpness"], edge)


def critical_sharpness(at: Point) -> Row:
    """Return ``2 / eta_c`` along the next update, the search begun at the last eta_c (Kalra et al. 2026).

    The rounding noise that a fall has to exceed fourfold is the change of the loss when all weights grow by a unit in
    their last place: one pass, where the probe takes three.
    """
    name, memory = "critical_sharpness", at.memory
    start, gradient = at.loss.value_and_grad(at.w)
    d = at.stepping.next_update(gradient)
    if dot(d, gradient) <= 0:
        return {name: None, f"{name}_reason": UPHILL}
    first = memory.critical_step or at.stepping.rate or 1e-3
    crossing = first_crossing(
        lambda eta: at.loss.value(at.w - eta * d), start, first, tol=TOL, most=MOST_TRIALS, checks=0
    )
    eps = torch.finfo(at.w.dtype).eps
    noise = max(eps * abs(start), abs(at.loss.value(at.w * (1 + eps)) - start))
    if crossing.step is None or crossing.fall < 4 * noise:
        return {name: None, f"{name}_reason": "no step was found at which the loss, beyond rounding, rises again"}
    memory.critical_step = crossing.step
    value = 2 / crossing.step
    return {name: value} | _to_edge(name, value, at.stepping.along_update())


def directional_sharpness(at: Point) -> Row:
    """Return ``d^T H d / d^T g`` along the next update d, by one product."""
    name, gradient = "directional_sharpness", at.loss.grad(at.w)
    d = at.stepping.next_update(gradient)
    if (slope := dot(d, gradient)) <= 0:
        return {name: None, f"{name}_reason": UPHILL}
    value = dot(d, HessianOperator(at.loss, at.w, cache=0).matvec(d)) / slope
    return {name: value} | _to_edge(name, value, at.stepping.along_update())


def batch_sharpness(at: Point) -> Row:
    """Return ``g^T H g / g^T g`` of the batch's own loss: one draw of the mean of arXiv 2412.20553."""
    name, gradient = "batch_sharpness", at.loss.grad(at.w)
    if not (square := dot(gradient, gradient)):
        return {name: None, f"{name}_reason": "the gradient is 0"}
    value = dot(gradient, HessianOperator(at.loss, at.w, cache=0).matvec(gradient)) / square
    return {name: value} | _to_edge(name, value, at.stepping.of_batches())


def noise_scale(at: Point) -> Row:
    """Return ``|G|^2``, ``tr Sigma`` and ``B_simple`` from the halves of batches, averaged with decay."""
    norms = norms_of_parts(at.loss, at.w, at.batch, parts=2)
    if not norms.finite:
        raise RunError("the gradients of this batch are not finite: the averages have the other batches alone")
    at.memory.noise.add(norms)
    return at.memory.noise.row()


@dataclass(frozen=True)
class Quantity:
    """A function, whether it is of examples that stay and of whole batches, and its first cost in training steps."""

    measure: Callable[[Point], Row]
    kept: bool
    whole: bool
    steps: float


QUANTITIES: Mapping[str, Quantity] = {
    "critical_sharpness": Quantity(critical_sharpness, kept=False, whole=False, steps=6),
    "top_eigenvalue": Quantity(top_eigenvalue, kept=True, whole=False, steps=15),
    "preconditioned_sharpness": Quantity(preconditioned_sharpness, kept=True, whole=False, steps=15),
    "batch_sharpness": Quantity(batch_sharpness, kept=False, whole=True, steps=4),
    "directional_sharpness": Quantity(directional_sharpness, kept=False, whole=False, steps=4),
    "noise_scale": Quantity(noise_scale, kept=False, whole=True, steps=2),
}
"""The names that ``quantities`` may hold, in the order in which they take turns."""


def _named(name: str, row: Row) -> Row:
    return {f"{name}{suffix}": value for suffix, value in row.items()}


def _to_edge(name: str, value: float, edge: Edge) -> Row:
    """Return the value as a share of that at the edge of stability, or the reason why there is none."""
    at, why = edge
    return {f"{name}_to_edge": None, f"{name}_to_edge_reason": why} if at is None else {f"{name}_to_edge": value / at}
