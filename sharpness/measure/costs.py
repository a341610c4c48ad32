"""The cost of a measurement: passes over the data by probe, and the seconds of one pass as measured here."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import partial
from typing import Any

import torch

from sharpness.curvature import HessianOperator
from sharpness.curvature.compiled import seconds_of
from sharpness.errors import InputError
from sharpness.linalg.shared_products import NUM_SHARED
from sharpness.loss import Loss
from sharpness.loss.per_example import UnitGradients
from sharpness.vectors import norm


@dataclass(frozen=True)
class Work:
    """Passes over the data: forwards, gradients and products with a curvature matrix; and gradients of one example."""

    forwards: float = 0.0
    gradients: float = 0.0
    products: float = 0.0
    examples: float = 0.0

    def __add__(self, other: Work) -> Work:
        return Work(**{name: getattr(self, name) + getattr(other, name) for name in self.__dataclass_fields__})

    def __str__(self) -> str:
        """Return the passes in words.

        >>> print(Work(gradients=12.4, products=1))
        12 gradients and 1 product
        """
        single = "gradient of one example"
        counts = {"forward pass": self.forwards, "gradient": self.gradients, "product": self.products}
        counts[single] = self.examples
        many = {"forward pass": "forward passes", single: "gradients of one example"}
        words = [
            f"{n:,.0f} {name if round(n) == 1 else many.get(name, name + 's')}"
            for name, n in counts.items()
            if n >= 0.5
        ]
        return " and ".join(filter(None, [", ".join(words[:-1]), *words[-1:]]))


@dataclass(frozen=True)
class Price:
    """Seconds of one pass of each kind, and of the gradient of one example beside others."""

    forward: float
    gradient: float
    product: float
    example: float

    def seconds(self, work: Work) -> float:
        """Return what so many passes take.

        >>> Price(forward=1.0, gradient=3.0, product=7.0, example=0.1).seconds(Work(gradients=2, products=1))
        13.0
        """
        passes = self.forward * work.forwards + self.gradient * work.gradients + self.product * work.products
        return passes + self.example * work.examples


FORWARD, PRODUCT, ONE_BY_ONE = 1 / 3, 2.3, 25.0
"""A forward pass, a kept product, and the gradients of all examples one by one, in gradients.

