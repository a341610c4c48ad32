"""The frame of the probes of a curvature matrix: the choice of the matrix, and its memory."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from torch import Tensor

from sharpness.curvature import CurvatureOperator, curvature_operator
from sharpness.errors import InputError
from sharpness.linalg.eigenpairs import Eigenpairs
from sharpness.linalg.operators import SymmetricOperator
from sharpness.linalg.replay import Replayed
from sharpness.linalg.shared_products import SharingOperator
from sharpness.loss import Loss
from sharpness.machine.distributed import from_all_ranks, is_distributed
from sharpness.machine.memory import free_memory
from sharpness.results import Probe, Result

BASIS_SHARE = 0.4  # of the free memory that basis vectors may take, beside the half that kept graphs may take


@dataclass(frozen=True, kw_only=True)
class CurvatureProbe(Probe[Result]):
    """The knobs that all probes of a curvature matrix have.

    ``matrix`` is one of ``hessian``, ``gauss_newton``, ``fisher``, ``empirical_fisher``
    (:data:`sharpness.curvature.MATRICES`); ``cache`` is the memory for kept graphs in bytes, or ``auto``;
    ``backend`` is ``auto``, ``exact``, ``compiled`` (the Hessian alone) or ``finite_difference``; ``seconds`` bounds
    the time of the solve. ``draws`` is the number of draws of the targets for ``fisher``; without it the matrix is
    exact where it can be (:class:`sharpness.curvature.FisherOperator`).
    """

    matrix: str = "hessian"
    cache: int | str = "auto"
    backend: str = "auto"
    seconds: float | None = None
    seed: int = 0
    draws: int | None = None

    def operator(self, loss: Loss, w: Tensor | None) -> CurvatureOperator:
        """Return the matrix at ``w`` as an operator; :class:`InputError` for knobs that do not go together."""
        self.check_seconds()
        if self.draws is not None and self.matrix != "fisher":
            raise InputError(f"expected no draws for {self.matrix}, got {self.draws}: only matrix='fisher' has them")
        return curvature_operator(loss=loss, w=w, **self.matrix_options())

    def matrix_options(self) -> dict[str, Any]:
        """Return the knobs of the matrix, as :func:`sharpness.curvature.curvature_operator` takes them."""
        drawn = {"seed": self.seed, "draws": self.draws} if self.matrix == "fisher" else {}
        return {"matrix": self.matrix, "cache": self.cache, "backend": self.backend, **drawn}

    def check_seconds(self) -> None:
        """Raise :class:`InputError` for a bound in seconds that cannot be kept."""
        if self.seconds is not None and not self.seconds > 0:
            raise InputError(f"expected a positive number of seconds, got {self.seconds}: leave it out for no bound")
        if self.seconds is not None and is_distributed():
            raise InputError("expected no bound in seconds with several processes, whose clocks differ: use num_hvps")

    def quantity(self, name: str) -> str:
        """Return the name of what is measured, with the matrix where it is not the Hessian."""
        return name if self.matrix == "hessian" else f"{self.matrix}_{name}"


def basis_limit(operator: SymmetricOperator, num_products: int, least: int = 0) -> int:
    """Return how many vectors fit in the memory that a basis may take, on every process; at least ``least``."""
    fitting = int(BASIS_SHARE * free_memory(operator.device)) // (operator.size * operator.dtype.itemsize)
    return max(min(num_products, *from_all_ranks(fitting)), least)


def first_of(pairs: Eigenpairs) -> dict[str, Any]:
    """Return the fields of a result that is of the first of these eigenvalues."""
    singular = {"lowers": "lower", "uppers": "upper", "residuals": "residual"}
    return {
        "value": float(pairs.eigenvalues[0]),
        "lower": None if pairs.lowers is None else float(pairs.lowers[0]),
        "upper": None if pairs.uppers is None else float(pairs.uppers[0]),
        "confidence": pairs.confidence,
        "residual": float(pairs.residuals[0]),
        "converged": pairs.converged,
        "num_hvps": pairs.num_products,
        "reasons": {singular.get(name, name): reason for name, reason in pairs.reasons.items()},
        "pairs": pairs,
    }


def curvature_details(operator: CurvatureOperator, product: SymmetricOperator | None = None) -> dict[str, Any]:
    """Return what every record of a curvature matrix says about it and its products.

    ``product`` is the operator as the solver had it: where it shares products, those taken from others are counted.
    """
    details = {"matrix": operator.matrix, "hvp_error": operator.error, "kept_bytes": operator.kept_bytes}
    sharing = product.operator if isinstance(product, Replayed) else product
    shared = {"num_shared_hvps": sharing.num_shared} if isinstance(sharing, SharingOperator) else {}
    warnings = {"warnings": list(operator.warnings)} if operator.warnings else {}
    return details | operator.facts | shared | warnings
