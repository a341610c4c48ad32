"""Lines and curves between two points of weight space; all of them end at these points bit for bit."""

from __future__ import annotations

import functools
import math
import operator
from collections.abc import Callable, Sequence

from torch import Tensor

from sharpness.errors import InputError

Curve = Callable[[float], Tensor]
"""A point of weight space for each number t; w_0 at t = 0 and w_1 at t = 1."""


def linear(w_0: Tensor, w_1: Tensor) -> Curve:
    """Return the straight line ``(1 - t) w_0 + t w_1``, for any t; :class:`InputError` for unequal shapes.

    >>> import torch
    >>> path = linear(torch.tensor([1.0, 0.0]), torch.tensor([0.0, 1.0]))
    >>> path(0.25), path(2.0)
    (tensor([0.7500, 0.2500]), tensor([-1.,  2.]))
    """
    _check([w_0, w_1])
    return lambda t: combination((1 - t, t), (w_0, w_1))


def arc(w_0: Tensor, w_1: Tensor) -> Curve:
    """Return the arc ``cos(t pi/2) w_0 + sin(t pi/2) w_1``, for any t; :class:`InputError` for unequal shapes.

    The curvilinear path of Keskar et al. 2017 (arXiv 1609.04836), appendix D, on t in [-1, 2]. It keeps the length of
    the weights where the two ends are at right angles and equally long; it turns about the origin.

    >>> import torch
    >>> arc(torch.tensor([1.0, 0.0]), torch.tensor([0.0, 1.0]))(0.5)
    tensor([0.7071, 0.7071])
    """
    _check([w_0, w_1])

    def path(t: float) -> Tensor:
        if t in (0.0, 1.0):  # where the cosine is 6e-17 and not 0
            return combination((1 - t, t), (w_0, w_1))
        return combination((math.cos(t * math.pi / 2), math.sin(t * math.pi / 2)), (w_0, w_1))

    return path


def bezier(w_0: Tensor, bends: Sequence[Tensor], w_1: Tensor) -> Curve:
    """Return the Bezier curve with these control points, of degree ``len(bends) + 1``.

    Garipov et al. 2018 (arXiv 1802.10026), section 3, for one bend: ``(1-t)^2 w_0 + 2 t (1-t) theta + t^2 w_1``.
    Raises :class:`InputError` for unequal shapes and for no bends.

    >>> import torch
    >>> bezier(torch.tensor([0.0, 0.0]), [torch.tensor([1.0, 2.0])], torch.tensor([2.0, 0.0]))(0.5)
    tensor([1., 1.])
    """
    points = _control_points(w_0, bends, w_1)
    return lambda t: combination(bezier_coefficients(t, len(bends)), points)


def chain(w_0: Tensor, bends: Sequence[Tensor], w_1: Tensor) -> Curve:
    """Return the polygonal chain through the bends, each of its segments run through in the same share of t.

    Garipov et al. 2018 (arXiv 1802.10026), section 3, for one bend. Raises :class:`InputError` for unequal shapes
    and for no bends; the path does for a t outside [0, 1].

    >>> import torch
    >>> path = chain(torch.tensor([0.0, 0.0]), [torch.tensor([1.0, 2.0])], torch.tensor([2.0, 0.0]))
    >>> path(0.25), path(0.5)
    (tensor([0.5000, 1.0000]), tensor([1., 2.]))
    """
    points = _control_points(w_0, bends, w_1)
    return lambda t: combination(chain_coefficients(t, len(bends)), points)


def bezier_coefficients(t: float, num_bends: int) -> list[float]:
    """Return what w_0, each bend and w_1 are multiplied by at ``t``: the Bernstein polynomials.

    They are also the derivatives of the point at ``t`` with respect to these points, so a loss L there has the
    gradient ``coefficient * grad L`` with respect to a bend.

    >>> bezier_coefficients(0.25, 1)
    [0.5625, 0.375, 0.0625]
    """
    degree = num_bends + 1
    return [math.comb(degree, k) * t**k * (1 - t) ** (degree - k) for k in range(degree + 1)]


def chain_coefficients(t: float, num_bends: int) -> list[float]:
    """Return what w_0, each bend and w_1 are multiplied by at ``t`` in [0, 1]: two of them are not 0 at most.

    They are derivatives as in :func:`bezier_coefficients`. Raises :class:`InputError` for a t outside [0, 1].

    >>> chain_coefficients(0.375, 1)
    [0.25, 0.75, 0.0]
    """
    if not 0 <= t <= 1:
        raise InputError(f"expected t from 0 to 1 on a chain, got {t}: it has no more segments")
    place = t * (num_bends + 1)
    return [max(0.0, 1 - abs(place - k)) for k in range(num_bends + 2)]


def combination(coefficients: Sequence[float], points: Sequence[Tensor]) -> Tensor:
    """Return the sum of points times coefficients; a point whose coefficient is 0 takes no part, whatever it holds.

    >>> import torch
    >>> combination((0.0, 1.0), (torch.tensor([float("nan")]), torch.tensor([-0.0])))
    tensor([-0.])
    """
    pairs = zip(coefficients, points, strict=True)
    return functools.reduce(operator.add, (factor * point for factor, point in pairs if factor != 0))


CURVES: dict[str, Callable[[Tensor, Sequence[Tensor], Tensor], Curve]] = {"bezier": bezier, "chain": chain}
"""The curves with bends by name."""

COEFFICIENTS: dict[str, Callable[[float, int], list[float]]] = {
    "bezier": bezier_coefficients,
    "chain": chain_coefficients,
}
"""Their coefficients, as functions of t and the number of bends, by the same names."""


def _control_points(w_0: Tensor, bends: Sequence[Tensor], w_1: Tensor) -> list[Tensor]:
    if not bends:
        raise InputError("expected at least one bend, got none: use the straight line")
    _check(points := [w_0, *bends, w_1])
    return points


def _check(points: Sequence[Tensor]) -> None:
    first = points[0]
    for point in points[1:]:
        if point.shape != first.shape:
            raise InputError(
                f"expected points of one shape, got {tuple(first.shape)} and {tuple(point.shape)}: "
                "give two checkpoints of one architecture"
            )
