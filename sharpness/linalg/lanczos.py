"""Extreme eigenpairs of a symmetric operator by restarted Lanczos with an interval for every eigenvalue."""

from __future__ import annotations

import time

import numpy as np
import torch
from torch import Tensor

from sharpness.errors import InputError, unknown_name
from sharpness.linalg.basis import Products
from sharpness.linalg.eigenpairs import Eigenpairs, History, StopOn, Which, check_knobs, finite
from sharpness.linalg.locking import EigenpairSearch, RitzPairs, SolverKnobs
from sharpness.linalg.operators import SymmetricOperator
from sharpness.machine.progress import Progress
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

    Lanczos with full reorthogonalisation from a random start; copies of multiple eigenvalues count. With
    ``stop_on="interval"`` it ends when every interval is narrower than ``rtol |lambda|``, with ``"residual"`` when
    every ``||A v - lambda v||`` is at most that. The side of an interval towards the inside of the spectrum is the Ritz
    value, the other is proven from the random start, for k > 1 from further starts beside the vectors found
    (:class:`sharpness.linalg.locking.EigenpairSearch`); all hold together with probability ``confidence``. A
    ``start``, shape ``(n,)`` or ``(m, n)``, proves nothing beyond the Ritz values (``docs/numbers.md``).

    At most ``max_basis`` vectors (``None``: as many as products) and two more are alive, or twice the vectors asked for
    where that is more, beside what the operator needs. ``seconds`` is looked at after each product. Raises
    :class:`InputError` for bad knobs or a bad start and :class:`RunError` for products that are not finite.

    >>> from sharpness.linalg.operators import FunctionOperator
    >>> diagonal = torch.linspace(0, 1, 500, dtype=torch.float64); diagonal[7:9] = 5.0; diagonal[3] = 4.0
    >>> pairs = extreme_eigenpairs(FunctionOperator(lambda v: diagonal * v, 500, torch.float64), 2)
    >>> pairs.eigenvalues.round(decimals=3).tolist(), pairs.converged, pairs.num_starts
    ([5.0, 5.0], True, 3)
    """
    began = time.perf_counter()
    check_knobs(operator.size, which, k, rtol, confidence, num_products, seconds)
    random, stop_on = start is None, "residual" if start is not None else stop_on
    knobs = SolverKnobs(k, which, rtol, confidence, stop_on, max_basis, seed, random)
    _check_more(operator.size, knobs, num_products)
    search = EigenpairSearch(operator, knobs, None if start is None else _starting_vector(operator, start))
    history: History = []
    stopped_by = ""
    while True:
        pairs = search.advance()
        best = pairs if search.locked is None or search.exact else search.locked
        lowers, uppers = _intervals(search, best)
        history.append((search.num_products, float(best.values[0]), finite(lowers[0]), finite(uppers[0])))
        if progress is not None:
            progress(search.num_products, num_products)
        late = seconds is not None and time.perf_counter() - began >= seconds
        stopped_by = _reason_to_stop(search, best, num_products, late)
        if stopped_by:
            break
        if knobs.verifies and search.settled(pairs) and search.improves(pairs):
            search.lock(pairs)
        elif search.spent(pairs) and num_products - search.num_products >= search.num_products - search.began:
            search.start_afresh()  # as many products as the spent run took: with fewer it would end knowing less
    if stopped_by != "certainty" and best is search.locked and search.improves(pairs):
        best = pairs
    return _result(search, best, stopped_by, num_products, history)


def _reason_to_stop(search: EigenpairSearch, best: RitzPairs, num_products: int, late: bool) -> str:
    """Return why the search is at its end, or nothing."""
    if _good(search, best, best.residuals + search.slack):
        return "certainty"
    if search.exact:
        return "exhausted"
    if search.num_products + _reserve(search, num_products) >= num_products:
        return "num_products"
    return "seconds" if late else ""


def _intervals(search: EigenpairSearch, pairs: RitzPairs) -> tuple[np.ndarray, np.ndarray]:
    """Return lower and upper bounds of the eigenvalues of these pairs, infinite where there is none."""
    values, slack = pairs.values, search.slack
    if search.exact:
        return values - slack, values + slack
    top, ranks = pairs.selection.is_top, pairs.selection.ranks
    lowers = np.where(top, values, np.minimum(-search.bottom.bounds[ranks], values)) - slack
    uppers = np.where(top, np.maximum(search.top.bounds[ranks], values), values) + slack
    return lowers, uppers


def _good(search: EigenpairSearch, pairs: RitzPairs, residuals: np.ndarray) -> bool:
    """Return whether these pairs are what was asked for."""
    knobs, sizes = search.knobs, np.abs(pairs.values)
    if len(sizes) < knobs.num_wanted:
        return False
    if search.exact:  # nothing is unknown but what the product itself gets wrong
        wrong = [search.defect + search.operator.error, *(residuals if knobs.stop_on == "residual" else ())]
        return bool(max(wrong) <= knobs.rtol * search.scale)
    if knobs.stop_on == "residual":
        return bool(np.all(residuals <= knobs.rtol * sizes))
    lowers, uppers = _intervals(search, pairs)
    narrow = bool(np.all(uppers - lowers <= knobs.rtol * sizes))
    if knobs.which == "magnitude" and narrow:
        return _largest_beside(search, pairs) <= (1 + knobs.rtol) * float(sizes.min())
    return narrow


def _largest_beside(search: EigenpairSearch, pairs: RitzPairs) -> float:
    """Return how large the absolute value of an eigenvalue beside these can be."""
    top, bottom = search.top.bounds[pairs.selection.num_top], search.bottom.bounds[pairs.selection.num_bottom]
    return float(max(top, bottom)) + search.slack


def _reserve(search: EigenpairSearch, num_products: int) -> int:
    """Return how many products are kept back to measure residuals."""
    measures = search.knobs.stop_on == "residual" or search.operator.error > 0
    return search.knobs.num_wanted if measures and num_products >= 2 * search.knobs.num_wanted else 0


def _result(
    search: EigenpairSearch, best: RitzPairs, stopped_by: str, num_products: int, history: History
) -> Eigenpairs:
    """Form the Ritz vectors in the memory of the basis, measure what is to be measured and say what is known."""
    knobs, made, defect = search.knobs, search.num_products, search.defect
    vectors, measures = search.finish(best), _reserve(search, num_products) > 0
    residuals = _residuals(search, vectors, best.values) if measures else best.residuals + search.slack
    good = _good(search, best, residuals)  # the operator's error may have grown, too
    lowers, uppers = _intervals(search, best)
    known = [bool(np.all(np.isfinite(x))) for x in (lowers, uppers)]
    return Eigenpairs(
        which=knobs.which,
        eigenvalues=torch.from_numpy(best.values.copy()),
        lowers=torch.from_numpy(lowers) if known[0] else None,
        uppers=torch.from_numpy(uppers) if known[1] else None,
        eigenvectors=vectors,
        residuals=torch.from_numpy(residuals),
        confidence=knobs.confidence if knobs.random else None,
        converged=good,
        stopped_by="certainty" if good else stopped_by,
        num_products=made + len(residuals) * measures,
        num_restarts=search.num_restarts,
        num_starts=search.num_starts,
        defect=defect,
        history=history,
        reasons=_reasons(search, best, residuals, stopped_by, good, known),
    )


def _residuals(search: EigenpairSearch, vectors: Tensor, values: np.ndarray) -> np.ndarray:
    """Return ``||A v - value v||`` for each, measured by one product."""
    products = Products(search.operator, search.num_products)
    return np.array([norm(products(v)[0].sub_(v, alpha=float(x))) for v, x in zip(vectors, values, strict=True)])


def _reasons(
    search: EigenpairSearch, best: RitzPairs, residuals: np.ndarray, stopped_by: str, good: bool, known: list[bool]
) -> dict[str, str]:
    """Say why something is not known or not as narrow as was asked for."""
    reasons: dict[str, str] = {}
    if not good:
        measured = "after measuring the residuals, " if stopped_by == "certainty" else ""
        reasons["converged"] = measured + _shortfall(search, best, residuals)
    if not search.knobs.random:
        reasons["confidence"] = "the start was given, not random"
    refuted = search.top.refuted or search.bottom.refuted
    open_end = "a Ritz value refuted the bound, and no other is proven yet" if refuted else "no bound yet"
    for name, bounded in zip(("lowers", "uppers"), known, strict=True):
        if not bounded:
            reasons[name] = reasons.get("confidence", open_end)
    return reasons


def _shortfall(search: EigenpairSearch, best: RitzPairs, residuals: np.ndarray) -> str:
    """Say what is wider than was asked for."""
    knobs, sizes = search.knobs, np.abs(best.values)
    if len(sizes) < knobs.num_wanted:
        return f"{search.num_products} products give {len(sizes)} of the {knobs.num_wanted} eigenvalues"
    if search.exact:
        wrong, what = search.defect + search.operator.error, "the error and the asymmetry of the product"
        if wrong > knobs.rtol * search.scale:
            return f"the whole space is spanned, but {what} are {wrong:.3g}, the operator's size {search.scale:.3g}"
    lowers, uppers = _intervals(search, best)
    by_residual = knobs.stop_on == "residual"
    widths, what = (residuals, "residual") if by_residual else (uppers - lowers, "interval")
    widest = int(np.argmax(widths - knobs.rtol * sizes))
    if knobs.which == "magnitude" and not by_residual and widths[widest] <= knobs.rtol * sizes[widest]:
        beside = _largest_beside(search, best)
        return f"an eigenvalue beside these may be as large as {beside:.3g}, the smallest of them is {sizes.min():.3g}"
    return f"the {what} of eigenvalue {widest + 1} is {widths[widest]:.3g}, the eigenvalue {best.values[widest]:.3g}"


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


def _check_more(size: int, knobs: SolverKnobs, num_products: int) -> None:
    if knobs.stop_on not in ("interval", "residual"):
        raise unknown_name("criterion to stop on", knobs.stop_on, ("interval", "residual"))
    least = 2 * knobs.num_wanted
    if knobs.stop_on == "residual" and num_products < least:
        raise InputError(f"expected at least {least} products to measure residuals, got {num_products}: raise it")
    needed = min(knobs.num_wanted + 3, size)
    if knobs.max_basis is not None and knobs.max_basis < needed:
        raise InputError(f"expected max_basis of at least {needed}, got {knobs.max_basis}: raise it")
