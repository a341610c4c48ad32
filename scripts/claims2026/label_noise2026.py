"""Does SGD seek flat minima? In an exactly solvable network only where noise is the same in all outputs of the labels.

Tests the claims of Xu, Beneventano, Chuang & Ziyin 2026 (arXiv 2602.05065, "Does SGD Seek Flatness or Sharpness? An
Exactly Solvable Model") that SGD has no preference for flatness but one for small fluctuations of the gradient; that
the data alone decide how sharp the minimum is where it ends; that it is the flattest one if and only if the noise is
isotropic over the outputs; that it is the sharper, without bound, the more the noise differs; and that the same is seen
in a network that is not linear. The wording is that of the paper's abstract, on which all these claims rest: the text
was not read. The network here, ``U W x`` with two outputs, has minima that all compute one function; both the flattest
and the one with the least fluctuation are derived in ``scripts/measures/label_noise2026.py``, and may not be the
paper's model. Inputs are cells of Fashion-MNIST images, targets linear in them, with noise of one variance in all whose
shares in the two outputs are set. The last claims are the counter-example to Keskar et al. 2017: of two minima with one
function, thus one test loss, that of small batches is the sharper one.

The problems take the images and the seed of a run; nothing else of its network, which makes one update, is used.

What to expect, on two CPU cores:

- cpu: about 5 minutes. Of 11 claims 8 are reproduced and 3 inconclusive. With isotropic noise SGD ends at the flattest
  minimum from either start; with noise 64 times as large in one output at 1.63 times the least trace (1.54 to 1.73),
  where 1.95 are computed for small rates, and batches of one end 1.22 times as sharp as the full batch (1.13 to 1.31).
- smoke: seconds; its numbers mean nothing.

Every stage skips what is already there, so the same command goes on after a stop of any kind.
"""

from __future__ import annotations

import sys
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[2]))  # analysis/ and scripts/ are not installed

from scripts.measures.label_noise2026 import Arm, minima, walks
from scripts.runner.grid import one_run_per_seed
from scripts.runner.study import Cell, Study, Task, run_study
from sharpness.cli import run_command
from sharpness.config import BudgetConfig, DataConfig, ModelConfig, RunConfig, TrainingConfig


@dataclass(frozen=True)
class Preset:
    """The problem, the ways to train on it and for how long."""

    about: str
    seeds: int
    base: RunConfig
    examples: int
    """Images of a problem, drawn at random for each seed."""
    cells: int
    """Images are cut into cells x cells parts, whose mean brightness are the inputs."""
    hidden: int
    imbalances: tuple[float, ...]
    """Ratios of the variances of the noise in the two outputs; the first is 1."""
    rate: float
    larger: int
    """How many times as large another rate is, and another batch size."""
    scale: float
    """The factor between the layers at a sharp start."""
    walks: int
    """Orders of the examples, over which every number of a seed is a mean."""
    steps: int
    """Updates in batches of one; the noise of a walk moves it by their number times (rate^2 / batch)."""
    settling: int
    """Updates of the full batch at the end of a walk, and all of those of a walk that has no other."""
    marks: int = 30
    """Measurements on the way."""


BASE = RunConfig(
    data=DataConfig(num_test=1000),
    model=ModelConfig(name="fc_128_128_128", norm="none"),
    training=TrainingConfig(optimizer="sgd", learning_rate=0.01, batch_size=64, loss="square", epochs=1),
    budget=BudgetConfig(updates=1),
)

PRESETS = {
    # Rate, length and the sharp start were chosen on seed 100, before the first of these seeds: stable, and long enough
    # for the slowest arm to end.
    "cpu": Preset(
        "512 Fashion-MNIST images as 2 x 2 cells, noise 1 to 64 times as large in one output, 6 seeds, about 5 "
        "minutes on 2 cores.",
        seeds=6,
        base=BASE,
        examples=512,
        cells=2,
        hidden=4,
        imbalances=(1.0, 4.0, 16.0, 64.0),
        rate=0.01,
        larger=2,
        scale=2.0,
        walks=4,
        steps=30_000,
        settling=4_000,
    ),
    "smoke": Preset(
        "A trial, to see that everything works.",
        seeds=2,
        base=replace(BASE, data=DataConfig(num_train=400, num_test=100)),
        examples=100,
        cells=2,
        hidden=3,
        imbalances=(1.0, 16.0),
        rate=0.01,
        larger=2,
        scale=2.0,
        walks=2,
        steps=400,
        settling=50,
        marks=4,
    ),
}


def arms(preset: Preset) -> list[Arm]:
    """Return the ways to train: from both minima at each imbalance, and from random weights in small and full batches.

    The larger imbalances also have another rate, and another batch size at that rate.
    """
    rate, steps, larger = preset.rate, preset.steps, preset.larger
    found = [Arm(each, begin, 1, rate, steps) for each in preset.imbalances for begin in ("flat", "sharp")]
    for each in preset.imbalances[1:]:
        found.append(Arm(each, "flat", 1, larger * rate, steps // larger**2))
        found.append(Arm(each, "flat", larger, larger * rate, steps // larger))
    for each in (preset.imbalances[0], preset.imbalances[-1]):
        for name in ("linear", "tanh"):
            found += [Arm(each, "random", 1, rate, steps, name), Arm(each, "random", None, rate, preset.settling, name)]
    return found


def measurements(preset: Preset, cells: Sequence[Cell]) -> Iterator[Task]:
    """Yield for each seed the walks of SGD, and the minima that are known in closed form."""
    problem = {"examples": preset.examples, "cells": preset.cells}
    named = ("hidden", "scale", "walks", "settling", "marks")
    walking = {name: getattr(preset, name) for name in named} | {"arms": [list(each) for each in arms(preset)]}
    for cell in cells:
        yield Task("walks", cell.labels, walks, [cell], problem | walking)
        yield Task("minima", cell.labels, minima, [cell], problem | {"imbalances": list(preset.imbalances)})


STUDY = Study(
    name="label_noise2026",
    title="Flatness and label noise",
    about=__doc__ or "",
    presets=PRESETS,
    cells=one_run_per_seed,
    measurements=measurements,
)

if __name__ == "__main__":
    run_command(lambda: run_study(STUDY))
