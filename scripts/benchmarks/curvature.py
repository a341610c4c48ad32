"""Our curvature engine against its peers on the same networks, data, dtype and threads, in one run.

Every tool measures every network in a process of its own, one after the other. Times are of the solve alone: imports,
loading, a first touch of the data and a first solve of a 9-parameter problem come before. From other random starts the
tools take turns in one process. Each row is kept as it finishes, so the same command goes on after a stop of any kind.
The peers come with pip install -e '.[benchmark]' -c constraints.txt; a missing one gets a row that says so, and is
measured at the next call after its installation.
"""

# python scripts/benchmarks/curvature.py --scale small medium
# About 70 minutes on two cores, of which the two sizes of GPT-2 take 25.
# A top eigenvalue certified to 1 % at 99 % takes 9 to 19 products with a true error below 1e-5; eigsh on the same
# products takes 1.9 times as long, PyHessian 1.5 times for an error of about 2e-3 (medians over networks and starts).

from __future__ import annotations

import hashlib
import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from statistics import median
from typing import Annotated, Any, Literal

sys.path.insert(0, str(Path(__file__).resolve().parents[2]))  # scripts/ is not installed

import torch
import tyro
from torch import Tensor

from scripts.benchmarks.curvature_peers import SEED, SEEDED, TOOLS, Answer, certified
from scripts.benchmarks.curvature_tables import report
from scripts.benchmarks.estimators import density_entries, trace_entries
from scripts.benchmarks.networks import (
    Problem,
    gpt2_at_scale,
    images,
    load_problem,
    tiny_problem,
)
from scripts.benchmarks.report import Part
from scripts.benchmarks.rows import Benchmark, Job, Row, SharedOptions
from scripts.benchmarks.tools import interleaved, measured
from sharpness.curvature import HessianOperator
from sharpness.errors import unknown_name
from sharpness.machine.environment import derived_seed
from sharpness.vectors import random_unit_vector

Network = Literal["SB", "LB", "ResNet", "GPT-2", "MLP"]
PartName = Literal["eigenvalue", "starts", "cost", "memory", "estimators"]
MIB = 1 << 20
MEMORY_BUDGETS = (0, 256, 1024)  # MiB
KEEP_ALL = 1 << 40
"""A budget of bytes that no kept graph exceeds."""
TRUTH_RTOL, TRUTH_HVPS = 1e-8, 400
NUM_STARTS = 4
SCALE_KNOBS: dict[str, dict[str, Any]] = {
    "full basis": {},
    "basis of 6": {"max_basis": 6},
    "basis-free": {"basis_free": True},
}


