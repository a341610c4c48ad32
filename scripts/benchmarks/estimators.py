"""How many products trace and density estimators take to a true error, on a network whose Hessian is written out."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from scipy.stats import wasserstein_distance

from scripts.benchmarks import curvature_peers as peers
from scripts.benchmarks.networks import Problem
from sharpness.operators import FunctionOperator, to_dense

SEEDS = range(20)
METHODS = {"xtrace": 20, "hutch++": 30, "hutchinson": 20}
"""Our estimators of the trace, and the fewest products that each takes."""
SIZES = (20, 30, 40, 60, 80, 120, 160, 240, 320, 480, 640, 960)
"""Numbers of products tried."""
SETTINGS = ((10, 1), (20, 1), (40, 1), (80, 1), (100, 1), (10, 4), (20, 4), (40, 4), (80, 4))
"""Steps and starts of the spectral density tried; the last is our default."""
PYHESSIAN_TRACES = (100, 200, 400, 800)
"""Products of PyHessian's trace tried, its stopping rule switched off."""
PYHESSIAN_STARTS = (1, 4, 6)
"""Starts of PyHessian's density tried, each of 100 steps; one is its default."""
Entry = dict[str, Any]


def dense_hessian(problem: Problem) -> tuple[FunctionOperator, torch.Tensor]:
    """Return the Hessian in float64, as an operator and written out: products with it cost next to nothing."""
    dense = to_dense(peers.our_operator(problem.loss(torch.float64)))
    dense = (dense + dense.T) / 2
    return FunctionOperator(lambda v: dense @ v, len(dense), torch.float64), dense


def trace_entries(problem: Problem) -> list[Entry]:
    """Return PyHessian's products and error with its defaults, ours at the same error, and at our certified stop.

    Errors are root mean squares over 20 seeds, relative to the trace.
    """
    operator, dense = dense_hessian(problem)
    truth = float(dense.trace())
    runs = [peers.pyhessian_trace(problem, seed) for seed in SEEDS]
    error = _rms([value / truth - 1 for value, _ in runs])
    entries = [_entry("PyHessian trace(), defaults", [hvps for _, hvps in runs], error)]
    for method in METHODS:
        entries.append(_trace_at_error(operator, method, truth, error, "PyHessian's error"))
    for method in METHODS:
        entries.append(_trace_at_error(operator, method, truth, 2e-2, "2 %"))
    for method in METHODS:
        estimates = [peers.our_trace(operator, method, seed, rtol=2e-2, num_products=operator.size) for seed in SEEDS]
        covered = sum(each.lower <= truth <= each.upper for each in estimates)
        reached = sum(each.converged for each in estimates)
        note = f"{reached} of {len(SEEDS)} reached it; {covered} intervals hold the trace"
        error_here = _rms([each.value / truth - 1 for each in estimates])
        entries.append(
            _entry(f"{method}, certified 2 % at 95 %", [e.num_products for e in estimates], error_here, note)
        )
    return entries + _pyhessian_traces(problem, truth)


def _pyhessian_traces(problem: Problem, truth: float) -> list[Entry]:
    """Return PyHessian's error with its stopping rule switched off, until it is at most 2 %."""
    entries: list[Entry] = []
    for products in PYHESSIAN_TRACES:
        values = [peers.pyhessian_trace(problem, seed, products, tol=0)[0] for seed in SEEDS]
        entries.append(
            _entry(f"PyHessian trace(maxIter={products}, tol=0)", [products], _rms([v / truth - 1 for v in values]))
        )
        if entries[-1]["error"] <= 2e-2:
            break
    return entries


def _trace_at_error(operator: FunctionOperator, method: str, truth: float, target: float, name: str) -> Entry:
    """Return the smallest of :data:`SIZES` at which a method's error is no larger than ``target``."""
    error, size = float("inf"), 0
    sizes = [size for size in SIZES if size >= METHODS[method]]
    for size in sizes:
        estimates = [peers.our_trace(operator, method, seed, rtol=1e-12, num_products=size) for seed in SEEDS]
        error = _rms([each.value / truth - 1 for each in estimates])
        if error <= target:
            note = "the fewest it takes" if size == sizes[0] else ""
            return _entry(f"{method}, at {name}", [size], error, note)
    return _entry(f"{method}, at {name}", [size], error, "not reached")


def density_entries(problem: Problem) -> list[Entry]:
    """Return products and Wasserstein-1 distance to the true spectrum, relative to its norm, means over 20 seeds.

    PyHessian's density is called as released, and with ``torch.eig`` supplied.
    """
    operator, dense = dense_hessian(problem)
    spectrum = torch.linalg.eigvalsh(dense).numpy()
    try:
        peers.pyhessian_density(problem, 0)
        released = {"label": "PyHessian density(), as released", "num_hvps": None, "error": None, "note": "runs"}
    except (RuntimeError, AttributeError) as error:
        note = f"fails: {' '.join(str(error).split())[:70]}"
        released = {"label": "PyHessian density(), as released", "num_hvps": 100, "error": None, "note": note}
    entries = [released]
    for starts in PYHESSIAN_STARTS:
        with peers.with_torch_eig():
            runs = [peers.pyhessian_density(problem, seed, starts) for seed in SEEDS]
        error = float(np.mean([_distance(spectrum, nodes, weights) for nodes, weights, _ in runs]))
        entries.append(_entry(f"PyHessian density(n_v={starts}), torch.eig supplied", [n for *_, n in runs], error))
    target, reached = entries[1]["error"], []
    for steps, starts in SETTINGS:
        pairs = [peers.our_density(operator, steps, starts, seed) for seed in SEEDS]
        error = float(np.mean([_distance(spectrum, *pair) for pair in pairs]))
        entries.append(_entry(f"sharpness, {steps} steps, {starts} start{'s' * (starts > 1)}", [steps * starts], error))
        if error <= target:
            reached.append((steps * starts, entries[-1]))
    if reached:
        min(reached, key=lambda pair: pair[0])[1]["note"] = "the fewest products at the error of PyHessian's defaults"
    return entries


def _distance(spectrum: NDArray[np.float64], nodes: NDArray[np.float64], weights: NDArray[np.float64]) -> float:
    """Return the Wasserstein-1 distance of two measures over the largest absolute eigenvalue."""
    return float(wasserstein_distance(spectrum, nodes, v_weights=weights) / np.abs(spectrum).max())


def _rms(values: list[float]) -> float:
    return float(np.sqrt(np.mean(np.square(values))))


def _entry(label: str, hvps: list[int], error: float, note: str = "") -> Entry:
    return {"label": label, "num_hvps": float(np.mean(hvps)), "error": error, "note": note}
