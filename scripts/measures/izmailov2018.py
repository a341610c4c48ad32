"""The measurements of Izmailov et al. 2018: the width of two solutions, and what lies between weights.

Everywhere the statistics of BatchNorm, of a network that has them, are recomputed from the training set at each point.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import replace
from functools import partial
from typing import Any

import torch
from torch import Tensor

from scripts.runner.grid import Rows
from scripts.runner.site import Site
from sharpness.errors import InputError
from sharpness.landscapes import Interpolation, RandomRays, ThreePointPlane
from sharpness.loss import Loss
from sharpness.vectors import norm

SGD, SWA, AVERAGE = "SGD", "SWA", "average"


def rays(site: Site, **knobs: Any) -> Rows:
    """Return the random rays from the weights of SGD and from those of SWA, the same directions from both."""
    loss, test, points = pair_of(site)
    probe, rows = RandomRays(**knobs), list[dict[str, Any]]()
    for number, (name, w) in enumerate(points.items()):
        result = probe(loss, w, test_loss=test, progress=partial(_half, site, number))
        rows.append({"net": name, "length": norm(w), "record": result.to_record().to_dict()})
    return rows


def _half(site: Site, number: int, done: int, total: int) -> None:
    """Report how far the first (0) or the second (1) of two equal parts is."""
    site.progress(number * total + done, 2 * total)


def line(site: Site, **knobs: Any) -> Rows:
    """Return loss and accuracy at ``w(t) = t w_SGD + (1 - t) w_SWA`` and the distance of the two."""
    loss, test, points = pair_of(site)
    result = Interpolation(**knobs)(loss, points[SWA], points[SGD], test_loss=test, progress=site.progress)
    names = ("train_loss", "train_accuracy", "test_loss", "test_accuracy")
    details = result.to_record().to_dict()["details"]  # without what is not finite
    values = zip(details["alphas"], *(details[name] for name in names), strict=True)
    return [dict(zip(("t", *names), row, strict=True)) | {"distance": result.length} for row in values]


def three_points(site: Site) -> Rows:
    """Return loss and accuracy of the weights at the ends of a run's last three cycles and of their average."""
    loss, test = site.losses()
    points = with_average(last_points(site))
    rows: Rows = []
    for name, w in points.items():
        rows.append({"point": name} | evaluated(loss, test, w))
        site.progress(len(rows), len(points))
    return rows


def plane(site: Site, **knobs: Any) -> Rows:
    """Return the plane through the weights of :func:`three_points`, their average marked with its own losses."""
    loss, test = site.losses()
    points = last_points(site)
    first, second, third = points.values()
    names = tuple(points)
    result = ThreePointPlane(**knobs)(loss, first, second, third, test_loss=test, names=names, progress=site.progress)
    # The average lies in the plane; its coordinates are the means of those of the three.
    place = {key: sum(mark[key] for mark in result.marks) / 3 for key in ("x", "y")}
    mark = {"name": AVERAGE, **place, "distance": 0.0} | evaluated(loss, test, with_average(points)[AVERAGE])
    record = replace(result, marks=[*result.marks, mark]).to_record(None)
    return [{"record": record.to_dict()}]


def pair_of(site: Site) -> tuple[Loss, Loss, Mapping[str, Tensor]]:
    """Return train and test loss of the first of two runs, its final weights, and the average of the second's."""
    sgd, swa = site.runs
    average = (swa.manifest() or {}).get("average")
    if average is None:
        raise InputError(f"expected a run with an average of its weights, got {swa.path}: set average.kind to 'swa'")
    points = {SGD: site.weights(sgd.final_checkpoint(), sgd), SWA: site.weights(average["name"], swa)}
    return *site.losses(), points


def last_points(site: Site, count: int = 3) -> dict[str, Tensor]:
    """Return the weights of a run's last kept checkpoints by name, oldest first.

    Raises :class:`InputError` where fewer were kept.
    """
    kept = site.checkpoints()
    if len(kept) < count:
        raise InputError(f"expected {count} checkpoints in {site.run.path}, got {len(kept)}: set measure.keep_every")
    return {f"W{i}": site.weights(checkpoint.name) for i, checkpoint in enumerate(kept[-count:], 1)}


def with_average(points: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Return the points and after them their mean, taken in float64.

    >>> with_average({"a": torch.tensor([1.0]), "b": torch.tensor([4.0])})["average"]
    tensor([2.5000])
    """
    weights = list(points.values())
    mean = torch.stack([w.double() for w in weights]).mean(0).to(weights[0].dtype)
    return {**points, AVERAGE: mean}


def evaluated(loss: Loss, test: Loss, w: Tensor) -> dict[str, float | None]:
    """Return loss and accuracy over both splits at one point, ``None`` for what is not finite."""
    sides = {"train": loss.evaluate(w), "test": test.evaluate(w)}
    values = {f"{split}_{kind}": getattr(at, kind) for split, at in sides.items() for kind in ("loss", "accuracy")}
    return {name: v if v is not None and math.isfinite(v) else None for name, v in values.items()}
