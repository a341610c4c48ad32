"""The loss of a network over fixed data as a function of one flat vector; the only place that averages over data."""

from __future__ import annotations

import copy
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any, Self

import torch
from torch import Tensor, nn

from sharpness.data.batches import Batch, batch_length, cast, split
from sharpness.errors import InputError, unknown_name
from sharpness.loss.checked import CheckedLoss
from sharpness.loss.counts import Count
from sharpness.loss.criteria import correct_predictions
from sharpness.loss.graphs import (
    Pieces,
    add_pieces,
    derivative_along,
    refuse_hidden_derivatives,
)
from sharpness.loss.shares import MicroBatch
from sharpness.loss.slope import PART_OF_A_CHECK, UNREACHED, check_slope
from sharpness.machine.distributed import (
    from_all_ranks,
    is_distributed,
    sum_over_ranks,
    sums_over_ranks,
)
from sharpness.records.tables import facts_html
from sharpness.vectors import as_reals


@dataclass(frozen=True)
class Evaluation:
    """Mean loss (nats for cross-entropy) and accuracy (in [0, 1]; ``None`` if this is no classifier) at one point."""

    loss: float
    accuracy: float | None


class Loss(CheckedLoss):
    """The mean loss L(w) over all the batches, as a function of the flat vector of trainable parameters.

    ``L(w) = sum_b c_b l_b(w) / sum_b c_b`` with ``l_b`` the criterion's mean over batch b and ``c_b`` the number of
    things it averaged over, so any split of the data gives the same number to rounding; w has the shape (n,), and the
    unit is the criterion's (nats for cross-entropy). ``criterion(output, target)`` returns a mean, or with
    ``reduction="sum"`` a sum; ``None`` means that the model returns its own loss. ``parameters`` are glob patterns of
    the names that w consists of, by default all trainable ones. ``norm`` is what BatchNorm does: ``frozen``, ``batch``,
    or ``recalibrate`` from ``calibration``. ``weight_decay`` adds ``(weight_decay / 2) |w|^2``. The module is never
    changed. ``docs/measure.md`` explains these, the forms of batches, and ``count``, ``coupled``, ``freeze`` and
    ``training``, which are for losses, data and networks out of the ordinary, ``docs/memory.md`` explains ``fused``.

    Raises :class:`InputError` for an unknown ``norm``, a criterion that does not average, a model without the running
    statistics that ``norm`` needs, weights that are no numbers, empty data, and whatever the self-check refuses: data
    that move, a network that draws random numbers, a mean that is another, outputs that do not fit the targets.

    >>> loss = Loss(nn.Linear(2, 3), nn.functional.cross_entropy, [(torch.zeros(4, 2), torch.tensor([0, 1, 2, 0]))])
    >>> loss.num_examples, loss.grad(loss.weights).shape
    (4, torch.Size([9]))
    """

    def __init__(
        self,
        model: nn.Module,
        criterion: Callable[[Any, Any], Tensor] | None,
        batches: Iterable[Batch],
        *,
        parameters: str | Sequence[str] | None = None,
        norm: str = "frozen",
        calibration: Iterable[Batch] | None = None,
        count: Count | None = None,
        coupled: bool = False,
        freeze: bool = False,
        training: bool = False,
        fused: bool = False,
        weight_decay: float = 0.0,
        dtype: torch.dtype = torch.float32,
    ) -> None:
        super().__init__(
            model,
            criterion,
            batches,
            selection=(parameters,) if isinstance(parameters, str) else parameters,
            norm=norm,
            dtype=dtype,
            weight_decay=weight_decay,
            count=count,
            coupled=coupled,
            freeze=freeze,
            training=training,
            fused=fused,
        )
        self.calibration = self.batches if calibration is None else calibration

    def __repr__(self) -> str:
        """Return what the loss is of, on one line."""
        facts = self._described()
        return f"<Loss: {', '.join(facts[name] for name in facts)}>"

    def _repr_html_(self) -> str:
        """Return the table that notebooks show."""
        return facts_html(self._described(), "Loss")

    def _described(self) -> dict[str, str]:
        criterion = getattr(self.criterion, "__name__", type(self.criterion).__name__)
        sizes = self.data.batch_sizes
        return {
            "model": f"{type(self.model).__name__} with {self.layout.size:,} parameters",
            "criterion": "the model's own loss" if self.criterion is None else criterion,
            "data": f"{sum(sizes):,} examples in {len(sizes)} batch{'es' if len(sizes) != 1 else ''}",
            "as": f"{str(self.dtype).removeprefix('torch.')} on {self.device}, norm {self.norm}",
        } | ({"penalty": f"weight decay {self.weight_decay:g}"} if self.weight_decay else {})

    @property
    def num_examples(self) -> int:
        """Number of examples in all batches together, over all processes."""
        return sum(self.data.batch_sizes)

    def data_sha256(self) -> str:
        """Return the SHA-256 of the data in order, whatever the split into batches and consecutive shards."""
        return self.data.sha256()

    def parts(self, size: int) -> Iterator[tuple[float, Self]]:
        """Yield the loss over each piece of at most ``size`` consecutive examples of a batch, with its share of L.

        L is the sum of shares times parts; with ``norm='batch'`` only where no batch is cut, because a part takes its
        own statistics. Raises :class:`InputError` for a size below 1 and under ``torch.distributed``.

        >>> loss = Loss(nn.Linear(2, 1), nn.functional.mse_loss, [(torch.zeros(3, 2), torch.zeros(3, 1))])
        >>> [(round(share, 3), part.num_examples) for share, part in loss.parts(2)]
        [(0.667, 2), (0.333, 1)]
        """
        if size < 1:
            raise InputError(f"expected parts of at least 1 example, got {size}: SAM takes its batch size")
        if is_distributed():
            raise InputError("expected one process for parts of the data, got several: start one without torchrun")
        if not self.divisible and self.norm != "batch" and size < max(self.data.batch_sizes):
            raise InputError(
                f"expected parts that hold whole batches of up to {max(self.data.batch_sizes)}, got {size}: this is a "
                "loss of whole batches"
            )
        count, summed = self.data.count, self.data.summed
        total = 1.0 if summed else sum(count(piece) for batch in self.batches for piece in split(batch, size))
        for piece in (piece for batch in self.batches for piece in split(batch, size)):
            if counted := count(piece):
                part = copy.copy(self)
                part.batches = [piece]
                if summed:  # their shares are 1 each, and the penalty counts once
                    part.weight_decay = self.weight_decay * batch_length(piece) / self.num_examples
                part.data = self.data.over(part.batches)
                yield (1.0 if summed else counted / total), part

    def on_outputs(self, change: Callable[[Tensor], Tensor]) -> Self:
        """Return the criterion's mean over changed outputs, ``criterion(change(logits), target)``, as a loss.

        Raises :class:`InputError` where the loss is the model's own, which never gives its outputs away.
        """
        if (criterion := self.criterion) is None:
            raise InputError("expected a criterion of outputs and targets, got the model's own loss: pass a criterion")
        other = copy.copy(self)
        other.criterion = lambda output, target: criterion(change(self.tensor_of(output)), target)
        return other

    def tensors(self, w: Tensor) -> dict[str, Tensor]:
        """Return all parameters and buffers by name, those of the flat vector as views of ``w``.

        >>> loss = Loss(nn.Linear(2, 1), nn.functional.mse_loss, [(torch.zeros(1, 2), torch.zeros(1, 1))])
        >>> loss.tensors(torch.arange(3.0))["bias"]
        tensor([2.])
        """
        return self.layout.as_parameters(self.pieces(self.point(w))) | self._fixed | self._buffers

    def with_tensors(self, tensors: Mapping[str, Tensor]) -> Self:
        """Return the same loss with other values of these parameters and buffers; the module keeps its own.

        Those of the flat vector become its ``weights``. Raises :class:`InputError` for a name that there is not.

        >>> loss = Loss(nn.Linear(2, 1), nn.functional.mse_loss, [(torch.zeros(1, 2), torch.zeros(1, 1))])
        >>> loss.with_tensors({"bias": torch.tensor([3.0])}).value(torch.tensor([0.0, 0.0, 3.0]))
        9.0
        """
        values = self.tensors(self.weights)
        for name in tensors:
            if name not in values:
                raise unknown_name("tensor", name, values)
        values |= {name: cast(tensor, self.device, self.dtype) for name, tensor in tensors.items()}
        other = copy.copy(self)
        other.weights = torch.cat([as_reals(values[name]).reshape(-1) for name in self.layout.names])
        other._fixed = {name: values[name] for name in self._fixed}
        other._buffers = {name: values[name] for name in self._buffers}
        other.checks, other.checked_products = dict(self.checks), {}
        return other

    def with_point(self, w: Tensor) -> Self:
        """Return the same loss with other weights as its own."""
        other = copy.copy(self)
        other.weights = self.point(w)
        return other

    def with_norm(self, norm: str) -> Self:
        """Return the same loss with another ``norm`` mode; :class:`InputError` where it needs statistics not there.

        >>> loss = Loss(nn.BatchNorm1d(2), nn.functional.mse_loss, [(torch.eye(2), torch.zeros(2, 2))])
        >>> round(loss.value(loss.weights), 2), round(loss.with_norm("batch").value(loss.weights), 2)
        (0.5, 1.0)
        """
        other = copy.copy(self)
        other.norm, other.checks, other.checked_products = norm, dict(self.checks), {}
        other._check_norm()
        other.divisible = norm != "batch" and (self.divisible or self.norm == "batch")
        other.data = self.data.over(self.batches)
        other.data.divisible = other.divisible
        return other

    def without_checks_of_derivatives(self) -> Self:
        """Return the same loss, whose derivatives are taken as they come: their check takes some dozen gradients."""
        other = copy.copy(self)
        other.checks = {**self.checks, "slope": PART_OF_A_CHECK}
        return other

    def with_fixed_statistics(self, w: Tensor) -> Self:
        """Return this loss, or where it recomputes statistics at each point one that keeps those at ``w``."""
        buffers = self.buffers_at(w, self.calibration)
        return self if buffers is None else self.with_norm("frozen").with_tensors(buffers)

    def value(self, w: Tensor) -> float:
        """Return L(w), accumulated in float64 over the batches."""
        return self.evaluate(w).loss

    def evaluate(self, w: Tensor) -> Evaluation:
        """Return loss and accuracy at ``w`` in one pass over the data."""
        buffers = self.buffers_at(w, self.calibration)
        sums = self.data.within_memory(lambda: self._sums(w, buffers))
        total, correct, judged = sums_over_ranks(*sums, device=self.device)
        return Evaluation(total + self.penalty(w), correct / judged if judged else None)

    def _sums(self, w: Tensor, buffers: Mapping[str, Tensor] | None) -> tuple[float, int, int]:
        total, correct, judged = 0.0, 0, 0
        with self.evaluating(w, buffers) as forward:
            for micro in self.data.micro_batches():
                output = forward(micro.batch)
                total += micro.share * float(self.criterion_value(output, micro.batch).detach())
                right, seen = correct_predictions(self.criterion, output, micro.batch)
                correct, judged = correct + right, judged + seen
        return total, correct, judged

    def outputs(self, w: Tensor) -> Tensor:
        """Return the network's outputs on all examples in order, shape ``(N, ...)``."""
        buffers = self.buffers_at(w, self.calibration)

        def shard() -> list[Tensor]:
            with self.evaluating(w, buffers) as forward:
                return [self.tensor_of(forward(m.batch)).detach() for m in self.data.micro_batches()]

        parts = [part.to(self.device) for shards in from_all_ranks(self.data.within_memory(shard)) for part in shards]
        return torch.cat(parts)

    def value_and_grad(self, w: Tensor) -> tuple[float, Tensor]:
        """Return L(w) and its gradient, shape ``(n,)``; parameters that the loss does not use get zeros."""
        self.check_differentiable()
        total, gradient = self.data.within_memory(lambda: self._value_and_grad(w))
        (total,) = sums_over_ranks(total, device=self.device)
        gradient = sum_over_ranks(gradient)
        if self.weight_decay:
            gradient.add_(self.point(w), alpha=self.weight_decay)
        return total + self.penalty(w), gradient

    def _value_and_grad(self, w: Tensor) -> tuple[float, Tensor]:
        total, gradient = 0.0, torch.zeros_like(self.weights)
        leaves = self.leaves(w, gradient)

        def step(micro: MicroBatch, model: nn.Module) -> float:
            value = self.criterion_value(self.forward(model, micro.batch), micro.batch)
            if value.requires_grad:
                (micro.share * value).backward()
            return micro.share * float(value.detach())

        with self.measuring(), torch.enable_grad():
            for micro in self.data.micro_batches():
                total += self.at(leaves, partial(step, micro))
        return total, gradient

    def grad(self, w: Tensor) -> Tensor:
        """Return the gradient of L at ``w``, shape ``(n,)``."""
        return self.value_and_grad(w)[1]

    def hvp(self, w: Tensor, v: Tensor) -> Tensor:
        """Return the product of the Hessian of L at ``w`` with ``v``, shape ``(n,)``, by reverse over reverse.

        For many products at one point :class:`sharpness.curvature.HessianOperator` keeps what they share, and it falls
        back to finite differences where this raises :class:`sharpness.loss.graphs.MissingDerivativeError`.
        """
        self.check_differentiable()
        product = sum_over_ranks(self.data.within_memory(lambda: self._hvp(w, v)))
        return product.add_(self.point(v), alpha=self.weight_decay) if self.weight_decay else product

    def _hvp(self, w: Tensor, v: Tensor) -> Tensor:
        total, leaves, directions = torch.zeros_like(self.weights), self.leaves(w), self.pieces(self.point(v))

        def products(micro: MicroBatch, model: nn.Module) -> Pieces:
            value = self.criterion_value(self.forward(model, micro.batch), micro.batch)
            if not value.requires_grad:
                return ()
            refuse_hidden_derivatives([value])
            gradients = torch.autograd.grad(value, leaves, create_graph=True, materialize_grads=True)
            return derivative_along(gradients, leaves)(directions, False)

        with self.differentiating_twice(), torch.enable_grad():
            for micro in self.data.micro_batches():
                if pieces := self.at(leaves, partial(products, micro)):
                    add_pieces(self.pieces(total), pieces, micro.share)
        return total

    def reaches(self, w: Tensor) -> bool:
        """Return whether autograd sees the weights behind the loss of any batch."""

        def connected(micro: MicroBatch, model: nn.Module) -> bool:
            return self.criterion_value(self.forward(model, micro.batch), micro.batch).requires_grad

        leaves = self.leaves(w)
        with self.measuring(), torch.enable_grad():
            return any(self.at(leaves, partial(connected, micro)) for micro in self.data.micro_batches())

    def check_differentiable(self) -> None:
        """Raise :class:`InputError` where the norm mode defines values only, or the loss does not reach the weights."""
        if self.norm == "recalibrate":
            raise InputError("norm='recalibrate' defines values only: use norm='frozen' or 'batch' for derivatives")
        if UNREACHED in (slope := self.self_check()["slope"]):
            raise InputError(
                f"expected a loss with derivatives by the weights, but it {slope}: look for no_grad, "
                "detach, .item(), NumPy or set_grad_enabled(False) in the forward pass or the criterion"
            )

    def self_check(self) -> dict[str, str]:
        """Return what the checks of data, mean and derivatives found, each in a sentence, for a record."""
        if self.norm != "recalibrate" and "slope" not in self.checks:
            self.checks["slope"] = check_slope(self)
        return dict(self.checks)
