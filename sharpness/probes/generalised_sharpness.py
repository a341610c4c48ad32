"""The sharpness in the norm of sign descent or of Muon: the largest curvature over the unit ball of that norm."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor

from sharpness.errors import InputError, unknown_name
from sharpness.linalg.lanczos import extreme_eigenpairs
from sharpness.linalg.sampling import Products
from sharpness.loss import Loss
from sharpness.machine.environment import derived_seed
from sharpness.machine.progress import Progress
from sharpness.probes.methods.spectra import CurvatureProbe, basis_limit, curvature_details
from sharpness.probes.methods.unit_balls import BALLS, Ball
from sharpness.results import MERGED, ProbeResult
from sharpness.vectors import Layout, dot

NOT_GLOBAL = "a local maximum is found, the global one is not (NP-hard in the norm of signs): value is a lower bound"


@dataclass(frozen=True, kw_only=True)
class GeneralisedSharpnessResult(ProbeResult):
    """A curvature that is attained in the ball, ``value``; the largest one lies from there to ``upper``."""

    gradient_dual_norm: float
    edge_step: float | None
    start_values: tuple[float, ...]
    local_maxima: int
    operator_details: Mapping[str, Any] = field(repr=False, metadata=MERGED)

    def __str__(self) -> str:
        most = "" if self.upper is None else f", at most {self.upper:.4g}"
        edge = "" if self.edge_step is None else f", edge of stability at steps of {self.edge_step:.3g}"
        return f"at least {self.value:.5g}{most}{edge}, {self.num_hvps} HVPs, {self.seconds:.1f} s"


@dataclass(frozen=True, kw_only=True)
class GeneralisedSharpness(CurvatureProbe[GeneralisedSharpnessResult]):
    """The largest ``d^T H d`` over the unit ball of an optimiser's own norm, bounded from below.

    Islamov, Crawshaw, Cohen and Gower 2026 (arXiv 2603.05002), whose generalised sharpness it is: steepest descent in a
    norm, ``w - eta |g|_* d`` with d the point of the unit ball along the gradient g and ``|g|_*`` the dual norm, is at
    its edge where it is ``2 / eta``. In the Euclidean norm it is the top eigenvalue, in Adam's the
    ``preconditioned_sharpness``. ``geometry`` is another norm: ``sign``, every entry at most 1, of sign descent;
    ``spectral``, every matrix of a spectral norm of at most 1 (vectors: length 1), of Muon. ``edge_step`` is the length
    of plain steps ``w - edge_step d`` at the edge, ``2 |g|_* / value``. ``spectral`` covers every weight given, whereas
    Muon steps on the matrices inside a network alone: with the trainer's ``muon`` embeddings, norms, biases and the
    output layer are AdamW's. A loss whose ``parameters`` are the inner matrices has the sharpness of its own part.

    ``value`` is attained by a d that is found, and so a **lower bound**: the best of ``num_starts`` climbs (the first
    from the top eigenvector) by Frank and Wolfe's steps with an exact line search, one product each, which end where
    the gap to a stationary point is ``rtol`` of the value. ``upper`` is the upper bound of the top eigenvalue, at
    ``confidence``, times the largest squared length in the ball (n, or the sum of the ranks): true, and loose.

    >>> batch = (torch.tensor([[3.0, -4.0]]), torch.tensor([[0.0]]))
    >>> loss = Loss(torch.nn.Linear(2, 1, bias=False), torch.nn.functional.mse_loss, [batch], dtype=torch.float64)
    >>> round(GeneralisedSharpness()(loss).value, 6)                       # 2 (|3| + |-4|)^2
    98.0
    """

    name = "generalised_sharpness"

    geometry: str = "sign"
    num_starts: int = 4
    rtol: float = 1e-2
    confidence: float = 0.99
    num_hvps: int = 150

    def measure(self, loss: Loss, w: Tensor, *, progress: Progress | None = None) -> GeneralisedSharpnessResult:
        """Measure at ``w``; :class:`InputError` for bad knobs."""
        if self.geometry not in BALLS:
            raise unknown_name("geometry", self.geometry, BALLS)
        if self.num_starts < 1:
            raise InputError(f"expected at least 1 start, got {self.num_starts}: 4 is usual")
        operator, ball, layout = self.operator(loss, w), BALLS[self.geometry], loss.layout
        pairs = extreme_eigenpairs(
            operator,
            1,
            rtol=0.1,  # the factor to the norm's ball is far larger
            confidence=self.confidence,
            num_products=min(self.num_hvps // 2, operator.size),
            max_basis=basis_limit(operator, self.num_hvps // 2, least=6),
            seconds=self.seconds,
            seed=self.seed,
        )
        products = Products(operator, self.num_hvps - pairs.num_products, progress)
        climbs = list[tuple[float, bool]]()
        for number, start in enumerate(self._starts(pairs.eigenvectors, w)):
            left = (products.ceiling - products.made) // (self.num_starts - number)
            if left:
                climbs.append(self._climb(products, ball, layout, ball.step(start, layout), left))
        value = max(0.0, *(found for found, _ in climbs)) if climbs else 0.0
        gradient = loss.grad(w)
        dual = dot(gradient, ball.step(gradient, layout))
        bound = None if pairs.uppers is None else max(0.0, float(pairs.uppers[0])) * ball.square(layout)
        return GeneralisedSharpnessResult(
            quantity=self.quantity(f"generalised_sharpness_{self.geometry}"),
            value=value,
            lower=value,
            upper=bound,
            confidence=pairs.confidence if bound is not None else None,
            num_hvps=pairs.num_products + products.made,
            num_gradients=1,
            seed=self.seed,
            hvp_backend=operator.backend,
            gradient_dual_norm=dual,
            edge_step=2 * dual / value if value > 0 else None,
            start_values=tuple(found for found, _ in climbs),
            local_maxima=sum(ended for _, ended in climbs),
            operator_details=curvature_details(operator),
            reasons={"converged": NOT_GLOBAL},
        )

    def _starts(self, eigenvectors: Tensor | None, w: Tensor) -> Iterator[Tensor]:
        """Yield the vectors that climbs begin along: the top eigenvector, and random ones."""
        if eigenvectors is not None:
            yield eigenvectors[0].to(w)
        for number in range(self.num_starts - (eigenvectors is not None)):
            generator = torch.Generator().manual_seed(derived_seed(self.seed, "generalised", number))
            yield torch.randn(w.shape, generator=generator, dtype=torch.float64).to(w)

    def _climb(self, products: Products, ball: Ball, layout: Layout, d: Tensor, most: int) -> tuple[float, bool]:
        """Return the curvature along the end of a climb from d, and whether it is a stationary point of the ball.

        With s the point of the ball along H d, the curvature along ``d + t (s - d)`` is quadratic in t and does not
        fall at t = 0: its maximum over [0, 1] is taken. At most ``most`` products are made.
        """
        image = products(d[:, None])[:, 0]
        value = dot(d, image)
        for _ in range(most - 1):
            best = ball.step(image, layout)
            gap = dot(best - d, image)
            if gap <= self.rtol / 2 * abs(value):
                return value, True
            other = products(best[:, None])[:, 0]
            square = dot(best - d, other - image)
            t = 1.0 if square >= 0 else min(1.0, gap / -square)
            d, image = d + t * (best - d), image + t * (other - image)
            value = dot(d, image)
        return value, False
