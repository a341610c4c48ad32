"""Products that several solves ask for: those of the first steps of Lanczos, kept in memory by their vectors."""

from __future__ import annotations

from torch import Tensor

from sharpness.linalg.operators import SymmetricOperator
from sharpness.vectors import sha256_of

NUM_SHARED = 8
"""Products of each solve that are kept: about what the largest eigenvalue takes, and the trace's sketch."""


class SharedProducts:
    """The products of the operators of one loss, by the operator's identity and the bits of the vector.

    A solve takes what an earlier one has made and keeps its own first :data:`NUM_SHARED` products. Since only the very
    same vector of the very same operator is taken, results have the same bits with and without sharing. Products that
    are wrong by a known error, as finite differences are, are not shared: the error would have to go with each.

    >>> import torch
    >>> from sharpness.linalg.operators import FunctionOperator
    >>> shared, double = SharedProducts(), FunctionOperator(lambda v: 2 * v, size=3)
    >>> for _ in range(2):
    ...     operator = shared.of(double, "double")
    ...     print(operator.matvec(torch.ones(3)), operator.num_shared)
    tensor([2., 2., 2.]) 0
    tensor([2., 2., 2.]) 1
    """

    def __init__(self) -> None:
        self.kept: dict[tuple[str, str], Tensor] = {}

    def __contains__(self, identity: str) -> bool:
        """Say whether there are products of an operator of this identity."""
        return any(identity == known for known, _ in self.kept)

    def of(self, operator: SymmetricOperator, identity: str) -> SharingOperator:
        """Return an operator with these products, for one solve."""
        return SharingOperator(operator, identity, self)


class SharingOperator:
    """An operator that takes products from others of its identity; ``num_shared`` counts those."""

    def __init__(self, operator: SymmetricOperator, identity: str, shared: SharedProducts) -> None:
        self.operator, self.identity, self.kept = operator, identity, shared.kept
        self.size, self.dtype, self.device = operator.size, operator.dtype, operator.device
        self.num_shared = self._made = 0

    @property
    def error(self) -> float:
        """The operator's own error."""
        return self.operator.error

    def matvec(self, v: Tensor) -> Tensor:
        """Return ``A v``, a new tensor."""
        key = (self.identity, sha256_of([v]))
        self._made += 1
        if (known := self.kept.get(key)) is not None:
            self.num_shared += 1
            return known.clone()
        result = self.operator.matvec(v)
        if self._made <= NUM_SHARED and not self.operator.error:
            self.kept[key] = result.clone()
        return result
