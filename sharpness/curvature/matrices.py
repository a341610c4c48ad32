"""The curvature matrices of a loss as operators: Hessian, generalised Gauss-Newton and Fisher, never formed."""

from __future__ import annotations

import glob
import hashlib
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.autograd.graph import get_gradient_edge

from sharpness.curvature.compiled import CompiledProducts
from sharpness.curvature.kept_graphs import CurvatureOperator, Graph
from sharpness.curvature.likelihoods import (
    MOST_CLASSES,
    USUAL_DRAWS,
    drawn_moments,
    expected_moments,
    hessian_by_outputs,
    joined,
    kind_of,
)
from sharpness.curvature.output_space import Criterion, OutputProduct, gradient_moments
from sharpness.data.batches import targets_of
from sharpness.errors import InputError, unknown_name
from sharpness.linalg.operators import SymmetricOperator
from sharpness.linalg.replay import Replayed
from sharpness.linalg.shared_products import SharedProducts
from sharpness.loss import Loss
from sharpness.loss.graphs import Pieces, Product, derivative_along, nothing, refuse_hidden_derivatives
from sharpness.loss.shares import MicroBatch
from sharpness.machine.distributed import from_all_ranks, is_distributed, rank, sum_over_ranks
from sharpness.vectors import refuse_non_finite, sha256_of


class HessianOperator(CurvatureOperator):
    """The Hessian of a loss at ``w``: ``matvec(v) = d/dt grad L(w + t v) at t = 0``, by reverse over reverse.

    >>> from sharpness.linalg.operators import matmat
    >>> model = torch.nn.Linear(2, 1, bias=False)
    >>> batch = (torch.tensor([[3.0, 4.0]]), torch.tensor([[0.0]]))
    >>> H = HessianOperator(Loss(model, torch.nn.functional.mse_loss, [batch]))
    >>> matmat(H, torch.eye(2)), H.backend          # 2 x x^T
    (tensor([[18., 24.], [24., 32.]]), 'exact')
    """

    matrix = "hessian"
    _compiled: CompiledProducts | None = None

    def _build(self, micro: MicroBatch) -> Graph:
        if self.backend != "compiled":
            return super()._build(micro)
        self._compiled = compiled = self._compiled or CompiledProducts(self.loss, self._leaves)
        serves = compiled.serves(micro, self._eagerly(micro))
        self.facts |= compiled.facts
        if compiled.why_not:
            self.backend = "exact"
        if not serves:
            return super()._build(micro)
        return Graph(lambda v, keep: compiled.product(micro, v), self._budget + 1)  # there is nothing to keep

    def _eagerly(self, micro: MicroBatch) -> Callable[[Pieces], Pieces]:
        """Return the product of a micro-batch without a compiler, from the second one on by a kept graph if it fits."""
        kept, build = list[Graph](), super()._build

        def product(v: Pieces) -> Pieces:
            graph = kept[0] if kept else build(micro)
            fits = graph.num_bytes <= self._budget - self.kept_bytes
            kept[:] = [graph] if fits else []
            return self.loss.at(self._leaves, lambda _: graph.product(v, fits))

        return product

    def _graph(self, micro: MicroBatch, model: nn.Module) -> Product:
        value, leaves = self.loss.criterion_value(self.loss.forward(model, micro.batch), micro.batch), self._leaves
        refuse_non_finite("loss", [("a batch", value.detach())], "check the data and the weights")
        if not value.requires_grad:
            return nothing
        refuse_hidden_derivatives([value])
        gradients = torch.autograd.grad(value, leaves, create_graph=True, materialize_grads=True)
        named = zip(self.loss.layout.names, gradients, strict=True)
        refuse_non_finite("gradients", named, "check the data and the weights")
        return derivative_along(gradients, leaves)

    def _quotient(self, v: Tensor, step: float) -> Tensor:
        ahead = self._gradient(self.w + step * v)
        return ahead.sub_(self._gradient(self.w - step * v)).div_(2 * step)

    def _gradient(self, w: Tensor) -> Tensor:
        gradient = self.loss.with_weight_decay(0.0).grad(w)  # the penalty's part is known exactly
        refuse_non_finite("gradients", self.loss.layout.unflatten(gradient).items(), "check the data and the weights")
        return gradient


