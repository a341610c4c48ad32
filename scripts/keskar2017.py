"""Small batch against large batch: Keskar et al. 2017 (arXiv 1609.04836) in small.

Trains pairs of networks that differ in the batch size alone, measures how sharp their minima are and what lies between
them, and renders the figures and the table. Every stage skips what is already there, so the same command goes on
after a stop of any kind.
"""

from __future__ import annotations

import sys
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
sys.path[:0] = [str(ROOT), str(ROOT / "scripts")]  # analysis/ and study.py are not part of the installed package

from study import Cell, Measurement, Study, run_study

from sharpness.cli import run_command
from sharpness.config import DataConfig, ModelConfig, RunConfig, TrainingConfig
from sharpness.probes import DistanceFromStart, Interpolation, KeskarSharpness, PyHessianCheck, TopEigenvalues


@dataclass(frozen=True)
class Preset:
    """The run that all cells share, and the two batch sizes."""

    about: str
    base: RunConfig
    small_batch: int
    large_batch: int
    seeds: int
    check_examples: int
    interpolation: Interpolation


PRESETS = {
    # The authors' F1 and optimiser on a sixth of Fashion-MNIST; the large batch is 10 % of the data, as in the paper.
    "cpu": Preset(
        "10,000 Fashion-MNIST images, batches 64 and 1000, 2 seeds, 4 minutes.",
        *(RunConfig(), 64, 1000, 2, 2000, Interpolation()),
    ),
    # F1 on MNIST with the paper's batch sizes and number of trials; trained for 100 epochs where the paper trains until
    # the loss ceases to improve. Needs the MNIST files and, to finish in an hour, a GPU. It has not been run.
    "paper": Preset(
        "MNIST, batches 256 and 6000, 5 seeds, for a GPU; never run.",
        RunConfig(
            data=DataConfig(name="mnist", evaluation_batch_size=6000),
            model=ModelConfig(name="f1"),
            training=TrainingConfig(epochs=100),
        ),
        *(256, 6000, 5, 2000),
        Interpolation(),
    ),
    # A minute's worth, to see that everything works; its numbers mean nothing.
    "smoke": Preset(
        "A trial, to see that everything works.",
        RunConfig(
            data=DataConfig(num_train=600, num_test=400, evaluation_batch_size=300),
            model=ModelConfig(name="f1_narrow"),
            training=TrainingConfig(epochs=2),
        ),
        *(50, 300, 2, 200),
        Interpolation(num_points=7),
    ),
}


def cells_of(preset: Preset, seeds: int) -> list[Cell]:
    """Return the cells of the study, small batches first because they take longest."""
    cells = []
    for role, batch_size in (("SB", preset.small_batch), ("LB", preset.large_batch)):
        for seed in range(seeds):
            training = replace(preset.base.training, batch_size=batch_size, seed=seed)
            cells.append(Cell({"role": role, "seed": seed}, replace(preset.base, training=training)))
    return cells


def measurements(preset: Preset, cells: Sequence[Cell]) -> Iterator[Measurement]:
    """Yield what the study measures on the cells that finished."""
    large = {cell.labels["seed"]: cell for cell in cells if cell.labels["role"] == "LB"}
    for cell in cells:
        yield Measurement(f"eigenvalue, {cell.name}", cell, {"eigenvalues": TopEigenvalues()})
    for cell in cells:
        probes = {"keskar": KeskarSharpness(), "distance": DistanceFromStart()}
        yield Measurement(f"Keskar sharpness, {cell.name}", cell, probes)
    for cell in cells:
        seed = cell.labels["seed"]
        if cell.labels["role"] == "SB" and seed in large:
            probes = {"interpolation": preset.interpolation}
            yield Measurement(f"line SB to LB, seed {seed}", cell, probes, other=large[seed])
    for cell in cells:
        if cell.labels["seed"] == 0:
            probes = {"pyhessian": PyHessianCheck()}
            yield Measurement(f"PyHessian check, {cell.name}", cell, probes, num_examples=preset.check_examples)


STUDY = Study(
    name="keskar2017",
    title="Keskar et al. 2017",
    about=__doc__ or "",
    presets=PRESETS,
    cells=cells_of,
    measurements=measurements,
    analysis="analysis.keskar2017.pairs",
)

if __name__ == "__main__":
    run_command(lambda: run_study(STUDY))
