"""SAM sharpness: the rise of the loss at the point that SAM looks at, one step up the gradient."""

from __future__ import annotations

from dataclasses import dataclass

from torch import Tensor

from sharpness.loss import Loss
from sharpness.machine.progress import Progress
from sharpness.probes.methods.apgd import Ball
from sharpness.probes.methods.perturbations import (
    check_finite,
    check_radius,
    choose_ball,
    finite_value_and_grad,
    parts_of,
    scale_of,
)
from sharpness.results import Probe, ProbeResult


@dataclass(frozen=True, kw_only=True)
class SamResult(ProbeResult):
    """The rise, the loss it starts from, and over how many parts of the data it was averaged."""

    value: float
    loss: float
    num_parts: int

    def __str__(self) -> str:
        knobs = self.knobs
        return (
            f"one step of SAM, {knobs['scaling']} {knobs['norm']}, rho {knobs['rho']:g}: loss rises by "
            f"{self.value:.4g} from {self.loss:.4g} (mean of {self.num_parts} parts), {self.seconds:.1f} s"
        )


@dataclass(frozen=True)
class SamSharpness(Probe[SamResult]):
    """The rise of the loss at the one-step maximiser of SAM: ``E_S [L_S(w + delta_S) - L_S(w)]``.

    ``delta = rho c^2 g / ||c g||_2`` for l2 and ``rho c sign(g)`` for linf, with g the gradient of L_S: the maximiser
    of the linearised loss in the ball ``||delta / c|| <= rho``. With c = 1 (``plain``) that is equation (2) of Foret et
    al. 2021 (arXiv 2010.01412), with ``c = |w|`` (``adaptive``) or per ``filter`` ASAM's of Kwon et al. 2021 (arXiv
    2102.11600), for all parameters and without the 0.01 that their code adds to ``|w|``. S are parts of at most ``m``
    consecutive examples of a batch (m-sharpness), ``None`` is all the data at once. It may be negative.

    >>> import torch
    >>> batch = (torch.tensor([[3.0, 4.0]]), torch.tensor([[0.0]]))
    >>> model = torch.nn.Linear(2, 1, bias=False); _ = torch.nn.init.ones_(model.weight)
    >>> loss = Loss(model, torch.nn.functional.mse_loss, [batch])
    >>> round(SamSharpness(rho=0.2)(loss).value, 4)            # (7 + 0.2 * 5)^2 - 7^2
    15.0
    """

    name = "sam"

    rho: float = 0.05
    norm: str = "l2"
    scaling: str = "plain"
    m: int | None = None

    def measure(self, loss: Loss, w: Tensor, *, progress: Progress | None = None) -> SamResult:
        """Measure at ``w``.

        Raises :class:`InputError` for rho <= 0, m < 1 or an unknown name, :class:`RunError` for a loss that is not
        finite.
        """
        check_radius("rho", self.rho, "SAM takes 0.05, ASAM 0.5")
        ball = choose_ball(self.norm)
        scale = scale_of(loss, w, self.scaling)
        parts, base, rise = list(parts_of(loss, self.m)), 0.0, 0.0
        for done, (share, part) in enumerate(parts, 1):
            value, raised = one_step(part, w, scale, ball, self.rho)
            base, rise = base + share * value, rise + share * (raised - value)
            if progress is not None:
                progress(done, len(parts))
        return SamResult(
            quantity="sam_sharpness",
            value=rise,
            num_gradients=len(parts),
            num_forwards=len(parts),
            loss=base,
            num_parts=len(parts),
        )


def one_step(loss: Loss, w: Tensor, scale: Tensor, ball: Ball, rho: float) -> tuple[float, float]:
    """Return the loss at ``w`` and at the maximiser of its linearisation in the ball of radius ``rho`` around it."""
    value, gradient = finite_value_and_grad(loss, w, "at the weights", "measure at another point")
    raised = loss.value(w + scale * (rho * ball.steepest(scale * gradient)))
    return value, check_finite(raised, "one step away", f"use a rho below {rho:g}")