class GaussNewtonOperator(CurvatureOperator):
    """The generalised Gauss-Newton matrix ``(1 / c) sum_n J_n^T H_n J_n``: J_n the Jacobian of the outputs, H_n the
    criterion's Hessian with respect to them (Schraudolph 2002). It is the Hessian without the curvature of the network
    itself, and positive semi-definite for a criterion convex in the outputs. A penalty of the loss adds its
    ``weight_decay`` times the identity. It depends on what counts as the outputs: a network that ends in LogSoftmax and
    ``nll_loss`` are taken together as logits and cross-entropy (:func:`sharpness.curvature.likelihoods.joined`), and
    ``warnings`` say where the split makes it 0.

    ``J v`` is the derivative of ``J^T u`` by u, on a graph that is kept. Raises :class:`InputError` where the loss is
    inside the model, because the criterion has to be known apart from the network.

    >>> model = torch.nn.Linear(2, 1, bias=False)
    >>> batch = (torch.tensor([[3.0, 4.0]]), torch.tensor([[0.0]]))
    >>> GaussNewtonOperator(Loss(model, torch.nn.functional.mse_loss, [batch])).matvec(torch.tensor([1.0, 0.0]))
    tensor([18., 24.])
    """

    matrix = "gauss_newton"

    def __init__(
        self, loss: Loss, w: Tensor | None = None, *, cache: int | str = "auto", backend: str = "auto"
    ) -> None:
        super().__init__(loss, w, cache=cache, backend=backend)
        self._curved: bool | None = None  # unknown before the first product
        if loss.criterion is None:
            raise InputError(
                f"expected a criterion apart from the network for {self.matrix}, got a model with its own loss: "
                "pass criterion(output, target) and batches of pairs"
            )

    def _outputs(self, micro: MicroBatch, model: nn.Module) -> Tensor:
        outputs = self.loss.criterion_input(self.loss.forward(model, micro.batch), micro.batch)
        if not isinstance(outputs, Tensor):
            raise InputError(
                f"expected one tensor between network and criterion for {self.matrix}, got {type(outputs).__name__}, "
                "which the criterion is given whole: wrap the network in one that returns the tensor"
            )
        refuse_non_finite("outputs", [("a batch", outputs.detach())], "check the data and the weights")
        return outputs

    def output_product(self, outputs: Tensor, micro: MicroBatch) -> OutputProduct:
        """Return the matrix in the space of the outputs of one micro-batch, for the mean over it."""
        criterion = joined(self._criterion, outputs)
        if criterion is not self._criterion:
            self.facts["split"] = "before LogSoftmax: it and nll_loss are taken as cross_entropy of the logits"
        return self._watched(hessian_by_outputs(criterion, outputs, targets_of(micro.batch)))

    @property
    def _criterion(self) -> Criterion:
        assert self.loss.criterion is not None
        return self.loss.criterion

    def _watched(self, product: OutputProduct) -> OutputProduct:
        """Return the same product, noting whether it ever gives anything but 0."""

        def watched(t: Tensor) -> Tensor:
            curved = product(t)
            if not self._curved and bool(t.any()):
                self._curved = bool(curved.any())
            return curved

        return watched

    @property
    def warnings(self) -> tuple[str, ...]:
        """Reasons why this matrix is another one than is usually meant."""
        if self._curved is False:
            return (
                "the criterion is linear or piecewise linear in the outputs (as L1, hinge and nll_loss are), so this "
                f"{self.matrix} matrix is 0 whatever the network does: measure the Hessian, or split the loss earlier, "
                "as cross_entropy of logits",
            )
        if kind_of(self._criterion)[0] == "binary_cross_entropy" and self.matrix == "gauss_newton":
            return (
                "the Gauss-Newton matrix is split at probabilities, where it is not that of the logits: take "
                "binary_cross_entropy_with_logits and leave out the Sigmoid, or matrix='fisher'",
            )
        return ()

    def _graph(self, micro: MicroBatch, model: nn.Module) -> Product:
        outputs, leaves = self._outputs(micro, model), self._leaves
        if not outputs.requires_grad:
            return nothing
        refuse_hidden_derivatives([outputs])
        dummy = torch.zeros_like(outputs, requires_grad=True)
        transposed = torch.autograd.grad(outputs, leaves, dummy, create_graph=True, materialize_grads=True)
        forward, middle = derivative_along(transposed, (dummy,)), self.output_product(outputs, micro)
        edge = get_gradient_edge(outputs)

        def product(v: Pieces, keep: bool) -> Pieces:
            (along,) = forward(v, keep)
            return torch.autograd.grad(edge, leaves, middle(along), retain_graph=keep, materialize_grads=True)

        return product

    def _quotient(self, v: Tensor, step: float) -> Tensor:
        return sum_over_ranks(self.within_memory(lambda: self._jacobian_quotient(v, step)))

    def _jacobian_quotient(self, v: Tensor, step: float) -> Tensor:
        """Return this process's ``J^T M (f(w + h v) - f(w - h v)) / 2h``; the transposed part needs one derivative."""
        loss, total = self.loss, torch.zeros_like(v)
        leaves = loss.leaves(self.w, gradient=total)
        ahead, behind = (loss.pieces(self.w + h * v) for h in (step, -step))

        def backward(micro: MicroBatch, forward: Tensor, model: nn.Module) -> None:
            outputs = self._outputs(micro, model)
            if outputs.requires_grad:
                outputs.backward(micro.share * self.output_product(outputs, micro)(forward))

        with loss.measuring():
            for micro in loss.data.micro_batches():
                with torch.enable_grad():
                    f_ahead, f_behind = (loss.at(p, partial(self._outputs, micro)).detach() for p in (ahead, behind))
                    loss.at(leaves, partial(backward, micro, (f_ahead - f_behind) / (2 * step)))
        return total


