"""The box of Metric 2.1 of Keskar et al. 2017 around the weights, in all directions or in a random subspace."""

from __future__ import annotations

import math
from collections.abc import Iterator

import torch
from torch import Tensor

from sharpness.errors import InputError, RunError
from sharpness.loss import Loss
from sharpness.machine.environment import derived_seed
from sharpness.machine.memory import free_memory

BLOCK = 1 << 22  # entries of A drawn at a time
KEPT_SHARE = 0.25  # of the free memory that blocks of A may take; the others are drawn again at each product


class RandomColumns:
    """A matrix A of shape (n, p) with independent standard normal entries, held in blocks of rows as far as they fit.

    Its entries are drawn in float64 from the seed and the number of the block and then rounded to ``dtype``, so they do
    not depend on the device or on how many blocks are kept within ``budget`` bytes.

    >>> A = RandomColumns(5, 2, 0, torch.float64, torch.device("cpu"), budget=0)
    >>> A.times(torch.ones(2)).shape, A.transposed(torch.ones(5)).shape
    (torch.Size([5]), torch.Size([2]))
    """

    def __init__(self, n: int, p: int, seed: int, dtype: torch.dtype, device: torch.device, budget: int) -> None:
        self.n, self.p, self.seed = n, p, seed
        self.dtype, self.device = dtype, device
        self.rows = max(BLOCK // p, 1)
        self._kept: list[Tensor] = []
        num_kept = min(budget // (self.rows * p * dtype.itemsize), math.ceil(n / self.rows))
        self._kept = [self._drawn(number) for number in range(num_kept)]

    def _drawn(self, number: int) -> Tensor:
        generator = torch.Generator().manual_seed(derived_seed(self.seed, "keskar", "A", number))
        rows = min(self.rows, self.n - number * self.rows)
        block = torch.randn(rows, self.p, generator=generator, dtype=torch.float64)
        return block.to(self.dtype).to(self.device)

    def _blocks(self) -> Iterator[Tensor]:
        yield from self._kept
        for number in range(len(self._kept), math.ceil(self.n / self.rows)):
            yield self._drawn(number)

    def times(self, y: Tensor) -> Tensor:
        """Return ``A y``, shape (n,)."""
        y = y.to(self.dtype).to(self.device)
        return torch.cat([block @ y for block in self._blocks()])

    def transposed(self, v: Tensor) -> Tensor:
        """Return ``A^T v``, shape (p,), float64 on the CPU."""
        pieces = zip(self._blocks(), v.to(self.dtype).split(self.rows), strict=True)
        return sum(((block.T @ piece).cpu().double() for block, piece in pieces), torch.zeros(self.p).double())

    def coordinates(self, v: Tensor) -> Tensor:
        """Return ``A^+ v = (A^T A)^-1 A^T v``, shape (p,), float64 on the CPU."""
        products = ((block.T @ block).cpu().double() for block in self._blocks())
        gram = sum(products, torch.zeros(self.p, self.p).double())
        return torch.linalg.solve(gram, self.transposed(v))


class Box:
    """The loss around x as a function of z in ``|z_i| <= epsilon (|(A^+ x)_i| + 1)``: ``f(x + A z)``, counted.

    ``subspace`` is the number p of random columns of A; ``None`` is the full space, A = I. ``reach`` holds the half
    widths for epsilon 1, shape (p,), float64 on the CPU. Raises :class:`InputError` for p < 1 or p > n.

    The paper does not state the law of A. Here its entries are independent standard normal, so that a column has length
    sqrt(n) and a corner of the box moves each weight by about ``epsilon sqrt(p)``; with shorter columns phi is smaller.
    """

    def __init__(self, loss: Loss, w: Tensor | None, subspace: int | None, seed: int) -> None:
        self.loss, self.x = loss, loss.point(loss.weights if w is None else w)
        self.columns = None if subspace is None else self._random_columns(subspace, seed)
        centre = self.x if self.columns is None else self.columns.coordinates(self.x)
        self.reach = centre.cpu().double().abs() + 1
        self.num_gradients = 0

    def _random_columns(self, p: int, seed: int) -> RandomColumns:
        if not 1 <= p <= self.x.numel():
            raise InputError(
                f"expected a subspace of 1 to {self.x.numel()} dimensions, got {p}: the paper takes 100; leave it out "
                "for the full space"
            )
        budget = int(KEPT_SHARE * free_memory(self.x.device))
        return RandomColumns(self.x.numel(), p, seed, self.x.dtype, self.x.device, budget)

    def value_and_grad(self, z: Tensor) -> tuple[float, Tensor]:
        """Return the loss at ``x + A z`` and its gradient in z; :class:`RunError` where the loss is not finite."""
        shift = z.to(self.x.dtype).to(self.x.device) if self.columns is None else self.columns.times(z)
        value, gradient = self.loss.value_and_grad(self.x + shift)
        self.num_gradients += 1
        if not math.isfinite(value):
            raise RunError(f"expected a finite loss in the box, got {value}: the weights or the box are too large")
        return value, gradient if self.columns is None else self.columns.transposed(gradient)


def phi(value: float, best: float) -> float | None:
    """Return ``100 (best - value) / (1 + value)``: equation (3) of Keskar et al. 2017, in percent.

    The paper's loss is never negative; where ``1 + value`` is not positive there is none.

    >>> phi(1.0, 2.0), phi(-1.5, 2.0)
    (50.0, None)
    """
    return 100 * (best - value) / (1 + value) if value > -1 else None


def why_no_phi(value: float, *places: str) -> dict[str, str]:
    """Return why there is no phi at a loss, under each place in the record; nothing where there is one."""
    reason = f"the metric is relative to 1 + loss, here {1 + value:.4g}, and made for losses that are never negative"
    return {} if value > -1 else dict.fromkeys(("value", "lower", *places), reason)


def percent(value: float | None) -> str:
    """Return phi as text.

    >>> percent(12.0), percent(None)
    ('12 %', 'unknown')
    """
    return "unknown" if value is None else f"{value:.4g} %"


def check_epsilons(*epsilons: float | None) -> tuple[float, ...]:
    """Return the half widths that are given; :class:`InputError` unless all are positive."""
    given = tuple(epsilon for epsilon in epsilons if epsilon is not None)
    for epsilon in given:
        if not epsilon > 0:
            raise InputError(f"expected a positive epsilon, got {epsilon}: the paper uses 1e-3 and 5e-4")
    return given
