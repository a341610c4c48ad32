"""Steps to a goal against batch size, everything tuned at each: Shallue et al. 2018 (arXiv 1811.03600) in small.

At every batch size a search over the learning rate (and momentum) looks for the trial that reaches a held-out error in
the fewest updates: quasi-random trials over the whole box, then more of them around the best one. Tested: three regimes
(steps fall as 1/B, then less, then not at all); momentum and Nesterov equal plain SGD at small batches and scale
further; how far depends on the network more than on the amount of data, and is other for a transformer on a text; the
best learning rate follows neither the linear nor the square-root rule; small batches win at equal epochs, large ones at
equal steps, and none is worse with enough budget. The largest batch in perfect scaling is printed beside what the
gradient noise scale recommends.

The trials of a search are trained side by side as one measurement, which belongs to a run of one update that lends its
data and nothing else.

What to expect, on two CPU cores:

- cpu: about 90 minutes for 5,950 networks side by side. Steps fall as 1/B up to batches of 13 to 110; the critical
  batch is 124 for SGD, three times that with momentum, 170 for the CNN and 27 windows of text for the transformer; the
  linear rule breaks down. Of 15 claims 12 are reproduced and 3 inconclusive.
- smoke: seconds; its numbers mean nothing.
- paper: for a GPU; never run.

Every stage skips what is already there, so the same command goes on after a stop of any kind.
"""

from __future__ import annotations

import sys
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))  # analysis/ and scripts/ are not installed

from scripts.grids.shallue2018 import Space, Workload
from scripts.measures.shallue2018 import search
from scripts.measures.side_by_side import as_knob
from scripts.runner.study import Cell, Study, Task, run_study
from sharpness.cli import run_command
from sharpness.config import BudgetConfig, DataConfig, ModelConfig, RunConfig, TrainingConfig
from sharpness.machine.environment import derived_seed


@dataclass(frozen=True)
class Budgets:
    """Searches without a goal, for the quality of the solution: as many epochs at each batch size, or as many steps."""

    workload: str
    batches: tuple[int, ...]
    epochs: int
    updates: int
    trials: tuple[int, ...]


@dataclass(frozen=True)
class Preset:
    """The workloads by name; ``seeds`` is the number of independent searches at each batch size.

    ``optimisers``, ``networks`` and ``data`` name the workloads that differ in that alone, the reference first; a third
    of ``networks`` has data of its own too. At ``base_batch`` the noise scale is measured, on ``noise_examples``, where
    the best trial ends, and from there the rules for the learning rate start. Images are cut into ``cells`` x ``cells``
    parts, whose mean brightness is used.
    """

    about: str
    seeds: int
    workloads: Mapping[str, Workload]
    optimisers: tuple[str, ...]
    networks: tuple[str, str, str]
    data: tuple[str, str]
    budgets: Budgets
    base_batch: int
    noise_examples: int
    cells: int


IMAGES = DataConfig(num_train=10_000, num_validation=1808, num_test=10_000)
"""8192 images of Fashion-MNIST to train on, the next 1808 for the goal."""
FEW_IMAGES = replace(IMAGES, num_train=3856)
"""2048 to train on; the 1808 of the goal are the next ones, so not those of the other workloads."""
FC = Workload(
    optimizer="sgd",
    network="f1_small",
    data=IMAGES,
    batches=(1, 4, 16, 64, 256, 1024),
    goal=0.18,
    steps=400,
    examples=120_000,
    trials=(18, 12),
)
FC_MOMENTUM, FC_NESTEROV = (replace(FC, optimizer=name) for name in ("momentum", "nesterov"))
CNN = replace(FC_NESTEROV, network="strided_cnn", batches=(4, 16, 64, 256, 1024))
WINDOWS = DataConfig(name="kjv", context=16, num_train=33_280, num_validation=512, num_test=512)
"""32,768 windows of 16 bytes of the King James Bible to train on, half a megabyte, and 8,192 bytes for the goal."""
TRANSFORMER = Workload(
    optimizer="nesterov",
    network="char_transformer_small",
    data=WINDOWS,
    batches=(4, 16, 64, 256),
    goal=0.55,
    steps=300,
    examples=12_000,
    trials=(18, 12),
    space=Space((0.03, 20.0)),
)
"""A text instead of images: the goal is the share of bytes that are not the likeliest one, where the authors have the
cross-entropy. Goal and ranges were chosen on seeds that the study does not use."""
FEW = DataConfig(num_train=300, num_validation=100, num_test=100, evaluation_batch_size=100)
SHORT = DataConfig(name="kjv", context=8, num_train=72, num_validation=8, num_test=8, evaluation_batch_size=8)
SMALL = replace(FC, data=FEW, batches=(4, 16, 64, 200), goal=0.75, steps=12, examples=200, trials=(3, 2))
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
    trials=(60, 40),
    space=Space((1e-4, 10.0), (1e-3, 0.5)),
)
PAPER_TRANSFORMER = replace(
    TRANSFORMER,
    network="char_transformer",
    data=DataConfig(name="kjv", context=64, num_validation=512, num_test=512),
    batches=SIZES[:6],
    goal=0.45,
    steps=4000,
    examples=400_000,
    trials=(60, 40),
)
"""Ours: theirs of LM1B and of Common Crawl have texts that are not here."""
PAPER_MOMENTUM, PAPER_NESTEROV = (replace(PAPER, optimizer=name) for name in ("momentum", "nesterov"))

