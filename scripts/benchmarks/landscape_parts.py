"""What one process of the landscape benchmark measures: each function is one job and returns one row of plain types."""

from __future__ import annotations

import importlib.metadata
import itertools
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from statistics import median
from typing import Any

import torch

from scripts.benchmarks.landscape_peers import TOOLS, difference
from scripts.benchmarks.landscape_work import Bare, Grid, Line, Losses, Work, even_direction
from scripts.benchmarks.networks import BATCH_OF, Problem, load_problem
from scripts.benchmarks.rows import Job, Row, reason_of
from scripts.benchmarks.tools import interleaved, seconds_of
from sharpness.machine.environment import derived_seed
from sharpness.probes import GradientNoise, KeskarMaximum, KeskarSharpness
from sharpness.probes.methods.keskar_box import phi

LINE_POINTS, PLANE_POINTS = 25, 21
LINE_REPEATS, PLANE_REPEATS, NOISE_REPEATS = 5, 3, 3
REACH = 0.5
"""How far the plane goes on each side, in lengths of the weights."""
SHARE = 5
"""The plane and the single examples are measured on one batch in so many."""
ITERATIONS, GRADIENTS = 50, 15
"""Iterations of L-BFGS-B, and the gradients within which our search is to be as high."""


def run_job(job: Job, runs: Path) -> Row:
    """Do one job in this process and return its row."""
    torch.set_num_threads(job.threads)
    problem = load_problem(job.network, job.examples, runs)
    row = PARTS[job.part](job, problem, runs)
    size = problem.loss().layout.size
    return {"reasons": {}, "num_parameters": size, "batch_size": len(problem.batches[0][0])} | row


def line(job: Job, problem: Problem, runs: Path) -> Row:
    """Time 25 points on the line from SB to LB or back; of other networks from the weights along a random direction."""
    w = problem.loss().weights
    if job.network in BATCH_OF:
        (other,) = BATCH_OF.keys() - {job.network}
        end = load_problem(other, job.examples, runs).loss().weights
    else:
        end = w + even_direction(problem.model, w, derived_seed(0, "benchmark", "line"))
    return compared(job, problem, Line(w, end, LINE_POINTS), LINE_REPEATS)


def plane(job: Job, problem: Problem, _: Path) -> Row:
    """Time 21 x 21 points of a plane around the weights, on a part of the data."""
    w = problem.loss().weights
    u, v = (even_direction(problem.model, w, derived_seed(0, "benchmark", "plane", i)) for i in (1, 2))
    return compared(job, fewer(problem), Grid(w, u, v, REACH, PLANE_POINTS), PLANE_REPEATS)


def fewer(problem: Problem) -> Problem:
    """Return the problem with one batch in five, the first ones."""
    return replace(problem, batches=problem.batches[: max(len(problem.batches) // SHARE, 1)])


def compared(job: Job, problem: Problem, work: Work, repeats: int) -> Row:
    """Time the tools in turns with the bare forward passes, and compare their losses with those of the bare ones."""
    bare, entries = Bare(problem, work), {name: {"tool": name, "reasons": {}} for name in ("bare", *tools_of(job))}
    seconds: dict[str, list[float]] = {name: [] for name in entries}
    losses: dict[str, Losses] = {}
    calls: dict[str, Callable[[], Losses]] = {"bare": bare}
    for name in tools_of(job):
        calls[name] = TOOLS[name].prepare(problem, work)
        entries[name]["version"] = importlib.metadata.version(TOOLS[name].distribution)
    for _, (name, call) in itertools.product(range(repeats), calls.items()):
        if entries[name]["reasons"]:
            continue
        try:
            took = seconds_of(lambda name=name, call=call: losses.update({name: call()}))
        except Exception as error:  # whatever a peer raises is a result too
            entries[name]["reasons"] = {"value": reason_of(error)}
            continue
        seconds[name].append(bare.seconds if name == "bare" else took)
    for name, entry in entries.items():
        if not entry["reasons"]:
            entry["seconds"] = median(seconds[name])
            entry["throughput"] = median(seconds["bare"]) / entry["seconds"]
            noisy = name in TOOLS and TOOLS[name].noisy_top
            entry["difference"] = difference(losses[name], losses["bare"], noisy)
            entry["num_compared"] = sum(value is not None for value in losses[name]) - noisy
    size = problem.loss().num_examples
    return {"entries": list(entries.values()), "points": work.size, "num_examples": size, "repeats": repeats}


def tools_of(job: Job) -> list[str]:
    """Return the tools of a job, which names several in one word so that they are timed in turns in one process."""
    return job.tool.split("+")


def keskar(_: Job, problem: Problem, __: Path) -> Row:
    """Climb Keskar's maximum until it stops growing, and run 50 iterations of L-BFGS-B from its default start."""
    loss = problem.loss()
    published = KeskarSharpness(num_iterations=ITERATIONS)(loss)
    found = KeskarMaximum(second_epsilon=None)(loss)
    (box,) = found.boxes
    best = [found.loss, *(value for climbed in box.climbs for value in climbed.best)]  # the first is at the weights
    trace = [phi(found.loss, value) for value in itertools.accumulate(best, max)]
    return {
        "value": found.value,
        "num_gradients": found.num_gradients,
        "seconds": found.seconds,
        "converged": found.converged,
        "trace": trace,
        "value_within": trace[:GRADIENTS][-1],
        "gradients_to_reach": next((i for i, value in enumerate(trace, 1) if value >= published.value), None),
        "published_value": published.value,
        "published_gradients": published.num_gradients,
        "published_seconds": published.seconds,
        "published_iterations": published.num_iterations,
        "published_message": published.message,
        "num_examples": loss.num_examples,
    }


def noise(_: Job, problem: Problem, __: Path) -> Row:
    """Time the noise scale from gradients of single examples against a loop of single-example backwards."""
    problem = fewer(problem)
    values: dict[str, Any] = {}

    def ours() -> None:
        values["ours"] = GradientNoise(num_hvps=0)(problem.loss())

    def loop() -> None:
        values["loop"] = looped_noise_trace(problem)

    seconds = interleaved({"ours": ours, "loop": loop}, NOISE_REPEATS)
    trace = values["ours"].numbers["noise_trace"].value
    return {
        "seconds": seconds["ours"],
        "loop_seconds": seconds["loop"],
        "speedup": seconds["loop"] / seconds["ours"],
        "noise_trace": trace,
        "loop_noise_trace": values["loop"],
        "difference": abs(trace / values["loop"] - 1),
        "method": values["ours"].method,
        "num_examples": values["ours"].num_units,
        "repeats": NOISE_REPEATS,
    }


def looped_noise_trace(problem: Problem) -> float:
    """Return the trace of the covariance of the gradients of single examples, one backward each."""
    assert problem.criterion is not None
    parameters = list(problem.model.parameters())
    total, squares, count = [torch.zeros_like(p) for p in parameters], 0.0, 0
    for x, y in ((xs[i : i + 1], ys[i : i + 1]) for xs, ys in problem.batches for i in range(len(xs))):
        problem.model.zero_grad()
        problem.criterion(problem.model(x), y).backward()
        for summed, parameter in zip(total, parameters, strict=True):
            if parameter.grad is not None:
                summed += parameter.grad
                squares += float(parameter.grad.square().sum())
        count += 1
    problem.model.zero_grad()
    return (squares - sum(float(t.square().sum()) for t in total) / count) / (count - 1)


PARTS: dict[str, Callable[[Job, Problem, Path], Row]] = {"line": line, "plane": plane, "keskar": keskar, "noise": noise}
