"""The gradient noise scale in Adam's geometry: noise and gradient as Adam's diagonal preconditioner weighs them."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

import torch
from torch import Tensor

from sharpness.errors import InputError
from sharpness.linalg.knobs import check_confidence
from sharpness.loss import Loss
from sharpness.loss.per_example import UnitGradients
from sharpness.machine.progress import Progress
from sharpness.probes.methods.noise_products import inner_products
from sharpness.probes.methods.noise_statistics import Measured, gradient_and_noise, ratio
from sharpness.probes.preconditioned_sharpness import GRADIENTS, Preconditioner, checked, from_gradients
from sharpness.results import MERGED, Probe, ProbeResult


@dataclass(frozen=True, kw_only=True)
class PreconditionedNoiseResult(ProbeResult):
    """The noise scale in the geometry of P as value, with ``tr(P^-1 Sigma)`` and ``G^T P^-1 G`` and where P is from."""

    numbers: Mapping[str, Measured] = field(repr=False, metadata=MERGED)
    unit: str
    num_units: int
    method: str
    method_reason: str
    preconditioner_source: str

    def __str__(self) -> str:
        value, lower, upper = ("?" if x is None else f"{x:.4g}" for x in (self.value, self.lower, self.upper))
        return (
            f"B_simple of P {value} in [{lower}, {upper}] at {100 * (self.confidence or 0):g} %, "
            f"P {self.preconditioner_source}, {self.num_units} {self.unit} gradients by {self.method}, "
            f"{self.seconds:.1f} s"
        )


@dataclass(frozen=True, kw_only=True)
class PreconditionedNoise(Probe[PreconditionedNoiseResult]):
    """The gradient noise scale in Adam's geometry, ``tr(P^-1 Sigma) / G^T P^-1 G`` for its diagonal P.

    It is ``B_simple`` of McCandlish et al. 2018 (arXiv 1812.06162, equation 2.9) for the gradients ``P^-1/2 g``: the
    batch size at which the noise in a step ``P^-1 g`` is as long as the step, lengths by P. P is the optimiser's own,
    as for ``preconditioned_sharpness``, unless ``source="gradients"``; without a state it is ``sqrt(v) + eps`` with v
    the mean squared gradient of ``num_batches`` random batches of ``batch_size`` (the loss's largest batch by default).
    P is held fixed: the interval (jackknife, and Fieller's for the ratio, :class:`GradientNoise`) is over the choice of
    the examples alone, and where P is from the gradients of these very examples, coordinates with a large gradient by
    chance count too little.

    Raises :class:`InputError` for bad knobs, a P that is not positive or of another shape, and what
    :class:`sharpness.loss.per_example.UnitGradients` refuses.

    >>> x = torch.tensor([[1.0, 2.0], [3.0, 2.0]])             # 1/2 |w - x|^2 at w = 0: g = -x
    >>> model = torch.nn.Linear(1, 2, bias=False)
    >>> loss = Loss(model, lambda output, target: ((output - target) ** 2).sum(1).mean() / 2, [(torch.ones(2, 1), x)])
    >>> result = PreconditionedNoise()(loss, torch.zeros(2), preconditioner=torch.tensor([1.0, 4.0]))
    >>> [round(result.numbers[name].value, 4) for name in ("noise_trace", "gradient_square")]  # 2; 4 + 4/4 - 2/2
    [2.0, 4.0]
    """

    name = "preconditioned_noise"

    source: str | None = None
    eps: float = 1e-8
    batch_size: int | None = None
    num_batches: int = 30
    method: str = "auto"
    chunk: int | str = "auto"
    confidence: float = 0.95
    seed: int = 0

    def measure(
        self,
        loss: Loss,
        w: Tensor,
        *,
        preconditioner: Tensor | Preconditioner | None = None,
        progress: Progress | None = None,
    ) -> PreconditionedNoiseResult:
        """Measure at ``w``; ``preconditioner`` is P, or its diagonal of shape (n,)."""
        self._check()
        if isinstance(preconditioner, Tensor):
            preconditioner = Preconditioner(preconditioner, "given")
        elif preconditioner is None or self.source == "gradients":
            preconditioner = Preconditioner(None, GRADIENTS)
        diagonal = preconditioner.diagonal
        p = self._from_gradients(loss, w) if diagonal is None else loss.point(diagonal)
        units = UnitGradients(loss, w, self.method, self.chunk)
        none = torch.zeros(0, dtype=torch.int64)
        products = inner_products(units, None, none, progress, scale=checked(p, w).rsqrt())
        square, noise = gradient_and_noise(products.weights, products.squares, products.along, products.square)
        scale = ratio(noise, square, self.confidence, "G^T P^-1 G")
        reasons = {"converged": "an estimate from all the units does not iterate"}
        ends = {"value": scale.value, "lower": scale.lower, "upper": scale.upper}
        return PreconditionedNoiseResult(
            quantity="preconditioned_noise_scale",
            value=scale.value,
            lower=scale.lower,
            upper=scale.upper,
            confidence=self.confidence,
            residual=products.residual,
            num_gradients=len(units.weights) + 1 + (self.num_batches if diagonal is None else 0),
            seed=self.seed,
            reasons=reasons | {name: str(scale.reason) for name, end in ends.items() if end is None},
            numbers={
                "gradient_square": square.interval(self.confidence),
                "noise_trace": noise.interval(self.confidence),
            },
            unit=units.unit,
            num_units=len(units.weights),
            method=units.method,
            method_reason=units.reason,
            preconditioner_source=preconditioner.source,
        )

    def _from_gradients(self, loss: Loss, w: Tensor) -> Tensor:
        return from_gradients(loss, w, self.batch_size, self.num_batches, self.eps, self.seed)

    def _check(self) -> None:
        check_confidence(self.confidence, "0.95")
        if self.source not in (None, "gradients"):
            raise InputError(f"expected source 'gradients' or none, got {self.source!r}: none reads the checkpoint's")
        if not self.eps > 0:
            raise InputError(f"expected a positive eps, got {self.eps}: Adam's default is 1e-8")
        if self.num_batches < 1:
            raise InputError(f"expected at least 1 batch, got {self.num_batches}: 30 is usual")
