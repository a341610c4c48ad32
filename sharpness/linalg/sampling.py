"""Random products with an operator, and the trace estimators that are sums over them: samples that grow."""

from __future__ import annotations

import math
import sys

import numpy as np
import torch
from scipy.special import stdtrit
from torch import Tensor

from sharpness.errors import RunError
from sharpness.linalg.operators import SymmetricOperator, matmat
from sharpness.machine.environment import derived_seed
from sharpness.machine.progress import Progress
from sharpness.vectors import norm

BLOCK = 16  # columns multiplied at a time: bounds the memory of a block and the time between two reports

# The values of XTrace share their sketches, so their spread shows too little of the error of their mean. Each value has
# the right mean whatever its sketch: in the Hoeffding decomposition of their sum a term of two vectors is shared by two
# values at most, and the variance is then at most twice that of independent values. Terms of more vectors could make it
# larger; measured over eight spectra the ratio of true to shown error is 1.0 to 1.5 (1.7 where A has 12 equal dominant
# eigenvalues and the sketch 10 columns).
PAIRED = math.sqrt(2)


ROUNDING = 1e-3  # the asymmetry that rounding may make: some 1e-5 was seen in float32


class Products:
    """Products with blocks of columns, counted, checked to be finite and reported."""

    def __init__(self, operator: SymmetricOperator, ceiling: int, progress: Progress | None) -> None:
        self.operator, self.ceiling = operator, ceiling
        self.made = 0
        self._progress = progress

    def __call__(self, columns: Tensor) -> Tensor:
        blocks = []
        for block in columns.split(BLOCK, dim=1):
            blocks.append(matmat(self.operator, block))
            self.count(block.shape[1])
            if not math.isfinite(length := norm(blocks[-1])):
                raise RunError(f"expected finite products, got {length} by product {self.made}: check weights and data")
        return torch.cat(blocks, dim=1)

    def count(self, number: int) -> None:
        """Count products and report them."""
        self.made += number
        if self._progress is not None:
            self._progress(self.made, self.ceiling)


class SignSamples:
    """Hutchinson's estimator: ``v^T A v`` and ``||A v||^2`` for vectors v of random signs."""

    cost, first, before = 1, 20, 0  # products per sample; samples at the first look; products before the first sample

    def __init__(self, products: Products, seed: int) -> None:
        self.products, self.operator = products, products.operator
        self.quadratic, self.squares = np.zeros(0), np.zeros(0)
        self.most = sys.maxsize  # the number of samples above which there is nothing to sample
        self.asymmetry = self.scale = 0.0  # Frobenius norms of the blocks V^T A V seen, and of their asymmetric parts
        self._seed, self._generators = seed, dict[str, torch.Generator]()

    @property
    def count(self) -> int:
        """Samples so far."""
        return len(self.quadratic)

    def grow(self, count: int) -> None:
        """Make ``count`` more samples."""
        for start in range(0, count, BLOCK):
            v = self.draw("signs", min(BLOCK, count - start))
            product = self.products(v)
            self._compare(double(v.T @ product))
            self.quadratic = np.append(self.quadratic, dots(v, product))
            self.squares = np.append(self.squares, dots(product, product))

    def _compare(self, block: np.ndarray) -> None:
        """Note how far a block V^T A V is from symmetric: no product of one symmetric matrix makes it so."""
        self.scale = math.hypot(self.scale, float(np.linalg.norm(block)))
        self.asymmetry = math.hypot(self.asymmetry, float(np.linalg.norm(block - block.T)) / 2)

    def is_symmetric(self, rtol: float) -> bool:
        """Return whether the products were those of one symmetric matrix, to ``rtol`` and the operator's own error."""
        return self.asymmetry <= max(
            rtol, ROUNDING
        ) * self.scale + self.operator.size * self.operator.error * math.sqrt(self.count)

    def estimate(self) -> tuple[float, float]:
        """Return the estimate and its standard error."""
        return mean_and_error(self.quadratic)

    def exact(self) -> tuple[float, float]:
        """Return the trace and the squared Frobenius norm by n products with unit vectors.

        With signs v the same products give ``A v`` by the columns and ``A^T v`` by the rows, which are compared.
        """
        trace = square = 0.0
        v = self.draw("check", 1)[:, 0]
        by_columns, by_rows = torch.zeros_like(v), torch.zeros_like(v)
        for i in range(0, self.operator.size, BLOCK):
            rows = range(i, min(i + BLOCK, self.operator.size))
            units = torch.zeros(len(rows), self.operator.size, dtype=self.operator.dtype, device=self.operator.device)
            units[:, i : i + len(rows)].fill_diagonal_(1)
            product = self.products(units.T)
            trace += float(dots(units.T, product).sum())
            square += norm(product) ** 2
            by_columns += product @ v[i : i + len(rows)]
            by_rows[i : i + len(rows)] = v @ product
        self.scale, self.asymmetry = math.sqrt(square), norm(by_columns - by_rows) / 2
        return trace, square

    def draw(self, stream: str, count: int) -> Tensor:
        """Return ``count`` new columns of length sqrt(n): signs, or on the sphere; drawn one by one, so that the
        vectors do not depend on how many are asked for at a time."""
        if stream not in self._generators:
            self._generators[stream] = torch.Generator().manual_seed(derived_seed(self._seed, "trace", stream))
        n, generator, rows = self.operator.size, self._generators[stream], []
        for _ in range(count):
            if stream != "sphere":
                v = torch.randint(2, (n,), generator=generator).mul_(2).sub_(1).double()
            else:
                v = torch.randn(n, generator=generator, dtype=torch.float64)
                v *= math.sqrt(n) / v.norm()
            rows.append(v.to(device=self.operator.device, dtype=self.operator.dtype))
        return torch.stack(rows).T


