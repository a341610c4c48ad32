"""Eigenvalues with all that is known of them: intervals, vectors and how they came about."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any, Literal, get_args

import numpy as np
from torch import Tensor

from sharpness.errors import InputError, unknown_name
from sharpness.linalg.knobs import check_confidence, check_rtol, check_seconds

Which = Literal["top", "bottom", "both", "magnitude"]
StopOn = Literal["interval", "residual"]
History = list[tuple[int, float, float | None, float | None]]


@dataclass(frozen=True, eq=False, kw_only=True)
class Eigenpairs:
    """Extreme eigenvalues in the order asked for, with the evidence for them."""

    which: str
    eigenvalues: Tensor  # (m,) float64: top descending; bottom ascending; both: one after the other; magnitude by size
    lowers: Tensor | None  # (m,) float64; all intervals hold together with probability `confidence`
    uppers: Tensor | None
    eigenvectors: Tensor | None = field(repr=False)  # (m, n)
    residuals: Tensor  # (m,) float64, bounds or measurements of ||A v - lambda v||
    confidence: float | None  # None where the start was not random
    converged: bool
    stopped_by: str  # "certainty", "num_products", "seconds" or "exhausted": no product can tell more
    num_products: int
    num_restarts: int
    num_starts: int  # random starts used: the first and one for each verification
    defect: float | None  # || Q^T A Q - T ||, see Krylov; None where no basis is kept to measure it
    history: History = field(repr=False)  # (products, Ritz value, lower, upper) of the first eigenvalue asked for
    reasons: dict[str, str]  # why something is None, not converged or only an estimate

    def details(self) -> dict[str, Any]:
        """Return everything but the eigenvectors as plain numbers, strings and lists."""
        plain = {name: value for name, value in vars(self).items() if name != "eigenvectors"}
        plain["history"] = [list(entry) for entry in self.history]
        return {name: value.tolist() if isinstance(value, Tensor) else value for name, value in plain.items()}

    def __str__(self) -> str:
        shown = [self._shown(i) for i in range(min(len(self.eigenvalues), 4))]
        more = f" and {len(self.eigenvalues) - 4} more" if len(self.eigenvalues) > 4 else ""
        sure = f" at {100 * self.confidence:g} %" if self.confidence is not None else ""
        flag = "" if self.converged else ", NOT converged"
        return f"{self.which}: {', '.join(shown)}{more}{sure}, {self.num_products} products{flag}"

    def _shown(self, i: int) -> str:
        value = f"{float(self.eigenvalues[i]):.5g}"
        if self.lowers is None or self.uppers is None:
            return f"{value} +- {float(self.residuals[i]):.1g}"
        return f"{value} in [{float(self.lowers[i]):.5g}, {float(self.uppers[i]):.5g}]"


@dataclass(frozen=True, eq=False)
class Selection:
    """The Ritz values asked for, among m in descending order: their indices, which end each is of, its rank there."""

    indices: np.ndarray  # (w,)
    is_top: np.ndarray  # (w,) bool
    ranks: np.ndarray  # (w,) 0 for the largest or the smallest

    @property
    def num_top(self) -> int:
        """The number that is counted from the top."""
        return int(self.is_top.sum())

    @property
    def num_bottom(self) -> int:
        """The number that is counted from the bottom."""
        return len(self.indices) - self.num_top


def select(values: np.ndarray, which: str, k: int) -> Selection:
    """Return which of the descending ``values`` (m,) are asked for, in the order asked for; fewer where m is small.

    Those of largest magnitude are some of the largest that are not negative and some of the smallest that are.

    >>> select(np.array([3.0, 1.0, -4.0]), "magnitude", 2).indices
    array([2, 0])
    """
    m = len(values)
    if which == "magnitude":
        chosen = values[np.argsort(-np.abs(values), kind="stable")[:k]]
        top = int((chosen >= 0).sum())
        bottom = len(chosen) - top
    else:
        top = {"top": min(k, m), "bottom": 0, "both": min(k, (m + 1) // 2)}[which]
        bottom = {"top": 0, "bottom": min(k, m), "both": min(k, m - top)}[which]
    indices = np.concatenate([np.arange(top), m - 1 - np.arange(bottom)]).astype(int)
    if which == "magnitude":
        indices = indices[np.argsort(-np.abs(values[indices]), kind="stable")]
        is_top = values[indices] >= 0
    else:
        is_top = np.arange(len(indices)) < top
    return Selection(indices, is_top, np.where(is_top, indices, m - 1 - indices))


def finite(x: float) -> float | None:
    """Return a bound as a plain number, and None where there is none.

    >>> finite(1.0), finite(float("inf"))
    (1.0, None)
    """
    return float(x) if np.isfinite(x) else None


def check_knobs(
    size: int, which: str, k: int, rtol: float, confidence: float, num_products: int, seconds: float | None
) -> None:
    """Raise :class:`InputError` for a value that no search can have."""
    if which not in get_args(Which):
        raise unknown_name("end of a spectrum", which, get_args(Which))
    most = size // 2 if which == "both" else size
    if not 1 <= k <= most:
        raise InputError(f"expected k between 1 and {most} for {size} parameters, got {k}: choose another k")
    least = min((2 * k if which == "both" else k) + 1, size)
    if num_products < least:
        raise InputError(f"expected at least {least} products for k={k}, got {num_products}: raise num_products")
    check_rtol(rtol, usual="1e-2")
    check_confidence(confidence, usual="0.99")
    check_seconds(seconds)
