"""Gradient-noise interaction, GNI and IAS: the curvature of the whole loss along the gradients of random batches."""

from __future__ import annotations

from dataclasses import dataclass

from torch import Tensor

from sharpness.curvature import HessianOperator
from sharpness.errors import unknown_name
from sharpness.loss import Loss
from sharpness.loss.minibatches import Minibatches
from sharpness.machine.progress import Progress
from sharpness.probes.methods.batch_means import BatchMeanResult, mean_over_batches
from sharpness.results import Probe
from sharpness.vectors import dot, norm

RATIOS = ("gni", "ias")


@dataclass(frozen=True, kw_only=True)
class InteractionResult(BatchMeanResult):
    """The ratio asked for as ``value``, both ratios over the draws that were made, and ``|grad L|^2``."""

    gni: float | None
    ias: float | None
    squared_gradient: float

    def __str__(self) -> str:
        return f"{self.knobs['ratio'].upper()} {super().__str__()}"


@dataclass(frozen=True)
class Interaction(Probe[InteractionResult]):
    """``E_B[ g_B^T H g_B ]`` over ``|grad L|^2`` (``gni``), or the mean of ``g_B^T H g_B / g_B^T g_B`` (``ias``).

    g_B is the gradient over a random batch B, H the Hessian over all the data. Andreyev and Beneventano 2024 (arXiv
    2412.20553) tell them from batch sharpness, where the Hessian is the batch's too. A step ``-eta g_B`` raises the
    loss on average, to second order, where ``eta > 2 / GNI``: at 2 / eta SGD oscillates, but need not be unstable.
    Batches of ``batch_size`` different examples are drawn independently of each other (by default as many as the
    loss's largest batch has; give the training's size); where that is all of them both are the Rayleigh quotient of the
    gradient, without an interval. Each draw costs a product over all the data. Stops as
    :class:`sharpness.probes.batch_sharpness.BatchSharpness` does; ``num_batches`` is theirs. GNI has no value at a
    stationary point, and a batch whose own gradient is zero none for IAS.

    >>> import torch
    >>> batches = [(torch.tensor([[3.0, 4.0]]), torch.tensor([[-1.0]]))]
    >>> loss = Loss(torch.nn.Linear(2, 1, bias=False), torch.nn.functional.mse_loss, batches)
    >>> round(Interaction()(loss).value, 3)                  # 2 |x|^2: the only batch's only eigenvalue
    50.0
    """

    name = "interaction"

    ratio: str = "gni"
    batch_size: int | None = None
    rtol: float = 1e-2
    confidence: float = 0.95
    num_batches: int = 500
    seed: int = 0

    def measure(self, loss: Loss, w: Tensor, *, progress: Progress | None = None) -> InteractionResult:
        """Measure at ``w``; raises :class:`InputError` for bad knobs and data."""
        if self.ratio not in RATIOS:
            raise unknown_name("ratio", self.ratio, RATIOS)
        terms = _Terms(Minibatches(loss, self.batch_size), w, self)
        mean = mean_over_batches(
            terms,
            terms.batches,
            most=self.num_batches,
            rtol=self.rtol,
            confidence=self.confidence,
            progress=progress,
        )
        return InteractionResult(
            quantity=self.ratio,
            **mean,
            num_hvps=len(terms.curved),
            num_gradients=len(terms.curved) + 1,
            seed=self.seed,
            hvp_backend=terms.operator.backend,
            gni=terms.mean("gni"),
            ias=terms.mean("ias"),
            squared_gradient=terms.square,
        )


class _Terms:
    """The ratio of each random batch; keeps ``(g_B^T H g_B, g_B^T g_B)``."""

    def __init__(self, batches: Minibatches, x: Tensor, probe: Interaction) -> None:
        self.batches, self.x, self.probe = batches, x, probe
        self.operator, self.square = HessianOperator(batches.loss, x), norm(batches.loss.grad(x)) ** 2
        self.curved = list[tuple[float, float]]()

    def __call__(self, index: int) -> float | None:
        g = self.batches.draw(self.probe.seed, "interaction", index).grad(self.x)
        self.curved.append((dot(g, self.operator.matvec(g)), norm(g) ** 2))
        return self._ratio(self.probe.ratio, *self.curved[-1])

    def _ratio(self, name: str, curved: float, own: float) -> float | None:
        square = self.square if name == "gni" else own
        return curved / square if square else None

    def mean(self, name: str) -> float | None:
        """Return the mean of a ratio over the batches that have one."""
        ratios = [ratio for pair in self.curved if (ratio := self._ratio(name, *pair)) is not None]
        return sum(ratios) / len(ratios) if ratios else None
