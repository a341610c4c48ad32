"""The PAC-Bayes sigma: the largest Gaussian noise in the weights for a stated mean rise of the loss."""

from __future__ import annotations

from dataclasses import dataclass, field

import numpy as np
import torch
from torch import Tensor

from sharpness.errors import InputError, unknown_name
from sharpness.linalg.knobs import check_confidence
from sharpness.linalg.sampling import student
from sharpness.loss import Loss
from sharpness.machine.environment import derived_seed
from sharpness.machine.progress import Progress
from sharpness.probes.methods.level import Bracket, bracket, check_search
from sharpness.probes.methods.perturbations import check_finite
from sharpness.results import Probe, ProbeResult
from sharpness.vectors import normal_vector

SCALINGS = {"plain": "pac_bayes_sigma", "magnitude": "magnitude_aware_sigma"}
"""The deviation of the noise in each weight, ``sigma`` or ``sqrt(sigma^2 w_i^2 + floor^2)``, and what its sigma is."""


@dataclass(frozen=True, kw_only=True)
class PacBayesResult(ProbeResult):
    """The largest sigma as ``value``, with the interval that its random draws allow."""

    loss: float
    flatness: float | None
    search: Bracket
    tried: list[tuple[float, float | None, float | None]]

    def __str__(self) -> str:
        if self.value is None:
            return f"sigma: none: {self.reasons['value']}, {self.num_forwards} passes, {self.seconds:.1f} s"
        low, high = ("?" if bound is None else f"{bound:.4g}" for bound in (self.lower, self.upper))
        how = f"at {100 * self.knobs['confidence']:g} %, {self.knobs['scaling']}"
        return (
            f"sigma {self.value:.4g} in [{low}, {high}] {how}, "
            f"for a rise of {self.knobs['rise']:g}, {self.num_forwards} passes, {self.seconds:.1f} s"
        )


@dataclass(frozen=True)
class PacBayesSigma(Probe[PacBayesResult]):
    """The largest sigma with ``E_u L(w + u) - L(w) <= rise``, u Gaussian noise of deviation sigma in every weight.

    Jiang et al. 2020 (arXiv 1912.02178), whose PAC-Bayes flatness is ``1 / sigma^2``; they bound the training error,
    here it is the loss itself that may rise, by ``rise`` in its own units. With ``scaling="magnitude"`` the deviation
    of weight i is ``sqrt(sigma^2 w_i^2 + floor^2)``: their magnitude-aware measure, with their floor of 1e-3.

    The mean is over ``num_pairs`` antithetic pairs u, -u, the same directions at every sigma, so that it is one smooth
    function, whose crossing is bracketed to ``rtol`` by doubling or halving from ``first_sigma``. The interval is that
    of the sigmas at which the mean, minus or plus Student's t times its standard error, crosses the rise. Losses that
    overflow count as risen. Near a minimum sigma is ``sqrt(2 rise / tr H)``.

    >>> batch = (torch.eye(2, dtype=torch.float64), torch.zeros(2, 1, dtype=torch.float64))
    >>> loss = Loss(torch.nn.Linear(2, 1, bias=False), torch.nn.functional.mse_loss, [batch], dtype=torch.float64)
    >>> result = PacBayesSigma(rise=0.01, num_pairs=20)(loss)           # Hessian = identity: sigma = rise^(1/2)
    >>> result.lower < 0.1 < result.upper
    True
    """

    name = "pac_bayes"

    rise: float = 0.1
    scaling: str = "plain"
    floor: float = 1e-3
    num_pairs: int = 20
    confidence: float = 0.95
    first_sigma: float = 1e-2
    rtol: float = 1e-2
    most: int = 40
    seed: int = 0

    def measure(self, loss: Loss, w: Tensor, *, progress: Progress | None = None) -> PacBayesResult:
        """Measure at ``w``.

        Raises :class:`InputError` for bad knobs, :class:`RunError` where the loss at ``w`` is not finite.
        """
        self._check()
        rises = _Rises(self, loss, w, progress)
        ends = {end: self._search(rises, end) for end in (0, 1, -1)}
        search = ends[0]
        return PacBayesResult(
            quantity=SCALINGS[self.scaling],
            value=search.low if search.closed else None,
            lower=ends[1].low if search.closed else None,
            upper=ends[-1].high if search.closed else None,
            confidence=self.confidence if search.closed else None,
            converged=search.closed,
            reasons=_reasons(ends, self.rise),
            num_forwards=rises.num_forwards,
            seed=self.seed,
            loss=rises.base,
            flatness=1 / search.low**2 if search.closed and search.low else None,
            search=search,
            tried=[(sigma, _plain(mean), _plain(half)) for sigma, (mean, half) in sorted(rises.known.items())],
        )

    def _check(self) -> None:
        check_search(self.rise, self.first_sigma, self.rtol, self.most)
        check_confidence(self.confidence, usual="0.95")
        if self.scaling not in SCALINGS:
            raise unknown_name("scaling", self.scaling, SCALINGS)
        if not self.floor >= 0:
            raise InputError(f"expected a floor of 0 or more, got {self.floor}: the paper uses 1e-3")
        if self.num_pairs < 2:
            raise InputError(f"expected at least 2 pairs for a standard error, got {self.num_pairs}: 20 is usual")

    def _search(self, rises: _Rises, end: int) -> Bracket:
        """Return where the mean rise, plus ``end`` half widths, crosses the stated one."""

        def above(sigma: float) -> bool:
            mean, half = rises(sigma)
            return not (np.isfinite(mean) and mean + end * half <= self.rise)

        return bracket(above, self.first_sigma, rtol=self.rtol, most=self.most)


