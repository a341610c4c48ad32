"""The parts of the training benchmark: each measures one network at one batch size and returns a row."""

from __future__ import annotations

import multiprocessing
import os
import statistics
import tempfile
import time
from collections.abc import Callable
from concurrent.futures import ProcessPoolExecutor
from dataclasses import replace
from pathlib import Path

import torch

from scripts.benchmarks.rows import Job, Row
from scripts.benchmarks.tools import interleaved, seconds_of
from scripts.benchmarks.training_loops import bare_updates, config_of, loader_updates, our_updates, session_of
from sharpness.config import MeasureConfig, RunConfig
from sharpness.data import Dataset, load_dataset
from sharpness.training.position import Position

ROUNDS = 5
"""Rounds of every contender, in turns; medians are reported."""
WINDOW_SECONDS = 1.5
"""Rounds are about so long, and at least two updates."""
OTHERS = {"bare": "bare", "DataLoader": "loader", "ready tensors": "ready"}
"""What our loop is divided by in the table."""
TRACKED = 2000
"""Examples of the top eigenvalue."""


def loop(job: Job, dataset: Dataset, folder: Path) -> Row:
    """Return images per second of the loops."""
    size = batch_of(job)
    config = config_of(job.network, size)
    count = _count_of_window(config, dataset)
    calls = {
        "ours": our_updates(session_of(config, dataset, folder / "run"), count),
        "bare": bare_updates(config, dataset, count),
        "ready": loader_updates(config, dataset, count, ready=True),
        "loader": loader_updates(config, dataset, count, ready=False),
    }
    for call in calls.values():
        call()  # the first touch
    rates = {name: count * size / seconds for name, seconds in interleaved(calls, ROUNDS).items()}
    return {
        **{"batch": size, "ours (images/s)": rates["ours"], "bare (images/s)": rates["bare"]},
        **{"DataLoader (images/s)": rates["loader"], "DataLoader, ready tensors (images/s)": rates["ready"]},
        **{f"ours / {other}": rates["ours"] / rates[name] for other, name in OTHERS.items()},
    }


def checkpoint(job: Job, dataset: Dataset, folder: Path) -> Row:
    """Return what writing everything that a run needs to go on costs beside an epoch of updates."""
    size = batch_of(job)
    session = session_of(config_of(job.network, size), dataset, folder / "run")
    epoch = our_updates(session, -(-len(dataset.train) // size))
    epoch()
    calls = {"epoch": epoch, "save": lambda: session.save(Position(update=1, log_rows=1))}
    seconds = interleaved(calls, ROUNDS)
    share = 100 * seconds["save"] / seconds["epoch"]
    return {"batch": size, "epoch (s)": seconds["epoch"], "save (s)": seconds["save"], "share (%)": share}


def tracking(job: Job, dataset: Dataset, folder: Path) -> Row:
    """Return what the top eigenvalue once an epoch costs beside the epoch's updates."""
    size = batch_of(job)
    config = replace(config_of(job.network, size), measure=MeasureConfig(names=("eigenvalue",), examples=TRACKED))
    session = session_of(config, dataset, folder / "run")
    epoch = our_updates(session, -(-len(dataset.train) // size))
    split = session.train.first(min(TRACKED, len(session.train)))
    epochs, solves, products = [], [], []
    for number in range(ROUNDS + 1):
        took = seconds_of(epoch)
        started = time.perf_counter()
        row = session.measures(session.loss_over(split), 1e-3)
        if number:  # the first solve starts at random
            epochs.append(took)
            solves.append(time.perf_counter() - started)
            products.append(row["top_eigenvalue_hvps"])
    one, solve, count = (sorted(each)[len(each) // 2] for each in (epochs, solves, products))
    return {"batch": size, "epoch (s)": one, "solve (s)": solve, "products": count, "share (%)": 100 * solve / one}


def pages(job: Job, dataset: Dataset, folder: Path) -> Row:
    """Return images per second of the barest loop with pages of 4 KiB and of 2 MiB, in processes in turns."""
    rates: dict[str, list[float]] = {"0": [], "1": []}
    for _ in range(ROUNDS):
        for setting, measured in rates.items():
            os.environ["THP_MEM_ALLOC_ENABLE"] = setting  # torch reads it once
            with ProcessPoolExecutor(1, multiprocessing.get_context("spawn")) as pool:
                measured.append(pool.submit(_bare_rate, job).result())
    small, large = (statistics.median(each) for each in rates.values())
    return {
        "batch": batch_of(job),
        "4 KiB (images/s)": small,
        "2 MiB (images/s)": large,
        "2 MiB / 4 KiB": large / small,
    }


def _bare_rate(job: Job) -> float:
    """Return images per second of the barest loop in this process, after its first touch of the memory."""
    torch.set_num_threads(job.threads)
    config = config_of(job.network, batch_of(job))
    dataset = load_dataset("fashion_mnist_10k", num_train=job.examples)
    count = _count_of_window(config, dataset)
    return count * batch_of(job) / seconds_of(bare_updates(config, dataset, count))


def _count_of_window(config: RunConfig, dataset: Dataset) -> int:
    """Return how many updates take about :data:`WINDOW_SECONDS`, at least two, after a first touch of the memory."""
    run = bare_updates(config, dataset, 2)
    run()
    return max(2, round(WINDOW_SECONDS / (seconds_of(run) / 2)))


PARTS: dict[str, Callable[[Job, Dataset, Path], Row]] = {
    "loop": loop,
    "pages": pages,
    "checkpoint": checkpoint,
    "tracking": tracking,
}


def batch_of(job: Job) -> int:
    """Return the batch size that a job's tool names: ``B = 256``."""
    return int(job.tool.removeprefix("B = "))


def run_job(job: Job, runs: Path) -> Row:
    """Do one part in this process, in a folder that goes with it."""
    os.environ.setdefault("THP_MEM_ALLOC_ENABLE", "1")  # before the first tensor, as sharpness train does
    torch.set_num_threads(job.threads)
    dataset = load_dataset("fashion_mnist_10k", num_train=job.examples)
    with tempfile.TemporaryDirectory() as name:
        return PARTS[job.part](job, dataset, Path(name))