class FisherOperator(GaussNewtonOperator):
    """The Fisher matrix ``(1 / c) sum_n E[g_n g_n^T]`` of the log-likelihood's gradients g_n (Martens 2020).

    The expectation is over targets as the network predicts them. It is exact where there is a closed form or there are
    few classes (:func:`sharpness.curvature.likelihoods.expected_moments`); otherwise, and where ``draws`` asks for it,
    it is the mean over so many draws of all targets from ``seed``, numbered from ``first_draw``: unbiased, of a low
    rank, and with a largest eigenvalue that is too large on average. With ``seed=None`` the targets are those of the
    data (empirical Fisher). ``draws`` is ``None`` where nothing is drawn, and ``facts["targets"]`` says after the first
    product how it was made. An example is one entry of the first dimension. A penalty of the loss is no part of it.

    >>> model = torch.nn.Linear(2, 1, bias=False)
    >>> torch.nn.init.zeros_(model.weight)
    Parameter containing: tensor([[0., 0.]], requires_grad=True)
    >>> batch = (torch.tensor([[3.0, 4.0]]), torch.tensor([[1.0]]))
    >>> loss = Loss(model, torch.nn.functional.mse_loss, [batch])
    >>> FisherOperator(loss).matvec(torch.tensor([1.0, 0.0]))                     # E[g g^T] = 2 x x^T
    tensor([18., 24.])
    >>> FisherOperator(loss, seed=None).matvec(torch.tensor([1.0, 0.0]))          # g = -2 x
    tensor([36., 48.])
    """

    penalised = False

    def __init__(
        self,
        loss: Loss,
        w: Tensor | None = None,
        *,
        seed: int | None = 0,
        draws: int | None = None,
        first_draw: int = 0,
        cache: int | str = "auto",
        backend: str = "auto",
    ) -> None:
        self.matrix = "empirical_fisher" if seed is None else "fisher"
        super().__init__(loss, w, cache=cache, backend=backend)
        if draws is not None and (seed is None or draws < 1):
            wanted = "no draws for the empirical Fisher matrix" if seed is None else "at least 1 draw of the targets"
            raise InputError(f"expected {wanted}, got {draws}: leave it out for the exact matrix where there is one")
        self.seed, self.draws, self.first_draw = seed, draws, first_draw
        closed = seed is None or bool(kind_of(self._criterion)[0])
        if draws is None and not closed and self._num_outputs() > MOST_CLASSES:
            self.draws = USUAL_DRAWS

    def _num_outputs(self) -> int:
        with torch.enable_grad(), self.loss.measuring():
            micro = next(iter(self.loss.data.micro_batches()))
            return self.loss.at(self._leaves, partial(self._outputs, micro))[0].numel()

    def drawn(self, first: int, count: int) -> FisherOperator:
        """Return the matrix of ``count`` of the draws alone, beginning with the one numbered ``first``."""
        return FisherOperator(
            self.loss, self.w, seed=self.seed, draws=count, first_draw=first, cache=self._cache, backend=self.backend
        )

    def alike(self, loss: Loss, w: Tensor) -> FisherOperator:
        """Return the same matrix of another loss, with the draws of this one, by autograd alone and keeping nothing."""
        draws: dict[str, Any] = {"seed": self.seed, "draws": self.draws, "first_draw": self.first_draw}
        return FisherOperator(loss, w, **draws, cache=0, backend="exact")

    def output_product(self, outputs: Tensor, micro: MicroBatch) -> OutputProduct:
        """Return the second moment of the gradients by the outputs."""
        targets, count = targets_of(micro.batch), micro.count
        if self.seed is None:
            self.facts["targets"] = "those of the data"
            return gradient_moments(self._criterion, outputs, targets, count)
        if self.draws is None:
            product, self.facts["targets"] = expected_moments(self._criterion, outputs, targets, count)
            return product
        self.facts["targets"] = f"{self.draws} draws"
        draws = range(self.first_draw, self.first_draw + self.draws)
        return drawn_moments(self._criterion, outputs, targets, count, draws, self.seed, micro.first_example)


