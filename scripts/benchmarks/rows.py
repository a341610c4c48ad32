"""The rows of a benchmark: each is measured in a process of its own and kept on disk as it finishes.

A row holds the fields of its job, the commit, versions and machine, the numbers, and ``reasons`` for those that are
missing. A number that was measured several times is the list of all its values. ``entries`` holds what one job measured
of several tools or methods, each of which is a line of the table.
"""

from __future__ import annotations

import json
import os
import platform
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import asdict, dataclass, fields
from pathlib import Path
from typing import Annotated, Any

import torch
import tyro

from scripts.benchmarks.tools import NotInstalledError
from scripts.runner.workers import leave_with
from sharpness.cli import run_command
from sharpness.errors import InputError, RunError
from sharpness.files import append_jsonl, read_jsonl
from sharpness.machine.environment import git_commit, versions

Row = dict[str, Any]
ROW_MARK = "benchmark row: "


@dataclass(frozen=True)
class Job:
    """One process of a benchmark; its fields are the identity of the row it adds."""

    part: str
    network: str
    tool: str
    examples: int
    threads: int


@dataclass(frozen=True, kw_only=True)
class SharedOptions:
    """Measure what is missing, then render the tables and the figure."""

    threads: Annotated[int, tyro.conf.arg(metavar="N")] = 2
    """CPU threads of every process."""
    examples: Annotated[int, tyro.conf.arg(metavar="N")] = 10_000
    """Images of Fashion-MNIST that every tool sees; fewer for a trial, whose numbers mean little."""
    runs: Path = Path("runs")
    """Folder with the main study in keskar2017/; networks trained here go to benchmark_curvature/ in it."""
    figures: Path
    """Folder for the rows (results.jsonl), tables, figure and provenance."""
    fresh: bool = False
    """Forget the rows that are there."""

    def check(self) -> None:
        """Raise :class:`InputError` for what would fail later."""
        if self.threads < 1:
            raise InputError(f"expected at least 1 thread, got {self.threads}: two is the default")

    def jobs(self) -> Iterator[Job]:
        """Yield the jobs in their order."""
        raise NotImplementedError


@dataclass(frozen=True)
class Benchmark:
    """A command: its script, description and options, and the functions that measure a job and render all rows."""

    script: str
    description: str | None
    options: type[SharedOptions]
    measure: Callable[[Job, Path], Row]
    render: Callable[[Sequence[Row], Path], list[Path]]

    def main(self) -> None:
        """Measure one job where the arguments say ``worker JOB RUNS``, else do what the user asks for."""
        if sys.argv[1:2] == ["worker"]:
            leave_with(os.getppid())
            row = row_of(Job(**json.loads(sys.argv[2])), Path(sys.argv[3]), self.measure)
            print(ROW_MARK + json.dumps(row, allow_nan=False))
        else:
            run_command(self._measure_and_render)

    def _measure_and_render(self) -> None:
        options = tyro.cli(self.options, description=self.description)
        options.check()
        path = options.figures / "results.jsonl"
        if options.fresh:
            path.unlink(missing_ok=True)
        rows = measure(options.jobs(), path, lambda job: run_in_process(Path(self.script), job, options.runs))
        for file in self.render(rows, options.figures):
            if file.suffix in {".md", ".pdf"}:
                print(f"  {file}")


def measure(jobs: Iterable[Job], path: Path, run: Callable[[Job], Row]) -> list[Row]:
    """Run the jobs that have no row at ``path`` yet, append their rows there, and return those of all the jobs."""
    path.parent.mkdir(parents=True, exist_ok=True)
    wanted = list(dict.fromkeys(jobs))
    rows = {job_of(row): row for row in read_jsonl(path)}
    for number, job in enumerate(wanted, 1):
        if job in rows and not rows[job].get("again"):
            continue
        print(f"{number} of {len(wanted)}, {job.part}: {job.network}, {job.tool} ...", end=" ", flush=True)
        started = time.perf_counter()
        rows[job] = run(job)
        append_jsonl(path, rows[job])
        failed = rows[job]["reasons"].get("value")
        print(f"{time.perf_counter() - started:.0f} s{f'; no value: {failed}' if failed else ''}", flush=True)
    return [rows[job] for job in wanted]


def job_of(row: Row) -> Job:
    """Return the job that a row is of."""
    return Job(**{field.name: row[field.name] for field in fields(Job)})


def run_in_process(script: Path, job: Job, runs: Path) -> Row:
    """Do a job in a process of its own, ``SCRIPT worker JOB RUNS``, and return its row.

    A process that ends without a row gives one with the reason.
    """
    command = [sys.executable, str(script.resolve()), "worker", json.dumps(asdict(job)), str(runs)]
    environment = os.environ | {name: str(job.threads) for name in ("OMP_NUM_THREADS", "MKL_NUM_THREADS")}
    environment |= {"TOKENIZERS_PARALLELISM": "false", "HF_HUB_OFFLINE": "1"}
    environment.setdefault("THP_MEM_ALLOC_ENABLE", "1")  # memory pages as sharpness train and the studies ask for them
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


def row_of(job: Job, runs: Path, measure_job: Callable[[Job, Path], Row]) -> Row:
    """Return the row of a job measured in this process; a failure of a tool is a row with the reason."""
    torch.set_num_threads(job.threads)
    row = asdict(job) | {"git_commit": git_commit(), "versions": versions(), "machine": machine(), "reasons": {}}
    try:
        return row | measure_job(job, runs)
    except Exception as error:  # whatever a peer raises is a result too
        return row | {"reasons": {"value": reason_of(error)}, "again": isinstance(error, NotInstalledError)}


def reason_of(error: Exception) -> str:
    """Return the words of a table on a failure: our own sentence, or the kind and the first words of another's."""
    text = " ".join(str(error).split())[:300]
    return text if isinstance(error, InputError | RunError) else f"{type(error).__name__}: {text}"


def machine() -> Row:
    """Return the processor, the number of cores and the system of this machine."""
    path = Path("/proc/cpuinfo")
    lines = path.read_text().splitlines() if path.exists() else []
    names = (line.partition(": ")[2] for line in lines if line.startswith("model name"))
    return {"cpu": next(names, platform.processor()), "cores": os.cpu_count(), "system": platform.platform()}