@dataclass
class _Rises:
    """Mean rise of the loss and its half width at each sigma, over the same directions; remembers what it knows."""

    probe: PacBayesSigma
    loss: Loss
    w: Tensor
    progress: Progress | None
    num_forwards: int = 1
    known: dict[float, tuple[float, float]] = field(default_factory=dict)

    def __post_init__(self) -> None:
        self.base = check_finite(self.loss.value(self.w), "at the weights", "check the data and the weights")
        self._quantile = student(self.probe.num_pairs - 1, self.probe.confidence)

    def __call__(self, sigma: float) -> tuple[float, float]:
        if sigma not in self.known:
            pairs = np.array([self._pair(sigma, number) for number in range(self.probe.num_pairs)]) - self.base
            with np.errstate(invalid="ignore"):  # an infinite rise has no spread
                half = self._quantile * float(pairs.std(ddof=1)) / len(pairs) ** 0.5
            self.known[sigma] = float(pairs.mean()), half
        return self.known[sigma]

    def _pair(self, sigma: float, number: int) -> float:
        """Return the mean loss at ``w + u`` and ``w - u``."""
        noise = normal_vector(len(self.w), derived_seed(self.probe.seed, "pac_bayes", number), self.w)
        if self.probe.scaling == "plain":
            noise *= sigma
        else:
            noise *= torch.sqrt((sigma * self.w) ** 2 + self.probe.floor**2)
        self.num_forwards += 2
        if self.progress is not None:
            self.progress(self.num_forwards, max(40 * self.probe.num_pairs, self.num_forwards))
        return (self.loss.value(self.w + noise) + self.loss.value(self.w - noise)) / 2


def _plain(x: float) -> float | None:
    return float(x) if np.isfinite(x) else None


def _reasons(ends: dict[int, Bracket], rise: float) -> dict[str, str]:
    """Return why there is no sigma, or no end of its interval."""
    reasons = {"residual": "a bracket has none"}
    if not ends[0].closed:
        side, where = ("more", ends[0].high) if ends[0].low is None else ("less", ends[0].low)
        why = f"the mean loss rises by {side} than {rise:g} even at sigma {where:.3g}"
        return reasons | dict.fromkeys(("value", "lower", "upper", "confidence"), why)
    for name, missing in (("lower", ends[1].low is None), ("upper", ends[-1].high is None)):
        if missing:
            reasons[name] = "the spread over the random draws is too wide to bound it: use more pairs"
    return reasons
