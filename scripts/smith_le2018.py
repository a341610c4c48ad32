"""The best batch size, the equation behind it, and the evidence: Smith & Le 2018 (arXiv 1710.06451) in small.

Three subjects of the paper.

- Accuracy against batch size after a fixed number of updates, up to the full batch, the learning rate not scaled with
  the batch, for several learning rates, numbers of training images and momenta. The noise scale
  ``g = rate (N / B - 1) / (1 - m)`` is to decide: the best batch size is proportional to each of ``rate``, ``N`` and
  ``1/(1 - m)``, and after equal times, which are updates times ``rate/(1 - m)``, accuracies against g lie on one curve.
- The stochastic differential equation from which the law comes, integrated beside SGD at one noise scale, on ridge
  regression, where both have closed forms, and on a network.
- Logistic regressions to the true and to random labels over a sweep of the L2 strength, with the exact evidence of
  Laplace's approximation: its best strength is to be that of the lowest test loss, and random labels are not to beat a
  model that knows nothing.

Networks are small and many, and a fifth of the labels are random, since on clean labels the peak is a few tenths of a
point high. All seeds of a setting are trained side by side as one measurement. They belong to a run of one update,
which gives them the data alone; nothing else of it is used.

What to expect, on one CPU core:

- cpu: about 13 minutes, on two cores half of that. Of 20 claims 18 are reproduced, one in sign only, and one is
  contradicted: the best batch size hardly grows with the number of images.
- smoke: seconds; its numbers mean nothing.
- paper: for a GPU; never run.

Every stage skips what is already there, so the same command goes on after a stop of any kind.
"""

from __future__ import annotations

import sys
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))  # analysis/ and scripts/ are not installed

from scripts.measures.smith_le2018_equation import network_equation, ridge_equation
from scripts.measures.smith_le2018_evidence import evidence
from scripts.measures.smith_le2018_networks import accuracy_after
from scripts.runner.grid import one_run_per_seed
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
class Ridge:
    """The equation on ridge regression; see :func:`scripts.measures.smith_le2018_equation.ridge_equation`."""

    examples: int = 256
    cells: int = 4
    penalty: float = 0.1
    noise: float = 0.02
    batches: tuple[int, ...] = (1, 2, 4, 8, 16, 32, 64)
    step: float = 0.01
    time: float = 400


@dataclass(frozen=True)
class Diffusion:
    """The equation on a network; see :func:`scripts.measures.smith_le2018_equation.network_equation`."""

    images: int = 250
    noise_scale: float = 6.4
    batches: tuple[int, ...] = (1, 2, 4, 8, 15, 28, 50)
    steps: tuple[float, ...] = (0.025, 0.05)
    time: float = 400


@dataclass(frozen=True)
class Preset:
    """The network and its data, what is varied about it one thing at a time, and the equation beside it."""

    about: str
    seeds: int
    base: RunConfig
    cells: int
    """Images are cut into cells x cells parts, whose mean brightness are the inputs."""
    hidden: int
    noise: float
    """The share of random labels among the training images."""
    images: int
    rate: float
    momentum: float
    learning_rates: tuple[float, ...]
    train_sizes: tuple[int, ...]
    momenta: tuple[float, ...]
    ratios: tuple[float, ...]
    """The batch sizes are ``N / (1 + ratio)``, rounded, and N: the same noise scales for every N."""
    looks: tuple[int, ...]
    """The numbers of updates after which accuracy is taken; the last is where training ends."""
    ridge: Ridge = field(default_factory=Ridge)
    diffusion: Diffusion = field(default_factory=Diffusion)
    evidence: Evidence = field(default_factory=Evidence)


def base_run(dataset: str, images: int) -> RunConfig:
    """Return the run that lends its data: the first so many training images, and all test images."""
    return RunConfig(
        data=DataConfig(name=dataset, num_train=images),
        model=ModelConfig(name="smith_le", norm="none"),
        training=TrainingConfig(optimizer="sgd", learning_rate=0.01, batch_size=64, epochs=1),
        budget=BudgetConfig(updates=1),
    )


