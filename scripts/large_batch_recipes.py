"""Recipes for large batches on one network: which one keeps the error, and what that buys on many workers.

Goyal et al. 2017 (arXiv 1706.02677): the learning rate in proportion to the batch, with and without warm-up. You et al.
2017 (arXiv 1708.03888): LARS with warm-up and polynomial decay. Hoffer et al. 2017 (arXiv 1705.08741): the rate by the
square root, ghost batch norm, and as many updates as the small batch makes. Masters & Luschi 2018 (arXiv 1804.07612):
the linear rule downwards, to batches of 2 to 32. The steps that each needs to a goal give, with a stated model of
workers and links, the time on 1 to 4096 workers by a ring and on a 2D torus (Mikami et al. 2018, arXiv 1811.05233), and
ResNet-50 is worked out on paper.

What to expect, on two CPU cores:

- cpu: about 8 minutes. Of 14 claims 6 are reproduced, 7 are not, and one is not testable here.
- smoke: seconds; its numbers mean nothing.
- paper: for GPUs; never run.

Every stage skips what is already there, so the same command goes on after a stop of any kind.
"""

from __future__ import annotations

import sys
from dataclasses import replace
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))  # analysis/ and scripts/ are not installed

from analysis.large_batch_recipes.allreduce import Cluster
from scripts.grids.large_batch_recipes import RECIPES, Preset, multiplied
from scripts.runner.study import Cell, Study, run_study
from sharpness.cli import run_command
from sharpness.config import DataConfig, ModelConfig, RunConfig, ScheduleConfig, TrainingConfig


def stepped(data: DataConfig, model: ModelConfig, training: TrainingConfig, milestones: tuple[float, ...]) -> RunConfig:
    """Return a run whose rate falls to a tenth at the milestones."""
    schedule = ScheduleConfig(kind="steps", milestones=milestones, factor=0.1)
    return RunConfig(data=data, model=model, training=training, schedule=schedule)


def momentum(rate: float, batch: int, epochs: int, decay: float = 0.0) -> TrainingConfig:
    """Return SGD with momentum 0.9, the optimiser of all recipes but LARS."""
    return TrainingConfig(optimizer="momentum", learning_rate=rate, batch_size=batch, epochs=epochs, weight_decay=decay)


# F1 is judged with the statistics of the evaluation batches, of 1,000 examples: running ones, which the papers use,
# keep 0.9^n of their first values after n updates, and here the largest batch makes 24.
F1 = ModelConfig(name="f1", norm="batch")
# A worker is about one CPU core as it was measured here; the links, of 10 GB/s and 5 us, are assumed.
CORES = Cluster(seconds_per_example=1e-4, seconds_per_step=3e-3, bandwidth=10e9, latency=5e-6)

PRESETS = {
    # Rates: of 0.001, 0.003, ... 0.1 and for LARS 0.03, 0.1, ... 3 the ones with the lowest test error at the base
    # batch, by one run of seed 100 each. Drops at a third, two thirds and eight ninths, as Goyal et al. at 30, 60 and
    # 80 of 90 epochs. Their warm-up of 5 in 90 epochs would be 0.7 here, which is less than 6 updates at batch 256. No
    # batch of 2: BatchNorm over the two vectors of an MLP leaves nothing of them but the signs of their differences.
    "cpu": Preset(
        about="2,048 Fashion-MNIST images, F1, batches 4 to 1024 around 16, 5 seeds, about 8 minutes on 2 cores.",
        base=stepped(DataConfig(num_train=2048, num_test=2000), F1, momentum(0.003, 16, 12), (4.0, 8.0, 10.67)),
        batches=(64, 256, 1024),
        claim_batch=256,
        longest=256,
        small_batches=(4, 8),
        warmup=2.0,
        lars_rate=1.0,
        clip_norm=5.0,
        goal_error=0.18,
        parameters=1_462_794,
        cluster=CORES,
        chance=0.9,
        seeds=5,
    ),
    # ResNet-44 as Hoffer et al. train it; 200 epochs and the rate of LARS are ours. For GPUs; it has not been run.
    "paper": Preset(
        about="CIFAR-10, ResNet-44, batches 2 to 8192 around 128, 5 seeds, for GPUs; never run.",
        base=stepped(
            DataConfig(name="cifar10", crop_padding=4, flip=True),
            ModelConfig(name="resnet44", norm="running"),
            momentum(0.1, 128, 200, 1e-4),
            (81.0, 122.0, 164.0),
        ),
        batches=(512, 2048, 4096, 8192),
        claim_batch=4096,
        longest=4096,
        small_batches=(2, 4, 8, 16, 32, 64),
        warmup=5.0,
        lars_rate=1.0,
        clip_norm=5.0,
        goal_error=0.10,
        parameters=661_338,
        cluster=Cluster(seconds_per_example=1e-4, seconds_per_step=2e-3, bandwidth=10e9, latency=5e-6),
        chance=0.9,
        seeds=5,
    ),
    "smoke": Preset(
        about="A trial, to see that everything works.",
        base=stepped(
            DataConfig(num_train=128, num_test=100, evaluation_batch_size=100), F1, momentum(0.01, 16, 2), (1.5,)
        ),
        batches=(64,),
        claim_batch=64,
        longest=64,
        small_batches=(8,),
        warmup=0.5,
        lars_rate=1.0,
        clip_norm=5.0,
        goal_error=0.6,
        parameters=1_462_794,
        cluster=CORES,
        chance=0.9,
        seeds=2,
    ),
}


def cells_of(preset: Preset, seeds: int) -> list[Cell]:
    """Return the runs of the base batch, which all recipes but LARS share, of each recipe, and of small batches."""
    small = preset.base.training.batch_size
    runs = {("base", small): preset.base}
    runs |= {(name, small): RECIPES[name](preset, small) for name in RECIPES if name.startswith("LARS, linear")}
    runs |= {("linear", batch): multiplied(preset.base, batch, "linear") for batch in preset.small_batches}
    for name, recipe in RECIPES.items():
        batches = [batch for batch in preset.batches if not name.endswith("longer") or batch <= preset.longest]
        runs |= {(name, batch): recipe(preset, batch) for batch in batches}
    # The longest first, so that no worker is left with one of them at the end.
    order = sorted(runs.items(), key=lambda item: -_cost(item[1]))
    return [
        Cell({"recipe": name, "batch": batch, "seed": seed}, _seeded(config, seed))
        for (name, batch), config in order
        for seed in range(seeds)
    ]


def _cost(config: RunConfig) -> float:
    """Return about how long a run takes, in epochs of large batches: an update of a small one costs no less."""
    return config.training.epochs * max(1.0, 64 / config.training.batch_size)


def _seeded(config: RunConfig, seed: int) -> RunConfig:
    return replace(config, training=replace(config.training, seed=seed))


STUDY = Study(
    name="large_batch_recipes",
    title="Recipes for large batches",
    about=__doc__ or "",
    presets=PRESETS,
    cells=cells_of,
)

if __name__ == "__main__":
    run_command(lambda: run_study(STUDY))
