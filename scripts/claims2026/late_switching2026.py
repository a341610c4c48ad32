"""The time to switch to large batches: Wang et al. 2026 (arXiv 2602.14208, "Fast Catch-Up, Late Switching"), in small.

A character transformer is trained on as many bytes with small batches, with large ones, and with small ones that become
large after a quarter or after three quarters of the bytes. The paper says that on hard tasks, as language is, the late
switch ends lower than the early one and than either batch alone, because the loss soon after a switch is that of large
batches from the start: fast catch-up. To see that, small batches become large after half of as many *updates* as large
ones make; what is left at the end of the lead that these had at the switch is the number.

The rate stays after a warm-up. Among the ways to use the same bytes each has its own best rate; catch-up is looked at
with the best rate of large batches. Both are chosen on held-out text over the *other* seeds, and judged on test text.

Of the paper the abstract was read, no more. What is ours: the network, the text, the rate that stays, the two places of
the switch, and the ranges of the verdicts; no number of the paper is held against ours.

What to expect, on two CPU cores:

- cpu: about 20 minutes. Of 4 claims 3 are reproduced: the late switch ends lowest (0.07 nats a byte below the early
  one, 0.17 below large batches, whose best rate lies at the edge of those tried). Catch-up is contradicted: half of the
  lead of large batches is left.
- smoke: seconds; its numbers mean nothing.

Every stage skips what is already there, so the same command goes on after a stop of any kind.
"""

from __future__ import annotations

import itertools
import sys
from dataclasses import dataclass, replace
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[2]))  # analysis/ and scripts/ are not installed

from scripts.grids.text_windows import epochs_of, text_run, trial
from scripts.runner.study import Cell, Study, run_study
from sharpness.cli import run_command
from sharpness.config import BatchConfig, BudgetConfig, RunConfig, ScheduleConfig, TrainingConfig

SWITCHES = {"small": 1.0, "large": 0.0, "early": 0.25, "late": 0.75}
"""The share of the bytes that is seen in small batches."""
CATCH_UP, SMALL_BEFORE, LARGE_BEFORE = "catch-up", "small, to the switch", "large, to the switch"


@dataclass(frozen=True)
class Preset:
    """The training, its two batch sizes and its rates."""

    about: str
    seeds: int
    base: RunConfig
    windows: int
    """Windows that each run of :data:`SWITCHES` sees; a multiple of twice the large batch."""
    small: int
    large: int
    rates: tuple[float, ...]
    warmup: int
    """Updates in which the rate grows."""


BASE = text_run(TrainingConfig(optimizer="adamw", epochs=0, beta2=0.95, weight_decay=0.1, clip_norm=1.0))

PRESETS = {
    "cpu": Preset(
        "Half a megabyte of kjv, seen twice in batches of 4 or 32 windows, 3 rates, 8 seeds, about 20 "
        "minutes on 2 cores.",
        seeds=8,
        base=BASE,
        windows=16_384,
        small=4,
        large=32,
        rates=(2e-3, 4e-3, 8e-3),
        warmup=25,
    ),
    "smoke": Preset(
        "A trial, to see that everything works.",
        seeds=2,
        base=trial(BASE, 32),
        windows=32,
        small=4,
        large=16,
        rates=(0.01,),
        warmup=1,
    ),
}


def cells_of(preset: Preset, seeds: int) -> list[Cell]:
    """Return a run for each way to use the batch sizes, rate and seed."""
    found = []
    for (place, rate), seed in itertools.product(enumerate(preset.rates), range(seeds)):
        runs = {name: equal_bytes(preset, share, rate, seed) for name, share in SWITCHES.items()}
        runs |= equal_updates(preset, rate, seed)
        found += [Cell({"arm": arm, "place": place, "seed": seed}, config) for arm, config in runs.items()]
    return found


def equal_bytes(preset: Preset, share: float, rate: float, seed: int) -> RunConfig:
    """Return a run over all windows, a share of them in small batches first."""
    budget, at = BudgetConfig(examples=preset.windows), share * preset.windows
    if share in (0.0, 1.0):
        return run_of(preset, preset.large if share == 0 else preset.small, rate, seed, budget)
    return run_of(preset, preset.small, rate, seed, budget, switch=at)


def equal_updates(preset: Preset, rate: float, seed: int) -> dict[str, RunConfig]:
    """Return a run that makes as many updates as large batches do, half of them in small ones, and both to that half.

    Large batches to the end are among the runs over all windows.
    """
    updates = preset.windows // preset.large
    half = BudgetConfig(updates=updates // 2)
    at = updates // 2 * preset.small
    return {
        CATCH_UP: run_of(preset, preset.small, rate, seed, BudgetConfig(updates=updates), switch=at),
        SMALL_BEFORE: run_of(preset, preset.small, rate, seed, half),
        LARGE_BEFORE: run_of(preset, preset.large, rate, seed, half),
    }


def run_of(
    preset: Preset, size: int, rate: float, seed: int, budget: BudgetConfig, switch: float | None = None
) -> RunConfig:
    """Return a run that begins with one batch size, and after ``switch`` windows goes on with the large one."""
    window = epochs_of(preset.base, 1)
    batch = BatchConfig()
    if switch is not None:
        batch = BatchConfig("steps", milestones=(switch * window,), factor=preset.large / preset.small)
    return replace(
        preset.base,
        training=replace(preset.base.training, learning_rate=rate, batch_size=size, seed=seed),
        schedule=ScheduleConfig(warmup=preset.warmup * size * window),
        batch=batch,
        budget=budget,
    )


STUDY = Study(
    name="late_switching2026",
    title="Late switching: Wang et al. 2026",
    about=__doc__ or "",
    presets=PRESETS,
    cells=cells_of,
)

if __name__ == "__main__":
    run_command(lambda: run_study(STUDY))
