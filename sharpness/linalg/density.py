"""The spectral density of a symmetric operator by stochastic Lanczos quadrature, with error bars."""

from __future__ import annotations

import math
import time
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch
from torch import Tensor

from sharpness.errors import InputError
from sharpness.linalg.knobs import check_confidence, check_seconds
from sharpness.linalg.operators import SymmetricOperator
from sharpness.linalg.quadrature import Quadrature, lanczos_quadrature
from sharpness.machine.environment import derived_seed
from sharpness.machine.progress import Progress

KERNEL_WIDTH = 0.1  # least standard deviation of the Gaussian kernels in s: 10 % of lambda where |lambda| >> lambda_0
SHARE_OF_GAP = 0.6  # of the distance to the nearest node; equally spaced kernels then ripple by 0.2 %, with 0.5 by 1 %
NUM_RESAMPLES = 1000
MISMATCH = 1e-2  # beyond which the quadratures are not of one symmetric matrix; float32 makes some 1e-5


@dataclass(frozen=True, eq=False)
class DensityCurve:
    """A density per unit of s = asinh(lambda / lambda_0), shape (p,), at the eigenvalues of ``grid`` (p,)."""

    grid: np.ndarray
    density: np.ndarray
    lower: np.ndarray | None  # None for one start, which shows no spread
    upper: np.ndarray | None


@dataclass(frozen=True, eq=False, kw_only=True)
class SpectralDensity:
    """Gauss quadratures of the spectrum, one for each random start, and what follows from them.

    For a start v with eigenvector components c_i the quadrature is of the v-weighted distribution, mass ``c_i^2`` at
    lambda_i, whose mean over v is that of the eigenvalues, mass 1/n each. The average over the eigenvalues of any f
    thus has the variance ``2 (||F||_F^2 - sum_j F_jj^2) / n^2`` per start of random signs, F = f(A), which is at most
    ``2 Var_lambda(f) / n`` (Hutchinson 1990; Cauchy-Schwarz on the diagonal). Standard errors are by that bound with
    the variance of the quadrature, and where there are three starts or more the larger of it and the error seen between
    the starts: too large rather than too small.
    """

    size: int
    rules: list[Quadrature] = field(repr=False)  # one for each start
    steps: int  # products asked for per start; fewer nodes where the Krylov space was invariant or time was up
    num_products: int
    stopped_by: str  # "steps" or "seconds"
    confidence: float  # of the band of the curve
    seed: int
    trace: float
    trace_standard_error: float
    frobenius_norm: float
    frobenius_norm_standard_error: float
    num_negative: float  # n times the mass below 0
    num_negative_standard_error: float  # of the sampling alone
    # n times the bounds of these starts' own mass below 0; whatever is not resolved from 0 is in the upper bound.
    num_negative_bracket: tuple[float, float]
    effective_rank: float | None  # (sum |lambda|)^2 / sum lambda^2; None for a zero operator
    linear_threshold: float  # lambda_0 = mean |lambda|, the scale around zero of the coordinate s
    moment_error: float  # largest mismatch of quadrature moments and measured v^T A v, ||A v||^2, relative to ||A v||
    defect: float  # largest || Q^T A Q - T || over the largest node, the operator's own error taken off
    converged: bool  # all steps were made, and moments and defect agree to MISMATCH
    reasons: list[str]

    @property
    def nodes(self) -> list[np.ndarray]:
        """The nodes of each start, shape (k,), ascending."""
        return [rule.nodes for rule in self.rules]

    @property
    def weights(self) -> list[np.ndarray]:
        """The weights of each start, shape (k,), sum 1."""
        return [rule.weights for rule in self.rules]

    @property
    def smallest_node(self) -> float:
        """The smallest node: never below the smallest eigenvalue, rounding aside."""
        return min(float(nodes[0]) for nodes in self.nodes)

    @property
    def floor(self) -> float:
        """The smallest node less its residual, of all starts: below the smallest eigenvalue as a rule, unproven."""
        return min(rule.floor for rule in self.rules)

    @property
    def largest_node(self) -> float:
        """The largest node: never above the largest eigenvalue, rounding aside."""
        return max(float(nodes[-1]) for nodes in self.nodes)

    def curve(self, num_points: int = 512, width: float = KERNEL_WIDTH) -> DensityCurve:
        """Return the density per unit of s = asinh(lambda / lambda_0), smoothed by Gaussians of ``width`` or more.

        In s the spectrum is shown linearly below lambda_0 = ``linear_threshold`` and logarithmically beyond. Where the
        nodes of a start lie farther apart than ``width``, the mass of each is spread as far as to its neighbours, among
        which the quadrature does not say where it lies (Chebyshev, Markov and Stieltjes): narrow kernels would show a
        hump for each node. The two outermost nodes, which Lanczos finds first, keep ``width``, and so do the nodes of a
        start whose space was invariant, which are eigenvalues. The grid
        is uniform in s and ends five widths outside the nodes; the density is the mean over starts and integrates to 1
        over s. The band is the central ``confidence`` of the means of resampled starts (bootstrap): a coarse
        indication for few starts, and None for a single one. Raises :class:`InputError` for fewer than two points or a
        width that is not positive.
        """
        if num_points < 2 or not width > 0:
            raise InputError(f"expected two points or more and width > 0, got {num_points} and {width}: 512 and 0.1")
        scale = self.linear_threshold
        left, right = math.asinh(self.smallest_node / scale), math.asinh(self.largest_node / scale)
        s = np.linspace(left - 5 * width, right + 5 * width, num_points)
        curves = []
        for nodes, weights in zip(self.nodes, self.weights, strict=True):
            centres, invariant = np.arcsinh(nodes / scale), len(nodes) < self.steps and self.stopped_by == "steps"
            widths = np.full(len(nodes), width) if invariant else _widths(centres, width)
            heights = weights / (widths * math.sqrt(2 * math.pi))
            curves.append(np.exp(-0.5 * ((s[:, None] - centres) / widths) ** 2) @ heights)
        stacked = np.stack(curves)
        grid, density = scale * np.sinh(s), stacked.mean(axis=0)
        if len(stacked) == 1:
            return DensityCurve(grid, density, None, None)
        random = np.random.default_rng(derived_seed(self.seed, "density", "bootstrap"))
        counts = random.multinomial(len(stacked), np.full(len(stacked), 1 / len(stacked)), NUM_RESAMPLES)
        tail = (1 - self.confidence) / 2
        lower, upper = np.quantile(counts / len(stacked) @ stacked, [tail, 1 - tail], axis=0)
        return DensityCurve(grid, density, lower, upper)

    def details(self) -> dict[str, Any]:
        """Return the quadratures, the curve on its default grid and every number above as plain types."""
        curve = self.curve()
        plain = {name: value for name, value in vars(self).items() if name != "rules"}
        return plain | {
            "num_starts": len(self.nodes),
            "kernel_width": KERNEL_WIDTH,  # standard deviation of the Gaussian kernel in s
            "nodes": [nodes.tolist() for nodes in self.nodes],
            "weights": [weights.tolist() for weights in self.weights],
            "num_negative_bracket": list(self.num_negative_bracket),
            "smallest_node": self.smallest_node,
            "largest_node": self.largest_node,
            "grid": curve.grid.tolist(),
            "density": curve.density.tolist(),
            "density_lower": None if curve.lower is None else curve.lower.tolist(),
            "density_upper": None if curve.upper is None else curve.upper.tolist(),
        }

    def __str__(self) -> str:
        low, high = self.num_negative_bracket
        rank = "none" if self.effective_rank is None else f"{self.effective_rank:.4g}"
        return (
            f"{self.size} eigenvalues, nodes in [{self.smallest_node:.4g}, {self.largest_node:.4g}], "
            f"trace {self.trace:.5g} +- {self.trace_standard_error:.1g}, {self.num_negative:.4g} negative "
            f"(between {low:.4g} and {high:.4g}, +- {self.num_negative_standard_error:.1g}), effective rank {rank}, "
            f"{len(self.nodes)} starts, {self.num_products} products"
        )


