"""Does sharpness go with generalisation? Andriushchenko et al. 2023 (arXiv 2302.07011) in small.

Trains a grid of networks (learning rate, batch size, weight decay, augmentation and width, each with several seeds) to
one training loss, measures their sharpness in 24 ways and three norms of the weights, and correlates each measure with
the generalisation gap: Kendall's tau over all settings, and granulated, over settings that differ in one alone (Jiang
et al. 2020, arXiv 1912.02178). Not measured: critical, batch and preconditioned sharpness, interaction, learning
coefficient, Occam factor, Keskar's maximum, single layers, density and gradient noise. Tested are the paper's claims
that no sharpness goes well with the gap, and rather with the learning rate, and Jiang et al.'s that measures which know
how large the weights are do better than those which do not. Shifted test data are the test images with noise, blur or
less contrast. Runs that miss the training loss are counted and left out.

What to expect, on two CPU cores:

- cpu: about 40 minutes. Of 7 claims 3 are reproduced, 3 are inconclusive, and one is contradicted.
- smoke: seconds; its numbers mean nothing.
- paper: for a GPU; never run.

Every stage skips what is already there, so the same command goes on after a stop of any kind.
"""

from __future__ import annotations

import itertools
import sys
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))  # analysis/ and scripts/ are not installed

from scripts.measures.andriushchenko2023 import measure_run, shifted_tests
from scripts.runner.study import Cell, Study, Task, run_study
from sharpness.cli import run_command
from sharpness.config import BudgetConfig, DataConfig, ModelConfig, RunConfig, TrainingConfig


@dataclass(frozen=True)
class Preset:
    """The run that all share, the grid, and on how many examples and how finely is measured."""

    about: str
    base: RunConfig
    networks: tuple[str, ...]
    learning_rates: tuple[float, ...]
    batch_sizes: tuple[int, ...]
    weight_decays: tuple[float, ...]
    seeds: int
    examples: int
    effort: int
    """Half the steps of each ascent, twice the pairs of each mean and half the products of each trace."""
    augmented: tuple[bool, ...] = (False, True)
    crop_padding: int = 0
    without: tuple[str, ...] = ()
    """Measures that are left out."""
    severities: tuple[int, ...] = (1, 2, 3, 4, 5)
    """How badly the test images are corrupted, of which the mean is taken."""


def _base(data: DataConfig, norm: Any, optimizer: str, train_loss: float, epochs: int) -> RunConfig:
    training = TrainingConfig(optimizer=optimizer, epochs=epochs)
    return RunConfig(data, ModelConfig(norm=norm), training, budget=BudgetConfig(train_loss=train_loss))


PRESETS = {
    # Images are mirrored alone: with shifts these networks take too long to reach the training loss.
    "cpu": Preset(
        "1,000 Fashion-MNIST images, 3 x 2^4 settings, 5 seeds, about 40 minutes on 2 cores.",
        _base(DataConfig(num_train=1000, num_test=4000, evaluation_batch_size=1000), "none", "sgd", 0.1, 200),
        networks=("fc_128_128_128", "fc_256_256_256"),
        learning_rates=(0.05, 0.1, 0.2),
        batch_sizes=(16, 64),
        weight_decays=(0.0, 1e-3),
        seeds=5,
        examples=512,
        effort=10,
    ),
    # CIFAR-10 and residual networks, one of the paper's settings (ResNet-18 there), with a grid of this project and
    # Jiang et al.'s training loss. Needs the CIFAR-10 files and a GPU. It has not been run.
    "paper": Preset(
        "CIFAR-10, ResNets, 3^3 x 2^2 settings, 2 seeds, for a GPU; never run.",
        _base(DataConfig(name="cifar10", evaluation_batch_size=1000), "running", "momentum", 0.01, 200),
        networks=("resnet8", "resnet20"),
        learning_rates=(0.01, 0.03, 0.1),
        batch_sizes=(32, 128, 512),
        weight_decays=(0.0, 1e-4, 5e-4),
        seeds=2,
        examples=1024,
        effort=10,
        crop_padding=4,
    ),
    # A few seconds' worth, to see that everything works; its numbers mean nothing.
    "smoke": Preset(
        "A trial, to see that everything works.",
        _base(DataConfig(num_train=200, num_test=100, evaluation_batch_size=200), "none", "sgd", 1.5, 8),
        networks=("f1_small",),
        learning_rates=(0.05, 0.1, 0.2),
        batch_sizes=(10,),
        weight_decays=(0.0,),
        seeds=1,
        examples=40,
        effort=1,
        augmented=(False,),
        without=("keskar",),
        severities=(3,),
    ),
}


def cells_of(preset: Preset, seeds: int) -> list[Cell]:
    """Return the runs of the grid, those of small batches and rates first because they take longest."""
    grid = itertools.product(
        preset.batch_sizes,
        preset.learning_rates,
        preset.networks,
        preset.weight_decays,
        preset.augmented,
        range(seeds),
    )
    cells = []
    for batch_size, rate, network, decay, augmented, seed in grid:
        training = {"learning_rate": rate, "batch_size": batch_size, "weight_decay": decay, "seed": seed}
        config = replace(
            preset.base,
            data=replace(preset.base.data, crop_padding=preset.crop_padding * augmented, flip=augmented),
            model=replace(preset.base.model, name=network),
            training=replace(preset.base.training, **training),
        )
        labels = {"network": network, "augmentation": "varied" if augmented else "none", **training}
        cells.append(Cell(labels, config))
    return cells


def measurements(preset: Preset, cells: Sequence[Cell]) -> Iterator[Task]:
    """Yield for each run all measures at once and all tests on shifted data, so that network and data are read once."""
    knobs = {"examples": preset.examples, "effort": preset.effort, "without": list(preset.without)}
    for cell in cells:
        yield Task("measures", cell.labels, measure_run, [cell], knobs)
        yield Task("shifted", cell.labels, shifted_tests, [cell], {"severities": list(preset.severities)})


STUDY = Study(
    name="andriushchenko2023",
    title="Andriushchenko et al. 2023",
    about=__doc__ or "",
    presets=PRESETS,
    cells=cells_of,
    measurements=measurements,
)

if __name__ == "__main__":
    run_command(lambda: run_study(STUDY))
