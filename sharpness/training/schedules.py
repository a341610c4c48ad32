"""The learning rate, the batch size and the noise scale at each update, as functions of how far training has come."""

from __future__ import annotations

import math

from sharpness.config import RunConfig


def target_rate(config: RunConfig, batch_size: int) -> float:
    """Return the learning rate after the scaling rule, before any schedule.

    ``linear``: ``rate * B / base_batch`` (Goyal et al. 2017, arXiv 1706.02677); ``sqrt``: ``rate * sqrt(B /
    base_batch)`` (Hoffer et al. 2017, arXiv 1705.08741); ``none``: the rate as it is.

    >>> from sharpness.config import ScheduleConfig, TrainingConfig
    >>> config = RunConfig(training=TrainingConfig(learning_rate=0.1), schedule=ScheduleConfig(scaling="linear"))
    >>> target_rate(config, 8192)
    3.2
    """
    rule, ratio = config.schedule.scaling, batch_size / config.schedule.base_batch
    factor = {"none": 1.0, "linear": ratio, "sqrt": math.sqrt(ratio)}[rule]
    return config.training.learning_rate * factor


def learning_rate(config: RunConfig, epoch: float, total: float, updates_per_epoch: float) -> float:
    """Return the learning rate of the update that begins at ``epoch`` of ``total`` (both may be fractions).

    With the rate r of :func:`target_rate` for the first batch size, e the epoch, W the warm-up and E the total:
    ``r (f + (1 - f) (e + u) / W)`` while ``e < W``, where f is ``warmup_from`` and u one update, so that the last
    warm-up update has the whole rate (Goyal et al. 2017 grow it at each update too); then, with
    ``p = (e - W) / (E - W)`` and s the share ``final``:

    - ``steps``: ``r factor^(milestones passed)``;
    - ``linear``: ``r (1 - (1 - s) p)``; ``polynomial``: ``r (s + (1 - s) (1 - p)^power)`` (You et al. 2017);
    - ``cosine``: ``r (s + (1 - s) (1 + cos(pi p)) / 2)`` (Loshchilov and Hutter 2017);
    - ``wsd``: r until the share ``decay`` of E is left, then linearly down to ``r s`` (warm-up, stable, decay: Hu et
      al. 2024, arXiv 2404.06395; with the linear decay of Hägele et al. 2024, arXiv 2405.18392);
    - ``cyclic``: ``r ((1 - t) + t s)`` with ``t = ((i - 1) mod c + 1) / c`` at update i of cycles of c updates
      (Izmailov et al. 2018, section 3.2); c = 1 is the constant rate ``r s``.

    Where the batch size would grow beyond ``batch.largest``, the rate falls by what is left of the factor
    (Smith et al. 2018).

    >>> learning_rate(RunConfig(), 3.0, 30.0, 157.0)
    0.001
    """
    schedule = config.schedule
    rate = target_rate(config, config.training.batch_size) / _left_over(config, epoch)
    one = 1.0 / updates_per_epoch
    if epoch < schedule.warmup:
        share = min(1.0, (epoch + one) / schedule.warmup)
        return rate * (schedule.warmup_from + (1 - schedule.warmup_from) * share)
    after = max(total - schedule.warmup, one)
    p, s = min((epoch - schedule.warmup) / after, 1.0), schedule.final
    if schedule.kind == "steps":
        return rate * schedule.factor ** _passed(schedule.milestones, epoch)
    if schedule.kind == "linear":
        return rate * (1 - (1 - s) * p)
    if schedule.kind == "polynomial":
        return rate * (s + (1 - s) * (1 - p) ** schedule.power)
    if schedule.kind == "cosine":
        return rate * (s + (1 - s) * (1 + math.cos(math.pi * p)) / 2)
    if schedule.kind == "wsd":
        left = max(total - epoch, 0.0) / (schedule.decay * total)
        return rate * (s + (1 - s) * min(1.0, left))
    if schedule.kind == "cyclic":
        updates = max(1, round(schedule.cycle * math.ceil(updates_per_epoch)))
        t = (_updates_at(epoch - schedule.warmup, updates_per_epoch) % updates + 1) / updates
        return rate * ((1 - t) + t * s)
    return rate


