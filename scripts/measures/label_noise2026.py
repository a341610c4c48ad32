r"""The measurements of `label_noise2026.py`: networks with one hidden layer on cells of images, in float64.

The network is ``f(x) = U phi(W x)``, U of shape (o, h), W (h, d), without biases; its loss ``mean |y - f(x)|^2 / 2``.
With phi the identity every gradient obeys ``U' g_U = g_W W'``, whatever example it is of. An update with the rate eta
therefore changes ``U'U - WW'`` by exactly ``eta^2 (g_U' g_U - g_W g_W')``: the loss does not move along the set of its
minima, gradient flow neither, and SGD does until ``E g_U' g_U = E g_W g_W'``. At a minimum, where ``UW`` is the least
squares solution V with residuals r, that is where ``E |g|^2 = tr(W C W') + tr(U' D U)`` is least, with
``C = E |r|^2 x x'`` and ``D = E |x|^2 r r'``. Both that minimum and the flattest one are known in closed form.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import NamedTuple

import torch
from torch import Tensor

from scripts.measures.sgd_stability import cells_of_images
from scripts.runner.grid import Rows
from scripts.runner.site import Site
from sharpness.errors import InputError
from sharpness.machine.environment import derived_seed

OUTPUTS = ((5, 7, 9), (0, 2, 4, 6))
"""Classes of Fashion-MNIST whose target is 1 in each output: shoes, and what is worn above the belt."""
NOISE = 8.0
"""The variance of the label noise summed over outputs; that of each output's signal is 1."""
SCALE = 0.3
"""The standard deviation of weights at a random start."""


class Factors(NamedTuple):
    """The weights of a network: ``outer`` U (..., o, h) and ``inner`` W (..., h, d)."""

    outer: Tensor
    inner: Tensor


@dataclass(frozen=True)
class Regression:
    """Inputs (n, d), centred, and targets (n, o)."""

    inputs: Tensor
    targets: Tensor

    @cached_property
    def solution(self) -> Tensor:
        """The least-squares solution V, shape (o, d)."""
        return torch.linalg.lstsq(self.inputs, self.targets).solution.T

    @cached_property
    def moment(self) -> Tensor:
        """``E x x'``, shape (d, d)."""
        return self.inputs.T @ self.inputs / len(self.inputs)

    @cached_property
    def fluctuations(self) -> tuple[Tensor, Tensor]:
        """``C = E |r|^2 x x'`` (d, d) and ``D = E |x|^2 r r'`` (o, o), r the residuals of the solution."""
        x, r = self.inputs, self.targets - self.inputs @ self.solution.T
        return (x * r.square().sum(1, keepdim=True)).T @ x / len(x), (r * x.square().sum(1, keepdim=True)).T @ r / len(
            x
        )

    def flattest(self) -> Factors:
        """Return the minimum whose Hessian has the least trace, ``o tr(W E[xx'] W') + E|x|^2 |U|^2``."""
        o = len(self.solution)
        return least(self.solution, o * self.moment, self.moment.trace() * torch.eye(o, dtype=self.moment.dtype))

    def quietest(self) -> Factors:
        """Return the minimum at which ``E |g|^2`` is least, where SGD goes."""
        return least(self.solution, *self.fluctuations)


def least(product: Tensor, right: Tensor, left: Tensor) -> Factors:
    """Return U, W of ``U W = product`` with the least ``tr(W right W') + tr(U' left U)``, the hidden width their rank.

    With L S R' the singular value decomposition of ``left^1/2 product right^1/2``, ``U = left^-1/2 L S^1/2`` and
    ``W = S^1/2 R' right^-1/2``; the least value is twice the sum of the singular values.

    >>> one = torch.eye(1, dtype=torch.float64)
    >>> u, w = least(3 * one, 4 * one, one)
    >>> round(float(u * w), 9), round(float(4 * w**2 + u**2), 9)     # 2 * 3 * sqrt(4)
    (3.0, 12.0)
    """
    a, b = root(left), root(right)
    outer, values, inner = torch.linalg.svd(a @ product @ b, full_matrices=False)
    return Factors(
        torch.linalg.solve(a, outer * values.sqrt()), torch.linalg.solve(b, inner.T * values.sqrt()).T.contiguous()
    )


