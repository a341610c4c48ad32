"""The training loop against the barest PyTorch loop, and the cost of checkpoints and tracking.

loop: our updates against a loop with nothing in it but the step, and against one over torch's DataLoader, which makes
numbers of images one by one or has them ready, on the same network, images and threads, in turns; no loop evaluates at
the ends of epochs. pages: the barest loop with the memory pages that sharpness train asks for, and without.
checkpoint: saving after every epoch. tracking: the top eigenvalue once an epoch, on 2,000 examples.

To begin: --networks smith_le --batches 32 --examples 200 takes seconds. Each row is kept as it finishes, in a process
of its own, so the same command goes on after a stop of any kind. Times mean something on a machine that does nothing
else.
"""

# python scripts/benchmarks/training.py
# About half an hour on two cores.
# Our loop reaches 92 to 105 % of the images per second of the barest one. Saving everything takes 0.03 s; the top
# eigenvalue after each epoch takes 1.7 (f1) and 5.9 (c1) times as long as the epoch.

from __future__ import annotations

import multiprocessing
import os
import sys
import tempfile
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass, replace
from pathlib import Path
from statistics import median
from typing import Annotated, Literal

sys.path.insert(0, str(Path(__file__).resolve().parents[2]))  # scripts/ is not installed

import matplotlib as mpl
import torch
import tyro

from scripts.benchmarks.report import Part, frame_of, lines_of, provenance_of, write_report
from scripts.benchmarks.rows import Benchmark, Job, Row, SharedOptions
from scripts.benchmarks.tools import interleaved, seconds_of
from scripts.benchmarks.training_peers import bare_updates, config_of, loader_updates, our_updates, session_of
from sharpness.config import MeasureConfig, RunConfig
from sharpness.data import Dataset, load_dataset
from sharpness.errors import InputError, unknown_name
from sharpness.models import MODELS
from sharpness.plots.axes import log_axis
from sharpness.plots.save import save_figure
from sharpness.plots.style import COLUMN, LOOKS, STYLE, new_figure
from sharpness.training.position import Position

PartName = Literal["loop", "pages", "checkpoint", "tracking"]
EPOCH_BATCH = 64
"""Batch size of the epochs that saving and tracking are compared with."""
ROUNDS = 5
"""Rounds of every contender, in turns."""
WINDOW_SECONDS = 1.5
"""Rounds are about so long, and at least two updates."""
TRACKED = 2000
"""Examples of the top eigenvalue."""


@dataclass(frozen=True, kw_only=True)
class Options(SharedOptions):
    """Measure what is missing, then render the tables and the figure."""

    networks: Annotated[tuple[str, ...], tyro.conf.arg(metavar="NAME ...")] = ("f1", "c1")
    """Names of `sharpness models`."""
    batches: Annotated[tuple[int, ...], tyro.conf.arg(metavar="N ...")] = (32, 256, 5000)
    """Batch sizes of the loops."""
    parts: tuple[PartName, ...] = ("loop", "pages", "checkpoint", "tracking")
    runs: tyro.conf.Suppress[Path] = Path("runs")  # no trained network is read
    figures: Path = Path("figures/benchmark_training")

    def check(self) -> None:
        """Raise :class:`InputError` for what would fail later."""
        super().check()
        for network in self.networks:
            if network not in MODELS:
                raise unknown_name("model", network, MODELS)
        if not (self.networks and self.parts and self.batches):
            raise InputError("expected at least one network, part and batch size, got none: leave the option out")
        largest = max(self.batches)
        if largest > self.examples:
            raise InputError(f"expected batches of at most {self.examples} examples, got {largest}: lower --batches")

    def jobs(self) -> Iterator[Job]:
        """Yield the jobs, each of which adds a row."""
        for part in self.parts:
            sizes = self.batches if part in ("loop", "pages") else (min(EPOCH_BATCH, self.examples),)
            for network in self.networks:
                yield from (Job(part, network, f"B = {size}", self.examples, self.threads) for size in sizes)


