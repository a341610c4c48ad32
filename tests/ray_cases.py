"""A program that trains two runs on a Ray, its own or that of an address, and the search for its workers."""

from __future__ import annotations

import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

from sharpness.cli import ray_workers
from sharpness.config import DataConfig, ModelConfig, RunConfig, TrainingConfig
from sharpness.training import loop
from tests.study_cases import script

study_folder = script("runner.folder")
CONFIG = RunConfig(
    data=DataConfig(num_train=400, num_test=20, evaluation_batch_size=200),
    model=ModelConfig(name="fc_128_128_128", norm="none"),
    training=TrainingConfig(optimizer="momentum", learning_rate=0.01, batch_size=10, epochs=100),
)
CELLS = [
    script("runner.grid").Cell({"seed": seed}, replace(CONFIG, training=replace(CONFIG.training, seed=seed)))
    for seed in range(2)
]


def jobs(folder: Path) -> list[Any]:
    """Return the training of every cell, saving its state often."""
    runs = study_folder.StudyFolder(folder, "cpu", None)
    return [replace(job, function=train_saving_often) for job in runs.training_jobs(CELLS)]


def train_saving_often(*arguments: Any, progress: Any) -> None:
    loop.RESUME_SECONDS = 0.1
    study_folder.train_cell(*arguments, progress=progress)


def workers_of(driver: int) -> list[int]:
    """Return the process ids of the tasks that run on the Ray that a process started, oldest first."""
    return sorted(pid for pid in _processes() if _title(pid).startswith("ray::_do") and driver in _ancestors(pid))


def _processes() -> list[int]:
    return [int(path.name) for path in Path("/proc").iterdir() if path.name.isdigit()]


def _title(pid: int) -> str:
    try:
        return Path(f"/proc/{pid}/cmdline").read_bytes().decode(errors="replace")
    except OSError:  # it has ended
        return ""


def _ancestors(pid: int) -> list[int]:
    found = []
    while pid > 1:
        try:
            pid = int(Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[1])
        except OSError:
            break
        found.append(pid)
    return found


if __name__ == "__main__":
    from rich.console import Console

    import tests.ray_cases  # so that the workers find the function by this name

    place, address = Path(sys.argv[1]), sys.argv[2] if len(sys.argv) > 2 else "local"
    with ray_workers.RayWorkers(address, 2, "cpu", place, Console(width=130)) as workers:
        workers.run("train", tests.ray_cases.jobs(place))
