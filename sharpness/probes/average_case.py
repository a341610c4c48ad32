"""Average-case sharpness: the mean rise of the loss under Gaussian noise in the weights, with its standard error."""

from __future__ import annotations

from dataclasses import dataclass, field

import numpy as np
from torch import Tensor

from sharpness.errors import InputError
from sharpness.linalg.knobs import check_confidence
from sharpness.linalg.sampling import mean_and_error, student
from sharpness.loss import Loss
from sharpness.machine.environment import derived_seed
from sharpness.machine.progress import Progress
from sharpness.probes.methods.perturbations import check_finite, check_radius, of_logits, scale_of
from sharpness.results import Probe, ProbeResult
from sharpness.vectors import normal_vector


@dataclass(frozen=True, kw_only=True)
class AverageCaseResult(ProbeResult):
    """The mean rise with its t interval, and the samples behind it."""

    value: float
    loss: float
    standard_error: float
    pairs: np.ndarray = field(repr=False)

    def __str__(self) -> str:
        knobs, logits = self.knobs, "normalised logits, " * (self.knobs["logits"] == "normalised")
        return (
            f"average case, {knobs['scaling']}, sigma {knobs['sigma']:g}: {logits}loss rises by {self.value:.4g} in "
            f"[{self.lower:.4g}, {self.upper:.4g}] at {100 * knobs['confidence']:g} % from {self.loss:.4g}, "
            f"{self.num_forwards} passes, {self.seconds:.1f} s"
        )


@dataclass(frozen=True)
class AverageCaseSharpness(Probe[AverageCaseResult]):
    """The mean rise of the loss under Gaussian noise: ``E_{delta ~ N(0, sigma^2 diag(c^2))} L(w + delta) - L(w)``.

    Andriushchenko et al. 2023 (arXiv 2302.07011, S_avg, with their rho as sigma): c = 1 for ``plain``, ``|w|`` for
    ``adaptive``, the length of each row for ``filter`` (:func:`sharpness.probes.methods.perturbations.scale_of`). With
    ``logits="normalised"`` the loss is of logits of mean 0 and length 1. The mean is over ``num_pairs`` antithetic
    pairs delta, -delta, whose average has no odd part of the loss, in particular no gradient; the interval at
    ``confidence`` is Student's t over the pairs. For small sigma it is ``sigma^2 / 2`` times the trace of ``diag(c) H
    diag(c)``. It may be negative.

    >>> import torch
    >>> batch = (torch.tensor([[3.0, 4.0]]), torch.tensor([[0.0]]))
    >>> loss = Loss(torch.nn.Linear(2, 1, bias=False), torch.nn.functional.mse_loss, [batch], dtype=torch.float64)
    >>> result = AverageCaseSharpness(sigma=0.1, scaling="plain", num_pairs=200)(loss)
    >>> result.lower < 0.01 * 25 < result.upper                # sigma^2 |x|^2
    True
    """

    name = "average_case"

    sigma: float = 0.05
    scaling: str = "adaptive"
    logits: str = "plain"
    num_pairs: int = 50
    confidence: float = 0.95
    seed: int = 0

    def measure(self, loss: Loss, w: Tensor, *, progress: Progress | None = None) -> AverageCaseResult:
        """Measure at ``w``.

        Raises :class:`InputError` for sigma <= 0, fewer than 2 pairs, a confidence outside (0, 1) and unknown names,
        :class:`RunError` where the loss is not finite.
        """
        self._check()
        measured = of_logits(loss, self.logits)
        scale = scale_of(loss, w, self.scaling)
        base = check_finite(measured.value(w), "at the weights", "measure at another point")
        pairs = np.zeros(self.num_pairs)
        for number in range(self.num_pairs):
            pairs[number] = self._pair(measured, w, scale, number) - base
            if progress is not None:
                progress(number + 1, self.num_pairs)
        value, error = mean_and_error(pairs)
        half_width = student(self.num_pairs - 1, self.confidence) * error
        return AverageCaseResult(
            quantity="average_case_sharpness",
            value=value,
            lower=value - half_width,
            upper=value + half_width,
            confidence=self.confidence,
            num_forwards=1 + 2 * self.num_pairs,
            seed=self.seed,
            loss=base,
            standard_error=error,
            pairs=pairs,
        )

    def _check(self) -> None:
        check_radius("sigma", self.sigma, "0.05 to 0.4 is usual")
        check_confidence(self.confidence, "0.95")
        if self.num_pairs < 2:
            raise InputError(f"expected at least 2 pairs for a standard error, got {self.num_pairs}: 50 is usual")

    def _pair(self, loss: Loss, x: Tensor, scale: Tensor, number: int) -> float:
        """Return the mean loss at ``x + delta`` and ``x - delta``."""
        noise = normal_vector(x.numel(), derived_seed(self.seed, "average_case", number), x)
        delta = self.sigma * scale * noise
        cure = f"use a sigma below {self.sigma:g}"
        return sum(check_finite(loss.value(x + d), "under the noise", cure) for d in (delta, -delta)) / 2
