"""The measurements of Dinh et al. 2017 beside the probes: all measures before and after a rescaling, and its blocks."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor

from scripts.runner.grid import Rows
from scripts.runner.site import Site
from sharpness.data import normalise
from sharpness.errors import InputError, RunError
from sharpness.loss import Loss
from sharpness.machine.environment import derived_seed
from sharpness.measure.stress import has_moved, output_change
from sharpness.probes import (
    AverageCaseSharpness,
    FisherRaoNorm,
    FisherTrace,
    KeskarSharpness,
    RelativeFlatness,
    TopEigenvalues,
    Trace,
    WeightNorms,
    WorstCaseSharpness,
)
from sharpness.results import ProbeResult
from sharpness.symmetries.rescaling import Rescaling, find_rescalings
from sharpness.vectors import norm

CHUNK = 4096
"""Pairs of weights whose losses are taken at once."""
BOX = 1e-3
"""Half width of Keskar's box, and of the box in proportion to the weights that is it without the 1 in |x| + 1."""


def probes_of(products: int) -> dict[str, Any]:
    """Return the measures by name, those that are estimated with at most so many products.

    The trace is that of the Gauss-Newton matrix, which is the Hessian's own and is estimated with far fewer products:
    the outputs of a network of linear layers, ReLU and frozen BatchNorm are linear in any single weight, so the rest of
    the Hessian, ``sum_k dl/df_k d2f_k/dw2``, has a diagonal of zeros.
    """
    ball: dict[str, Any] = {"steps": 10, "num_starts": 1}
    return {
        "top_eigenvalue": TopEigenvalues(),
        "trace": Trace(matrix="gauss_newton", rtol=5e-2, num_hvps=products),
        "fisher_trace": FisherTrace(matrix="empirical_fisher"),
        "keskar_box": KeskarSharpness(epsilon=BOX),
        "l2_ball": WorstCaseSharpness(rho=0.05, norm="l2", scaling="plain", **ball),
        "noise": AverageCaseSharpness(sigma=0.01, scaling="plain", num_pairs=10),
        "weight_norm": WeightNorms(),
        "adaptive_box": WorstCaseSharpness(rho=BOX, norm="linf", scaling="adaptive", **ball),
        "adaptive_ball": WorstCaseSharpness(rho=0.5, norm="l2", scaling="adaptive", **ball),
        "adaptive_noise": AverageCaseSharpness(sigma=0.05, scaling="adaptive", num_pairs=10),
        "relative_flatness": RelativeFlatness(num_hvps=products),
        "fisher_rao_norm": FisherRaoNorm(),
    }


def measures(
    site: Site, *, kind: str, names: Sequence[str], alphas: Sequence[float], examples: int, products: int
) -> Rows:
    """Return the named measures of one run at alpha = 1 and after the rescaling by each alpha, and the outputs' change.

    ``outputs`` is the largest difference of the outputs on the ``examples``, over the largest output.
    """
    loss, rescaling = rescalable(site, kind, examples)
    probes, total = {name: probes_of(products)[name] for name in names}, len(alphas) + 1
    before = {name: attempt(probe, loss) for name, probe in probes.items()}
    rows = [row_of(name, 1.0, result) for name, result in before.items()]
    site.progress(1, total)
    for number, alpha in enumerate(alphas, 2):
        other = image(loss, rescaling, alpha)
        change = output_change(loss, loss.weights, other, other.weights)
        rows.append({"measure": "outputs", "alpha": alpha, "value": change, "moved": None, "reason": None})
        for name, probe in probes.items():
            after = attempt(probe, other)
            moved = None
            if isinstance(first := before[name], ProbeResult) and isinstance(after, ProbeResult):
                moved, _ = has_moved(first, after)
            rows.append(row_of(name, alpha, after) | {"moved": moved})
        site.progress(number, total)
    return rows


def blocks(site: Site, *, kind: str, examples: int, products: int) -> Rows:
    """Return top eigenvalue and trace (:func:`probes_of`) of each block of the Hessian at the trained weights.

    A block is of all weights that one power of alpha multiplies; the rescaling multiplies it by ``alpha^(-2 power)``.
    """
    loss, rescaling = rescalable(site, kind, examples)
    parts = parts_of(loss, rescaling)
    rows: Rows = []
    for power, names in parts.items():
        part = loss.restricted(names)
        top = TopEigenvalues()(part)
        trace = Trace(matrix="gauss_newton", rtol=5e-2, num_hvps=products)(part)
        rows.append({"power": power, "weights": part.layout.size, "top_eigenvalue": top.value, "trace": trace.value})
        site.progress(len(rows), len(parts))
    return rows


