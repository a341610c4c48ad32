"""The best batch size and the evidence: Smith & Le 2018 (arXiv 1710.06451) in small.

Trains the paper's network for a fixed number of updates, with the learning rate not scaled with the batch, over a grid
of batch sizes, for several learning rates, numbers of training images and momenta; the noise scale
``g ~ rate N / (B (1 - m))`` says that the best batch size is proportional to each of ``rate``, ``N`` and ``1/(1 - m)``.
And fits logistic regressions to the true and to random labels over a sweep of the L2 strength, with the exact evidence
of Laplace's approximation: its best strength is to be that of the lowest test loss, and random labels are not to beat
a model that knows nothing.

What to expect, on two CPU cores:

- cpu: about 6 minutes. Of 7 claims 3 are reproduced and 1 is not; 3 need peaks that these sweeps do not have.
- smoke: seconds; its numbers mean nothing.
- paper: for a GPU; never run.

Every stage skips what is already there, so the same command goes on after a stop of any kind.
"""

from __future__ import annotations

import sys
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))  # analysis/ and scripts/ are not installed

from scripts.measures.smith_le2018 import accuracy_over_tests, evidence
from scripts.runner.study import Cell, Study, Task, run_study
from sharpness.cli import run_command
from sharpness.config import BudgetConfig, DataConfig, ModelConfig, RunConfig, TrainingConfig


@dataclass(frozen=True)
class Evidence:
    """The logistic regressions: two classes, so many of their training images, and the strengths of the L2 term.

    ``draws`` of the images and of the random labels: a sweep takes less than a second.
    """

    classes: tuple[int, int] = (0, 1)
    num_train: int = 200
    lowest: float = 1e-4
    highest: float = 1e4
    per_decade: int = 4
    draws: int = 20


@dataclass(frozen=True)
class Preset:
    """The run that all cells share, what is varied about it one thing at a time, and the grid of batch sizes.

    The base setting has the batch sizes ``more`` too: there the curve is to be seen beyond its peak, and elsewhere they
    would take too long. ``num_test`` images give the accuracy of the final weights; the base's own are those that
    training looks at.
    """

    about: str
    base: RunConfig
    learning_rates: tuple[float, ...]
    train_sizes: tuple[int, ...]
    momenta: tuple[float, ...]
    batches: tuple[int, ...]
    seeds: int
    more: tuple[int, ...] = ()
    num_test: int = 10_000
    evidence: Evidence = field(default_factory=Evidence)


def base_run(dataset: str, rate: float, images: int, updates: int) -> RunConfig:
    """Return the paper's network and optimiser, trained for so many updates however many epochs these are."""
    return RunConfig(
        data=DataConfig(name=dataset, num_train=images, num_test=200),
        model=ModelConfig(name="smith_le", norm="none"),
        training=TrainingConfig(optimizer="momentum", learning_rate=rate, momentum=0.9, epochs=0),
        budget=BudgetConfig(updates=updates),
    )


PRESETS = {
    # The paper's network and number of images on clothes for digits, with a tenth of its updates. The paper's rate of 1
    # does not train here; these are rates whose best batches are neither one example nor a large part of the images.
    "cpu": Preset(
        "1,000 Fashion-MNIST images, 1,000 updates, batches 4 to 512, 5 seeds; about 6 minutes on 2 cores.",
        base_run("fashion_mnist_10k", 0.02, 1000, 1000),
        learning_rates=(0.005, 0.01, 0.02, 0.04),
        train_sizes=(500, 1000, 2000),
        momenta=(0.8, 0.9, 0.95),
        batches=(4, 8, 16, 32, 64, 128),
        more=(256, 512),
        seeds=5,
    ),
    # The paper's data, rate and momentum; the values around them and the number of updates are ours.
    "paper": Preset(
        "1,000 MNIST images, rate 1, 10,000 updates, batches 1 to 1000, 5 seeds, for a GPU; never run.",
        base_run("mnist", 1.0, 1000, 10_000),
        learning_rates=(0.25, 0.5, 1.0, 2.0),
        train_sizes=(500, 1000, 2000, 4000, 8000),
        momenta=(0.0, 0.5, 0.8, 0.9, 0.95),
        batches=(1, 2, 4, 8, 16, 32, 64, 128, 256, 512, 1000),
        seeds=5,
    ),
    "smoke": Preset(
        "A trial, to see that everything works; its numbers mean nothing.",
        base_run("fashion_mnist_10k", 0.1, 200, 10),
        learning_rates=(0.05, 0.1),
        train_sizes=(100, 200),
        momenta=(0.5, 0.9),
        batches=(2, 8, 32),
        seeds=2,
        num_test=500,
        evidence=Evidence(num_train=40, lowest=1e-2, highest=1e2, per_decade=1, draws=2),
    ),
}


def cells_of(preset: Preset, seeds: int) -> list[Cell]:
    """Return the cells of the study, one for each setting, batch size and seed; the base setting is in each sweep.

    No batch is larger than the training set.
    """
    base = preset.base
    rate, images, momentum = base.training.learning_rate, base.data.num_train, base.training.momentum
    first = (rate, images, momentum)
    settings = [(each, images, momentum) for each in preset.learning_rates]
    settings += [(rate, each, momentum) for each in preset.train_sizes]
    settings += [(rate, images, each) for each in preset.momenta]
    return [
        _cell(base, setting, batch, seed)
        for setting in dict.fromkeys([first, *settings])
        for batch in sorted([*preset.batches, *(preset.more if setting == first else ())], reverse=True)
        for seed in range(seeds)
        if setting[1] is None or batch <= setting[1]
    ]


def _cell(base: RunConfig, setting: tuple[float, int | None, float], batch: int, seed: int) -> Cell:
    rate, images, momentum = setting
    varied = {"learning_rate": rate, "momentum": momentum, "batch_size": batch, "seed": seed}
    data, training = replace(base.data, num_train=images), replace(base.training, **varied)
    return Cell({"num_train": images, **varied}, replace(base, data=data, training=training))


def measurements(preset: Preset, cells: Sequence[Cell]) -> Iterator[Task]:
    """Yield the accuracy of every run over all test images, and the sweeps of the evidence."""
    dataset, swept = preset.base.data.name, preset.evidence
    grid = {"lowest": swept.lowest, "highest": swept.highest, "per_decade": swept.per_decade}
    firsts = first_of_seeds(cells)
    for draw in range(swept.draws):
        knobs = {"dataset": dataset, "classes": list(swept.classes), "num_train": swept.num_train, "draw": draw, **grid}
        yield Task("evidence", {"draw": draw}, evidence, [firsts[draw % len(firsts)]], knobs)
    for cell in cells:
        yield Task("test_accuracy", cell.labels, accuracy_over_tests, [cell], {"num_test": preset.num_test})


def first_of_seeds(cells: Sequence[Cell]) -> list[Cell]:
    """Return the first cell of each seed: a measurement belongs to a run, though the evidence reads none of it."""
    return list({cell.labels["seed"]: cell for cell in reversed(cells)}.values())


STUDY = Study(
    name="smith_le2018",
    title="Smith & Le 2018",
    about=__doc__ or "",
    presets=PRESETS,
    cells=cells_of,
    measurements=measurements,
)

if __name__ == "__main__":
    run_command(lambda: run_study(STUDY))