MATRICES: dict[str, Callable[..., CurvatureOperator]] = {
    "hessian": HessianOperator,
    "gauss_newton": GaussNewtonOperator,
    "fisher": FisherOperator,
    "empirical_fisher": partial(FisherOperator, seed=None),
}


def curvature_operator(matrix: str, loss: Loss, w: Tensor | None = None, **options: Any) -> CurvatureOperator:
    """Return one of :data:`MATRICES` by its name; :class:`InputError` for another name."""
    if matrix not in MATRICES:
        raise unknown_name("matrix", matrix, MATRICES)
    return MATRICES[matrix](loss, w, **options)


def remembering(
    operator: CurvatureOperator, resume: Path | None, shared: SharedProducts | None = None
) -> SymmetricOperator:
    """Return the operator itself, or one that keeps its products in a folder so that a killed solve goes on there.

    It takes those that are ``shared`` already and shares its first. With several processes each keeps its own copy, in
    a folder named for its rank.
    """
    if resume is None and shared is None:
        return operator
    identity, product = _identity_of(operator), operator
    if shared is not None:
        same = f"{identity} {operator.backend}"
        if operator.backend == "auto" and same in shared:
            operator.backend = "exact"  # as another solve found, whose products have no error
        product = shared.of(operator, same)
    if resume is None:
        return product
    return Replayed(product, resume / f"rank-{rank()}" if is_distributed() else resume, identity)


def _identity_of(operator: CurvatureOperator) -> str:
    """Return the hash of what says which matrix this is: weights, data and how they are evaluated."""
    loss, matrix = operator.loss, operator.matrix
    if isinstance(operator, FisherOperator):
        matrix = (operator.matrix, operator.draws, operator.seed)
    facts = (matrix, loss.norm, loss.dtype, loss.layout.names, loss.data_sha256(), loss.data.batch_sizes)
    facts = (*facts, loss.weight_decay) if loss.weight_decay else facts
    weights = sha256_of([operator.w])
    return hashlib.sha256(f"{weights}{facts}{len(from_all_ranks(0))}".encode()).hexdigest()


def per_layer(loss: Loss, w: Tensor | None = None) -> dict[str, Loss]:
    """Return the loss as a function of each layer's parameters alone: the diagonal blocks of its curvature matrices.

    >>> loss = Loss(nn.Sequential(nn.Linear(2, 3), nn.Linear(3, 1)), nn.functional.mse_loss,
    ...             [(torch.ones(1, 2), torch.zeros(1, 1))])
    >>> {name: part.layout.size for name, part in per_layer(loss).items()}
    {'0': 9, '1': 4}
    """
    layers = loss.layout.layers()
    return {layer: loss.restricted([glob.escape(name) for name in names], w) for layer, names in layers.items()}
