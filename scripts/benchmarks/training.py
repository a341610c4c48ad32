"""How much of the barest PyTorch loop the training loop reaches, and what checkpoints and tracking cost.

loop: our updates against a loop with nothing in it but the step, and against one over torch's DataLoader, that makes
numbers of images one by one or has them ready, on the same network, images and threads, in turns; evaluations at the
ends of epochs are in none. pages: the barest loop with the memory pages that sharpness train asks for, and without.
checkpoint: saving after every epoch. tracking: the top eigenvalue once an epoch, on 2,000 examples.

To begin: --networks smith_le --batches 32 --examples 200 takes seconds. Each row is kept as it finishes, in a process
of its own, so the same command goes on after a stop of any kind. Times mean something on a machine that does nothing
else.
"""

from __future__ import annotations

import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Literal

ROOT = Path(__file__).resolve().parents[2]
sys.path[:0] = [str(ROOT), str(ROOT / "scripts")]  # the other files are not part of the installed package

import tyro

from scripts.benchmarks.rows import Job, begin, measure_and_render
from scripts.benchmarks.training_parts import run_job
from sharpness.errors import InputError, unknown_name
from sharpness.models import MODELS

Part = Literal["loop", "pages", "checkpoint", "tracking"]
EPOCH_BATCH = 64
"""Batch size of the epochs that saving and tracking are compared with."""


@dataclass(frozen=True)
class Options:
    """Measure what is missing, then render the tables and the figure."""

    networks: Annotated[tuple[str, ...], tyro.conf.arg(metavar="NAME ...")] = ("f1", "c1")
    """Names of `sharpness models`."""
    batches: Annotated[tuple[int, ...], tyro.conf.arg(metavar="N ...")] = (32, 256, 5000)
    """Batch sizes of the loops."""
    parts: tuple[Part, ...] = ("loop", "pages", "checkpoint", "tracking")
    threads: Annotated[int, tyro.conf.arg(metavar="N")] = 2
    """CPU threads of every process."""
    examples: Annotated[int, tyro.conf.arg(metavar="N")] = 10_000
    """Training images of Fashion-MNIST; fewer for a trial, whose numbers mean little."""
    figures: Path = Path("figures/benchmark_training")
    """Folder for the rows (results.jsonl), tables, figure and provenance."""
    fresh: bool = False
    """Forget the rows that are there."""


def check_options(options: Options) -> None:
    """Raise :class:`InputError` for what would fail later."""
    for network in options.networks:
        if network not in MODELS:
            raise unknown_name("model", network, MODELS)
    if options.threads < 1:
        raise InputError(f"expected at least 1 thread, got {options.threads}: two is the default")
    if not (options.networks and options.parts and options.batches):
        raise InputError("expected at least one network, part and batch size, got none: leave the option out")
    largest = max(options.batches)
    if largest > options.examples:
        raise InputError(f"expected batches of at most {options.examples} examples, got {largest}: lower --batches")


def jobs_of(options: Options) -> Iterator[Job]:
    """Yield the jobs, each of which adds a row."""
    for part in options.parts:
        for network in options.networks:
            for size in options.batches if part in ("loop", "pages") else (min(EPOCH_BATCH, options.examples),):
                yield Job(part, network, f"B = {size}", options.examples, options.threads)


def main() -> None:
    """Measure what is missing and render everything."""
    options = tyro.cli(Options, description=__doc__)
    check_options(options)
    script, jobs = Path(__file__), jobs_of(options)
    measure_and_render(script, jobs, Path("runs"), options.figures, options.fresh, "training_report")


if __name__ == "__main__":
    begin(run_job, main)