# What one process measures.


def loop(job: Job, dataset: Dataset, folder: Path) -> Row:
    """Return images per second of the loops."""
    size = batch_of(job)
    config = config_of(job.network, size)
    count = _count_of_window(config, dataset)
    calls: dict[str, Callable[[], None]] = {
        "ours": our_updates(session_of(config, dataset, folder / "run"), count),
        "bare": bare_updates(config, dataset, count),
        "DataLoader": loader_updates(config, dataset, count, ready=False),
        "DataLoader, ready tensors": loader_updates(config, dataset, count, ready=True),
    }
    interleaved(calls, 1)  # the first touch
    rates = {name: [count * size / each for each in seconds] for name, seconds in interleaved(calls, ROUNDS).items()}
    ours, bare, loader, ready = (median(each) for each in rates.values())
    ratios = {"ours / bare": ours / bare, "ours / DataLoader": ours / loader, "ours / ready tensors": ours / ready}
    return {f"{name} (images/s)": each for name, each in rates.items()} | ratios


def pages(job: Job, dataset: Dataset, folder: Path) -> Row:
    """Return images per second of the barest loop with pages of 4 KiB and of 2 MiB, in processes in turns."""
    rates: dict[str, list[float]] = {"0": [], "1": []}
    for _ in range(ROUNDS):
        for setting, measured in rates.items():
            os.environ["THP_MEM_ALLOC_ENABLE"] = setting  # torch reads it once
            with ProcessPoolExecutor(1, multiprocessing.get_context("spawn")) as pool:
                measured.append(pool.submit(_bare_rate, job).result())
    small, large = rates.values()
    ratio = median(large) / median(small)
    return {"4 KiB (images/s)": small, "2 MiB (images/s)": large, "2 MiB / 4 KiB": ratio}


