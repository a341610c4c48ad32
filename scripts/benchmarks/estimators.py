"""Products that trace and density estimators take to a true error, on a network whose Hessian is written out."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from scipy.stats import wasserstein_distance

from scripts.benchmarks import curvature_peers as peers
from scripts.benchmarks.networks import Problem
from scripts.benchmarks.rows import Row
from sharpness.curvature import HessianOperator
from sharpness.linalg.density import spectral_density
from sharpness.linalg.operators import FunctionOperator, to_dense
from sharpness.linalg.trace import estimate_trace

SEEDS = range(20)
METHODS: dict[Any, int] = {"xtrace": 20, "hutch++": 30, "hutchinson": 20}
"""Our estimators of the trace, and the fewest products that each takes."""
SIZES = (20, 30, 40, 60, 80, 120, 160, 240, 320, 480, 640, 960)
"""Numbers of products tried."""
SETTINGS = ((10, 1), (20, 1), (40, 1), (80, 1), (100, 1), (10, 4), (20, 4), (40, 4), (80, 4))
"""Steps and starts of the spectral density tried; the last is our default."""
PYHESSIAN_TRACES = (100, 200, 400, 800)
"""Products of PyHessian's trace tried, its stopping rule switched off."""
PYHESSIAN_STARTS = (1, 4, 6)
"""Starts of PyHessian's density tried, each of 100 steps; one is its default."""
WANTED = 2e-2
"""Error of the trace that is to be reached."""


def dense_hessian(problem: Problem) -> tuple[FunctionOperator, torch.Tensor]:
    """Return the Hessian in float64, as an operator and written out: products with it cost next to nothing."""
    dense = to_dense(HessianOperator(problem.loss(torch.float64)))
    dense = (dense + dense.T) / 2
    return FunctionOperator(lambda v: dense @ v, len(dense), torch.float64), dense


def entry(label: str, hvps: Sequence[int], error: float, note: str | None = None) -> Row:
    """Return a line of the table: an estimator, the mean number of its products, and its error."""
    return {"label": label, "num_hvps": float(np.mean(hvps)), "error": error, "note": note}


def trace_entries(problem: Problem) -> list[Row]:
    """Return PyHessian's products and error with its defaults, ours at the same error, and at our certified stop.

    Errors are root mean squares over 20 seeds, relative to the trace.
    """
    operator, dense = dense_hessian(problem)
    truth = float(dense.trace())
    runs = [peers.pyhessian_trace(problem, seed) for seed in SEEDS]
    error = _error([value for value, _ in runs], truth)
    return [
        entry("PyHessian trace(), defaults", [hvps for _, hvps in runs], error),
        *(_trace_at_error(operator, method, truth, error, "PyHessian's error") for method in METHODS),
        *(_trace_at_error(operator, method, truth, WANTED, "2 %") for method in METHODS),
        *(_certified_trace(operator, method, truth) for method in METHODS),
        *_pyhessian_traces(problem, truth),
    ]


def _trace_at_error(operator: FunctionOperator, method: Any, truth: float, target: float, name: str) -> Row:
    """Return the smallest of :data:`SIZES` at which a method's error is no larger than ``target``."""
    error, size = float("inf"), 0
    sizes = [size for size in SIZES if size >= METHODS[method]]
    for size in sizes:
        estimates = [estimate_trace(operator, method, rtol=1e-12, num_products=size, seed=seed) for seed in SEEDS]
        error = _error([each.value for each in estimates], truth)
        if error <= target:
            note = "the fewest it takes" if size == sizes[0] else None
            return entry(f"{method}, at {name}", [size], error, note)
    return entry(f"{method}, at {name}", [size], error, "not reached")


def _certified_trace(operator: FunctionOperator, method: Any, truth: float) -> Row:
    """Return the products at which a method says that it is within 2 % at 95 %, and how often it is right."""
    size = operator.size
    estimates = [estimate_trace(operator, method, rtol=WANTED, num_products=size, seed=seed) for seed in SEEDS]
    covered = sum(each.lower <= truth <= each.upper for each in estimates)
    reached = sum(each.converged for each in estimates)
    note = f"{reached} of {len(SEEDS)} reached it; {covered} intervals hold the trace"
    hvps, error = [each.num_products for each in estimates], _error([each.value for each in estimates], truth)
    return entry(f"{method}, certified 2 % at 95 %", hvps, error, note)


def _pyhessian_traces(problem: Problem, truth: float) -> list[Row]:
    """Return PyHessian's error with its stopping rule switched off, until it is at most 2 %."""
    entries: list[Row] = []
    for products in PYHESSIAN_TRACES:
        values = [peers.pyhessian_trace(problem, seed, products, tol=0)[0] for seed in SEEDS]
        entries.append(entry(f"PyHessian trace(maxIter={products}, tol=0)", [products], _error(values, truth)))
        if entries[-1]["error"] <= WANTED:
            break
    return entries


def _error(values: Sequence[float], truth: float) -> float:
    """Return the root mean square of relative errors."""
    return float(np.sqrt(np.mean(np.square(np.array(values) / truth - 1))))


def density_entries(problem: Problem) -> list[Row]:
    """Return products and Wasserstein-1 distance to the true spectrum, relative to its norm, means over 20 seeds.

    PyHessian's density is called as released, and with ``torch.eig`` supplied.
    """
    operator, dense = dense_hessian(problem)
    spectrum = torch.linalg.eigvalsh(dense).numpy()
    entries = [_released_density(problem)]
    for starts in PYHESSIAN_STARTS:
        with peers.with_torch_eig():
            runs = [peers.pyhessian_density(problem, seed, starts) for seed in SEEDS]
        error = _mean_distance(spectrum, [measure for measure, _ in runs])
        entries.append(entry(f"PyHessian density(n_v={starts}), torch.eig supplied", [n for _, n in runs], error))
    target, reached = entries[1]["error"], list[Row]()
    for steps, starts in SETTINGS:
        error = _mean_distance(spectrum, [_density(operator, steps, starts, seed) for seed in SEEDS])
        entries.append(entry(f"sharpness, {steps} steps, {starts} start{'s' * (starts > 1)}", [steps * starts], error))
        if error <= target:
            reached.append(entries[-1])
    if reached:
        fewest = min(reached, key=lambda each: each["num_hvps"])
        fewest["note"] = "the fewest products at the error of PyHessian's defaults"
    return entries


def _released_density(problem: Problem) -> Row:
    """Return whether PyHessian's density runs as released."""
    line = {"label": "PyHessian density(), as released", "error": None}
    try:
        peers.pyhessian_density(problem, 0)
    except (RuntimeError, AttributeError) as error:
        return line | {"num_hvps": 100, "note": f"fails: {' '.join(str(error).split())[:70]}"}
    return line | {"num_hvps": None, "note": "runs"}


def _density(operator: FunctionOperator, steps: int, starts: int, seed: int) -> peers.Arrays:
    """Return all nodes of our spectral density and their weights, those of each start adding up to 1."""
    density = spectral_density(operator, steps=steps, starts=starts, seed=seed)
    return np.concatenate([*map(np.asarray, density.nodes)]), np.concatenate([*map(np.asarray, density.weights)])


def _mean_distance(spectrum: Any, measures: Sequence[peers.Arrays]) -> float:
    """Return the mean Wasserstein-1 distance from a spectrum over its largest absolute eigenvalue."""
    distances = [wasserstein_distance(spectrum, nodes, v_weights=weights) for nodes, weights in measures]
    return float(np.mean(np.array(distances) / np.abs(spectrum).max()))