def _updates_at(epoch: float, updates_per_epoch: float) -> int:
    """Return the updates done at an epoch, of which each ends with a last batch, whole or not."""
    whole, part = divmod(round(epoch, 9), 1)
    return round(whole * math.ceil(updates_per_epoch) + part * updates_per_epoch)


def batch_size(config: RunConfig, epoch: float, measured: int | None = None) -> int:
    """Return the batch size of the update that begins at ``epoch``; ``measured`` is what the noise scale asks for.

    ``steps`` multiplies it by ``factor`` at each milestone, up to ``largest`` (Smith et al. 2018, arXiv 1711.00489).

    >>> from sharpness.config import BatchConfig
    >>> config = RunConfig(batch=BatchConfig(kind="steps", milestones=(2.0, 4.0), factor=5.0, largest=1000))
    >>> [batch_size(config, epoch) for epoch in (1.9, 2.0, 4.0)]
    [64, 320, 1000]
    """
    first, batch = config.training.batch_size, config.batch
    if batch.kind == "steps":
        size = round(first * batch.factor ** _passed(batch.milestones, epoch))
    else:
        size = first if batch.kind == "constant" or measured is None else measured
    return size if batch.largest is None else min(size, max(first, batch.largest))


def measured_batch(config: RunConfig, simple: float | None, present: int | None, least: int, most: int) -> int | None:
    """Return the batch size that a measured ``B_simple`` asks for, the present one where it is not known.

    ``sqrt(ratio * B_simple)`` (McCandlish et al. 2018, arXiv 1812.06162, Appendix D), from ``least`` to ``most``.

    >>> measured_batch(RunConfig(), 900.0, 64, 2, 1000), measured_batch(RunConfig(), None, 64, 2, 1000)
    (30, 64)
    """
    if simple is None:
        return present
    return max(least, min(max(1, round(math.sqrt(config.batch.ratio * simple))), most))


def is_due(every: float, was: float, now: float) -> bool:
    """Say whether a multiple of ``every`` epochs lies after ``was`` and not after ``now``.

    >>> is_due(0.5, 0.4, 0.5), is_due(0.5, 0.5, 0.9)
    (True, False)
    """
    return math.floor(now / every + 1e-9) > math.floor(was / every + 1e-9)


def momentum_of(config: RunConfig) -> float:
    """Return the momentum of an optimiser whose noise is that of SGD with it, 0 for others."""
    return config.training.momentum if config.training.optimizer in ("momentum", "nesterov", "lars") else 0.0


def total_epochs(config: RunConfig, examples: int) -> float:
    """Return how many passes over the examples the budgets allow at most, which is what decays are stretched over.

    A budget of updates says nothing of that where the batch follows a measured noise scale: ``epochs`` then does.

    >>> total_epochs(RunConfig(), 1000)
    30.0
    """
    bounds = [float(config.training.epochs)] if config.training.epochs else []
    if config.budget.examples is not None:
        bounds.append(config.budget.examples / examples)
    if config.budget.updates is not None and config.batch.kind != "noise_scale":
        bounds.append(_epochs_of_updates(config, config.budget.updates, examples))
    return min(bounds)


def _epochs_of_updates(config: RunConfig, updates: int, examples: int) -> float:
    """Return the epoch at which so many updates are done, by the batch sizes known beforehand."""
    done, epoch = 0, 0
    while True:
        at = 0
        while at < examples:
            if done == updates:
                return epoch + at / examples
            at = min(at + batch_size(config, epoch + at / examples), examples)
            done += 1
        epoch += 1


def _passed(milestones: tuple[float, ...], epoch: float) -> int:
    return sum(epoch >= milestone for milestone in milestones)


def _left_over(config: RunConfig, epoch: float) -> float:
    """Return by how much the batch size that is asked for exceeds the largest."""
    batch, first = config.batch, config.training.batch_size
    if batch.kind != "steps" or batch.largest is None:
        return 1.0
    asked = first * batch.factor ** _passed(batch.milestones, epoch)
    return max(1.0, asked / max(first, batch.largest))
