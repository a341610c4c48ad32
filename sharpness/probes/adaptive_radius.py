"""The adaptive radius: how far all weights may change in proportion to their size for a stated rise of the loss."""

from __future__ import annotations

from dataclasses import dataclass, field

import torch
from torch import Tensor

from sharpness.errors import InputError
from sharpness.loss import Loss
from sharpness.machine.progress import Progress
from sharpness.probes.methods.keskar_ascent import climb
from sharpness.probes.methods.level import Bracket, bracket, check_search
from sharpness.probes.methods.perturbations import check_finite
from sharpness.results import Probe, ProbeResult


@dataclass(frozen=True, kw_only=True)
class AdaptiveRadiusResult(ProbeResult):
    """The largest radius as ``value``."""

    loss: float
    sharpness: float | None
    search: Bracket
    tried: list[tuple[float, float]]

    def __str__(self) -> str:
        if self.value is None:
            return f"alpha: none: {self.reasons['value']}, {self.num_gradients} gradients, {self.seconds:.1f} s"
        return (
            f"alpha <= {self.upper:.4g} for a rise of {self.knobs['rise']:g}, "
            f"{self.num_gradients} gradients, {self.seconds:.1f} s"
        )


@dataclass(frozen=True)
class AdaptiveRadius(Probe[AdaptiveRadiusResult]):
    """The largest alpha with ``max_{|u_i| <= alpha |w_i|} L(w + u) - L(w) <= rise``: the magnitude-aware worst case.

    Jiang et al. 2020 (arXiv 1912.02178), whose measure is ``1 / alpha^2``; they bound the training error, here it is
    the loss that may rise, by ``rise`` in its own units. It does not change where a rescaling keeps the function. Each
    maximum is climbed to from the corner of the box in the direction of the gradient
    (:func:`sharpness.probes.methods.keskar_ascent.climb`, at most ``num_gradients``) and is a lower bound, so alpha is
    an upper bound of the radius. It is bracketed to ``rtol`` by doubling or halving from ``first_radius``. Losses that
    overflow count as risen.

    >>> batch = (torch.eye(2), torch.zeros(2, 1))
    >>> model = torch.nn.Linear(2, 1, bias=False); _ = torch.nn.init.ones_(model.weight)
    >>> loss = Loss(model, torch.nn.functional.mse_loss, [batch], dtype=torch.float64)
    >>> round(AdaptiveRadius(rise=0.21, rtol=1e-4)(loss).value, 3)              # 1/2 |w|^2: (1 + alpha)^2 - 1 = rise
    0.1
    """

    name = "adaptive_radius"

    rise: float = 0.1
    num_gradients: int = 20
    first_radius: float = 1e-2
    rtol: float = 1e-2
    most: int = 40

    def measure(self, loss: Loss, w: Tensor, *, progress: Progress | None = None) -> AdaptiveRadiusResult:
        """Measure at ``w``.

        Raises :class:`InputError` for bad knobs, :class:`RunError` where the loss at ``w`` is not finite.
        """
        check_search(self.rise, self.first_radius, self.rtol, self.most)
        if self.num_gradients < 1:
            raise InputError(f"expected at least 1 gradient, got {self.num_gradients}: 20 is usual")
        box = _Box(self, loss, w, progress)
        search = bracket(lambda alpha: box.rise(alpha) > self.rise, self.first_radius, rtol=self.rtol, most=self.most)
        reasons = {
            "lower": "the maximisation is inexact: a larger rise in a smaller box cannot be excluded",
            "confidence": "the upper bound holds without a probability",
            "residual": "a bracket has none",
        }
        if not search.closed:
            side, where = ("more", search.high) if search.low is None else ("less", search.low)
            why = f"the loss rises by {side} than {self.rise:g} even at radius {where:.3g}"
            reasons |= dict.fromkeys(["value", "upper"] if search.high is None else ["value"], why)
        return AdaptiveRadiusResult(
            value=search.low if search.closed else None,
            upper=search.high,
            converged=search.closed,
            reasons=reasons,
            num_gradients=box.num_gradients,
            loss=box.base,
            sharpness=1 / search.low**2 if search.closed and search.low else None,
            search=search,
            tried=sorted(box.tried),
        )


@dataclass
class _Box:
    """The largest rise found in the box of each radius; starts from the corner of the gradient at w."""

    probe: AdaptiveRadius
    loss: Loss
    w: Tensor
    progress: Progress | None
    num_gradients: int = 1
    tried: list[tuple[float, float]] = field(default_factory=list)

    def __post_init__(self) -> None:
        self.base, gradient = self.loss.value_and_grad(self.w)
        check_finite(self.base, "at the weights", "check the data and the weights")
        stationary = not bool(gradient.any())  # where any corner is as good
        self.corner = torch.ones_like(self.w) if stationary else gradient.sign()
        self.scale = self.w.abs()

    def rise(self, alpha: float) -> float:
        """Return the largest rise found for ``|u_i| <= alpha |w_i|``; infinite where the loss overflows."""
        overflowed = False

        def objective(u: Tensor) -> tuple[float, Tensor]:
            nonlocal overflowed
            value, gradient = self.loss.value_and_grad(self.w + alpha * self.scale * u)
            self.num_gradients += 1
            if self.progress is not None:
                self.progress(self.num_gradients, max(20 * self.probe.num_gradients, self.num_gradients))
            if not abs(value) < float("inf"):
                overflowed = True
                return float("-inf"), torch.zeros_like(u)
            return value, alpha * self.scale * gradient

        found = climb(objective, self.corner, self.base, rtol=1e-2, num_gradients=self.probe.num_gradients)
        rise = float("inf") if overflowed else max(found.best[-1] - self.base, 0.0)
        self.tried.append((alpha, rise))
        return rise
