"""The largest eigenvalue by the three-term recurrence: three vectors alive, whatever the number of products."""

from __future__ import annotations

import math
import time
from dataclasses import dataclass, field
from typing import Literal

import numpy as np
import torch
from scipy.linalg import eigh_tridiagonal, eigvalsh_tridiagonal
from torch import Tensor

from sharpness.errors import unknown_name
from sharpness.linalg.basis import Products, orthogonalise, random_direction
from sharpness.linalg.certificates import Polynomials, share_of_attempt, upper_bound
from sharpness.linalg.eigenpairs import Eigenpairs, History, check_knobs, finite
from sharpness.linalg.operators import SymmetricOperator
from sharpness.machine.environment import derived_seed
from sharpness.machine.progress import Progress
from sharpness.vectors import norm


@dataclass
class _Recurrence:
    """``A q_j = beta_{j-1} q_{j-1} + alpha_j q_j + beta_j q_{j+1}``, of which only the last two q are kept."""

    products: Products
    vector: Tensor
    previous: Tensor | None = None
    alphas: list[float] = field(default_factory=list)
    betas: list[float] = field(default_factory=list)
    scale: float = 0.0

    def step(self) -> None:
        """Make one product; the last vector is subtracted twice, so that alpha has no rounding of a sum over n."""
        residual, _ = self.products(self.vector)
        if self.previous is not None:
            residual.sub_(self.previous, alpha=self.betas[-1])
        self.previous = None
        alpha = float(orthogonalise(residual, [self.vector])[0])
        beta = norm(residual)
        self.previous, self.vector = self.vector, residual
        self.alphas.append(alpha)
        self.betas.append(beta)
        self.scale = max(self.scale, abs(alpha), beta)
        if beta:
            self.vector.div_(beta)

    @property
    def invariant(self) -> bool:
        """Return whether the last residual is nothing but rounding, so that the recurrence ends."""
        return self.betas[-1] <= 10 * torch.finfo(self.vector.dtype).eps * self.scale

    def polynomials(self) -> Polynomials:
        """Return the roots of the last polynomial, all that is known to be of a unit vector."""
        values = np.asarray(eigvalsh_tridiagonal(self.alphas, self.betas[:-1]))
        with np.errstate(divide="ignore"):
            return Polynomials(values, None, float(np.log(self.betas).sum()))

    def residual(self, top: bool) -> float:
        """Return the estimate ``beta |s_m|`` for the outermost Ritz pair."""
        index = len(self.alphas) - 1 if top else 0
        _, vectors = eigh_tridiagonal(self.alphas, self.betas[:-1], select="i", select_range=(index, index))
        return float(abs(self.betas[-1] * vectors[-1, 0]))


def largest_eigenvalue(
    operator: SymmetricOperator,
    *,
    which: Literal["top", "bottom"] = "top",
    rtol: float = 1e-2,
    confidence: float = 0.99,
    num_products: int = 100,
    seed: int = 0,
    seconds: float | None = None,
    progress: Progress | None = None,
) -> Eigenpairs:
    """Return the largest (``"top"``) or smallest eigenvalue with its interval and without its vector, in three vectors.

    Lanczos without reorthogonalisation. The last Lanczos polynomial alone bounds the eigenvalue, ``|gamma p_k(lambda)|
    = |<q_{k+1}, u>| <= 1`` (:func:`upper_bound` with ``couplings=None``), which uses the recurrence and the length of
    q_{k+1} but no orthogonality; the smallest bound over all k counts. The other side is the Ritz value, which stays
    inside the spectrum up to rounding even after orthogonality is lost and Ritz values come in copies (Paige, Linear
    Algebra Appl. 34, 1980): it is lost only towards converged Ritz vectors, when the interval has long closed. Both are
    widened by ``operator.error`` and by ``(8 + k) eps`` times the size of T: that is above the rounding as measured (40
    eps after 250 steps in float32), though Paige's worst case grows faster. Asymmetry of the product is not seen here.

    It stops when the interval is narrower than ``rtol |lambda|``, and where the Krylov space is invariant up to
    rounding (``stopped_by="exhausted"`` if the interval is wider then). A Ritz value beyond a bound refutes the start:
    it begins again from another one while the products allow (:func:`sharpness.linalg.certificates.share_of_attempt`),
    else nothing is proven on that side (``None``). Raises :class:`InputError` for bad knobs and
    :class:`RunError` for products that are not finite.

    >>> from sharpness.linalg.operators import FunctionOperator
    >>> diagonal = torch.linspace(0, 1, 5000); diagonal[7] = 5.0
    >>> found = largest_eigenvalue(FunctionOperator(lambda v: diagonal * v, 5000))
    >>> float(found.lowers[0]) < 5.0 < float(found.uppers[0]), found.eigenvectors
    (True, None)
    """
    began = time.perf_counter()
    if which not in ("top", "bottom"):
        raise unknown_name("end of a spectrum", which, ("top", "bottom"))
    check_knobs(operator.size, which, 1, rtol, confidence, num_products, seconds)
    history: History = []
    attempt, seen, sign = _Attempt(operator, which, confidence, seed, 1), -math.inf, 1.0 if which == "top" else -1.0
    while True:
        own, slack = attempt.step(seen)
        seen = value = max(seen, own)
        width = attempt.beyond - value + 2 * slack
        lower, upper = sorted((sign * (value - slack), sign * (value - slack + width)))
        made = len(history) + 1
        history.append((made, sign * value, finite(lower), finite(upper)))
        if progress is not None:
            progress(made, num_products)
        late = seconds is not None and time.perf_counter() - began >= seconds
        again = attempt.refuted and num_products - made >= len(attempt.run.alphas) and not late
        checks = {"certainty": width <= rtol * abs(value), "exhausted": attempt.run.invariant and not again}
        checks |= {"num_products": made >= num_products, "seconds": late}
        if any(checks.values()):
            stopped_by = next(name for name, stops in checks.items() if stops)
            return _eigenpair(which, attempt, history, confidence, stopped_by, slack)
        if again:
            attempt = _Attempt(operator, which, confidence, seed, attempt.number + 1)


