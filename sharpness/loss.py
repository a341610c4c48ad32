"""The loss of a network over fixed data as a function of one flat vector; the only place that averages over data."""

from __future__ import annotations

import copy
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass
from functools import partial
from typing import Any, TypeVar

import torch
from torch import Tensor, nn
from torch.func import functional_call

from sharpness import modes
from sharpness.batches import (
    Batch,
    averaged_count,
    batch_length,
    cast,
    cast_criterion,
    correct_predictions,
    logits_of,
    reduction_of,
    targets_of,
)
from sharpness.distributed import from_all_ranks, is_distributed, on_all_ranks, sum_over_ranks, sums_over_ranks
from sharpness.errors import InputError, unknown_name
from sharpness.graphs import Pieces, add_pieces, derivative_along, needing_second_derivatives, refuse_hidden_derivatives
from sharpness.vectors import Layout, flatten
from sharpness.weighted import MicroBatch, WeightedData

T = TypeVar("T")


@dataclass(frozen=True)
class Evaluation:
    """Mean loss (nats for cross-entropy) and accuracy (in [0, 1]; ``None`` if this is no classifier) at one point."""

    loss: float
    accuracy: float | None


class _Inside(nn.Module):
    """Runs a function on a network while ``functional_call`` holds other weights in it.

    The backward passes run inside too: a checkpointed block recomputes itself then, and would otherwise do so with
    the network's own weights, which gives wrong derivatives at any other point, silently.
    """

    def __init__(self, model: nn.Module) -> None:
        super().__init__()
        self.model = model

    def forward(self, work: Callable[[nn.Module], T]) -> T:
        return work(self.model)


