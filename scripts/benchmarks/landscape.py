"""Landscapes against bare forward passes and two peers, and two measures against simpler ways, in one run.

line: 25 points between two networks. plane: 21 x 21 points, on a fifth of the batches. loss-landscapes and Landscaper
do the same work, in turns with ours and with the forward passes alone. keskar: our search for Keskar's
maximum against 50 iterations of L-BFGS-B. noise: the noise scale against a loop of single-example backwards.

To begin: --networks MLP --examples 200 takes seconds and needs nothing. SB and LB are networks of the main study: run
`make reproduce` first. Each row is kept as it finishes, in a process of its own, so the same command goes on after a
stop of any kind. The peers are optional: pip install -e '.[benchmark]' -c constraints.txt, and for Landscaper
pip install --no-deps landscaper topopy nglpy gudhi treelib coloraide drawsvg scikit-learn joblib threadpoolctl
cloudpickle -c constraints.txt. A missing one gets a row that says so, and is measured at the next call after its
installation. Times mean something on a machine that does nothing else.
"""

# python scripts/benchmarks/landscape.py
# About a quarter of an hour on two cores.
# Our lines run at 94 to 96 % of the throughput of bare forward passes and our planes at 93 to 97 %, the peers at 93 to
# 103 %; our search for Keskar's maximum passes L-BFGS-B after 6 gradients, and the noise scale is 2.5 times as fast.

from __future__ import annotations

import importlib.util
import itertools
import sys
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from statistics import median
from typing import Annotated, Any, Literal

sys.path.insert(0, str(Path(__file__).resolve().parents[2]))  # scripts/ is not installed

import torch
import tyro

from scripts.benchmarks.landscape_peers import (
    TOOLS,
    Bare,
    Losses,
    Work,
    difference,
    even_direction,
    line_between,
    plane_around,
)
from scripts.benchmarks.landscape_tables import GRADIENTS, ITERATIONS, report
from scripts.benchmarks.networks import BATCH_OF, Problem, images, load_problem
from scripts.benchmarks.report import Part
from scripts.benchmarks.rows import Benchmark, Job, Row, SharedOptions, reason_of
from scripts.benchmarks.tools import interleaved, seconds_of
from sharpness.errors import InputError, unknown_name
from sharpness.machine.environment import derived_seed
from sharpness.probes import GradientNoise, KeskarMaximum, KeskarSharpness
from sharpness.probes.methods.keskar_box import phi

Network = Literal["SB", "LB", "ResNet", "MLP"]
PartName = Literal["line", "plane", "keskar", "noise"]
LINE_POINTS, PLANE_POINTS = 25, 21
LINE_REPEATS, PLANE_REPEATS, NOISE_REPEATS = 5, 3, 3
REACH = 0.5
"""How far the plane goes on each side, in lengths of the weights."""
SHARE = 5
"""The plane and the single examples are measured on one batch in so many."""


@dataclass(frozen=True, kw_only=True)
class Options(SharedOptions):
    """Measure what is missing, then render the tables and the figure."""

    networks: Annotated[tuple[Network, ...], tyro.conf.arg(metavar="NAME ...")] = ("SB", "LB", "ResNet")
    """SB, LB: of the main study, 1.5 million weights. ResNet: three stages, trained briefly. MLP: 1,210 weights."""
    tools: Annotated[tuple[str, ...], tyro.conf.arg(metavar="NAME ...")] = tuple(TOOLS)
    """Tools that are timed in turns with bare forward passes."""
    parts: tuple[PartName, ...] = ("line", "plane", "keskar", "noise")
    """keskar: SB, LB and MLP. noise: ResNet and MLP; where BatchNorm sees batches an example has no gradient."""
    figures: Path = Path("figures/benchmark_landscape")

    def check(self) -> None:
        """Raise :class:`InputError` for what would fail later: unknown names, missing runs, odd numbers of examples."""
        super().check()
        for tool in self.tools:
            if tool not in TOOLS:
                raise unknown_name("tool", tool, TOOLS)
        if not (self.networks and self.parts and self.tools):
            raise InputError(
                "expected at least one network, part and tool, got none: leave the option out for the default"
            )
        images(self.examples)

    def jobs(self) -> Iterator[Job]:
        """Yield the jobs: the tools that are installed together, so that they are timed in turns; others one by one."""
        modules = {name: TOOLS[name].distribution.replace("-", "_") for name in self.tools}
        there = [name for name, module in modules.items() if importlib.util.find_spec(module)]
        groups = ["+".join(there), *(name for name in self.tools if name not in there)]
        for part, network in itertools.product(self.parts, self.networks):
            if part in ("line", "plane"):
                yield from (Job(part, network, tool, self.examples, self.threads) for tool in groups if tool)
            elif network == "MLP" or (network in BATCH_OF) == (part == "keskar"):
                yield Job(part, network, "ours", self.examples, self.threads)


