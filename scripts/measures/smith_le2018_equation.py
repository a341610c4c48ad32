"""SGD beside its stochastic differential equation at one noise scale: on ridge regression and on a small network.

At a fixed noise scale g there is one equation and one walk of SGD for every batch size, whose learning rate is
``g / (n / B - 1)``. Rates and step sizes are in units of 1 / lambda_max on ridge regression, where that is known.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Sequence

import torch
from torch import Tensor
from torch.nn.functional import cross_entropy

from scripts.measures.descent_and_diffusion import Problem, Weights, descent, diffusion
from scripts.measures.sgd_stability import LeastSquares, least_squares
from scripts.measures.smith_le2018_networks import accuracies, first_weights, problem_of, scaled_tests
from scripts.runner.grid import Rows
from scripts.runner.site import Site
from sharpness.loss import Loss
from sharpness.machine.environment import derived_seed
from sharpness.models.fully_connected import relu_network
from sharpness.probes import TopEigenvalues

LATE = 4
"""What is late is the last so many-th part of a walk on a network."""
LOOKS = 25
"""So often is the loss of a network taken there, at equal times: single weights have spikes of it."""
BURN_IN = 5
"""The first so many-th part of a walk on ridge regression is not counted."""


def stationary_excess(problem: LeastSquares, decay: float, noise: float, rate: float) -> float:
    r"""Return the mean loss above its minimum, in the end, of SGD on ridge regression, or of its equation at rate 0.

    With ``A = H + mu I`` and ``noise = eta p``, p that of :func:`scripts.measures.sgd_stability.noise_share`, the
    second moment M of the distance from the solution solves
    ``A M + M A - eta A M A = noise (sum_i H_i M H_i / n - H M H + S)``, ``S = sum_i r_i^2 x_i x_i' / n - c c'`` with
    the residuals r_i at the solution and ``c = sum_i r_i x_i / n``; the excess is ``tr(A M) / 2``. It is what an update
    does to M. In the equation the term with eta is not there: that is all that tells the two apart.

    >>> one = LeastSquares(torch.tensor([[1.0], [1.0]], dtype=torch.float64), torch.tensor([1.0, -1.0]).double())
    >>> stationary_excess(one, 0.0, 0.5, 0.0), round(stationary_excess(one, 0.0, 0.5, 0.5), 6)  # M = noise / (2 - eta)
    (0.125, 0.166667)
    """
    x, hessian = problem.inputs, problem.hessian
    n, d = x.shape
    identity = torch.eye(d, dtype=x.dtype)
    shifted = hessian + decay * identity
    residuals = problem.targets - x @ problem.solution(decay)
    squares = (x[:, :, None] * x[:, None, :]).reshape(n, d * d)
    mean = x.T @ residuals / n
    own = ((squares.T * residuals.square()).sum(1) / n).reshape(d, d) - torch.outer(mean, mean)
    fourth = (squares.T @ squares / n).reshape(d, d, d, d).permute(0, 2, 1, 3).reshape(d * d, d * d)
    drift = torch.kron(shifted, identity) + torch.kron(identity, shifted) - rate * torch.kron(shifted, shifted)
    moment = torch.linalg.solve(drift - noise * (fourth - torch.kron(hessian, hessian)), noise * own.reshape(-1))
    return float((shifted * moment.reshape(d, d)).sum() / 2)


def ridge_equation(
    site: Site,
    *,
    examples: int,
    cells: int,
    penalty: float,
    noise: float,
    batches: Sequence[int],
    step: float,
    time: float,
    seeds: Sequence[int],
) -> Rows:
    """Measure the late excess loss of SGD at each batch size and of the equation, a walk for each seed.

    ``penalty`` is in units of the Hessian's lambda_max, ``step`` and ``time`` in those of 1 / lambda_max with the
    penalty, and ``noise`` is the learning rate of batch 1 in the same: eta p of all of them. Walks start at the
    solution.
    """
    ridge = least_squares(site, examples, cells)
    decay = penalty * ridge.top_eigenvalue
    top = ridge.top_eigenvalue + decay
    problem = Problem(_ridge_losses(decay), ridge.inputs, ridge.targets.expand(len(seeds), -1))
    start, rows = [ridge.solution(decay).expand(len(seeds), -1)], []
    scale = noise * (examples - 1) / top
    for number, batch in enumerate([0, *batches]):
        site.progress(number, len(batches) + 1)
        rate = scale / (examples / batch - 1) if batch else 0.0
        size, drawn = rate or step / top, derived_seed(0, "ridge", batch)
        steps = round(time / top / size)
        if batch:
            walk = descent(problem, start, batch, rate, steps, drawn)
        else:
            walk = diffusion(problem, start, scale, size, steps, drawn)
        theory = stationary_excess(ridge, decay, noise / top, rate)
        fact = {"batch": batch or None, "rate": rate * top, "step": size * top, "theory": theory}
        excess = _late_excess(walk, ridge, decay, steps)
        rows += [fact | {"seed": seed, "excess": value} for seed, value in zip(seeds, excess.tolist(), strict=True)]
    return rows


def _ridge_losses(decay: float) -> Callable[[Weights, Tensor, Tensor], Tensor]:
    """Return the losses of ridge regression: half the squared error, and the penalty with every example."""

    def losses(weights: Weights, inputs: Tensor, targets: Tensor) -> Tensor:
        (w,) = weights
        errors = torch.bmm(inputs, w[..., None])[..., 0] - targets
        return errors.square() / 2 + decay / 2 * w.square().sum(1, keepdim=True)

    return losses


def _late_excess(walk: Iterator[Weights], ridge: LeastSquares, decay: float, steps: int) -> Tensor:
    """Return the mean over the late updates of ``(w - w*)' (H + mu I) (w - w*) / 2``, shape (copies,)."""
    solution, first = ridge.solution(decay), steps // BURN_IN
    shifted = ridge.hessian + decay * torch.eye(len(solution), dtype=solution.dtype)
    total = torch.zeros((), dtype=solution.dtype)
    for number, (w,) in enumerate(walk):
        if number >= first:
            away = w.detach() - solution
            total = total + (away @ shifted * away).sum(1) / 2
    return total / (steps - first)