def checkpoint(job: Job, dataset: Dataset, folder: Path) -> Row:
    """Return the seconds of writing everything that a run needs to go on, and of an epoch of updates."""
    session = session_of(config_of(job.network, batch_of(job)), dataset, folder / "run")
    epoch = our_updates(session, -(-len(dataset.train) // batch_of(job)))
    epoch()
    seconds = interleaved({"epoch": epoch, "save": lambda: session.save(Position(update=1, log_rows=1))}, ROUNDS)
    share = 100 * median(seconds["save"]) / median(seconds["epoch"])
    return {"epoch (s)": seconds["epoch"], "save (s)": seconds["save"], "share (%)": share}


def tracking(job: Job, dataset: Dataset, folder: Path) -> Row:
    """Return the seconds of the top eigenvalue once an epoch, and of the epoch's updates."""
    config = config_of(job.network, batch_of(job))
    config = replace(config, measure=MeasureConfig(names=("eigenvalue",), examples=TRACKED))
    session = session_of(config, dataset, folder / "run")
    epoch = our_updates(session, -(-len(dataset.train) // batch_of(job)))
    split = session.train.first(min(TRACKED, len(session.train)))
    products: list[int] = []

    def solve() -> None:
        products.append(session.measures(session.loss_over(split), 1e-3)["top_eigenvalue_hvps"])

    interleaved({"epoch": epoch, "solve": solve}, 1)  # the first solve starts at random
    seconds = interleaved({"epoch": epoch, "solve": solve}, ROUNDS)
    share = 100 * median(seconds["solve"]) / median(seconds["epoch"])
    times = {"epoch (s)": seconds["epoch"], "solve (s)": seconds["solve"]}
    return times | {"products": products[1:], "share (%)": share}


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


def batch_of(job: Job) -> int:
    """Return the batch size that a job's tool names: ``B = 256``."""
    return int(job.tool.removeprefix("B = "))


def measure(job: Job, runs: Path) -> Row:
    """Return the numbers of one job, measured in a folder that goes with it."""
    dataset = load_dataset("fashion_mnist_10k", num_train=job.examples)
    with tempfile.TemporaryDirectory() as name:
        return {"batch": batch_of(job)} | PARTS[job.part].measure(job, dataset, Path(name))


# The report.


PARTS = {
    "loop": Part(
        loop,
        "Updates: images per second, evaluations left out",
        f"Fashion-MNIST and Adam; medians of {ROUNDS} rounds in turns.",
        "network | batch | DataLoader (images/s) | DataLoader, ready tensors (images/s) | bare (images/s) | "
        "ours (images/s) | ours / DataLoader | ours / bare | ours / ready tensors",
    ),
    "pages": Part(
        pages,
        "The barest loop with the memory pages of 2 MiB that `sharpness train` asks for, and of 4 KiB",
        f"Medians of {ROUNDS} processes each, in turns.",
        "network | batch | 2 MiB (images/s) | 2 MiB / 4 KiB | 4 KiB (images/s)",
    ),
    "checkpoint": Part(
        checkpoint,
        "Saving everything once an epoch, beside the epoch's updates",
        f"Medians of {ROUNDS} rounds in turns.",
        "network | batch | epoch (s) | save (s) | share (%)",
    ),
    "tracking": Part(
        tracking,
        f"The top eigenvalue on {TRACKED:,} examples once an epoch, warm-started, beside the epoch's updates",
        f"Medians of {ROUNDS} epochs.",
        "network | batch | epoch (s) | products | share (%) | solve (s)",
    ),
}


def render(rows: Sequence[Row], out: Path) -> list[Path]:
    """Write the tables of all rows, and the figure of throughputs."""
    lines = {part: lines_of(rows, part) for part in PARTS}
    provenance = provenance_of(rows, rounds=ROUNDS)
    files = write_report("Training benchmark", PARTS, lines, provenance, out)
    return files + _draw([line for line in lines["loop"] if "bare (images/s)" in line], out, provenance)


WANTED = 95
"""The share of the barest loop that ours is to reach, in per cent."""
CAPTION = (
    "Images per second of our training loop and of loops over torch's DataLoader, which makes numbers of the images "
    f"one by one or has them ready, as a share of the barest loop on the same images; medians of {ROUNDS} rounds in "
    f"turns. Dashed: {WANTED} %."
)


def _draw(lines: Sequence[Row], out: Path, provenance: Row) -> list[Path]:
    """Draw the throughput of the loops relative to the barest one."""
    if not lines:
        return []
    table = frame_of(PARTS["loop"].table(lines))
    contenders = ["ours", "DataLoader", "DataLoader, ready tensors"]
    shares = [100 * table[f"{name} (images/s)"] / table["bare (images/s)"] for name in contenders]
    networks = list(dict.fromkeys(table["network"]))
    with mpl.rc_context(STYLE):
        figure, axes = new_figure(COLUMN, 2.4, columns=len(networks))
        top = 1.08 * max(100.0, *(max(share) for share in shares))
        for ax, network in zip(axes.flat, networks, strict=True):
            here = table["network"] == network
            for name, share, look in zip(contenders, shares, LOOKS, strict=False):
                style = {"color": look.color, "marker": look.marker, "linestyle": ""}
                ax.plot(table["batch"][here], share[here], label=name, **style)
            ax.axhline(WANTED, color="0.4", linewidth=0.8, linestyle="--", zorder=1)
            ax.set(title=network.upper(), xlabel="Batch size", ylim=(0, top))
            log_axis(ax.xaxis, table["batch"][here], padding=1.6)
        axes.flat[0].set_ylabel("Share of the barest loop (%)")
        handles, labels = axes.flat[0].get_legend_handles_labels()
        figure.legend(handles, labels, loc="outside upper center", ncols=3, columnspacing=1, handletextpad=0.2)
        return save_figure(figure, table, out, "throughput", CAPTION, provenance)


BENCHMARK = Benchmark(__file__, __doc__, Options, measure, render)
if __name__ == "__main__":
    BENCHMARK.main()
