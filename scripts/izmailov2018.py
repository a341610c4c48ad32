"""Averaging weights leads to wider optima: Izmailov et al. 2018 (arXiv 1803.05407) in small.

Trains networks by SGD with a decaying learning rate, and from the weights of the same run at three quarters of its
budget by SWA: a constant or cyclical rate and the average of the weights at the ends of its cycles. Tested are: SWA is
more accurate, more so with a larger budget; its solution is wider along random rays; between SGD and SWA the training
loss is lower at SGD and the test error lower at SWA; the average of three weights along a cyclical run has a lower test
error than any of them.

What to expect, on two CPU cores:

- cpu: about 12 minutes. Of 8 claims 5 are reproduced, 1 is inconclusive and 2 are contradicted: SWA is wider, and no
  more accurate than SGD here.
- smoke: seconds; its numbers mean nothing.
- paper: for a GPU; never run.

Every stage skips what is already there, so the same command goes on after a stop of any kind.
"""

from __future__ import annotations

import sys
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))  # analysis/ and scripts/ are not installed

from scripts.measures.izmailov2018 import along, basin, line, plane, rays, three_points
from scripts.runner.study import Cell, Study, Task, run_study
from sharpness.cli import run_command
from sharpness.config import (
    AverageConfig,
    DataConfig,
    MeasureConfig,
    ModelConfig,
    RunConfig,
    ScheduleConfig,
    TrainingConfig,
)
from sharpness.landscapes import Interpolation, RandomRays, ThreePointPlane
from sharpness.training.checks import examples_of

NEW_ORDER = 1000
"""Added to the seed of a run that goes on, so that its epochs see the examples in orders of their own."""
CYCLES = 3
"""Cycles of the cyclical arm, at whose ends are the three weights of the paper's Figure 1."""


@dataclass(frozen=True)
class Preset:
    """The run that all cells share, the budgets in epochs, and what is measured."""

    about: str
    seeds: int
    base: RunConfig
    budget: int
    """Epochs of SGD."""
    pretrained: int
    """Epochs of SGD after which SWA begins."""
    cycle: float
    """Epochs of a cycle of the cyclical arm, which has :data:`CYCLES`."""
    rays: RandomRays
    line: Interpolation
    plane: ThreePointPlane
    budgets: tuple[float, ...] = (1.0, 1.25, 1.5)
    """Budgets of SWA, the epochs of SGD before it among them, in units of that of SGD; 1 must be among them."""
    swa_rate: float = 0.01
    every: int = 1
    """Epochs between the weights of SWA that are evaluated, of which each budget has a whole number."""
    error_rise: float = 0.05
    """The rise of the test error whose distance is the width."""
    loss_rise: float = 0.5
    """The rise of the training loss whose distance is the width, nats."""

    def averaged(self, budget: float = 1.0) -> int:
        """Return how many epochs, each with one point in the average, SWA has within a budget."""
        return round(budget * self.budget) - self.pretrained


# VGG-16's settings of the authors' code: batch 128, momentum 0.9, rate 0.05, weight decay 5e-4, SWA's rate 0.01.
VGG = TrainingConfig(optimizer="momentum", learning_rate=0.05, batch_size=128, weight_decay=5e-4)

PRESETS = {
    # Chosen on seeds 100 to 103, in runs of 40 epochs, so that the training loss is stationary at SWA's rate and that
    # of SGD far below it. The authors' batches of 128, weight decay of 5e-4 and SWA rate of 0.01 would take ten times
    # as long to become so: the weights forget within 1 / (rate x decay / (1 - momentum)) updates, here 1,100. Mirror
    # images without shifts, which take longer to fit; plain convolutions without BatchNorm, as in the authors' VGG-16.
    "cpu": Preset(
        "5,000 Fashion-MNIST images and their mirror images, 2 convolutions, SGD for 48 epochs, SWA at 1, 1.25 and 1.5 "
        "of that budget, 8 seeds, about 20 minutes on 2 cores.",
        seeds=8,
        base=RunConfig(
            data=DataConfig(num_train=5000, flip=True),
            model=ModelConfig(name="strided_cnn", norm="none"),
            training=replace(VGG, batch_size=32, weight_decay=3e-3),
        ),
        budget=48,
        pretrained=36,
        cycle=6.0,
        swa_rate=0.03,
        rays=RandomRays(num_rays=4, num_points=9, length=50.0),
        line=Interpolation(num_points=21, start=-2.0, stop=3.0),
        plane=ThreePointPlane(num_points=13, margin=0.5),
        every=2,
    ),
    # VGG-16 with the budgets of the authors' code: 200 epochs, SWA from epoch 161. It has not been run. The weights
    # that it keeps take 9 GB a seed.
    "paper": Preset(
        "CIFAR-100, VGG-16, SGD for 200 epochs, SWA from epoch 161 at 1, 1.25 and 1.5 of that budget, 5 seeds, for a "
        "GPU; never run.",
        seeds=5,
        base=RunConfig(
            data=DataConfig(name="cifar100", crop_padding=4, flip=True),
            model=ModelConfig(name="vgg16", norm="none"),
            training=VGG,
        ),
        budget=200,
        pretrained=160,
        cycle=20.0,
        rays=RandomRays(num_points=31, length=60.0),
        line=Interpolation(num_points=61),
        plane=ThreePointPlane(num_points=31),
    ),
    # With BatchNorm, whose statistics are recomputed at each point.
    "smoke": Preset(
        "A trial, to see that everything works; its numbers mean nothing.",
        seeds=1,
        base=RunConfig(
            data=DataConfig(num_train=64, num_test=100, crop_padding=2, flip=True, evaluation_batch_size=64),
            model=ModelConfig(name="f1_small", norm="running"),
            training=replace(VGG, batch_size=16),
        ),
        budget=4,
        pretrained=3,
        budgets=(1.0, 1.5),
        cycle=1.0,
        rays=RandomRays(num_rays=2, num_points=3, length=40.0),
        line=Interpolation(num_points=4),
        plane=ThreePointPlane(num_points=3),
    ),
}