PRESETS = {
    "cpu": Preset(
        "8,192 images of Fashion-MNIST as 14 x 14 cells, a fully connected network and a CNN, batches 1 to 1024, 5 "
        "searches of 30 trials at each, and a transformer on a text; about 90 minutes on 2 cores.",
        seeds=5,
        workloads={
            "FC SGD": FC,
            "FC momentum": FC_MOMENTUM,
            "FC Nesterov": FC_NESTEROV,
            "FC Nesterov, 2048 images": replace(FC_NESTEROV, data=FEW_IMAGES),
            "CNN Nesterov": CNN,
            "transformer Nesterov": TRANSFORMER,
        },
        optimisers=("FC SGD", "FC momentum", "FC Nesterov"),
        networks=("FC Nesterov", "CNN Nesterov", "transformer Nesterov"),
        data=("FC Nesterov", "FC Nesterov, 2048 images"),
        budgets=Budgets("FC Nesterov", batches=(4, 16, 64, 256, 1024), epochs=8, updates=300, trials=(12, 8)),
        base_batch=16,
        noise_examples=1000,
        cells=14,
    ),
    # The authors' network, goal and batch sizes for MNIST (every second power of two of theirs) and a hundred trials at
    # each, as in their published measurements. Ours: the ranges searched, the step budgets, the goal of the fully
    # connected network, which they train with plain SGD alone, and the half of the data. It has not been run.
    "paper": Preset(
        "MNIST, Simple CNN and fc_1024, a transformer on kjv, batches 2 to 55,000, 5 searches of 100 trials, for a "
        "GPU; never run.",
        seeds=5,
        workloads={
            "CNN SGD": PAPER,
            "CNN momentum": PAPER_MOMENTUM,
            "CNN Nesterov": PAPER_NESTEROV,
            "CNN Nesterov, half": replace(
                PAPER_NESTEROV, data=replace(MNIST, num_train=32_500), batches=(*SIZES[:-2], 27_500)
            ),
            "FC SGD": replace(PAPER, network="fc_1024", goal=0.03),
            "transformer Nesterov": PAPER_TRANSFORMER,
        },
        optimisers=("CNN SGD", "CNN momentum", "CNN Nesterov"),
        networks=("CNN SGD", "FC SGD", "transformer Nesterov"),
        data=("CNN Nesterov", "CNN Nesterov, half"),
        budgets=Budgets("CNN Nesterov", batches=SIZES, epochs=20, updates=20_000, trials=(60, 40)),
        base_batch=32,
        noise_examples=5000,
        cells=28,
    ),
    "smoke": Preset(
        "A trial, to see that everything works; its numbers mean nothing.",
        seeds=1,
        workloads={
            "FC SGD": SMALL,
            "FC Nesterov": replace(SMALL, optimizer="nesterov"),
            "transformer": replace(
                TRANSFORMER, data=SHORT, batches=(16, 64), goal=0.9, steps=4, examples=20, trials=(2,)
            ),
        },
        optimisers=("FC SGD", "FC Nesterov"),
        networks=("FC Nesterov", "FC SGD", "transformer"),
        data=("FC Nesterov", "FC SGD"),
        budgets=Budgets("FC Nesterov", batches=(16, 200), epochs=1, updates=5, trials=(2,)),
        base_batch=16,
        noise_examples=50,
        cells=4,
    ),
}


def run_of(workload: Workload, batch_size: int) -> RunConfig:
    """Return the run of a workload at a batch size, whose rate, momentum and length are for the search to say."""
    training = TrainingConfig(optimizer=workload.optimizer, learning_rate=0.01, batch_size=batch_size)
    norm = "none" if workload.data.context is None else "layer"
    return RunConfig(data=workload.data, model=ModelConfig(name=workload.network, norm=norm), training=training)


def cells_of(preset: Preset, seeds: int) -> list[Cell]:
    """Return a run of one update for each set of images and each search, which lends them."""
    lenders = {workload.data: workload for workload in reversed(list(preset.workloads.values()))}
    return [
        Cell({"images": data.num_train, "search": seed}, _one_update(lender, seed))
        for data, lender in lenders.items()
        for seed in range(seeds)
    ]


def _one_update(workload: Workload, seed: int) -> RunConfig:
    config = run_of(workload, workload.batches[0])
    return replace(config, training=replace(config.training, seed=seed), budget=BudgetConfig(updates=1))


def measurements(preset: Preset, cells: Sequence[Cell]) -> Iterator[Task]:
    """Yield every search: those that go for the goal, then those of equal epochs and of equal steps."""
    for name, workload in preset.workloads.items():
        for size in workload.batches:
            knobs = {"trials": list(workload.trials), "goal": workload.goal, "updates": workload.updates(size)}
            knobs["noise_examples"] = preset.noise_examples if size == preset.base_batch else 0
            yield from _searches(preset, cells, (name, "goal", size), knobs)
    fixed = preset.budgets
    for kind, budget in (("epochs", {"epochs": fixed.epochs}), ("steps", {"updates": fixed.updates})):
        for size in fixed.batches:
            knobs = {"trials": list(fixed.trials), "goal": None, "noise_examples": 0, **budget}
            yield from _searches(preset, cells, (fixed.workload, kind, size), knobs)


def _searches(
    preset: Preset, cells: Sequence[Cell], place: tuple[str, str, int], knobs: Mapping[str, Any]
) -> Iterator[Task]:
    """Yield the independent searches of a workload at a batch size."""
    name, kind, size = place
    workload = preset.workloads[name]
    cells_of_images = preset.cells if workload.data.context is None else None
    shared = {"recipe": as_knob(run_of(workload, size)), "cells": cells_of_images, "space": asdict(workload.space)}
    for lender in cells:
        if lender.config.data == workload.data:
            seed = lender.labels["search"]
            own = {"drawn": derived_seed("shallue2018", name, kind, size, seed), "first_seed": 1000 * seed}
            labels = {"workload": name, "kind": kind, "batch_size": size, "search": seed}
            yield Task("search", labels, search, [lender], {**shared, **own, **knobs})


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
