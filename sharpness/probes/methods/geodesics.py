"""Steps along geodesics of the space of functions: where G and H are used only as G H^T, no step keeps the product."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from sharpness.errors import InputError, unknown_name
from sharpness.probes.methods.attention_pairs import Pair, entries

Factors = tuple[Tensor, Tensor]


@dataclass(frozen=True)
class Metric:
    """A metric of pairs (G, H) that G A, H A^-T does not change, at balanced factors G^T G = H^T H = S diagonal.

    Tangents are ``a = unit * u`` with u in an orthonormal basis. ``vertical(a, b, G, H, s)`` is the M whose (G M,
    -H M^T) is taken away from (a, b) by the orthogonal projection; ``christoffel(a, b, G, H, s)`` is Gamma_G, that of H
    with the roles exchanged. ``s`` is (heads, 1, h), the diagonal of S.
    """

    unit: Callable[[Tensor], Tensor]
    vertical: Callable[[Tensor, Tensor, Tensor, Tensor, Tensor], Tensor]
    christoffel: Callable[[Tensor, Tensor, Tensor, Tensor, Tensor], Tensor]


def _vertical_inv(a: Tensor, b: Tensor, g: Tensor, h: Tensor, s: Tensor) -> Tensor:
    # S^2 Y + Y S^2 = S H^T b - a^T G S is solved entry by entry, for S is diagonal; Lambda = Y^T.
    return -((s.mT * (h.mH @ b) - (a.mH @ g) * s) / (s.mT**2 + s**2)).mH


def _vertical_mix(a: Tensor, b: Tensor, g: Tensor, h: Tensor, s: Tensor) -> Tensor:
    return ((g.mH @ a) / s.mT - (b.mH @ h) / s) / 2


def _christoffel_inv(a: Tensor, b: Tensor, g: Tensor, h: Tensor, s: Tensor) -> Tensor:
    return (g / s) @ (a.mH @ a) - (a / s) @ (a.mH @ g + g.mH @ a)


def _christoffel_mix(a: Tensor, b: Tensor, g: Tensor, h: Tensor, s: Tensor) -> Tensor:
    return (a @ (b.mH @ h + h.mH @ b) - g @ (b.mH @ b)) / s


METRICS: dict[str, Metric] = {
    "inv": Metric(torch.sqrt, _vertical_inv, _christoffel_inv),
    "mix": Metric(torch.rsqrt, _vertical_mix, _christoffel_mix),
}
"""``inv``: Tr[(G^T G)^-1 a^T a + (H^T H)^-1 b^T b]; ``mix``: Tr[(H^T H) a^T a + (G^T G) b^T b]."""


@dataclass(frozen=True)
class Balanced:
    """Factors ``G T^-T`` and ``H T`` of the same product with G^T G = H^T H = diag(s), and the ways back.

    ``first`` (heads, n, h), ``second`` (heads, m, h), ``singular`` (heads, 1, h) the singular values of G H^T,
    ``backs`` (heads, h, h): steps a and b at the balanced factors are ``a @ backs[0]`` and ``b @ backs[1]`` at G and H.
    """

    first: Tensor
    second: Tensor
    singular: Tensor
    backs: Factors


def balanced(g: Tensor, h: Tensor, name: str) -> Balanced:
    """Return the balanced factors of each head of G and H, in float64 on the CPU; the same for G A and H A^-T.

    From the singular value decomposition of G H^T by those of the triangles of G and H, so that no Gram matrix is
    inverted; the sign of each singular vector is that of the largest entry in G's. :class:`InputError` for a product of
    a lower rank than h in the precision of the weights: there the metrics have no value.

    >>> one = balanced(torch.tensor([[[8.0], [0.0]]]), torch.tensor([[[0.0], [0.5]]]), "head")
    >>> one.first.norm().item(), one.second.norm().item(), one.singular.item()
    (2.0, 2.0, 4.0)
    """
    exact = torch.complex128 if g.is_complex() else torch.float64
    (q1, r1), (q2, r2) = (torch.linalg.qr(factor.cpu().to(exact)) for factor in (g, h))
    u, s, vh = torch.linalg.svd(r1 @ r2.mH, full_matrices=False)
    width, eps = g.shape[-1], torch.finfo(g.dtype).eps
    if s.shape[-1] < width or not bool((s[:, -1] > eps * s[:, 0]).all()):
        ranks = (s > eps * s[:, :1]).sum(1)
        raise InputError(
            f"expected G H^T of rank {width} in each head of {name}, got {int(ranks.min())}: "
            "hold this block fixed by selecting other parameters"
        )
    left, right = q1 @ u, q2 @ vh.mH
    signs = left.gather(1, left.abs().argmax(1, keepdim=True)).sgn().conj()
    root = s.sqrt().unsqueeze(1)
    backs = (signs * u / root).mH @ r1, (signs * vh.mH / root).mH @ r2
    return Balanced(signs * left * root, signs * right * root, s.unsqueeze(1), backs)


class Geodesics:
    """Points ``w + xi - Gamma[xi, xi] / 2`` from weights w, as a function of u, shape (n,), with ``|xi|_w = |u|``.

    The second-order geodesics of da Silva et al. 2025 (arXiv 2505.05409). In the pairs u are coordinates in an
    orthonormal basis of ``metric`` at the balanced factors of each head, so that the same u gives the same function at
    G, H and at G A, H A^-T; elsewhere ``xi = |w| u`` and Gamma = 0, the adaptive recipe. Of complex factors transposes
    are adjoints throughout. ``condition`` is the largest ratio of singular values of a G H^T. Raises
    :class:`InputError` for another metric than ``inv`` and ``mix``.
    """

    def __init__(self, w: Tensor, pairs: Sequence[Pair], metric: str) -> None:
        if metric not in METRICS:
            raise unknown_name("metric", metric, METRICS)
        self.w, self.pairs, self.metric = w, pairs, METRICS[metric]
        self.at = [balanced(*pair.of(w), pair.name) for pair in pairs]
        self.condition = max(float((at.singular.amax(2) / at.singular.amin(2)).max()) for at in self.at)
        self.at = [_like(at, w) for at in self.at]
        self.places = torch.cat([pair.places for pair in pairs])

    def point(self, u: Tensor) -> Tensor:
        """Return the weights that u leads to; differentiable."""
        steps = list[Tensor]()
        for (a, b), at in zip(self._tangents(u), self.at, strict=True):
            g, h, s = at.first, at.second, at.singular
            steps.append((a - self.metric.christoffel(a, b, g, h, s) / 2) @ at.backs[0])
            steps.append((b - self.metric.christoffel(b, a, h, g, s) / 2) @ at.backs[1])
        step = (self.w.abs() * u).index_copy(0, self.places, torch.cat([entries(part) for part in steps]))
        return self.w + step

    def horizontal(self, u: Tensor) -> Tensor:
        """Return u without what only moves G and H to G A and H A^-T, by the orthogonal projection."""
        kept = list[Tensor]()
        for (a, b), at in zip(self._tangents(u), self.at, strict=True):
            g, h, s = at.first, at.second, at.singular
            vertical, unit = self.metric.vertical(a, b, g, h, s), self.metric.unit(s)
            kept += [(a - g @ vertical) / unit, (b + h @ vertical.mH) / unit]
        return u.index_copy(0, self.places, torch.cat([entries(part) for part in kept]))

    def pulled_back(self, u: Tensor, value_and_grad: Callable[[Tensor], tuple[float, Tensor]]) -> tuple[float, Tensor]:
        """Return a function's value at the point of u and the horizontal part of its gradient in u."""
        leaf = u.detach().requires_grad_()
        with torch.enable_grad():
            point = self.point(leaf)
        value, gradient = value_and_grad(point.detach())
        (along,) = torch.autograd.grad(point, leaf, gradient)
        return value, self.horizontal(along)

    def _tangents(self, u: Tensor) -> list[Factors]:
        """Return the steps (a, b) of u at the balanced factors of each pair."""
        units = [self.metric.unit(at.singular) for at in self.at]
        pieces = [pair.of(u) for pair in self.pairs]
        return [(first * unit, second * unit) for (first, second), unit in zip(pieces, units, strict=True)]


def _like(at: Balanced, w: Tensor) -> Balanced:
    """Return balanced factors in the precision and on the device of the weights."""
    dtype = w.dtype.to_complex() if at.first.is_complex() else w.dtype
    first, second, *backs = (part.to(w.device, dtype) for part in (at.first, at.second, *at.backs))
    return Balanced(first, second, at.singular.to(w), (backs[0], backs[1]))
