"""Training of the study of McCandlish et al. 2018 from a checkpoint on: branches, and tasks of two classes."""

from __future__ import annotations

import itertools
import math
from collections.abc import Iterator, Sequence

import torch
from torch import Tensor, nn
from torch.nn.functional import cross_entropy

from scripts.measures.mccandlish2018 import checkpoint_at, finite, noise_of, one_batch, place_of
from scripts.runner.grid import Rows
from scripts.runner.site import Site
from sharpness.data import Split, normalise
from sharpness.errors import InputError
from sharpness.runs.networks import network_loss
from sharpness.training.order import epoch_order

FIRST_BRANCH_EPOCH = 10**6
"""The orders of examples of branches are those of epochs that no run comes to."""


def branches(site: Site, *, epoch: float, multipliers: Sequence[int], examples: int, half_life: int) -> Rows:
    """Return the smoothed loss after as many examples for each multiplier k of batch size and learning rate.

    Merrill et al. 2025 (arXiv 2505.23971): from one checkpoint, batches k B at the rate k eta, as is right for SGD. All
    branches see the same examples in the same order. Deviation: theirs smooth the losses of batches by 1/2 per batch,
    here by 1/2 per ``half_life`` examples, which is the same for batches of that size; smaller ones would otherwise
    leave the mean of a few dozen examples. ``end_loss`` is that of the whole training set after the last update.
    """
    data, training, checkpoint = site.dataset.train, site.config.training, checkpoint_at(site, epoch)
    if (largest := max(multipliers) * training.batch_size) > examples:
        raise InputError(f"expected branches of at least one update, got {examples} examples for a batch of {largest}")
    rows = []
    for number, k in enumerate(multipliers, 1):
        model, size, rate = site.network(checkpoint.name), k * training.batch_size, k * training.learning_rate
        order = (epoch_order(training.seed, epoch, len(data)) for epoch in itertools.count(FIRST_BRANCH_EPOCH))
        losses = itertools.islice(descend(model, data, order, size, rate), examples // size)
        smoothed = smooth([(loss, size) for loss in losses], half_life)
        end = network_loss(site.config, model, site.batches(data))
        row = {"multiplier": k, "batch_size": size, "rate": rate, "updates": examples // size}
        row |= {"smoothed_loss": smoothed, "end_loss": finite(end.value(end.weights))}
        rows.append(place_of(checkpoint) | row)
        site.progress(number, len(multipliers))
    return rows


def descend(model: nn.Module, data: Split, orders: Iterator[Tensor], size: int, rate: float) -> Iterator[float]:
    """Make updates ``w - rate G_B`` of plain SGD on a network in place; yield the loss of each batch, after its update.

    The loss is that of the weights before the update. ``orders`` gives the order of the examples of one epoch after the
    other, which batches run through without a break.
    """
    parameters, waiting = list(model.parameters()), torch.zeros(0, dtype=torch.int64)
    model.train()
    while True:
        while len(waiting) < size:
            waiting = torch.cat([waiting, next(orders)])
        rows, waiting = waiting[:size].to(data.targets.device), waiting[size:]
        loss = cross_entropy(model(normalise(data.inputs[rows], torch.float32)), data.targets[rows])
        gradients = torch.autograd.grad(loss, parameters)
        with torch.no_grad():
            for p, gradient in zip(parameters, gradients, strict=True):
                p.sub_(gradient, alpha=rate)
        yield float(loss.detach())


def smooth(losses: Sequence[tuple[float, int]], half_life: int) -> float | None:
    """Return the average of losses of batches at the end, the weight of older ones halved every ``half_life`` examples.

    ``None`` where one is not finite, or there is none. The zero that the average begins from is divided out.

    >>> smooth([(4.0, 8), (1.0, 8)], half_life=8)                   # (4 / 4 + 1 / 2) / (3 / 4)
    2.0
    """
    average = weight = 0.0
    for loss, size in losses:
        keep = 2.0 ** (-size / half_life)
        average, weight = keep * average + (1 - keep) * loss, keep * weight + 1 - keep
    return finite(average / weight) if weight else None


def two_classes(
    site: Site,
    *,
    classes: Sequence[int],
    band: Sequence[float],
    rate: float,
    batch_size: int,
    looks: int,
    growth: float,
    examples: int,
) -> Rows:
    """Return the noise of the gradient where training on two classes alone has a loss within ``band``.

    From the initial weights of the run. The loss is looked at so many times, the number of updates growing by a factor
    from look to look.
    """
    data, seed = of_classes(site.dataset.train, classes), site.config.training.seed
    model, batches, subset = site.network("x0"), site.batches(data), [one_batch(site.subset(data, examples))]
    order = (epoch_order(seed, number, len(data)) for number in itertools.count(1))
    steps = descend(model, data, order, batch_size, rate)
    rows, done = [], 0
    for look in range(looks):
        done += len(list(itertools.islice(steps, math.ceil(growth**look))))
        loss = network_loss(site.config, model, batches)
        if band[0] <= loss.value(loss.weights) <= band[1]:
            rows.append({"step": done} | noise_of(loss, loss.over(subset)))
        site.progress(look + 1, looks)
    return rows


def of_classes(split: Split, classes: Sequence[int]) -> Split:
    """Return the examples of some classes, in their order, labels as they are."""
    chosen = torch.isin(split.targets, torch.tensor(list(classes), device=split.targets.device))
    return split.rows(chosen.nonzero().flatten())
