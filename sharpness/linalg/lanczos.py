"""Extreme eigenpairs of a symmetric operator by restarted Lanczos with an interval for every eigenvalue."""

from __future__ import annotations

import time

import numpy as np
import torch
from torch import Tensor

from sharpness.errors import InputError, unknown_name
from sharpness.linalg.basis import product
from sharpness.linalg.eigenpairs import Eigenpairs, History, StopOn, Which, check_knobs
from sharpness.linalg.locking import Knobs, RitzPairs, Search
from sharpness.linalg.sampling import Progress
from sharpness.operators import SymmetricOperator
from sharpness.vectors import norm


def extreme_eigenpairs(
    operator: SymmetricOperator,
    k: int = 1,
    *,
    which: Which = "top",
    rtol: float = 1e-2,
    confidence: float = 0.99,
    stop_on: StopOn = "interval",
    num_products: int = 100,
    max_basis: int | None = None,
    seed: int = 0,
    start: Tensor | None = None,
    seconds: float | None = None,
    progress: Progress | None = None,
) -> Eigenpairs:
    """Return the k largest (``"top"``), smallest, k at each end (``"both"``) or k largest absolute eigenvalues.

    It is Lanczos with full reorthogonalisation from a random start; copies of multiple eigenvalues count. With
    ``stop_on="interval"`` it ends when every interval is narrower than ``rtol |lambda|``; for ``"magnitude"`` no other
    eigenvalue may then be larger than the smallest chosen by more than ``rtol``. The side of an interval towards the
    inside of the spectrum is the Ritz value; the other is proven from the random start, and for k > 1 from further
    random starts beside the vectors found (:class:`sharpness.linalg.locking.Search`). All intervals hold together with
    probability ``confidence``, however often it restarts and whenever it stops. They are of the operator as computed,
    widened by the measured ``defect``, by ``8 eps`` times the size of T for each cycle and by ``operator.error``.

    ``stop_on="residual"`` ends when every ``||A v - lambda v||`` is at most ``rtol |lambda|``; it does not look for
    missed eigenvalues, and the bounds are those of the first run. With a ``start``, shape ``(n,)`` or ``(m, n)`` (the
    sum of its normalised rows is used), nothing is proven beyond the Ritz values and it stops by the residuals.
    Residuals cost no product: ``||A y - theta y|| <= |beta s_mi| + defect``. They are measured where they are what it
    stops on or where ``operator.error > 0``, one product each within ``num_products``.

    At most ``max_basis`` vectors (``None``: as many as products) and two more are alive, or twice the vectors asked for
    where that is more, beside what the operator needs. ``seconds`` is looked at after each product. Raises
    :class:`InputError` for bad knobs or a bad start and :class:`RunError` for products that are not finite.

    >>> from sharpness.operators import FunctionOperator
    >>> diagonal = torch.linspace(0, 1, 500, dtype=torch.float64); diagonal[7:9] = 5.0; diagonal[3] = 4.0
    >>> pairs = extreme_eigenpairs(FunctionOperator(lambda v: diagonal * v, 500, torch.float64), 2)
    >>> pairs.eigenvalues.round(decimals=3).tolist(), pairs.converged, pairs.num_starts
    ([5.0, 5.0], True, 3)
    """
    began = time.perf_counter()
    check_knobs(operator.size, which, k, rtol, confidence, num_products, seconds)
    random, stop_on = start is None, "residual" if start is not None else stop_on
    knobs = Knobs(k, which, rtol, confidence, stop_on, max_basis, seed, random)
    _check_more(operator.size, knobs, num_products)
    search = Search(operator, knobs, None if start is None else _starting_vector(operator, start))
    history: History = []
    while True:
        search.advance()
        pairs = search.pairs()
        best = pairs if search.locked is None or search.exact else search.locked
        lowers, uppers = _intervals(search, best)
        history.append((search.num_products, float(best.values[0]), _finite(lowers[0]), _finite(uppers[0])))
        if progress is not None:
            progress(search.num_products, num_products)
        stopped_by = ""
        if _good(search, best):
            stopped_by = "certainty"
        elif search.num_products + _reserve(search, num_products) >= num_products:
            stopped_by = "num_products"
        elif seconds is not None and time.perf_counter() - began >= seconds:
            stopped_by = "seconds"
        if stopped_by or search.exact:
            return _result(search, best, pairs, stopped_by or "num_products", num_products, history)
        if knobs.verifies and search.settled(pairs) and search.improves(pairs):
            search.lock(pairs)


def _intervals(search: Search, pairs: RitzPairs) -> tuple[np.ndarray, np.ndarray]:
    """Return lower and upper bounds of the eigenvalues of these pairs, infinite where there is none."""
    values, slack = pairs.values, search.slack
    if search.exact:
        return values - slack, values + slack
    top, ranks = pairs.selection.is_top, pairs.selection.ranks
    lowers = np.where(top, values, np.minimum(-search.bottom.bounds[ranks], values)) - slack
    uppers = np.where(top, np.maximum(search.top.bounds[ranks], values), values) + slack
    return lowers, uppers


