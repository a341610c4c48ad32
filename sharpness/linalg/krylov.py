"""The Lanczos process: an orthonormal basis of a Krylov space and the small matrix of the operator in it."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import numpy as np
import torch
from torch import Tensor

from sharpness.linalg.basis import Products, orthogonalise, random_direction, rotate
from sharpness.linalg.certificates import Polynomials
from sharpness.linalg.operators import SymmetricOperator
from sharpness.machine.environment import derived_seed
from sharpness.vectors import norm


class Krylov:
    """The Lanczos relation ``A Q = Q T + beta q_{m+1} e_m^T``, grown by one product and one basis vector at a time.

    With ``locked`` vectors V it is that of ``C = A`` restricted to their complement, and ``crossings`` is ``V^T A Q``.
    ``betas`` are the measured lengths of the residuals. Where one is only rounding the next vector is a fresh one, and
    T has 0 there (``couplings``); what the start vector can prove ends there too (``proven``).
    ``defect`` is the Frobenius norm of ``Q^T A Q - T`` as measured by the reorthogonalisation: zero for a symmetric
    product in exact arithmetic, so it shows rounding and asymmetry of the product. A restart carries it on whole.

    :meth:`restart` keeps some Ritz vectors and goes on from the same residual vector (thick restart: Wu and Simon,
    SIAM J. Matrix Anal. Appl. 22, 2000). T is then diagonal in the kept Ritz values, with ``spikes`` coupling them to
    the vector after them, and tridiagonal (``alphas``, ``couplings``) from there on.

    Alive at once are V, the basis and one residual. ``start`` is used up: it becomes the first basis vector. ``seed``
    is that of the fresh vectors: two runs beside each other need two, or the second draws what the first has found.
    """

    def __init__(
        self, operator: SymmetricOperator, start: Tensor, locked: Sequence[Tensor] = (), seed: int = 0
    ) -> None:
        self.operator, self.locked, self.seed = operator, locked, seed
        self._products = Products(operator)
        self.basis: list[Tensor] = []
        self.kept, self.spikes = np.zeros(0), np.zeros(0)
        self.alphas: list[float] = []  # from vector len(kept) + 1 on, as the next two
        self.betas: list[float] = []
        self.couplings: list[float] = []
        self.crossings = np.zeros((len(locked), 0))
        self.discarded, self.log_betas = np.zeros(0), 0.0  # of the cycles before the last restart
        self.defect, self.scale, self.proven = 0.0, 0.0, True
        self._ritz: tuple[np.ndarray, np.ndarray] | None = None
        self._residual: Tensor | None = start
        self._length = self._coupling = norm(start)

    @property
    def spans_everything(self) -> bool:
        """Return whether basis and locked vectors together span the whole space, so that nothing is unknown."""
        return len(self.basis) + len(self.locked) == self.operator.size

    def step(self) -> None:
        """Make one product and add its basis vector; :class:`RunError` where the product is not finite."""
        if self._coupling == 0:  # what is left of the residual is forgotten: it counts as an error of the relation
            self.proven, self.defect = False, float(np.hypot(self.defect, np.sqrt(2) * self._length))
        self.basis.append(self._next_vector())
        self._ritz = None
        residual, length = self._products(self.basis[-1])
        components = orthogonalise(residual, [*self.locked, *self.basis])
        crossing, components = np.split(components, [len(self.locked)])
        expected = np.append(np.zeros(len(components) - 2), self._coupling) if self.alphas else self.spikes
        unexpected = components[:-1] - expected
        self.defect = float(np.hypot(self.defect, np.sqrt(2) * np.linalg.norm(unexpected)))
        self.crossings = np.column_stack([self.crossings, crossing])
        # After n steps the space is everything and the residual is 0, whatever rounding says.
        beta, alpha = 0.0 if self.spans_everything else norm(residual), float(components[-1])
        self.scale = max(self.scale, abs(alpha), beta)
        breakdown = 10 * torch.finfo(self.operator.dtype).eps * max(length, self.scale)
        self._residual, self._length, self._coupling = residual, beta, beta if beta > breakdown else 0.0
        self.alphas.append(alpha)
        self.betas.append(beta)
        self.couplings.append(self._coupling)

    def _next_vector(self) -> Tensor:
        """Return the residual, normalised in place, or a random direction where it is nothing but rounding."""
        residual, self._residual = self._residual, None
        if residual is not None and self._coupling > 0:
            return residual.div_(self._length)
        del residual
        seed = derived_seed(self.seed, "lanczos", "direction after a breakdown", self._products.number)
        return random_direction(self.operator, seed, [*self.locked, *self.basis])

    def matrix(self) -> np.ndarray:
        """Return T, shape ``(m, m)``, float64."""
        kept, T = len(self.kept), np.diag(np.concatenate([self.kept, self.alphas]))
        T[:kept, kept] = T[kept, :kept] = self.spikes
        inner = np.arange(kept, len(T) - 1)
        T[inner, inner + 1] = T[inner + 1, inner] = self.couplings[:-1]
        return T

    def ritz(self) -> tuple[np.ndarray, np.ndarray]:
        """Return Ritz values (m,) in descending order and the matching eigenvectors of T as columns (m, m)."""
        if self._ritz is None:
            values, vectors = np.linalg.eigh(self.matrix())
            self._ritz = values[::-1], vectors[:, ::-1]
        return self._ritz

    def polynomials(self) -> Polynomials:
        """Return the polynomials of the process, whose start vector they are about only as long as ``proven``."""
        values, vectors = self.ritz()
        return Polynomials(values, self.betas[-1] * vectors[-1], self.log_betas + _log_sum(self.betas), self.discarded)

    def release(self) -> None:
        """Let go of all vectors, those of the basis being the caller's or nobody's now: the run is at its end."""
        self.basis, self.locked, self._residual = [], (), None

    def restart(self, keep: np.ndarray) -> None:
        """Shrink the basis to the Ritz vectors of the indices ``keep`` (l,), counted as in :meth:`ritz`, in place."""
        values, vectors = self.ritz()
        S = vectors[:, keep]
        rotate(self.basis, S)
        self.crossings = self.crossings @ S
        self.discarded = np.concatenate([self.discarded, np.delete(values, keep)])
        self.log_betas += _log_sum(self.betas)
        self.kept, self.spikes = values[keep], self._coupling * S[-1]
        self.alphas, self.betas, self.couplings = [], [], []
        self._ritz = None


def lanczos_steps(operator: SymmetricOperator, start: Tensor) -> Iterator[Krylov]:
    """Yield the growing Krylov decomposition after each product, each vector orthogonalised twice against all others.

    ``start`` has shape ``(n,)`` and any positive length. When the Krylov space is invariant up to rounding, the next
    vector is a random one orthogonal to the space, so that the iteration goes on; it ends after n steps.
    Scalars are float64 whatever the operator's dtype. Raises :class:`RunError` where a product is not finite.

    >>> from sharpness.linalg.operators import FunctionOperator
    >>> operator = FunctionOperator(lambda v: torch.arange(3.0) * v, 3)
    >>> *_, krylov = lanczos_steps(operator, torch.ones(3))
    >>> krylov.ritz()[0].round(6).tolist()
    [2.0, 1.0, 0.0]
    """
    krylov = Krylov(operator, start.clone())
    for _ in range(operator.size):
        krylov.step()
        yield krylov


def _log_sum(betas: Sequence[float]) -> float:
    with np.errstate(divide="ignore"):
        return float(np.log(betas).sum())
