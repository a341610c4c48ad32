"""Worst-case sharpness along geodesics, where attention's symmetry is divided out."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from sharpness.loss import Loss
from sharpness.machine.environment import derived_seed
from sharpness.machine.progress import Progress
from sharpness.probes.methods.apgd import BALLS, Objective
from sharpness.probes.methods.attention_pairs import check_symmetric, find_pairs
from sharpness.probes.methods.geodesics import Geodesics
from sharpness.probes.methods.perturbations import check_finite, check_radius, finite_value_and_grad, parts_of
from sharpness.probes.methods.worst_rise import check_ascents, worst_rise
from sharpness.probes.worst_case import WorstCaseResult
from sharpness.results import Probe
from sharpness.vectors import norm, normal_vector


@dataclass(frozen=True, kw_only=True)
class GeodesicResult(WorstCaseResult):
    """The rise, averaged over the parts of the data."""

    pairs: dict[str, int]
    condition: float

    def details(self) -> dict[str, Any]:
        """Return the worst case's, the number of heads of each pair, and the worst condition of a G H^T."""
        return {**super().details(), "pairs": self.pairs, "condition": self.condition}

    def __str__(self) -> str:
        return (
            f"geodesic, metric {self.knobs['metric']}, rho {self.knobs['rho']:g}, {len(self.pairs)} attention pairs: "
            f"loss rises by at least {self.value:.4g} from {self.loss:.4g} (mean of {len(self.parts)} parts), "
            f"{self.num_gradients} gradients, {self.seconds:.1f} s"
        )


@dataclass(frozen=True)
class GeodesicSharpness(Probe[GeodesicResult]):
    """The largest rise on geodesics: ``E_S max_{|xi|_w <= rho} L_S(w + xi - Gamma[xi, xi] / 2) - L_S(w)``.

    da Silva, Dangel, Oore 2025 (arXiv 2505.05409), in nats. The (query, key) and (value, output) matrices G and H of
    each head of attention are used only as ``G H^T``, so G A and H A^-T are the same function for every invertible A;
    the measure is the same there too, which the adaptive sharpness is not. xi is orthogonal to the directions of this
    symmetry, Gamma is the connection of the ``metric`` ``inv`` or ``mix`` in which its length is taken, and S are parts
    of at most ``m`` consecutive examples of a batch (``None``: all the data at once). The maximum is sought by Auto-PGD
    from w and from ``num_starts - 1`` random points: it is a lower bound. ``docs/concepts/reparametrisation.md`` has
    the metrics, shared keys, rotary embeddings and the deviations from the paper.

    >>> model = torch.nn.MultiheadAttention(1, 1, bias=False)                      # of one token: w_v w_o x
    >>> for p in model.parameters(): _ = torch.nn.init.ones_(p)
    >>> batch = (torch.ones(1, 1).expand(3, 1, 1), torch.zeros(()))
    >>> model.forward = lambda x, own=model.forward: own(x, x, x)[0]
    >>> loss = Loss(model, lambda output, target: output.square().mean(), [batch], dtype=torch.float64)
    >>> b = 0.1 / 2**0.5                              # w_v and w_o become 1 + b + b^2 / 2 each
    >>> abs(GeodesicSharpness(rho=0.1)(loss).value - ((1 + b + b**2 / 2) ** 4 - 1)) < 1e-9
    True
    """

    name = "geodesic_sharpness"

    rho: float = 0.5
    metric: str = "inv"
    m: int | None = None
    steps: int = 20
    num_starts: int = 2
    seed: int = 0

    def measure(self, loss: Loss, w: Tensor, *, progress: Progress | None = None) -> GeodesicResult:
        """Measure at ``w``.

        Raises :class:`InputError` for rho <= 0, m, steps or starts below 1, an unknown metric, networks without
        attention blocks that are known (:func:`sharpness.probes.methods.attention_pairs.find_pairs`) or whose products
        have a deficient rank, :class:`RunError` where the loss is not finite at the weights or on the way.
        """
        check_radius("rho", self.rho, "worst_case takes 0.5")
        check_ascents(self.steps, self.num_starts)
        pairs = find_pairs(loss)
        base = check_finite(loss.value(w), "at the weights", "check the data and the weights")
        geodesics = Geodesics(w, pairs, self.metric)
        checks = check_symmetric(loss, w, base, pairs, self.seed)

        def objective_of(part: Loss) -> Objective:
            def value_and_grad(point: Tensor) -> tuple[float, Tensor]:
                return finite_value_and_grad(part, point, "on the geodesics", f"use a rho below {self.rho:g}")

            return lambda u: geodesics.pulled_back(u, value_and_grad)

        found = worst_rise(
            list(parts_of(loss, self.m)),
            objective_of,
            lambda number: (self._start(geodesics, number, start) for start in range(self.num_starts)),
            BALLS["l2"],
            radius=self.rho,
            steps=self.steps,
            num_starts=self.num_starts,
            progress=progress,
        )
        return GeodesicResult(
            **found,
            num_forwards=1 + checks,
            seed=self.seed,
            pairs={pair.name: len(pair.first) for pair in pairs},
            condition=geodesics.condition,
        )

    def _start(self, geodesics: Geodesics, number: int, start: int) -> Tensor:
        if start == 0:
            return torch.zeros_like(geodesics.w)
        seed = derived_seed(self.seed, "geodesic", number, start)
        u = geodesics.horizontal(normal_vector(geodesics.w.numel(), seed, geodesics.w))
        return u * (self.rho / norm(u))
