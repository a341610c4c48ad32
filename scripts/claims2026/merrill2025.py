"""The critical batch of a language model along its training: Merrill et al. 2025 (arXiv 2505.23971), in small.

A character transformer is trained in small batches. From checkpoints along the way branches go on over as many bytes
with k times the batch and the root of k times the rate; the critical batch is that of the largest k whose loss in the
end is at most 0.01 nats above that of every smaller one. Beside it stands the gradient noise scale at the checkpoint,
plain and in the geometry of Adam's own state. Tested: the critical batch begins small, grows and levels off; the noise
scale is far below it, with the same trend or not; and a warm-up of the batch, doubled where the critical batch is more
than twice as large and its rate times the root of 2, ends at the loss of small batches in fewer updates, while the
batch that it comes to, taken from the start, ends higher.

The abstract was read; the rule, its tolerance and the smoothing are from summaries of the paper's text, not from the
text itself. "Orders of magnitude" is the one size of the paper's that is held against ours. What is ours, or was not to
be found there:

- Branches are compared by their loss on held-out text, a mean over two orders of the text. The smoothed loss of their
  last batches, which the paper takes, is a variant: at a few windows a batch it is the loss of different text.
- Adam's betas (0.9 and 0.95 an update) stay as they are whatever the batch; branches begin from the state that was
  kept, and their rate from the first update on is the scaled one.
- The rate stays after a warm-up of 64 updates. A pilot of one other seed tried one on either side of it, relative to
  the root of the batch. A rate too large for small batches makes large ones look good, and one too small makes them
  look bad: the critical batch is that of this rate, and in the pilot it moved by a factor of 4 with the rate.
- Batches are multiples of the first by powers of 2, so that a critical batch is known to one factor of 2 at best. At
  the smallest it may be smaller yet, and where the largest branch is as good as all others it is open above; both make
  growth look smaller than it is.
- The warm-up doubles at the same places for all seeds, those of the pilot, as the paper's were chosen by hand from
  measurements before; whether its rule holds there is printed.

What to expect, on two CPU cores:

- cpu: about 18 minutes, and 0.1 GB of disk. Of 6 claims 3 are reproduced, 2 are inconclusive, and one is not testable
  here. The critical batch grows eleven times, from 6 to 64 windows, and may lie beyond the batches tried in the end; it
  goes with the plain noise scale, which is no orders of magnitude below it but about as large. A batch that doubles
  with it ends at the loss of small batches in 45 % fewer updates. That large batches from the start end higher is not
  resolved.
- smoke: seconds; its numbers mean nothing.
- paper: for a GPU; never run. The network and the text are the largest that this package has, not the paper's.

Every stage skips what is already there, so the same command goes on after a stop of any kind.
"""

from __future__ import annotations

import sys
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[2]))  # analysis/ and scripts/ are not installed

from scripts.grids.text_windows import epochs_of, text_run, trial
from scripts.measures.merrill2025 import branches, noise
from scripts.runner.study import Cell, Study, Task, run_study
from sharpness.cli import run_command
from sharpness.config import (
    BatchConfig,
    BudgetConfig,
    DataConfig,
    MeasureConfig,
    ModelConfig,
    RunConfig,
    ScheduleConfig,
    TrainingConfig,
)

ARMS = ("small", "warm-up", "large")
"""The ways to train on the same bytes; along ``small`` the critical batch and the noise scale are measured."""


@dataclass(frozen=True)
class Preset:
    """The training in small batches, where it is looked at and with which branches, and where its batch may double."""

    about: str
    seeds: int
    base: RunConfig
    windows: int
    """Windows that each run sees, whatever its batches."""
    warmup: int
    """Updates in which the rate grows."""
    checkpoints: tuple[int, ...]
    """Windows after which branches begin, multiples of the first."""
    factors: tuple[int, ...]
    """The batches of branches over that of the run."""
    window: int
    """Windows that each branch sees."""
    orders: int
    """Branches of each batch, with other windows in another order."""
    doublings: tuple[int, ...]
    """Windows after which the batch of the warm-up doubles, and its rate grows by the root of 2."""
    tolerance: float = 0.01
    """Nats by which a larger batch may be worse: the paper's epsilon."""
    other_tolerances: tuple[float, ...] = (0.005, 0.02)


BASE = text_run(
    TrainingConfig(
        optimizer="adamw", learning_rate=2e-3, batch_size=4, epochs=0, beta2=0.95, weight_decay=0.1, clip_norm=1.0
    )
)

