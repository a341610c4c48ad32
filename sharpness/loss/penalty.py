"""The L2 penalty that a network was trained with, as part of its loss."""

from __future__ import annotations

import copy
import math
from collections.abc import Sequence
from typing import Self

import torch
from torch import Tensor, nn

from sharpness.errors import InputError
from sharpness.loss.flat_network import FlatNetwork
from sharpness.vectors import norm


class PenalisedNetwork(FlatNetwork):
    """A network of one flat vector with the penalty ``(mu / 2) |w|^2``, mu being ``weight_decay``.

    The penalty is over the parameters that w consisted of when this was made: where
    :meth:`~sharpness.loss.flat_network.FlatNetwork.restricted` holds some of them fixed, theirs stays as a constant.
    Raises :class:`InputError` for a ``weight_decay`` that is not a number of at least 0.

    >>> network = PenalisedNetwork(nn.Linear(2, 1), None, "frozen", torch.float32, 0.5)
    >>> network.penalty(torch.tensor([3.0, 4.0, 0.0]))
    6.25
    """

    def __init__(
        self, model: nn.Module, selection: Sequence[str] | None, norm: str, dtype: torch.dtype, weight_decay: float
    ) -> None:
        super().__init__(model, selection, norm, dtype)
        self.weight_decay = checked_weight_decay(weight_decay)
        self._penalised = frozenset(self.layout.names)

    def penalty(self, w: Tensor) -> float:
        """Return the penalty at ``w``, accumulated in float64."""
        if not self.weight_decay:
            return 0.0
        held = [tensor for name, tensor in self._fixed.items() if name in self._penalised]
        return self.weight_decay / 2 * sum(norm(tensor) ** 2 for tensor in (self.point(w), *held))

    def with_weight_decay(self, weight_decay: float) -> Self:
        """Return the same loss with another penalty; 0 leaves that of the data alone.

        >>> network = PenalisedNetwork(nn.Linear(2, 1), None, "frozen", torch.float32, 0.5)
        >>> network.with_weight_decay(0.0).penalty(torch.ones(3))
        0.0
        """
        other = copy.copy(self)
        other.weight_decay = checked_weight_decay(weight_decay)
        return other


def checked_weight_decay(weight_decay: float) -> float:
    """Return a penalty's factor as a number; :class:`InputError` unless it is one, finite and at least 0."""
    if isinstance(weight_decay, bool) or not isinstance(weight_decay, int | float) or not 0 <= weight_decay < math.inf:
        raise InputError(f"expected a weight_decay of at least 0, got {weight_decay!r}: 0 is no penalty")
    return float(weight_decay)
