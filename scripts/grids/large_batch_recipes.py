"""The recipes of `large_batch_recipes.py`: from the run of the base batch to that of a larger one."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace

from analysis.large_batch_recipes.allreduce import Cluster
from sharpness.config import RunConfig

Values = Mapping[int, tuple[float, ...]]
"""What is tried at each batch: learning rates, and of LARS trust coefficients."""


@dataclass(frozen=True)
class Preset:
    """The run of the base batch, how it is changed by each recipe, and what is tried at each batch."""

    about: str
    base: RunConfig
    """The base batch without norms, decayed in steps; its learning rate is 1, for which each one tried stands."""
    norm_base: RunConfig
    """The same with BatchNorm, for the recipes of Hoffer et al., with data and a base batch of its own."""
    cells: int
    """Images are cut into cells x cells parts, whose mean brightness are the inputs."""
    sweeps: Mapping[str, Values]
    """The values tried of each recipe; the base batches and smaller ones are among those of the first of each."""
    claim_batch: int
    """The batch at which recipes are to keep the error, without norms."""
    norm_batch: int
    """The same for the network with BatchNorm."""
    warmup: float
    """Epochs."""
    lars_rate: float
    """The global rate of LARS at every batch, which biases have as well; the trust coefficient is what is tuned."""
    tuning_seeds: tuple[int, ...]
    """Seeds whose held-out errors choose the values; no other number is taken of them."""
    goal_error: float
    """Held-out error to which steps are counted."""
    cluster: Cluster
    """The workers that the time to the goal is projected on."""
    parameters: int
    """The number of the network's parameters, for the bytes that are sent."""
    seeds: int


def powers(lowest: int, highest: int) -> tuple[float, ...]:
    """Return the powers of two between two exponents, so that both rules lead from one value tried to another.

    >>> powers(-2, 0)
    (0.25, 0.5, 1.0)
    """
    return tuple(2.0**exponent for exponent in range(lowest, highest + 1))


def plain(preset: Preset, batch: int) -> RunConfig:
    """Return the base run with another batch."""
    return replace(preset.base, training=replace(preset.base.training, batch_size=batch))


def warmed(preset: Preset, batch: int) -> RunConfig:
    """Return a run whose rate first grows from its base / batch (Goyal et al. 2017, section 2.2)."""
    config = plain(preset, batch)
    start = preset.base.training.batch_size / batch
    return replace(config, schedule=replace(config.schedule, warmup=preset.warmup, warmup_from=start))


def lars(preset: Preset, batch: int) -> RunConfig:
    """Return a run of LARS with warm-up and decay by the square (You et al. 2017)."""
    config = warmed(preset, batch)
    training = replace(config.training, optimizer="lars", learning_rate=preset.lars_rate)
    schedule = replace(config.schedule, kind="polynomial", power=2.0, milestones=())
    return replace(config, training=training, schedule=schedule)


def normed(preset: Preset, batch: int) -> RunConfig:
    """Return the base run of Hoffer et al. 2017 with another batch; batch statistics are those of all of it."""
    return replace(preset.norm_base, training=replace(preset.norm_base.training, batch_size=batch))


def ghosted(preset: Preset, batch: int) -> RunConfig:
    """Return a run whose batch statistics are those of as many examples as the base batch has (Hoffer et al. 2017)."""
    config = normed(preset, batch)
    return replace(config, model=replace(config.model, ghost_batch=preset.norm_base.training.batch_size))


def lengthened(preset: Preset, batch: int) -> RunConfig:
    """Return a run with ghosts and as many updates between the drops of the rate as the base makes (Hoffer et al.)."""
    config, times = ghosted(preset, batch), batch // preset.norm_base.training.batch_size
    training = replace(config.training, epochs=times * config.training.epochs)
    milestones = tuple(times * epoch for epoch in config.schedule.milestones)
    return replace(config, training=training, schedule=replace(config.schedule, milestones=milestones))


RECIPES: Mapping[str, Callable[[Preset, int], RunConfig]] = {
    "plain": plain,
    "warm-up": warmed,
    "LARS": lars,
    "BatchNorm": normed,
    "ghosts": ghosted,
    "ghosts, longer": lengthened,
}
"""The run of each recipe at a batch; its rate is none of its own, as the rules are compared with the tuned one."""
UNTUNED = ("ghosts, longer",)
"""Recipes of the rule's rate alone: as many updates as the base makes are too many to tune it."""
