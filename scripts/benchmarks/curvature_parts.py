"""What one process of the curvature benchmark measures: each function is one job and returns one row of plain types."""

from __future__ import annotations

import hashlib
import importlib.metadata
from collections.abc import Callable
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from scripts.benchmarks import curvature_peers as peers
from scripts.benchmarks.estimators import density_entries, trace_entries
from scripts.benchmarks.networks import Problem, gpt2_at_scale, load_problem, tiny_problem
from scripts.benchmarks.rows import Job, Row
from scripts.benchmarks.tools import Answer, Cost, interleaved, measured, vector_bytes
from sharpness.machine.environment import derived_seed
from sharpness.operators import SymmetricOperator
from sharpness.vectors import random_unit_vector

TRUTH_RTOL, TRUTH_HVPS = 1e-8, 400
NUM_STARTS = 5
MIB = 1 << 20


def run_job(job: Job, runs: Path) -> Row:
    """Do one job in this process and return its row."""
    torch.set_num_threads(job.threads)
    return PARTS[job.part](job, runs)


def prepare(job: Job, runs: Path) -> Row:
    """Train or load a network, and hash what all tools will measure."""
    problem = load_problem(job.network, job.examples, runs)
    loss = problem.loss()
    weights = loss.weights.numpy().tobytes()
    return {
        "num_parameters": loss.weights.numel(),
        "num_examples": loss.num_examples,
        "batch_size": loss.num_examples // len(problem.batches),
        "loss": loss.value(loss.weights),
        "data_sha256": loss.data_sha256(),
        "weights_sha256": hashlib.sha256(weights).hexdigest(),
    }


def truth(job: Job, runs: Path) -> Row:
    """Solve the same network in float64 to 1e-8."""
    loss = load_problem(job.network, job.examples, runs).loss(torch.float64)
    answer, spent = measured(lambda: peers.our_top_eigenvalue(loss, TRUTH_RTOL, num_hvps=TRUTH_HVPS))
    return _row(answer, spent)


def eigenvalue(job: Job, runs: Path) -> Row:
    """Let one tool find the top eigenvalue, after it has loaded what it needs on a problem of 9 parameters."""
    _, tool, distribution = peers.TOOLS[job.tool]
    problem = load_problem(job.network, job.examples, runs)
    tool(tiny_problem())
    loss = problem.loss()
    gradient = interleaved({"gradient": lambda: loss.grad(loss.weights)}, 4)["gradient"]
    answer, spent = measured(lambda: tool(problem))
    ratio = spent.seconds / max(answer.num_hvps, 1) / gradient
    version = importlib.metadata.version(distribution)
    return _row(answer, spent) | {"gradient_seconds": gradient, "hvp_gradients": ratio, "version": version}


def starts(job: Job, runs: Path) -> Row:
    """Let one tool find the top eigenvalue from :data:`NUM_STARTS` random starts other than that of the main table."""
    _, tool, _ = peers.TOOLS[job.tool]
    problem = load_problem(job.network, job.examples, runs)
    tool(tiny_problem())
    answers = [measured(lambda seed=seed: tool(problem, seed)) for seed in range(1, NUM_STARTS + 1)]
    names = ("value", "num_hvps", "converged")
    rows = [{name: getattr(a, name) for name in names} | {"seconds": spent.seconds} for a, spent in answers]
    return {"starts": rows, "reasons": {}}


def cost(job: Job, runs: Path) -> Row:
    """Time a gradient, a product on kept graphs and one that rebuilds them, in turns."""
    loss = load_problem(job.network, job.examples, runs).loss()
    kept, rebuilt = peers.our_operator(loss, 1 << 40), peers.our_operator(loss, 0)
    v = _direction(kept)
    calls: dict[str, Callable[[], object]] = {
        "gradient": lambda: loss.grad(loss.weights),
        "cached": lambda: kept.matvec(v),
        "uncached": lambda: rebuilt.matvec(v),
    }
    interleaved(calls, 1)  # builds the graphs that are kept, and touches everything once
    seconds = interleaved(calls, 7)
    return {
        "gradient_seconds": seconds["gradient"],
        "cached_seconds": seconds["cached"],
        "uncached_seconds": seconds["uncached"],
        "cached_ratio": seconds["cached"] / seconds["gradient"],
        "uncached_ratio": seconds["uncached"] / seconds["gradient"],
        "kept_bytes": kept.kept_bytes,
    }


def memory(job: Job, runs: Path) -> Row:
    """Measure our peak with a cache of ``tool`` MiB against cache and vectors: the basis, and four more."""
    problem = load_problem(job.network, job.examples, runs)
    graph = graph_bytes(problem)
    loss, budget = problem.loss(), int(job.tool) * MIB
    answer, spent = measured(lambda: peers.our_top_eigenvalue(loss, cache=budget))
    vectors = (answer.num_hvps + 4) * vector_bytes(loss.weights)
    row = _row(answer, spent) | {"budget_bytes": budget, "vectors_bytes": vectors, "graph_bytes": graph}
    return row | {"peak_over_allowed": None if spent.peak_bytes is None else spent.peak_bytes / (budget + vectors)}


def scale(job: Job, runs: Path) -> Row:
    """Certify GPT-2 to 5 % at 99 % by the way that ``tool`` names, and count the vectors of its size at the peak."""
    problem = gpt2_at_scale(job.network)
    graph = graph_bytes(problem)
    loss = problem.loss()
    answer, spent = measured(lambda: peers.our_top_eigenvalue(loss, 5e-2, cache=0, **SCALE_KNOBS[job.tool]))
    peak, size = spent.peak_bytes, vector_bytes(loss.weights)
    row = _row(answer, spent) | {"num_parameters": loss.weights.numel(), "graph_bytes": graph}
    vectors = {"peak_vectors": peak, "peak_vectors_without_graph": None if peak is None else peak - graph}
    return row | {name: None if number is None else number / size for name, number in vectors.items()}


def estimators(job: Job, runs: Path) -> Row:
    """Compare trace or density estimators on the network whose whole spectrum is known."""
    entries = trace_entries if job.tool == "trace" else density_entries
    return {"entries": entries(load_problem(job.network, job.examples, runs)), "reasons": {}}


SCALE_KNOBS: dict[str, dict[str, Any]] = {
    "full basis": {},
    "basis of 6": {"max_basis": 6},
    "basis-free": {"basis_free": True},
}
PARTS: dict[str, Callable[[Job, Path], Row]] = {
    "prepare": prepare,
    "truth": truth,
    "eigenvalue": eigenvalue,
    "starts": starts,
    "cost": cost,
    "memory": memory,
    "scale": scale,
    "estimators": estimators,
}


def graph_bytes(problem: Problem) -> int:
    """Return the bytes that the graph of the first batch holds, which exists once whatever is kept."""
    operator = peers.our_operator(replace(problem, batches=problem.batches[:1]).loss(), 1 << 40)
    operator.matvec(_direction(operator))
    return operator.kept_bytes


def _direction(operator: SymmetricOperator) -> Tensor:
    seed = derived_seed(peers.SEED, "benchmark", "direction")
    return random_unit_vector(operator.size, seed, operator.dtype, operator.device)


def _row(answer: Answer, spent: Cost) -> Row:
    return asdict(answer) | asdict(spent) | {"reasons": answer.reasons | spent.reasons}
