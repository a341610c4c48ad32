"""Batch sharpness: the curvature of each random batch's own loss along its own gradient, by one product per batch."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

from torch import Tensor

from sharpness.curvature import HessianOperator
from sharpness.loss import Loss
from sharpness.loss.minibatches import Minibatches
from sharpness.machine.progress import Progress
from sharpness.probes.methods.sampled_mean import SampledMean, sampled_mean
from sharpness.results import MERGED, Probe, ProbeResult


@dataclass(frozen=True, kw_only=True)
class BatchSharpnessResult(ProbeResult):
    """The mean over random batches as ``value`` with its interval."""

    mean: SampledMean | None = field(repr=False, metadata=MERGED)
    batch_size: int
    mean_over_means: float | None

    def __str__(self) -> str:
        if self.value is None:
            return f"none: {self.reasons['value']}, {self.num_hvps} batches of {self.batch_size}, {self.seconds:.1f} s"
        at = (
            ""
            if self.lower is None
            else f" in [{self.lower:.5g}, {self.upper:.5g}] at {100 * self.knobs['confidence']:g} %"
        )
        flag = "" if self.converged else ", NOT converged"
        return f"{self.value:.5g}{at}, {self.num_hvps} batches of {self.batch_size}, {self.seconds:.1f} s{flag}"


@dataclass(frozen=True)
class BatchSharpness(Probe[BatchSharpnessResult]):
    """``E_B[ g_B^T H_B g_B / g_B^T g_B ]``, g_B and H_B gradient and Hessian of the loss over a random batch B.

    Andreyev and Beneventano 2024 (arXiv 2412.20553): under SGD with batches of this size it rises to ``2 / eta`` and
    stays there. Batches of ``batch_size`` different examples are drawn independently of each other (the loss's largest
    batch by default; give the one of the training); where that is all of them there is one batch, and no interval.
    Stops when the half width is at most ``rtol`` times the value, looking at sizes fixed beforehand, where the authors
    stop at a relative standard error of 0.5 %; ``num_batches`` is the ceiling, theirs too. A batch whose gradient is
    zero has no ratio and is left out, but counted; ``E[g^T H g] / E[g^T g]`` is in the details.

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
        mean, shared = None, dict[str, Any]()
        if batches.size == batches.total:
            whole = terms(0)
            reasons = dict.fromkeys(("lower", "upper", "confidence"), "there is one batch of all the data")
            shared = {"value": whole, "converged": whole is not None, "reasons": reasons}
            if whole is None:
                shared["reasons"] = reasons | {"value": "the gradient is zero"}
        else:
            stop: dict[str, Any] = {"rtol": self.rtol, "confidence": self.confidence, "progress": progress}
            mean = sampled_mean(terms, most=self.num_batches, **stop)
            shared = mean.fields()
        squares = sum(square for _, square in terms.made)
        return BatchSharpnessResult(
            **shared,
            num_hvps=len(terms.made),
            num_gradients=len(terms.made),
            seed=self.seed,
            hvp_backend="finite_difference" if "finite_difference" in terms.backends else "exact",
            mean=mean,
            batch_size=batches.size,
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
        product = operator.matvec(g).cpu().double()
        self.backends.add(operator.backend)
        along = g.cpu().double()
        self.made.append((float(along @ product), float(along @ along)))
        curved, square = self.made[-1]
        return curved / square if square else None
