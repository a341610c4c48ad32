"""Metric 2.1 of Keskar et al. 2017 with its maximum sought until it stops growing."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from sharpness.errors import InputError
from sharpness.linalg.knobs import check_rtol
from sharpness.loss import Loss
from sharpness.machine.environment import derived_seed
from sharpness.machine.progress import Progress
from sharpness.probes.methods.keskar_ascent import Climb, Objective, climb
from sharpness.probes.methods.keskar_box import Box, check_epsilons, percent, phi, why_no_phi
from sharpness.results import Probe, ProbeResult


@dataclass(frozen=True, kw_only=True)
class BoxMaximum:
    """The climbs in the box of one half width; a start that the gradients did not suffice for has no climb."""

    epsilon: float
    loss: float
    climbs: tuple[Climb, ...]
    num_starts: int

    @property
    def best(self) -> Climb:
        """The highest climb."""
        return max(self.climbs, key=lambda found: found.best[-1])

    @property
    def max_loss(self) -> float:
        """The largest loss found, that at x included."""
        return max(self.loss, self.best.best[-1])

    @property
    def phi(self) -> float | None:
        """The metric in percent, if the loss has one."""
        return phi(self.loss, self.max_loss)

    @property
    def complete(self) -> bool:
        """True where the climbs from all starts ended because nothing was left to gain."""
        return len(self.climbs) == self.num_starts and all(c.reason != "out of gradients" for c in self.climbs)

    def details(self) -> dict[str, Any]:
        """Return the maximum, and for each start the phi after each gradient and how it ended."""
        best = self.best.point
        return {
            "epsilon": self.epsilon,
            "phi": self.phi,
            "max_loss": self.max_loss,
            "share_at_bound": float((best.abs() >= 1).double().mean()),
            "num_gradients": sum(len(found.best) for found in self.climbs),
            "starts": [
                {"phi": phi(self.loss, max(self.loss, found.best[-1])), "ended": found.reason, "losses": found.best}
                for found in self.climbs
            ],
        }


@dataclass(frozen=True, kw_only=True)
class KeskarMaximumResult(ProbeResult):
    """phi in percent of the first box, and the climbs in each box."""

    loss: float
    boxes: tuple[BoxMaximum, ...]

    def __str__(self) -> str:
        found = ", ".join(f"{percent(box.phi)} at epsilon {box.epsilon:g}" for box in self.boxes)
        state = "" if self.converged else ", still growing"
        return f"phi >= {found}{state}, {self.num_gradients} gradients, {self.seconds:.1f} s"


@dataclass(frozen=True)
class KeskarMaximum(Probe[KeskarMaximumResult]):
    """Metric 2.1 of Keskar et al. 2017 with its maximum climbed from several starts until it stops growing, in percent.

    ``phi = 100 (max_{|z_i| <= epsilon (|(A^+ x)_i| + 1)} f(x + A z) - f(x)) / (1 + f(x))`` (equation (3), arXiv
    1609.04836), in the full space or with ``subspace`` random columns A
    (:class:`sharpness.probes.methods.keskar_box.Box`). The paper stops after 10 iterations of L-BFGS-B
    (:class:`sharpness.probes.keskar_sharpness.KeskarSharpness`). Here each start climbs by the signs of the gradient
    and then by projected L-BFGS (:func:`sharpness.probes.methods.keskar_ascent.climb`), on the device and in the dtype
    of the loss, until the last tenth of its gradients, and 5 at least, raised the rise by no more than ``rtol`` of it.
    The first start is the corner in the direction of the gradient, the other ``num_starts - 1`` are uniform in the box.
    ``num_gradients`` is the ceiling in each box, over all starts. A local maximum: phi is a lower bound of the metric
    still, and never negative. It is null where ``1 + f(x) <= 0``, because the paper's loss is never negative.

    >>> batch = (torch.eye(2), torch.zeros(2, 1))
    >>> model = torch.nn.Linear(2, 1, bias=False); _ = torch.nn.init.zeros_(model.weight)
    >>> loss = Loss(model, torch.nn.functional.mse_loss, [batch])
    >>> round(KeskarMaximum(epsilon=0.1)(loss).value, 4)                   # Hessian = identity: 50 eps^2 tr H
    1.0
    """

    name = "keskar_maximum"

    epsilon: float = 1e-3
    second_epsilon: float | None = 5e-4
    subspace: int | None = None
    num_starts: int = 3
    rtol: float = 1e-2
    num_gradients: int = 300
    seed: int = 0

    def measure(self, loss: Loss, w: Tensor, *, progress: Progress | None = None) -> KeskarMaximumResult:
        """Measure at ``w``.

        Raises :class:`InputError` for epsilon <= 0, a subspace that is none, or no start or gradient,
        :class:`RunError` where the loss is not finite.
        """
        epsilons = self._checked()
        box = Box(loss, w, self.subspace, self.seed)
        evaluate = self._evaluation(box, len(epsilons), progress)
        value, gradient = evaluate(torch.zeros(len(box.reach)))
        boxes = tuple(self._maximum(evaluate, box.reach, value, gradient, epsilon) for epsilon in epsilons)
        complete = all(found.complete for found in boxes)
        unfinished = f"{self.num_gradients} gradients in a box did not suffice for all {self.num_starts} starts"
        return KeskarMaximumResult(
            quantity="keskar_maximum" if self.subspace is None else "keskar_subspace_maximum",
            value=boxes[0].phi,
            lower=boxes[0].phi,
            reasons={
                "upper": "the climbs end at local maxima, which bound the metric from below only",
                "confidence": "the lower bound holds without a probability",
            }
            | ({} if complete else {"converged": unfinished})
            | why_no_phi(value, "details.boxes[].phi"),
            converged=complete,
            num_gradients=box.num_gradients,
            seed=self.seed,
            loss=value,
            boxes=boxes,
        )

    def _checked(self) -> tuple[float, ...]:
        """Return the half widths to measure, or raise for a bad knob."""
        check_rtol(self.rtol, "1e-2")
        if self.num_starts < 1 or self.num_gradients < 1:
            raise InputError(
                f"expected at least 1 start and 1 gradient, got {self.num_starts} and {self.num_gradients}: "
                "leave them out for 3 and 300"
            )
        return check_epsilons(self.epsilon, self.second_epsilon)

    def _evaluation(self, box: Box, num_boxes: int, progress: Progress | None) -> Objective:
        """Return the loss in the box, which reports each gradient."""

        def evaluate(z: Tensor) -> tuple[float, Tensor]:
            found = box.value_and_grad(z)
            if progress is not None:
                progress(box.num_gradients, 1 + self.num_gradients * num_boxes)
            return found

        return evaluate

    def _maximum(
        self, evaluate: Objective, reach: Tensor, value: float, gradient: Tensor, epsilon: float
    ) -> BoxMaximum:
        """Climb in the box of one epsilon, whose coordinates u = z / half width lie in [-1, 1]."""
        half_width = (epsilon * reach).to(gradient)

        def objective(u: Tensor) -> tuple[float, Tensor]:
            found, slope = evaluate(half_width * u)
            return found, half_width * slope

        climbs, left = list[Climb](), self.num_gradients
        for number in range(self.num_starts):
            if left == 0:
                break
            start = gradient.sign() if number == 0 else self._random_start(gradient, number)
            climbs.append(climb(objective, start, value, rtol=self.rtol, num_gradients=left))
            left -= len(climbs[-1].best)
        return BoxMaximum(epsilon=epsilon, loss=value, climbs=tuple(climbs), num_starts=self.num_starts)

    def _random_start(self, gradient: Tensor, number: int) -> Tensor:
        generator = torch.Generator().manual_seed(derived_seed(self.seed, "keskar", "climb", number))
        uniform = torch.rand(len(gradient), generator=generator, dtype=torch.float64) * 2 - 1
        return uniform.to(gradient.dtype).to(gradient.device)