# What one process measures.


def line(job: Job, problem: Problem, runs: Path) -> Row:
    """Time 25 points on the line from SB to LB or back; of other networks from the weights along a random direction."""
    w = problem.loss().weights
    if job.network in BATCH_OF:
        (other,) = BATCH_OF.keys() - {job.network}
        end = load_problem(other, job.examples, runs).loss().weights
    else:
        end = w + even_direction(problem.model, w, derived_seed(0, "benchmark", "line"))
    return compared(job, problem, line_between(w, end, LINE_POINTS), LINE_REPEATS)


def plane(job: Job, problem: Problem, _: Path) -> Row:
    """Time 21 x 21 points of a plane around the weights, on a part of the data."""
    w = problem.loss().weights
    u, v = (even_direction(problem.model, w, derived_seed(0, "benchmark", "plane", i)) for i in (1, 2))
    return compared(job, fewer(problem), plane_around(w, u, v, REACH, PLANE_POINTS), PLANE_REPEATS)


def fewer(problem: Problem) -> Problem:
    """Return the problem with one batch in five, the first ones."""
    return replace(problem, batches=problem.batches[: max(len(problem.batches) // SHARE, 1)])


def compared(job: Job, problem: Problem, work: Work, repeats: int) -> Row:
    """Time the tools in turns with the bare forward passes, and compare their losses with those of the bare ones.

    A job names several tools in one word, ``ours+landscaper``, so that one process times them.
    """
    bare = Bare(problem, work)
    entries: dict[str, Row] = {"bare": {"tool": "bare", "reasons": {}, "seconds": []}}
    calls: dict[str, Callable[[], Losses]] = {"bare": bare}
    losses: dict[str, Losses] = {}
    for name in job.tool.split("+"):
        calls[name] = TOOLS[name].call(problem, work)
        entries[name] = {"tool": name, "reasons": {}, "seconds": [], "version": TOOLS[name].version}
    for _, (name, call) in itertools.product(range(repeats), calls.items()):
        if not entries[name]["reasons"]:
            try:
                took = seconds_of(lambda name=name, call=call: losses.update({name: call()}))
                entries[name]["seconds"].append(bare.seconds if name == "bare" else took)
            except Exception as error:  # whatever a peer raises is a result too
                entries[name] |= {"reasons": {"value": reason_of(error)}, "seconds": None}
    for name, entry in entries.items():
        if not entry["reasons"]:
            noisy = name in TOOLS and TOOLS[name].noisy_top
            entry["throughput"] = median(entries["bare"]["seconds"]) / median(entry["seconds"])
            entry["difference"] = difference(losses[name], losses["bare"], noisy)
            entry["num_compared"] = sum(value is not None for value in losses[name]) - noisy
    size = problem.loss().num_examples
    return {"entries": list(entries.values()), "points": work.size, "num_examples": size, "repeats": repeats}


def keskar(_: Job, problem: Problem, __: Path) -> Row:
    """Climb Keskar's maximum until it stops growing, and run 50 iterations of L-BFGS-B from its default start."""
    loss = problem.loss()
    published = KeskarSharpness(num_iterations=ITERATIONS)(loss)
    found = KeskarMaximum(second_epsilon=None)(loss)
    (box,) = found.boxes
    best = [found.loss, *(value for climbed in box.climbs for value in climbed.best)]  # the first is at the weights
    largest = list(itertools.accumulate(best, max))
    trace = [phi(found.loss, value) for value in largest]
    reached = next((i for i, value in enumerate(largest, 1) if value >= published.max_loss), None)
    return {
        "value": found.value,
        "num_gradients": found.num_gradients,
        "seconds": found.seconds,
        "converged": found.converged,
        "trace": trace,
        "value_within": trace[:GRADIENTS][-1],
        "gradients_to_reach": reached,
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
    calls: dict[str, Callable[[], object]] = {
        "ours": lambda: values.update(ours=GradientNoise(num_hvps=0)(problem.loss())),
        "loop": lambda: values.update(loop=looped_noise_trace(problem)),
    }
    seconds = interleaved(calls, NOISE_REPEATS)
    trace = values["ours"].numbers["noise_trace"].value
    return {
        "seconds": seconds["ours"],
        "loop_seconds": seconds["loop"],
        "speedup": median(seconds["loop"]) / median(seconds["ours"]),
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


def measure(job: Job, runs: Path) -> Row:
    """Return the numbers of one job."""
    problem = load_problem(job.network, job.examples, runs)
    size = problem.loss().layout.size
    return {"num_parameters": size, "batch_size": len(problem.batches[0][0])} | PARTS[job.part].measure(
        job, problem, runs
    )


# The tables.

TIMED = (
    "network | tool: label | points | examples: num_examples | seconds | throughput / bare: throughput | "
    "largest difference: difference | points compared: num_compared"
)
TURNS = (
    "Medians of {repeats}, in turns. Throughput / bare: examples per second over those of bare forward passes "
    "(evaluation mode, no graph, the network's own call and criterion), whose seconds leave out setting the weights; "
    "the seconds of a tool are for its whole call. Largest difference: of its losses from the bare ones, relative, "
    "over the points that both measured."
)
PARTS = {
    "line": Part(
        line,
        "A line",
        "25 points on alpha in [-1, 2], for SB and LB through each other. " + TURNS.format(repeats=LINE_REPEATS) + " "
        "Landscaper cannot go along a given direction: through SB and LB its line is another one, the work the same.",
        TIMED,
    ),
    "plane": Part(
        plane,
        "A plane",
        "21 x 21 points around the weights, on one batch in five to keep the run short. "
        + TURNS.format(repeats=PLANE_REPEATS),
        TIMED,
    ),
    "keskar": Part(
        keskar,
        "Keskar's maximum",
        f"Metric 2.1 at epsilon 1e-3, in percent: our search to its end and after {GRADIENTS} gradients, and "
        f"{ITERATIONS} iterations of L-BFGS-B from the corner of the gradient's signs. The gradient at the weights "
        "counts, too.",
        f"network | ours: value | gradients: num_gradients | seconds | ours after {GRADIENTS}: value_within | "
        "L-BFGS-B: published_value | its gradients: published_gradients | its seconds: published_seconds | "
        f"gradients to pass it: gradients_to_reach | within {GRADIENTS}: within",
    ),
    "noise": Part(
        noise,
        "Gradients of single examples",
        "Seconds of our gradient noise scale without its Hessian products, intervals included, and of a loop that does "
        "one backward for each example; medians of 3, in turns. tr Sigma: the trace of the covariance of the "
        "gradients. With the batch statistics of SB and LB an example has no gradient of its own.",
        "network | examples: num_examples | seconds | loop (s): loop_seconds | loop / ours: speedup | way: method | "
        "tr Sigma: noise_trace | difference",
    ),
}


def render(rows: Sequence[Row], out: Path) -> list[Path]:
    """Write the tables of all rows, and the figure of throughputs and climbs."""
    return report(PARTS, rows, out)


BENCHMARK = Benchmark(__file__, __doc__, Options, measure, render)
if __name__ == "__main__":
    BENCHMARK.main()
