"""Measurements while the weights move: the top eigenvalue, the noise scale, the distance from the start."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from torch import Tensor

from sharpness.curvature import HessianOperator
from sharpness.errors import InputError, RunError
from sharpness.linalg.lanczos import extreme_eigenpairs
from sharpness.linalg.operators import SymmetricOperator
from sharpness.loss import Loss
from sharpness.training.noise import NoiseScale
from sharpness.vectors import norm


class TopEigenvalue:
    """The top eigenvalue of the Hessian of the training loss, each solve started from the vector of the last.

    After a warm start nothing is proven beyond the Ritz value: solves end by their residuals, relative ``rtol``. The
    row has ``2 / rate`` beside it, around which gradient descent holds the eigenvalue (Cohen et al. 2021, arXiv
    2103.00065). ``vector`` is the state that a stopped run goes on from.
    """

    def __init__(self, rtol: float = 1e-2, num_hvps: int = 50) -> None:
        self.rtol, self.num_hvps = rtol, num_hvps
        self.vector: Tensor | None = None

    def __call__(self, loss: Loss, weights: Tensor, rate: float) -> dict[str, Any]:
        """Return value, residual, products and the edge of stability at these weights."""
        row = {f"top_eigenvalue{name}": value for name, value in self.solve(HessianOperator(loss, weights)).items()}
        # Schedules that fall to 0 are there at the end of the run.
        return row | ({"edge": 2 / rate} if rate else {"edge": None, "edge_reason": "the learning rate is 0"})

    def solve(self, operator: SymmetricOperator) -> dict[str, Any]:
        """Return the top eigenvalue of a matrix under no name, its residual and the products made, and go on there."""
        start = None if self.vector is None else self.vector.to(operator.device, operator.dtype)
        budget = min(self.num_hvps, operator.size)
        pairs = extreme_eigenpairs(operator, 1, stop_on="residual", start=start, rtol=self.rtol, num_products=budget)
        assert pairs.eigenvectors is not None  # this solver keeps its basis
        self.vector = pairs.eigenvectors[0].detach().cpu()
        return {"": float(pairs.eigenvalues[0]), "_residual": float(pairs.residuals[0]), "_hvps": pairs.num_products}


MEASURES: Mapping[str, str] = {
    "eigenvalue": "top eigenvalue of the Hessian, warm-started, beside 2 / learning rate",
    "noise_scale": "|G|^2, tr Sigma and B_simple from the batch and its pieces",
    "distance": "distance of the weights from where training started",
}
"""The names that ``measure.names`` may hold."""


class Measures:
    """The measurements of one run: called with the weights at stated epochs, with a state of their own."""

    def __init__(self, names: Sequence[str], start: Tensor) -> None:
        self.names, self.start = names, start
        self.eigenvalue, self.noise = TopEigenvalue(), NoiseScale()

    def __call__(self, loss: Loss, rate: float) -> dict[str, Any]:
        """Return one row at the loss's own weights; what cannot be had is ``None`` with its reason."""
        weights = loss.weights
        row: dict[str, Any] = {}
        if "distance" in self.names:
            row["distance_from_start"] = norm(weights - self.start.to(weights))
        if "noise_scale" in self.names:
            row |= self.noise.row()
        if "eigenvalue" in self.names:
            try:
                row |= self.eigenvalue(loss, weights, rate)
            except (InputError, RunError) as error:  # the weights may be diverging
                row |= {"top_eigenvalue": None, "top_eigenvalue_reason": str(error)}
        return row

    def state_dict(self) -> dict[str, Any]:
        """Return the state that a stopped run goes on from."""
        noise = self.noise
        return {"vector": self.eigenvalue.vector, "noise": [noise.square, noise.noise, noise.weight]}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Go on from a state."""
        self.eigenvalue.vector = state["vector"]
        self.noise.square, self.noise.noise, self.noise.weight = state["noise"]