As measured on the networks of docs/benchmarks.md, the last of them on ResNet-18.
"""


def in_gradients(loss: Loss) -> Price:
    """Return the prices where a gradient is 1, without measuring any."""
    return Price(FORWARD, 1.0, PRODUCT, ONE_BY_ONE / loss.num_examples)


def price_of(loss: Loss, work: Work, *, products: bool) -> Price:
    """Return the prices of this work at the loss's own weights: of a gradient, where asked a product, and an example.

    What is not timed is taken from the gradient. Where there is nothing to do nothing is timed, for norms and distances
    need no loss that has derivatives.
    """
    if work == Work():
        return Price(0.0, 0.0, 0.0, 0.0)
    timed = partial(_second_time, device=loss.weights.device)
    gradient = timed(lambda: loss.grad(loss.weights))
    product, example = PRODUCT * gradient, gradient / loss.num_examples
    if products:
        operator, v = HessianOperator(loss), torch.ones_like(loss.weights)
        v /= norm(v)
        product = timed(lambda: operator.matvec(v))
    if work.examples:
        with contextlib.suppress(InputError):  # examples without a gradient of their own: the probe says why
            some = UnitGradients(loss, loss.weights)
            example = timed(lambda: next(iter(some))) / min(some.chunk, loss.data.batch_sizes[0])
    return Price(FORWARD * gradient, gradient, product, example)


def cheapest_first(probes: Mapping[str, Any], loss: Loss) -> dict[str, Any]:
    """Return the probes by the passes over the data that they are expected to take; those of equal price stay in order.

    The trace of ``krylov`` goes on from an eigenvalue's products, of which it has more: it comes after that by itself.
    """
    works, price = expected_work(probes, loss), in_gradients(loss)
    return {name: probes[name] for name in sorted(probes, key=lambda name: price.seconds(works[name]))}


def _second_time(call: Callable[[], Any], device: torch.device) -> float:
    """Return the seconds of the second call: the first one prepares things."""
    call()
    return seconds_of(call, device)


def _solve(count: int, wanted: int = 1) -> int:
    """Return the products of a certified solve: about 9 for one eigenvalue, and a run beside those found for more."""
    return min(count, 9 if wanted == 1 else 15 + 8 * wanted)


def _ends(probe: Any) -> int:
    return probe.k * (2 if probe.which == "both" else 1)


def _batches(probe: Any, loss: Loss) -> float:
    """Return the passes over the data that random batches make."""
    size = probe.batch_size or max(loss.data.batch_sizes)
    return probe.num_batches * size / loss.num_examples


def _units(probe: Any, loss: Loss) -> Work:
    """Return the work of the gradients of all examples, or of all batches where those are what has one."""
    by_batches = probe.method == "batches" or (probe.method == "auto" and not loss.divisible)
    return Work(gradients=1) if by_batches else Work(examples=loss.num_examples)


# Iterations that end by what they find are taken at what they took on the built-in networks.
WORK: Mapping[str, Callable[[Any, Loss], Work]] = {
    "eigenvalues": lambda p, loss: Work(products=_solve(p.num_hvps, _ends(p))),
    "layers": lambda p, loss: Work(products=0.3 * len(loss.layout.layers()) * _solve(p.num_hvps, _ends(p))),
    "density": lambda p, loss: Work(products=p.steps * p.starts),
    "trace": lambda p, loss: Work(
        products=min(p.num_hvps - NUM_SHARED, 12) if p.method == "krylov" else min(p.num_hvps, 80)
    ),
    "diagonal": lambda p, loss: Work(products=loss.layout.size if loss.layout.size <= p.exact_up_to else p.num_hvps),
    "keskar": lambda p, loss: Work(gradients=1.4 * p.num_iterations),
    "keskar_maximum": lambda p, loss: Work(gradients=150 * (1 if p.second_epsilon is None else 2)),
    "worst_case": lambda p, loss: Work(gradients=p.steps * p.num_starts),
    "geodesic_sharpness": lambda p, loss: Work(gradients=2 * p.steps * p.num_starts),
    "sam": lambda p, loss: Work(gradients=2),
    "average_case": lambda p, loss: Work(forwards=2 * p.num_pairs),
    "critical_sharpness": lambda p, loss: Work(forwards=30, gradients=1),
    "directional_sharpness": lambda p, loss: Work(gradients=1, products=1.5),
    "batch_sharpness": lambda p, loss: Work(gradients=_batches(p, loss), products=_batches(p, loss)),
    "interaction": lambda p, loss: Work(gradients=_batches(p, loss), products=p.num_batches),
    "pac_bayes": lambda p, loss: Work(forwards=2 * p.num_pairs * 12),
    "adaptive_radius": lambda p, loss: Work(gradients=12 * p.num_gradients),
    "rounding": lambda p, loss: Work(2 + len(p.bits), gradients=1, products=p.num_hvps + len(p.bits)),
    "drift": lambda p, loss: Work(4 + 2 * p.num_measured, gradients=1, products=p.num_hvps + 10),
    "learning_coefficient": lambda p, loss: Work(
        gradients=p.num_chains * (p.burn_in + p.num_draws) * (p.batch_size or loss.num_examples) / loss.num_examples,
        products=60,
    ),
    "relative_flatness": lambda p, loss: Work(products=80),
    "norms": lambda p, loss: Work(),
    "occam": lambda p, loss: Work(products=p.steps * p.starts),
    "fisher_trace": lambda p, loss: Work(products=min(p.num_hvps, 80)),
    "fisher_rao_norm": lambda p, loss: Work(gradients=1),
    "preconditioned_sharpness": lambda p, loss: Work(
        gradients=_batches(p, loss) if p.source != "state" else 0, products=_solve(p.num_hvps)
    ),
    "generalised_sharpness": lambda p, loss: Work(gradients=1, products=min(p.num_hvps, 10 + 8 * p.num_starts)),
    "gradient_noise": lambda p, loss: _units(p, loss) + Work(gradients=1, products=p.num_hvps + bool(p.num_hvps)),
    "preconditioned_noise": lambda p, loss: _units(p, loss) + Work(gradients=1 + _batches(p, loss)),
    "distance": lambda p, loss: Work(),
    "interpolation": lambda p, loss: Work(forwards=2 * p.num_points),
    "pyhessian": lambda p, loss: Work(products=40),
}


def expected_work(probes: Mapping[str, Any], loss: Loss) -> dict[str, Work]:
    """Return the passes over the data that each probe is expected to take."""
    return {name: WORK[name](probe, loss) for name, probe in probes.items()}
