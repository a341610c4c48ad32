"""The gradient noise scale: the batch size that would average the gradient's noise out (McCandlish et al. 2018)."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor

from sharpness.curvature import HessianOperator
from sharpness.errors import InputError
from sharpness.linalg.knobs import check_confidence
from sharpness.loss import Loss
from sharpness.loss.noise_scale import sgd_noise_scale
from sharpness.loss.per_example import UnitGradients
from sharpness.machine.environment import derived_seed
from sharpness.machine.progress import Progress
from sharpness.probes.methods.noise_products import InnerProducts, inner_products
from sharpness.probes.methods.noise_statistics import (
    Measured,
    best_step,
    combined,
    curvature_and_noise,
    data_noise_scale,
    gradient_and_noise,
    improvement,
    ratio,
)
from sharpness.results import MERGED, Probe, ProbeResult


@dataclass(frozen=True, kw_only=True)
class GradientNoiseResult(ProbeResult):
    """``B_simple`` as value, and every other number of the theory with its interval or the reason why it has none."""

    numbers: Mapping[str, Measured] = field(repr=False, metadata=MERGED)
    by_batch_size: tuple[Mapping[str, Any], ...] = field(repr=False)
    unit: str
    num_units: int
    method: str
    method_reason: str
    data_noise_scale: float | None
    sgd_noise_scale: float | None

    def __str__(self) -> str:
        def shown(number: Measured) -> str:
            value, lower, upper = ("?" if x is None else f"{x:.4g}" for x in (number.value, number.lower, number.upper))
            return f"{value} in [{lower}, {upper}]"

        scale = self.numbers.get("noise_scale")
        curved = f", B_noise {shown(scale)}" if scale is not None else ""
        return (
            f"B_simple {shown(self.numbers['simple_noise_scale'])}{curved} at {100 * (self.confidence or 0):g} %, "
            f"{self.num_units} {self.unit} gradients by {self.method}, {self.num_hvps} HVPs, {self.seconds:.1f} s"
        )


@dataclass(frozen=True, kw_only=True)
class GradientNoise(Probe[GradientNoiseResult]):
    """The gradient noise scale at one point, from the gradients of single examples.

    ``B_simple = tr Sigma / |G|^2`` in examples, with G the gradient over the distribution that the examples are a
    sample of and Sigma the covariance of the gradient of one example (McCandlish et al. 2018, arXiv 1812.06162,
    equation 2.9). With H the Hessian also ``B_noise = tr(H Sigma) / G^T H G`` (2.8) and the best step for each of
    ``batch_sizes`` (2.6). Intervals are over the choice of the examples and need five of them. ``num_hvps`` units get a
    Hessian-vector product each; 0 leaves out what needs H. ``method`` and ``chunk`` say how the gradients are taken
    (:class:`sharpness.loss.per_example.UnitGradients`). With ``learning_rate``, ``batch_size``, ``momentum`` and
    ``num_train`` the record also has g of Smith and Le 2018. ``docs/numbers.md`` has all formulas and estimates.

    Raises :class:`InputError` for bad knobs and what :class:`sharpness.loss.per_example.UnitGradients` refuses, and
    :class:`RunError` where the gradients of the examples do not add up to the gradient of the loss.

    >>> x = torch.tensor([[1.0], [3.0]])                       # 1/2 (w - x)^2 at w = 0: g = -1, -3
    >>> model = torch.nn.Linear(1, 1, bias=False)
    >>> loss = Loss(model, lambda output, target: ((output - target) ** 2).mean() / 2, [(torch.ones(2, 1), x)])
    >>> result = GradientNoise()(loss, torch.zeros(1))
    >>> round(result.numbers["gradient_square"].value, 4), round(result.numbers["noise_trace"].value, 4)
    (3.0, 2.0)
    """

    name = "gradient_noise"

    method: str = "auto"
    chunk: int | str = "auto"
    num_hvps: int = 32
    batch_sizes: tuple[int, ...] = (1, 8, 64, 512, 4096)
    confidence: float = 0.95
    learning_rate: float | None = None
    batch_size: int | None = None
    momentum: float = 0.0
    num_train: int | None = None
    seed: int = 0

    def measure(self, loss: Loss, w: Tensor, *, progress: Progress | None = None) -> GradientNoiseResult:
        """Measure at ``w``."""
        self._check()
        units = UnitGradients(loss, w, self.method, self.chunk)
        operator = HessianOperator(loss, w) if self.num_hvps else None
        products = inner_products(units, operator, self._chosen(len(units.weights)), progress)
        numbers, by_batch_size = self._estimates(products)
        simple = numbers["simple_noise_scale"]
        return GradientNoiseResult(
            quantity="simple_noise_scale",
            value=simple.value,
            lower=simple.lower,
            upper=simple.upper,
            confidence=self.confidence,
            residual=products.residual,
            num_hvps=len(products.chosen) + bool(self.num_hvps),
            num_gradients=len(units.weights) + 1,
            seed=self.seed,
            hvp_backend=None if operator is None else operator.backend,
            reasons=self._reasons(simple, products),
            numbers=numbers,
            by_batch_size=by_batch_size,
            unit=units.unit,
            num_units=len(units.weights),
            method=units.method,
            method_reason=units.reason,
            data_noise_scale=data_noise_scale(products.weights, products.squares, products.square),
            sgd_noise_scale=self._sgd_noise_scale(loss),
        )

    def _reasons(self, simple: Measured, products: InnerProducts) -> dict[str, str]:
        """Return why what is missing is missing."""
        reasons = {"converged": "an estimate from all the units does not iterate"}
        for name in ("value", "lower", "upper"):
            if getattr(simple, name) is None:
                reasons[name] = str(simple.reason)
        if not self.num_hvps:
            reasons["noise_scale"] = "num_hvps=0 leaves out what needs the Hessian"
        if products.square == 0:
            reasons["data_noise_scale"] = "the gradient is 0"
        if self.learning_rate is None:
            reasons["sgd_noise_scale"] = "needs learning_rate and batch_size"
        return reasons

    def _check(self) -> None:
        check_confidence(self.confidence, "0.95")
        if self.num_hvps < 0 or self.num_hvps == 1:
            raise InputError(f"expected num_hvps of 0, or at least 2 for a standard error, got {self.num_hvps}")
        if any(size < 1 for size in self.batch_sizes):
            raise InputError(f"expected batch sizes of at least 1, got {list(self.batch_sizes)}")
        if (self.learning_rate is None) != (self.batch_size is None):
            raise InputError("expected learning_rate and batch_size together, got one of them: give both for g")

    def _sgd_noise_scale(self, loss: Loss) -> float | None:
        if self.learning_rate is None or self.batch_size is None:
            return None
        num_train = loss.num_examples if self.num_train is None else self.num_train
        return sgd_noise_scale(self.learning_rate, self.batch_size, num_train, self.momentum)

    def _chosen(self, count: int) -> Tensor:
        """Return the positions of the units that get a Hessian-vector product, drawn without replacement, in order."""
        generator = torch.Generator().manual_seed(derived_seed(self.seed, "gradient_noise", "units"))
        return torch.randperm(count, generator=generator)[: self.num_hvps].sort().values

    def _estimates(self, products: InnerProducts) -> tuple[dict[str, Measured], tuple[dict[str, Any], ...]]:
        p, sure = products, self.confidence
        square, noise = gradient_and_noise(p.weights, p.squares, p.along, p.square)
        numbers = {
            "gradient_square": square.interval(sure),
            "noise_trace": noise.interval(sure),
            "simple_noise_scale": ratio(noise, square, sure, "|G|^2"),
        }
        if not self.num_hvps:
            return numbers, ()
        curvature, curved_noise = curvature_and_noise(p.weights, p.chosen, p.curvatures, p.along_curvature, p.curvature)
        numbers |= {
            "gradient_curvature": curvature.interval(sure),
            "noise_curvature": curved_noise.interval(sure),
            "noise_scale": ratio(curved_noise, curvature, sure, "G^T H G"),
            "largest_step": best_step(square, curvature, sure, "G^T H G"),
            "largest_improvement": improvement(square, curvature, sure),
        }
        rows = []
        for size in self.batch_sizes:
            felt = combined(lambda c, n, size=size: c + n / size, curvature, curved_noise)
            step, fall = best_step(square, felt, sure, "G^T H G + tr(H Sigma) / B"), improvement(square, felt, sure)
            rows.append({"batch_size": size, "step": step.details(), "improvement": fall.details()})
        return numbers, tuple(rows)
