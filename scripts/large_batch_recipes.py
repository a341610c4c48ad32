"""Recipes for large batches on one network: which one keeps the error, and what that buys on many workers.

Goyal et al. 2017 (arXiv 1706.02677): the learning rate in proportion to the batch, with and without warm-up. You et al.
2017 (arXiv 1708.03888): LARS with warm-up and polynomial decay. Hoffer et al. 2017 (arXiv 1705.08741): the rate by the
square root, ghost batch norm, and as many updates as the small batch makes. Masters & Luschi 2018 (arXiv 1804.07612):
batches of 2 to 32 are best. The steps that each needs to a goal give, with a stated model of workers and links, the
time on 1 to 4096 workers by a ring and on a 2D torus (Mikami et al. 2018, arXiv 1811.05233), and ResNet-50 is worked
out on paper.

Every recipe is trained at every batch with a range of learning rates, of LARS with a range of trust coefficients. The
one with the lowest held-out error of some seeds is its tuned one, and the errors of other seeds on the test images are
what is told. The rules are run as the papers have them, from the tuned rate of the base batch, so that what a rule
costs is seen: its error less that of the rate tuned at the batch itself. Training as long as the base batch makes
updates takes too long to be tuned, and has the rate of its rule. All runs of a recipe at a batch are trained
side by side as one measurement, which belongs to a run of one update that lends its data and nothing else.

What to expect:

- cpu: 546 networks in about 7 minutes of one CPU core. Of 12 claims 8 are reproduced, 1 in sign only, 2 are
  inconclusive, and one is not testable here. Two neighbouring rates are as good at the base batch; the larger one was
  tuned, from which the linear rule leads to the edge of stability at batch 256.
- smoke: seconds; its numbers mean nothing.
- paper: for a GPU; never run.

Every stage skips what is already there, so the same command goes on after a stop of any kind.
"""

from __future__ import annotations

import sys
from collections.abc import Iterator, Sequence
from dataclasses import replace
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))  # analysis/ and scripts/ are not installed

from analysis.large_batch_recipes.allreduce import Cluster
from scripts.grids.large_batch_recipes import RECIPES, UNTUNED, Preset, powers
from scripts.measures.large_batch_recipes import sweep
from scripts.measures.side_by_side import as_knob
from scripts.runner.study import Cell, Study, Task, run_study
from sharpness.cli import run_command
from sharpness.config import BudgetConfig, DataConfig, ModelConfig, RunConfig, ScheduleConfig, TrainingConfig


def base_run(data: DataConfig, network: str, batch: int, epochs: int, decay: float = 0.0) -> RunConfig:
    """Return SGD with momentum 0.9 whose rate falls to a tenth where Goyal et al. do: at 30, 60 and 80 of 90 epochs."""
    training = TrainingConfig(
        optimizer="momentum", learning_rate=1.0, batch_size=batch, epochs=epochs, weight_decay=decay
    )
    milestones = tuple(round(epochs * share, 2) for share in (1 / 3, 2 / 3, 8 / 9))
    schedule = ScheduleConfig(kind="steps", milestones=milestones, factor=0.1)
    return RunConfig(data=data, model=ModelConfig(name=network, norm="none"), training=training, schedule=schedule)


def with_norm(config: RunConfig) -> RunConfig:
    """Return a run with BatchNorm and with long gradients cut down to 5, as the code of Hoffer et al. does.

    They cut gradients where batches are large; here it is done at every batch, so that nothing else changes with it.
    """
    model = replace(config.model, norm="batch")
    return replace(config, model=model, training=replace(config.training, clip_norm=5.0))


# The time of a worker is that of one CPU core, measured at batches 8 and 512; the links, of 10 GB/s and 5 us, are
# assumed.
CORES = Cluster(seconds_per_example=2e-6, seconds_per_step=4e-4, bandwidth=10e9, latency=5e-6)
FEW = DataConfig(num_train=164, num_validation=100, num_test=100, evaluation_batch_size=100)

