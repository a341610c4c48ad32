"""The measurements of `sgd_stability.py`: least squares on cells of images, and two basins of one weight, in float64.

Both are small enough that theory gives the largest stable rate exactly. The update on a batch of B examples drawn
without replacement is ``w <- w - eta (H_B w - c_B + mu w)``, which multiplies the distance of two walks that see the
same batches by ``I - eta (H_B + mu I)``, whatever the targets are.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property

import torch
from torch import Tensor
from torch.nn.functional import avg_pool2d

from scripts.runner.grid import Rows
from scripts.runner.site import Site
from sharpness.data import Split, normalise
from sharpness.errors import InputError
from sharpness.machine.environment import derived_seed

SHOES = (5, 7, 9)
"""Classes of Fashion-MNIST whose target is 1; that of all others is -1."""
RUNS_AWAY = 1e3
"""A walk has run away where it is so many times farther from the solution than at its start."""
BURN_IN = 4
"""The first so many-th part of a walk turns a direction into the one that grows, and is not counted in its growth."""
EARLY = 10
"""Steps in which the loss falls are counted in the first so many-th part of a walk, before noise alone is left."""
SETTLED = 1e-24
"""Below this share of its first height the loss is at its solution but for rounding, and its steps are not counted."""


@dataclass(frozen=True)
class LeastSquares:
    """The loss ``|X w - y|^2 / (2 n)``; ``inputs`` X are (n, d), ``targets`` y (n,)."""

    inputs: Tensor
    targets: Tensor

    @property
    def hessian(self) -> Tensor:
        """``H = X' X / n``, shape (d, d)."""
        return self.inputs.T @ self.inputs / len(self.inputs)

    @cached_property
    def top_eigenvalue(self) -> float:
        """The largest eigenvalue of H."""
        return float(torch.linalg.eigvalsh(self.hessian)[-1])

    def solution(self, decay: float) -> Tensor:
        """Return the ridge regression ``(H + mu I)^-1 X' y / n``, shape (d,)."""
        shifted = self.hessian + decay * torch.eye(self.inputs.shape[1], dtype=self.inputs.dtype)
        return torch.linalg.solve(shifted, self.inputs.T @ self.targets / len(self.targets))


def noise_share(examples: int, batch: int) -> float:
    """Return ``p = (n - B) / (B (n - 1))``: the variance of a mean of B of n numbers, without replacement, over theirs.

    >>> noise_share(11, 1), noise_share(11, 11), noise_share(11, 2)
    (1.0, 0.0, 0.45)
    """
    return (examples - batch) / (batch * (examples - 1))


def largest_stable_rate(inputs: Tensor, batch: int, decay: float = 0.0) -> float:
    r"""Return the learning rate up to which SGD on least squares is stable in the mean square.

    The second moment of the distance of two walks is multiplied by ``M -> E (I - eta A) M (I - eta A)`` with
    ``A = H_B + mu I``. It shrinks for all M just where ``eta < 2 / lambda_max(C^-1 D)``, with
    ``C = ((H + mu I) (+) (H + mu I)) / 2`` and
    ``D = (H + mu I) (x) (H + mu I) + p (sum_i H_i (x) H_i / n - H (x) H)``, ``H_i = x_i x_i'`` and p of
    :func:`noise_share`. Without decay this is the threshold of Mulayoff & Michaeli 2023 (arXiv 2306.07850), who call it
    ``2 / lambda_max(C^+ D)``; with decay the same lines give it, as the penalty is the same for every batch.

    Inputs whose Hessian is singular need a decay.

    >>> one = torch.tensor([[1.0], [3.0]], dtype=torch.float64)  # curvatures 1 and 9: mean 5, variance 16
    >>> round(largest_stable_rate(one, 1) * (5**2 + 16) / 2, 12), round(largest_stable_rate(one, 2) * 5 / 2, 12)
    (5.0, 1.0)
    """
    n, d = inputs.shape
    eigenvalues, basis = torch.linalg.eigh(inputs.T @ inputs / n)
    turned = inputs @ basis
    squares = (turned[:, :, None] * turned[:, None, :]).reshape(n, d * d)
    drift = (eigenvalues[:, None] + eigenvalues).reshape(-1) / 2 + decay
    shifted = eigenvalues + decay
    plain, own = (torch.outer(each, each).reshape(-1) for each in (shifted, eigenvalues))
    second = torch.diag(plain) + noise_share(n, batch) * (squares.T @ squares / n - torch.diag(own))
    root = drift.sqrt()
    return float(2 / torch.linalg.eigvalsh(second / root[:, None] / root)[-1])


