"""Batch sharpness: the curvature of each random batch's own loss along its own gradient, by one product per batch."""

from __future__ import annotations

from dataclasses import dataclass

from torch import Tensor

from sharpness.curvature import HessianOperator
from sharpness.loss import Loss
from sharpness.loss.minibatches import Minibatches
from sharpness.machine.progress import Progress
from sharpness.probes.methods.batch_means import BatchMeanResult, mean_over_batches
from sharpness.results import Probe
from sharpness.vectors import dot, norm


@dataclass(frozen=True, kw_only=True)
class BatchSharpnessResult(BatchMeanResult):
    """The mean ratio as ``value``, and ``E[g^T H g] / E[g^T g]`` of the same batches."""

    mean_over_means: float | None


@dataclass(frozen=True)
class BatchSharpness(Probe[BatchSharpnessResult]):
    """``E_B[ g_B^T H_B g_B / g_B^T g_B ]``, g_B and H_B gradient and Hessian of the loss over a random batch B.

    Andreyev and Beneventano 2024 (arXiv 2412.20553): under SGD with batches of this size it rises to ``2 / eta`` and
    stays there. Batches of ``batch_size`` different examples are drawn independently of each other (as many as the
    loss's largest batch has by default; give the training's size); where that is all of them there is one batch, and no
    interval. Stops when the half width is at most ``rtol`` times the value, looking at sizes fixed beforehand, where
    the authors stop at a relative standard error of 0.5 %; ``num_batches`` is the ceiling, theirs too. A batch whose
    gradient is zero has no ratio and is left out, but counted; ``E[g^T H g] / E[g^T g]`` is in the details.

    >>> import torch
    >>> batches = [(torch.tensor([[3.0, 4.0]]), torch.tensor([[-1.0]]))]
    >>> loss = Loss(torch.nn.Linear(2, 1, bias=False), torch.nn.functional.mse_loss, batches)
    >>> round(BatchSharpness()(loss).value, 3)               # 2 |x|^2: the only batch's only eigenvalue
    50.0
    """

    name = "batch_sharpness"

    batch_size: int | None = None
    rtol: float = 1e-2
    confidence: float = 0.95
    num_batches: int = 1000
    seed: int = 0

    def measure(self, loss: Loss, w: Tensor, *, progress: Progress | None = None) -> BatchSharpnessResult:
        """Measure at ``w``; raises :class:`InputError` for bad knobs and data."""
        batches = Minibatches(loss, self.batch_size)
        terms = _Terms(batches, w, self.seed)
        mean = mean_over_batches(
            terms,
            batches,
            most=self.num_batches,
            rtol=self.rtol,
            confidence=self.confidence,
            progress=progress,
        )
        squares = sum(square for _, square in terms.made)
        return BatchSharpnessResult(
            **mean,
            num_hvps=len(terms.made),
            num_gradients=len(terms.made),
            seed=self.seed,
            hvp_backend="finite_difference" if "finite_difference" in terms.backends else "exact",
            mean_over_means=sum(curved for curved, _ in terms.made) / squares if squares else None,
        )


class _Terms:
    """The ratio of each random batch; keeps ``(g^T H g, g^T g)``."""

    def __init__(self, batches: Minibatches, x: Tensor, seed: int) -> None:
        self.batches, self.x, self.seed = batches, x, seed
        self.made, self.backends = list[tuple[float, float]](), set[str]()

    def __call__(self, index: int) -> float | None:
        part = self.batches.draw(self.seed, "batch_sharpness", index)
        g = part.grad(self.x)
        operator = HessianOperator(part, self.x, cache=0)  # one product: no graph is used twice
        self.made.append((dot(g, operator.matvec(g)), norm(g) ** 2))
        self.backends.add(operator.backend)
        curved, square = self.made[-1]
        return curved / square if square else None
