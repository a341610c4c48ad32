"""The gradient noise scale and the critical batch size: McCandlish et al. 2018 (arXiv 1812.06162) in small.

Claims tested: the noise scale grows while the network is trained to a low loss, and at equal loss with the difficulty
of the task, but not with the size of the data set or of the network; it predicts the best step and the fall of the loss
that a batch size brings, and where both saturate; a step beyond twice the best one raises the loss; steps and examples
to a training loss lie on a hyperbola, whose critical batch size the noise scale predicts; the noise scale goes as batch
size over learning rate. Beside it stands the critical batch size measured by branches from common starts, each batch
size at its own best learning rate (Merrill et al. 2025, arXiv 2505.23971).

What to expect:

- cpu: about 20 minutes of one CPU core, or 10 of two. Of 20 claims 16 are reproduced, 2 in sign only, 1 is
  inconclusive, 1 contradicted. The settings of the run to a low loss, of line searches and of branches were chosen on
  seeds 100 and 101 and changed for the branches once more (a deeper target) when those of seed 0 were known.
- smoke: seconds; its numbers mean nothing.
- paper: for a GPU; never run.

Every stage skips what is already there, so the same command goes on after a stop of any kind.
"""

from __future__ import annotations

import math
import sys
from collections.abc import Iterator, Sequence
from dataclasses import replace
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))  # analysis/ and scripts/ are not installed

from scripts.grids.mccandlish2018 import PRESETS, Preset
from scripts.measures.mccandlish2018 import line_search, noise_scales
from scripts.measures.mccandlish2018_branches import branches, two_classes
from scripts.runner.study import Cell, Measurement, Study, Task, run_study
from sharpness.cli import run_command
from sharpness.config import BudgetConfig, MeasureConfig, RunConfig
from sharpness.data import DATASETS


def cells_of(preset: Preset, seeds: int) -> list[Cell]:
    """Return the runs: along which noise is measured, those cooled from their ends, of the front, and at equal loss."""
    cells = []
    for seed in range(seeds):
        along = _at_rate(preset, preset.along, preset.along_share, seed)
        base = Cell({"arm": "base", "seed": seed}, _at_rate(preset, preset.base, 1.0, seed))
        cells += [Cell({"arm": "along", "seed": seed}, along), base, *_cooled(preset, base)]
        cells += [*_front(preset, seed), *_equal_loss(preset, base.config)]
    return sorted(cells, key=lambda cell: cell.wave)


def _at_rate(preset: Preset, config: RunConfig, share: float, seed: int) -> RunConfig:
    """Return a run of one seed at a share of the central learning rate of its batch size."""
    rate = share * preset.rate(config.training.batch_size)
    return replace(config, training=replace(config.training, learning_rate=rate, seed=seed))


def _cooled(preset: Preset, base: Cell) -> Iterator[Cell]:
    """Yield runs that go on from the end of another at other temperatures: the rate over k, or k times the batch."""
    config, training = base.config, base.config.training
    num_train = config.data.num_train or DATASETS[config.data.name].num_train
    end = training.epochs * math.ceil(num_train / training.batch_size)
    start = replace(training, start=f"{config.run_id}/checkpoint-{end}.safetensors", epochs=preset.cooling_epochs)
    for k in preset.coolings:
        changes = {"rate": replace(start, learning_rate=training.learning_rate / k)}
        changes["batch"] = replace(start, batch_size=round(training.batch_size * k))
        if k == 1:
            changes = {"none": start}
        for knob, changed in changes.items():
            labels = {"arm": "cooled", "knob": knob, "factor": k, "seed": training.seed}
            yield Cell(labels, replace(config, training=changed, measure=MeasureConfig(keep_every=0.25)), after=base)


def _front(preset: Preset, seed: int) -> Iterator[Cell]:
    """Yield the runs of one seed to the goal, at every batch size and learning rate."""
    for size in preset.batches:
        for factor in preset.factors:
            rate = factor * preset.rate(size)
            training = replace(preset.base.training, batch_size=size, learning_rate=rate, seed=seed, epochs=0)
            config = replace(preset.base, training=training, measure=MeasureConfig(), budget=preset.budget(size))
            yield Cell({"arm": "front", "size": size, "factor": factor, "seed": seed}, config)


def _equal_loss(preset: Preset, base: RunConfig) -> Iterator[Cell]:
    """Yield runs on data sets and with networks of different sizes, whose checkpoints near the goal are compared."""
    batch_size = preset.calm * base.training.batch_size
    training = replace(base.training, batch_size=batch_size, epochs=0)
    config = replace(base, training=training, budget=BudgetConfig(updates=preset.equal_updates))

    def cell(arm: str, case: str, config: RunConfig) -> Cell:
        num_train = config.data.num_train or DATASETS[config.data.name].num_train
        measure = MeasureConfig(keep_every=preset.equal_keep * batch_size / num_train)
        return Cell({"arm": arm, "case": case, "seed": training.seed}, replace(config, measure=measure))

    for size in preset.data_sizes:
        yield cell("data", str(size), replace(config, data=replace(config.data, num_train=size)))
    for name in preset.widths:
        yield cell("width", name, replace(config, model=replace(config.model, name=name)))


def measurements(preset: Preset, cells: Sequence[Cell]) -> Iterator[Measurement | Task]:
    """Yield what the study measures on the cells that finished."""
    for cell in cells:
        labels = cell.labels
        if labels["arm"] == "along":
            for epoch in preset.search_epochs:
                yield Task("line_search", labels, line_search, [cell], {"epoch": epoch, **preset.search})
            for epoch in preset.branch_epochs:
                yield Task("branches", labels, branches, [cell], {"epoch": epoch, **preset.branch_knobs()})
            for task, classes in preset.tasks.items():
                knobs = {"classes": list(classes), **preset.task}
                yield Task("two_classes", {**labels, "task": task}, two_classes, [cell], knobs)
        if labels["arm"] in preset.noise:
            yield Task("noise", labels, noise_scales, [cell], preset.noise[labels["arm"]])


STUDY = Study(
    name="mccandlish2018",
    title="McCandlish et al. 2018",
    about=__doc__ or "",
    presets=PRESETS,
    cells=cells_of,
    measurements=measurements,
)

if __name__ == "__main__":
    run_command(lambda: run_study(STUDY))
