"""The edge of stochastic stability: where batch sharpness settles under SGD, and under momentum.

Tests two claims with the square loss and a network of two hidden layers. Of Andreyev & Beneventano 2024 (arXiv
2412.20553): under SGD batch sharpness, the curvature of a batch's own loss along its own gradient, settles at 2 / eta,
and the top eigenvalue of the whole loss below that, the lower the smaller the batch. Of Andreyev et al. 2026 (arXiv
2604.14108, "Momentum Further Constrains Sharpness at the Edge of Stochastic Stability"): with momentum b it settles at
2 (1 - b) / eta in small batches, where solutions are flatter than those of plain SGD, and at 2 (1 + b) / eta in large
ones. Of the second paper the abstract alone was read, which does not say what is small and what is large; here large is
the full batch. `cohen2021.py` has the first claim at rates at which the data are fitted before the edge is reached;
here the rate first grows to larger ones. It measures in the same way, at checkpoints of the second half of training.

What to expect, on two CPU cores:

- cpu: about 10 minutes. Of 7 claims 3 are reproduced, 3 inconclusive, and one is contradicted: full batches with
  momentum settle at the upper plateau (0.98 of it), small ones a little above the lower, and SGD at 0.6 to 0.9 of
  2 / eta, with the eigenvalue of the whole loss 1.2 times above batch sharpness, not below. A pilot, whose seed is
  none of these, chose rates and warm-up: without it networks at rates of 0.2 and more diverge within 20 updates.
- smoke: seconds; its numbers mean nothing.

Every stage skips what is already there, so the same command goes on after a stop of any kind.
"""

from __future__ import annotations

import itertools
import sys
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[2]))  # analysis/ and scripts/ are not installed

from scripts.measures.cohen2021 import batch_sharpness
from scripts.runner.study import Cell, Study, Task, run_study
from sharpness.cli import run_command
from sharpness.config import DataConfig, MeasureConfig, ModelConfig, RunConfig, ScheduleConfig, TrainingConfig


@dataclass(frozen=True)
class Arm:
    """One optimiser at several learning rates, in batches of several sizes; without a size of all examples."""

    momentum: float
    rates: tuple[float, ...]
    batches: tuple[tuple[int | None, int], ...]
    """Batch sizes, each with its number of epochs: a larger one needs more for as many updates."""


@dataclass(frozen=True)
class Preset:
    """The data, the arms, and how closely batch sharpness is measured."""

    about: str
    data: DataConfig
    arms: tuple[Arm, ...]
    seeds: int
    model: str = "cohen_tanh"
    warmup: float = 0.1
    """The share of training in which the rate grows: where a walk starts, batches are too sharp for the whole rate."""
    measured: int = 20
    """Measurements along a run; the second half of them is looked at."""
    batch_rtol: float = 0.15
    """Batch sharpness is the mean over random batches until its 95 % interval is this narrow, or so many were drawn."""
    num_batches: int = 60


PRESETS = {
    # Network and data of the study of Cohen et al. With momentum 0.5 the two plateaus are a factor of 3 apart; at a
    # rate of 0.05 full batches come to theirs at the end only. With momentum 0.9 the rate gives a small batch the
    # effective rate of plain SGD, eta / (1 - b), and the same plateau.
    "cpu": Preset(
        "1000 Fashion-MNIST images, batches of 16, 64 and all, momentum 0, 0.5 and 0.9, 5 seeds, about 10 "
        "minutes on 2 cores.",
        data=DataConfig(num_train=1000, num_test=200, evaluation_batch_size=1000),
        arms=(
            Arm(0.0, (0.14, 0.2), ((16, 150), (64, 300))),
            Arm(0.5, (0.075, 0.105), ((16, 200), (64, 300), (None, 500))),
            Arm(0.9, (0.02,), ((16, 150),)),
        ),
        seeds=5,
    ),
    "smoke": Preset(
        "A trial, to see that everything works.",
        data=DataConfig(num_train=100, num_test=100, evaluation_batch_size=100),
        arms=(Arm(0.0, (0.1,), ((20, 2),)), Arm(0.5, (0.05,), ((20, 2), (None, 8)))),
        seeds=1,
        model="f1_small",
        measured=8,
        num_batches=2,
    ),
}


def cells_of(preset: Preset, seeds: int) -> list[Cell]:
    """Return the runs of every arm, learning rate, batch size and seed."""
    examples = preset.data.num_train
    assert examples is not None  # every preset says how many images it takes
    cells = []
    for arm in preset.arms:
        for rate, (batch, epochs), seed in itertools.product(arm.rates, arm.batches, range(seeds)):
            training = TrainingConfig(
                optimizer="momentum" if arm.momentum else "sgd",
                learning_rate=rate,
                batch_size=batch or examples,
                epochs=epochs,
                seed=seed,
                momentum=arm.momentum,
                loss="square",
            )
            # In full batches every second update is alike at the edge: an odd number of them between measurements.
            often = epochs / preset.measured if batch else float(epochs // preset.measured // 2 * 2 + 1)
            every = dict.fromkeys(("every", "keep_every", "test_every"), often)
            measure = MeasureConfig(("eigenvalue",), examples=examples, **every)
            schedule = ScheduleConfig(warmup=preset.warmup * epochs)
            config = RunConfig(
                preset.data, ModelConfig(preset.model, "none"), training, schedule=schedule, measure=measure
            )
            labels = {"momentum": arm.momentum, "learning_rate": rate, "batch_size": batch or examples, "seed": seed}
            cells.append(Cell(labels, config))
    return cells


def measurements_of(preset: Preset, cells: Sequence[Cell]) -> Iterator[Task]:
    """Yield the batch sharpness at the checkpoints of every run."""
    knobs = {"rtol": preset.batch_rtol, "num_batches": preset.num_batches}
    for cell in cells:
        yield Task("batch_sharpness", cell.labels, batch_sharpness, (cell,), knobs)


STUDY = Study(
    name="stochastic_edge",
    title="The edge of stochastic stability",
    about=__doc__ or "",
    presets=PRESETS,
    cells=cells_of,
    measurements=measurements_of,
)

if __name__ == "__main__":
    run_command(lambda: run_study(STUDY))
