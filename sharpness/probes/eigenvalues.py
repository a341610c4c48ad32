"""Extreme eigenvalues of a curvature matrix, each with an interval."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from torch import Tensor

from sharpness.curvature import CurvatureOperator, FisherOperator, remembering
from sharpness.errors import InputError
from sharpness.linalg.eigenpairs import Eigenpairs, StopOn, Which
from sharpness.linalg.lanczos import extreme_eigenpairs
from sharpness.linalg.operators import SymmetricOperator
from sharpness.linalg.recurrence import largest_eigenvalue
from sharpness.linalg.shared_products import SharedProducts
from sharpness.loss import Loss
from sharpness.machine.progress import Progress
from sharpness.probes.methods.random_parts import CONFIDENCE, FEWEST_DRAWS, no_spread, over_draws, over_examples
from sharpness.probes.methods.spectra import CurvatureProbe, basis_limit, curvature_details, first_of
from sharpness.results import MERGED, ProbeResult, few

MOST_SHOWN = 4
MOST_ERROR = 0.05  # by the choice of examples that goes without a warning


@dataclass(frozen=True, kw_only=True)
class EigenvaluesResult(ProbeResult):
    """The wanted eigenvalues; ``value``, ``lower``, ``upper`` and ``residual`` are of the first one."""

    pairs: Eigenpairs = field(repr=False, metadata=MERGED)
    draws: Mapping[str, Any] | None = field(default=None, repr=False)
    operator_details: Mapping[str, Any] = field(repr=False, metadata=MERGED)

    @property
    def eigenvalues(self) -> Tensor:
        """The eigenvalues in the order asked for, shape (m,), float64."""
        return self.pairs.eigenvalues

    @property
    def eigenvectors(self) -> Tensor | None:
        """Unit vectors, shape (m, n); ``None`` from the basis-free recurrence."""
        return self.pairs.eigenvectors

    @property
    def residuals(self) -> Tensor:
        """``|| A v - lambda v ||`` of each, shape (m,)."""
        return self.pairs.residuals

    def __str__(self) -> str:
        values, lowers, uppers = self.eigenvalues, self.pairs.lowers, self.pairs.uppers
        shown = [f"{float(value):.5g}" for value in values[:MOST_SHOWN]]
        if lowers is not None and uppers is not None:
            bounds = [(self.lower, self.upper), *zip(lowers[1:MOST_SHOWN], uppers[1:MOST_SHOWN], strict=True)]
            shown = [f"{v} in [{a:.5g}, {b:.5g}]" for v, (a, b) in zip(shown, bounds, strict=True)]
        sure = f" at {100 * self.confidence:g} %" if self.confidence is not None else ""
        more = f" and {len(values) - MOST_SHOWN} more" if len(values) > MOST_SHOWN else ""
        backend = "" if self.hvp_backend == "exact" else f", {self.hvp_backend}"
        residual = float(self.residuals.max())
        return (
            f"{', '.join(shown)}{more}{sure}, residual {residual:.1g}, {self.num_hvps} HVPs{backend}, "
            f"{self.seconds:.1f} s{'' if self.converged else ', NOT converged'}"
        )


@dataclass(frozen=True, kw_only=True)
class TopEigenvalues(CurvatureProbe[EigenvaluesResult]):
    """The k extreme eigenvalues of the Hessian (or another curvature matrix) by Lanczos, with two-sided intervals.

    ``which`` is ``top`` (the k largest), ``bottom`` (the k smallest), ``both`` (k at each end) or ``magnitude`` (the k
    largest by absolute value); multiple eigenvalues come out as often as they occur. It stops when every interval is
    narrower than ``rtol`` times its eigenvalue; the intervals hold together with probability ``confidence`` over the
    random starts (:func:`sharpness.linalg.lanczos.extreme_eigenpairs`). ``stop_on="residual"`` stops on residuals of
    ``rtol`` instead. ``num_hvps`` is the ceiling, reached as ``converged=False``. The interval is of the matrix as
    computed in the loss's dtype, widened by the measured defect of that computation and, with finite differences, by
    their estimated error.

    ``max_basis`` bounds the vectors that are kept (``auto``: what fits in 0.4 of the free memory); the iteration
    restarts at that many. ``basis_free`` keeps three vectors instead and gives one eigenvalue with its interval only.

    >>> import torch
    >>> batch = (torch.tensor([[3.0, 4.0]]), torch.tensor([[0.0]]))
    >>> loss = Loss(torch.nn.Linear(2, 1, bias=False), torch.nn.functional.mse_loss, [batch])
    >>> round(TopEigenvalues()(loss).value, 3)             # 2 |x|^2
    50.0
    """

    name = "eigenvalues"

    k: int = 1
    which: Which = "top"
    rtol: float = 1e-2
    confidence: float = 0.99
    stop_on: StopOn = "interval"
    num_hvps: int = 100
    max_basis: int | str = "auto"
    basis_free: bool = False

    def measure(
        self,
        loss: Loss,
        w: Tensor,
        *,
        start: Tensor | None = None,
        sampled: bool = False,
        sampling_confidence: float = CONFIDENCE,
        resume: Path | None = None,
        shared: SharedProducts | None = None,
        progress: Progress | None = None,
    ) -> EigenvaluesResult:
        """Measure at ``w``; raises what the solver raises.

        ``start`` (shape (n,) or (m, n)) is a warm start, as for tracking along training: no upper bound is proven then.
        ``sampled`` says that the examples are a random sample: the result then has an interval over their choice at
        ``sampling_confidence``, for about as many products again. ``resume`` is a folder for the products: a solve that
        was killed goes on there. ``shared`` are products of other solves of this loss.
        """
        operator = self.operator(loss, w)
        product = remembering(operator, resume, shared)
        pairs = self._solve(operator, product, start, progress)
        fields = first_of(pairs)
        if isinstance(operator, FisherOperator) and operator.draws is not None:
            fields |= self._over_draws(operator, pairs, fields)
        if sampled:
            fields |= self._over_examples(loss, w, pairs, fields, sampling_confidence)
        return EigenvaluesResult(
            quantity=self.quantity(f"{self.which}_eigenvalue"),
            **fields,
            seed=self.seed,
            hvp_backend=operator.backend,
            operator_details=curvature_details(operator, product),
        )

    def of_few_examples(self, loss: Loss, result: EigenvaluesResult) -> tuple[str, ...]:
        """Return what to say where another choice of examples would move the largest eigenvalue by 5 % or more.

        For means of N independent matrices with the effective rank ``r = tr A / lambda`` the relative error is of the
        order ``sqrt(r / N) + r / N`` (Koltchinskii and Lounici 2017). The first product from a random start v has given
        ``v^T A v``, of mean ``tr A / n``.
        """
        pairs, number = result.pairs, loss.num_examples
        if self.which != "top" or pairs.confidence is None or not result.value or result.value <= 0:
            return super().of_few_examples(loss, result)
        rank = max(loss.layout.size * pairs.history[0][1] / result.value, 1.0)
        error = math.sqrt(rank / number) + rank / number
        if error < MOST_ERROR:
            return ()
        return (
            f"{few(number)} for an effective rank of about {rank:.1g}: over others of the same kind the largest "
            f"eigenvalue differs by about {min(error, 1):.0%}, and with few it is too large on average",
        )

    def _solve(
        self,
        operator: CurvatureOperator,
        product: SymmetricOperator,
        start: Tensor | None,
        progress: Progress | None,
    ) -> Eigenpairs:
        drawn = isinstance(operator, FisherOperator) and operator.draws is not None
        stop: dict[str, Any] = {
            "rtol": self.rtol,
            "confidence": (1 + self.confidence) / 2 if drawn else self.confidence,  # half of the error is for the draws
            "num_products": self.num_hvps,
            "seconds": self.seconds,
            "seed": self.seed,
            "progress": progress,
        }
        if not self.basis_free:
            most = self._most_vectors(operator)
            options: dict[str, Any] = {"which": self.which, "stop_on": self.stop_on, "start": start, "max_basis": most}
            return extreme_eigenpairs(product, self.k, **options, **stop)
        if self.k != 1 or start is not None or self.stop_on != "interval" or self.which not in ("top", "bottom"):
            raise InputError("expected k=1, a random start and stop_on='interval' for basis_free: it proves one end")
        return largest_eigenvalue(product, which=self.which, **stop)

    def _first(self, pairs: Eigenpairs) -> tuple[Tensor, float] | str:
        """Return vector and outer bound of the first eigenvalue, or why an interval by splitting cannot have them."""
        if self.which == "magnitude":
            return "the eigenvalue of largest magnitude may be at either end: ask for 'top' and 'bottom'"
        bounds = pairs.lowers if self.which == "bottom" else pairs.uppers
        if pairs.eigenvectors is None or bounds is None:
            return f"it needs {'an eigenvector' if pairs.eigenvectors is None else 'an outer bound'}, and there is none"
        return pairs.eigenvectors[0], float(bounds[0])

    def _over_draws(self, operator: FisherOperator, pairs: Eigenpairs, shared: Mapping[str, Any]) -> dict[str, Any]:
        """Return the fields of the first eigenvalue with the error of the draws in its interval."""
        first = self._first(pairs) if (operator.draws or 0) >= FEWEST_DRAWS else f"{FEWEST_DRAWS} draws are the least"
        if isinstance(first, str):
            drawn = operator.facts["targets"]
            return {"warnings": (f"the matrix is of {drawn} of the targets, whose error no interval has: {first}",)}
        spread = over_draws(operator, *first, **self._spread_options((1 + self.confidence) / 2))
        lower, upper = max(min(shared["lower"], spread.lower), 0.0), max(shared["upper"], spread.upper)  # F >= 0
        narrow = upper - lower <= self.rtol * abs(shared["value"])
        wide = {} if narrow else {"converged": f"the draws leave an interval of {upper - lower:.3g}: raise draws"}
        return {
            "lower": lower,
            "upper": upper,
            "confidence": self.confidence,
            "converged": shared["converged"] and narrow,
            "num_hvps": shared["num_hvps"] + spread.num_hvps,
            "reasons": {**wide, **shared["reasons"]},
            "draws": asdict(spread),
        }

    def _over_examples(
        self, loss: Loss, w: Tensor, pairs: Eigenpairs, shared: Mapping[str, Any], confidence: float
    ) -> dict[str, Any]:
        """Return the interval of the first eigenvalue over the choice of examples, or why there is none."""
        first = no_spread(loss) or self._first(pairs)
        if isinstance(first, str):
            return {"reasons": {**shared["reasons"], "sampling": first}}
        spread = over_examples(loss, w, self.matrix_options(), *first, **self._spread_options(confidence))
        return {"num_hvps": shared["num_hvps"] + spread.num_hvps, "sampling": asdict(spread)}

    def _spread_options(self, confidence: float) -> dict[str, Any]:
        sign = -1.0 if self.which == "bottom" else 1.0
        return {"sign": sign, "confidence": confidence, "num_hvps": self.num_hvps, "seed": self.seed}

    def _most_vectors(self, operator: CurvatureOperator) -> int:
        """Return how many vectors may be kept; below the least, restarts would be too frequent to converge."""
        if self.max_basis == "auto":
            return basis_limit(operator, self.num_hvps, least=5 + self.k * (2 if self.which == "both" else 1))
        if isinstance(self.max_basis, str):
            raise InputError(f"expected a max_basis of 'auto' or a number of vectors, got {self.max_basis!r}")
        return self.max_basis
