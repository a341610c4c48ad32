"""The runs of a study on disk: what is still to be trained and measured, and the jobs that do it."""

from __future__ import annotations

import hashlib
import json
import time
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

from scripts.runner.grid import Cell, Measurement, Task
from scripts.runner.site import Site
from sharpness.cli.jobs import Job
from sharpness.config import RunConfig
from sharpness.files import write_atomically
from sharpness.machine.environment import choose_device, git_commit, versions
from sharpness.measure.recorded import missing_probes
from sharpness.measure.runs import probe_run
from sharpness.runs import RunFolder
from sharpness.runs.networks import load_run_data
from sharpness.training import train


def train_cell(config: RunConfig, folder: Path, device: str, data_dir: Path | None, progress: Any) -> None:
    """Train one run (in a worker)."""
    dataset = load_run_data(config, data_dir)
    train(config, dataset, RunFolder.create(folder, config), choose_device(device), progress)


def probe_cell(
    folder: Path,
    probes: dict[str, Any],
    other: Path | None,
    num_examples: int | None,
    device: str,
    data_dir: Path | None,
    progress: Any,
) -> None:
    """Measure one run, or what lies between it and another (in a worker)."""
    probe_run(
        RunFolder.open(folder),
        probes,
        device=choose_device(device),
        other=None if other is None else RunFolder.open(other),
        num_examples=num_examples,
        data_dir=data_dir,
        progress=progress,
    )


def do_task(task: Task, folders: list[Path], path: Path, device: str, data_dir: Path | None, progress: Any) -> None:
    """Measure what a task asks for and write its rows (in a worker)."""
    started = time.perf_counter()
    runs = [RunFolder.open(folder) for folder in folders]
    content = {
        "name": task.name,
        "labels": dict(task.labels),
        "knobs": dict(task.knobs),
        "rows": task.function(Site(runs, choose_device(device), data_dir, progress), **task.knobs),
        "checkpoints": _final_weights(runs),
        "seconds": time.perf_counter() - started,
        "git_commit": git_commit(),
        "versions": versions(),
    }
    path.parent.mkdir(parents=True, exist_ok=True)
    write_atomically(path, (json.dumps(content, allow_nan=False, sort_keys=True) + "\n").encode())


def _final_weights(runs: Sequence[RunFolder]) -> dict[str, str]:
    return {run.path.name: run.final_sha256() for run in runs}


class StudyFolder:
    """The runs of one study on disk, and what is still to be done to them."""

    def __init__(self, runs: Path, device: str, data_dir: Path | None) -> None:
        self.runs, self._device, self._data_dir = runs, device, data_dir

    def place(self, cell: Cell) -> Path:
        """Return the folder of a run, which its config names."""
        return self.runs / cell.config.run_id

    def status(self, cell: Cell) -> str:
        """Return ``finished``, ``diverged`` or ``missing``."""
        manifest = RunFolder(self.place(cell)).manifest()
        return "missing" if manifest is None else manifest["status"]

    def training_jobs(self, cells: Iterable[Cell]) -> list[Job]:
        """Return a job for each run that is not there yet and can begin, once where cells of two labels share one."""
        jobs: dict[str, Job] = {}
        for cell in cells:
            begins = cell.after is None or self.status(cell.after) == "finished"
            if begins and self.status(cell) == "missing" and cell.config.run_id not in jobs:
                arguments = (cell.config, self.place(cell), self._device, self._data_dir)
                jobs[cell.config.run_id] = Job(cell.name, train_cell, arguments)
        return list(jobs.values())

    def probing_jobs(self, wanted: Iterable[Measurement | Task]) -> list[Job]:
        """Return a job for each measurement that is missing on the runs that finished."""
        jobs: dict[Any, Job] = {}
        for each in wanted:
            cells = each.cells if isinstance(each, Task) else [each.cell, *([each.other] if each.other else [])]
            if any(self.status(cell) != "finished" for cell in cells):
                continue
            key, job = self._task_job(each) if isinstance(each, Task) else self._measurement_job(each)
            if job is not None:
                jobs.setdefault(key, job)
        return list(jobs.values())

    def task_files(self, wanted: Iterable[Measurement | Task]) -> list[Path]:
        """Return the files of the tasks that were done."""
        paths = [self._task_file(each) for each in wanted if isinstance(each, Task)]
        return [path for path in dict.fromkeys(paths) if path.exists()]

    def _measurement_job(self, each: Measurement) -> tuple[Any, Job | None]:
        run, other = (RunFolder.open(self.place(c)) if c is not None else None for c in (each.cell, each.other))
        assert run is not None  # the cell of a measurement is there
        missing = missing_probes(run, each.probes, other, each.num_examples)
        far = None if other is None else other.path
        arguments = (run.path, missing, far, each.num_examples, self._device, self._data_dir)
        job = Job(each.label, probe_cell, arguments) if missing else None
        return repr(arguments), job

    def _task_job(self, task: Task) -> tuple[Any, Job | None]:
        folders, path = [self.place(cell) for cell in task.cells], self._task_file(task)
        label = ", ".join([task.name.replace("_", " "), Cell(task.labels, task.cells[0].config).name])
        arguments = (task, folders, path, self._device, self._data_dir)
        return path, None if self._is_done(task) else Job(label, do_task, arguments)

    def _is_done(self, task: Task) -> bool:
        """Say whether a task was done on the weights that its runs have now: the tables leave out what others gave."""
        path = self._task_file(task)
        if not path.exists():
            return False
        runs = [RunFolder.open(self.place(cell)) for cell in task.cells]
        return json.loads(path.read_text("utf-8"))["checkpoints"] == _final_weights(runs)

    def _task_file(self, task: Task) -> Path:
        runs = [cell.config.run_id for cell in task.cells]
        identity = json.dumps([runs, dict(task.labels), dict(task.knobs)], sort_keys=True)
        return self.runs / "measured" / task.name / f"{hashlib.sha256(identity.encode()).hexdigest()[:16]}.json"
