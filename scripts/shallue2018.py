"""Steps to a goal against batch size, everything tuned at each: Shallue et al. 2018 (arXiv 1811.03600) in small.

At every batch size a quasi-random search over the learning rate (and momentum) looks for the trial that reaches a
held-out error in the fewest updates. Tested: three regimes (steps fall as 1/B, then less, then not at all); momentum
and Nesterov equal plain SGD at small batches and scale further; how far depends on the network more than on the amount
of data; the best learning rate follows neither the linear nor the square-root rule; small batches win at equal epochs,
large ones at equal steps, and none is worse with enough budget. The largest batch in perfect scaling is printed beside
what the gradient noise scale recommends.

What to expect, on two CPU cores:

- cpu: 1,360 networks in about 30 minutes, 2 GB of disk. Of 16 claims 10 are reproduced, 1 in sign only, 5 not.
- smoke: seconds; its numbers mean nothing.
- paper: for a GPU; never run.

Every stage skips what is already there, so the same command goes on after a stop of any kind.
"""

from __future__ import annotations

import sys
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))  # analysis/ and scripts/ are not installed

from scripts.grids.shallue2018 import Space, Workload, trial_cells
from scripts.runner.study import Cell, Measurement, Study, run_study
from sharpness.cli import run_command
from sharpness.config import BudgetConfig, DataConfig
from sharpness.probes import GradientNoise


@dataclass(frozen=True)
class Budgets:
    """Runs without a goal, for the quality of the solution: as many epochs at each batch size, or as many steps."""

    workload: str
    batches: tuple[int, ...]
    epochs: int
    updates: int
    trials: int


@dataclass(frozen=True)
class Preset:
    """The workloads by name; ``seeds`` is the number of independent searches at each batch size.

    ``optimisers``, ``networks`` and ``data`` name the workloads that differ in that alone, the reference first. At
    ``base_batch`` the noise scale is measured, on ``noise_examples``, where each trial ends, and from there the rules
    for the learning rate start.
    """

    about: str
    seeds: int
    workloads: Mapping[str, Workload]
    optimisers: tuple[str, ...]
    networks: tuple[str, str]
    data: tuple[str, str]
    budgets: Budgets
    base_batch: int
    noise_examples: int


IMAGES = DataConfig(num_train=5096, num_validation=1000, num_test=2000)
"""4096 images of Fashion-MNIST to train on, the next 1000 for the goal."""
FEW_IMAGES = replace(IMAGES, num_train=2024)
"""1024 to train on; the 1000 of the goal are the next ones, so not those of the other workloads."""
FC = Workload(
    optimizer="sgd",
    network="fc_128_128_128",
    data=IMAGES,
    batches=(1, 4, 16, 64, 256, 1024),
    goal=0.25,
    steps=240,
    examples=12_000,
    trials=8,
)
FC_MOMENTUM, FC_NESTEROV = (replace(FC, optimizer=name) for name in ("momentum", "nesterov"))
# Momentum is fixed, so that few trials search one number: an image costs this network thirty times as much.
CNN = replace(
    FC_NESTEROV,
    network="simple_cnn_narrow",
    batches=(2, 16, 128, 1024),
    trials=5,
    looks=20,
    steps=50,
    examples=3500,
    space=Space((0.01, 2.0), (0.1, 0.1)),
)
FEW = DataConfig(num_train=300, num_validation=100, num_test=100, evaluation_batch_size=100)
SMALL = replace(FC, data=FEW, batches=(4, 16, 64, 200), goal=0.75, steps=12, examples=200, trials=2, looks=10)
MNIST = DataConfig(name="mnist", num_validation=5000)
SIZES = (2, 8, 32, 128, 512, 2048, 8192, 32_768, 55_000)
PAPER = Workload(
    optimizer="sgd",
    network="simple_cnn",
    data=MNIST,
    batches=SIZES,
    goal=0.01,
    steps=4000,
    examples=2_000_000,
    trials=20,
    looks=200,
    space=Space((1e-4, 10.0), (1e-3, 0.5)),
)
PAPER_MOMENTUM, PAPER_NESTEROV = (replace(PAPER, optimizer=name) for name in ("momentum", "nesterov"))

