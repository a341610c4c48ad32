"""Metric 2.1 of Keskar et al. 2017 as published: the largest rise of the loss in a small box around the minimum."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor

from sharpness.errors import InputError, unknown_name
from sharpness.loss import Loss
from sharpness.machine.environment import derived_seed
from sharpness.machine.progress import Progress
from sharpness.probes.methods.keskar_box import Box, check_epsilons, percent, phi, why_no_phi
from sharpness.probes.methods.lbfgsb import Objective, maximise
from sharpness.results import Probe, ProbeResult

STARTS = ("gradient_sign", "random", "zero")
METHODS = ("published",)  # the maximum sought until it stops growing is a probe of its own, KeskarMaximum


@dataclass(frozen=True, kw_only=True)
class BoxSearch:
    """The find of one run of L-BFGS-B in the box of half width ``epsilon``: phi in percent and the largest loss."""

    epsilon: float
    phi: float | None
    max_loss: float
    share_at_bound: float
    num_iterations: int
    message: str


@dataclass(frozen=True, kw_only=True)
class KeskarResult(ProbeResult):
    """phi in percent, and how the maximum was looked for; ``second`` is the search in the second box, if any."""

    epsilon: float
    start: str
    loss: float
    max_loss: float
    share_at_bound: float
    num_iterations: int
    message: str
    second: BoxSearch | None = None

    def details(self) -> dict[str, Any]:
        """Return the losses behind phi, the start, the iterations and the share of coordinates at their bound."""
        return {name: item for name, item in super().details().items() if name != "second" or item is not None}

    def __str__(self) -> str:
        second = "" if self.second is None else f", {percent(self.second.phi)} at {self.second.epsilon:g}"
        return (
            f"phi >= {percent(self.value)} at epsilon {self.epsilon:g}{second} (start {self.start}, "
            f"{self.num_iterations} iterations of L-BFGS-B), {self.num_gradients} gradients, {self.seconds:.1f} s"
        )


@dataclass(frozen=True)
class KeskarSharpness(Probe[KeskarResult]):
    """Metric 2.1: the largest rise of the loss in a box around the weights, relative to 1 + loss, in percent.

    ``phi = 100 (max_{|z_i| <= epsilon (|(A^+ x)_i| + 1)} f(x + A z) - f(x)) / (1 + f(x))``, equation (3) of Keskar et
    al. 2017 (arXiv 1609.04836), in the full space (A = I) or with ``subspace`` = 100 in the span of so many random
    columns (:class:`sharpness.probes.methods.keskar_box.Box` states their law); with ``method="published"``: at most
    ``num_iterations`` = 10 iterations of SciPy's L-BFGS-B. That is far from the maximum, so phi is a lower bound of the
    metric (:class:`sharpness.probes.keskar_maximum.KeskarMaximum` goes on), and it depends strongly on where the
    iteration starts, which the paper does not say: ``gradient_sign`` is the corner of the box in the direction of the
    gradient, ``random`` is uniform in the box, ``zero`` is x itself (nearly stationary at a minimum). Tolerances are 0,
    so that it ends by the iteration limit, a failed line search, or a corner or flat spot with nothing left to gain.
    phi is never negative: f(x) counts as a value found. It is null where ``1 + f(x) <= 0``, because the paper's loss is
    never negative. ``second_epsilon`` (the paper also has 5e-4) is measured too, into the details; the value belongs to
    ``epsilon``.

    >>> batch = (torch.eye(2), torch.zeros(2, 1))
    >>> model = torch.nn.Linear(2, 1, bias=False); _ = torch.nn.init.zeros_(model.weight)
    >>> loss = Loss(model, torch.nn.functional.mse_loss, [batch])
    >>> round(KeskarSharpness(epsilon=0.1, start="random")(loss).value, 4)   # Hessian = identity: 50 eps^2 tr H
    1.0
    """

    name = "keskar"

    epsilon: float = 1e-3
    method: str = "published"
    start: str = "gradient_sign"
    num_iterations: int = 10
    seed: int = 0
    second_epsilon: float | None = None
    subspace: int | None = None

    def measure(self, loss: Loss, w: Tensor, *, progress: Progress | None = None) -> KeskarResult:
        """Measure at ``w``.

        Raises :class:`InputError` for epsilon <= 0, a subspace that is none, or unknown names, :class:`RunError` where
        the loss is not finite.
        """
        epsilons = self._checked()
        box = Box(loss, w, self.subspace, self.seed)
        evaluate = self._evaluation(box, len(epsilons), progress)
        value, gradient = evaluate(np.zeros(len(box.reach)))
        found = [self._search(evaluate, value, gradient, epsilon, box.reach.numpy()) for epsilon in epsilons]
        first, converged = found[0]
        reasons = {} if converged else {"converged": f"{self.num_iterations} iterations are the protocol of the paper"}
        return KeskarResult(
            quantity="keskar_sharpness" if self.subspace is None else "keskar_subspace_sharpness",
            value=first.phi,
            lower=first.phi,
            reasons=reasons
            | why_no_phi(value, *["details.second.phi"] * (len(found) > 1))
            | {
                "upper": "the maximisation is inexact: what it found bounds the metric from below only",
                "confidence": "the lower bound holds without a probability",
            },
            converged=converged,
            num_gradients=box.num_gradients,
            seed=self.seed,
            start=self.start,
            loss=value,
            **{name: getattr(first, name) for name in BoxSearch.__dataclass_fields__ if name != "phi"},
            second=found[1][0] if len(found) > 1 else None,
        )

    def _checked(self) -> tuple[float, ...]:
        """Return the half widths to measure, or raise for a bad knob."""
        epsilons = check_epsilons(self.epsilon, self.second_epsilon)
        if self.num_iterations < 1:
            raise InputError(f"expected at least 1 iteration, got {self.num_iterations}: the paper uses 10")
        if self.method not in METHODS:
            raise unknown_name("method", self.method, METHODS)
        if self.start not in STARTS:
            raise unknown_name("start", self.start, STARTS)
        return epsilons

    def _evaluation(self, box: Box, num_boxes: int, progress: Progress | None) -> Objective:
        """Return the loss in the box as SciPy has its functions, in float64."""

        def evaluate(z: np.ndarray) -> tuple[float, np.ndarray]:
            value, gradient = box.value_and_grad(torch.from_numpy(z))
            if progress is not None:
                progress(box.num_gradients, max(2 * self.num_iterations * num_boxes, box.num_gradients))
            return value, gradient.cpu().double().numpy()

        return evaluate

    def _search(
        self, evaluate: Objective, value: float, gradient: np.ndarray, epsilon: float, reach: np.ndarray
    ) -> tuple[BoxSearch, bool]:
        """Run L-BFGS-B in the box of one epsilon, and return what it found and whether it converged."""
        half_width = epsilon * reach
        last = maximise(evaluate, self._first_point(gradient, half_width), half_width, self.num_iterations)
        best = max(value, last.value)
        found = BoxSearch(
            epsilon=epsilon,
            phi=phi(value, best),
            max_loss=best,
            share_at_bound=float(np.mean(np.abs(last.point) >= half_width * (1 - 1e-9))),
            num_iterations=last.num_iterations,
            message=last.message,
        )
        return found, last.flag == 0

    def _first_point(self, gradient: np.ndarray, half_width: np.ndarray) -> np.ndarray:
        if self.start == "zero":
            return np.zeros_like(half_width)
        if self.start == "gradient_sign":
            return half_width * np.sign(gradient)
        generator = np.random.default_rng(derived_seed(self.seed, "keskar", "start"))
        return half_width * generator.uniform(-1, 1, half_width.shape)
