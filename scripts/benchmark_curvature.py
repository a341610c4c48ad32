"""Our curvature engine against its peers on the same networks, data, dtype and threads, in one run.

Every tool measures every network in a process of its own, one after the other. Times are of the solve alone: imports,
loading, a first touch of the data and a first solve of a 9-parameter problem come before. Each row is kept as it
finishes, so the same command goes on after a stop of any kind. SB and LB are networks of the main study: run
`make reproduce` first. The peers come with pip install -e '.[benchmark]' -c constraints.txt; a missing one gets a row
that says so, and is measured at the next call after its installation.
"""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Annotated, Any, Literal

ROOT = Path(__file__).resolve().parents[1]
sys.path[:0] = [str(ROOT), str(ROOT / "scripts")]  # analysis/ and the other files are not part of the installed package

import tyro
from benchmark_networks import BATCH_OF, images, study_run
from benchmark_parts import SCALE_KNOBS, Job, run_job
from benchmark_peers import SEEDED, TOOLS
from benchmark_tools import NotInstalledError

from sharpness.cli import run_command
from sharpness.environment import git_commit, versions
from sharpness.errors import InputError, RunError, unknown_name
from sharpness.records import append_jsonl, read_jsonl

Network = Literal["SB", "LB", "ResNet", "GPT-2", "MLP"]
Part = Literal["eigenvalue", "starts", "cost", "memory", "estimators"]
MEMORY_BUDGETS = (0, 256, 1024)  # MiB
ROW_MARK = "benchmark row: "


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


def run_in_process(job: Job, runs: Path) -> dict[str, Any]:
    """Do a job in a process of its own and return its row; one that ends without a row gives one with the reason."""
    command = [sys.executable, str(Path(__file__).resolve()), "worker", json.dumps(asdict(job)), str(runs)]
    environment = os.environ | {name: str(job.threads) for name in ("OMP_NUM_THREADS", "MKL_NUM_THREADS")}
    environment |= {"TOKENIZERS_PARALLELISM": "false", "HF_HUB_OFFLINE": "1"}
    with subprocess.Popen(command, env=environment, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True) as child:
        try:
            output, errors = child.communicate()
        except BaseException:
            child.kill()
            raise
    if child.returncode == -signal.SIGINT:
        raise KeyboardInterrupt
    lines = [line for line in output.splitlines() if line.startswith(ROW_MARK)]
    if lines:
        return json.loads(lines[-1].removeprefix(ROW_MARK))
    last = (errors.strip().splitlines() or ["no message"])[-1]
    reason = f"its process ended with code {child.returncode}: {last}"
    return asdict(job) | {"reasons": {"value": reason}, "again": True}


def worker(job: Job, runs: Path) -> None:
    """Do one job in this process and print its row; a failure of a tool is a row with the reason."""
    threading.Thread(target=_leave_with, args=(os.getppid(),), daemon=True).start()
    facts: dict[str, Any] = {"git_commit": git_commit(), "versions": versions()}
    try:
        row = run_job(job, runs)
    except Exception as error:  # whatever a peer raises is a result too
        text = " ".join(str(error).split())[:300]
        reason = text if isinstance(error, InputError | RunError) else f"{type(error).__name__}: {text}"
        row = {"reasons": {"value": reason}, "again": isinstance(error, NotInstalledError)}
    print(ROW_MARK + json.dumps(asdict(job) | facts | row, allow_nan=False))


def _leave_with(parent: int) -> None:
    """End this process soon after its parent was killed, so that it does not slow the measurements of the next call."""
    while os.getppid() == parent:
        time.sleep(0.5)
    os._exit(1)


def key(row: dict[str, Any]) -> tuple[Any, ...]:
    """Return the identity of a row, the fields of its job."""
    return tuple(row.get(name) for name in Job.__dataclass_fields__)


def measure(options: Options, path: Path) -> list[dict[str, Any]]:
    """Do the jobs that have no row yet, append their rows, and return those of all jobs of these options."""
    rows = {key(row): row for row in read_jsonl(path)}
    jobs = list(dict.fromkeys(jobs_of(options)))
    for number, job in enumerate(jobs, 1):
        known = rows.get(key(asdict(job)))
        if known is not None and not known.get("again"):
            continue
        print(f"{number} of {len(jobs)}, {job.label} ...", end=" ", flush=True)
        started = time.perf_counter()
        row = run_in_process(job, options.runs)
        append_jsonl(path, row)
        rows[key(row)] = row
        failed = row["reasons"].get("value") if "reasons" in row else None
        print(f"{time.perf_counter() - started:.0f} s{f'; no value: {failed}' if failed else ''}", flush=True)
    return [rows[key(asdict(job))] for job in jobs]


def main() -> None:
    """Measure what is missing and render everything."""
    options = tyro.cli(Options, description=__doc__)
    check_options(options)
    options.figures.mkdir(parents=True, exist_ok=True)
    path = options.figures / "results.jsonl"
    if options.fresh:
        path.unlink(missing_ok=True)
    rows = measure(options, path)
    from benchmark_report import render  # the workers import this file too and need no plotting libraries

    for file in render(rows, options.figures):
        if file.suffix in {".md", ".pdf"}:
            print(f"  {file}")


if __name__ == "__main__":
    if sys.argv[1:2] == ["worker"]:
        worker(Job(**json.loads(sys.argv[2])), Path(sys.argv[3]))
    else:
        run_command(main)
