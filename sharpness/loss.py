"""The loss of a network over fixed data as a function of one flat vector; the only place that averages over data."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn
from torch.func import functional_call

from sharpness import modes
from sharpness.batches import (
    Batch,
    averaged_count,
    batch_length,
    cast,
    correct_predictions,
    data_sha256,
    logits_of,
    targets_of,
)
from sharpness.errors import InputError, RunError, unknown_name
from sharpness.vectors import Layout, flatten


@dataclass(frozen=True)
class Evaluation:
    """Mean loss (nats for cross-entropy) and accuracy (in [0, 1]; ``None`` if this is no classifier) at one point."""

    loss: float
    accuracy: float | None


@dataclass(frozen=True)
class GradientGraph:
    """The gradient of one batch at one point, piece by piece, with the graph that its products with the Hessian need.

    The pieces are the parameters: differentiating with respect to one flat leaf would copy a full-length vector for
    every batch.
    """

    leaves: tuple[Tensor, ...]
    gradients: tuple[Tensor, ...]
    num_bytes: int

    def add_product(self, total: Sequence[Tensor], v: Sequence[Tensor], share: float, keep: bool) -> None:
        """Add ``share * H v`` of this batch to ``total``, both in pieces; the graph is freed unless ``keep``."""
        varying = [(g, piece) for g, piece in zip(self.gradients, v, strict=True) if g.requires_grad]
        if not varying:
            return  # a loss linear in the weights
        outputs, vectors = zip(*varying, strict=True)
        with _needing_second_derivatives():
            products = torch.autograd.grad(outputs, self.leaves, vectors, retain_graph=keep, materialize_grads=True)
        add_pieces(total, products, share)


def _unchanged(packed: tuple[Tensor, int]) -> Tensor:
    """Return a saved tensor, refusing one that was changed in place: with hooks autograd leaves that check to us."""
    saved, version = packed
    if saved._version != version:
        raise RunError(
            "expected operations that leave the tensors that gradients need as they are, got one that changes such a "
            "tensor in place: write x = x + y instead of x.add_(y) in its forward()"
        )
    return saved


@contextmanager
def _needing_second_derivatives() -> Iterator[None]:
    """Turn autograd's complaint about a missing second derivative, and no other error, into :class:`RunError`."""
    try:
        yield
    except (RuntimeError, NotImplementedError) as error:
        first = str(error).partition("\n")[0]
        if "derivative for" not in first and "double backward" not in first:
            raise
        raise RunError(f"expected operations with a second derivative in the network, got: {first}") from error


def add_pieces(total: Sequence[Tensor], pieces: Sequence[Tensor], share: float) -> None:
    """Add ``share`` times each piece to the matching view of a flat vector, in place."""
    for view, piece in zip(total, pieces, strict=True):
        view.add_(piece.detach(), alpha=share)