def root(matrix: Tensor) -> Tensor:
    """Return the symmetric square root of a positive definite matrix."""
    eigenvalues, basis = torch.linalg.eigh(matrix)
    if float(eigenvalues[0]) <= 0:
        raise InputError("expected inputs and residuals of full rank, got a singular moment: take more examples")
    return basis * eigenvalues.sqrt() @ basis.T


def widened(factors: Factors, hidden: int) -> Factors:
    """Return the same function with hidden units that do nothing added."""
    (outer, inner), more = factors, hidden - factors.inner.shape[0]
    return Factors(torch.nn.functional.pad(outer, (0, more)), torch.nn.functional.pad(inner, (0, 0, 0, more)))


def curvature(x: Tensor, factors: Factors, activation: str = "linear") -> tuple[float, float]:
    """Return trace and largest eigenvalue of the Gauss-Newton matrix of the loss over the inputs x (n, d).

    At a minimum of the linear network, where residuals and inputs do not correlate, it is the Hessian.

    >>> one = torch.ones(1, 1, dtype=torch.float64)
    >>> [round(each, 9) for each in curvature(one, Factors(2 * one, 3 * one))]      # 3^2 + 2^2, of one output
    [13.0, 13.0]
    """
    (outer, inner), n = factors, len(x)
    o, h = outer.shape
    phi, slope = ACTIVATIONS[activation]
    z = x @ inner.T
    to_outer = torch.einsum("pq,nk->nqpk", torch.eye(o, dtype=x.dtype), phi(z)).reshape(n * o, o * h)
    to_inner = torch.einsum("qk,nk,nj->nqkj", outer, slope(z), x).reshape(n * o, -1)
    jacobian = torch.cat([to_outer, to_inner], 1)
    matrix = jacobian.T @ jacobian / n
    return float(matrix.trace()), float(torch.linalg.eigvalsh(matrix)[-1])


ACTIVATIONS: Mapping[str, tuple[Callable[[Tensor], Tensor], Callable[[Tensor], Tensor]]] = {
    "linear": (lambda z: z, torch.ones_like),
    "tanh": (torch.tanh, lambda z: 1 - torch.tanh(z).square()),
}
"""phi and its derivative by name."""


@dataclass(frozen=True)
class Problem:
    """The images of a run: inputs and clean targets of training and test examples, and the draws behind the noise."""

    inputs: Tensor
    signal: Tensor
    test_inputs: Tensor
    test_signal: Tensor
    draws: Tensor

    def noisy(self, imbalance: float) -> Regression:
        """Return the training examples with noise whose variances in the two outputs are in this ratio."""
        variances = torch.tensor([imbalance, 1.0], dtype=self.signal.dtype) * NOISE / (1 + imbalance)
        return Regression(self.inputs, self.signal + self.draws * variances.sqrt())

    def test_loss(self, factors: Factors, activation: str) -> float:
        """Return the loss against the clean targets of the test examples."""
        outputs = ACTIVATIONS[activation][0](self.test_inputs @ factors.inner.T) @ factors.outer.T
        return float((outputs - self.test_signal).square().sum(1).mean() / 2)