@dataclass(frozen=True, kw_only=True)
class Options(SharedOptions):
    """Measure what is missing, then render the tables and the figure."""

    networks: Annotated[tuple[Network, ...], tyro.conf.arg(metavar="NAME ...")] = ("SB", "LB", "ResNet", "GPT-2")
    """SB, LB: F1 after small and large batches. ResNet: three stages, trained briefly. GPT-2: 4 layers. MLP: 1,210
    parameters."""
    tools: Annotated[tuple[str, ...], tyro.conf.arg(metavar="NAME ...")] = tuple(TOOLS)
    """Tools of the table of top eigenvalues."""
    parts: tuple[PartName, ...] = ("eigenvalue", "starts", "cost", "memory", "estimators")
    """eigenvalue: every tool. starts: in turns from other random starts. cost: of one product. memory: ours.
    estimators: trace and density of the MLP."""
    scale: tuple[Literal["small", "medium"], ...] = ()
    """Also certify GPT-2 small (124M weights) or medium (355M, not with a full basis) from their configs."""
    figures: Path = Path("figures/benchmark_curvature")

    def check(self) -> None:
        """Raise :class:`InputError` for what would fail later: unknown names, missing runs, odd numbers of examples."""
        super().check()
        for tool in self.tools:
            if tool not in TOOLS:
                raise unknown_name("tool", tool, TOOLS)
        images(self.examples)

    def jobs(self) -> Iterator[Job]:
        """Yield the jobs in their order: each network's preparation and truth first, then every tool on it."""
        if {"eigenvalue", "starts", "cost", "memory"} & set(self.parts):
            for network in self.networks:
                yield from self._jobs_on(network)
        if "memory" in self.parts and self.networks:
            for examples in (self.examples // 5, self.examples):
                for budget in MEMORY_BUDGETS:
                    yield Job("memory", self.networks[0], str(budget), examples, self.threads)
        if "estimators" in self.parts:
            yield self._job("prepare", "MLP")
            yield from (self._job("estimators", "MLP", tool) for tool in ("trace", "density"))
        for size in self.scale:
            for way in SCALE_KNOBS:
                if not (size == "medium" and way == "full basis"):  # some 25 vectors of 1.4 GB
                    yield self._job("scale", size, way)

    def _jobs_on(self, network: Network) -> Iterator[Job]:
        yield self._job("prepare", network)
        if {"eigenvalue", "starts"} & set(self.parts):
            yield self._job("truth", network)
        if "eigenvalue" in self.parts:
            yield from (self._job("eigenvalue", network, tool) for tool in self.tools)
        if "starts" in self.parts:
            yield self._job("starts", network, "+".join(tool for tool in self.tools if tool in SEEDED))
        if "cost" in self.parts:
            yield self._job("cost", network)

    def _job(self, part: str, network: str, tool: str = "ours") -> Job:
        return Job(part, network, tool, self.examples, self.threads)


# What one process measures.


def prepare(job: Job, runs: Path) -> Row:
    """Train or load a network, and hash what all tools will measure."""
    problem = load_problem(job.network, job.examples, runs)
    loss = problem.loss()
    return {
        "num_parameters": loss.weights.numel(),
        "num_examples": loss.num_examples,
        "batch_size": loss.num_examples // len(problem.batches),
        "loss": loss.value(loss.weights),
        "data_sha256": loss.data_sha256(),
        "weights_sha256": hashlib.sha256(loss.weights.numpy().tobytes()).hexdigest(),
    }


def truth(job: Job, runs: Path) -> Row:
    """Solve the same network in float64 to 1e-8."""
    loss = load_problem(job.network, job.examples, runs).loss(torch.float64)
    return solved(lambda: certified(loss, TRUTH_RTOL, num_hvps=TRUTH_HVPS))


def eigenvalue(job: Job, runs: Path) -> Row:
    """Let one tool find the top eigenvalue, after it has loaded what it needs on a problem of 9 parameters."""
    tool = TOOLS[job.tool]
    problem = load_problem(job.network, job.examples, runs)
    tool.call(tiny_problem())
    loss = problem.loss()
    gradients = interleaved({"gradient": lambda: loss.grad(loss.weights)}, 4)["gradient"]
    row = solved(lambda: tool.call(problem))
    ratio = row["seconds"] / max(row["num_hvps"], 1) / median(gradients)
    return row | {"gradient_seconds": gradients, "hvp_gradients": ratio, "version": tool.version}


def starts(job: Job, runs: Path) -> Row:
    """Let tools take turns in finding the top eigenvalue from other random starts, after each loaded what it needs.

    ``times_ours`` is a solve's seconds over those of ours in the same turn.
    """
    problem = load_problem(job.network, job.examples, runs)
    calls = {name: TOOLS[name].call for name in job.tool.split("+")}
    for call in calls.values():
        call(tiny_problem())
    turns = [
        {name: solved(lambda call=call, seed=seed: call(problem, seed=seed)) for name, call in calls.items()}
        for seed in range(1, NUM_STARTS + 1)
    ]
    entries = []
    for name in calls:
        entry = {each: [turn[name][each] for turn in turns] for each in ("value", "num_hvps", "converged", "seconds")}
        entries.append({"tool": name} | entry | {"times_ours": [_times_ours(turn, name) for turn in turns]})
    return {"entries": entries}


def _times_ours(turn: Mapping[str, Row], name: str) -> float | None:
    return turn[name]["seconds"] / turn["ours"]["seconds"] if "ours" in turn else None


def cost(job: Job, runs: Path) -> Row:
    """Time a gradient, a product on kept graphs and one that rebuilds them, in turns."""
    loss = load_problem(job.network, job.examples, runs).loss()
    kept, rebuilt = HessianOperator(loss, cache=KEEP_ALL), HessianOperator(loss, cache=0)
    v = _direction(kept)
    calls: dict[str, Callable[[], object]] = {
        "gradient": lambda: loss.grad(loss.weights),
        "cached": lambda: kept.matvec(v),
        "uncached": lambda: rebuilt.matvec(v),
    }
    interleaved(calls, 1)  # builds the graphs that are kept, and touches everything once
    seconds = interleaved(calls, 7)
    gradient = median(seconds["gradient"])
    ratios = {f"{name}_ratio": median(seconds[name]) / gradient for name in ("cached", "uncached")}
    return {f"{name}_seconds": each for name, each in seconds.items()} | ratios | {"kept_bytes": kept.kept_bytes}


def memory(job: Job, runs: Path) -> Row:
    """Measure our peak with a cache of ``tool`` MiB against cache and vectors: the basis, and four more."""
    problem = load_problem(job.network, job.examples, runs)
    graph, loss, budget = graph_bytes(problem), problem.loss(), int(job.tool) * MIB
    row = solved(lambda: certified(loss, cache=budget))
    vectors, peak = (row["num_hvps"] + 4) * loss.weights.nbytes, row["peak_bytes"]
    row |= {"budget_bytes": budget, "vectors_bytes": vectors, "graph_bytes": graph}
    return row | {"peak_over_allowed": None if peak is None else peak / (budget + vectors)}


def scale(job: Job, runs: Path) -> Row:
    """Certify GPT-2 to 5 % at 99 % by the way that ``tool`` names, and count the vectors of its size at the peak."""
    problem = gpt2_at_scale(job.network)
    graph, loss = graph_bytes(problem), problem.loss()
    row = solved(lambda: certified(loss, 5e-2, cache=0, **SCALE_KNOBS[job.tool]))
    row |= {"num_parameters": loss.weights.numel(), "graph_bytes": graph}
    peak, size = row["peak_bytes"], loss.weights.nbytes
    bytes_of = {"peak_vectors": peak, "peak_vectors_without_graph": None if peak is None else peak - graph}
    return row | {name: None if number is None else number / size for name, number in bytes_of.items()}


def estimators(job: Job, runs: Path) -> Row:
    """Compare trace or density estimators on the network whose whole spectrum is known."""
    entries = trace_entries if job.tool == "trace" else density_entries
    return {"entries": entries(load_problem(job.network, job.examples, runs))}


def solved(call: Callable[[], Answer]) -> Row:
    """Return a tool's answer with its seconds and peak memory."""
    answer, spent = measured(call)
    return asdict(answer) | spent | {"reasons": answer.reasons | spent["reasons"]}


def graph_bytes(problem: Problem) -> int:
    """Return the bytes that the graph of the first batch holds, which exists once whatever is kept."""
    operator = HessianOperator(replace(problem, batches=problem.batches[:1]).loss(), cache=KEEP_ALL)
    operator.matvec(_direction(operator))
    return operator.kept_bytes


def _direction(operator: HessianOperator) -> Tensor:
    seed = derived_seed(SEED, "benchmark", "direction")
    return random_unit_vector(operator.size, seed, operator.dtype, operator.device)


def measure(job: Job, runs: Path) -> Row:
    """Return the numbers of one job."""
    return PARTS[job.part].measure(job, runs)


PARTS = {
    "prepare": Part(
        prepare,
        "What was measured",
        "All tools see these weights, examples and batches in float32.",
        "network | parameters: num_parameters | examples: num_examples | batch: batch_size | loss (nats): loss",
    ),
    "truth": Part(
        truth,
        "Reference",
        "Our own solve of the same network in float64, to 1e-8.",
        "network | value | HVPs: num_hvps | seconds | converged",
    ),
    "eigenvalue": Part(
        eigenvalue,
        "Top eigenvalue",
        "True error: against the reference, relative. HVPs: all products with the whole data set that the tool made, "
        "its own checks included. Seconds: of the solve alone, graphs and first products included; imports, loading, a "
        "first touch of the data and a first solve of a 9-parameter problem came before. HVP / gradient: seconds per "
        "HVP over the seconds of one gradient in the same process. Memory: peak resident memory above that before the "
        "solve. Converged: by the tool's own rule. Intervals hold with probability 99 %; only ours are certified.",
        "network | tool: label | value | true error: error | interval | HVPs: num_hvps | seconds | "
        "HVP / gradient: hvp_gradients | memory (MiB): peak_bytes | converged",
    ),
    "starts": Part(
        starts,
        "Other random starts",
        "The same from other random starts, the tools in turns in one process: median (smallest to largest). Where a "
        "power iteration stops is luck in part. Times ours: seconds over those of ours in the same turn.",
        "network | tool: label | true error: error | HVPs: num_hvps | seconds | times ours: times_ours",
    ),
    "ratios": Part(
        starts,
        "Over networks and starts",
        "Times ours over all solves of the table above, the medians of the networks, and all true errors: median "
        "(smallest to largest).",
        "tool: label | networks | times ours: times_ours | medians of networks: medians | true error: error",
    ),
    "cost": Part(
        cost,
        "Cost of one product",
        "Medians of 7, in turns: one gradient, our product on kept graphs, our product that rebuilds them.",
        "network | gradient (s): gradient_seconds | cached HVP (s): cached_seconds | cached / gradient: cached_ratio | "
        "uncached HVP (s): uncached_seconds | uncached / gradient: uncached_ratio | kept graphs (MiB): kept_bytes",
    ),
    "memory": Part(
        memory,
        "Memory against its budget",
        "Peak above the start against the cache budget plus (HVPs + 4) vectors. One batch's graph exists whatever is "
        "kept, and is not in the budget.",
        "network | examples | budget (MiB): tool | vectors (MiB): vectors_bytes | one graph (MiB): graph_bytes | "
        "peak (MiB): peak_bytes | peak / (budget + vectors): peak_over_allowed | HVPs: num_hvps",
    ),
    "scale": Part(
        scale,
        "Scale",
        "GPT-2 from its config, two micro-batches of 1 x 32 made tokens, float32, nothing cached, certified 5 % at "
        "99 %. Vectors: peak memory above the start in vectors of the model's size, with and without the graph of one "
        "micro-batch.",
        "GPT-2: network | parameters: num_parameters | way: tool | value | interval | HVPs: num_hvps | "
        "vectors: peak_vectors | vectors without the graph: peak_vectors_without_graph | converged",
    ),
    "estimators": Part(
        estimators,
        "Trace and spectral density",
        "MLP, against its whole Hessian in float64; means over 20 seeds. Error of the trace: root mean square, "
        "relative. Error of the density: Wasserstein-1 distance to the true spectrum over its norm.",
        "quantity: tool | estimator: label | HVPs: num_hvps | true error: error",
    ),
}


def render(rows: Sequence[Row], out: Path) -> list[Path]:
    """Write the tables of all rows, and the figure of errors against time."""
    return report(PARTS, rows, out)


BENCHMARK = Benchmark(__file__, __doc__, Options, measure, render)
if __name__ == "__main__":
    BENCHMARK.main()
