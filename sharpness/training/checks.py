"""Which configs can be trained: refused with one line before data are read or anything is written."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

from sharpness.config import RunConfig
from sharpness.data import DATASETS
from sharpness.errors import InputError, unknown_name
from sharpness.models import check_model
from sharpness.training.measures import MEASURES
from sharpness.training.optimizers import OPTIMIZERS


def check_config(config: RunConfig) -> None:
    """Raise :class:`InputError` for a config that cannot be trained."""
    if config.data.name not in DATASETS:
        raise unknown_name("dataset", config.data.name, DATASETS)
    check_model(config.model)
    if config.training.optimizer not in OPTIMIZERS:
        raise unknown_name("optimizer", config.training.optimizer, OPTIMIZERS)
    for name in config.measure.names:
        if name not in MEASURES:
            raise unknown_name("measure", name, MEASURES)
    _check_numbers(config)
    _check_budgets(config)
    _check_combinations(config)
    _check_sizes(config)


def examples_of(config: RunConfig) -> tuple[int, int, int]:
    """Return how many training, held-out and test examples a config leaves."""
    info, data = DATASETS[config.data.name], config.data
    examples = min(data.num_train or info.num_train, info.num_train)
    return examples - data.num_validation, data.num_validation, min(data.num_test or info.num_test, info.num_test)


def _check_numbers(config: RunConfig) -> None:
    data, training, schedule, batch = config.data, config.training, config.schedule, config.batch
    budget, average, measure = config.budget, config.average, config.measure
    at_least_one = {
        **{"num_train": data.num_train, "num_test": data.num_test, "batch_size": training.batch_size},
        **{"evaluation_batch_size": data.evaluation_batch_size, "accumulate": training.accumulate},
        **{
            "proximal_steps": training.proximal_steps,
            "base_batch": schedule.base_batch,
            "batch.largest": batch.largest,
        },
        **{"budget.patience": budget.patience},
        **{"budget.updates": budget.updates, "budget.examples": budget.examples},
    }
    positive = {
        **{"learning_rate": training.learning_rate, "clip_norm": training.clip_norm, "sam_rho": training.sam_rho},
        **{"proximal": training.proximal, "trust": training.trust, "schedule.cycle": schedule.cycle},
        **{"batch.factor": batch.factor, "batch.every": batch.every, "batch.ratio": batch.ratio},
        **{"average.every": average.every, "measure.every": measure.every},
    }
    shares = {"momentum": training.momentum, "label_smoothing": training.label_smoothing, "decay": average.decay}
    at_least_zero = {
        **{"weight_decay": training.weight_decay, "epochs": training.epochs, "crop_padding": data.crop_padding},
        **{"schedule.warmup": schedule.warmup, "schedule.warmup_from": schedule.warmup_from},
        **{"schedule.final": schedule.final, "num_validation": data.num_validation, "average.start": average.start},
        **{"measure.keep_every": measure.keep_every, "budget.check_every": budget.check_every},
        **{"measure.examples": measure.examples},
    }
    kinds: list[tuple[dict[str, Any], str, Callable[[float], bool]]] = [
        (at_least_one, "{} of at least 1", lambda value: value >= 1),
        (positive, "a positive {}", lambda value: value > 0 and math.isfinite(value)),
        (shares, "{} from 0 to below 1", lambda value: 0 <= value < 1),
        (at_least_zero, "{} of at least 0", lambda value: value >= 0 and math.isfinite(value)),
        ({"seed": training.seed}, "a {} from 0 to 2^63 - 1", lambda value: 0 <= value < 2**63),
    ]
    for values, wanted, holds in kinds:
        for name, value in values.items():
            if value is not None and not holds(value):
                raise InputError(f"expected {wanted.format(name)}, got {value}: correct it in the config")


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
    if training.proximal is not None and training.sam_rho is not None:
        raise InputError("expected sam_rho or proximal, got both: they change the gradient in two ways")
    if config.schedule.milestones and config.schedule.kind != "steps":
        raise InputError(f"expected schedule.kind = 'steps' with milestones, got {config.schedule.kind!r}")
    if config.batch.milestones and config.batch.kind != "steps":
        raise InputError(f"expected batch.kind = 'steps' with milestones, got {config.batch.kind!r}")
    if config.batch.kind == "noise_scale" and "noise_scale" not in config.measure.names:
        raise InputError("expected measure.names with noise_scale for batch.kind = 'noise_scale', got none: add it")
    if config.batch.kind == "noise_scale" and config.budget.updates is not None and not training.epochs:
        raise InputError("expected epochs with batch.kind = 'noise_scale', got updates alone: decays need their length")


def _check_sizes(config: RunConfig) -> None:
    examples, held_out, tests = examples_of(config)
    if examples < 1:
        raise InputError(f"expected training examples beside the {held_out} held out, got none: lower num_validation")
    if config.training.batch_size > examples:
        raise InputError(
            f"expected a batch_size of at most the {examples} training examples, got {config.training.batch_size}: "
            "lower it"
        )
    if config.model.norm == "none":
        return
    if config.batch.kind == "constant":
        _check_last_batch("batch_size", config.training.batch_size, examples)
    if config.model.norm == "batch":
        for count in (examples, held_out, tests):
            if count:
                _check_last_batch("evaluation_batch_size", config.data.evaluation_batch_size, count)


def _check_last_batch(name: str, size: int, examples: int) -> None:
    """Refuse batches of one example, which have no batch statistics."""
    if size == 1 or examples % size == 1:
        raise InputError(
            f"expected batches of at least 2 examples for BatchNorm, got a batch of 1 ({examples} examples in batches "
            f"of {size}): choose another {name}"
        )
