"""The runs of ``keskar2017.py``: pairs, and what is varied on one network, each an arm with a label."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Any

from scripts.runner.study import Cell
from sharpness.config import BatchConfig, RunConfig
from sharpness.training.checks import examples_of


@dataclass(frozen=True)
class Case:
    """A network on a dataset with its two batch sizes; ``label`` names it in every table."""

    label: str
    base: RunConfig
    small: int
    large: int


@dataclass(frozen=True)
class Ranges:
    """The values that are tried on one network."""

    batches: tuple[float, ...] = (0.5, 2.0, 4.0, 8.0, 32.0, 64.0)
    """Batch sizes of Figure 4 as multiples of SB, beside SB and LB themselves; those that the examples allow."""
    warm_starts: int = 6
    """After how many different epochs of SB training LB starts in Figure 5."""
    checkpoints: int = 7
    """Epochs at which sharpness is measured along training for Figure 6."""
    small_rates: tuple[float, ...] = (0.25, 0.5, 2.0)
    """Learning rates tried for SB beside the paper's, as multiples of it."""
    large_rates: tuple[float, ...] = (2.0, 4.0, 8.0)
    """The same for LB."""
    label_noises: tuple[float, ...] = ()
    """Shares of random training labels at which both batch sizes are trained beside the network's own."""
    sharp_starts: bool = False
    """Whether SB and LB go on from where each of them ended, and SB is trained robustly (SAM) too."""
    kept: tuple[int, ...] = ()
    """Epochs of the pair whose weights are kept, multiples of the first, for warm starts and along training, where a
    goal ends the runs: the last is one that SB always reaches. None: all, and those used are spaced evenly."""
    target_loss: float = 0.1
    """Training loss (nats) at which SB and LB are compared at equal loss; three times the epochs to reach it in."""


def pairs_of(case: Case, seed: int) -> list[Cell]:
    """Return the small-batch and the large-batch run of a seed, equal in all else."""
    return [_cell(case, "SB", "base", _run(case.base, seed, case.small)), _large(case, "base", _run(case.base, seed))]


def arms_of(case: Case, ranges: Ranges, seed: int) -> Iterator[Cell]:
    """Yield all runs of a seed on the network that things are varied on, its pair first.

    The pair keeps checkpoints of its epochs: to start from, and to measure along training.
    """
    every = float(ranges.kept[0]) if ranges.kept else 1.0
    kept = replace(case.base, measure=replace(case.base.measure, keep_every=every))
    small, large = pairs_of(replace(case, base=kept), seed)
    plain = _run(case.base, seed)
    yield from (small, large)
    for size in batch_sizes(case, ranges):
        config = _run(case.base, seed, size)
        yield Cell({"network": case.label, "role": "", "arm": "batch", "batch_size": size, "seed": seed}, config)
    yield from _warm_starts(case, ranges, small, plain)
    yield from _remedies(case, ranges, plain)
    yield from _critics(case, ranges, plain)
    for share in ranges.label_noises:
        config = replace(plain, data=replace(plain.data, label_noise=share))
        yield _cell(case, "SB", "label noise", _sized(config, case.small), label_noise=share)
        yield _large(case, "label noise", config, label_noise=share)
    if ranges.sharp_starts:
        yield _cell(case, "SB", "robust (SAM)", _sized(_trained(plain, sam_rho=0.05), case.small))
        yield from _further(case, ranges, (small, large), plain)


def batch_sizes(case: Case, ranges: Ranges) -> list[int]:
    """Return the batch sizes beside SB and LB that leave no batch of one example."""
    examples, sizes = examples_of(case.base)[0], []
    for factor in ranges.batches:
        size = round(case.small * factor)
        if 1 < size <= examples and examples % size != 1 and size not in (case.small, case.large):
            sizes.append(size)
    return sizes


def spaced(epochs: int, count: int) -> list[int]:
    """Return so many epochs from 1 to the last, about evenly spaced in their logarithm, without repetitions.

    >>> spaced(40, 6)
    [1, 2, 4, 9, 19, 40]
    """
    return sorted({round(epochs ** (k / (count - 1))) for k in range(count)})


def _warm_starts(case: Case, ranges: Ranges, small: Cell, large: RunConfig) -> Iterator[Cell]:
    """Yield LB training from iterates of the SB run ("piggybacked"); Adam's own state starts anew."""
    updates = _updates_per_epoch(case, case.small)
    for epochs in kept_epochs(case, ranges, ranges.warm_starts):
        start = f"{small.config.run_id}/checkpoint-{epochs * updates}.safetensors"
        config = replace(large, training=replace(large.training, batch_size=case.large, start=start))
        yield replace(_large(case, "warm start", config, warm_epochs=epochs), after=small)


