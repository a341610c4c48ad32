"""The rise of the loss when weights are rounded to few bits: what the curvature says, and what is measured."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch
from torch import Tensor

from sharpness.errors import InputError
from sharpness.linalg.knobs import check_confidence
from sharpness.linalg.sampling import Products, mean_and_error, student
from sharpness.loss import Loss
from sharpness.machine.environment import derived_seed
from sharpness.machine.progress import Progress
from sharpness.probes.methods.quadratic_rise import judged, rounding_noise
from sharpness.probes.methods.spectra import CurvatureProbe, curvature_details
from sharpness.results import MERGED, ProbeResult
from sharpness.vectors import Layout, dot


@dataclass(frozen=True, kw_only=True)
class RoundingResult(ProbeResult):
    """The expected rise at the fewest bits, ``value``, with its interval, and a row for each number of bits."""

    rows: list[dict[str, Any]]
    rounded_weights: int
    operator_details: Mapping[str, Any] = field(repr=False, metadata=MERGED)

    def __str__(self) -> str:
        lines = [
            f"{row['bits']} bits: expected {row['expected']:.3g}, along the rounding {row['quadratic']:.3g}, "
            f"measured {row['measured']:.3g} ({row['verdict']})"
            for row in self.rows
        ]
        return f"{'; '.join(lines)}, {self.num_hvps} HVPs, {self.seconds:.1f} s"


@dataclass(frozen=True, kw_only=True)
class Rounding(CurvatureProbe[RoundingResult]):
    """The rise of the loss under rounding of the weights to few bits, by the curvature and measured.

    Every tensor of two or more axes is rounded to the nearest of ``2^bits - 1`` values, evenly spaced and symmetric
    about 0, in each row of its first axis from minus to plus the largest absolute value, so that the step is ``s =
    max|w| / (2^(bits-1) - 1)``; biases and norms stay. Each row of ``rows`` is for a number of bits:

    - ``expected``: ``1/2 sum_i H_ii s_i^2 / 12``, the mean of the quadratic model ``g^T d + 1/2 d^T H d`` over errors d
      that are independent and uniform within half a step. It is the mean over ``num_hvps`` draws, with the interval
      ``expected_lower`` to ``expected_upper`` at ``confidence``; ``single_lower`` to ``single_upper`` is that of one
      such rounding, whose rise is random.
    - ``quadratic``: the same model along the errors that rounding makes at these weights: one more product.
    - ``measured``: the rise of the loss itself, and ``noise``, the rounding noise of the difference.
    - ``verdict``: ``holds`` where the measured rise differs from the quadratic one by at most a quarter of itself,
      ``fails``, or ``below noise``.

    With ``matrix="gauss_newton"`` the curvature is that of the model linearised in its weights.

    >>> batch = (torch.tensor([[3.0, 4.0]]), torch.tensor([[0.0]]))
    >>> loss = Loss(torch.nn.Linear(2, 1, bias=False), torch.nn.functional.mse_loss, [batch], dtype=torch.float64)
    >>> [row["verdict"] for row in Rounding(bits=(4, 3))(loss, torch.tensor([0.3, 1.0])).rows]
    ['holds', 'holds']
    """

    name = "rounding"

    bits: tuple[int, ...] = (8, 4, 3)
    num_hvps: int = 40
    confidence: float = 0.95

    def measure(self, loss: Loss, w: Tensor, *, progress: Progress | None = None) -> RoundingResult:
        """Measure at ``w``; :class:`InputError` for bad knobs, and where no tensor has two axes."""
        self.check()
        unit = scales(w, loss.layout)
        rounded = int((unit > 0).sum())
        if not rounded:
            raise InputError("expected a tensor of weights with two or more axes to round, got vectors alone")
        operator = self.operator(loss, w)
        products = Products(operator, self.num_hvps + len(self.bits), progress)
        gradient, base = loss.grad(w), loss.value(w)
        forms, slopes = np.zeros(self.num_hvps), np.zeros(self.num_hvps)
        for number in range(self.num_hvps):
            d = unit * _uniform(w, derived_seed(self.seed, "rounding", number))
            forms[number], slopes[number] = 0.5 * dot(d, products(d[:, None])[:, 0]), dot(gradient, d)
        noise = rounding_noise(loss, w, base)
        rows = list[dict[str, Any]]()
        for bits in sorted(self.bits, reverse=True):
            d = rounded_to(w, loss.layout, bits) - w
            quadratic = dot(gradient, d) + 0.5 * dot(d, products(d[:, None])[:, 0])
            measured = loss.value(w + d) - base
            found = {"quadratic": quadratic, "measured": measured, "noise": noise}
            rows.append({"bits": bits, **self._expected(bits, forms, slopes), **found})
            rows[-1]["verdict"] = judged(quadratic, measured, noise)
        last = rows[-1]
        return RoundingResult(
            quantity=self.quantity(f"rounding_{last['bits']}_bits"),
            value=last["expected"],
            lower=last["expected_lower"],
            upper=last["expected_upper"],
            confidence=self.confidence,
            num_hvps=products.made,
            num_gradients=1,
            num_forwards=2 + len(rows),
            seed=self.seed,
            hvp_backend=operator.backend,
            rows=rows,
            rounded_weights=rounded,
            operator_details=curvature_details(operator),
            reasons={"converged": "as many draws as were asked for, with their standard error"},
        )

    def _expected(self, bits: int, forms: np.ndarray, slopes: np.ndarray) -> dict[str, float]:
        """Return what draws in units of the largest values say of a number of bits."""
        factor, count = 1 / levels(bits), len(forms)
        quantile = student(count - 1, self.confidence)
        mean, error = mean_and_error(factor**2 * forms)
        of_one = mean_and_error(factor**2 * forms + factor * slopes)[1] * (count + 1) ** 0.5
        return {
            "expected": mean,
            "expected_lower": mean - quantile * error,
            "expected_upper": mean + quantile * error,
            "single_lower": mean - quantile * of_one,
            "single_upper": mean + quantile * of_one,
        }

    def check(self) -> None:
        """Raise :class:`InputError` for bad knobs."""
        check_confidence(self.confidence, "0.95")
        if not self.bits or min(self.bits) < 2 or max(self.bits) > 24:
            raise InputError(f"expected bits from 2 to 24, got {list(self.bits)}: 8, 4 and 3 are usual")
        if self.num_hvps < 2:
            raise InputError(f"expected at least 2 draws for an interval, got num_hvps = {self.num_hvps}: 40 is usual")


def levels(bits: int) -> int:
    """Return the number of values above 0: 127, 7 and 3 for 8, 4 and 3 bits."""
    return 2 ** (bits - 1) - 1


def scales(w: Tensor, layout: Layout) -> Tensor:
    """Return for each weight the largest absolute value of its row, 0 for weights that are not rounded, shape (n,)."""
    return torch.cat([_largest(piece).reshape(-1) for piece in layout.unflatten(w).values()])


def rounded_to(w: Tensor, layout: Layout, bits: int) -> Tensor:
    """Return the weights rounded to so many bits, shape (n,).

    >>> rounded_to(torch.tensor([0.3, -0.9]), Layout.of(torch.nn.Linear(2, 1, bias=False)), 3)    # steps of 0.3
    tensor([ 0.3000, -0.9000])
    """
    step = scales(w, layout) / levels(bits)
    whole = torch.where(step > 0, step, 1.0)
    return torch.where(step > 0, (w / whole).round() * whole, w)


def _largest(piece: Tensor) -> Tensor:
    if piece.ndim < 2:
        return torch.zeros_like(piece)
    rows = piece.flatten(1)
    return rows.abs().amax(1, keepdim=True).expand_as(rows)


def _uniform(like: Tensor, seed: int) -> Tensor:
    """Return errors of a rounding in units of its step, uniform on +-1/2."""
    generator = torch.Generator().manual_seed(seed)
    return (torch.rand(like.shape, generator=generator, dtype=torch.float64) - 0.5).to(like)
