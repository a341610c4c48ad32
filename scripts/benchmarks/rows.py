"""The rows of a benchmark: each is measured in a process of its own and kept on disk as it finishes."""

from __future__ import annotations

import importlib
import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterable
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from scripts.benchmarks.tools import NotInstalledError
from scripts.workers import leave_with
from sharpness.cli import run_command
from sharpness.errors import InputError, RunError
from sharpness.machine.environment import git_commit, versions
from sharpness.records import append_jsonl, read_jsonl

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

    @property
    def label(self) -> str:
        """What the progress line says."""
        return f"{self.part}: {self.network}, {self.tool}"


def key(row: Row) -> tuple[Any, ...]:
    """Return the identity of a row, the fields of its job."""
    return tuple(row.get(name) for name in Job.__dataclass_fields__)


def run_in_process(script: Path, job: Job, runs: Path) -> Row:
    """Do a job in a process of its own, ``SCRIPT worker JOB RUNS``, and return its row.

    A process that ends without a row gives one with the reason.
    """
    command = [sys.executable, str(script.resolve()), "worker", json.dumps(asdict(job)), str(runs)]
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


def worker(job: Job, runs: Path, run_job: Callable[[Job, Path], Row]) -> None:
    """Do one job in this process and print its row; a failure of a tool is a row with the reason."""
    leave_with(os.getppid())
    facts: Row = {"git_commit": git_commit(), "versions": versions()}
    try:
        row = run_job(job, runs)
    except Exception as error:  # whatever a peer raises is a result too
        row = {"reasons": {"value": reason_of(error)}, "again": isinstance(error, NotInstalledError)}
    print(ROW_MARK + json.dumps(asdict(job) | facts | row, allow_nan=False))


def reason_of(error: Exception) -> str:
    """Return what a table says of a failure: our own sentence, or the kind and the first words of another's."""
    text = " ".join(str(error).split())[:300]
    return text if isinstance(error, InputError | RunError) else f"{type(error).__name__}: {text}"


def begin(run_job: Callable[[Job, Path], Row], main: Callable[[], None]) -> None:
    """Do one job where the arguments say ``worker JOB RUNS``, else what the user asks for."""
    if sys.argv[1:2] == ["worker"]:
        worker(Job(**json.loads(sys.argv[2])), Path(sys.argv[3]), run_job)
    else:
        run_command(main)


def measure_and_render(script: Path, jobs: Iterable[Job], runs: Path, figures: Path, fresh: bool, report: str) -> None:
    """Measure what is missing of a benchmark's jobs, and let the module ``report`` render the rows of all."""
    figures.mkdir(parents=True, exist_ok=True)
    if fresh:
        (figures / "results.jsonl").unlink(missing_ok=True)
    rows = measure(script, jobs, runs, figures / "results.jsonl")
    # Loaded only now: the workers import the script too and need no plotting libraries.
    for file in importlib.import_module(f"scripts.benchmarks.{report}").render(rows, figures):
        if file.suffix in {".md", ".pdf"}:
            print(f"  {file}")


def measure(script: Path, jobs: Iterable[Job], runs: Path, path: Path) -> list[Row]:
    """Do the jobs that have no row at ``path`` yet, append their rows there, and return those of all the jobs."""
    wanted = list(dict.fromkeys(jobs))
    rows = {key(row): row for row in read_jsonl(path)}
    for number, job in enumerate(wanted, 1):
        known = rows.get(key(asdict(job)))
        if known is not None and not known.get("again"):
            continue
        print(f"{number} of {len(wanted)}, {job.label} ...", end=" ", flush=True)
        started = time.perf_counter()
        row = run_in_process(script, job, runs)
        append_jsonl(path, row)
        rows[key(row)] = row
        failed = row["reasons"].get("value") if "reasons" in row else None
        print(f"{time.perf_counter() - started:.0f} s{f'; no value: {failed}' if failed else ''}", flush=True)
    return [rows[key(asdict(job))] for job in wanted]
