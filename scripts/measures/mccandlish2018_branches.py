"""Training of the study of McCandlish et al. 2018 from a checkpoint on: branches, and tasks of two classes."""

from __future__ import annotations

import copy
import itertools
import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.functional import cross_entropy

from scripts.measures.mccandlish2018 import checkpoint_at, noise_of, one_batch, place_of
from scripts.runner.grid import Rows
from scripts.runner.site import Site
from sharpness.data import Split, normalise
from sharpness.data.batches import Batch
from sharpness.runs.networks import network_loss
from sharpness.training.branches import FIRST_BRANCH_EPOCH
from sharpness.training.order import epoch_order


def branches(
    site: Site,
    *,
    epoch: float,
    batch_sizes: Sequence[int],
    rates: Sequence[Sequence[float]],
    most: Sequence[int],
    settle: Mapping[str, Any],
    share: float,
    growth: float,
    examples: int,
    noise_examples: int,
) -> Rows:
    """Return how many updates from a common start to a ``share`` of its loss, by batch size and learning rate.

    Branches as of Merrill et al. 2025 (arXiv 2505.23971). Deviations: theirs take one rate by rule for each batch size
    and compare the loss after as many examples; here each of ``rates`` of a batch size is tried in its order, and the
    updates are counted, at ``most`` so many, or as many as the best rate before it took (``steps`` is ``None`` beyond).
    And the start is a checkpoint after a few large, slow updates more (``settle``: ``updates``, ``batch_size``,
    ``rate``): the noise of training keeps a checkpoint above the valley that it is in, so that any calmer branch would
    fall at once, without progress. The loss is over ``examples`` of the training set; beside each branch stands the
    noise of the gradient at the start. All branches see the examples in the same order.
    """
    data, checkpoint = site.dataset.train, checkpoint_at(site, epoch)
    seen = [one_batch(site.subset(data, examples))]
    start = site.network(checkpoint.name)
    _advance(site, start, settle["batch_size"], settle["rate"], settle["updates"])
    whole, few = site.batches(data), [one_batch(site.subset(data, noise_examples))]
    shared = place_of(checkpoint)
    shared |= noise_of(network_loss(site.config, start, whole), network_loss(site.config, start, few))
    target, rows = share * _value(site, start, seen), []
    for number, (size, tried, limit) in enumerate(zip(batch_sizes, rates, most, strict=True), 1):
        for rate in tried:
            model = copy.deepcopy(start)
            updates = _updates(site, model, size, rate)
            steps = steps_to(target, updates, lambda m=model: _value(site, m, seen), limit, growth)
            rows.append(shared | {"batch_size": size, "rate": rate, "steps": steps, "most": limit})
            limit = steps or limit
        site.progress(number, len(batch_sizes))
    return rows


def _updates(site: Site, model: nn.Module, size: int, rate: float) -> Iterator[float]:
    """Return the updates of a branch, which change the network in place."""
    data, seed = site.dataset.train, site.config.training.seed
    orders = (epoch_order(seed, epoch, len(data)) for epoch in itertools.count(FIRST_BRANCH_EPOCH))
    return descend(model, data, orders, size, rate)


def _advance(site: Site, model: nn.Module, size: int, rate: float, updates: int) -> None:
    for _ in itertools.islice(_updates(site, model, size, rate), updates):
        pass


def _value(site: Site, model: nn.Module, batches: Sequence[Batch]) -> float:
    loss = network_loss(site.config, model, batches)
    return loss.value(loss.weights)


def steps_to(
    target: float, updates: Iterator[object], loss: Callable[[], float], most: int, growth: float
) -> int | None:
    """Return after how many updates the loss is at most ``target``, or ``None`` if not within ``most``.

    The loss is looked at each time their number has grown by a factor ``growth``, and at the last.

    >>> losses = iter([0.9, 0.7, 0.5, 0.3])
    >>> steps_to(0.6, itertools.repeat(None), lambda: next(losses), most=4, growth=1.0)
    3
    """
    done = 0
    while done < most:
        upto = min(most, max(done + 1, math.ceil(growth * done)))
        done += len(list(itertools.islice(updates, upto - done)))
        value = loss()
        if not math.isfinite(value):
            return None
        if value <= target:
            return done
    return None


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
