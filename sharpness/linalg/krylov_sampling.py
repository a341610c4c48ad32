"""The trace by a sketch that the largest eigenvalue's solve has paid for."""

from __future__ import annotations

import math

import numpy as np
import torch
from torch import Tensor

from sharpness.linalg.basis import random_direction
from sharpness.linalg.krylov import Krylov
from sharpness.linalg.sampling import BLOCK, Products, SignSamples, dots, double, mean_and_error
from sharpness.linalg.shared_products import NUM_SHARED
from sharpness.machine.environment import derived_seed


class KrylovSamples(SignSamples):
    """Signs sample what the Krylov space of the largest eigenvalue's solve leaves: one product each.

    With an orthonormal basis Q of it and ``T = Q^T A Q`` the trace is ``tr T`` and the mean of
    ``g^T (I - Q Q^T) A (I - Q Q^T) g`` over signs g: Hutch++ (Meyer et al. 2021) with another sketch, which is as
    independent of g. Start and steps are those of :func:`sharpness.linalg.lanczos.extreme_eigenpairs` for one
    eigenvalue and the same seed, so that a sharing operator takes its products from that solve.
    """

    first, before = 12, NUM_SHARED

    def __init__(self, products: Products, seed: int) -> None:
        super().__init__(products, seed)
        self.Q: Tensor | None = None
        self.T, self.inside, self.cross = np.zeros((0, 0)), np.zeros((0, 0)), np.zeros((0, 0))  # T, Q^T G, Q^T A G

    def _sketch(self) -> Tensor:
        start = random_direction(self.operator, derived_seed(self._seed, "lanczos", "start", 0), [])
        run = Krylov(self.operator, start, seed=derived_seed(self._seed, "lanczos", "run", 1))
        while len(run.basis) < self.before:
            run.step()
            self.products.count(1)
        self.T = run.matrix()
        self.scale, self.asymmetry = float(np.linalg.norm(self.T)), run.defect / math.sqrt(2)
        self.inside = self.cross = np.zeros((self.before, 0))
        return torch.stack(run.basis)

    def grow(self, count: int) -> None:
        self.Q = self._sketch() if self.Q is None else self.Q
        for start in range(0, count, BLOCK):
            v = self.draw("signs", min(BLOCK, count - start))
            product = self.products(v)
            self._compare(double(v.T @ product))
            self.quadratic = np.append(self.quadratic, dots(v, product))
            self.squares = np.append(self.squares, dots(product, product))
            self.inside = np.hstack([self.inside, double(self.Q @ v)])
            self.cross = np.hstack([self.cross, double(self.Q @ product)])

    def estimate(self) -> tuple[float, float]:
        outside = self.quadratic - 2 * (self.inside * self.cross).sum(0) + (self.inside * (self.T @ self.inside)).sum(0)
        mean, error = mean_and_error(outside)
        return float(np.trace(self.T)) + mean, error
