"""The data of a loss and the check before its first number: they hold still, the mean is one, derivatives are such."""

from __future__ import annotations

import copy
import itertools
from collections.abc import Callable, Iterable, Sequence
from typing import Any, Self

import torch
from torch import Tensor, nn

from sharpness.data.batches import Batch, batch_length, cast, taken
from sharpness.data.still import cannot_move
from sharpness.loss.counts import SHIFTED, candidates, examples, reduction_of
from sharpness.loss.criteria import cast_criterion, first_label_counts
from sharpness.loss.criterion_network import CriterionNetwork
from sharpness.loss.double import few, takes_parts
from sharpness.loss.mean import DECLARED, verdict_on_mean
from sharpness.loss.shares import WeightedData
from sharpness.loss.still_data import scan
from sharpness.machine.distributed import from_all_ranks, on_all_ranks
from sharpness.machine.users_code import users_own


class CheckedLoss(CriterionNetwork):
    """A criterion's network over data that were looked at first; ``checks`` says what was found, for a record.

    ``stated`` are the options that say what the user knows of the loss: ``count``, ``coupled``, ``freeze``,
    ``training`` and ``fused``. ``divisible`` says that a batch may be cut without changing the loss.
    """

    def __init__(
        self,
        model: nn.Module,
        criterion: Callable[[Any, Any], Tensor] | None,
        batches: Iterable[Batch],
        *,
        selection: Sequence[str] | None,
        norm: str,
        dtype: torch.dtype,
        weight_decay: float,
        **stated: Any,
    ) -> None:
        super().__init__(model, criterion, selection, norm, dtype, weight_decay)
        self.stated, self.training, self.fused = stated, stated["training"], stated["fused"]
        self._take_data(batches)

    def _take_data(self, batches: Iterable[Batch]) -> None:
        """Look through the data, find what the mean divides by, and note what the self-check found."""
        count, freeze, coupled = (self.stated[name] for name in ("count", "freeze", "coupled"))
        self.divisible = self.norm != "batch" and not coupled
        summed = reduction_of(self.given_criterion) == "sum"
        counts = {DECLARED: count} if count is not None else candidates(self.given_criterion)
        found = on_all_ranks(lambda: scan(batches, counts, self.device, freeze=freeze))
        self.batches = found.batches
        if count is None and any(from_all_ranks(on_all_ranks(lambda: self._shifts_labels(found.odd)))):
            counts = {SHIFTED: counts.pop(SHIFTED), **counts}
        mean = verdict_on_mean(self, found, counts, coupled=coupled, freeze=freeze, summed=summed)
        self.fixed_draw, self.checks = mean.fixed_draw, {"data": found.said, "mean": mean.said}
        self.checked_products = dict[Any, str]()  # by matrix and point, beside what is said in the checks
        self._odd, self.divisible = found.odd, mean.divisible
        self.data = WeightedData(
            self.batches,
            counts.get(mean.count, examples),
            self.device,
            self.dtype,
            divisible=mean.divisible,
            summed=summed,
            copied=mean.changes_inputs,
            sizes=found.sizes,
            counts=found.counts.get(mean.count) or list(map(float, found.sizes)),
        )

    def _shifts_labels(self, batches: Sequence[Batch]) -> bool:
        """Return whether a model's own loss predicts each label from those before it, asked of the model."""
        with users_own("measuring", "data that fit this network and its loss", "check model, data and loss"):
            return self.own_loss and len(batches) > 0 and not first_label_counts(self.value_of_batch, batches[0])

    def value_of_batch(self, batch: Batch) -> float:
        """Return the criterion's mean over one batch at the network's own weights, without a penalty."""
        with self.evaluating(self.weights) as forward:
            batch = cast(batch, self.device, self.dtype)
            return float(self.criterion_value(forward(batch), batch).detach())

    def over(self, batches: Sequence[Batch]) -> Self:
        """Return the same criterion of the same network over other batches, such as a random one of the same data.

        >>> from sharpness.loss import Loss
        >>> loss = Loss(nn.Linear(2, 1), nn.functional.mse_loss, [(torch.zeros(3, 2), torch.zeros(3, 1))])
        >>> loss.over([(torch.ones(1, 2), torch.zeros(1, 1))]).num_examples
        1
        """
        if not cannot_move(batches):
            return self.with_data(batches)
        other = copy.copy(self)
        other.batches, other.data = batches, self.data.over(batches)
        return other

    def with_data(self, batches: Iterable[Batch]) -> Self:
        """Return the same criterion of the same network over other data, which are looked at as those of this were.

        >>> from sharpness.loss import Loss
        >>> loss = Loss(nn.Linear(2, 1), nn.functional.mse_loss, [(torch.zeros(3, 2), torch.zeros(3, 1))])
        >>> loss.with_data([(torch.ones(1, 2), torch.zeros(1, 1))]).checks["mean"]
        "a mean over the criterion's own count, not tested: no example to spare"
        """
        other = copy.copy(self)
        other._take_data(batches)
        return other

    def in_precision(self, dtype: torch.dtype) -> Self:
        """Return the same loss computed in another precision, at the same weights."""
        other = copy.copy(self)
        other.dtype, other.weights = dtype, self.weights.to(dtype)
        other._fixed = {name: cast(tensor, self.device, dtype) for name, tensor in self._fixed.items()}
        other._buffers = {name: cast(tensor, self.device, dtype) for name, tensor in self._buffers.items()}
        other.criterion = cast_criterion(self.criterion, self.device, dtype)
        if hasattr(self, "data"):  # the mean is looked at before there are any
            other.data = copy.copy(self.data)
            other.data.dtype = dtype
        return other

    def few_examples(self, most: int) -> list[Batch]:
        """Return at most so many odd examples of this process's data, as one batch or none; a whole one if need be.

        They are of the first batch of which any count for something in the mean: of ignored labels alone there is none.
        """
        for batch in itertools.chain(self._odd, self.batches):
            part = self._few_that_count(batch, most)
            if part is not None:
                return [part]
        return []

    def _few_that_count(self, batch: Batch, most: int) -> Batch | None:
        if not takes_parts(self):
            return batch if self.data.count(batch) > 0 else None
        part = few(batch, most)
        if self.data.count(part) > 0:
            return part
        rows = [row for row in range(batch_length(batch)) if self.data.count(taken(batch, [row])) > 0]
        return taken(batch, rows[:most]) if rows else None
