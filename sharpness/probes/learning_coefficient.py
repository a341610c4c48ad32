"""The local learning coefficient: how degenerate the minimum is, by Langevin dynamics around it."""

from __future__ import annotations

import math
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from torch import Tensor

from sharpness.curvature import HessianOperator
from sharpness.errors import InputError
from sharpness.linalg.density import SpectralDensity, spectral_density
from sharpness.linalg.knobs import check_confidence
from sharpness.linalg.sampling import student
from sharpness.loss import Loss
from sharpness.loss.minibatches import Minibatches
from sharpness.machine.environment import derived_seed
from sharpness.machine.progress import Progress
from sharpness.probes.methods.langevin import Tempered, langevin_losses, split_r_hat
from sharpness.probes.methods.perturbations import check_finite
from sharpness.probes.methods.spectral_sums import SpectralSum, spectral_sum
from sharpness.results import MERGED, Probe, ProbeResult
from sharpness.vectors import normal_vector

AGREEING = 1.1  # R-hat up to which chains count as agreed
UNRELAXED = 0.05  # share of the stationary variance that may be missing after the burn-in, as after three times 1 / a


@dataclass(frozen=True, kw_only=True)
class LearningCoefficientResult(ProbeResult):
    """The coefficient as ``value``, with an interval over the chains and the answer of the quadratic approximation."""

    loss: float
    target: Tempered = field(repr=False, metadata=MERGED)
    step: float
    chains: list[float]
    r_hat: float | None
    relaxed: float
    distances: list[float]
    gaussian: SpectralSum | None
    gaussian_at_step: SpectralSum | None
    largest_eigenvalue: float
    trace_of_losses: np.ndarray = field(repr=False)

    def __str__(self) -> str:
        if self.value is None:
            return f"none: {self.reasons['value']}, {self.num_gradients} gradients, {self.seconds:.1f} s"
        check = "none" if self.gaussian_at_step is None else f"{self.gaussian_at_step.value:.4g}"
        agree = "?" if self.r_hat is None else f"{self.r_hat:.3f}"
        ends = "" if self.lower is None else f" in [{self.lower:.4g}, {self.upper:.4g}]"
        return (
            f"{self.value:.4g}{ends} over {len(self.chains)} chains (R-hat {agree}), "
            f"quadratic approximation {check}, {self.num_gradients} gradients, {self.seconds:.1f} s"
            f"{'' if self.converged else ', NOT converged'}"
        )


