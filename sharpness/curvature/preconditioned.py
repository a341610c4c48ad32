"""The Hessian as Adam sees it: ``P^-1/2 H P^-1/2``, Adam's diagonal P, and the eigenvalue at its edge of stability."""

from __future__ import annotations

from torch import Tensor

from sharpness.curvature.kept_graphs import CurvatureOperator
from sharpness.errors import InputError


class Preconditioned:
    """``P^-1/2 A P^-1/2`` of a curvature operator A for a positive diagonal P, as an operator.

    An infinite entry of P takes a coordinate out.
    """

    def __init__(self, operator: CurvatureOperator, p: Tensor) -> None:
        self.operator, self.scale = operator, p.rsqrt()
        self.size, self.dtype, self.device = operator.size, operator.dtype, operator.device

    @property
    def error(self) -> float:
        """The error of A times the largest entry of ``P^-1``."""
        return self.operator.error * float(self.scale.max()) ** 2

    def matvec(self, v: Tensor) -> Tensor:
        """Return ``P^-1/2 A (P^-1/2 v)``."""
        return self.scale * self.operator.matvec(self.scale * v)


def adam_preconditioner(
    second_moment: Tensor, steps: int, *, beta1: float = 0.9, beta2: float = 0.999, eps: float = 1e-8
) -> Tensor:
    """Return the diagonal of Adam's P after ``steps`` steps, from its ``exp_avg_sq`` as one flat vector.

    ``P = (1 - beta1^t) (sqrt(v / (1 - beta2^t)) + eps)``: with it the step is ``eta P^-1 m``, m the raw first moment
    (Cohen et al. 2022). Raises :class:`InputError` for fewer than one step.

    >>> import torch
    >>> adam_preconditioner(torch.tensor([0.001 * 9.0]), 1)       # after the first gradient, 3
    tensor([0.3000])
    """
    if steps < 1:
        raise InputError(f"expected at least 1 step of the optimizer, got {steps}: there is no state before the first")
    return (1 - beta1**steps) * ((second_moment / (1 - beta2**steps)).sqrt() + eps)
