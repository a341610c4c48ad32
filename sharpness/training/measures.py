"""What is measured while the weights move: the top eigenvalue, the noise scale, the distance from the start."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor

from sharpness.curvature import HessianOperator
from sharpness.data.batches import Batch
from sharpness.errors import InputError, RunError
from sharpness.linalg.lanczos import extreme_eigenpairs
from sharpness.loss import Loss
from sharpness.machine.environment import derived_seed
from sharpness.noise_scale import two_batch_estimates
from sharpness.vectors import norm

Row = dict[str, Any]


class TopEigenvalue:
    """The top eigenvalue of the Hessian of the training loss, each solve started from the vector of the last.

    After a warm start nothing is proven beyond the Ritz value: solves end by their residuals, relative ``rtol``. The
    row has ``2 / rate`` beside it, around which gradient descent holds the eigenvalue (Cohen et al. 2021, arXiv
    2103.00065). ``vector`` is the state that a stopped run goes on from.
    """

    def __init__(self, rtol: float = 1e-2, num_hvps: int = 50) -> None:
        self.rtol, self.num_hvps = rtol, num_hvps
        self.vector: Tensor | None = None

    def __call__(self, loss: Loss, weights: Tensor, rate: float) -> Row:
        """Return value, residual, products and the edge of stability at these weights."""
        operator = HessianOperator(loss, weights)
        start = None if self.vector is None else self.vector.to(weights)
        knobs: dict[str, Any] = {"rtol": self.rtol, "num_products": min(self.num_hvps, operator.size)}
        pairs = extreme_eigenpairs(operator, 1, stop_on="residual", start=start, **knobs)
        assert pairs.eigenvectors is not None  # this solver keeps its basis
        self.vector = pairs.eigenvectors[0].detach().cpu()
        row: Row = {
            "top_eigenvalue": float(pairs.eigenvalues[0]),
            "top_eigenvalue_residual": float(pairs.residuals[0]),
            "top_eigenvalue_hvps": pairs.num_products,
        }
        # Schedules that fall to 0 are there at the end of the run.
        return row | ({"edge": 2 / rate} if rate else {"edge": None, "edge_reason": "the learning rate is 0"})


class NoiseScale:
    """``tr Sigma``, ``|G|^2`` and ``B_simple`` from the gradients of a batch and of its pieces, smoothed by decay.

    McCandlish et al. 2018 (arXiv 1812.06162), Appendix A.1: the averages of both are kept apart, because a ratio of
    single draws is biased. The pieces are the processes' shares of a batch, or those of gradient accumulation, else
    halves of random batches.
    """

    def __init__(self, decay: float = 0.9) -> None:
        self.decay = decay
        self.square = self.noise = self.weight = 0.0

    def add(self, small: float, large: float, small_size: float, large_size: float) -> None:
        """Take in the mean squared norm of the pieces' gradients and that of the whole batch."""
        square, noise = two_batch_estimates(small, large, small_size, large_size)
        self.weight = self.decay * self.weight + 1 - self.decay
        self.square += (1 - self.decay) * (square - self.square)
        self.noise += (1 - self.decay) * (noise - self.noise)

    @property
    def simple(self) -> float | None:
        """``B_simple``, ``None`` before the first gradient and where ``|G|^2`` cannot be told from 0."""
        return self.noise / self.square if self.weight and self.square > 0 and self.noise > 0 else None

    def row(self) -> Row:
        """Return the estimates, corrected for the zeros that the averages began from."""
        if not self.weight:
            return {"noise_scale": None, "noise_scale_reason": "no gradient was split yet"}
        row: Row = {"gradient_square": self.square / self.weight, "gradient_noise": self.noise / self.weight}
        row["noise_scale"] = self.simple
        if self.simple is None:
            row["noise_scale_reason"] = "the squared gradient or the noise is estimated below 0"
        return row


def piece_norms(loss: Loss, weights: Tensor, batch: Batch, pieces: int) -> tuple[float, float, int, int]:
    """Return the mean squared norm of the gradients of equal pieces of a batch, that of all, and both sizes.

    What is left over of the batch does not count. Raises :class:`InputError` for fewer examples than pieces.

    >>> model = torch.nn.Linear(1, 1, bias=False)
    >>> loss = Loss(model, torch.nn.functional.mse_loss, [(torch.ones(2, 1), torch.zeros(2, 1))])
    >>> batch = (torch.tensor([[1.0], [2.0]]), torch.zeros(2, 1))
    >>> piece_norms(loss, torch.tensor([1.0]), batch, 2)           # gradients 2 and 8, mean 5
    (34.0, 25.0, 1, 2)
    """
    inputs, targets = batch
    size = len(targets) // pieces
    if size < 1:
        raise InputError(f"expected at least {pieces} examples in a batch to split it, got {len(targets)}")
    gradients = [
        loss.over([(inputs[i * size : (i + 1) * size], targets[i * size : (i + 1) * size])]).grad(weights)
        for i in range(pieces)
    ]
    whole = torch.stack(gradients).mean(0)
    return sum(norm(g) ** 2 for g in gradients) / pieces, norm(whole) ** 2, size, size * pieces


MEASURES: Mapping[str, str] = {
    "eigenvalue": "top eigenvalue of the Hessian, warm-started, beside 2 / learning rate",
    "noise_scale": "|G|^2, tr Sigma and B_simple from the batch and its pieces",
    "distance": "distance of the weights from where training started",
}
"""What ``measure.names`` may hold."""


class Measures:
    """The measurements of one run: called with the weights at stated epochs, with a state of their own."""

    def __init__(self, names: Sequence[str], start: Tensor) -> None:
        self.names, self.start = names, start
        self.eigenvalue, self.noise = TopEigenvalue(), NoiseScale()

    def __call__(self, loss: Loss, rate: float) -> Row:
        """Return one row at the loss's own weights; what cannot be had is ``None`` with its reason."""
        weights = loss.weights
        row: Row = {}
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
        """Return what a stopped run goes on from."""
        noise = self.noise
        return {"vector": self.eigenvalue.vector, "noise": [noise.square, noise.noise, noise.weight]}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Go on from a state."""
        self.eigenvalue.vector = state["vector"]
        self.noise.square, self.noise.noise, self.noise.weight = state["noise"]


def random_rows(seed: int, update: int, examples: int, size: int) -> Tensor:
    """Return the rows of a random batch of its own for a measurement at an update, shape (size,)."""
    generator = torch.Generator().manual_seed(derived_seed(seed, "measure", update))
    return torch.randperm(examples, generator=generator)[:size]