def constant_network(site: Site, *, epsilon: float, examples: int) -> Rows:
    """Return how much the loss rises in a ball of radius ``epsilon``, found by ascent before and proven after T_alpha.

    With ``alpha = epsilon / ||theta_1||`` the rescaled first layer has the length epsilon, so the ball holds the
    network whose first layer is 0, a constant function (Dinh et al. 2017, there without biases: here the
    first layer's bias goes with its weights, and the last layer's makes the constant).
    """
    loss, rescaling = rescalable(site, "pair", examples)
    first = torch.zeros_like(loss.weights)
    for name, piece in loss.layout.unflatten(first).items():
        piece.fill_(float(rescaling.powers.get(name, 0) == 1))
    alpha = epsilon / norm(first * loss.weights)
    other = image(loss, rescaling, alpha)
    witness = other.weights * (1 - first)
    found = WorstCaseSharpness(rho=epsilon, norm="l2", scaling="plain")(loss)
    site.progress(1, 1)
    return [
        {
            "epsilon": epsilon,
            "alpha": alpha,
            "loss": loss.value(loss.weights),
            "found_rise": found.value,
            "constant_loss": other.value(witness),
            "distance": norm(other.weights - witness),
            "outputs": output_change(loss, loss.weights, other, other.weights),
        }
    ]


def two_weights(site: Site, *, examples: int, rise: float, radii: Sequence[float], draws: int) -> Rows:
    """Measure the area of the low region around the minima of ``y = w2 relu(w1 x)``, within radii around the origin.

    x is the mean brightness of an image and y its class as a number, so the loss ``L = mean (w2 relu(w1 x) - y)^2 / 2``
    is least on the hyperbola ``w1 w2 = p``, ``p = mean(x y) / mean(x^2)``. Low is where L has risen by less than
    ``rise`` of the way to that of the constant network 0. Radii are in units of sqrt(p), areas of p. The weights are
    drawn with random signs and uniform logarithms of their sizes, each draw standing for the area ``|w1 w2|`` times the
    square of the logarithms; sizes too small to reach the region within the largest radius are left out.
    """
    split = site.subset(site.dataset.train, examples)
    x = normalise(split.inputs, torch.float64).flatten(1).mean(1).cpu()
    y = split.targets.to(torch.float64).cpu()
    p, constant = float(x @ y / (x @ x)), float(y.square().mean() / 2)
    lowest = constant - p * float((x * y).mean()) / 2
    largest = max(radii) * p**0.5
    smallest = (1 - rise**0.5) * p / largest
    span = math.log(largest / smallest)
    generator = torch.Generator().manual_seed(derived_seed(site.config.training.seed, "two weights"))
    sizes = smallest * (span * torch.rand(draws, 2, generator=generator, dtype=torch.float64)).exp()
    w = sizes * (2 * torch.randint(2, (draws, 2), generator=generator) - 1)
    losses = [(part[:, 1:] * (part[:, :1] * x).relu() - y).square().mean(1) / 2 for part in w.split(CHUNK)]
    low = torch.cat(losses) < lowest + rise * (constant - lowest)
    stands_for = 4 * span**2 * sizes.prod(1) * low / p
    rows = []
    for radius in radii:
        inside = w.norm(dim=1) < radius * p**0.5
        hits = int((low & inside).sum())
        rows.append({"radius": radius, "area": float((stands_for * inside).mean()), "hits": hits, "rise": rise})
    return rows


def rescalable(site: Site, kind: str, examples: int) -> tuple[Loss, Rescaling]:
    """Return the loss of a run over a random subset of its training set, and the first rescaling of a kind.

    Raises :class:`InputError` where the network has none.
    """
    loss = site.subject(examples).loss
    found = next((group for group in find_rescalings(loss.model) if group.kind == kind), None)
    if found is None:
        raise InputError(f"expected a network with a rescaling of the kind {kind!r}, got one without: {site.run.path}")
    return loss, found


def image(loss: Loss, rescaling: Rescaling, alpha: float) -> Loss:
    """Return the loss with the rescaled tensors, its ``weights`` the image of the trained ones.

    Unlike :func:`sharpness.measure.stress.rescaled` it accepts any change of the outputs, which is measured here.
    """
    tensors = loss.tensors(loss.weights)
    return loss.with_tensors(tensors | rescaling.scaled(tensors, alpha))


def parts_of(loss: Loss, rescaling: Rescaling) -> Mapping[int, list[str]]:
    """Return the names of the trainable weights by the power of alpha that multiplies them."""
    powers = {name: rescaling.powers.get(name, 0) for name in loss.layout.names}
    return {power: [n for n, p in powers.items() if p == power] for power in sorted(set(powers.values()))}


def attempt(probe: Callable[[Loss, Tensor], ProbeResult], loss: Loss) -> ProbeResult | str:
    """Return what a probe finds, or why it finds nothing: far from alpha = 1 a ball may hold infinite losses."""
    try:
        return probe(loss, loss.weights)
    except RunError as error:
        return str(error)


def row_of(name: str, alpha: float, result: ProbeResult | str) -> dict[str, Any]:
    """Return the value of a measure with any interval as a row."""
    row: dict[str, Any] = {"measure": name, "alpha": alpha, "moved": None}
    if isinstance(result, str):
        return row | {"value": None, "lower": None, "upper": None, "seconds": None, "reason": result}
    reason = None if result.value is not None else result.reasons.get("value", "it has no value")
    values = {"value": result.value, "lower": result.lower, "upper": result.upper}
    return row | values | {"seconds": result.seconds, "reason": reason}