def problem_of(site: Site, examples: int, cells: int) -> Problem:
    """Return the problem of a run.

    Clean targets are the linear functions of the cells nearest to :data:`OUTPUTS`, each of variance 1, the second one
    without what it has in common with the first.
    """
    x, labels = cells_of_images(site, site.dataset.train, examples, cells)
    unseen, _ = cells_of_images(site, site.dataset.test, examples, cells)
    mean, spread = x.mean(0), x.std(0, correction=0)
    if float(spread.min()) == 0:
        raise InputError("expected parts of the images that differ between images, got one that does not: take more")
    x, unseen = ((each - mean) / spread for each in (x, unseen))
    wanted = torch.stack([torch.isin(labels, torch.tensor(each)) for each in OUTPUTS], 1).to(x.dtype)
    fitted = torch.linalg.qr(x @ torch.linalg.lstsq(x, wanted - wanted.mean(0)).solution).Q * len(x) ** 0.5
    nearest = torch.linalg.lstsq(x, fitted).solution
    generator = torch.Generator().manual_seed(derived_seed(site.config.training.seed, "label noise"))
    draws = torch.randn(len(x), len(OUTPUTS), generator=generator, dtype=x.dtype)
    return Problem(x, x @ nearest, unseen, unseen @ nearest, draws)


class Arm(NamedTuple):
    """A way to train: the noise's imbalance, where from, on what batch (None: full), at what rate and how long."""

    imbalance: float
    start: str
    batch: int | None
    rate: float
    steps: int
    activation: str = "linear"


