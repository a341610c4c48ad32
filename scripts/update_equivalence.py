"""Larger batches in place of smaller learning rates: B steps of batch 1 at eta against one of batch B at B eta.

The answer that a well-known question got ("why can I increase B instead of decreasing eta") is that both end up "pretty
close" if the gradient is roughly constant over the B steps and its estimate has variance sigma^2 / B, and that two
senses of stability must be kept apart: weights that stay bounded, and a loss that falls at every step. Here all of that
is measured at the start of training and at later checkpoints: how far the two end points lie apart against eta, B and
the curvature, the variance against B, in which share of the steps the loss falls, and how the weights grow, with and
without an L2 penalty.

It is sometimes written that a larger batch increases the variance of the gradient. It is the other way round: what is
larger is the step that the rate in proportion to B makes of it.

What to expect, on two CPU cores:

- cpu: about 3 minutes. Of 8 claims 7 are reproduced; that the ends lie within 10 % of the step at the training's rates
  is contradicted, by a little (10.8 %).
- smoke: seconds; its numbers mean nothing.
- paper: for a GPU; never run.

Every stage skips what is already there, so the same command goes on after a stop of any kind.
"""

from __future__ import annotations

import math
import sys
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))  # analysis/ and scripts/ are not installed

from scripts.measures.update_equivalence import curvatures, distances, falls, variances
from scripts.runner.study import Cell, Study, Task, run_study
from sharpness.cli import run_command
from sharpness.config import DataConfig, MeasureConfig, ModelConfig, RunConfig, TrainingConfig
from sharpness.training.checks import examples_of


@dataclass(frozen=True)
class Preset:
    """One run of small batches, what is compared with it, and what is measured at which epochs."""

    about: str
    base: RunConfig
    """The run of small batches: its batch size is b, its learning rate eta."""
    large_batch: int
    """B of the run of large batches, at (B / b) eta; a multiple of b."""
    decay: float
    """Strength of the L2 penalty of the runs that have one."""
    stages: tuple[int, ...]
    """Epochs at which everything is measured; 0 is where training begins, and the last are the final weights."""
    rates: tuple[float, ...]
    """Learning rates of the small steps, in units of eta."""
    batches: tuple[int, ...]
    """Batch sizes that are compared with small steps, and whose gradient noise is measured."""
    draws: int
    """Sets of examples on which distances are measured."""
    noise_draws: int
    """Random batches of each size whose gradients are compared with that of the training set."""
    updates: int
    """Updates from each checkpoint that are watched for whether the loss falls."""
    seeds: int


def plain(data: DataConfig, model: str, rate: float, batch: int, epochs: int) -> RunConfig:
    """Return a run of plain SGD at a constant rate that keeps its weights after every epoch."""
    training = TrainingConfig(optimizer="sgd", learning_rate=rate, batch_size=batch, epochs=epochs)
    model_config = ModelConfig(name=model, norm="none")
    return RunConfig(data=data, model=model_config, training=training, measure=MeasureConfig(keep_every=1.0))


# Networks without BatchNorm: with it an example has no gradient of its own.
PRESETS = {
    # A smooth one. The rate: 64 times it is the best for batch 64, by the training loss of one run of seed 100 at each
    # of 0.064, 0.128, ... 1.024, of which the last two blow up.
    "cpu": Preset(
        "2,048 Fashion-MNIST images, a tanh network, batch 1 against 64, 5 seeds, about 3 minutes on 2 cores.",
        plain(DataConfig(num_train=2048, num_test=1000), "cohen_tanh", 0.001, 1, 6),
        large_batch=64,
        decay=1e-2,
        stages=(0, 1, 3, 6),
        rates=(1 / 64, 1 / 16, 1 / 4, 1.0, 4.0),
        batches=(4, 16, 64, 256),
        draws=3,
        noise_draws=64,
        updates=64,
        seeds=5,
    ),
    # The same on all of MNIST, with steps of batch 8 as the small ones. It has not been run.
    "paper": Preset(
        "MNIST, fc_1024_1024, batch 8 against 512, 5 seeds, for a GPU; never run.",
        plain(DataConfig(name="mnist"), "fc_1024_1024", 0.02, 8, 20),
        large_batch=512,
        decay=1e-3,
        stages=(0, 1, 5, 20),
        rates=(1 / 64, 1 / 16, 1 / 4, 1.0, 4.0),
        batches=(32, 128, 512, 2048),
        draws=5,
        noise_draws=200,
        updates=200,
        seeds=5,
    ),
    "smoke": Preset(
        "A trial, to see that everything works.",
        plain(DataConfig(num_train=64, num_test=100, evaluation_batch_size=100), "f1_small", 0.01, 2, 2),
        large_batch=16,
        decay=1e-2,
        stages=(0, 2),
        rates=(1 / 4, 1.0),
        batches=(4, 16),
        draws=2,
        noise_draws=8,
        updates=8,
        seeds=1,
    ),
}


def cells_of(preset: Preset, seeds: int) -> list[Cell]:
    """Return the runs of small and of large batches, without and with an L2 penalty."""
    small = preset.base.training
    times = preset.large_batch // small.batch_size
    arms = {
        "SB": small,
        "SB + L2": replace(small, weight_decay=preset.decay),
        "LB": replace(small, batch_size=preset.large_batch, learning_rate=times * small.learning_rate),
    }
    arms["LB + L2"] = replace(arms["LB"], weight_decay=preset.decay)
    return [
        Cell({"arm": arm, "seed": seed}, replace(preset.base, training=replace(training, seed=seed)))
        for arm, training in arms.items()
        for seed in range(seeds)
    ]


def checkpoints(preset: Preset, cell: Cell) -> list[int]:
    """Return after how many updates a run keeps the weights of the stages.

    >>> checkpoints(PRESETS["smoke"], cells_of(PRESETS["smoke"], 1)[0])
    [0, 64]
    """
    updates = math.ceil(examples_of(cell.config)[0] / cell.config.training.batch_size)
    return [stage * updates for stage in preset.stages]


def measurements(preset: Preset, cells: Sequence[Cell]) -> Iterator[Task]:
    """Yield distances, curvature and noise along the runs of small batches, and the falls of the loss along all."""
    base = preset.base.training
    rates = [share * base.learning_rate for share in preset.rates]
    batches = list(preset.batches)
    for cell in cells:
        steps, training = checkpoints(preset, cell), cell.config.training
        own = {"rate": training.learning_rate, "batch": training.batch_size, "updates": preset.updates}
        yield Task("falls", cell.labels, falls, [cell], {"steps": steps, **own})
        if cell.labels["arm"] != "SB":
            continue
        grid = {"rates": rates, "batches": batches, "small": base.batch_size, "draws": preset.draws}
        yield Task("distances", cell.labels, distances, [cell], {"steps": steps, **grid})
        yield Task("curvatures", cell.labels, curvatures, [cell], {"steps": steps})
        noise = {"batches": batches, "draws": preset.noise_draws}
        yield Task("variances", cell.labels, variances, [cell], {"steps": steps, **noise})


STUDY = Study(
    name="update_equivalence",
    title="A larger batch for a smaller learning rate",
    about=__doc__ or "",
    presets=PRESETS,
    cells=cells_of,
    measurements=measurements,
)

if __name__ == "__main__":
    run_command(lambda: run_study(STUDY))
