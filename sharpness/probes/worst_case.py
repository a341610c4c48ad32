"""Worst-case sharpness: the largest rise of the loss in a ball around the weights, plain, adaptive or by filters."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from sharpness.loss import Loss
from sharpness.machine.environment import derived_seed
from sharpness.machine.progress import Progress
from sharpness.probes.methods.apgd import Objective
from sharpness.probes.methods.perturbations import (
    check_radius,
    choose_ball,
    finite_value_and_grad,
    of_logits,
    parts_of,
    scale_of,
)
from sharpness.probes.methods.worst_rise import PartMaximum, check_ascents, worst_rise
from sharpness.results import Probe, ProbeResult


@dataclass(frozen=True, kw_only=True)
class WorstCaseResult(ProbeResult):
    """The rise, averaged over the parts of the data."""

    value: float
    loss: float
    parts: tuple[PartMaximum, ...]

    def details(self) -> dict[str, Any]:
        """Return the loss at the weights, the mean rise of each start, and the largest radius among the maxima."""
        starts = range(len(self.parts[0].largest))
        return {
            "loss": self.loss,
            "num_parts": len(self.parts),
            "rise_by_start": [sum(part.share * (part.largest[i] - part.loss) for part in self.parts) for i in starts],
            "largest_radius": max(part.radius for part in self.parts),
        }

    def __str__(self) -> str:
        knobs, logits = self.knobs, "normalised logits, " * (self.knobs["logits"] == "normalised")
        return (
            f"worst case, {knobs['scaling']} {knobs['norm']}, rho {knobs['rho']:g}: {logits}loss rises by at least "
            f"{self.value:.4g} from {self.loss:.4g} (mean of {len(self.parts)} parts), {self.num_gradients} gradients, "
            f"{self.seconds:.1f} s"
        )


@dataclass(frozen=True)
class WorstCaseSharpness(Probe[WorstCaseResult]):
    """The largest rise in a ball: ``E_S max_{||delta / c||_p <= rho} L_S(w + delta) - L_S(w)``, p = 2 or infinity.

    Andriushchenko et al. 2023 (arXiv 2302.07011, S_max), with c = 1 for ``plain``, ``|w|`` for ``adaptive`` (ASAM, Kwon
    et al. 2021) and the length of each row for ``filter`` (:func:`sharpness.probes.methods.perturbations.scale_of`). S
    are parts of at most ``m`` consecutive examples of a batch (m-sharpness, Foret et al. 2021), ``None`` is all the
    data at once. With ``logits="normalised"`` the loss is of logits of mean 0 and length 1.

    The maximum is sought by Auto-PGD (:func:`sharpness.probes.methods.apgd.apgd`) of ``steps`` steps, from w itself and
    from ``num_starts - 1`` uniform random points; it is a lower bound. The coordinates are u = delta / c, in which the
    ball is round and the steepest step is ASAM's; the authors' code steps in delta and projects onto the
    ellipsoid by bisection. So what is found for ``adaptive`` does not change where a rescaling keeps the network's
    function. Near a minimum, for small rho and l2, it is ``rho^2 / 2`` times the largest eigenvalue of ``diag(c) H
    diag(c)``.

    >>> batch = (torch.tensor([[3.0, 4.0]]), torch.tensor([[0.0]]))
    >>> model = torch.nn.Linear(2, 1, bias=False); _ = torch.nn.init.ones_(model.weight)
    >>> loss = Loss(model, torch.nn.functional.mse_loss, [batch])
    >>> round(WorstCaseSharpness(rho=0.1)(loss).value, 3)      # |w| g / 2 = (3, 4): (7 + 0.1 * 5)^2 - 7^2
    7.25
    """

    name = "worst_case"

    rho: float = 0.5
    norm: str = "l2"
    scaling: str = "adaptive"
    m: int | None = None
    logits: str = "plain"
    steps: int = 20
    num_starts: int = 2
    seed: int = 0

    def measure(self, loss: Loss, w: Tensor, *, progress: Progress | None = None) -> WorstCaseResult:
        """Measure at ``w``.

        Raises :class:`InputError` for rho <= 0, m, steps or starts below 1 and unknown names, :class:`RunError` where
        the loss is not finite at the weights or in the ball.
        """
        check_radius("rho", self.rho, "ASAM takes 0.5, SAM 0.05")
        check_ascents(self.steps, self.num_starts)
        scale, ball = scale_of(loss, w, self.scaling), choose_ball(self.norm)

        def objective_of(part: Loss) -> Objective:
            def objective(u: Tensor) -> tuple[float, Tensor]:
                cure = f"use a rho below {self.rho:g} or other weights"
                value, gradient = finite_value_and_grad(part, w + scale * u, "in the ball", cure)
                return value, scale * gradient

            return objective

        def starts_of(number: int) -> Iterator[Tensor]:
            yield torch.zeros_like(w)
            for start in range(1, self.num_starts):
                generator = torch.Generator().manual_seed(derived_seed(self.seed, "worst_case", number, start))
                yield ball.random(w, self.rho, generator).to(w.dtype).to(w.device)

        found = worst_rise(
            list(parts_of(of_logits(loss, self.logits), self.m)),
            objective_of,
            starts_of,
            ball,
            radius=self.rho,
            steps=self.steps,
            num_starts=self.num_starts,
            progress=progress,
        )
        return WorstCaseResult(quantity="worst_case_sharpness", seed=self.seed, **found)
