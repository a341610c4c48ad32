"""The Lanczos process: an orthonormal basis of a Krylov space and the small matrix of the operator in it."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field

import numpy as np
import torch
from torch import Tensor

from sharpness.errors import RunError
from sharpness.linalg.certificates import tridiagonal
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