class Loss:
    """The mean loss L(w) over all the batches, as a function of the flat vector of trainable parameters.

    ``L(w) = sum_b c_b l_b(w) / sum_b c_b`` with ``l_b`` the criterion's mean over batch b and ``c_b`` the number of
    things it averaged over, so any split of the data gives the same number to rounding. ``criterion(output, target)``
    must return a mean, or with ``reduction="sum"`` a sum, and then L is the sum over all the data; ``None`` means that
    batches are dicts and ``model(**batch).loss`` is the loss. ``batches`` is
    anything that yields the same batches in the same order each time. ``parameters`` are glob patterns of the names
    that w consists of (by default all trainable ones); the others stay as they are.

    ``norm`` says what BatchNorm does: ``frozen`` uses the running statistics of the checkpoint; ``batch`` those of each
    given batch, so the batch size is part of the definition; ``recalibrate`` recomputes the running statistics at
    each point from ``calibration`` (by default the batches themselves), for values only. ``count(batch)`` says what the
    criterion's mean divides by where :func:`sharpness.batches.averaged_count` cannot know it.

    Where memory runs out a batch is cut in halves and the pass done again, down to single examples; not for
    ``norm='batch'``, where that would change the definition. Under ``torch.distributed`` each process gives its own
    shard as ``batches`` and all get the result over all shards; consecutive shards in the order of the ranks also give
    the hash of the whole.

    The module is never changed: parameters and buffers go in by ``torch.func.functional_call``, and train flags and
    random state are put back, also after an exception. Raises :class:`InputError` for an unknown ``norm``, a criterion
    that does not average, a model without the running statistics that ``norm`` needs, weights that are no real
    numbers, and empty data. NaN weights are no error here, because a diverged training is evaluated too;
    :func:`sharpness.determinism.check_deterministic` and the curvature operators refuse them.

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
        count: Callable[[Batch], float] | None = None,
        dtype: torch.dtype = torch.float32,
    ) -> None:
        self.model, self.criterion, self.batches, self.norm, self.dtype = model, criterion, batches, norm, dtype
        self.calibration = batches if calibration is None else calibration
        self._inside, self._norms = _Inside(model), modes.batch_norms(model)
        self._check_arguments()
        self.selection = None if parameters is None else (parameters,) if isinstance(parameters, str) else parameters
        self.layout = Layout.of(model, self.selection)
        start = flatten(model, self.layout)
        self.device = start.device
        self.weights = self.point(start)
        fixed = {name: p for name, p in model.named_parameters() if name not in set(self.layout.names)}
        self.criterion = cast_criterion(criterion, self.device, dtype)
        self._fixed = {name: cast(p.detach().clone(), self.device, dtype) for name, p in fixed.items()}
        self._buffers = {name: cast(b.detach().clone(), self.device, dtype) for name, b in model.named_buffers()}
        count = count or partial(averaged_count, criterion)
        self.data = WeightedData(
            batches, count, self.device, dtype, divisible=norm != "batch", summed=reduction_of(criterion) == "sum"
        )

    def _check_arguments(self) -> None:
        if self.norm not in modes.NORM_MODES:
            raise unknown_name("norm", self.norm, modes.NORM_MODES)
        if (reduction := reduction_of(self.criterion)) not in ("mean", "sum"):
            raise InputError(f"expected a criterion that averages, got reduction={reduction!r}: use reduction='mean'")
        if self.norm != "batch" and any(module.running_mean is None for module in self._norms):
            raise InputError(
                f"expected running statistics for norm={self.norm!r}, but the model keeps none: use norm='batch'"
            )

    def restricted(self, parameters: str | Sequence[str], w: Tensor | None = None) -> Loss:
        """Return the same loss as a function of the parameters matching these globs alone, the others as in ``w``.

        >>> loss = Loss(nn.Linear(2, 1), nn.functional.mse_loss, [(torch.ones(1, 2), torch.zeros(1, 1))])
        >>> loss.restricted("bias").layout.names
        ('bias',)
        """
        other = copy.copy(self)
        values = self.layout.unflatten(self.weights if w is None else self.point(w))
        other.selection = (parameters,) if isinstance(parameters, str) else parameters
        other.layout = Layout.of(self.model, other.selection)
        if missing := set(other.layout.names) - set(self.layout.names):
            raise InputError(f"expected parameters of this loss, got {sorted(missing)[0]}, which it holds fixed")
        other._fixed = self._fixed | {name: v for name, v in values.items() if name not in set(other.layout.names)}
        other.weights = torch.cat([values[name].reshape(-1) for name in other.layout.names])
        return other

    @property
    def num_examples(self) -> int:
        """Number of examples in all batches together, over all processes."""
        return sum(self.data.batch_sizes)

    def data_sha256(self) -> str:
        """Return the SHA-256 of the data in order, whatever the split into batches and consecutive shards."""
        return self.data.sha256()

    def point(self, w: Tensor) -> Tensor:
        """Return ``w`` in the dtype and on the device of this loss, detached."""
        return w.detach().to(device=self.device, dtype=self.dtype)

    def measuring(self) -> AbstractContextManager[None]:
        """Return the context in which the network is evaluated: see :func:`sharpness.modes.measuring`."""
        return modes.measuring(self.model, self.device, batch_statistics=self.norm == "batch")

    def value(self, w: Tensor) -> float:
        """Return L(w), accumulated in float64 over the batches."""
        return self.evaluate(w).loss

    def evaluate(self, w: Tensor) -> Evaluation:
        """Return loss and accuracy at ``w`` in one pass over the data."""
        buffers = self._buffers_at(w)
        sums = self.data.within_memory(lambda: self._sums(w, buffers))
        total, correct, judged = sums_over_ranks(*sums, device=self.device)
        return Evaluation(total, correct / judged if judged else None)

    def _sums(self, w: Tensor, buffers: Mapping[str, Tensor] | None) -> tuple[float, int, int]:
        total, correct, judged = 0.0, 0, 0
        with self._evaluating(w, buffers) as forward:
            for micro in self.data.micro_batches():
                output = forward(micro.batch)
                total += micro.share * float(self.criterion_value(output, micro.batch))
                right, seen = correct_predictions(self.criterion, output, micro.batch)
                correct, judged = correct + right, judged + seen
        return total, correct, judged

    def outputs(self, w: Tensor) -> Tensor:
        """Return the network's outputs on all examples in order, shape ``(N, ...)``."""
        buffers = self._buffers_at(w)

        def shard() -> list[Tensor]:
            with self._evaluating(w, buffers) as forward:
                return [logits_of(forward(micro.batch)) for micro in self.data.micro_batches()]

        parts = [part.to(self.device) for shards in from_all_ranks(self.data.within_memory(shard)) for part in shards]
        return torch.cat(parts)

    def value_and_grad(self, w: Tensor) -> tuple[float, Tensor]:
        """Return L(w) and its gradient, shape ``(n,)``; parameters that the loss does not use get zeros."""
        self.check_differentiable()
        total, gradient = self.data.within_memory(lambda: self._value_and_grad(w))
        (total,) = sums_over_ranks(total, device=self.device)
        return total, sum_over_ranks(gradient)

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
        back to finite differences where this raises :class:`sharpness.graphs.MissingDerivativeError`.
        """
        self.check_differentiable()
        return sum_over_ranks(self.data.within_memory(lambda: self._hvp(w, v)))

    def _hvp(self, w: Tensor, v: Tensor) -> Tensor:
        total, leaves, directions = torch.zeros_like(self.weights), self.leaves(w), self.pieces(self.point(v))

        def products(micro: MicroBatch, model: nn.Module) -> Pieces:
            value = self.criterion_value(self.forward(model, micro.batch), micro.batch)
            if not value.requires_grad:
                return ()
            refuse_hidden_derivatives([value])
            gradients = torch.autograd.grad(value, leaves, create_graph=True, materialize_grads=True)
            return derivative_along(gradients, leaves)(directions, False)

        with self.measuring(), torch.enable_grad(), needing_second_derivatives():
            for micro in self.data.micro_batches():
                if pieces := self.at(leaves, partial(products, micro)):
                    add_pieces(self.pieces(total), pieces, micro.share)
        return total

    def fixed_tensors(self) -> Iterator[Tensor]:
        """Yield the parameters and buffers that are not part of ``w``."""
        yield from self._fixed.values()
        yield from self._buffers.values()

    def pieces(self, vector: Tensor) -> tuple[Tensor, ...]:
        """Return the views of a flat vector that belong to the parameters, in their order."""
        return tuple(self.layout.unflatten(vector).values())

    def leaves(self, w: Tensor, gradient: Tensor | None = None) -> tuple[Tensor, ...]:
        """Return the parameters at ``w`` as leaves of a new graph; ``backward()`` adds to ``gradient`` in place.

        One leaf per parameter: differentiating with respect to one flat leaf would copy a full-length vector for every
        batch. Reentrant checkpoints allow ``backward()`` only.
        """
        leaves = tuple(piece.detach().requires_grad_() for piece in self.pieces(self.point(w)))
        if gradient is not None:
            for leaf, piece in zip(leaves, self.pieces(gradient), strict=True):
                leaf.grad = piece
        return leaves

    def check_differentiable(self) -> None:
        """Raise :class:`InputError` where the norm mode defines values only."""
        if self.norm == "recalibrate":
            raise InputError("norm='recalibrate' defines values only: use norm='frozen' or 'batch' for derivatives")

    @contextmanager
    def _evaluating(self, w: Tensor, buffers: Mapping[str, Tensor] | None) -> Iterator[Callable[[Batch], Any]]:
        """Hold the network ready at ``w`` without a graph, and give the function from a batch to its output."""
        with torch.no_grad(), self.measuring():
            pieces = self.pieces(self.point(w))
            yield lambda batch: self.at(pieces, lambda model: self.forward(model, batch), buffers)

    def at(
        self, pieces: Sequence[Tensor], work: Callable[[nn.Module], T], buffers: Mapping[str, Tensor] | None = None
    ) -> T:
        """Return ``work(network)``, done while the network holds these parameters; call it while ``measuring``."""
        # Buffers are cloned for each pass because BatchNorm in training mode writes to the ones it is given.
        state = dict(zip(self.layout.names, pieces, strict=True)) | self._fixed
        state |= {name: b.clone() for name, b in self._buffers.items()} if buffers is None else buffers
        return functional_call(self._inside, {f"model.{name}": value for name, value in state.items()}, (work,))

    @staticmethod
    def forward(model: nn.Module, batch: Batch) -> Any:
        """Return a network's output on one batch."""
        return model(**batch) if isinstance(batch, Mapping) else model(batch[0])

    def criterion_value(self, output: Any, batch: Batch) -> Tensor:
        """Return the mean loss of one batch as a graph; :class:`InputError` where the criterion gives no one number."""
        value = output.loss if self.criterion is None else self.criterion(output, targets_of(batch))
        if not isinstance(value, Tensor) or value.numel() != 1:
            got = f"shape {tuple(value.shape)}" if isinstance(value, Tensor) else type(value).__name__
            raise InputError(f"expected the criterion to return one mean loss, got {got}: use a mean reduction")
        return value.reshape(())

    def _buffers_at(self, w: Tensor) -> Mapping[str, Tensor] | None:
        """Return the buffers with running statistics recalibrated at ``w`` over all processes; ``None`` to keep all."""
        if self.norm != "recalibrate":
            return None
        with torch.no_grad(), self.measuring():
            buffers, seen = on_all_ranks(lambda: self._recalibrated(self.pieces(self.point(w))))
        (everything,) = sums_over_ranks(seen, device=self.device)
        for name, buffer in buffers.items():
            if is_distributed() and name.rpartition(".")[2] in modes.RUNNING_STATISTICS:
                sum_over_ranks(buffer.mul_(seen / everything))
        return buffers

    def _recalibrated(self, pieces: Sequence[Tensor]) -> tuple[dict[str, Tensor], int]:
        """Return the buffers after a pass over this process's calibration data, and its number of examples.

        The statistics are the example-weighted mean of those of the batches, so these are never cut to fit in memory.
        """
        buffers, seen = {name: b.clone() for name, b in self._buffers.items()}, 0
        for batch in self.calibration:
            seen += batch_length(batch)
            with modes.averaging_statistics(self._norms, share=batch_length(batch) / seen):
                self.at(pieces, lambda model, b=batch: self.forward(model, cast(b, self.device, self.dtype)), buffers)
        return buffers, seen
