"""Up to which learning rate is SGD stable? Where theory has the answer exactly: least squares, and two basins.

On least squares the mean square of the distance from the solution shrinks up to a learning rate that is known in closed
form for every batch size (Mulayoff & Michaeli 2023, arXiv 2306.07850; bounds that hold for it, linear scaling and
saturation: Ma, Bassily & Belkin 2018, arXiv 1712.06559). Here walks of SGD on images of Fashion-MNIST are held against
it over a grid of learning rates and batch sizes, without and with an L2 penalty (ridge regression), in both senses of
stability that the answer of `update_equivalence.py` tells apart: weights that do not run away, and a loss that falls
steadily. A loss of one weight with a sharp and a flat basin shows when noise pushes the weight out of the sharp one
(Wu, Ma & E 2018, NeurIPS, "How SGD Selects the Global Minima"): the same condition, in one dimension.

The problems take the images and the seed of a run; nothing else of its network, which makes one update, is used.

What to expect, on two CPU cores:

- cpu: about 2 minutes. Of 13 claims 8 are reproduced, one in sign only, 2 are inconclusive and 2 contradicted.
- smoke: seconds; its numbers mean nothing.

Every stage skips what is already there, so the same command goes on after a stop of any kind.
"""

from __future__ import annotations

import sys
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))  # analysis/ and scripts/ are not installed

from scripts.measures.sgd_stability import basins, thresholds, walks
from scripts.runner.grid import one_run_per_seed
from scripts.runner.study import Cell, Study, Task, run_study
from sharpness.cli import run_command
from sharpness.config import BudgetConfig, DataConfig, ModelConfig, RunConfig, TrainingConfig


@dataclass(frozen=True)
class Preset:
    """The problems, the grids of learning rates and batch sizes, and how long the walks are."""

    about: str
    seeds: int
    base: RunConfig
    examples: int
    """Images of a problem, drawn at random for each seed; the last batch size, which is the full batch."""
    cells: int
    """Images are cut into cells x cells parts, whose mean brightness are the inputs."""
    batches: tuple[int, ...]
    """The smaller batch sizes."""
    penalties: tuple[float, ...]
    """Strengths mu of the L2 penalty, in units of lambda_max; the first is 0."""
    rates: tuple[float, float, int]
    """The lowest and the highest learning rate in units of 1 / lambda_max, and how many there are."""
    walks: int
    steps: int
    flatness: float
    """The curvature of the flat basin over that of the sharp one."""
    start: float
    """Where walks start, as a share of the way from a minimum to the border of its basin."""
    basin_rates: tuple[float, float, int]
    """The same as ``rates``, in units of 1 / a for the sharp basin's curvature a."""
    basin_walks: int
    basin_steps: int


BASE = RunConfig(
    data=DataConfig(num_test=100),
    model=ModelConfig(name="fc_128_128_128", norm="none"),
    training=TrainingConfig(optimizer="sgd", learning_rate=0.01, batch_size=64, loss="square", epochs=1),
    budget=BudgetConfig(updates=1),
)

PRESETS = {
    # 16 inputs: their second moments are 256 numbers, and the threshold an eigenvalue of a 256 x 256 matrix.
    "cpu": Preset(
        "512 Fashion-MNIST images as 4 x 4 cells, batches 1 to 512, 5 seeds, about 2 minutes on 2 cores.",
        seeds=5,
        base=BASE,
        examples=512,
        cells=4,
        batches=(1, 2, 4, 8, 16, 64),
        penalties=(0.0, 0.1, 1.0),
        rates=(0.3, 3.0, 48),
        walks=32,
        steps=300,
        flatness=0.1,
        start=0.1,
        basin_rates=(0.05, 4.0, 48),
        basin_walks=64,
        basin_steps=600,
    ),
    "smoke": Preset(
        "A trial, to see that everything works.",
        seeds=2,
        base=replace(BASE, data=DataConfig(num_train=400, num_test=100)),
        examples=200,
        cells=2,
        batches=(1, 8),
        penalties=(0.0, 1.0),
        rates=(0.3, 3.0, 8),
        walks=4,
        steps=40,
        flatness=0.1,
        start=0.1,
        basin_rates=(0.1, 4.0, 8),
        basin_walks=8,
        basin_steps=40,
    ),
}


def geometric(low: float, high: float, count: int) -> list[float]:
    """Return so many numbers from low to high, each the same multiple of the one before.

    >>> geometric(0.25, 4.0, 3)
    [0.25, 1.0, 4.0]
    """
    return [low * (high / low) ** (number / (count - 1)) for number in range(count)]


def measurements(preset: Preset, cells: Sequence[Cell]) -> Iterator[Task]:
    """Yield for each seed the walks on least squares, the rates at which theory ends them, and those between basins."""
    problem = {"examples": preset.examples, "cells": preset.cells, "batches": [*preset.batches, preset.examples]}
    ridge = problem | {"penalties": list(preset.penalties)}
    walking = {"rates": geometric(*preset.rates), "walks": preset.walks, "steps": preset.steps}
    leaving = {"rates": geometric(*preset.basin_rates), "walks": preset.basin_walks, "steps": preset.basin_steps}
    leaving |= {"flatness": preset.flatness, "start": preset.start}
    for cell in cells:
        yield Task("walks", cell.labels, walks, [cell], ridge | walking)
        yield Task("basins", cell.labels, basins, [cell], problem | leaving)
        yield Task("thresholds", cell.labels, thresholds, [cell], ridge)


STUDY = Study(
    name="sgd_stability",
    title="Stability of SGD where it is exactly known",
    about=__doc__ or "",
    presets=PRESETS,
    cells=one_run_per_seed,
    measurements=measurements,
)

if __name__ == "__main__":
    run_command(lambda: run_study(STUDY))