def _further(case: Case, ranges: Ranges, pair: Sequence[Cell], plain: RunConfig) -> Iterator[Cell]:
    """Yield SB and LB training from where each run of the pair ended, for a fixed time that no goal ends.

    Does noise push the weights out of a sharp minimum? SB from the end of LB says so, against LB from there, which
    trains as long; and the reverse.
    """
    free = replace(plain, budget=replace(plain.budget, train_loss=None))
    for solution in pair:
        for role, size in (("SB", case.small), ("LB", case.large)):
            start = {"start": solution.config.run_id, "epochs": horizon(case, ranges)}
            cell = _cell(case, role, f"from {solution.labels['role']}", _trained(_sized(free, size), **start))
            yield replace(cell, after=solution)


def horizon(case: Case, ranges: Ranges) -> int:
    """Return the epochs that training takes, or that it does not end before where a goal ends it."""
    return ranges.kept[-1] if ranges.kept else case.base.training.epochs


def kept_epochs(case: Case, ranges: Ranges, count: int) -> list[int]:
    """Return so many of the epochs whose weights the pair keeps, or those that are asked for."""
    return list(ranges.kept) or spaced(case.base.training.epochs, count)


def _remedies(case: Case, ranges: Ranges, plain: RunConfig) -> Iterator[Cell]:
    """Yield the remedies of Appendix E and section 5, as far as they can be had here, with settings of our own."""
    # E.1: mirror images and shifts by up to 2 pixels; the authors also rotate. SB gets the same, to compare with.
    varied = replace(plain, data=replace(plain.data, crop_padding=2, flip=True))
    yield _cell(case, "SB", "augmentation", _sized(varied, case.small))
    yield _large(case, "augmentation", varied)
    # E.2: 3 inner steps of Adam on the batch's loss plus lambda / 2 |x - x_k|^2.
    yield _large(case, "conservative", _trained(plain, proximal=1e-3))
    # E.3 minimises the largest loss near the weights or inputs; here by one ascent step in the weights (SAM).
    yield _large(case, "robust (SAM)", _trained(plain, sam_rho=0.05))
    # Section 5, dynamic sampling: from SB to LB in three steps of equal factor, at every quarter of training.
    epochs = horizon(case, ranges)
    growth = BatchConfig(
        kind="steps",
        milestones=tuple(epochs * k / 4 for k in (1, 2, 3)),
        factor=(case.large / case.small) ** (1 / 3),
        largest=case.large,
    )
    yield _large(case, "growing batch", replace(_sized(plain, case.small), batch=growth))


def _critics(case: Case, ranges: Ranges, plain: RunConfig) -> Iterator[Cell]:
    """Yield other learning rates, tried and scaled; where nothing but epochs is equal, what else could be."""
    rate, size = case.base.training.learning_rate, {"SB": case.small, "LB": case.large}
    for role, factors in (("SB", ranges.small_rates), ("LB", ranges.large_rates)):
        for factor in factors:
            config = _trained(_sized(plain, size[role]), learning_rate=rate * factor)
            yield _cell(case, role, "rate", config, learning_rate=rate * factor)
    scaled = {
        rule: replace(plain, schedule=replace(plain.schedule, scaling=rule, base_batch=case.small))
        for rule in ("linear", "sqrt")
    }
    for rule, config in scaled.items():
        yield _large(case, f"{rule} rate", config)
    if case.base.budget.train_loss is None:
        yield from _equal_otherwise(case, ranges, plain, scaled["sqrt"])


def _equal_otherwise(case: Case, ranges: Ranges, plain: RunConfig, scaled: RunConfig) -> Iterator[Cell]:
    """Yield runs equal in updates, and equal in training loss, where the network's own are equal in epochs."""
    size = {"SB": case.small, "LB": case.large}
    updates = case.base.training.epochs * _updates_per_epoch(case, case.small)
    for name, config in (("equal updates", plain), ("equal updates, sqrt rate", scaled)):
        longer = _trained(config, epochs=0)
        yield _large(case, name, replace(longer, budget=replace(config.budget, updates=updates)))
    for role in ("SB", "LB"):
        config = _trained(_sized(plain, size[role]), epochs=3 * case.base.training.epochs)
        yield _cell(
            case, role, "equal loss", replace(config, budget=replace(config.budget, train_loss=ranges.target_loss))
        )


def _updates_per_epoch(case: Case, batch_size: int) -> int:
    return math.ceil(examples_of(case.base)[0] / batch_size)


def _run(base: RunConfig, seed: int, batch_size: int | None = None) -> RunConfig:
    config = _trained(base, seed=seed)
    return config if batch_size is None else _sized(config, batch_size)


def _sized(config: RunConfig, batch_size: int) -> RunConfig:
    return _trained(config, batch_size=batch_size)


def _trained(config: RunConfig, **changes: Any) -> RunConfig:
    return replace(config, training=replace(config.training, **changes))


def _large(case: Case, arm: str, config: RunConfig, **labels: Any) -> Cell:
    """Return a run that ends as large-batch training; one whose batch grows keeps its own first size."""
    sized = config if config.batch.kind == "steps" else _sized(config, case.large)
    return _cell(case, "LB", arm, sized, **labels)


def _cell(case: Case, role: str, arm: str, config: RunConfig, **labels: Any) -> Cell:
    shared = {"network": case.label, "role": role, "arm": arm}
    return Cell({**shared, **labels, "seed": config.training.seed}, config)
