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

import matplotlib as mpl
import pandas as pd
import torch
import tyro
from matplotlib.lines import Line2D
from torch import Tensor

from scripts.benchmarks.curvature_peers import SEED, SEEDED, TOOLS, Answer, certified
from scripts.benchmarks.estimators import density_entries, trace_entries
from scripts.benchmarks.networks import (
    Problem,
    gpt2_at_scale,
    images,
    load_problem,
    tiny_problem,
)
from scripts.benchmarks.report import Part, lines_of, median_of, provenance_of, write_report
from scripts.benchmarks.rows import Benchmark, Job, Row, SharedOptions
from scripts.benchmarks.tools import interleaved, measured
from sharpness.curvature import HessianOperator
from sharpness.errors import unknown_name
from sharpness.machine.environment import derived_seed
from sharpness.plots.axes import log_axis
from sharpness.plots.save import save_figure
from sharpness.plots.style import FULL, STYLE, Look, new_figure
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


# The report.


def lines(rows: Sequence[Row], part: str) -> list[Row]:
    """Return the lines of a part's table; those of top eigenvalues with their true error, and time in units of ours."""
    if part == "ratios":
        return ratios(lines(rows, "starts"))
    chosen = lines_of(rows, part)
    truths = {row["network"]: row.get("value") for row in rows if row["part"] == "truth"}
    for line in chosen if part in ("eigenvalue", "starts") else ():
        line["label"] = TOOLS[line["tool"]].label
        line["error"] = error_of(line.get("value"), truths.get(line["network"]))
    return chosen


def ratios(of_starts: Sequence[Row]) -> list[Row]:
    """Return for each tool its times and errors over all networks and starts, and its medians on each network."""
    found = []
    for tool in dict.fromkeys(line["tool"] for line in of_starts):
        here = [line for line in of_starts if line["tool"] == tool and line.get("error")]
        here = [line for line in here if line["times_ours"] != [None] * NUM_STARTS]
        found.append(
            {
                "label": TOOLS[tool].label,
                "networks": len(here),
                "times_ours": [ratio for line in here for ratio in line["times_ours"]],
                "medians": [median_of(line["times_ours"]) for line in here],
                "error": [error for line in here for error in line["error"]],
            }
        )
    return found


def error_of(value: Any, exact: float | None) -> Any:
    """Return ``|value - exact| / |exact|``, one for each of several values, ``None`` where a number is missing."""
    if value is None or not exact:
        return None
    return [error_of(each, exact) for each in value] if isinstance(value, list) else abs(value - exact) / abs(exact)


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
    hashes = ("data_sha256", "weights_sha256")
    networks = {row["network"]: {name: row.get(name) for name in hashes} for row in lines_of(rows, "prepare")}
    provenance = provenance_of(rows, networks=networks)
    files = write_report("Curvature benchmark", PARTS, {part: lines(rows, part) for part in PARTS}, provenance, out)
    return files + _draw(solves(lines(rows, "eigenvalue") + lines(rows, "starts")), out, provenance)


def solves(chosen: Sequence[Row]) -> list[Row]:
    """Return network, tool, seconds, products and error of each solve, also of several in one line."""
    fields = ("network", "tool", "seconds", "num_hvps", "error")
    found = []
    for line in chosen:
        if (error := line["error"]) is not None:
            count = len(error) if isinstance(error, list) else 1
            each = (line[name] if isinstance(line[name], list) else [line[name]] * count for name in fields)
            found += [dict(zip(fields, one, strict=True)) for one in zip(*each, strict=True)]
    return found


COLORS = ("#0173b2", "#949494", "#de8f05", "#029e73", "#56b4e9", "#d55e00", "#cc78bc", "#ca9161")
MARKERS = ("o", "p", "s", "^", "v", "D", "P", "X")
LOOKS = {name: Look(COLORS[i], MARKERS[i], "", tool.label) for i, (name, tool) in enumerate(TOOLS.items())}
FLOOR = 1e-8
"""Errors below are drawn here."""
CAPTION = (
    "Error of the top Hessian eigenvalue, against a float64 solve, and seconds that each tool took, a mark for each "
    "random start. Dashed: the 1 % that ours certifies."
)


def _draw(drawn: Sequence[Row], out: Path, provenance: Row) -> list[Path]:
    """Draw the true error against the seconds of the solve, one panel per network and one kind of mark per tool."""
    networks = list(dict.fromkeys(line["network"] for line in drawn))
    if not networks:
        return []
    with mpl.rc_context(STYLE):
        figure, axes = new_figure(FULL, 2.7, columns=len(networks))
        for ax, network in zip(axes.flat, networks, strict=True):
            here = [line for line in drawn if line["network"] == network]
            for line in here:
                look = LOOKS[line["tool"]]
                ax.plot(line["seconds"], max(line["error"], FLOOR), color=look.color, marker=look.marker, linestyle="")
            ax.axhline(1e-2, color="0.4", linewidth=0.8, linestyle="--", zorder=1)
            ax.set(title=network, xlabel="Solve (s)")
            log_axis(ax.xaxis, [line["seconds"] for line in here], padding=1.6)
            log_axis(ax.yaxis, [max(line["error"], FLOOR) for line in drawn] + [1e-2], padding=2.0)
        axes.flat[0].set_ylabel("True relative error")
        looks = [look for name, look in LOOKS.items() if any(line["tool"] == name for line in drawn)]
        handles = [
            Line2D([], [], color=look.color, marker=look.marker, linestyle="", label=look.label) for look in looks
        ]
        figure.legend(handles=handles, loc="outside upper center", ncols=2)
        return save_figure(figure, pd.DataFrame(drawn), out, "error_vs_seconds", CAPTION, provenance)


BENCHMARK = Benchmark(__file__, __doc__, Options, measure, render)
if __name__ == "__main__":
    BENCHMARK.main()
