"""One pass over the gradients of all examples that keeps a few inner products of each, and no gradient."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from sharpness.errors import RunError
from sharpness.linalg.operators import SymmetricOperator
from sharpness.loss.per_example import UnitGradients
from sharpness.machine.progress import Progress
from sharpness.probes.methods.noise_statistics import Array
from sharpness.vectors import dot, norm, refuse_non_finite

IN_CACHE, AT_ONCE = 1 << 17, 1 << 24  # numbers at a time, on a CPU and elsewhere: more no longer stay in a core's cache
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
    others = torch.stack([gradient] if curved is None else [gradient, curved], dim=1)
    total, first = torch.zeros_like(gradient), 0
    squares, along, curvatures = [], [], []
    for pieces in units:
        weights = units.weights[first : first + len(pieces[0])]
        lengths, products = _of_chunk(deviations(pieces, gradient, weights, scale), others, total)
        squares.append(lengths)
        along.append(products)
        if operator is not None:
            here = chosen[(chosen >= first) & (chosen < first + len(weights))] - first
            rows = (_row(pieces, i, gradient, weights, scale) for i in here.tolist())
            curvatures += [dot(row, operator.matvec(row)) for row in rows]
        first += len(weights)
        if progress is not None:
            progress(first + len(curvatures), count + len(chosen))
    products = torch.cat(along).numpy()
    return InnerProducts(
        weights=units.weights.numpy(),
        squares=torch.cat(squares).numpy(),
        along=products[:, 0],
        square=norm(gradient) ** 2,
        residual=_residual(units, norm(total), float(torch.cat(squares).sqrt().sum())),
        chosen=chosen.numpy(),
        curvatures=torch.tensor(curvatures, dtype=torch.float64).numpy(),
        along_curvature=products[:, 1] if curved is not None else products[:0, 0],
        curvature=0.0 if curved is None else dot(gradient, curved),
    )


def _residual(units: UnitGradients, length_of_sum: float, sum_of_lengths: float) -> float:
    residual = length_of_sum / sum_of_lengths if sum_of_lengths else 0.0
    if residual > NOT_A_MEAN:
        raise RunError(
            f"expected a loss that is the mean over its {units.unit}s, but their gradients miss its own by "
            f"{residual:.1g} of their spread: give the loss's count, or use method='batches'"
        )
    return residual


def deviations(
    pieces: Sequence[Tensor], gradient: Tensor, weights: Tensor, scale: Tensor | None = None
) -> Iterator[tuple[slice, Tensor]]:
    """Return ``v_b (g_b - G)`` of a chunk's units from their gradients' pieces, shape ``(k, m)`` for m coordinates.

    They come for a few coordinates at a time, with the slice of those. With ``scale`` the gradients of the units are
    multiplied by it first; G is taken as it is.
    """
    factors, first = weights.to(gradient).unsqueeze(1), 0
    width = max(1, (IN_CACHE if gradient.device.type == "cpu" else AT_ONCE) // len(weights))
    for piece in pieces:
        for part in piece.detach().flatten(1).split(width, dim=1):
            where = slice(first, first + part.shape[1])
            rows = part if scale is None else part * scale[where]
            yield where, (rows - gradient[where]).mul_(factors)
            first = where.stop


def _row(pieces: Sequence[Tensor], i: int, gradient: Tensor, weights: Tensor, scale: Tensor | None) -> Tensor:
    """Return the deviation of unit i of a chunk as a vector."""
    one = deviations([piece[i : i + 1] for piece in pieces], gradient, weights[i : i + 1], scale)
    return torch.cat([rows[0] for _, rows in one])


def _of_chunk(parts: Iterator[tuple[slice, Tensor]], others: Tensor, total: Tensor) -> tuple[Tensor, Tensor]:
    """Return ``|d_b|^2``, shape ``(k,)``, and ``d_b . others``, ``(k, c)``, and add the sum of all d_b to ``total``.

    Blocks are summed in float64.
    """
    squares, along = [], []
    for where, rows in parts:
        squares.append((rows * rows).sum(1))
        along.append(rows @ others[where])
        total[where] += rows.sum(0)
    return _plain(torch.stack(squares)).sum(0), _plain(torch.stack(along)).sum(0)


def _plain(numbers: Tensor) -> Tensor:
    return numbers.detach().cpu().double()
