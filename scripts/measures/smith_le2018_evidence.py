"""The evidence of logistic regressions by Laplace's approximation: Smith & Le 2018 (arXiv 1710.06451), section 2."""

from __future__ import annotations

import functools
import math
from collections.abc import Sequence
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from scipy.special import expit

from scripts.runner.grid import Rows
from scripts.runner.site import Site
from sharpness.data import Dataset, Split, load_dataset
from sharpness.errors import InputError, RunError
from sharpness.machine.environment import derived_seed

Array = NDArray[np.float64]
KINDS = ("informative", "random")
MAX_STEPS = 200
"""Newton steps of one fit: it takes some 10, and one that takes more than this is an error."""


@functools.lru_cache(maxsize=1)
def whole_dataset(name: str, data_dir: Path | None) -> Dataset:
    """Return a dataset, which a worker reads once for all its draws."""
    return load_dataset(name, data_dir=data_dir)


def evidence(
    site: Site,
    *,
    dataset: str,
    classes: Sequence[int],
    num_train: int,
    draw: int,
    lowest: float,
    highest: float,
    per_decade: int,
) -> Rows:
    """Return for both kinds of labels and each L2 strength what :func:`laplace` and the test images say.

    The number of the draw decides which ``num_train`` images of two classes are taken, and the random labels: fair
    coins, also for all the test images of these classes. It is solved in float64 on the CPU, and reads no run.
    """
    data = whole_dataset(dataset, site.data_dir)
    rng = np.random.default_rng(derived_seed(draw, "evidence"))
    features, signs = two_classes(data.train, classes, num_train, rng)
    test_features, test_signs = two_classes(data.test, classes, None, rng)
    decades = round(per_decade * math.log10(highest / lowest))
    strengths = np.geomspace(highest, lowest, decades + 1)
    rows = []
    for number, kind in enumerate(KINDS):
        if kind == "random":
            signs, test_signs = (rng.choice([-1.0, 1.0], len(each)) for each in (signs, test_signs))
        rows += [{"labels": kind, **row} for row in sweep(features, signs, test_features, test_signs, strengths)]
        site.progress(number + 1, len(KINDS))
    return rows


def two_classes(
    split: Split, classes: Sequence[int], count: int | None, rng: np.random.Generator
) -> tuple[Array, Array]:
    """Return ``count`` random images of two classes as rows of numbers in [0, 1], and -1 or 1 for their classes."""
    rows = np.flatnonzero(np.isin(split.targets.numpy(), classes))
    if count is not None:
        if count > len(rows):
            raise InputError(f"expected at most the {len(rows)} images of classes {classes}, got {count}: ask for less")
        rows = rng.choice(rows, count, replace=False)
    features = split.inputs.numpy()[rows].reshape(len(rows), -1) / 255.0
    return features, np.where(split.targets.numpy()[rows] == classes[1], 1.0, -1.0)


def sweep(features: Array, signs: Array, test_features: Array, test_signs: Array, strengths: Array) -> Rows:
    """Return a row for each strength, each fit started from the one before.

    The best weights lie in the span of the training images, so all is solved in its coordinates, which is exact.
    """
    inside, outside = coordinates(features, test_features)
    weights, rows = np.zeros(inside.shape[1]), []
    for strength in strengths:
        weights = fitted(inside, signs, float(strength), weights)
        margins, test_margins = signs * (inside @ weights), test_signs * (outside @ weights)
        rows.append(
            {"strength": float(strength), **laplace(inside, signs, float(strength), weights)}
            | {"train_accuracy": float(np.mean(margins > 0)), "test_accuracy": float(np.mean(test_margins > 0))}
            | {"test_loss": float(np.mean(np.logaddexp(0.0, -test_margins)))}
        )
    return rows


def coordinates(features: Array, others: Array) -> tuple[Array, Array]:
    """Return images in an orthonormal basis of the span of the first of them, n x r and m x r."""
    _, sizes, basis = np.linalg.svd(features, full_matrices=False)
    basis = basis[sizes > sizes[0] * max(features.shape) * np.finfo(float).eps]
    return features @ basis.T, others @ basis.T


def cost(features: Array, signs: Array, strength: float, weights: Array) -> float:
    """Return ``C(w) = sum_i ln(1 + exp(-y_i w.x_i)) + strength |w|^2 / 2`` (nats), a sum over examples."""
    return float(np.sum(np.logaddexp(0.0, -signs * (features @ weights))) + strength * (weights @ weights) / 2)


def fitted(features: Array, signs: Array, strength: float, start: Array) -> Array:
    """Return the weights of least :func:`cost`, by Newton's method with step halving, to rounding.

    Ends where a whole step promises to lower the cost by less than 1e-10 nats; :class:`RunError` where it does not.
    """
    weights = start
    for _ in range(MAX_STEPS):
        wrong = expit(-signs * (features @ weights))
        slope = strength * weights - features.T @ (signs * wrong)
        step = np.linalg.solve(_curvature(features, wrong) + strength * np.eye(len(weights)), slope)
        promised = float(slope @ step)
        if promised < 1e-10:
            return weights - step
        size, before = 1.0, cost(features, signs, strength, weights)
        while size > 1e-9 and cost(features, signs, strength, weights - size * step) > before - 1e-4 * size * promised:
            size /= 2
        weights = weights - size * step
    raise RunError(f"expected a logistic regression with L2 strength {strength:g} to converge, got none: raise it")


def _curvature(features: Array, wrong: Array) -> Array:
    """Return the Hessian of the cross-entropy (a sum over examples) from the probabilities of the wrong class."""
    return (features.T * (wrong * (1 - wrong))) @ features


def laplace(features: Array, signs: Array, strength: float, weights: Array) -> dict[str, float]:
    """Return the cost at the best weights, the Occam term and the log evidence ratio (nats) of Smith & Le, section 2.

    ``E = C(w) + 1/2 sum_i ln(h_i / strength) - N ln 2`` with the eigenvalues h_i of the Hessian of C, L2 term included:
    minus the log of the evidence over that of a model that gives each class 1/2, so below 0 it beats that. Directions
    outside the span of the images have h_i = strength and add nothing.
    """
    wrong = expit(-signs * (features @ weights))
    values = np.clip(np.linalg.eigvalsh(_curvature(features, wrong)), 0.0, None)
    lowest, occam = cost(features, signs, strength, weights), float(np.sum(np.log1p(values / strength)) / 2)
    return {"cost": lowest, "occam": occam, "log_evidence_ratio": lowest + occam - len(signs) * math.log(2)}