def cells_of(preset: Preset, seeds: int) -> list[Cell]:
    """Return for every seed the run of SGD, and from it those of SWA with a constant and with a cyclical rate."""
    cells = []
    for seed in range(seeds):
        sgd = Cell({"arm": "SGD", "seed": seed}, sgd_config(preset, seed))
        cells.append(sgd)
        for arm, config in (("SWA", swa_config(preset, sgd)), ("cyclical SWA", cyclical_config(preset, sgd))):
            cells.append(Cell({"arm": arm, "seed": seed}, config, sgd))
    return cells


def sgd_config(preset: Preset, seed: int) -> RunConfig:
    """Return SGD: the whole rate for half of the budget, then a linear fall to 1 % of it at the end.

    The authors' code reaches the 1 % at nine tenths of the budget and stays there.
    """
    schedule = ScheduleConfig(kind="linear", warmup=preset.budget / 2, warmup_from=1.0, final=0.01)
    training = replace(preset.base.training, epochs=preset.budget, seed=seed)
    return replace(preset.base, training=training, schedule=schedule, measure=_kept(preset, preset.pretrained))


def swa_config(preset: Preset, sgd: Cell) -> RunConfig:
    """Return SWA at a constant rate, from the run of SGD as it was when SWA begins (Algorithm 1's pretrained weights).

    One run has all budgets: its weights are kept at the end of each epoch, and the average at a budget is that of those
    before it. As in the authors' code, and unlike Algorithm 1, the pretrained weights are not part of the average. The
    authors' code brings the rate down to SWA's beforehand; here, as by the algorithm, SGD's own schedule is cut off,
    and the momentum starts from 0.
    """
    epochs = preset.averaged(max(preset.budgets))
    training = replace(preset.base.training, learning_rate=preset.swa_rate, epochs=epochs)
    training = replace(training, seed=NEW_ORDER + sgd.config.training.seed, start=start_of(preset, sgd))
    average = AverageConfig(kind="swa", every=1.0)
    return replace(preset.base, training=training, average=average, measure=_kept(preset, 1))


def cyclical_config(preset: Preset, sgd: Cell) -> RunConfig:
    """Return SWA with cycles of the rate, from the whole one linearly to 1 % of it (equation of section 3.2)."""
    constant = swa_config(preset, sgd)
    rate, epochs = preset.base.training.learning_rate, round(CYCLES * preset.cycle)
    training = replace(constant.training, learning_rate=rate, epochs=epochs)
    schedule = ScheduleConfig(kind="cyclic", cycle=preset.cycle, final=0.01)
    average = AverageConfig(kind="swa", every=preset.cycle)
    measure = _kept(preset, preset.cycle)
    return replace(constant, training=training, schedule=schedule, average=average, measure=measure)


def _kept(preset: Preset, every: float) -> MeasureConfig:
    """Return that weights are kept every so many epochs; the log's own evaluations, which nothing reads, are rare."""
    return MeasureConfig(keep_every=float(every), test_every=float(preset.budget))


def start_of(preset: Preset, sgd: Cell) -> str:
    """Return the file of the weights of SGD when SWA begins."""
    examples, batch = examples_of(sgd.config)[0], sgd.config.training.batch_size
    return f"{sgd.config.run_id}/checkpoint-{preset.pretrained * -(-examples // batch)}.safetensors"


def measurements(preset: Preset, cells: Sequence[Cell]) -> Iterator[Task]:
    """Yield the planes of the first seed, and the other tasks seed by seed."""
    by_arm = {(cell.labels["arm"], cell.labels["seed"]): cell for cell in cells}
    seeds = sorted({cell.labels["seed"] for cell in cells})
    pairs = {seed: [by_arm["SGD", seed], by_arm["SWA", seed]] for seed in seeds}
    count = {"count": preset.averaged()}
    yield Task("plane", {"seed": seeds[0]}, plane, [by_arm["cyclical SWA", seeds[0]]], asdict(preset.plane))
    yield Task("basin", {"seed": seeds[0]}, basin, pairs[seeds[0]], {**count, **asdict(preset.plane)})
    for seed, pair in pairs.items():
        labels = {"seed": seed}
        yield Task("rays", labels, rays, pair, {**count, **asdict(preset.rays)})
        yield Task("along", labels, along, [by_arm["SWA", seed]], {"every": preset.every})
        yield Task("line", labels, line, pair, {**count, **asdict(preset.line)})
        yield Task("three_points", labels, three_points, [by_arm["cyclical SWA", seed]])


STUDY = Study(
    name="izmailov2018",
    title="Izmailov et al. 2018",
    about=__doc__ or "",
    presets=PRESETS,
    cells=cells_of,
    measurements=measurements,
)

if __name__ == "__main__":
    run_command(lambda: run_study(STUDY))
