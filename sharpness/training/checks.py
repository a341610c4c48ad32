"""Checks of a run before it trains: what cannot be trained is refused with one line, before anything is written."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping

import torch

from sharpness.config import RunConfig
from sharpness.data import DATASETS, check_context
from sharpness.errors import InputError, unknown_name
from sharpness.machine.distributed import num_ranks
from sharpness.models import BATCH_NORMS, check_model
from sharpness.runs.networks import CRITERIA
from sharpness.training import schedules
from sharpness.training.measures import MEASURES
from sharpness.training.optimizers import OPTIMIZERS, WITH_SECOND_MOMENT
from sharpness.training.tracker import QUANTITIES

Bound = tuple[str, Callable[[float], bool]]
AT_LEAST_ONE: Bound = ("{} of at least 1", lambda value: value >= 1)
AT_LEAST_ZERO: Bound = ("{} of at least 0", lambda value: value >= 0 and math.isfinite(value))
POSITIVE: Bound = ("a positive {}", lambda value: value > 0 and math.isfinite(value))
SHARE: Bound = ("{} from 0 to below 1", lambda value: 0 <= value < 1)
UPPER_SHARE: Bound = ("{} above 0 and up to 1", lambda value: 0 < value <= 1)
PROBABILITY: Bound = ("{} from 0 to 1", lambda value: 0 <= value <= 1)
SEED: Bound = ("a {} from 0 to 2^63 - 1", lambda value: 0 <= value < 2**63)
BOUNDS: Mapping[str, Bound] = {
    "data.num_train": AT_LEAST_ONE,
    "data.num_test": AT_LEAST_ONE,
    "data.num_validation": AT_LEAST_ZERO,
    "data.label_noise": PROBABILITY,
    "data.evaluation_batch_size": AT_LEAST_ONE,
    "data.crop_padding": AT_LEAST_ZERO,
    "training.learning_rate": POSITIVE,
    "training.batch_size": AT_LEAST_ONE,
    "training.epochs": AT_LEAST_ZERO,
    "training.seed": SEED,
    "training.momentum": SHARE,
    "training.beta1": SHARE,
    "training.beta2": SHARE,
    "training.beta2_half_life": POSITIVE,
    "training.weight_decay": AT_LEAST_ZERO,
    "training.trust": POSITIVE,
    "training.clip_norm": POSITIVE,
    "training.label_smoothing": SHARE,
    "training.accumulate": AT_LEAST_ONE,
    "training.sam_rho": POSITIVE,
    "training.proximal": POSITIVE,
    "training.proximal_steps": AT_LEAST_ONE,
    "schedule.final": AT_LEAST_ZERO,
    "schedule.decay": UPPER_SHARE,
    "schedule.cycle": POSITIVE,
    "schedule.warmup": AT_LEAST_ZERO,
    "schedule.warmup_from": AT_LEAST_ZERO,
    "schedule.base_batch": AT_LEAST_ONE,
    "batch.factor": POSITIVE,
    "batch.largest": AT_LEAST_ONE,
    "batch.ratio": POSITIVE,
    "batch.every": POSITIVE,
    "average.start": AT_LEAST_ZERO,
    "average.every": POSITIVE,
    "average.decay": SHARE,
    "budget.updates": AT_LEAST_ONE,
    "budget.examples": AT_LEAST_ONE,
    "budget.check_every": AT_LEAST_ZERO,
    "budget.patience": AT_LEAST_ONE,
    "measure.every": POSITIVE,
    "measure.examples": AT_LEAST_ZERO,
    "measure.keep_every": AT_LEAST_ZERO,
    "measure.test_every": POSITIVE,
    "measure.overhead": PROBABILITY,
}
"""The numbers that a field may have; those that are ``None`` are left out."""


def check_config(config: RunConfig) -> None:
    """Raise :class:`InputError` for a config that cannot be trained."""
    if config.data.name not in DATASETS:
        raise unknown_name("dataset", config.data.name, DATASETS)
    check_context(config.data.name, config.data.context)
    check_model(config.model)
    if config.training.optimizer not in OPTIMIZERS:
        raise unknown_name("optimizer", config.training.optimizer, OPTIMIZERS)
    if config.training.loss not in CRITERIA:
        raise unknown_name("loss", config.training.loss, CRITERIA)
    for name in config.measure.names:
        if name not in MEASURES:
            raise unknown_name("measure", name, MEASURES)
    _check_numbers(config)
    _check_tracker(config)
    _check_budgets(config)
    _check_combinations(config)
    _check_text(config)
    _check_sizes(config)


def examples_of(config: RunConfig) -> tuple[int, int, int]:
    """Return how many training, held-out and test examples a config leaves."""
    data = config.data
    num_train, num_test = DATASETS[data.name].num_examples(data.context)
    examples = min(data.num_train or num_train, num_train)
    return examples - data.num_validation, data.num_validation, min(data.num_test or num_test, num_test)


def _check_numbers(config: RunConfig) -> None:
    for name, (wanted, holds) in BOUNDS.items():
        section, key = name.split(".")
        value = getattr(getattr(config, section), key)
        if value is not None and not holds(value):
            shown = key if section in ("data", "training") else name
            raise InputError(f"expected {wanted.format(shown)}, got {value}: correct it in the config")


def _check_tracker(config: RunConfig) -> None:
    measure, training = config.measure, config.training
    if measure.quantities and not measure.overhead:
        raise InputError("expected measure.overhead above 0 with measure.quantities, got 0: 0.05 is a twentieth")
    for name in measure.quantities:
        if name not in QUANTITIES:
            raise unknown_name("quantity", name, QUANTITIES)
    if "preconditioned_sharpness" in measure.quantities and training.optimizer not in ("adam", "adamw"):
        raise InputError(
            f"expected adam or adamw for preconditioned_sharpness, got {training.optimizer}: leave that quantity out"
        )
    if measure.overhead and (training.sam_rho is not None or training.proximal is not None):
        raise InputError(
            "expected measure.overhead without sam_rho and proximal, whose steps are not the optimiser's: use "
            "measure.names"
        )


def _check_budgets(config: RunConfig) -> None:
    if not config.training.epochs and config.budget.updates is None and config.budget.examples is None:
        raise InputError("expected epochs, or updates or examples under [budget], got no bound: patience alone is none")


def _check_combinations(config: RunConfig) -> None:
    """Refuse what contradicts itself, or would quietly do something else."""
    training, model = config.training, config.model
    own_statistics = model.norm == "batch" or (model.norm == "running" and model.ghost_batch is None)
    if training.accumulate > 1 and own_statistics:
        raise InputError(
            f"expected accumulate = 1 with norm = {model.norm!r}, got {training.accumulate}: pieces would have batch "
            "statistics of their own; use norm = 'none', or running with ghost_batch"
        )
    if training.loss != "cross_entropy" and training.label_smoothing:
        raise InputError(
            f"expected label_smoothing with the loss cross_entropy alone, got {training.label_smoothing:g} with "
            f"{training.loss}: leave one of them out"
        )
    if training.proximal is not None and training.sam_rho is not None:
        raise InputError("expected sam_rho or proximal, got both: they change the gradient in two ways")
    if training.beta2_half_life is not None and training.optimizer not in WITH_SECOND_MOMENT:
        raise InputError(
            f"expected one of {', '.join(WITH_SECOND_MOMENT)} with beta2_half_life, got {training.optimizer}: leave "
            "one of them out"
        )
    if config.average.horizons and (config.average.kind != "ema" or min(config.average.horizons) < 1):
        raise InputError(
            f"expected average.kind = 'ema' and average.horizons of at least 1 update, got {config.average.kind!r} "
            f"and {list(config.average.horizons)}: correct it in the config"
        )
    if config.schedule.milestones and config.schedule.kind != "steps":
        raise InputError(f"expected schedule.kind = 'steps' with milestones, got {config.schedule.kind!r}")
    if config.batch.milestones and config.batch.kind != "steps":
        raise InputError(f"expected batch.kind = 'steps' with milestones, got {config.batch.kind!r}")
    if config.batch.kind == "noise_scale" and "noise_scale" not in config.measure.names:
        raise InputError("expected measure.names with noise_scale for batch.kind = 'noise_scale', got none: add it")
    if config.batch.kind == "noise_scale" and config.budget.updates is not None and not training.epochs:
        raise InputError("expected epochs with batch.kind = 'noise_scale', got updates alone: decays need their length")


def _check_text(config: RunConfig) -> None:
    """Refuse what a text has no meaning for."""
    data = config.data
    if not DATASETS[data.name].text:
        return
    unfit = {
        "label_noise": data.label_noise,
        "crop_padding": data.crop_padding,
        "flip": data.flip,
        "loss = 'square'": config.training.loss == "square",
    }
    for name, value in unfit.items():
        if value:
            raise InputError(f"expected data of classes for {name}, got the text {data.name}: leave it out")


def _check_sizes(config: RunConfig) -> None:
    examples, held_out, tests = examples_of(config)
    if examples < 1:
        raise InputError(f"expected training examples beside the {held_out} held out, got none: lower num_validation")
    if config.training.batch_size > examples:
        raise InputError(
            f"expected a batch_size of at most the {examples} training examples, got {config.training.batch_size}: "
            "lower it"
        )
    if config.model.norm not in BATCH_NORMS:
        return
    _check_pieces(config, examples)
    for size in _planned_sizes(config):
        _check_last_batch("batch_size", size, examples)
    if config.model.norm == "batch":
        for count in (examples, held_out, tests):
            if count:
                _check_last_batch("evaluation_batch_size", config.data.evaluation_batch_size, count)


def check_processes(config: RunConfig, examples: int, device: torch.device) -> None:
    """Refuse batches that leave a process without examples, and norms over processes where there are none."""
    if config.model.synchronised and device.type != "cuda":
        raise InputError(
            f"expected a CUDA device with model.synchronised, got {device}: PyTorch's synchronised norm has no other; "
            "use ghost_batch, or leave it out"
        )
    smallest = min(examples % size or size for size in _planned_sizes(config))
    if smallest < num_ranks():
        raise InputError(
            f"expected at least one example of every batch for each of {num_ranks()} processes, got a batch of "
            f"{smallest}: choose another batch_size, or fewer processes"
        )


def _planned_sizes(config: RunConfig) -> set[int]:
    """Return the batch sizes that are known beforehand: those of a measured noise scale are not, but for the first."""
    return {schedules.batch_size(config, epoch) for epoch in (0.0, *config.batch.milestones)}


def _check_pieces(config: RunConfig, examples: int) -> None:
    """Refuse accumulated pieces that would cut ghost batches otherwise than the whole batch does."""
    batch, count, ghost = config.training.batch_size, config.training.accumulate, config.model.ghost_batch
    for size in (batch, examples % batch or batch):
        piece = -(-size // count)
        if ghost is not None and piece < size and (piece % ghost or size % piece == 1):
            raise InputError(
                f"expected pieces of whole ghost batches of {ghost}, got {piece} of {size} examples (accumulate = "
                f"{count}): choose another accumulate, ghost_batch or batch_size, or a num_train without a rest"
            )


def _check_last_batch(name: str, size: int, examples: int) -> None:
    """Refuse batches of one example, which have no batch statistics."""
    if size == 1 or examples % size == 1:
        raise InputError(
            f"expected batches of at least 2 examples for BatchNorm, got a batch of 1 ({examples} examples in batches "
            f"of {size}): choose another {name}"
        )