class Sketch(SignSamples):
    """An orthonormal basis Q of the range of ``Y = A S = Q R``, grown by columns, with ``H = Q^T A Q``."""

    first = 10

    def __init__(self, products: Products, seed: int) -> None:
        super().__init__(products, seed)
        self.Q = torch.zeros(self.operator.size, 0, dtype=self.operator.dtype, device=self.operator.device)
        self.tests = self.Q  # the vectors that sample what the basis leaves
        self.most = self.operator.size - 1
        self.R, self.H = np.zeros((0, 0)), np.zeros((0, 0))

    @property
    def count(self) -> int:
        return self.Q.shape[1]

    def extend(self, Y: Tensor) -> Tensor:
        """Add the range of ``Y`` to the basis and return ``A Q_new``.

        Householder reflections complete the basis even where Y adds nothing to it, so Q is orthonormal for any rank.
        """
        old = self.count
        Q, R = torch.linalg.qr(torch.cat([self.Q, Y], dim=1))
        R = double(R)
        R[:old] *= np.sign(R.diagonal()[:old])[:, None]  # R is diag(+-1) on the old Q: keep the old signs
        self.R = np.block([[self.R, R[:old, old:]], [np.zeros((len(R) - old, old)), R[old:, old:]]])
        self.Q = torch.cat([self.Q, Q[:, old:]], dim=1)
        Z = self.products(self.Q[:, old:])
        new = double(self.Q.T @ Z)
        self._compare(new[old:])
        self.H = np.block([[self.H, new[:old]], [new[:old].T, (new[old:] + new[old:].T) / 2]])
        self.squares = np.append(self.squares, dots(Y, Y))
        return Z


class XTraceSamples(Sketch):
    """Each vector w samples what the sketch of all the others leaves: Q without the direction Q s_i."""

    cost = 2

    def grow(self, count: int) -> None:
        v = self.draw("sphere", count)
        self.tests = torch.cat([self.tests, v], dim=1)
        self.extend(self.products(v))

    def estimate(self) -> tuple[float, float]:
        """Return mean and error of ``tr H_i + c_i w^T P_i A P_i w``, P_i the projector beside the sketch without i.

        The paper's formula for symmetric A, where Q^T A w_i is column r_i of R and, with u_i the part of ``Q^T w_i``
        orthogonal to s_i, ``w^T P_i A P_i w = u_i (H u_i - r_i) + (s_i w_i) (s_i r_i)``. A pivot of R that is rounding
        is raised to eps: for a sketch of lower rank s_i then is a direction that A does not reach.
        The error is not the paper's, but sqrt(2) times it (see PAIRED).
        """
        n, s, R, H = self.operator.size, self.count, self.R.copy(), self.H
        smallest = torch.finfo(self.operator.dtype).eps * np.abs(R).max() or 1.0
        pivots = R.diagonal()
        np.fill_diagonal(R, np.where(np.abs(pivots) < smallest, smallest, pivots))
        S = np.linalg.inv(R).T
        S /= np.linalg.norm(S, axis=0)
        W = double(self.Q.T @ self.tests)
        along = (S * W).sum(0)
        U = W - S * along
        rest = (U * (H @ U - self.R)).sum(0) + along * (S * self.R).sum(0)
        mean, error = mean_and_error(np.trace(H) - (S * (H @ S)).sum(0) + rest * (n - s + 1) / (n - (U * U).sum(0)))
        return mean, PAIRED * error


class HutchPlusPlusSamples(Sketch):
    """A third of the products each for the sketch, its products and the samples of what it leaves."""

    cost = 3

    def __init__(self, products: Products, seed: int) -> None:
        super().__init__(products, seed)
        self.cross = np.zeros((0, 0))  # Q^T A G

    def grow(self, count: int) -> None:
        Z = self.extend(self.products(self.draw("sphere", count)))
        left = double(Z.T @ self.tests)
        v = self.draw("signs", count)
        product = self.products(v)
        self.cross = np.hstack([np.vstack([self.cross, left]), double(self.Q.T @ product)])
        self.quadratic = np.append(self.quadratic, dots(v, product))
        self.tests = torch.cat([self.tests, v], dim=1)

    def estimate(self) -> tuple[float, float]:
        # A g is known, so g^T (I - Q Q^T) A (I - Q Q^T) g follows for any later Q without a product.
        C = double(self.Q.T @ self.tests)
        mean, error = mean_and_error(self.quadratic - 2 * (C * self.cross).sum(0) + (C * (self.H @ C)).sum(0))
        return float(np.trace(self.H)) + mean, error


def mean_and_error(values: np.ndarray) -> tuple[float, float]:
    """Return the mean and its standard error."""
    return float(values.mean()), float(values.std(ddof=1) / math.sqrt(len(values)))


def student(freedom: int, confidence: float) -> float:
    """Return Student's two-sided quantile.

    >>> round(student(11, 0.95), 3)
    2.201
    """
    return float(stdtrit(freedom, (1 + confidence) / 2))


def dots(left: Tensor, right: Tensor) -> np.ndarray:
    """Return the inner products of matching columns, summed in float64."""
    return double(left.mul(right)).sum(axis=0)


def double(x: Tensor) -> np.ndarray:
    return x.cpu().double().numpy()
