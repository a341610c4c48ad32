"""The measurements of `update_equivalence.py` on a run: distances of end points, gradient noise, and steps that fall.

All of it is in float64: two end points that differ by a thousandth of a step lie within a few roundings of float32.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.nn.functional import cross_entropy

from scripts.measures.update_equivalence_walks import back_after, descend, flat_gradient, relative_distances
from scripts.runner.grid import Rows
from scripts.runner.site import Site
from sharpness.curvature import HessianOperator
from sharpness.data import normalise
from sharpness.errors import InputError
from sharpness.linalg.lanczos import extreme_eigenpairs
from sharpness.loss import Loss
from sharpness.loss.eval_mode import batch_norms
from sharpness.machine.environment import derived_seed

EVALUATION_BATCH = 2000
EIGENVALUE_RTOL, EIGENVALUE_PRODUCTS = 1e-2, 60


@dataclass(frozen=True)
class Place:
    """A network at one of its run's checkpoints, with the training examples as numbers."""

    step: int
    model: nn.Module
    inputs: Tensor
    targets: Tensor
    seed: int
    decay: float

    @property
    def loss(self) -> Loss:
        """The mean cross-entropy over all training examples."""
        pieces = zip(self.inputs.split(EVALUATION_BATCH), self.targets.split(EVALUATION_BATCH), strict=True)
        return Loss(self.model, cross_entropy, list(pieces), dtype=torch.float64)

    def rows(self, name: str, draw: int, size: int) -> Tensor:
        """Return the numbers of ``size`` examples drawn with replacement, so that every batch is independent."""
        generator = torch.Generator().manual_seed(derived_seed(self.seed, name, self.step, draw))
        return torch.randint(len(self.targets), (size,), generator=generator).to(self.targets.device)


def places(site: Site, steps: Sequence[int]) -> Iterator[Place]:
    """Yield the network at the checkpoints kept after these updates; step 0 is where training began.

    Raises :class:`InputError` for a network with BatchNorm, whose examples have no gradient of their own.
    """
    config, train = site.config, site.dataset.train
    inputs, targets = normalise(train.inputs, torch.float64), train.targets
    for step in steps:
        model = site.network(f"checkpoint-{step}" if step else "x0").double().eval()
        if batch_norms(model):
            raise InputError(f"expected a network without BatchNorm, got {config.model.name}: its norm must be 'none'")
        yield Place(step, model, inputs, targets, config.training.seed, config.training.weight_decay)


def distances(
    site: Site, *, steps: Sequence[int], rates: Sequence[float], batches: Sequence[int], small: int, draws: int
) -> Rows:
    """Measure how far B / b small steps and one large step end up apart, at checkpoints, rates and batch sizes.

    ``rates`` are those of the small steps; every rate and batch size sees the same examples. A walk that left the
    finite numbers has distance ``None``.
    """
    rows: Rows = []
    for number, place in enumerate(places(site, steps)):
        site.progress(number, len(steps))
        for draw in range(draws):
            chosen = place.rows("distances", draw, max(batches))
            inputs, targets = place.inputs[chosen], place.targets[chosen]
            for rate in rates:
                found = relative_distances(place.model, inputs, targets, rate, batches, small)
                for batch, (apart, length) in found.items():
                    fact = {"checkpoint": place.step, "draw": draw, "rate": rate, "large_batch": batch}
                    rows.append(fact | {"distance": _finite(apart), "large_step": _finite(length)})
    return rows


def _finite(value: float) -> float | None:
    return value if math.isfinite(value) else None


def curvatures(site: Site, *, steps: Sequence[int]) -> Rows:
    """Measure loss, gradient, ``lambda_max`` and ``|H g| / |g|`` over the training set at checkpoints."""
    rows: Rows = []
    for number, place in enumerate(places(site, steps)):
        site.progress(number, len(steps))
        loss = place.loss
        value, gradient = loss.value_and_grad(loss.weights)
        operator = HessianOperator(loss, loss.weights)
        found = extreme_eigenpairs(operator, 1, rtol=EIGENVALUE_RTOL, num_products=EIGENVALUE_PRODUCTS, seed=place.seed)
        length = float(gradient.norm())
        rows.append(
            {
                "checkpoint": place.step,
                "loss": value,
                "gradient_square": length**2,
                "top_eigenvalue": float(found.eigenvalues[0]),
                "converged": bool(found.converged),
                "along_gradient": float(operator.matvec(gradient).norm()) / length if length else None,
            }
        )
    return rows


def variances(site: Site, *, steps: Sequence[int], batches: Sequence[int], draws: int) -> Rows:
    """Measure ``E |g_B - G|^2`` over random batches of B at checkpoints, G the gradient over the training set.

    Batches are drawn with replacement; without it the variance would be smaller by ``(N - B) / (N - 1)``. For batch 1
    every example is taken once, which is the trace of the covariance without sampling error (McCandlish et al. 2018,
    arXiv 1812.06162, equation 2.2: ``cov(G_B) = Sigma / B``).
    """
    rows: Rows = []
    for number, place in enumerate(places(site, steps)):
        site.progress(number, len(steps))
        whole = flat_gradient(place.model, place.inputs, place.targets)
        square = float(whole.square().sum())
        singles = _mean_square(place, [torch.tensor([row]) for row in range(len(place.targets))], whole)
        rows.append({"checkpoint": place.step, "large_batch": 1, "variance": singles, "gradient_square": square})
        for batch in batches:
            drawn = [place.rows(f"variances {batch}", draw, batch) for draw in range(draws)]
            variance = _mean_square(place, drawn, whole)
            fact = {"checkpoint": place.step, "large_batch": batch}
            rows.append(fact | {"variance": variance, "gradient_square": square})
    return rows


def _mean_square(place: Place, drawn: Sequence[Tensor], whole: Tensor) -> float:
    squares = [
        float((flat_gradient(place.model, place.inputs[rows], place.targets[rows]) - whole).square().sum())
        for rows in drawn
    ]
    return sum(squares) / len(squares)


def falls(site: Site, *, steps: Sequence[int], rate: float, batch: int, updates: int) -> Rows:
    """Measure in which share of the next updates the loss over the training set falls, at checkpoints of a run.

    From each checkpoint the run goes on for ``updates`` updates of its own kind, batches drawn with replacement, and
    the loss is taken after each; the weight decay is the run's. ``norm`` is that of the weights at the checkpoint.
    """
    rows: Rows = []
    for number, place in enumerate(places(site, steps)):
        site.progress(number, len(steps))
        losses = [_value(place)]
        with back_after(place.model) as start:
            for draw in range(updates):
                chosen = place.rows("falls", draw, batch)
                descend(place.model, place.inputs[chosen], place.targets[chosen], rate, place.decay)
                losses.append(_value(place))
        fell = sum(after < before for before, after in itertools.pairwise(losses))
        fact = {"checkpoint": place.step, "loss": losses[0], "share": fell / updates, "updates": updates}
        rows.append(fact | {"norm": float(start.norm())})
    return rows


@torch.no_grad()
def _value(place: Place) -> float:
    return float(cross_entropy(place.model(place.inputs), place.targets))