def _good(search: Search, pairs: RitzPairs) -> bool:
    """Whether these pairs are what was asked for."""
    knobs, sizes = search.knobs, np.abs(pairs.values)
    if len(sizes) < knobs.num_wanted:
        return False
    if search.exact:  # nothing is unknown but what the product itself gets wrong
        return search.defect + search.operator.error <= knobs.rtol * search.scale
    if knobs.stop_on == "residual":
        return bool(np.all(pairs.residuals + search.slack <= knobs.rtol * sizes))
    lowers, uppers = _intervals(search, pairs)
    narrow = bool(np.all(uppers - lowers <= knobs.rtol * sizes))
    if knobs.which == "magnitude" and narrow:
        others = search.top.bounds[pairs.selection.num_top], search.bottom.bounds[pairs.selection.num_bottom]
        return max(others) + search.slack <= (1 + knobs.rtol) * sizes.min()
    return narrow


def _reserve(search: Search, num_products: int) -> int:
    """Return how many products are kept back to measure residuals."""
    measures = search.knobs.stop_on == "residual" or search.operator.error > 0
    return search.knobs.num_wanted if measures and num_products >= 2 * search.knobs.num_wanted else 0


def _result(
    search: Search, best: RitzPairs, pairs: RitzPairs, stopped_by: str, num_products: int, history: History
) -> Eigenpairs:
    """Form the Ritz vectors in the memory of the basis, measure what is to be measured and say what is known."""
    knobs, good = search.knobs, stopped_by == "certainty"
    if best is not search.locked or (not good and search.improves(pairs)):
        best = pairs
    lowers, uppers = _intervals(search, best)
    defect, residuals, made = search.defect, best.residuals + search.slack, search.num_products
    if best is not search.locked:
        search.gather(best)
    vectors = torch.stack(search.vectors)
    search.vectors.clear()
    if _reserve(search, num_products):
        residuals = np.array([_residual(search, v, x, made) for v, x in zip(vectors, best.values, strict=True)])
        made += len(residuals)
        if knobs.stop_on == "residual":
            good = good and bool(np.all(residuals <= knobs.rtol * np.abs(best.values)))
    reasons = {} if good else {"converged": _shortfall(search, best, lowers, uppers, residuals)}
    if not knobs.random:
        reasons["confidence"] = "the start was given, not random"
    known = [bool(np.all(np.isfinite(x))) for x in (lowers, uppers)]
    for name, finite in zip(("lowers", "uppers"), known, strict=True):
        if not finite:
            reasons[name] = reasons.get("confidence", "no bound yet")
    return Eigenpairs(
        which=knobs.which,
        eigenvalues=torch.from_numpy(best.values.copy()),
        lowers=torch.from_numpy(lowers) if known[0] else None,
        uppers=torch.from_numpy(uppers) if known[1] else None,
        eigenvectors=vectors,
        residuals=torch.from_numpy(residuals),
        confidence=knobs.confidence if knobs.random else None,
        converged=good,
        stopped_by=stopped_by,
        num_products=made,
        num_restarts=search.num_restarts,
        num_starts=search.num_starts,
        defect=defect,
        history=history,
        reasons=reasons,
    )


def _shortfall(search: Search, best: RitzPairs, lowers: np.ndarray, uppers: np.ndarray, residuals: np.ndarray) -> str:
    """Say what is wider than was asked for."""
    if len(best.values) < search.knobs.num_wanted:
        return f"{search.num_products} products give {len(best.values)} of the {search.knobs.num_wanted} eigenvalues"
    widths = residuals if search.knobs.stop_on == "residual" else uppers - lowers
    what = "residual" if search.knobs.stop_on == "residual" else "interval"
    widest = int(np.argmax(widths - search.knobs.rtol * np.abs(best.values)))
    return f"the {what} of eigenvalue {widest + 1} is {widths[widest]:.3g}, the eigenvalue {best.values[widest]:.3g}"


def _residual(search: Search, v: Tensor, value: float, made: int) -> float:
    """Return ``||A v - value v||`` by one product."""
    result, _ = product(search.operator, v, made + 1)
    return norm(result.sub_(v, alpha=float(value)))


def _finite(x: float) -> float | None:
    return float(x) if np.isfinite(x) else None


def _starting_vector(operator: SymmetricOperator, start: Tensor) -> Tensor:
    """Return the sum of the normalised rows in the operator's dtype; a vector of its own."""
    rows = start.detach().reshape(-1, start.shape[-1]) if start.ndim in (1, 2) else start
    if rows.ndim != 2 or rows.shape[1] != operator.size or not len(rows):
        raise InputError(
            f"expected a start of shape ({operator.size},) or (m, {operator.size}), got {tuple(start.shape)}: "
            "use vectors of this operator"
        )
    total = torch.zeros(operator.size, dtype=operator.dtype, device=operator.device)
    for row in rows:
        length = norm(row)
        if not 0 < length < float("inf"):
            raise InputError(f"expected a start of finite rows, none of them zero, got the length {length}: replace it")
        total.add_(row.to(total.dtype).to(total.device), alpha=1 / length)
    if norm(total) == 0:
        raise InputError("expected a start whose normalised rows have a sum, got zero: leave out one of them")
    return total


def _check_more(size: int, knobs: Knobs, num_products: int) -> None:
    if knobs.stop_on not in ("interval", "residual"):
        raise unknown_name("criterion to stop on", knobs.stop_on, ("interval", "residual"))
    least = 2 * knobs.num_wanted
    if knobs.stop_on == "residual" and num_products < least:
        raise InputError(f"expected at least {least} products to measure residuals, got {num_products}: raise it")
    needed = min(knobs.num_wanted + 3, size)
    if knobs.max_basis is not None and knobs.max_basis < needed:
        raise InputError(f"expected max_basis of at least {needed}, got {knobs.max_basis}: raise it")
