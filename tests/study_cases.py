"""Helpers for the tests of the literature's scripts: import one, do its jobs in this process, run its smoke form."""

from __future__ import annotations

import atexit
import contextlib
import functools
import importlib
import io
import os
import runpy
import shutil
import sys
import tempfile
from collections.abc import Iterable
from dataclasses import replace
from pathlib import Path
from typing import Any
from unittest import mock

import numpy as np
import torch

from sharpness.data.cifar import CIFAR10, CIFAR100
from sharpness.data.idx import encode_idx
from sharpness.runs import RunFolder
from sharpness.runs.networks import load_run_data
from sharpness.training import check_config, train
from tests.conftest import ROOT, run_python


def script(name: str) -> Any:
    """Return a module of ``scripts/``."""
    return importlib.import_module(f"scripts.{name}")


def verdict_of(found: Iterable[Any], words: str) -> str:
    """Return the verdict of the one finding whose claim has these words."""
    (one,) = [each.verdict for each in found if words in each.claim]
    return one


def site(*folders: Path) -> Any:
    """Return where a study's own measurement works: these runs on the CPU, and nobody hears of the progress."""
    runs = [RunFolder.open(folder) for folder in folders]
    return script("runner.site").Site(runs, torch.device("cpu"), None, lambda done, total: None)


def do(jobs: Iterable[Any]) -> int:
    """Do jobs one after the other in this process, and return how many there were."""
    count = 0
    for job in jobs:
        job.function(*job.arguments, progress=lambda done, total: None)
        count += 1
    return count


def run_smoke(name: str, folder: Path, *arguments: str, environment: dict[str, str] | None = None) -> Any:
    """Run a script's smoke form into ``folder/runs`` and ``folder/figures``; return the finished process."""
    paths = ["--runs", str(folder / "runs"), "--figures", str(folder / "figures")]
    preset = [] if "--preset" in arguments else ["--preset", "smoke"]
    return run_python(f"scripts/{name.replace('.', '/')}.py", *preset, *paths, *arguments, environment=environment)


def smoke_once(name: str, folder: Path) -> tuple[Path, str]:
    """Run a script's smoke form, which must end well and leave nothing to do: the figures' folder, what was printed.

    It runs as ``__main__`` in this process, which has loaded and warmed up what a process of its own would have to:
    the project's modules, images and formulas. As a program of its own, with several workers, keskar2017's is run.
    """
    file, printed = ROOT / "scripts" / f"{name.replace('.', '/')}.py", io.StringIO()
    paths = ["--runs", str(folder / "runs"), "--figures", str(folder / "figures")]
    with (
        mock.patch.object(sys, "argv", [str(file), "--preset", "smoke", "--workers", "1", *paths]),
        mock.patch.object(sys, "path", sys.path[:]),
        mock.patch.dict(os.environ, {"SHARPNESS_OFFLINE": "1"}),
        mock.patch.object(script("runner.workers"), "available_cores", return_value=1),
        contextlib.redirect_stdout(printed),
    ):
        runpy.run_path(str(file), run_name="__main__")
        assert sys.path[0] == str(ROOT)  # where a program of its own finds the project's modules
    assert left_to_do(name, folder) == []
    (out,) = (folder / "figures").iterdir()
    assert out.name == f"smoke-{script(name).STUDY.presets['smoke'].seeds}-seeds"
    return out, printed.getvalue()


def left_to_do(name: str, folder: Path) -> list[str]:
    """Return the labels of what a script's smoke form would still train and measure after ``run_smoke``."""
    module = script(name)
    preset = module.STUDY.presets["smoke"]
    cells = list(module.STUDY.cells(preset, preset.seeds))
    runs = script("runner.folder").StudyFolder(folder / "runs", "cpu", None)
    jobs = [*runs.training_jobs(cells), *runs.probing_jobs(module.STUDY.measurements(preset, cells))]
    return [job.label for job in jobs]


def first_steps(cells: Iterable[Any], folder: Path, steps: int = 1) -> list[dict[str, Any]]:
    """Make the first updates of a preset that is too large to run here, and return the runs' manifests.

    One run of each network and optimiser is taken, the one of the smallest batch, with its own settings, which are
    checked, but for the number of updates and of examples: as many as one batch, of 8 at most. The data are random
    bytes in the exact files of the dataset, read from a folder as a user's would be.
    """
    chosen: dict[tuple[str, str], Any] = {}
    for cell in sorted(cells, key=lambda each: each.config.training.batch_size):
        key = (cell.config.model.name, cell.config.training.optimizer)
        if cell.after is None:
            chosen.setdefault(key, cell.config)
    manifests = []
    for number, config in enumerate(chosen.values()):
        check_config(config)
        size, held_out = min(config.training.batch_size, 8), min(config.data.num_validation, 4)
        data = replace(config.data, num_train=size + held_out, num_validation=held_out, num_test=4)
        data = replace(data, evaluation_batch_size=min(size, config.data.evaluation_batch_size))
        training = replace(config.training, batch_size=size)
        short = replace(config, data=data, training=training, budget=replace(config.budget, updates=steps))
        dataset = load_run_data(short, made_data(config.data.name))
        run = RunFolder.create(folder / f"run-{number}", short)
        manifests.append(train(short, dataset, run, torch.device("cpu")))
    return manifests


@functools.cache
def made_data(name: str) -> Path | None:
    """Write random images and labels as the files of a dataset and return their folder; ``None`` if it is embedded.

    They are written once in a process, at whose end they are removed.
    """
    if name == "fashion_mnist_10k":
        return None
    place = Path(tempfile.mkdtemp(prefix=f"{name}-"))
    atexit.register(shutil.rmtree, place, ignore_errors=True)
    (_write_cifar if name.startswith("cifar") else _write_idx)(name, place, np.random.default_rng(0))
    return place


def _write_idx(name: str, place: Path, rng: np.random.Generator) -> None:
    for part, count in (("train", 60_000), ("t10k", 10_000)):
        images = torch.from_numpy(np.resize(rng.integers(0, 256, (100, 28, 28), dtype=np.uint8), (count, 28, 28)))
        labels = torch.from_numpy(np.resize(np.arange(10, dtype=np.uint8), count))
        (place / f"{part}-images-idx3-ubyte").write_bytes(encode_idx(images))
        (place / f"{part}-labels-idx1-ubyte").write_bytes(encode_idx(labels))


def _write_cifar(name: str, place: Path, rng: np.random.Generator) -> None:
    layout, classes = (CIFAR10, 10) if name == "cifar10" else (CIFAR100, 100)
    for file, size in layout.expected_sizes(50_000, 10_000).items():
        count = size // (layout.label_bytes + 3072)
        labels = np.stack([np.resize(np.arange(classes, dtype=np.uint8), count)] * layout.label_bytes, 1)
        labels[:, : layout.label_bytes - 1] = 0  # the coarse label
        pixels = np.resize(rng.integers(0, 256, (100, 3072), dtype=np.uint8), (count, 3072))
        (place / file).write_bytes(np.concatenate([labels, pixels], 1).tobytes())
