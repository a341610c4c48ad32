"""Quadrature of the spectrum as one start vector weighs it, by Lanczos: Gauss's, Radau's, and the mass below 0."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field

import numpy as np
import torch
from scipy.linalg import eigh_tridiagonal
from torch import Tensor

from sharpness.errors import RunError
from sharpness.linalg.krylov import lanczos_steps
from sharpness.linalg.operators import FunctionOperator, SymmetricOperator
from sharpness.vectors import dot, norm

# An eigenvalue this small relative to the largest has no sign: eigenvalues of T come with an error of this order.
ZERO = 1e-12


@dataclass(frozen=True, eq=False)
class Quadrature:
    """Nodes and weights for the distribution with mass ``<v, u_i>^2`` at each eigenvalue, v the unit start vector."""

    nodes: np.ndarray  # (k,) ascending
    weights: np.ndarray  # (k,) sum 1
    below: float  # weight of the nodes below 0
    bracket: tuple[float, float]  # bounds of the distribution's mass below 0
    moment_error: float  # mismatch with the measured v^T A v and ||A v||^2, relative to ||A v|| and its square
    defect: float  # || Q^T A Q - T ||, as far as measured, relative to the largest node: 0 for a symmetric product
    complete: bool  # False where it was stopped before the steps asked for
    alphas: list[float] = field(repr=False)  # (k,) the diagonal of T
    couplings: list[float] = field(repr=False)  # (k,) beside it, the last one the norm of the next residual

    @property
    def floor(self) -> float:
        """The smallest node less its residual: an eigenvalue lies between them, as a rule the smallest one.

        It is that eigenvalue itself where the last coupling is 0.
        """
        _, vectors = eigh_tridiagonal(np.array(self.alphas), np.array(self.couplings[:-1]))
        return float(self.nodes[0] - self.couplings[-1] * abs(vectors[-1, 0]))

    def from_below(self, end: float) -> tuple[np.ndarray, np.ndarray]:
        """Return nodes and weights of the Gauss-Radau rule with a node at ``end``, which no eigenvalue lies below.

        For a function whose odd derivatives are positive from ``end`` on its sum is too small, where that of the Gauss
        rule is too large if the even ones are negative (Golub and Meurant 2010, theorems 6.4 and 6.5). Where a node
        lies below ``end``, by rounding or because ``end`` was a guess, the rule begins just below that node. Where T is
        the whole distribution, it is Gauss's.

        >>> A = FunctionOperator(lambda v: torch.tensor([0.0, 1.0, 3.0]).double() * v, 3, torch.float64)
        >>> rule = lanczos_quadrature(A, torch.tensor([2.0, 2.0, 1.0], dtype=torch.float64) / 3, 1)
        >>> nodes, weights = rule.from_below(0.0)                   # mean 7/9 and mean square 13/9, as of the whole
        >>> rule.nodes.round(3).tolist(), (abs(nodes).round(3) + 0).tolist(), weights.round(3).tolist()
        ([0.778], [0.0, 1.857], [0.581, 0.419])
        """
        if self.couplings[-1] == 0:
            return self.nodes, self.weights
        node = min(end, float(self.nodes[0]) - ZERO * float(np.abs(self.nodes).max()))
        return _rule(*_with_node(self.alphas, self.couplings, node))


def lanczos_quadrature(
    operator: SymmetricOperator,
    v: Tensor,
    steps: int,
    *,
    reorthogonalise: bool = True,
    stop: Callable[[], bool] = lambda: False,
) -> Quadrature:
    """Return the quadrature with ``steps`` nodes from the unit vector ``v`` (n,), exact to degree ``2 steps - 1``.

    The nodes are the eigenvalues of the Lanczos matrix T, the weights the squared first components of its
    eigenvectors (Golub and Welsch 1969). It has fewer nodes, and is the distribution itself, where the Krylov space is
    invariant; ``stop`` is asked after each product and can end it after two. Raises :class:`RunError` for a product
    that is not finite.

    >>> A = FunctionOperator(lambda v: torch.tensor([-1.0, 1.0]).double() * v, 2, torch.float64)
    >>> rule = lanczos_quadrature(A, torch.tensor([0.6, 0.8], dtype=torch.float64), 2)
    >>> rule.nodes.round(9).tolist(), rule.weights.round(9).tolist()
    ([-1.0, 1.0], [0.36, 0.64])
    """
    measured: list[float] = []

    def matvec(q: Tensor) -> Tensor:
        product = operator.matvec(q)
        if not measured:
            measured.extend([dot(q, product), norm(product)])
        return product

    watched = FunctionOperator(matvec, operator.size, operator.dtype, operator.device)
    steps = min(steps, operator.size)
    process = _full(watched, v) if reorthogonalise else _three_term(watched, v)
    # The range comes first: to ask the process for one step too many would cost a product.
    T: tuple[list[float], list[float], float] = [], [], 0.0
    for made, T in zip(range(1, steps + 1), process, strict=False):
        stopped = stop()
        if T[1][-1] == 0 or (stopped and made >= 2):
            break
    alphas, couplings, defect = T
    nodes, weights = _rule(alphas, couplings[:-1])
    largest = float(np.abs(nodes).max())
    smallest = max(ZERO, 10 * torch.finfo(operator.dtype).eps) * largest + operator.error
    low, high = mass_below_zero(alphas, couplings, smallest)
    return Quadrature(
        nodes=nodes,
        weights=weights,
        below=float(np.clip(weights[nodes < -smallest].sum(), low, high)),
        bracket=(low, high),
        moment_error=_moment_error(nodes, weights, measured[0], measured[1]),
        defect=max(defect - operator.error, 0.0) / largest if largest else 0.0,
        complete=len(alphas) == steps or couplings[-1] == 0,
        alphas=alphas,
        couplings=couplings,
    )


def mass_below_zero(alphas: list[float], couplings: list[float], smallest: float) -> tuple[float, float]:
    """Return bounds of the start vector's mass below 0 from k steps of Lanczos; magnitudes <= ``smallest`` count as 0.

    ``couplings`` (k) end with the norm of the next residual. T is given one more row whose diagonal entry makes 0 an
    eigenvalue (Gauss-Radau, Golub 1973). By the Chebyshev-Markov-Stieltjes inequalities every distribution with the
    same 2 k + 1 moments has a mass below 0 between the weights of the nodes below 0 and those up to 0; both ends are
    reached, so nothing narrower follows from these products. Where that entry would be huge, because T has an
    eigenvalue near 0 already, the last row of T is changed instead, which uses one moment less. A last coupling of 0
    means that T is the whole distribution.

    >>> mass_below_zero([0.0], [1.0], 1e-12)          # of the masses with mean 0 and variance 1 some have none there
    (0.0, 1.0)
    """
    whole = couplings[-1] == 0
    nodes, weights = _rule(alphas, couplings[:-1]) if whole else _rule(*_with_node(alphas, couplings, 0.0))
    if not whole:
        nodes[np.abs(nodes).argmin()] = 0.0  # it is, but for rounding
    return float(weights[nodes < -smallest].sum()), float(weights[nodes <= smallest].sum())


def _with_node(alphas: list[float], couplings: list[float], node: float) -> tuple[list[float], list[float]]:
    """Return the diagonal and the couplings of T with an eigenvalue at ``node``, as :func:`mass_below_zero` tells."""
    pivots = [alphas[0] - node]
    for alpha, coupling in zip(alphas[1:], couplings, strict=False):
        pivots.append(alpha - node - coupling**2 / _away_from_zero(pivots[-1]))
    last = node + couplings[-1] ** 2 / _away_from_zero(pivots[-1])
    if abs(last) <= 1e3 * max(map(abs, [*alphas, *couplings])):
        return [*alphas, last], couplings
    last = node + (couplings[-2] ** 2 / _away_from_zero(pivots[-2]) if len(alphas) > 1 else 0.0)
    return [*alphas[:-1], last], couplings[:-1]


def _away_from_zero(pivot: float) -> float:
    return pivot if pivot else np.finfo(float).tiny


def _rule(alphas: list[float], inner: list[float]) -> tuple[np.ndarray, np.ndarray]:
    """Return the eigenvalues of the tridiagonal matrix and the squared first components of its eigenvectors."""
    nodes, vectors = eigh_tridiagonal(np.array(alphas), np.array(inner, dtype=np.float64))
    return nodes, vectors[0] ** 2


def _moment_error(nodes: np.ndarray, weights: np.ndarray, quadratic: float, length: float) -> float:
    if length == 0:
        return float(np.abs(nodes).max())
    first, second = abs(weights @ nodes - quadratic) / length, abs(weights @ nodes**2 - length**2) / length**2
    return float(max(first, second))


def _full(operator: SymmetricOperator, v: Tensor) -> Iterator[tuple[list[float], list[float], float]]:
    """Yield the growing T of the fully reorthogonalised process, with its defect."""
    for krylov in lanczos_steps(operator, v):
        yield krylov.alphas, krylov.couplings, krylov.defect


def _three_term(operator: SymmetricOperator, v: Tensor) -> Iterator[tuple[list[float], list[float], float]]:
    """Yield the growing T of the plain recurrence, which keeps three vectors and loses orthogonality.

    Its defect is that of the entries ``<q_{j-1}, A q_j> = beta_{j-1}`` alone.
    """
    alphas, couplings, defect, q = list[float](), list[float](), 0.0, v
    previous, breakdown = torch.zeros_like(v), 10 * torch.finfo(operator.dtype).eps
    while True:
        product = operator.matvec(q)
        alpha = dot(q, product)
        if couplings:
            defect = math.hypot(defect, dot(previous, product) - couplings[-1])
        residual = product - alpha * q - (couplings[-1] if couplings else 0.0) * previous
        beta = norm(residual)
        if not math.isfinite(beta):
            raise RunError(f"expected finite products, got {beta} at product {len(alphas) + 1}: check weights and data")
        alphas.append(alpha)
        couplings.append(beta if beta > breakdown * max(map(abs, [*alphas, *couplings])) else 0.0)
        yield alphas, couplings, defect
        previous, q = q, residual / beta