def spectral_density(
    operator: SymmetricOperator,
    *,
    steps: int = 80,
    starts: int = 4,
    seed: int = 0,
    reorthogonalise: bool = True,
    confidence: float = 0.95,
    seconds: float | None = None,
    progress: Progress | None = None,
) -> SpectralDensity:
    """Return the spectral density by ``steps`` steps of Lanczos from each of ``starts`` vectors of random signs.

    Stochastic Lanczos quadrature (Golub and Welsch 1969; Ubaru, Chen and Saad 2017): k steps give the k-point Gauss
    quadrature of the v-weighted distribution (:func:`sharpness.linalg.quadrature.lanczos_quadrature`), and a bracket of
    its mass below 0. ``reorthogonalise=False`` keeps three vectors of shape (n,) instead of ``steps``, one start at a
    time in both cases. After ``seconds`` the first start keeps the nodes it has; a later one that is not complete is
    dropped. ``docs/numbers.md`` says why the starts are signs and what holds without the basis. Raises
    :class:`InputError` for bad knobs and :class:`RunError` for products that are not finite.

    >>> import torch
    >>> from sharpness.linalg.operators import FunctionOperator
    >>> diagonal = torch.linspace(-1, 9, 1000, dtype=torch.float64)
    >>> density = spectral_density(FunctionOperator(lambda v: diagonal * v, 1000, torch.float64), steps=40)
    >>> round(density.trace / 1000), round(density.num_negative, -2), round(density.effective_rank, -2)
    (4, 100.0, 700.0)
    """
    _check(operator, steps, starts, confidence, seconds)
    began, made, rules = time.perf_counter(), 0, list[Quadrature]()

    def late() -> bool:
        nonlocal made
        made += 1
        if progress is not None:
            progress(made, starts * min(steps, operator.size))
        return seconds is not None and time.perf_counter() - began >= seconds

    for start in range(starts):
        v = unit_signs(operator, derived_seed(seed, "density", "start", start))
        rule = lanczos_quadrature(operator, v, steps, reorthogonalise=reorthogonalise, stop=late)
        if rule.complete or not rules:
            rules.append(rule)
        if seconds is not None and time.perf_counter() - began >= seconds:
            break
    return _summary(operator.size, rules, steps, starts, made, confidence, seed)