PRESETS = {
    "cpu": Preset(
        "Two megabytes of kjv, half of them seen once in batches of 4 windows; branches of 4 to 128 windows from 7 "
        "checkpoints, 2 orders, 5 seeds, 18 minutes on 2 cores.",
        seeds=5,
        base=replace(BASE, data=replace(BASE.data, num_train=32_768 + 1024, num_validation=1024)),
        windows=16_384,
        warmup=64,
        checkpoints=(256, 512, 1024, 2048, 4096, 8192, 16_384),
        factors=(1, 2, 4, 8, 16, 32),
        window=6400,
        orders=2,
        doublings=(5120, 9216),
    ),
    "smoke": Preset(
        "A trial, to see that everything works.",
        seeds=2,
        base=trial(replace(BASE, training=replace(BASE.training, batch_size=2)), 32),
        windows=32,
        warmup=2,
        checkpoints=(8, 16, 32),
        factors=(1, 2),
        window=32,
        orders=1,
        doublings=(8, 16),
    ),
    "paper": Preset(
        "All of kjv in windows of 256 bytes, char_transformer_wide, four passes; for a GPU, never run. Neither network "
        "nor text is the paper's.",
        seeds=5,
        base=RunConfig(
            DataConfig(
                name="kjv",
                context=256,
                num_train=8192 + 512,
                num_validation=512,
                num_test=512,
                evaluation_batch_size=256,
            ),
            ModelConfig("char_transformer_wide", "layer"),
            replace(BASE.training, learning_rate=5e-4, batch_size=8),
            measure=MeasureConfig(test_every=100.0),
        ),
        windows=32_768,
        warmup=100,
        checkpoints=(512, 1024, 2048, 4096, 8192, 16_384, 32_768),
        factors=(1, 2, 4, 8, 16, 32, 64),
        window=25_600,
        orders=3,
        doublings=(8192, 16_384),
    ),
}


def cells_of(preset: Preset, seeds: int) -> list[Cell]:
    """Return the three ways to train, for each seed."""
    return [Cell({"arm": arm, "seed": seed}, config_of(preset, arm, seed)) for seed in range(seeds) for arm in ARMS]


def config_of(preset: Preset, arm: str, seed: int) -> RunConfig:
    """Return one run: the rate grows, and then goes with the root of the batch; ``small`` keeps its checkpoints."""
    growth = 2 ** len(preset.doublings) if arm == "large" else 1
    base, window = preset.base.training, epochs_of(preset.base, 1)
    size = growth * base.batch_size
    rate, batch, measure = ScheduleConfig(warmup=preset.warmup * size * window), BatchConfig(), preset.base.measure
    if arm == "warm-up":
        milestones = tuple(at * window for at in preset.doublings)
        rate = replace(rate, kind="steps", milestones=milestones, factor=2**0.5)
        batch = BatchConfig("steps", milestones=milestones, factor=2.0)
    if arm == "small":
        measure = replace(measure, keep_every=preset.checkpoints[0] * window, keep_optimizer=True)
    training = replace(base, learning_rate=growth**0.5 * base.learning_rate, batch_size=size, seed=seed)
    budget = BudgetConfig(examples=preset.windows)
    return replace(preset.base, training=training, schedule=rate, batch=batch, budget=budget, measure=measure)


def measurements(preset: Preset, cells: Sequence[Cell]) -> Iterator[Task]:
    """Yield the branches from each checkpoint of the runs in small batches, and the noise scale at all of them."""
    steps = [at // preset.base.training.batch_size for at in preset.checkpoints]
    knobs = {"factors": list(preset.factors), "window": preset.window, "orders": preset.orders}
    knobs |= {"tolerances": [preset.tolerance, *preset.other_tolerances]}
    for cell in cells:
        if cell.labels["arm"] == "small":
            labels = {"seed": cell.labels["seed"]}
            for step in steps:
                yield Task("branches", labels, branches, [cell], {"step": step, **knobs})
            yield Task("noise", labels, noise, [cell], {"steps": steps})


STUDY = Study(
    name="merrill2025",
    title="Merrill et al. 2025",
    about=__doc__ or "",
    presets=PRESETS,
    cells=cells_of,
    measurements=measurements,
)

if __name__ == "__main__":
    run_command(lambda: run_study(STUDY))
