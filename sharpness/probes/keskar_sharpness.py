"""How far can the loss rise in a small box around the minimum? Metric 2.1 of Keskar et al. 2017."""

from __future__ import annotations

import time
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
import torch
from scipy.optimize import OptimizeResult, minimize
from torch import Tensor

from sharpness.environment import derived_seed
from sharpness.errors import InputError, RunError, unknown_name
from sharpness.loss import Loss
from sharpness.probes.evidence import Evidence, ProbeResult, Progress

STARTS = ("gradient_sign", "random", "zero")
METHODS = ("published",)


@dataclass(frozen=True, kw_only=True)
class KeskarResult(ProbeResult):
    """phi in percent, and how the maximum was looked for."""

    epsilon: float
    start: str
    loss: float
    max_loss: float
    share_at_bound: float
    num_iterations: int
    message: str

    def details(self) -> dict[str, Any]:
        """Return the losses behind phi, the start, the iterations and the share of coordinates at their bound."""
        names = ("epsilon", "start", "loss", "max_loss", "share_at_bound", "num_iterations", "message")
        return {name: getattr(self, name) for name in names}

    def __str__(self) -> str:
        return (
            f"phi >= {self.value:.4g} % at epsilon {self.epsilon:g} (start {self.start}, {self.num_iterations} "
            f"iterations of L-BFGS-B), {self.num_gradients} gradients, {self.seconds:.1f} s"
        )


@dataclass(frozen=True)
class KeskarSharpness:
    """Metric 2.1 in full space (A = I): the largest rise of the loss in a box, relative to 1 + loss, in percent.

    ``phi = 100 (max_{|z_i| <= epsilon (|x_i| + 1)} f(x + z) - f(x)) / (1 + f(x))``, equation (3) of Keskar et al. 2017
    (arXiv 1609.04836), with ``method="published"``: at most ``num_iterations`` = 10 iterations of SciPy's L-BFGS-B.
    That is far from the maximum, so phi is a lower bound of the metric, and it depends strongly on where the iteration
    starts, which the paper does not say: ``gradient_sign`` is the corner of the box in the direction of the gradient,
    ``random`` is uniform in the box, ``zero`` is x itself (nearly stationary at a minimum). Tolerances are 0, so that
    it ends by the iteration limit, a failed line search, or a corner or flat spot with nothing left to gain. phi is
    never negative: f(x) counts as a value found.

    >>> batch = (torch.eye(2), torch.zeros(2, 1))
    >>> model = torch.nn.Linear(2, 1, bias=False); _ = torch.nn.init.zeros_(model.weight)
    >>> loss = Loss(model, torch.nn.functional.mse_loss, [batch])
    >>> round(KeskarSharpness(epsilon=0.1, start="random")(loss).value, 4)   # Hessian = identity: 50 eps^2 tr H
    1.0
    """

    epsilon: float = 1e-3
    method: str = "published"
    start: str = "gradient_sign"
    num_iterations: int = 10
    seed: int = 0

    def __call__(self, loss: Loss, w: Tensor | None = None, *, progress: Progress | None = None) -> KeskarResult:
        """Measure at ``w``, or at the loss's own weights.

        Raises :class:`InputError` for epsilon <= 0 or unknown names, :class:`RunError` where the loss is not finite.
        """
        self._check()
        started = time.perf_counter()
        x = loss.point(loss.weights if w is None else w)
        ascent = _Ascent(loss, x, self.num_iterations, progress)
        value, gradient = ascent.value_and_grad(np.zeros(x.numel()))
        half_width = self.epsilon * (x.cpu().double().abs().numpy() + 1)
        result = ascent.maximise(self._first_point(gradient, half_width), half_width)
        best = max(value, -float(result.fun))
        return KeskarResult(
            probe="keskar",
            quantity="keskar_sharpness",
            knobs=asdict(self),
            value=100 * (best - value) / (1 + value),
            lower=100 * (best - value) / (1 + value),
            reasons={
                "upper": "the maximisation is inexact: what it found bounds the metric from below only",
                "confidence": "the lower bound holds without a probability",
            },
            converged=bool(result.success),
            num_gradients=ascent.num_gradients,
            seed=self.seed,
            evidence=Evidence.collect(loss, started),
            epsilon=self.epsilon,
            start=self.start,
            loss=value,
            max_loss=best,
            share_at_bound=float(np.mean(np.abs(result.x) >= half_width * (1 - 1e-9))),
            num_iterations=int(result.nit),
            message=str(result.message),
        )

    def _check(self) -> None:
        if not self.epsilon > 0:
            raise InputError(f"expected a positive epsilon, got {self.epsilon}: the paper uses 1e-3 and 5e-4")
        if self.num_iterations < 1:
            raise InputError(f"expected at least 1 iteration, got {self.num_iterations}: the paper uses 10")
        if self.method not in METHODS:
            raise unknown_name("method", self.method, METHODS)
        if self.start not in STARTS:
            raise unknown_name("start", self.start, STARTS)

    def _first_point(self, gradient: np.ndarray, half_width: np.ndarray) -> np.ndarray:
        if self.start == "zero":
            return np.zeros_like(half_width)
        if self.start == "gradient_sign":
            return half_width * np.sign(gradient)
        generator = np.random.default_rng(derived_seed(self.seed, "keskar", "start"))
        return half_width * generator.uniform(-1, 1, half_width.shape)


class _Ascent:
    """The loss around x as the function of z that SciPy minimises with the sign turned, in float64."""

    def __init__(self, loss: Loss, x: Tensor, num_iterations: int, progress: Progress | None) -> None:
        self.loss, self.x, self.num_iterations, self.progress = loss, x, num_iterations, progress
        self.num_gradients = 0

    def value_and_grad(self, z: np.ndarray) -> tuple[float, np.ndarray]:
        shift = torch.from_numpy(z).to(self.x.dtype).to(self.x.device)
        value, gradient = self.loss.value_and_grad(self.x + shift)
        self.num_gradients += 1
        if not np.isfinite(value):
            raise RunError(f"expected a finite loss in the box, got {value}: the weights or the box are too large")
        if self.progress is not None:
            self.progress(self.num_gradients, max(2 * self.num_iterations, self.num_gradients))
        return value, gradient.cpu().double().numpy()

    def maximise(self, start: np.ndarray, half_width: np.ndarray) -> OptimizeResult:
        """Run L-BFGS-B from ``start`` for the stated iterations; ``fun`` is minus the loss."""

        def negative(z: np.ndarray) -> tuple[float, np.ndarray]:
            value, gradient = self.value_and_grad(z)
            return -value, -gradient

        return minimize(
            negative,
            start,
            jac=True,
            method="L-BFGS-B",
            # A list of plain floats, which SciPy would make of a Bounds object one number at a time.
            bounds=list(zip((-half_width).tolist(), half_width.tolist(), strict=True)),
            options={"maxiter": self.num_iterations, "maxfun": 20 * self.num_iterations, "ftol": 0.0, "gtol": 0.0},
        )