@dataclass(frozen=True)
class LearningCoefficient(Probe[LearningCoefficientResult]):
    """``nbeta (E[L(w)] - L(w*))`` for w from ``exp(-nbeta L(w) - localization/2 ||w - w*||^2)`` around the weights w*.

    Lau et al. 2023 (arXiv 2308.12108), with ``nbeta = n / ln n`` for n examples unless it is given. Half the number of
    parameters at a regular minimum, less where it is degenerate: a regular direction with eigenvalue h counts
    ``1/2 nbeta h / (nbeta h + localization)``. The sum of that over the spectrum, and the same with the bias of the
    finite step, are in the record as the Gaussian check; where the sampled value differs from the latter the loss is
    not quadratic at that temperature, or the chains are not done.

    ``num_chains`` chains of Langevin dynamics start at w* and drop ``burn_in`` steps. The step is 0.2 of what the
    largest eigenvalue allows unless given. Gradients are of all the data; with ``batch_size`` of random batches, whose
    noise adds a bias of about ``step nbeta / 4`` times the gradient's variance over the curvature, and losses are then
    compared with the loss of the same batch at w*. A negative value means that w* is no minimum, and is reported as it
    is. Where a chain diverges there is no value but a reason.

    Chains that start at one point agree before they have left it, which no R-hat shows. So ``converged`` asks, beside
    an R-hat below 1.1, for a burn-in that brings the slowest direction to 95 % of its stationary variance: some
    ``3 / (step (nbeta h + localization))`` steps with h the smallest eigenvalue where 30 steps of Lanczos resolve it,
    and 0 or the smallest node below 0 where they do not. After fewer there is no interval, and the reason says how many
    it takes. Else the interval is Student's t over the chains, widened by what may be missing and by the most that the
    step adds; both are known for a quadratic loss alone.

    >>> import torch
    >>> model = torch.nn.Linear(2, 1, bias=False); _ = torch.nn.init.zeros_(model.weight)
    >>> loss = Loss(model, torch.nn.functional.mse_loss, [(torch.eye(2), torch.zeros(2, 1))])
    >>> result = LearningCoefficient(nbeta=1e3, localization=1.0, num_draws=100)(loss)      # regular: 2 parameters / 2
    >>> 0.5 < result.value < 1.5
    True
    """

    name = "learning_coefficient"

    num_chains: int = 4
    burn_in: int = 200
    num_draws: int = 200
    nbeta: float | None = None
    localization: float = 100.0
    step: float | None = None
    batch_size: int | None = None
    confidence: float = 0.95
    seed: int = 0

    def measure(self, loss: Loss, w: Tensor, *, progress: Progress | None = None) -> LearningCoefficientResult:
        """Measure at ``w``.

        Raises :class:`InputError` for bad knobs and a single example without nbeta, :class:`RunError` where the loss
        at ``w`` is not finite.
        """
        target = self._target(loss)
        base = check_finite(loss.value(w), "at the weights", "check the data and the weights")
        spectrum, backend = self._spectrum(loss, w)
        step = target.stable_step(spectrum.largest_node) if self.step is None else self.step
        chains = _Chains(self, loss, w, base, target, step, progress)
        rises, reason = chains.run()
        law = _Law(target, step, max(spectrum.floor, min(spectrum.smallest_node, 0.0)), spectrum.largest_node)
        return LearningCoefficientResult(
            quantity="local_learning_coefficient",
            **self._judged(law, rises, reason),
            num_hvps=spectrum.num_products,
            num_gradients=chains.num_gradients,
            num_forwards=chains.num_forwards,
            seed=self.seed,
            hvp_backend=backend,
            loss=base,
            target=target,
            step=step,
            relaxed=law.relaxed(self.burn_in),
            distances=chains.distances,
            largest_eigenvalue=spectrum.largest_node,
            trace_of_losses=base + rises.mean(axis=0) if rises.size else rises,
            gaussian=_gaussian(spectrum, target, 0.0, self.confidence),
            gaussian_at_step=_gaussian(spectrum, target, step, self.confidence),
        )

    def _spectrum(self, loss: Loss, x: Tensor) -> tuple[SpectralDensity, str]:
        """Return the spectral density of the Hessian, whose kept graphs are then free for the chains."""
        operator = HessianOperator(loss, x)
        seed = derived_seed(self.seed, "learning_coefficient")
        density = spectral_density(operator, steps=30, starts=2, seed=seed)
        return density, operator.backend

    def _target(self, loss: Loss) -> Tempered:
        for name, least in (("num_chains", 2), ("num_draws", 4), ("burn_in", 0)):
            if getattr(self, name) < least:
                raise InputError(f"expected {name} of at least {least}, got {getattr(self, name)}: leave it out")
        check_confidence(self.confidence, usual="0.95")
        if not self.localization >= 0 or (self.step is not None and not self.step > 0):
            got = f"{self.localization} and {self.step}"
            raise InputError(f"expected a localization of 0 or more and a positive step, got {got}: leave them out")
        if self.nbeta is None and loss.num_examples < 2:
            raise InputError("expected at least 2 examples for nbeta = n / ln n, got 1: give nbeta or more examples")
        nbeta = loss.num_examples / math.log(loss.num_examples) if self.nbeta is None else self.nbeta
        if not nbeta > 0:
            raise InputError(f"expected a positive nbeta, got {nbeta}: leave it out for n / ln n")
        return Tempered(nbeta, self.localization)

    def _judged(self, law: _Law, rises: np.ndarray, reason: str) -> dict[str, Any]:
        """Return value, interval and what the chains say about it; ``rises`` (chains, steps) is empty if one failed."""
        reasons = {"residual": "a mean over random draws has none"}
        if reason:
            missing = ("value", "lower", "upper", "confidence")
            return {
                **dict.fromkeys(missing),
                "converged": False,
                "chains": [],
                "r_hat": None,
                "reasons": reasons | dict.fromkeys(missing, reason),
            }
        drawn = law.target.nbeta * rises[:, self.burn_in :]
        means, r_hat = drawn.mean(axis=1), split_r_hat(drawn)
        error = float(means.std(ddof=1)) / math.sqrt(len(means))
        value, half = float(means.mean()), student(len(means) - 1, self.confidence) * error
        found = {"lower": None, "upper": None, "confidence": None}
        if why := law.too_few(self.burn_in):
            reasons |= dict.fromkeys((*found, "converged"), why)
        else:
            ends = law.widened(value - half, value + half, self.burn_in)
            found = {"lower": ends[0], "upper": ends[1], "confidence": self.confidence}
            if not r_hat < AGREEING:
                reasons["converged"] = f"R-hat {r_hat:.3g} is not below {AGREEING}: raise burn_in and num_draws"
        return {
            "value": value,
            **found,
            "converged": "converged" not in reasons,
            "reasons": reasons,
            "chains": means.tolist(),
            "r_hat": r_hat if math.isfinite(r_hat) else None,
        }


