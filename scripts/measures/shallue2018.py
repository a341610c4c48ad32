"""One search at one batch: many trials side by side over the whole box, then more in a box around the best of them."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Any, NamedTuple

import torch
from torch import Tensor
from torch.nn.functional import cross_entropy

from scripts.grids.shallue2018 import Space, narrowed, quasi_random
from scripts.measures.cells import scaled
from scripts.measures.side_by_side import Copies, copies_of, train_side_by_side
from scripts.runner.grid import Rows
from scripts.runner.site import Site
from sharpness.config import RunConfig, from_dict
from sharpness.data import normalise
from sharpness.loss import Loss
from sharpness.models import build_model
from sharpness.probes import GradientNoise

RESOLUTION = 1.04
"""The held-out error is looked at when the updates have grown by this factor, to which steps are known."""
FIRST_LOOK = 100
"""The first look is after this share of the budget."""
PATIENCE = 3.0
"""The other trials of a search go on for so many times the steps of the best one."""


class Split(NamedTuple):
    """Images as cells, (n, 1, cells, cells), and their classes."""

    inputs: Tensor
    targets: Tensor


@dataclass(frozen=True)
class Search:
    """The workload at a batch size, its images, and what a trial may take: updates and the error to reach."""

    config: RunConfig
    splits: Sequence[Split]
    classes: int
    updates: int
    goal: float | None
    device: torch.device
    progress: Callable[[int, int], None]

    def copies(self, seeds: Sequence[int]) -> Copies:
        """Return a network for each trial."""
        return copies_of(self.config, tuple(self.splits[0].inputs.shape[1:]), self.classes, seeds, self.device)


class Ends(NamedTuple):
    """The number of updates made, and of each trial the steps to the goal, infinite without, and the error there."""

    updates: int
    steps: Tensor
    error: Tensor


def search(
    site: Site,
    *,
    recipe: dict[str, Any],
    cells: int | None,
    space: dict[str, Any],
    trials: Sequence[int],
    drawn: int,
    first_seed: int,
    goal: float | None,
    noise_examples: int,
    updates: int = 0,
    epochs: int = 0,
) -> Rows:
    """Return a row for each trial of a search: its rate and momentum, outcome, steps and errors.

    The first of ``trials`` are spread over the space, each further number over a quarter of its sides around the best
    trial so far. With a ``goal`` the best one reaches that held-out error in the fewest steps, and ``error`` is the
    held-out error there; the others stop at three times as many, and at so many ``updates`` at the latest. Without, it
    has the lowest held-out error after all ``updates`` or ``epochs``, and ``test`` is there too. On ``noise_examples``,
    if any, B_simple is measured where the best trial ended. The data are the run's, cut into cells and scaled as its
    training images are.
    """
    config = from_dict(RunConfig, recipe, "a workload")
    whole, rows, best, weights = Space(**space), list[dict[str, Any]](), None, None
    splits = _splits(site, cells)
    budget = updates or epochs * -(-len(splits[0].targets) // config.training.batch_size)
    setting = Search(config, splits, site.dataset.num_classes, budget, goal, site.device, site.progress)
    for number, count in enumerate(trials):
        box = whole if best is None else narrowed(whole, best["effective_rate"], 1 - best["momentum"])
        points = quasi_random(box, config.training.optimizer != "sgd", count, drawn + number)
        known = None if best is None else best["steps"]
        seeds = [first_seed + len(rows) + place for place in range(count)]
        for row, own in _trained(setting, points, seeds, known):
            rows.append({"round": number, "trial": len(rows), "noise_scale": None} | row)
            if row["outcome"] == "reached" and (best is None or _order(rows[-1]) < _order(best)):
                best, weights = rows[-1], own
    if noise_examples and best is not None and weights is not None:
        best["noise_scale"] = _noise_scale(setting, weights, noise_examples)
    return rows


def _order(row: dict[str, Any]) -> tuple[float, float]:
    return (row["steps"], row["error"])


def _splits(site: Site, cells: int | None) -> list[Split]:
    """Return the training, held-out and test examples, images as cells."""
    data = site.dataset
    assert data.held_out is not None  # every preset holds examples out
    parts = (data.train, data.held_out, data.test)
    if cells is None:
        return [Split(normalise(part.inputs), part.targets) for part in parts]
    return [Split(scaled(part, cells, data.train).view(-1, 1, cells, cells), part.targets) for part in parts]


def _trained(
    setting: Search, points: Sequence[tuple[float, float]], seeds: Sequence[int], known: float | None
) -> Iterator[tuple[dict[str, Any], list[Tensor]]]:
    """Train the trials of one round and return for each its row and its weights where it reached the goal, or ended."""
    train, held_out, test = setting.splits
    copies, count = setting.copies(seeds), len(points)
    steps, reached = torch.full((count,), torch.inf), torch.full((count,), torch.nan)
    kept = [weight.detach().clone() for weight in copies.weights]
    limit = _limit(setting, known)
    updates, look = 0, max(1, setting.updates // FIRST_LOOK)
    rates, momenta = zip(*points, strict=True)
    epochs = -(-setting.updates * setting.config.training.batch_size // len(train.targets)) + 1
    config = replace(setting.config, training=replace(setting.config.training, epochs=epochs))
    for updates in train_side_by_side(config, copies, *train, seeds, rates, momenta):
        if updates >= limit or (setting.goal is not None and updates >= look):
            look = max(updates + 1, math.ceil(RESOLUTION * updates))
            error = copies.error(*held_out).cpu()
            there = _there(setting, error, updates) & steps.isinf() & copies.finite().cpu()
            steps[there], reached[there] = updates, error[there]
            for old, new in zip(kept, copies.weights, strict=True):
                old[there] = new.detach()[there]
            limit = min(limit, _limit(setting, float(steps.min())))
            setting.progress(updates, limit)
        if updates >= limit:
            break
    ends = Ends(updates, steps, reached)
    tests = copies.error(*test) if setting.goal is None else torch.full((count,), torch.nan)
    fine = copies.finite().tolist()
    for place, point in enumerate(points):
        yield _row(place, *point, ends, fine[place], float(tests[place])), [weight[place] for weight in kept]


def _row(place: int, rate: float, momentum: float, ends: Ends, fine: bool, test: float) -> dict[str, Any]:
    """Return what came of a trial; ``test`` is NaN where a goal ended it."""
    done = bool(ends.steps[place].isfinite())
    row = {"learning_rate": rate, "momentum": momentum, "effective_rate": rate / (1 - momentum)}
    row |= {"updates": ends.updates, "outcome": "reached" if done else "missed" if fine else "diverged"}
    row |= {"steps": int(ends.steps[place]) if done else None, "error": float(ends.error[place]) if done else None}
    return row | {"test": test if done and math.isfinite(test) else None}


def _limit(setting: Search, best: float | None) -> int:
    """Return how many updates are made: the budget, or less where the best trial is known to take ``best`` steps."""
    if setting.goal is None or best is None or not math.isfinite(best):
        return setting.updates
    return min(setting.updates, math.ceil(PATIENCE * best))


def _there(setting: Search, error: Tensor, updates: int) -> Tensor:
    """Return which trials are where they were to go: at the goal, or at the end of their budget."""
    if setting.goal is None:
        return torch.full_like(error, updates >= setting.updates).bool()
    return error <= setting.goal


def _noise_scale(setting: Search, weights: Sequence[Tensor], examples: int) -> float | None:
    """Return B_simple of a trial's weights over the first training images."""
    train = setting.splits[0]
    model = build_model(setting.config.model, tuple(train.inputs.shape[1:]), setting.classes, 0).to(setting.device)
    with torch.no_grad():
        for parameter, weight in zip(model.parameters(), weights, strict=True):
            parameter.copy_(weight)
    loss = Loss(model.eval(), cross_entropy, [(train.inputs[:examples], train.targets[:examples])])
    return GradientNoise(num_hvps=0, batch_sizes=())(loss).value