PRESETS = {
    # Networks, data, epochs, warm-up and the ranges of what is tried were chosen on seeds 100 to 102. Without norms: a
    # base rate from which the linear rule comes to the edge of stability, hundreds of updates at the largest batch, and
    # a warm-up of a quarter of training: the 5 of 90 epochs of Goyal et al. would be 14 updates. With BatchNorm: fewer
    # images, trained until almost all are learned, as a large batch has a higher error there at its best rate too.
    "cpu": Preset(
        about="Fashion-MNIST as 14 x 14 cells, two hidden layers of 64: without norms on 8,000 images with batches 4 "
        "to 512, with BatchNorm on 2,048 with batches 32 and 512; 6 seeds and 3 that tune, 7 minutes of one core.",
        base=base_run(DataConfig(num_train=10_000, num_validation=2000), "f1_small", 8, 16),
        norm_base=with_norm(base_run(DataConfig(num_train=4048, num_validation=2000), "f1_small", 32, 48)),
        cells=14,
        sweeps={
            "plain": {
                4: powers(-10, -6),
                8: powers(-9, -4),
                32: powers(-7, -3),
                128: powers(-5, -1),
                256: powers(-4, -1),
                512: powers(-3, 0),
            },
            "warm-up": {128: powers(-5, -2), 256: powers(-4, -1), 512: powers(-3, 0)},
            "LARS": {128: powers(-5, -2), 256: powers(-4, -1), 512: powers(-4, -1)},
            "BatchNorm": {32: powers(-5, -3), 512: powers(-5, 0)},
            "ghosts": {512: powers(-4, -1)},
            "ghosts, longer": {512: powers(-3, -1)},
        },
        claim_batch=256,
        norm_batch=512,
        warmup=4.0,
        lars_rate=0.1,
        tuning_seeds=(50, 51, 52),
        goal_error=0.15,
        cluster=CORES,
        parameters=17_418,
        seeds=6,
    ),
    # F1 on MNIST as Hoffer et al. train it, batch 4096 against 128; the ranges tried are ours. It has not been run.
    "paper": Preset(
        about="MNIST, F1, batches 32 to 4096 around 128, 5 seeds, for a GPU; never run.",
        base=base_run(DataConfig(name="mnist", num_validation=4960), "f1", 128, 50, decay=1e-4),
        norm_base=with_norm(base_run(DataConfig(name="mnist", num_validation=4960), "f1", 128, 50, decay=1e-4)),
        cells=28,
        sweeps={
            "plain": {batch: powers(-10, 1) for batch in (32, 128, 512, 2048, 4096)},
            "warm-up": {batch: powers(-6, 2) for batch in (512, 2048, 4096)},
            "LARS": {batch: powers(-8, 1) for batch in (128, 512, 2048, 4096)},
            "BatchNorm": {batch: powers(-8, 2) for batch in (128, 512, 2048, 4096)},
            "ghosts": {batch: powers(-8, 2) for batch in (512, 2048, 4096)},
            "ghosts, longer": {2048: powers(-6, 0)},
        },
        claim_batch=2048,
        norm_batch=2048,
        warmup=3.0,
        lars_rate=0.1,
        tuning_seeds=(50, 51, 52),
        goal_error=0.02,
        cluster=Cluster(seconds_per_example=1e-5, seconds_per_step=5e-4, bandwidth=10e9, latency=5e-6),
        parameters=1_457_674,
        seeds=5,
    ),
    "smoke": Preset(
        about="A trial, to see that everything works; its numbers mean nothing.",
        base=base_run(FEW, "f1_small", 8, 2),
        norm_base=with_norm(base_run(FEW, "f1_small", 8, 2)),
        cells=4,
        sweeps={
            "plain": {4: powers(-4, -3), 8: powers(-4, -3), 32: powers(-4, -1)},
            "warm-up": {32: powers(-3, -1)},
            "LARS": {32: powers(-4, -3)},
            "BatchNorm": {8: powers(-4, -3), 32: powers(-4, -1)},
            "ghosts": {32: powers(-3, -1)},
            "ghosts, longer": {32: powers(-3, -2)},
        },
        claim_batch=32,
        norm_batch=32,
        warmup=0.5,
        lars_rate=0.1,
        tuning_seeds=(50,),
        goal_error=0.85,
        cluster=CORES,
        parameters=17_418,
        seeds=2,
    ),
}


def cells_of(preset: Preset, seeds: int) -> list[Cell]:
    """Return a run of one update for each network and seed; the first of each network lends its data."""
    return [
        Cell({"network": name, "seed": seed}, _one_update(config, seed))
        for name, config in (("without norms", preset.base), ("BatchNorm", preset.norm_base))
        for seed in range(seeds)
    ]


def _one_update(config: RunConfig, seed: int) -> RunConfig:
    training = replace(config.training, learning_rate=0.01, seed=seed)
    return replace(config, training=training, budget=BudgetConfig(updates=1))


def measurements(preset: Preset, cells: Sequence[Cell]) -> Iterator[Task]:
    """Yield every recipe at every batch, those of most updates first."""
    lenders = {cell.labels["network"]: cell for cell in reversed(cells)}
    seeds = sorted({cell.labels["seed"] for cell in cells})
    for recipe, batches in preset.sweeps.items():
        for batch, values in batches.items():
            config = RECIPES[recipe](preset, batch)
            plain, base = config.model.norm == "none", preset.base if config.model.norm == "none" else preset.norm_base
            knobs = {"recipe": as_knob(config), "cells": preset.cells, "goal": preset.goal_error}
            # Where every rule gives the tuned rate, or is not asked for, the others need not be told.
            knobs["tuned_alone"] = batch <= base.training.batch_size
            knobs |= {"values": list(values), "told_seeds": seeds}
            knobs["tuning_seeds"] = [] if recipe in UNTUNED else list(preset.tuning_seeds)
            lender = lenders["without norms" if plain else "BatchNorm"]
            yield Task("sweep", {"recipe": recipe, "batch": batch}, sweep, [lender], knobs)


STUDY = Study(
    name="large_batch_recipes",
    title="Recipes for large batches",
    about=__doc__ or "",
    presets=PRESETS,
    cells=cells_of,
    measurements=measurements,
)

if __name__ == "__main__":
    run_command(lambda: run_study(STUDY))
