"""One recipe at one batch: every value tried and every seed side by side, on held-out and on test images."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch

from scripts.measures.cells import scaled
from scripts.measures.side_by_side import copies_of, train_side_by_side
from scripts.runner.grid import Rows
from scripts.runner.site import Site
from sharpness.config import RunConfig, from_dict


def sweep(
    site: Site,
    *,
    recipe: dict[str, Any],
    cells: int,
    values: Sequence[float],
    tuning_seeds: Sequence[int],
    told_seeds: Sequence[int],
    tuned_alone: bool,
    goal: float,
) -> Rows:
    """Train a recipe with every value and seed, and return errors and steps of each.

    With ``tuned_alone`` the seeds that are told have the value alone whose held-out error is lowest on average over the
    others. ``held_out`` and ``test`` are the errors at the end, and ``steps`` the updates at the end of the first epoch
    whose held-out error is at most ``goal``, ``None`` if there is none. A network whose weights are not finite any more
    has no errors: ``diverged`` says so. The data are the run's, cut into cells and scaled as its training images are.
    """
    config = from_dict(RunConfig, recipe, "a recipe")
    rows = trained(site, config, cells, values, tuning_seeds, goal) if tuning_seeds else []
    chosen = [lowest(rows)] if tuned_alone else values
    return [*rows, *trained(site, config, cells, chosen, told_seeds, goal)]


def lowest(rows: Rows) -> float:
    """Return the value with the lowest mean held-out error, of equals the smallest; one that diverged counts as 1.

    >>> lowest([{"value": 1.0, "held_out": 0.2}, {"value": 0.5, "held_out": 0.1}, {"value": 0.5, "held_out": None}])
    1.0
    """
    errors: dict[float, list[float]] = {}
    for row in rows:
        errors.setdefault(row["value"], []).append(1.0 if row["held_out"] is None else row["held_out"])
    return min(errors, key=lambda value: (sum(errors[value]) / len(errors[value]), value))


def trained(
    site: Site, config: RunConfig, cells: int, values: Sequence[float], seeds: Sequence[int], goal: float
) -> Rows:
    """Train the networks of some values and seeds side by side and return a row for each."""
    data = site.dataset
    held_out = data.held_out
    assert held_out is not None  # every preset holds images out
    inputs, validation, test = (scaled(split, cells, data.train) for split in (data.train, held_out, data.test))
    places, rows = [(seed, value) for seed in seeds for value in values], []
    each_seed, each_value = [seed for seed, _ in places], [value for _, value in places]
    copies = copies_of(config, (cells, cells), data.num_classes, each_seed, site.device)
    steps, updates = torch.full((len(places),), torch.inf), 0
    per_epoch = -(-len(inputs) // config.training.batch_size)
    for updates in train_side_by_side(config, copies, inputs, data.train.targets, each_seed, each_value):
        if updates % per_epoch == 0:
            met = (copies.error(validation, held_out.targets) <= goal).cpu() & steps.isinf()
            steps[met] = updates
            site.progress(updates // per_epoch, config.training.epochs)
    errors = [copies.error(validation, held_out.targets), copies.error(test, data.test.targets)]
    found = zip(places, copies.finite().tolist(), steps.tolist(), *(each.tolist() for each in errors), strict=True)
    for (seed, value), fine, reached, own, other in found:
        numbers = {"held_out": own if fine else None, "test": other if fine else None}
        numbers["steps"] = int(reached) if fine and reached < float("inf") else None
        rows.append({"seed": seed, "value": value, "updates": updates, "diverged": not fine, **numbers})
    return rows
