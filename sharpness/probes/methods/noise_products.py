"""One pass over the gradients of all examples that keeps a few inner products of each, and no gradient."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from sharpness.errors import RunError
from sharpness.linalg.operators import SymmetricOperator
from sharpness.loss.graphs import Pieces
from sharpness.loss.per_example import UnitGradients
from sharpness.machine.progress import Progress
from sharpness.probes.methods.noise_statistics import Array
from sharpness.vectors import norm, refuse_non_finite

NOT_A_MEAN = 1e-3  # of the mean length of the deviations; what rounding leaves of their sum is far below that


@dataclass(frozen=True, kw_only=True)
class InnerProducts:
    """The products behind the estimates, by the names of :mod:`sharpness.probes.methods.noise_statistics`."""

    weights: Array
    squares: Array
    along: Array
    square: float
    residual: float  # length of the sum of all deviations, which should be 0, over the sum of their lengths
    chosen: Array
    curvatures: Array
    along_curvature: Array
    curvature: float


def inner_products(
    units: UnitGradients,
    operator: SymmetricOperator | None,
    chosen: Tensor,
    progress: Progress | None,
    scale: Tensor | None = None,
) -> InnerProducts:
    """Go over the gradients of all units, with a product with the Hessian ``operator`` for those ``chosen``.

    Without an operator what needs it is empty or 0. With ``scale``, shape ``(n,)``, all gradients are multiplied by it
    first, which for ``P^-1/2`` gives the products in the geometry of P. Raises :class:`RunError` where the units do not
    make up the loss.
    """
    loss, count = units.loss, len(units.weights)
    gradient = loss.grad(units.w)
    refuse_non_finite("gradients", loss.layout.unflatten(gradient).items(), "check the data and the weights")
    if scale is not None:
        gradient = gradient * scale
    curved = None if operator is None else operator.matvec(gradient)
    squares, along, along_curvature, curvatures = [], [], [], []
    total, first = torch.zeros_like(gradient), 0
    for pieces in units:
        rows = deviations(pieces, gradient, units.weights[first : first + len(pieces[0])], scale)
        squares.append(_plain((rows * rows).sum(1)))
        along.append(_plain(rows @ gradient))
        total += rows.sum(0)
        if operator is not None and curved is not None:
            along_curvature.append(_plain(rows @ curved))
            here = chosen[(chosen >= first) & (chosen < first + len(rows))] - first
            curvatures += [_dot(rows[i], operator.matvec(rows[i])) for i in here.tolist()]
        first += len(rows)
        if progress is not None:
            progress(first + len(curvatures), count + len(chosen))
    return InnerProducts(
        weights=units.weights.numpy(),
        squares=torch.cat(squares).numpy(),
        along=torch.cat(along).numpy(),
        square=norm(gradient) ** 2,
        residual=_residual(units, norm(total), float(torch.cat(squares).sqrt().sum())),
        chosen=chosen.numpy(),
        curvatures=torch.tensor(curvatures, dtype=torch.float64).numpy(),
        along_curvature=torch.cat([*along_curvature, torch.zeros(0, dtype=torch.float64)]).numpy(),
        curvature=0.0 if curved is None else _dot(gradient, curved),
    )


def _residual(units: UnitGradients, length_of_sum: float, sum_of_lengths: float) -> float:
    residual = length_of_sum / sum_of_lengths if sum_of_lengths else 0.0
    if residual > NOT_A_MEAN:
        raise RunError(
            f"expected a loss that is the mean over its {units.unit}s, but their gradients miss its own by "
            f"{residual:.1g} of their spread: give the loss's count, or use method='batches'"
        )
    return residual


def deviations(pieces: Pieces, gradient: Tensor, weights: Tensor, scale: Tensor | None = None) -> Tensor:
    """Return ``v_b (g_b - G)`` for the units of a chunk as rows, shape ``(k, n)``, from their gradients' pieces.

    With ``scale`` the gradients of the units are multiplied by it first; G is taken as it is.
    """
    rows = torch.cat([piece.detach().flatten(1) for piece in pieces], dim=1)
    if scale is not None:
        rows.mul_(scale)
    return rows.sub_(gradient).mul_(weights.to(rows).unsqueeze(1))


def _plain(numbers: Tensor) -> Tensor:
    return numbers.detach().cpu().double()


def _dot(a: Tensor, b: Tensor) -> float:
    return float(a.cpu().double() @ b.cpu().double())