def walks(
    site: Site,
    *,
    examples: int,
    cells: int,
    hidden: int,
    arms: Sequence[Sequence[object]],
    scale: float,
    walks: int,
    settling: int,
    marks: int,
) -> Rows:
    """Train every arm, and return trace and top eigenvalue on its way (with ``step``) and at its end, mean over walks.

    Arms start at the flattest minimum, at the same function with U ``scale`` times as large and W as much smaller
    ("sharp"), or at small random weights ("random"), which are the same for all arms. A full batch has one walk. The
    end comes after ``settling`` updates of the full batch, which lead to a minimum and leave ``U'U - WW'`` as it was
    but for terms of the order of the rate.
    """
    problem, rows, seed = problem_of(site, examples, cells), Rows(), site.config.training.seed
    alike: dict[tuple[int | None, str, int], list[Arm]] = {}
    for arm in (Arm(*each) for each in arms):  # type: ignore[arg-type]
        alike.setdefault((arm.batch, arm.activation, arm.steps), []).append(arm)
    for number, ((batch, activation, steps), own) in enumerate(alike.items()):
        site.progress(number, len(alike))
        count = walks if batch else 1
        problems = [problem.noisy(arm.imbalance) for arm in own]
        begun = [start(of, arm.start, hidden, scale, seed, count) for of, arm in zip(problems, own, strict=True)]
        targets = torch.stack([of.targets for of in problems]).repeat_interleave(count, 0)
        rates = torch.tensor([arm.rate for arm in own], dtype=targets.dtype).repeat_interleave(count)
        drawn = batches(len(targets), examples, batch, steps, derived_seed(seed, "walks", batch or 0))
        first = Factors(*(torch.cat(each) for each in zip(*begun, strict=True)))
        way = list(train(problem.inputs, targets, first, rates, drawn, activation, max(1, steps // marks)))
        end = settled(problem.inputs, targets, way[-1][1], rates, activation, settling)
        for place, arm in enumerate(own):
            mine = slice(place * count, (place + 1) * count)
            facts = arm._asdict() | {"batch": batch or examples}
            rows += [facts | {"step": step} | seen(problem, weights, mine, activation) for step, weights in way]
            rows.append(facts | {"step": None} | seen(problem, end, mine, activation))
    return rows


def start(of: Regression, kind: str, hidden: int, scale: float, seed: int, count: int) -> Factors:
    """Return the weights at which so many walks begin, shapes (count, o, h) and (count, h, d)."""
    if kind == "random":
        generator, (o, d) = torch.Generator().manual_seed(derived_seed(seed, "start")), of.solution.shape
        shapes = ((count, o, hidden), (count, hidden, d))
        return Factors(*(SCALE * torch.randn(each, generator=generator, dtype=of.inputs.dtype) for each in shapes))
    outer, inner = widened(of.flattest(), hidden)
    times = scale if kind == "sharp" else 1.0
    return Factors(times * outer.expand(count, -1, -1), inner.expand(count, -1, -1) / times)


def batches(walks: int, examples: int, batch: int | None, steps: int, seed: int) -> Iterator[Tensor | None]:
    """Yield for each step the rows of every walk's batch, shape (walks, batch), drawn with replacement; None: all."""
    generator = torch.Generator().manual_seed(seed)
    for _ in range(steps):
        yield None if batch is None else torch.randint(examples, (walks, batch), generator=generator)


def train(
    x: Tensor,
    targets: Tensor,
    weights: Factors,
    rates: Tensor,
    drawn: Iterator[Tensor | None],
    activation: str,
    every: int,
) -> Iterator[tuple[int, Factors]]:
    """Train walks side by side and yield their weights with the number of updates, the first and every so many.

    ``targets`` are (walks, n, o) and ``rates`` (walks,). The update is ``w <- w - eta g``, g the mean over the batch.
    """
    phi, slope = ACTIVATIONS[activation]
    (outer, inner), eta = weights, rates[:, None, None]
    walks = torch.arange(len(targets))[:, None]
    yield 0, weights
    for step, rows in enumerate(drawn, 1):
        inputs, wanted = (x, targets) if rows is None else (x[rows], targets[walks, rows])
        z = inputs @ inner.mT
        hidden = phi(z)
        error = (hidden @ outer.mT - wanted) / wanted.shape[1]
        back = error @ outer * slope(z)
        outer, inner = outer - eta * (error.mT @ hidden), inner - eta * (back.mT @ inputs)
        if step % every == 0:
            yield step, Factors(outer, inner)


def settled(x: Tensor, targets: Tensor, weights: Factors, rates: Tensor, activation: str, steps: int) -> Factors:
    """Return the weights after so many updates of :func:`train` on the full batch.

    Those of the linear network are computed from ``E x x'`` and ``E y x'``, which is the same and does not take the
    time of all examples.
    """
    if activation != "linear":
        everything = batches(len(targets), len(x), None, steps, 0)
        *_, (_, end) = train(x, targets, weights, rates, everything, activation, steps)
        return end
    moment, both = x.T @ x / len(x), targets.mT @ x / len(x)
    (outer, inner), eta = weights, rates[:, None, None]
    for _ in range(steps):
        slope = outer @ inner @ moment - both
        outer, inner = outer - eta * slope @ inner.mT, inner - eta * outer.mT @ slope
    return Factors(outer, inner)


def seen(problem: Problem, weights: Factors, walks: slice, activation: str) -> dict[str, float | None]:
    """Return the mean over walks of trace, top eigenvalue and test loss; None where weights are not finite."""
    outer, inner = (each[walks] for each in weights)
    names = ("trace", "top_eigenvalue", "test_loss")
    if not bool(outer.isfinite().all() and inner.isfinite().all()):
        return dict.fromkeys(names)
    each = [Factors(*pair) for pair in zip(outer, inner, strict=True)]
    found = [(*curvature(problem.inputs, one, activation), problem.test_loss(one, activation)) for one in each]
    return dict(zip(names, torch.tensor(found, dtype=torch.float64).mean(0).tolist(), strict=True))


def minima(site: Site, *, examples: int, cells: int, imbalances: Sequence[float]) -> Rows:
    """Compute trace and top eigenvalue of the flattest minimum and of the one with the least noise of the gradient."""
    problem, rows = problem_of(site, examples, cells), Rows()
    for imbalance in imbalances:
        of = problem.noisy(imbalance)
        row: dict[str, float] = {"imbalance": imbalance}
        for name, weights in (("flattest", of.flattest()), ("quietest", of.quietest())):
            row |= dict(zip((f"{name}_trace", f"{name}_top"), curvature(of.inputs, weights), strict=True))
        rows.append(row)
    return rows
