"""The largest eigenvalues of a symmetric operator by Lanczos with full reorthogonalisation and a two-sided interval."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from sharpness.environment import derived_seed
from sharpness.errors import InputError
from sharpness.linalg.certificates import upper_bound
from sharpness.linalg.krylov import Krylov, lanczos_steps
from sharpness.operators import SymmetricOperator
from sharpness.vectors import norm, random_unit_vector


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