PRESETS = {
    # Settings were chosen on seeds from 100 on: a network that cannot learn all the random labels by heart at once, so
    # that noise keeps it from doing so, and rates from which a peak is seen up to those at which SGD hardly trains.
    "cpu": Preset(
        "500 Fashion-MNIST images as 7 x 7 cells, a fifth of the labels random, 16 hidden units, 4,000 updates, "
        "16 seeds; about 13 minutes on 1 core.",
        seeds=16,
        base=base_run("fashion_mnist_10k", 1000),
        cells=7,
        hidden=16,
        noise=0.2,
        images=500,
        rate=0.04,
        momentum=0.9,
        learning_rates=(0.02, 0.04, 0.08, 0.16),
        train_sizes=(250, 500, 1000),
        momenta=(0.8, 0.9, 0.95, 0.975),
        ratios=(2, 4, 8, 11.3, 16, 22.6, 32, 45.3, 64, 90.5, 128, 181, 256),
        looks=(500, 1000, 2000, 4000),
    ),
    # The paper's network, data, rate, momentum and number of updates; the values around them are ours.
    "paper": Preset(
        "1,000 MNIST images, 800 hidden units, rate 1, 10,000 updates, 16 seeds, for a GPU; never run.",
        seeds=16,
        base=base_run("mnist", 8000),
        cells=28,
        hidden=800,
        noise=0.0,
        images=1000,
        rate=1.0,
        momentum=0.9,
        learning_rates=(0.25, 0.5, 1.0, 2.0),
        train_sizes=(500, 1000, 2000, 4000, 8000),
        momenta=(0.0, 0.5, 0.8, 0.9, 0.95),
        ratios=(1, 2, 4, 8, 16, 32, 64, 128, 256),
        looks=(1250, 2500, 5000, 10_000),
    ),
    "smoke": Preset(
        "A trial, to see that everything works; its numbers mean nothing.",
        seeds=2,
        base=replace(base_run("fashion_mnist_10k", 100), data=DataConfig(num_train=100, num_test=200)),
        cells=4,
        hidden=4,
        noise=0.2,
        images=50,
        rate=0.1,
        momentum=0.5,
        learning_rates=(0.1, 0.2),
        train_sizes=(50, 100),
        momenta=(0.5, 0.75),
        ratios=(1, 4, 16),
        looks=(5, 10),
        ridge=Ridge(examples=50, cells=2, batches=(1, 8), step=0.1, time=5),
        diffusion=Diffusion(images=30, noise_scale=3.0, batches=(1, 10), steps=(0.1, 0.2), time=3),
        evidence=Evidence(num_train=40, lowest=1e-2, highest=1e2, per_decade=1, draws=2),
    ),
}


def settings_of(preset: Preset) -> list[tuple[float, int, float]]:
    """Return the learning rate, number of images and momentum of each setting; the base setting is in each sweep."""
    first = (preset.rate, preset.images, preset.momentum)
    settings = [(each, *first[1:]) for each in preset.learning_rates]
    settings += [(preset.rate, each, preset.momentum) for each in preset.train_sizes]
    settings += [(*first[:2], each) for each in preset.momenta]
    return list(dict.fromkeys([first, *settings]))


def batches_of(images: int, ratios: Sequence[float]) -> list[int]:
    """Return the batch sizes of a number of images, the full batch first.

    >>> batches_of(250, (1, 4, 64, 100))
    [250, 125, 50, 4, 2]
    """
    return sorted({images, *(max(1, round(images / (1 + ratio))) for ratio in ratios)}, reverse=True)


def measurements(preset: Preset, cells: Sequence[Cell]) -> Iterator[Task]:
    """Yield the accuracies of every setting and batch size, the equation beside SGD, and the sweeps of the evidence."""
    first, seeds = cells[0], {"seeds": [cell.labels["seed"] for cell in cells]}
    network = {"cells": preset.cells, "hidden": preset.hidden, "noise": preset.noise} | seeds
    for rate, images, momentum in settings_of(preset):
        labels = {"learning_rate": rate, "num_train": images, "momentum": momentum}
        varied = {"images": images, "rate": rate, "momentum": momentum, "looks": list(preset.looks)}
        for batch in batches_of(images, preset.ratios):
            knobs = network | varied | {"batch": batch}
            yield Task("test_accuracy", {**labels, "batch_size": batch}, accuracy_after, [first], knobs)
    yield Task("ridge_equation", {}, ridge_equation, [first], _knobs(preset.ridge) | seeds)
    yield Task("network_equation", {}, network_equation, [first], _knobs(preset.diffusion) | network)
    yield from evidences(preset, first)


def evidences(preset: Preset, first: Cell) -> Iterator[Task]:
    """Yield the sweeps of the evidence, which read none of the run."""
    knobs = _knobs(preset.evidence) | {"dataset": preset.base.data.name}
    del knobs["draws"]
    for draw in range(preset.evidence.draws):
        yield Task("evidence", {"draw": draw}, evidence, [first], knobs | {"draw": draw})


def _knobs(part: Ridge | Diffusion | Evidence) -> dict[str, Any]:
    return {name: list(value) if isinstance(value, tuple) else value for name, value in asdict(part).items()}


STUDY = Study(
    name="smith_le2018",
    title="Smith & Le 2018",
    about=__doc__ or "",
    presets=PRESETS,
    cells=one_run_per_seed,
    measurements=measurements,
)

if __name__ == "__main__":
    run_command(lambda: run_study(STUDY))