def least_squares(site: Site, examples: int, cells: int) -> LeastSquares:
    """Return the problem of a run: the mean brightness of cells x cells parts of its images, each part standardised.

    The target is whether an image is a shoe, centred. Raises :class:`InputError` where a part is the same in all.
    """
    brightness, labels = cells_of_images(site, site.dataset.train, examples, cells)
    spread = brightness.std(0, correction=0)
    if float(spread.min()) == 0:
        raise InputError("expected parts of the images that differ between images, got one that does not: take more")
    shoe = torch.isin(labels, torch.tensor(SHOES))
    targets = 2 * shoe.to(brightness.dtype) - 1
    return LeastSquares((brightness - brightness.mean(0)) / spread, targets - targets.mean())


def cells_of_images(site: Site, split: Split, examples: int, cells: int) -> tuple[Tensor, Tensor]:
    """Return the mean brightness of cells x cells parts of a random subset of the images, and their labels."""
    split = site.subset(split, examples)
    images = normalise(split.inputs, torch.float64).cpu()  # too small a problem for a GPU
    return avg_pool2d(images, images.shape[-1] // cells).flatten(1), split.targets.cpu()


def batches_without_replacement(examples: int, batch: int, walks: int, steps: int, seed: int) -> Iterator[Tensor]:
    """Yield for each step the rows of a batch of every walk, shape (walks, batch)."""
    generator = torch.Generator().manual_seed(seed)
    for _ in range(steps):
        yield torch.rand(walks, examples, generator=generator).topk(batch, dim=1).indices


def thresholds(site: Site, *, examples: int, cells: int, batches: Sequence[int], penalties: Sequence[float]) -> Rows:
    """Compute the largest stable rate at each batch size and penalty; penalties and rates in units of lambda_max."""
    problem, rows = least_squares(site, examples, cells), []
    top = problem.top_eigenvalue
    longest = float(problem.inputs.square().sum(1).max())
    for penalty in penalties:
        for batch in batches:
            rate = largest_stable_rate(problem.inputs, batch, penalty * top) * top
            fact = {"batch": batch, "penalty": penalty, "stable_rate": rate, "top_eigenvalue": top}
            rows.append(fact | {"critical_batch": longest / top + 1})
    return rows


def walks(
    site: Site,
    *,
    examples: int,
    cells: int,
    batches: Sequence[int],
    penalties: Sequence[float],
    rates: Sequence[float],
    walks: int,
    steps: int,
) -> Rows:
    """Measure at each batch size, penalty and rate how many walks run away and in which share of steps the loss falls.

    Rates and penalties are in units of 1 / lambda_max and lambda_max. All rates and penalties see the same batches.
    """
    problem, rows = least_squares(site, examples, cells), []
    top, seed = problem.top_eigenvalue, site.config.training.seed
    grid = [(penalty, rate) for penalty in penalties for rate in rates]
    decays, speeds = (torch.tensor(each, dtype=torch.float64) for each in zip(*grid, strict=True))
    for number, batch in enumerate(batches):
        site.progress(number, len(batches))
        drawn = batches_without_replacement(examples, batch, walks, steps, derived_seed(seed, "walks", batch))
        found = walk(problem, drawn, speeds / top, decays * top, steps)
        for (penalty, rate), *numbers in zip(grid, *(each.tolist() for each in found), strict=True):
            names = ("ran_away", "falls", "growth")
            rows.append({"batch": batch, "penalty": penalty, "rate": rate} | dict(zip(names, numbers, strict=True)))
    return rows


def walk(
    problem: LeastSquares, drawn: Iterator[Tensor], rates: Tensor, decays: Tensor, steps: int
) -> tuple[Tensor, Tensor, Tensor]:
    """Walk from 0 with every pair of a rate and a decay, and return three numbers for each pair.

    These are the share of walks that ran away (and were stopped there); the share of the early steps in which the loss
    over all examples, with its penalty, fell; and the mean of the logarithm by which a step multiplies a difference of
    two walks, their top Lyapunov exponent: what nearly every walk does, whereas the mean square is ruled by few.
    """
    ends = torch.stack([problem.solution(float(decay)) for decay in decays], 1)  # (d, pairs)
    w = torch.zeros(1, *ends.shape, dtype=ends.dtype)
    apart = torch.ones_like(w)
    gone = torch.zeros(1, len(rates), dtype=torch.bool)
    fell, counted, growth = (torch.zeros(len(rates), dtype=ends.dtype) for _ in range(3))
    first = height = _height(problem, w - ends, decays)
    for step, rows in enumerate(drawn):
        x, y = problem.inputs[rows], problem.targets[rows]
        curvature, pull = x.mT @ x / rows.shape[1], x.mT @ y[..., None] / rows.shape[1]
        w = torch.where(gone[:, None], w, w - rates * (curvature @ w - pull + decays * w))
        apart = apart - rates * (curvature @ apart + decays * apart)
        lengths = apart.norm(dim=1, keepdim=True)
        apart = apart / lengths
        growth += lengths[:, 0].log().mean(0) if step >= steps // BURN_IN else 0
        if step < steps // EARLY:
            counts = ~gone & (height > SETTLED * first)
            before, height = height, _height(problem, w - ends, decays)
            fell += ((height < before) & counts).sum(0)
            counted += counts.expand(len(rows), -1).sum(0)
        gone = gone | ((w - ends).norm(dim=1) > RUNS_AWAY * ends.norm(dim=0))
    return gone.double().mean(0), fell / counted, growth / (steps - steps // BURN_IN)


def _height(problem: LeastSquares, away: Tensor, decays: Tensor) -> Tensor:
    """Return twice the loss with its penalty over that of the solution: ``(w - w*)' (H + mu I) (w - w*)``."""
    return (away * (problem.hessian @ away + decays * away)).sum(1)


def basins(
    site: Site,
    *,
    examples: int,
    cells: int,
    batches: Sequence[int],
    rates: Sequence[float],
    flatness: float,
    start: float,
    walks: int,
    steps: int,
) -> Rows:
    """Measure how many walks leave a sharp basin, and a flat one, of the same loss, at each batch size and rate.

    The loss of example i is ``a_i U(w) / 2`` with ``U(w) = min(w^2, kappa (w - 1)^2)``: two minima that every example
    shares, the one at 0 sharper by ``1 / kappa``. ``a_i`` is the squared brightness of the first cell of image i, a
    corner, over its mean: dark in most images, so that examples differ much. Walks start inside a basin at ``start``
    times the way from its minimum to the border. Rates are in units of 1 / a of the sharp basin.

    Near either minimum an update multiplies the distance by ``1 - eta a_B`` (times kappa in the flat one), whose square
    has the mean ``(1 - eta a)^2 + eta^2 p s^2``, a and s^2 mean and variance of the a_i: it shrinks up to
    ``eta = 2 a / (a^2 + p s^2)`` (the one-dimensional condition of Wu, Ma & E 2018).
    """
    squares = cells_of_images(site, site.dataset.train, examples, cells)[0][:, 0].square()
    curvatures = squares / squares.mean()
    speeds = torch.tensor(rates, dtype=torch.float64)
    border, rows = flatness**0.5 / (1 + flatness**0.5), []
    starts = torch.tensor([start * border, 1 - start * (1 - border)], dtype=torch.float64)
    for number, batch in enumerate(batches):
        site.progress(number, len(batches))
        stable = largest_stable_rate(curvatures.sqrt()[:, None], batch)
        seed = derived_seed(site.config.training.seed, "basins", batch)
        drawn = batches_without_replacement(examples, batch, walks, steps, seed)
        left, ended, growth = escapes(curvatures, drawn, speeds, flatness, starts.expand(walks, 2))
        for place, basin, own in ((0, "sharp", stable), (1, "flat", stable / flatness)):
            fact = {"batch": batch, "basin": basin, "stable_rate": own}
            for rate, *numbers in zip(rates, *(each[place].tolist() for each in (left, ended, growth)), strict=True):
                names = ("left", "ended_flat", "growth")
                rows.append(fact | {"rate": rate} | dict(zip(names, numbers, strict=True)))
    return rows


def escapes(
    curvatures: Tensor, drawn: Iterator[Tensor], rates: Tensor, flatness: float, starts: Tensor
) -> tuple[Tensor, Tensor, Tensor]:
    """Walk from ``starts``, shape (walks, starts), and return numbers of shape (starts, rates).

    These are the shares of the walks that ever left their basin, and that ended in the flat one, and the mean of the
    logarithm by which a step multiplies the distance from the minimum of the basin where the walk started, while there.
    """
    w = starts[..., None].expand(*starts.shape, len(rates))
    first = _flat(w, flatness)
    scale = 1 + (flatness - 1) * first[0].to(w.dtype)
    left, growth, steps = torch.zeros_like(first), torch.zeros_like(scale), 0
    for rows in drawn:
        mean = curvatures[rows].mean(1)[:, None, None]
        w = (w - rates * mean * torch.where(_flat(w, flatness), flatness * (w - 1), w)).clamp(-FAR, FAR)
        left |= _flat(w, flatness) != first
        growth, steps = growth + (1 - rates * mean * scale).abs().clamp(min=1 / FAR).log().mean(0), steps + 1
    return left.double().mean(0), (_flat(w, flatness) & (w.abs() < FAR)).double().mean(0), growth / steps


FAR = 1e100
"""Where a walk between the basins is stopped, lest it leaves the finite numbers."""


def _flat(w: Tensor, flatness: float) -> Tensor:
    """Return whether the flat branch of the loss is the lower one."""
    return flatness * (w - 1).square() < w.square()
