"""The width of a minimum: loss and accuracy along random rays from a checkpoint."""

from __future__ import annotations

import functools
import math
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from torch import Tensor

from sharpness.errors import InputError
from sharpness.landscapes.directions import random_direction
from sharpness.landscapes.evaluations import Sampling
from sharpness.landscapes.landscape import Landscape
from sharpness.loss import Loss
from sharpness.machine.environment import derived_seed
from sharpness.results import MERGED, ProbeResult
from sharpness.vectors import norm


@dataclass(frozen=True, kw_only=True)
class RaysResult(ProbeResult):
    """The rays; ``value`` is the mean over them of the rise of the train loss at the largest distance.

    ``curves`` holds loss and accuracy, one list per ray, against the distances.
    """

    distances: list[float]
    curves: dict[str, Any] = field(metadata=MERGED)
    norm_of_weights: float
    normalisation: str
    standard_error: float | None

    def __str__(self) -> str:
        rise = "unknown" if self.value is None else f"{self.value:.4g}"
        rays = len(self.curves["train_loss"])
        return f"mean rise {rise} at {self.distances[-1]:g} over {rays} rays, {self.seconds:.1f} s"


@dataclass(frozen=True, kw_only=True)
class RandomRays(Landscape[RaysResult]):
    r"""Loss and accuracy at ``w + t d`` for random directions ``d``, ``t`` from 0 to ``length``.

    Izmailov et al. 2018 (arXiv 1803.05407), section 3.3 and Figure 4: how wide SWA's solutions are beside SGD's. The
    directions of a seed are the same at every checkpoint, of length 1 with ``normalisation='none'``, so that ``t`` is a
    distance; with ``filter`` they are as long as the weights, filter by filter
    (:func:`sharpness.landscapes.directions.filter_normalised`). On a quadratic the mean rise over directions of length
    1 is ``t^2 tr(H) / 2n``.
    """

    num_rays: int = 10
    num_points: int = 16
    length: float = 30.0
    normalisation: str = "none"
    seed: int = 0

    name = "rays"

    def check(self) -> None:
        """Raise :class:`InputError` where no ray has two points."""
        if self.num_rays < 1 or self.num_points < 2 or not self.length > 0:
            raise InputError(
                f"expected at least 1 ray, 2 points and a positive length, got {self.num_rays}, {self.num_points} and "
                f"{self.length}"
            )

    def sample(self, loss: Loss, sampling: Sampling, w: Tensor) -> RaysResult:
        """Return the curves along the rays and the mean rise at their ends."""
        distances = np.linspace(0, self.length, self.num_points).tolist()
        further = self.num_points - 1  # all rays begin at w, which is measured once

        @functools.lru_cache(maxsize=1)
        def direction(ray: int) -> Tensor:
            return random_direction(loss, w, self.normalisation, derived_seed(self.seed, "ray", ray))

        def point(number: int) -> Tensor:
            if number == 0:
                return w
            ray, step = divmod(number - 1, further)
            return w + distances[step + 1] * direction(ray)

        found = self.evaluate(loss, point, 1 + self.num_rays * further, sampling)
        curves = {name: _rays(curve, further) for name, curve in found.curves().items()}
        rises = [losses[-1] - losses[0] for losses in curves["train_loss"] or ()]
        known = all(map(math.isfinite, rises))
        return RaysResult(
            quantity="mean_rise",
            value=float(np.mean(rises)) if known else None,
            reasons={} if known else {"value": "the loss is not finite at the end of every ray"},
            num_forwards=found.num_forwards,
            distances=distances,
            curves=curves,
            norm_of_weights=norm(w),
            normalisation=self.normalisation,
            standard_error=float(np.std(rises, ddof=1) / len(rises) ** 0.5) if known and len(rises) > 1 else None,
            seed=self.seed,
        )


def _rays(curve: Sequence[Any] | None, further: int) -> list[list[Any]] | None:
    """Return one list per ray, each beginning with the value that they share."""
    if curve is None:
        return None
    first, *rest = curve
    return [[first, *rest[i : i + further]] for i in range(0, len(rest), further)]