class Loss:
    """The mean loss L(w) over all the batches, as a function of the flat vector of trainable parameters.

    ``L(w) = sum_b c_b l_b(w) / sum_b c_b`` with ``l_b`` the criterion's mean over batch b and ``c_b`` the number of
    things it averaged over, so any split of the data gives the same number to rounding. ``criterion(output, target)``
    must return a mean; ``None`` means that batches are dicts and ``model(**batch).loss`` is the loss. ``batches`` is
    anything that yields the same batches in the same order each time.

    ``norm`` says what BatchNorm does: ``frozen`` uses the running statistics of the checkpoint; ``batch`` those of each
    given batch, so the batch size is part of the definition; ``recalibrate`` recomputes the running statistics at
    each point from ``calibration`` (by default the batches themselves), for values only. ``count(batch)`` says what the
    criterion's mean divides by where :func:`sharpness.batches.averaged_count` cannot know it.

    The module is never changed: parameters and buffers go in by ``torch.func.functional_call``, and train flags and
    random state are put back, also after an exception. Raises :class:`InputError` for an unknown ``norm``, a criterion
    that does not average, a model without the running statistics that ``norm`` needs, and empty data.

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
        norm: str = "frozen",
        calibration: Iterable[Batch] | None = None,
        count: Callable[[Batch], float] | None = None,
        dtype: torch.dtype = torch.float32,
    ) -> None:
        self.model, self.criterion, self.batches, self.norm, self.dtype = model, criterion, batches, norm, dtype
        self.calibration = batches if calibration is None else calibration
        self._norms = modes.batch_norms(model)
        self._check_arguments()
        self.layout = Layout.of(model)
        start = flatten(model, self.layout)
        self.device = start.device
        self.weights = self.point(start)
        selected = set(self.layout.names)
        fixed = {name: p.detach() for name, p in model.named_parameters() if name not in selected}
        self._fixed = {name: cast(p.clone(), self.device, dtype) for name, p in fixed.items()}
        self._buffers = {name: cast(b.detach().clone(), self.device, dtype) for name, b in model.named_buffers()}
        count = count or partial(averaged_count, criterion)
        sizes = [(float(count(batch)), batch_length(batch)) for batch in batches]
        self._total = sum(number for number, _ in sizes)
        self._counts, self.batch_sizes = [number for number, _ in sizes], tuple(length for _, length in sizes)
        if self._total <= 0:
            raise InputError("expected at least one batch with an example to average over, got none: check the data")

    def _check_arguments(self) -> None:
        if self.norm not in modes.NORM_MODES:
            raise unknown_name("norm", self.norm, modes.NORM_MODES)
        if (reduction := getattr(self.criterion, "reduction", "mean")) != "mean":
            raise InputError(f"expected a criterion that averages, got reduction={reduction!r}: use reduction='mean'")
        if self.norm != "batch" and any(module.running_mean is None for module in self._norms):
            raise InputError(
                f"expected running statistics for norm={self.norm!r}, but the model keeps none: use norm='batch'"
            )

    @property
    def num_examples(self) -> int:
        """Number of examples in all batches together."""
        return sum(self.batch_sizes)

    def data_sha256(self) -> str:
        """Return the SHA-256 of the data in order, whatever the split into batches."""
        return data_sha256(self.batches)

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
        total, correct, judged = 0.0, 0, 0
        with self._evaluating(w) as forward:
            for batch, share in self.weighted_batches():
                output = forward(batch)
                total += share * float(self._criterion(output, batch))
                right, seen = correct_predictions(self.criterion, output, batch)
                correct, judged = correct + right, judged + seen
        return Evaluation(total, correct / judged if judged else None)

    def outputs(self, w: Tensor) -> Tensor:
        """Return the network's outputs on all examples in order, shape ``(N, ...)``."""
        with self._evaluating(w) as forward:
            return torch.cat([logits_of(forward(batch)) for batch, _ in self.weighted_batches()])

    def value_and_grad(self, w: Tensor) -> tuple[float, Tensor]:
        """Return L(w) and its gradient, shape ``(n,)``; parameters that the loss does not use get zeros."""
        self._check_differentiable()
        leaves = self._leaves(w)
        total, gradient = 0.0, torch.zeros_like(self.weights)
        pieces = self.pieces(gradient)
        with self.measuring(), torch.enable_grad():
            for batch, share in self.weighted_batches():
                value = self._criterion(self._forward_pieces(leaves, batch), batch)
                total += share * float(value.detach())
                if value.requires_grad:
                    add_pieces(pieces, torch.autograd.grad(value, leaves, materialize_grads=True), share)
        return total, gradient

    def grad(self, w: Tensor) -> Tensor:
        """Return the gradient of L at ``w``, shape ``(n,)``."""
        return self.value_and_grad(w)[1]

    def hvp(self, w: Tensor, v: Tensor) -> Tensor:
        """Return the product of the Hessian of L at ``w`` with ``v``, shape ``(n,)``, by reverse over reverse."""
        total = torch.zeros_like(self.weights)
        with self.measuring():
            for batch, share in self.weighted_batches():
                graph = self.gradient_graph(w, batch)
                graph.add_product(self.pieces(total), self.pieces(self.point(v)), share, keep=False)
        return total

    def gradient_graph(self, w: Tensor, batch: Batch) -> GradientGraph:
        """Return one batch's gradient at ``w`` with its graph and the bytes it holds; call it while ``measuring``.

        The bytes are those of every distinct tensor storage that autograd saves. Raises :class:`RunError` where an
        operation has no second derivative.
        """
        self._check_differentiable()
        leaves = self._leaves(w)
        saved_bytes = {leaf.untyped_storage().data_ptr(): leaf.untyped_storage().nbytes() for leaf in leaves}

        def pack(saved: Tensor) -> tuple[Tensor, int]:
            storage = saved.untyped_storage()
            saved_bytes.setdefault(storage.data_ptr(), storage.nbytes())
            # Detached, because a node that keeps its own output would keep itself alive; autograd attaches it again.
            return saved.detach(), saved._version

        with torch.enable_grad(), torch.autograd.graph.saved_tensors_hooks(pack, _unchanged):
            value = self._criterion(self._forward_pieces(leaves, batch), batch)
            if not value.requires_grad:
                return GradientGraph(leaves, tuple(leaf.detach() for leaf in leaves), 0)
            with _needing_second_derivatives():
                gradients = torch.autograd.grad(value, leaves, create_graph=True, materialize_grads=True)
        return GradientGraph(leaves, gradients, sum(saved_bytes.values()) + sum(g.nbytes for g in gradients))

    def pieces(self, vector: Tensor) -> tuple[Tensor, ...]:
        """Return the views of a flat vector that belong to the parameters, in their order."""
        return tuple(self.layout.unflatten(vector).values())

    def _leaves(self, w: Tensor) -> tuple[Tensor, ...]:
        return tuple(piece.detach().requires_grad_() for piece in self.pieces(self.point(w)))

    def weighted_batches(self) -> Iterator[tuple[Batch, float]]:
        """Yield each batch on the device in the loss's dtype, with its share of the mean; refuse other batches."""
        number = 0
        for number, batch in enumerate(self.batches, 1):
            if number > len(self._counts) or batch_length(batch) != self.batch_sizes[number - 1]:
                break
            if self._counts[number - 1] > 0:  # the mean over nothing is not a number
                yield cast(batch, self.device, self.dtype), self._counts[number - 1] / self._total
        else:
            if number == len(self._counts):
                return
        raise InputError(
            f"expected the same {len(self._counts)} batches at every pass, got others: pass a list or shuffle=False"
        )

    def _check_differentiable(self) -> None:
        if self.norm == "recalibrate":
            raise InputError("norm='recalibrate' defines values only: use norm='frozen' or 'batch' for derivatives")

    @contextmanager
    def _evaluating(self, w: Tensor) -> Iterator[Callable[[Batch], Any]]:
        """Hold the network ready at ``w`` without a graph, and give the function from a batch to its output."""
        with torch.no_grad(), self.measuring():
            w = self.point(w)
            buffers = self._recalibrated(w) if self.norm == "recalibrate" else None
            yield lambda batch: self.forward(w, batch, buffers)

    def forward(self, w: Tensor, batch: Batch, buffers: dict[str, Tensor] | None = None) -> Any:
        """Return the network's output on one batch of this loss's dtype at ``w``; call it while ``measuring``."""
        return self._forward_pieces(self.pieces(w), batch, buffers)

    def _forward_pieces(self, pieces: Sequence[Tensor], batch: Batch, buffers: dict[str, Tensor] | None = None) -> Any:
        # Buffers are cloned for each pass because BatchNorm in training mode writes to the ones it is given.
        state = dict(zip(self.layout.names, pieces, strict=True)) | self._fixed
        state |= {name: b.clone() for name, b in self._buffers.items()} if buffers is None else buffers
        if isinstance(batch, Mapping):
            return functional_call(self.model, state, (), dict(batch))
        return functional_call(self.model, state, (batch[0],))

    def _criterion(self, output: Any, batch: Batch) -> Tensor:
        value = output.loss if self.criterion is None else self.criterion(output, targets_of(batch))
        if not isinstance(value, Tensor) or value.numel() != 1:
            got = f"shape {tuple(value.shape)}" if isinstance(value, Tensor) else type(value).__name__
            raise InputError(f"expected the criterion to return one mean loss, got {got}: use a mean reduction")
        return value

    def _recalibrated(self, w: Tensor) -> dict[str, Tensor]:
        """Return the buffers after a pass over the calibration data: the example-weighted mean of batch statistics."""
        buffers, seen = {name: b.clone() for name, b in self._buffers.items()}, 0
        for batch in self.calibration:
            seen += batch_length(batch)
            with modes.averaging_statistics(self._norms, share=batch_length(batch) / seen):
                self.forward(w, cast(batch, self.device, self.dtype), buffers)
        return buffers