def _widths(centres: np.ndarray, least: float) -> np.ndarray:
    """Return the deviation of each node's kernel from the ascending nodes (k,) in s.

    >>> _widths(np.array([0.0, 1.0, 3.0, 3.1]), 0.1)
    array([0.1, 0.6, 0.1, 0.1])
    """
    widths, gaps = np.full(len(centres), least), np.diff(centres)
    widths[1:-1] = np.maximum(least, SHARE_OF_GAP * np.minimum(gaps[:-1], gaps[1:]))
    return widths


def unit_signs(operator: SymmetricOperator, seed: int) -> Tensor:
    """Return a unit vector of random signs over sqrt(n), for a seed the same on every device and in every dtype."""
    generator, v = torch.Generator().manual_seed(seed), torch.empty(operator.size, dtype=operator.dtype)
    for piece in v.split(1 << 20):  # in pieces: the draws are of 64 bits each
        piece.copy_(torch.randint(2, (len(piece),), generator=generator))
    return v.mul_(2).sub_(1).div_(math.sqrt(operator.size)).to(operator.device)


def _summary(
    size: int, rules: list[Quadrature], steps: int, starts: int, made: int, confidence: float, seed: int
) -> SpectralDensity:
    """Return the quadratures with the sums over eigenvalues that follow from them."""
    trace, trace_error = _sum(size, rules, [rule.nodes for rule in rules])
    square, square_error = _sum(size, rules, [rule.nodes**2 for rule in rules])
    total, _ = _sum(size, rules, [np.abs(rule.nodes) for rule in rules])
    below = np.array([rule.below for rule in rules])
    share = float(below.mean())
    low, high = np.mean([rule.bracket for rule in rules], axis=0)
    cut = len(rules) < starts or not rules[0].complete
    reasons = [f"time was up after {len(rules)} of {starts} starts and {made} products"] if cut else []
    if len(rules) == 1:
        reasons.append("no band around the curve: one start shows no spread")
    defect, moment_error = max(rule.defect for rule in rules), max(rule.moment_error for rule in rules)
    if wrong := max(defect, moment_error) > MISMATCH:
        what = f"defect {defect:.2g}, moments off by {moment_error:.2g}"
        reasons.append(f"the products are not those of one symmetric matrix: {what}")
    if not square:
        reasons.append("no effective rank: every product was zero")
    return SpectralDensity(
        size=size,
        rules=rules,
        steps=steps,
        num_products=made,
        stopped_by="seconds" if cut else "steps",
        confidence=confidence,
        seed=seed,
        trace=trace,
        trace_standard_error=trace_error,
        frobenius_norm=math.sqrt(square),
        frobenius_norm_standard_error=square_error / (2 * math.sqrt(square)) if square else 0.0,
        num_negative=size * share,
        num_negative_standard_error=size * _standard_error(size, below, share * (1 - share)),
        num_negative_bracket=(size * float(low), size * float(high)),
        effective_rank=total**2 / square if square else None,
        linear_threshold=total / size if total else 1.0,
        moment_error=moment_error,
        defect=defect,
        converged=not (cut or wrong),
        reasons=reasons,
    )


def _sum(size: int, rules: list[Quadrature], values: list[np.ndarray]) -> tuple[float, float]:
    """Return the sum of f over all eigenvalues and its standard error, from the values of f at each start's nodes."""
    means = np.array([rule.weights @ f for rule, f in zip(rules, values, strict=True)])
    squares = np.array([rule.weights @ f**2 for rule, f in zip(rules, values, strict=True)])
    variance = max(float(squares.mean() - means.mean() ** 2), 0.0)
    return size * float(means.mean()), size * _standard_error(size, means, variance)


def _standard_error(size: int, means: np.ndarray, variance: float) -> float:
    """Return the standard error of the mean over starts, ``variance`` being that of f over the eigenvalues.

    With n = 1 every start is the eigenvector and the formula's variance is 0, as it should be.
    """
    by_formula = math.sqrt(2 * variance / (size * len(means)))
    return max(by_formula, float(means.std(ddof=1)) / math.sqrt(len(means))) if len(means) >= 3 else by_formula


def _check(operator: SymmetricOperator, steps: int, starts: int, confidence: float, seconds: float | None) -> None:
    if steps < min(2, operator.size) or starts < 1:  # one node cannot give the Frobenius norm
        raise InputError(f"expected at least 2 steps and 1 start, got {steps} and {starts}: 80 and 4 are usual")
    check_confidence(confidence, usual="0.95")
    check_seconds(seconds)
