"""The largest eigenvalues of a symmetric operator by Lanczos with full reorthogonalisation and a two-sided interval."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass, field

import numpy as np
import torch
from torch import Tensor

from sharpness.environment import derived_seed
from sharpness.errors import InputError, RunError
from sharpness.linalg.certificates import tridiagonal, upper_bound
from sharpness.operators import SymmetricOperator
from sharpness.vectors import norm, random_unit_vector


@dataclass
class Krylov:
    """The Lanczos relation ``A Q = Q T + beta_k q_{k+1} e_k^T`` after k steps, Q stored as a list of k unit vectors.

    ``betas`` are the measured lengths of the residuals. Where one is only rounding the next vector is a fresh one, and
    T has 0 there (``couplings``); what the start vector can prove ends there too (``proven``).
    ``defect`` is the Frobenius norm of ``Q^T A Q - T`` as measured by the reorthogonalisation: zero for a symmetric
    product in exact arithmetic, so it shows rounding and asymmetry of the product.
    """

    basis: list[Tensor] = field(default_factory=list)
    alphas: list[float] = field(default_factory=list)
    betas: list[float] = field(default_factory=list)
    couplings: list[float] = field(default_factory=list)
    defect: float = 0.0

    @property
    def scale(self) -> float:
        """A bound of the entries of T, the size that rounding errors are relative to."""
        return max(map(abs, [*self.alphas, *self.betas]), default=0.0)

    @property
    def proven(self) -> tuple[list[float], list[float]]:
        """Alphas and betas of the steps that belong to the start vector."""
        k = self.couplings.index(0.0) + 1 if 0.0 in self.couplings else len(self.couplings)
        return self.alphas[:k], self.betas[:k]

    def ritz(self) -> tuple[np.ndarray, np.ndarray]:
        """Return Ritz values (k,) in descending order and the matching eigenvectors of T as columns (k, k)."""
        values, vectors = np.linalg.eigh(tridiagonal(self.alphas, self.couplings))
        return values[::-1], vectors[:, ::-1]


@dataclass(frozen=True)
class Eigenpairs:
    """The k largest eigenvalues with the evidence for them."""

    eigenvalues: Tensor  # (k,) float64, descending
    eigenvectors: Tensor  # (k, n)
    residuals: Tensor  # (k,) float64, measured ||A v - lambda v||
    lower: float  # bounds of the largest eigenvalue, holding together with probability `confidence`
    upper: float
    confidence: float
    converged: bool
    num_products: int
    defect: float  # || Q^T A Q - T ||, see Krylov
    history: list[tuple[int, float, float]]  # (products, largest Ritz value, upper bound) after each step


def lanczos_steps(operator: SymmetricOperator, start: Tensor) -> Iterator[Krylov]:
    """Yield the growing Krylov decomposition after each product, each vector orthogonalised twice against all others.

    ``start`` has shape ``(n,)`` and any positive length. When the Krylov space is invariant up to rounding, the next
    vector is a random one orthogonal to the space, so that the iteration goes on; it ends after n steps.
    Scalars are float64 whatever the operator's dtype. Raises :class:`RunError` where a product is not finite.
    """
    krylov, q = Krylov(), start / start.norm()
    breakdown = 10 * torch.finfo(operator.dtype).eps
    for step in range(operator.size):
        krylov.basis.append(q)
        residual = operator.matvec(q)
        length = norm(residual)
        if not np.isfinite(length):
            raise RunError(
                f"expected finite Hessian products, got {length} at product {step + 1}: check weights and data"
            )
        residual = residual.clone()
        first, second = _orthogonalise(residual, krylov.basis), _orthogonalise(residual, krylov.basis)
        alpha, couplings = first[-1] + second[-1], (first + second)[:-1]
        if step:
            couplings[-1] -= krylov.couplings[-1]
        krylov.defect = float(np.hypot(krylov.defect, np.sqrt(2) * np.linalg.norm(couplings)))
        # After n steps the space is everything and the residual is 0, whatever rounding says.
        beta = 0.0 if step == operator.size - 1 else norm(residual)
        coupling = beta if beta > breakdown * max(length, krylov.scale) else 0.0
        krylov.alphas.append(float(alpha))
        krylov.betas.append(beta)
        krylov.couplings.append(coupling)
        yield krylov
        q = residual / beta if coupling else _fresh_direction(operator, krylov.basis, step)


def top_eigenpairs(
    operator: SymmetricOperator,
    k: int = 1,
    *,
    rtol: float = 1e-2,
    confidence: float = 0.99,
    num_products: int = 100,
    seed: int = 0,
    progress: Callable[[int, int], None] | None = None,
) -> Eigenpairs:
    """Return the k largest eigenvalues, stopping when the interval of the largest is narrower than ``rtol |lambda_1|``.

    Lower bound: the Ritz value theta <= lambda_1. Upper bound: :func:`sharpness.linalg.certificates.upper_bound`, valid
    with probability ``confidence`` over the random start, for all steps at once. Both are widened by the measured
    defect of the product and by ``8 eps`` times the size of T, eps that of the operator's dtype. The other k - 1
    eigenvalues must have residual estimates of at most ``rtol |lambda_i|``; no upper bound is proven for them, and one
    start vector cannot see multiplicities. At most ``num_products`` products are made, of which k measure the
    residuals; reaching that is ``converged=False``.

    Raises :class:`InputError` for k < 1, k > n or too few products, and :class:`RunError` for non-finite products.

    >>> from sharpness.operators import FunctionOperator
    >>> diagonal = torch.linspace(0, 1, 50, dtype=torch.float64); diagonal[7] = 5.0
    >>> pairs = top_eigenpairs(FunctionOperator(lambda v: diagonal * v, 50, torch.float64), rtol=1e-6)
    >>> pairs.lower <= 5.0 <= pairs.upper, pairs.converged
    (True, True)
    """
    if not 1 <= k <= operator.size:
        raise InputError(f"expected k between 1 and the {operator.size} parameters, got {k}: choose a smaller k")
    if num_products < 2 * k:
        raise InputError(f"expected at least {2 * k} Hessian products for k={k}, got {num_products}: raise the ceiling")
    if not rtol > 0:
        raise InputError(f"expected a positive rtol, got {rtol}: 1e-2 is usual")
    # A stream of its own: the same seed may have drawn the weights, of which the start must be independent.
    start_seed = derived_seed(seed, "lanczos", "start")
    start = random_unit_vector(operator.size, start_seed, operator.dtype, operator.device)
    history, krylov, lower, upper, converged = [], Krylov(), -np.inf, np.inf, False
    for krylov in lanczos_steps(operator, start):
        steps = len(krylov.alphas)
        values, vectors = krylov.ritz()
        slack = krylov.defect + 8 * torch.finfo(operator.dtype).eps * krylov.scale
        lower, upper = float(values[0]) - slack, upper_bound(*krylov.proven, operator.size, confidence) + slack
        history.append((steps, float(values[0]), upper))
        estimates = np.abs(krylov.betas[-1] * vectors[-1, 1:k])
        others = steps >= k and bool(np.all(estimates <= rtol * np.abs(values[1:k])))
        converged = others and upper - lower <= rtol * abs(float(values[0]))
        if progress is not None:
            progress(steps, num_products)
        if converged or steps >= num_products - k:
            break
    vectors, residuals = _measured(operator, krylov, k)
    return Eigenpairs(
        eigenvalues=torch.tensor(krylov.ritz()[0][: len(vectors)].copy(), dtype=torch.float64),
        eigenvectors=vectors,
        residuals=residuals,
        lower=lower,
        upper=upper,
        confidence=confidence,
        converged=converged,
        num_products=len(krylov.alphas) + len(vectors),
        defect=krylov.defect,
        history=history,
    )


def _measured(operator: SymmetricOperator, krylov: Krylov, k: int) -> tuple[Tensor, Tensor]:
    """Return the Ritz vectors (k, n) and their residuals (k,), measured with one product each."""
    values, coefficients = krylov.ritz()
    vectors, residuals = [], []
    for value, column in list(zip(values, coefficients.T, strict=True))[:k]:
        v = torch.zeros_like(krylov.basis[0])
        for q, c in zip(krylov.basis, column, strict=True):
            v.add_(q, alpha=float(c))
        v /= v.norm()
        residuals.append(norm(operator.matvec(v) - float(value) * v))
        vectors.append(v)
    return torch.stack(vectors), torch.tensor(residuals, dtype=torch.float64)


def _orthogonalise(v: Tensor, basis: list[Tensor]) -> np.ndarray:
    """Subtract from ``v`` in place its components along each basis vector and return them, float64."""
    components = []
    for q in basis:
        component = q.dot(v)
        v.addcmul_(q, component, value=-1)
        components.append(component)
    return torch.stack(components).cpu().double().numpy()


def _fresh_direction(operator: SymmetricOperator, basis: list[Tensor], step: int) -> Tensor:
    """Return a random unit vector orthogonal to the basis (three passes: the first may cancel nearly everything)."""
    v = random_unit_vector(operator.size, 1_000_003 + step, operator.dtype, operator.device)
    for _ in range(3):
        _orthogonalise(v, basis)
        v /= v.norm()
    return v
