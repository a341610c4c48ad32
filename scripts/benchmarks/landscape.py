"""How fast landscapes are against bare forward passes and two peers, and two measures against simpler ways, in one run.

line: 25 points between two networks. plane: 21 x 21 points, on a fifth of the batches. Each of loss-landscapes and
Landscaper does the same work, in turns with ours and with the forward passes alone. keskar: our search for Keskar's
maximum against 50 iterations of L-BFGS-B. noise: the noise scale against a loop of single-example backwards.

To begin: --networks MLP --examples 200 takes seconds and needs nothing. SB and LB are networks of the main study: run
`make reproduce` first. Each row is kept as it finishes, in a process of its own, so the same command goes on after a
stop of any kind. The peers are optional: pip install -e '.[benchmark]' -c constraints.txt, and for Landscaper
pip install --no-deps landscaper topopy nglpy gudhi treelib coloraide drawsvg scikit-learn joblib threadpoolctl
cloudpickle -c constraints.txt. A missing one gets a row that says so, and is measured at the next call after its
installation. Times mean something on a machine that does nothing else.
"""

from __future__ import annotations

import importlib.util
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Literal

ROOT = Path(__file__).resolve().parents[2]
sys.path[:0] = [str(ROOT), str(ROOT / "scripts")]  # the other files are not part of the installed package

import tyro

from scripts.benchmarks.landscape_parts import run_job
from scripts.benchmarks.landscape_peers import TOOLS
from scripts.benchmarks.networks import BATCH_OF, images, study_run
from scripts.benchmarks.rows import Job, begin, measure_and_render
from sharpness.errors import InputError, unknown_name

Network = Literal["SB", "LB", "ResNet", "MLP"]
Part = Literal["line", "plane", "keskar", "noise"]


@dataclass(frozen=True)
class Options:
    """Measure what is missing, then render the tables and the figure."""

    networks: Annotated[tuple[Network, ...], tyro.conf.arg(metavar="NAME ...")] = ("SB", "LB", "ResNet")
    """SB, LB: of the main study, 1.5 million weights. ResNet: three stages, trained briefly. MLP: 1,210 weights."""
    tools: Annotated[tuple[str, ...], tyro.conf.arg(metavar="NAME ...")] = tuple(TOOLS)
    """Tools that are timed in turns with bare forward passes."""
    parts: tuple[Part, ...] = ("line", "plane", "keskar", "noise")
    """keskar: SB, LB and MLP. noise: ResNet and MLP; where BatchNorm sees batches an example has no gradient."""
    threads: Annotated[int, tyro.conf.arg(metavar="N")] = 2
    """CPU threads of every process."""
    examples: Annotated[int, tyro.conf.arg(metavar="N")] = 10_000
    """Images of Fashion-MNIST that every tool sees; fewer for a trial, whose numbers mean little."""
    runs: Path = Path("runs")
    """Folder with the main study in keskar2017/; networks trained here go to benchmark_curvature/ in it."""
    figures: Path = Path("figures/benchmark_landscape")
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
    if not (options.networks and options.parts and options.tools):
        raise InputError("expected at least one network, part and tool, got none: leave the option out for the default")
    images(options.examples)
    for network in BATCH_OF if BATCH_OF.keys() & set(options.networks) else ():  # the line goes between the two
        study_run(network, options.runs)


def jobs_of(options: Options) -> Iterator[Job]:
    """Yield the jobs: the tools that are installed together, so that they are timed in turns; others one by one."""
    there = [name for name in options.tools if importlib.util.find_spec(TOOLS[name].module)]
    groups = ["+".join(there), *(name for name in options.tools if name not in there)]
    for part in options.parts:
        for network in options.networks:
            if part in ("line", "plane"):
                yield from (Job(part, network, tool, options.examples, options.threads) for tool in groups if tool)
            elif network == "MLP" or (network in BATCH_OF) == (part == "keskar"):
                yield Job(part, network, "ours", options.examples, options.threads)


def main() -> None:
    """Measure what is missing and render everything."""
    options = tyro.cli(Options, description=__doc__)
    check_options(options)
    script, jobs = Path(__file__), jobs_of(options)
    measure_and_render(script, jobs, options.runs, options.figures, options.fresh, "landscape_report")


if __name__ == "__main__":
    begin(run_job, main)