PRESETS = {
    "cpu": Preset(
        "4,096 images of Fashion-MNIST, a fully connected network and a narrow CNN, batches 1 to 1024, 5 searches of 8 "
        "trials (CNN: 5) at each; about 30 minutes on 2 cores and 2 GB of disk.",
        seeds=5,
        workloads={
            "FC SGD": FC,
            "FC momentum": FC_MOMENTUM,
            "FC Nesterov": FC_NESTEROV,
            "FC Nesterov, 1024 images": replace(FC_NESTEROV, data=FEW_IMAGES),
            "CNN Nesterov": CNN,
        },
        optimisers=("FC SGD", "FC momentum", "FC Nesterov"),
        networks=("FC Nesterov", "CNN Nesterov"),
        data=("FC Nesterov", "FC Nesterov, 1024 images"),
        budgets=Budgets("FC Nesterov", batches=(4, 16, 64, 256, 1024), epochs=8, updates=300, trials=6),
        base_batch=16,
        noise_examples=1000,
    ),
    # The authors' network, goal and batch sizes for MNIST (every second power of two of theirs) and a hundred trials at
    # each, as in their published measurements. Ours: the ranges searched, the step budgets, the goal of the fully
    # connected network, which they train with plain SGD alone, and the half of the data. It has not been run.
    "paper": Preset(
        "MNIST, Simple CNN and fc_1024, batches 2 to 55,000, 5 searches of 20 trials, for a GPU; never run.",
        seeds=5,
        workloads={
            "CNN SGD": PAPER,
            "CNN momentum": PAPER_MOMENTUM,
            "CNN Nesterov": PAPER_NESTEROV,
            "CNN Nesterov, half": replace(
                PAPER_NESTEROV, data=replace(MNIST, num_train=32_500), batches=(*SIZES[:-2], 27_500)
            ),
            "FC SGD": replace(PAPER, network="fc_1024", goal=0.03),
        },
        optimisers=("CNN SGD", "CNN momentum", "CNN Nesterov"),
        networks=("CNN SGD", "FC SGD"),
        data=("CNN Nesterov", "CNN Nesterov, half"),
        budgets=Budgets("CNN Nesterov", batches=SIZES, epochs=20, updates=20_000, trials=20),
        base_batch=32,
        noise_examples=5000,
    ),
    "smoke": Preset(
        "A trial, to see that everything works; its numbers mean nothing.",
        seeds=1,
        workloads={"FC SGD": SMALL, "FC Nesterov": replace(SMALL, optimizer="nesterov")},
        optimisers=("FC SGD", "FC Nesterov"),
        networks=("FC Nesterov", "FC SGD"),
        data=("FC Nesterov", "FC SGD"),
        budgets=Budgets("FC Nesterov", batches=(16, 200), epochs=1, updates=5, trials=1),
        base_batch=16,
        noise_examples=50,
    ),
}


def cells_of(preset: Preset, seeds: int) -> list[Cell]:
    """Return every trial: those that go for the goal, then those of equal epochs and of equal steps."""
    cells = []
    for name, workload in preset.workloads.items():
        for size in workload.batches:
            updates = workload.updates(size)
            budget = BudgetConfig(updates=updates, error=workload.goal, check_every=max(1, updates // workload.looks))
            for seed in range(seeds):
                cells += trial_cells(name, workload, "goal", size, budget, 0, workload.trials, seed)
    fixed, workload = preset.budgets, preset.workloads[preset.budgets.workload]
    for kind, budget, epochs in (
        ("epochs", BudgetConfig(), fixed.epochs),
        ("steps", BudgetConfig(updates=fixed.updates), 0),
    ):
        for size in fixed.batches:
            for seed in range(seeds):
                cells += trial_cells(fixed.workload, workload, kind, size, budget, epochs, fixed.trials, seed)
    return cells


def measurements(preset: Preset, cells: Sequence[Cell]) -> Iterator[Measurement]:
    """Yield the noise scale at the end of every trial of the base batch size: which is best is not known yet."""
    for cell in cells:
        if cell.labels["kind"] == "goal" and cell.labels["batch_size"] == preset.base_batch:
            probes = {"gradient_noise": GradientNoise(num_hvps=0, batch_sizes=())}
            yield Measurement(f"noise scale, {cell.name}", cell, probes, num_examples=preset.noise_examples)


STUDY = Study(
    name="shallue2018",
    title="Shallue et al. 2018",
    about=__doc__ or "",
    presets=PRESETS,
    cells=cells_of,
    measurements=measurements,
)

if __name__ == "__main__":
    run_command(lambda: run_study(STUDY))
