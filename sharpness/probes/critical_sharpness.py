"""Critical sharpness: the longest step along an update that still helps, by forward passes."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from sharpness.errors import InputError, RunError
from sharpness.landscapes.line_search import Crossing, first_crossing
from sharpness.loss import Loss
from sharpness.machine.environment import derived_seed
from sharpness.machine.progress import Progress
from sharpness.probes.methods.updates import chosen_update
from sharpness.results import Probe, ProbeResult
from sharpness.vectors import dot

NOISE_DRAWS = 3
TOO_SMALL = "the fall of the loss along the update is lost in rounding: use float64 or directional_sharpness"


@dataclass(frozen=True, kw_only=True)
class CriticalResult(ProbeResult):
    """``2 / eta_c`` as ``value``; its bracket follows from the bracket of the step."""

    loss: float
    slope: float
    noise: float
    crossing: Crossing | None

    def __str__(self) -> str:
        if self.value is None:
            return f"none: {self.reasons['value']}, {self.seconds:.1f} s"
        return (
            f"{self.value:.4g} in [{self.lower:.4g}, {self.upper:.4g}], critical step {2 / self.value:.4g}, "
            f"{self.num_forwards} forward passes, {self.seconds:.1f} s"
        )


@dataclass(frozen=True)
class CriticalSharpness(Probe[CriticalResult]):
    """``lambda_c = 2 / eta_c``, with eta_c the smallest step ``w - eta d`` at which the loss is above L(w) again.

    Kalra et al. 2026 (arXiv 2601.16979). The update d is the gradient, or what the optimizer would apply, such as
    Adam's step, or the gradient of another task: their relative critical sharpness, ``eta_c`` of this loss along the
    update of the other. On a quadratic loss lambda_c is the directional sharpness ``d^T H d / d^T g``. Doubling or
    halving from ``first_step`` (theirs: 1e-3) brackets a crossing, halvings narrow it to ``1 - low / high <= tol``
    (1/16), and eta_c is the middle. Beyond the paper: ``checks`` trials between 0 and the crossing look for an
    earlier one that doubling may have jumped over, and the search then goes on there; the update is asked first
    whether it points downhill, at the cost of a gradient.

    There is no value but a reason, and the bound that was found, where the update points uphill, where no crossing is
    met in ``most`` doublings or halvings, and where the loss falls by less than 4 times its rounding noise, the
    largest change seen when every weight changes by a unit in its last place.

    >>> batch = (torch.eye(2), torch.zeros(2, 1))
    >>> model = torch.nn.Linear(2, 1, bias=False); _ = torch.nn.init.ones_(model.weight)
    >>> loss = Loss(model, torch.nn.functional.mse_loss, [batch], dtype=torch.float64)   # Hessian = identity
    >>> round(CriticalSharpness(tol=1e-6)(loss).value, 3)
    1.0
    """

    name = "critical_sharpness"

    first_step: float = 1e-3
    tol: float = 1 / 16
    most: int = 40
    checks: int = 8
    seed: int = 0

    def measure(
        self,
        loss: Loss,
        w: Tensor,
        *,
        update: Tensor | None = None,
        trained: Loss | None = None,
        progress: Progress | None = None,
    ) -> CriticalResult:
        """Measure at ``w`` along ``update`` (shape (n,)), the gradient of ``trained``, or the loss's own gradient.

        Raises :class:`InputError` for bad knobs and an update that cannot be used
        (:func:`sharpness.probes.methods.updates.chosen_update`), :class:`RunError` where the loss at ``w`` is not
        finite.
        """
        self._check()
        start, gradient = loss.value_and_grad(w)
        if not math.isfinite(start):
            raise RunError(f"expected a finite loss at the weights, got {start}: check the data and the weights")
        d = chosen_update(loss, w, gradient, update, trained)
        slope = dot(d, gradient)
        noise, crossing, made = 0.0, None, 0
        if slope > 0:
            along = _Along(loss, w, d, progress, 2 * self.most)
            start = along(0.0)
            noise = self._noise(loss, w, start)
            crossing = first_crossing(along, start, self.first_step, tol=self.tol, most=self.most, checks=self.checks)
            made = along.made + NOISE_DRAWS
        return CriticalResult(
            quantity="critical_sharpness" if trained is None else "relative_critical_sharpness",
            **_judged(slope, noise, crossing),
            num_gradients=1 if trained is None else 2,
            num_forwards=made,
            seed=self.seed,
            loss=start,
            slope=slope,
            noise=noise,
            crossing=crossing,
        )

    def _check(self) -> None:
        if not (self.first_step > 0 and math.isfinite(self.first_step)):
            raise InputError(f"expected a positive first_step, got {self.first_step}: 1e-3 is usual")
        if not 0 < self.tol < 1:
            raise InputError(f"expected a tol between 0 and 1, got {self.tol}: 1/16 is usual")
        if self.most < 1 or self.checks < 0:
            raise InputError(
                f"expected most >= 1 and checks >= 0, got {self.most} and {self.checks}: 40 and 8 are usual"
            )

    def _noise(self, loss: Loss, x: Tensor, start: float) -> float:
        """Return the largest change of the loss when each weight moves up or down by about a unit in its last place."""
        eps, largest = torch.finfo(x.dtype).eps, torch.finfo(x.dtype).eps * abs(start)
        for draw in range(NOISE_DRAWS):
            generator = torch.Generator().manual_seed(derived_seed(self.seed, "critical", "noise", draw))
            signs = torch.randint(2, x.shape, generator=generator).mul_(2).sub_(1).to(device=x.device, dtype=x.dtype)
            largest = max(largest, abs(loss.value(x + eps * x * signs) - start))
        return largest


def _judged(slope: float, noise: float, crossing: Crossing | None) -> dict[str, Any]:
    """Return value, bracket, ``converged`` and the reasons for what is missing."""
    reasons = {"confidence": "the bracket holds without a probability", "residual": "a bracket has none"}
    if crossing is None:
        what = "is zero or orthogonal to the gradient" if slope == 0 else "points uphill (d^T g < 0)"
        why = f"no descent direction: the update {what}"
        return {"value": None, "converged": False, "reasons": reasons | dict.fromkeys(("value", "lower", "upper"), why)}
    value = None if crossing.step is None else 2 / crossing.step
    lower = 2 / crossing.high if crossing.high is not None else None
    upper = 2 / crossing.low if crossing.low > 0 else None
    if value is None:
        side = "falls" if crossing.high is None else "rises"
        why = (
            f"no crossing: the loss still {side} at the {'largest' if crossing.high is None else 'smallest'} step tried"
        )
        reasons |= {"value": why, ("lower" if lower is None else "upper"): why}
    if crossing.fall < 4 * noise:
        value = lower = upper = None
        reasons |= dict.fromkeys(("value", "lower", "upper"), TOO_SMALL)
    return {"value": value, "lower": lower, "upper": upper, "converged": value is not None, "reasons": reasons}


@dataclass
class _Along:
    """The loss at ``w - eta d`` as a function of eta; counts the forward passes."""

    loss: Loss
    w: Tensor
    d: Tensor
    progress: Progress | None
    total: int
    made: int = 0

    def __call__(self, eta: float) -> float:
        self.made += 1
        value = self.loss.value(self.w - eta * self.d)
        if self.progress is not None:
            self.progress(self.made, max(self.total, self.made))
        return value
