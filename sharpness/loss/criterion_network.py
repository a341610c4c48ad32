"""A network with a criterion: the loss of one batch of any form, from outputs of any kind."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn

from sharpness.data.batches import Batch, targets_of
from sharpness.errors import InputError
from sharpness.loss.calls import loss_in, tensor_in
from sharpness.loss.counts import REDUCTIONS, reduction_of
from sharpness.loss.criteria import cast_criterion, is_known
from sharpness.loss.penalty import PenalisedNetwork


class CriterionNetwork(PenalisedNetwork):
    """A network of one flat vector with a criterion, or with its own loss where that is ``None``.

    Raises :class:`InputError` for a criterion that neither averages nor sums.
    """

    def __init__(
        self,
        model: nn.Module,
        criterion: Callable[[Any, Any], Tensor] | None,
        selection: Sequence[str] | None,
        norm: str,
        dtype: torch.dtype,
        weight_decay: float,
    ) -> None:
        if (reduction := reduction_of(criterion)) not in REDUCTIONS:
            raise InputError(f"expected a criterion that averages, got reduction={reduction!r}: use reduction='mean'")
        super().__init__(model, selection, norm, dtype, weight_decay)
        self.own_loss, self.given_criterion = criterion is None, criterion
        self.criterion = cast_criterion(criterion, self.device, dtype)

    @contextmanager
    def evaluating(self, w: Tensor, buffers: Mapping[str, Tensor] | None = None) -> Iterator[Callable[[Batch], Any]]:
        """Hold the network ready at ``w`` without a graph of the weights, and give the function from batch to output.

        Gradients are on, because networks of physics differentiate by their inputs in the forward pass; with weights
        that need none, nothing else is recorded.
        """
        with torch.enable_grad(), self.measuring():
            pieces = self.pieces(self.point(w))
            yield lambda batch: self.at(pieces, lambda model: self.forward(model, batch), buffers)

    def tensor_of(self, output: Any) -> Tensor:
        """Return the one tensor of an output, as logits; :class:`InputError` where it is none or several."""
        tensor = tensor_in(output)
        if tensor is None:
            raise InputError(
                f"expected a network that returns one tensor or logits, got {type(output).__name__}: wrap it in one "
                "that does, this probe looks at the outputs"
            )
        return tensor

    def criterion_input(self, output: Any, batch: Batch) -> Any:
        """Return what the criterion is given: the output, or its logits for torch's criteria and batches of dicts."""
        tensor = tensor_in(output) if isinstance(batch, Mapping) or is_known(self.criterion) else None
        return output if tensor is None else tensor

    def criterion_value(self, output: Any, batch: Batch) -> Tensor:
        """Return the mean loss of one batch as a graph; :class:`InputError` where the criterion gives no one number."""
        if self.criterion is None:
            value = loss_in(output)
        else:
            value = self.criterion(self.criterion_input(output, batch), targets_of(batch))
        if not isinstance(value, Tensor) or value.numel() != 1:
            got = f"shape {tuple(value.shape)}" if isinstance(value, Tensor) else type(value).__name__
            raise InputError(f"expected the criterion to return one mean loss, got {got}: use a mean reduction")
        return value.reshape(())
