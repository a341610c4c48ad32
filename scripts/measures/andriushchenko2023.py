"""Every measure of sharpness on the final weights of one run, larger meaning sharper, and tests on shifted data."""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

from scripts.runner.grid import Rows
from scripts.runner.site import Site
from sharpness.data.corruptions import CORRUPTIONS, corrupted
from sharpness.errors import RunError
from sharpness.measure.subject import Subject
from sharpness.probes import (
    AdaptiveRadius,
    AverageCaseSharpness,
    DirectionalSharpness,
    DistanceFromStart,
    FisherRaoNorm,
    FisherTrace,
    KeskarSharpness,
    PacBayesSigma,
    RelativeFlatness,
    SamSharpness,
    TopEigenvalues,
    Trace,
    WeightNorms,
    WorstCaseSharpness,
)
from sharpness.results import ProbeResult
from sharpness.runs.networks import network_loss

PART = 128
"""Examples of each inner maximum, as in the code of Andriushchenko et al."""
L2, LINF, SIGMA = {"plain": 0.1, "adaptive": 0.5}, {"plain": 1e-3, "adaptive": 1e-2}, {"plain": 0.01, "adaptive": 0.1}
"""Radii of the balls and deviations of the noise by scaling: one each, where the authors sweep several."""


def _value(result: ProbeResult) -> float | None:
    return result.value


def _detail(name: str) -> Callable[[Any], float | None]:
    return lambda result: result.details()[name]


@dataclass(frozen=True)
class Measure:
    """A probe with what is taken of its result."""

    probe: Callable[..., Any]
    number: Callable[[Any], float | None] = _value


def worst_case(norm: str, scaling: str, logits: str, effort: int) -> Measure:
    """Return the worst-case sharpness in one ball: one ascent from the weights, over parts of 128 examples."""
    rho = (L2 if norm == "l2" else LINF)[scaling]
    shared: dict[str, Any] = {"norm": norm, "scaling": scaling, "logits": logits}
    return Measure(WorstCaseSharpness(rho=rho, m=PART, steps=2 * effort, num_starts=1, **shared))


def average_case(scaling: str, logits: str, pairs: int) -> Measure:
    """Return the average-case sharpness under one noise."""
    return Measure(AverageCaseSharpness(sigma=SIGMA[scaling], scaling=scaling, logits=logits, num_pairs=pairs))


def all_measures(effort: int) -> dict[str, Measure]:
    """Return every measure by name.

    ``effort`` is half the steps of an ascent, twice the antithetic pairs of a mean and half the products of a trace, of
    which 20 are the least; Keskar's search makes so many iterations.

    >>> len(all_measures(10))
    27
    """
    products, pairs = max(2 * effort, 20), max(effort // 2, 2)
    search: dict[str, Any] = {"rtol": 2e-2, "num_pairs": pairs}
    measures = {
        "eigenvalue": Measure(TopEigenvalues(num_hvps=products)),
        "trace": Measure(Trace(num_hvps=products)),
        "fisher_trace": Measure(FisherTrace(matrix="empirical_fisher")),
        "directional": Measure(DirectionalSharpness()),
        "keskar": Measure(KeskarSharpness(num_iterations=effort)),
        "sam_plain": Measure(SamSharpness(rho=L2["plain"], m=PART)),
        "sam_adaptive": Measure(SamSharpness(rho=L2["adaptive"], scaling="adaptive", m=PART)),
        "pac_bayes_plain": Measure(PacBayesSigma(**search), _detail("flatness")),
        "pac_bayes_adaptive": Measure(
            PacBayesSigma(scaling="magnitude", first_sigma=0.1, **search), _detail("flatness")
        ),
        "radius_adaptive": Measure(AdaptiveRadius(num_gradients=effort), _detail("sharpness")),
        "relative_flatness": Measure(RelativeFlatness(num_hvps=products)),
        "fisher_rao_norm": Measure(FisherRaoNorm()),
        "weight_norm": Measure(WeightNorms()),
        "spectral_product": Measure(WeightNorms(), _detail("log_spectral_product")),
        "distance": Measure(DistanceFromStart()),
    }
    for logits in ("plain", "normalised"):
        of = "" if logits == "plain" else "_normalised"
        for scaling in ("plain", "adaptive"):
            for norm in ("l2", "linf"):
                measures[f"worst_{norm}_{scaling}{of}"] = worst_case(norm, scaling, logits, effort)
            measures[f"average_{scaling}{of}"] = average_case(scaling, logits, pairs)
    return measures


def measure_run(site: Site, *, examples: int, effort: int, without: list[str]) -> Rows:
    """Return a row per measure of the run's final weights, on a random subset of its training images as they are.

    A measure that cannot be had has no value but a reason.
    """
    subject = site.subject(examples)
    measures = {name: measure for name, measure in all_measures(effort).items() if name not in without}
    rows: Rows = []
    for number, (name, measure) in enumerate(measures.items(), 1):
        rows.append({"measure": name, **row_of(measure, subject)})
        site.progress(number, len(measures))
    return rows


def shifted_tests(site: Site, *, severities: list[int]) -> Rows:
    """Return accuracy and loss of the run's final weights on its test images, corrupted in every way and severity.

    Every run of a study sees the same corrupted images. Deviation: the paper's shifted data are other test sets of
    ImageNet's classes; corruptions are what can be made of any images (Hendrycks, Dietterich 2019, arXiv 1903.12261).
    """
    test, model = site.dataset.test, site.network(site.run.final_checkpoint())
    loss = network_loss(site.config, model, site.batches(test))
    kinds = list(itertools.product(CORRUPTIONS, severities))
    rows: Rows = []
    for number, (name, severity) in enumerate(kinds, 1):
        found = loss.over(site.batches(corrupted(test, name, severity))).evaluate(loss.weights)
        rows.append({"corruption": name, "severity": severity, "accuracy": found.accuracy, "loss": found.loss})
        site.progress(number, len(kinds))
    return rows


def row_of(measure: Measure, subject: Subject) -> Mapping[str, Any]:
    """Return the value of a measure at a subject's weights, or ``None`` with the reason."""
    points = [subject.loss.weights]
    if isinstance(measure.probe, DistanceFromStart) and subject.start is not None:
        points.append(subject.start().weights)
    try:
        result = measure.probe(subject.loss, *points)
    except RunError as error:  # such as a loss that overflows in a ball
        return {"value": None, "reason": str(error), "converged": None, "seconds": None}
    value = measure.number(result)
    if value is not None and not math.isfinite(value):
        value = None
    reason = None if value is not None else "; ".join(f"{k}: {v}" for k, v in result.reasons.items()) or "not finite"
    return {"value": value, "reason": reason, "converged": result.converged, "seconds": result.seconds}