@dataclass(frozen=True)
class _Law:
    """The law that chains of a step tend to from the centre, for a quadratic loss between two eigenvalues."""

    target: Tempered
    step: float
    smallest: float
    largest: float

    @property
    def stiffest(self) -> float:
        """The largest curvature of minus the log of the density."""
        return self.target.nbeta * self.largest + self.target.localization

    @property
    def memory(self) -> float:
        """What a step leaves of the distance to the stationary variance, at most."""
        return self.target.memory(self.smallest, self.largest, self.step)

    def relaxed(self, num_steps: int) -> float:
        """Return the share of its stationary variance that every direction has after so many steps."""
        return 1 - self.memory**num_steps

    def too_few(self, num_steps: int) -> str:
        """Return why so many steps do not do for a burn-in, with the cure; nothing where they do."""
        if self.relaxed(num_steps) >= 1 - UNRELAXED:
            return ""
        if self.step * self.stiffest >= 4:
            return f"steps of {self.step:.3g} are too large for a curvature of {self.largest:.3g}: use smaller ones"
        if self.memory == 1:
            least = self.target.nbeta * abs(self.smallest)
            return (
                f"nothing holds chains along a curvature of {self.smallest:.3g}: raise localization above {least:.3g}"
            )
        needed = math.ceil(math.log(UNRELAXED) / math.log(self.memory)) if self.memory else 1
        share = f"{self.relaxed(num_steps):.0%} of their variance along the flattest direction"
        return f"chains that start at the weights have {share} after {num_steps} steps: raise burn_in to {needed}"

    def widened(self, lower: float, upper: float, num_steps: int) -> tuple[float, float]:
        """Return the ends that hold the coefficient where these hold what the chains tend to sample.

        That is at least ``relaxed`` times it, and at most ``1 / (1 - step a / 4)`` times it, a of the stiffest
        direction.
        """
        least, most = 1 - self.step * self.stiffest / 4, 1 / self.relaxed(num_steps)
        return min(least * lower, most * lower), max(least * upper, most * upper)


@dataclass
class _Chains:
    """The chains, run one after the other, and the count of what they cost."""

    probe: LearningCoefficient
    loss: Loss
    x: Tensor
    base: float
    target: Tempered
    step: float
    progress: Progress | None
    num_gradients: int = 0
    num_forwards: int = 1
    distances: list[float] = field(default_factory=list)

    def __post_init__(self) -> None:
        self.num_steps = self.probe.burn_in + self.probe.num_draws
        whole = self.probe.batch_size is None or self.probe.batch_size == self.loss.num_examples
        self.batches = None if whole else Minibatches(self.loss, self.probe.batch_size)

    def run(self) -> tuple[np.ndarray, str]:
        """Return the rises of the loss over that at w*, shape (chains, steps); none and why where a chain diverged."""
        rises = []
        for chain in range(self.probe.num_chains):
            losses, distance = self._chain(chain)
            if not math.isfinite(losses[-1]):
                why = f"chain {chain} diverged after {len(losses)} steps of {self.step:.3g}"
                return np.zeros((0, 0)), f"{why}: use a smaller step or a larger localization"
            rises.append(losses)
            self.distances.append(distance)
        return np.stack(rises), ""

    def _chain(self, chain: int) -> tuple[np.ndarray, float]:
        seed, name = self.probe.seed, "learning_coefficient"

        def noise(t: int) -> Tensor:
            return normal_vector(len(self.x), derived_seed(seed, name, "noise", chain, t), self.x)

        def rise_and_grad(w: Tensor, t: int) -> tuple[float, Tensor]:
            part, start = self.loss, self.base
            if self.batches is not None:
                part = self.batches.draw(seed, f"{name}/batch/{chain}", t)
                start = part.value(self.x)
                self.num_forwards += 1
            value, gradient = part.value_and_grad(w)
            self.num_gradients += 1
            if self.progress is not None:
                self.progress(self.num_gradients, self.probe.num_chains * self.num_steps)
            return value - start, gradient

        return langevin_losses(rise_and_grad, self.x, self.target, self.step, self.num_steps, noise)


def _gaussian(spectrum: SpectralDensity, target: Tempered, step: float, confidence: float) -> SpectralSum | None:
    """Return the coefficient of the quadratic approximation; ``None`` where it has no such density or is unstable."""
    nodes = (spectrum.smallest_node, spectrum.largest_node)
    lowest, highest = (target.nbeta * h + target.localization for h in nodes)
    if lowest <= 0 or step * highest >= 4:
        return None
    return spectral_sum(spectrum, lambda h: target.gaussian(h, step), confidence, spectrum.floor)
