"""Our curvature engine against its peers on the same networks, data, dtype and threads, in one run.

Every tool measures every network in a process of its own, one after the other. Times are of the solve alone: imports,
loading, a first touch of the data and a first solve of a 9-parameter problem come before. Each row is kept as it
finishes, so the same command goes on after a stop of any kind. SB and LB are networks of the main study: run
`make reproduce` first. The peers come with pip install -e '.[benchmark]' -c constraints.txt; a missing one gets a row
that says so, and is measured at the next call after its installation.
"""

from __future__ import annotations

import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Literal

ROOT = Path(__file__).resolve().parents[2]
sys.path[:0] = [str(ROOT), str(ROOT / "scripts")]  # analysis/ and the other files are not part of the installed package

import tyro

from scripts.benchmarks.curvature_parts import SCALE_KNOBS, run_job
from scripts.benchmarks.curvature_peers import SEEDED, TOOLS
from scripts.benchmarks.networks import BATCH_OF, images, study_run
from scripts.benchmarks.rows import Job, begin, measure_and_render
from sharpness.errors import InputError, unknown_name

Network = Literal["SB", "LB", "ResNet", "GPT-2", "MLP"]
Part = Literal["eigenvalue", "starts", "cost", "memory", "estimators"]
MEMORY_BUDGETS = (0, 256, 1024)  # MiB


@dataclass(frozen=True)
class Options:
    """Measure what is missing, then render the tables and the figure."""

    networks: Annotated[tuple[Network, ...], tyro.conf.arg(metavar="NAME ...")] = ("SB", "LB", "ResNet", "GPT-2")
    """SB, LB: of the main study. ResNet: three stages, trained briefly. GPT-2: 4 layers. MLP: 1,210 parameters."""
    tools: Annotated[tuple[str, ...], tyro.conf.arg(metavar="NAME ...")] = tuple(TOOLS)
    """Tools of the table of top eigenvalues."""
    parts: tuple[Part, ...] = ("eigenvalue", "starts", "cost", "memory", "estimators")
    """eigenvalue: every tool. starts: SB and LB from other random starts. cost: of one product. memory: ours.
    estimators: trace and density of the MLP."""
    scale: tuple[Literal["small", "medium"], ...] = ()
    """Also certify GPT-2 small (124M weights) or medium (355M, not with a full basis) from their configs."""
    threads: Annotated[int, tyro.conf.arg(metavar="N")] = 2
    """CPU threads of every process."""
    examples: Annotated[int, tyro.conf.arg(metavar="N")] = 10_000
    """Images of Fashion-MNIST that every tool sees; fewer for a trial, whose numbers mean little."""
    runs: Path = Path("runs")
    """Folder with the main study in keskar2017/; networks trained here go to benchmark_curvature/ in it."""
    figures: Path = Path("figures/benchmark_curvature")
    """Folder for the rows (results.jsonl), tables, figure and provenance."""
    fresh: bool = False
    """Forget the rows that are there."""


def check_options(options: Options) -> None:
    """Raise :class:`InputError` for what would fail later: unknown names, missing runs, odd numbers of examples."""
    for tool in options.tools:
        if tool not in TOOLS:
            raise unknown_name("tool", tool, TOOLS)
    if options.threads < 1:
        raise InputError(f"expected at least 1 thread, got {options.threads}: two is the default")
    images(options.examples)
    for network in options.networks:
        if network in BATCH_OF and options.parts:
            study_run(network, options.runs)


def jobs_of(options: Options) -> Iterator[Job]:
    """Yield the jobs in their order: each network's own preparation and truth first, then every tool on it."""

    def job(part: str, network: str, tool: str = "ours", examples: int = options.examples) -> Job:
        return Job(part, network, tool, examples, options.threads)

    for network in options.networks if {"eigenvalue", "starts", "cost", "memory"} & set(options.parts) else ():
        yield job("prepare", network)
        if {"eigenvalue", "starts"} & set(options.parts):
            yield job("truth", network)
        if "eigenvalue" in options.parts:
            yield from (job("eigenvalue", network, tool) for tool in options.tools)
        if "starts" in options.parts and network in BATCH_OF:
            yield from (job("starts", network, tool) for tool in options.tools if tool in SEEDED)
        if "cost" in options.parts:
            yield job("cost", network)
    if "memory" in options.parts and options.networks:
        for examples in (options.examples // 5, options.examples):
            for budget in MEMORY_BUDGETS:
                yield job("memory", options.networks[0], str(budget), examples)
    if "estimators" in options.parts:
        yield job("prepare", "MLP")
        yield from (job("estimators", "MLP", tool) for tool in ("trace", "density"))
    for size in options.scale:
        for way in SCALE_KNOBS:
            if not (size == "medium" and way == "full basis"):  # some 25 vectors of 1.4 GB
                yield job("scale", size, way)


def main() -> None:
    """Measure what is missing and render everything."""
    options = tyro.cli(Options, description=__doc__)
    check_options(options)
    script, jobs = Path(__file__), jobs_of(options)
    measure_and_render(script, jobs, options.runs, options.figures, options.fresh, "curvature_report")


if __name__ == "__main__":
    begin(run_job, main)
