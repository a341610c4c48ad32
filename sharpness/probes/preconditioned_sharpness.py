"""The top eigenvalue of the preconditioned Hessian: the sharpest direction as Adam sees it."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from typing import Any

import torch
from torch import Tensor

from sharpness.curvature.edges import adam_edge
from sharpness.curvature.preconditioned import Preconditioned
from sharpness.curvature.preconditioned import adam_preconditioner as adam_preconditioner  # users import it from here
from sharpness.errors import InputError
from sharpness.linalg.eigenpairs import Eigenpairs
from sharpness.linalg.lanczos import extreme_eigenpairs
from sharpness.loss import Loss
from sharpness.loss.minibatches import Minibatches
from sharpness.machine.progress import Progress
from sharpness.probes.methods.random_parts import CONFIDENCE, no_spread, over_examples
from sharpness.probes.methods.spectra import CurvatureProbe, basis_limit, curvature_details, first_of
from sharpness.results import MERGED, ProbeResult

GRADIENTS = "from gradients at these weights"


@dataclass(frozen=True, kw_only=True)
class PreconditionedResult(ProbeResult):
    """The top eigenvalue of ``P^-1/2 H P^-1/2`` as ``value`` with its interval."""

    pairs: Eigenpairs = field(repr=False, metadata=MERGED)
    edge_learning_rate: float | None
    preconditioner_source: str
    operator_details: Mapping[str, Any] = field(repr=False, metadata=MERGED)

    def __str__(self) -> str:
        at = "" if self.lower is None else f" in [{self.lower:.5g}, {self.upper:.5g}]"
        edge = "" if self.edge_learning_rate is None else f", edge of stability at lr {self.edge_learning_rate:.3g}"
        flag = "" if self.converged else ", NOT converged"
        cost = f"{self.num_hvps} HVPs, {self.seconds:.1f} s"
        return f"{self.value:.5g}{at}{edge}, P {self.preconditioner_source}, {cost}{flag}"


@dataclass(frozen=True, eq=False)
class Preconditioner:
    """The diagonal of P, shape (n,), where it is from, and the beta1 of the Adam that it belongs to.

    Without a diagonal P is to come from gradients, and ``source`` says why.
    """

    diagonal: Tensor | None
    source: str
    beta1: float | None = None


@dataclass(frozen=True, kw_only=True)
class PreconditionedSharpness(CurvatureProbe[PreconditionedResult]):
    """The largest eigenvalue of ``P^-1/2 H P^-1/2``, P Adam's diagonal preconditioner.

    Cohen et al. 2022 (arXiv 2207.14484): under Adam with a learning rate eta it settles at ``(2 + 2 beta1) / ((1 -
    beta1) eta)``, which is ``38 / eta`` for beta1 = 0.9; ``edge_learning_rate`` in the details is the eta at which the
    measured value is at that edge. Adam's own P follows from its state (``adam_preconditioner``); on the command line
    it is read from the checkpoint (``torch.save`` of model and optimiser, Lightning, the Trainer's ``optimizer.pt``),
    with the state's beta1, unless ``source="gradients"``. Without a state P is ``sqrt(v) + eps`` with v the mean
    squared gradient of ``num_batches`` random batches of ``batch_size`` (the loss's largest batch by default): what
    Adam's v would be on average, had it stayed at these weights; it depends on the batch size.
    ``preconditioner_source`` says which it was.

    >>> batch = (torch.tensor([[3.0, 4.0]]), torch.tensor([[0.0]]))
    >>> loss = Loss(torch.nn.Linear(2, 1, bias=False), torch.nn.functional.mse_loss, [batch], dtype=torch.float64)
    >>> round(PreconditionedSharpness()(loss, preconditioner=torch.tensor([2.0, 2.0])).value, 3)       # 2 |x|^2 / 2
    25.0
    """

    name = "preconditioned_sharpness"

    source: str | None = None
    beta1: float = 0.9
    eps: float = 1e-8
    batch_size: int | None = None
    num_batches: int = 100
    rtol: float = 1e-2
    confidence: float = 0.99
    num_hvps: int = 100

    def measure(
        self,
        loss: Loss,
        w: Tensor,
        *,
        preconditioner: Tensor | Preconditioner | None = None,
        sampled: bool = False,
        progress: Progress | None = None,
    ) -> PreconditionedResult:
        """Measure at ``w``; ``preconditioner`` is P, or its diagonal of shape (n,).

        ``sampled`` says that the examples are a random sample: the result then has an interval over their choice, P
        held fixed.

        Raises :class:`InputError` for bad knobs and a P that is not positive or of another shape.
        """
        self._check()
        if isinstance(preconditioner, Tensor):
            preconditioner = Preconditioner(preconditioner, "given")
        elif preconditioner is None or self.source == "gradients":
            preconditioner = Preconditioner(None, GRADIENTS)
        diagonal, beta1 = preconditioner.diagonal, preconditioner.beta1
        p = self._from_gradients(loss, w) if diagonal is None else loss.point(diagonal)
        operator = Preconditioned(self.operator(loss, w), checked(p, w))
        pairs = extreme_eigenpairs(
            operator,
            1,
            which="top",
            rtol=self.rtol,
            confidence=self.confidence,
            num_products=self.num_hvps,
            max_basis=basis_limit(operator, self.num_hvps, least=6),
            seconds=self.seconds,
            seed=self.seed,
            progress=progress,
        )
        value, shared = float(pairs.eigenvalues[0]), first_of(pairs)
        if sampled:
            shared |= self._over_examples(loss, w, p, pairs, shared)
        return PreconditionedResult(
            quantity=self.quantity("preconditioned_sharpness"),
            **shared,
            num_gradients=self.num_batches if diagonal is None else 0,
            seed=self.seed,
            hvp_backend=operator.operator.backend,
            edge_learning_rate=adam_edge(self.beta1 if beta1 is None else beta1) / value if value > 0 else None,
            preconditioner_source=preconditioner.source,
            operator_details=curvature_details(operator.operator),
        )

    def _over_examples(
        self, loss: Loss, w: Tensor, p: Tensor, pairs: Eigenpairs, shared: Mapping[str, Any]
    ) -> dict[str, Any]:
        """Return the interval over the choice of examples, or why there is none."""
        why = no_spread(loss)
        if why or pairs.eigenvectors is None or pairs.uppers is None:
            absent = why or "it needs an eigenvector and an outer bound"
            return {"reasons": {**shared["reasons"], "sampling": absent}}
        spread = over_examples(
            loss,
            w,
            self.matrix_options(),
            pairs.eigenvectors[0],
            float(pairs.uppers[0]),
            sign=1.0,
            confidence=CONFIDENCE,
            num_hvps=self.num_hvps,
            seed=self.seed,
            of=lambda matrix: Preconditioned(matrix, p),
        )
        return {"num_hvps": shared["num_hvps"] + spread.num_hvps, "sampling": asdict(spread)}

    def _check(self) -> None:
        if self.source not in (None, "gradients"):
            raise InputError(f"expected source 'gradients' or none, got {self.source!r}: none reads the checkpoint's")
        if not 0 <= self.beta1 < 1:
            raise InputError(f"expected beta1 from 0 to below 1, got {self.beta1}: Adam's default is 0.9")
        if not self.eps > 0:
            raise InputError(f"expected a positive eps, got {self.eps}: Adam's default is 1e-8")
        if self.num_batches < 1:
            raise InputError(f"expected at least 1 batch, got {self.num_batches}: 100 is usual")

    def _from_gradients(self, loss: Loss, x: Tensor) -> Tensor:
        return from_gradients(loss, x, self.batch_size, self.num_batches, self.eps, self.seed)


def from_gradients(loss: Loss, x: Tensor, batch_size: int | None, num_batches: int, eps: float, seed: int) -> Tensor:
    """Return ``sqrt(v) + eps``, v the mean squared gradient of random batches at ``x``: Adam's P had it stayed there.

    Raises :class:`InputError` for a batch size that the loss has not the examples for.
    """
    batches, v = Minibatches(loss, batch_size), torch.zeros_like(x)
    for index in range(num_batches):
        v += batches.draw(seed, "preconditioned", index).grad(x) ** 2 / num_batches
    return v.sqrt() + eps


def checked(p: Tensor, x: Tensor) -> Tensor:
    """Return the diagonal of P; :class:`InputError` unless it is positive, finite and of the shape of the weights."""
    if p.shape != x.shape:
        raise InputError(f"expected a preconditioner of shape {tuple(x.shape)}, got {tuple(p.shape)}: one flat vector")
    if not bool(((p > 0) & p.isfinite()).all()):
        raise InputError(f"expected a positive finite preconditioner, got {float(p.min()):.3g} at least: add eps")
    return p
