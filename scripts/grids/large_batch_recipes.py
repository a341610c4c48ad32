"""The recipes of `large_batch_recipes.py`: from the run of the base batch to that of a larger one."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace

from analysis.large_batch_recipes.allreduce import Cluster
from sharpness.config import RunConfig


@dataclass(frozen=True)
class Preset:
    """The run of the base batch and how it is changed by each recipe; batches are multiples or parts of its own."""

    about: str
    base: RunConfig
    """The base batch with the learning rate that was best for it, decayed in steps."""
    batches: tuple[int, ...]
    """Growing batches for all recipes."""
    claim_batch: int
    """The one of them at which the recipes are judged against each other."""
    longest: int
    """The largest batch with as many updates as the base makes: its run sees batch / base times as many examples."""
    small_batches: tuple[int, ...]
    """Batches below the base, by the linear rule."""
    warmup: float
    """Epochs."""
    lars_rate: float
    """Global rate of LARS at the base batch; it grows in proportion to the batch."""
    clip_norm: float
    """The largest length of a gradient in the recipes of Hoffer et al., whose code has 5."""
    goal_error: float
    """Error on the test examples to which steps are counted."""
    parameters: int
    """The number of the network's parameters, for the bytes that are sent."""
    cluster: Cluster
    """The workers that the time to the goal is projected on."""
    chance: float
    """Error of a guess, which a diverged run counts as."""
    seeds: int


def multiplied(config: RunConfig, batch: int, rule: str) -> RunConfig:
    """Return the base run with another batch and its rate scaled by a rule: ``none``, ``linear`` or ``sqrt``."""
    base = config.training.batch_size
    schedule = replace(config.schedule, scaling=rule, base_batch=base)
    return replace(config, training=replace(config.training, batch_size=batch), schedule=schedule)


def warmed(preset: Preset, config: RunConfig) -> RunConfig:
    """Return a run whose rate first grows from that of the base batch (Goyal et al. 2017, section 2.2)."""
    start = preset.base.training.batch_size / config.training.batch_size
    return replace(config, schedule=replace(config.schedule, warmup=preset.warmup, warmup_from=start))


def clipped(preset: Preset, config: RunConfig) -> RunConfig:
    """Return a run with long gradients cut down, as the authors' code of Hoffer et al. does."""
    return replace(config, training=replace(config.training, clip_norm=preset.clip_norm))


def ghosted(preset: Preset, config: RunConfig) -> RunConfig:
    """Return a run whose batch statistics are those of as many examples as the base batch has (Hoffer et al.)."""
    return replace(config, model=replace(config.model, ghost_batch=preset.base.training.batch_size))


def lengthened(preset: Preset, config: RunConfig) -> RunConfig:
    """Return a run with as many updates between the drops of the rate as the base batch makes (Hoffer et al.)."""
    times = config.training.batch_size // preset.base.training.batch_size
    training = replace(config.training, epochs=times * config.training.epochs)
    milestones = tuple(times * epoch for epoch in config.schedule.milestones)
    return replace(config, training=training, schedule=replace(config.schedule, milestones=milestones))


def lars(preset: Preset, batch: int, rule: str) -> RunConfig:
    """Return a run of LARS with its rate scaled by a rule, warm-up, and decay by the square (You et al.).

    The authors' own rates for each batch size are not known here, so both rules are run.
    """
    config = multiplied(preset.base, batch, rule)
    training = replace(config.training, optimizer="lars", learning_rate=preset.lars_rate)
    start = preset.base.training.batch_size / batch
    schedule = replace(config.schedule, kind="polynomial", power=2.0, milestones=(), warmup=preset.warmup)
    return replace(config, training=training, schedule=replace(schedule, warmup_from=start))


RECIPES: Mapping[str, Callable[[Preset, int], RunConfig]] = {
    "fixed rate": lambda p, batch: multiplied(p.base, batch, "none"),
    "linear": lambda p, batch: multiplied(p.base, batch, "linear"),
    "linear + warm-up": lambda p, batch: warmed(p, multiplied(p.base, batch, "linear")),
    "LARS, linear": lambda p, batch: lars(p, batch, "linear"),
    "LARS, sqrt": lambda p, batch: lars(p, batch, "sqrt"),
    "sqrt": lambda p, batch: clipped(p, multiplied(p.base, batch, "sqrt")),
    "sqrt + ghost": lambda p, batch: ghosted(p, clipped(p, multiplied(p.base, batch, "sqrt"))),
    "sqrt + ghost + longer": lambda p, batch: lengthened(p, ghosted(p, clipped(p, multiplied(p.base, batch, "sqrt")))),
}
"""The run of each recipe at a batch above the base."""