class _Attempt:
    """A recurrence from a random start of its own, and the least bound that it proved with its share of the error."""

    def __init__(self, operator: SymmetricOperator, which: str, confidence: float, seed: int, number: int) -> None:
        start = random_direction(operator, derived_seed(seed, "lanczos", "start", number - 1), [])
        self.run, self.which, self.number = _Recurrence(Products(operator), start), which, number
        self.operator, self.level = operator, (1 - confidence) * share_of_attempt(number)
        self.beyond, self.refuted = math.inf, False

    def step(self, seen: float) -> tuple[float, float]:
        """Make a product; return the outermost Ritz value, seen from its end, and the slack of rounding.

        ``seen`` is that of earlier attempts: it, or one of this attempt, beyond a bound says that the start was one of
        the unlucky, with which no bound holds.
        """
        self.run.step()
        polynomials = self.run.polynomials()
        polynomials = polynomials if self.which == "top" else polynomials.mirrored()
        value = polynomials.largest_root
        slack = (8 + len(self.run.alphas)) * torch.finfo(self.operator.dtype).eps * self.run.scale + self.operator.error
        bound = upper_bound(polynomials, self.operator.size, self.level)
        self.refuted |= value > self.beyond + slack or seen > min(self.beyond, bound) + slack
        self.beyond = math.inf if self.refuted else min(self.beyond, bound)
        return value, slack


def _eigenpair(
    which: str, attempt: _Attempt, history: History, confidence: float, stopped_by: str, slack: float
) -> Eigenpairs:
    made, value, lower, upper = history[-1]
    reasons = {
        "eigenvectors": "no basis is kept to form one from",
        "defect": "no basis is kept to measure it in",
        "residuals": "an estimate from the recurrence, not measured",
    }
    if stopped_by != "certainty":
        exhausted = "no product tells more, for the Krylov space is invariant up to rounding"
        why = exhausted if stopped_by == "exhausted" else f"stopped by {stopped_by}"
        wide = (
            f"the interval is {upper - lower:.3g}" if lower is not None and upper is not None else "there is no bound"
        )
        reasons["converged"] = f"{why}: {wide}, the eigenvalue {value:.3g}"
    for name, bound in (("lowers", lower), ("uppers", upper)):
        if bound is None:
            reasons[name] = "a Ritz value refuted what this start had proven"
    return Eigenpairs(
        which=which,
        eigenvalues=torch.tensor([value], dtype=torch.float64),
        lowers=None if lower is None else torch.tensor([lower], dtype=torch.float64),
        uppers=None if upper is None else torch.tensor([upper], dtype=torch.float64),
        eigenvectors=None,
        residuals=torch.tensor([attempt.run.residual(which == "top") + slack], dtype=torch.float64),
        confidence=confidence,
        converged=stopped_by == "certainty",
        stopped_by=stopped_by,
        num_products=made,
        num_restarts=0,
        num_starts=attempt.number,
        defect=None,
        history=history,
        reasons=reasons,
    )
