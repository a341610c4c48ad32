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
from sharpness.linalg.certificates import Polynomials, upper_bound
from sharpness.linalg.eigenpairs import Eigenpairs, History, check_knobs, finite
from sharpness.machine.environment import derived_seed
from sharpness.machine.progress import Progress
from sharpness.operators import SymmetricOperator
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
    nothing is proven on that side (``None``). Raises :class:`InputError` for bad knobs and
    :class:`RunError` for products that are not finite.

    >>> from sharpness.operators import FunctionOperator
    >>> diagonal = torch.linspace(0, 1, 5000); diagonal[7] = 5.0
    >>> found = largest_eigenvalue(FunctionOperator(lambda v: diagonal * v, 5000))
    >>> float(found.lowers[0]) < 5.0 < float(found.uppers[0]), found.eigenvectors
    (True, None)
    """
    began = time.perf_counter()
    if which not in ("top", "bottom"):
        raise unknown_name("end of a spectrum", which, ("top", "bottom"))
    check_knobs(operator.size, which, 1, rtol, confidence, num_products, seconds)
    start = random_direction(operator, derived_seed(seed, "lanczos", "start", 0), [])
    run, beyond, sign = _Recurrence(Products(operator), start), math.inf, 1.0 if which == "top" else -1.0
    del start
    history: History = []
    refuted = False
    while True:
        run.step()
        made, polynomials = len(run.alphas), run.polynomials()
        polynomials = polynomials if which == "top" else polynomials.mirrored()
        slack = (8 + made) * torch.finfo(operator.dtype).eps * run.scale + operator.error
        # A Ritz value beyond a bound says that the start was one of the unlucky, with which no bound holds.
        refuted = refuted or polynomials.largest_root > beyond + slack
        beyond = math.inf if refuted else min(beyond, upper_bound(polynomials, operator.size, 1 - confidence))
        value, width = polynomials.largest_root, beyond - polynomials.largest_root + 2 * slack
        lower, upper = sorted((sign * (value - slack), sign * (value - slack + width)))
        history.append((made, sign * value, finite(lower), finite(upper)))
        if progress is not None:
            progress(made, num_products)
        late = seconds is not None and time.perf_counter() - began >= seconds
        checks = {"certainty": width <= rtol * abs(value), "exhausted": run.invariant}
        checks |= {"num_products": made >= num_products, "seconds": late}
        if any(checks.values()):
            stopped_by = next(name for name, stops in checks.items() if stops)
            return _eigenpair(which, run, history, confidence, stopped_by, slack)


def _eigenpair(
    which: str, run: _Recurrence, history: History, confidence: float, stopped_by: str, slack: float
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
        residuals=torch.tensor([run.residual(which == "top") + slack], dtype=torch.float64),
        confidence=confidence,
        converged=stopped_by == "certainty",
        stopped_by=stopped_by,
        num_products=made,
        num_restarts=0,
        num_starts=1,
        defect=None,
        history=history,
        reasons=reasons,
    )