def network_equation(
    site: Site,
    *,
    images: int,
    cells: int,
    hidden: int,
    noise: float,
    noise_scale: float,
    batches: Sequence[int],
    steps: Sequence[float],
    time: float,
    seeds: Sequence[int],
) -> Rows:
    """Measure late train loss, lambda_max and accuracy of SGD at each batch size, of the equation and without noise.

    The equation is integrated with each of the step sizes ``steps``, and without noise with the last of them.
    ``time`` is the number of updates times the learning rate.
    """
    problem = problem_of(site, images, cells, noise, seeds)
    tests, start, rows = scaled_tests(site, images, cells), first_weights(site, cells, hidden, seeds), []
    walks: list[tuple[str, int | None, float]] = [("flow", None, steps[-1]), *(("equation", None, h) for h in steps)]
    walks += [("sgd", batch, noise_scale / (images / batch - 1)) for batch in batches]
    for number, (kind, batch, size) in enumerate(walks):
        site.progress(number, len(walks))
        count, drawn = round(time / size), derived_seed(0, kind, batch or 0)
        if batch is None:
            scale = noise_scale if kind == "equation" else 0.0
            walk = diffusion(problem, start, scale, size, count, drawn)
        else:
            walk = descent(problem, start, batch, size, count, drawn)
        found = _ends(walk, problem, tests, count)
        rows += [{"kind": kind, "batch": batch, "step": size, "seed": s} | f for s, f in zip(seeds, found, strict=True)]
    return rows


def _ends(walk: Iterator[Weights], problem: Problem, tests: tuple[Tensor, Tensor], count: int) -> Rows:
    """Return for each copy its late loss, and accuracy and lambda_max in the end, without them where it diverged."""
    losses, weights = _late_loss(walk, problem, count)
    rows = []
    for copy, (loss, accuracy) in enumerate(zip(losses.tolist(), accuracies(weights, *tests).tolist(), strict=True)):
        fine = math.isfinite(loss)
        numbers = {"loss": loss, "accuracy": accuracy, "top_eigenvalue": top_of(problem, weights, copy)} if fine else {}
        rows.append({"diverged": not fine} | numbers)
    return rows


def _late_loss(walk: Iterator[Weights], problem: Problem, count: int) -> tuple[Tensor, Weights]:
    """Return the mean of the loss at the late looks, shape (copies,), and the weights in the end."""
    looks = {count - round(number * count / LATE / LOOKS) for number in range(LOOKS)}
    total, weights = torch.zeros(len(problem.targets)), []
    for number, weights in enumerate(walk, 1):
        if number in looks:
            total += problem.loss(weights) / len(looks)
    return total, weights


def top_of(problem: Problem, weights: Weights, copy: int) -> float | None:
    """Return the largest eigenvalue of the Hessian of one copy's loss."""
    first, _, last, _ = weights
    model = relu_network(first.shape[1])((first.shape[2],), last.shape[1], "none")
    with torch.no_grad():
        for parameter, value in zip(model.parameters(), weights, strict=True):
            parameter.copy_(value[copy])
    return TopEigenvalues()(Loss(model, cross_entropy, [(problem.inputs, problem.targets[copy])])).value
