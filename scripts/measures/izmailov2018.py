"""The measurements of Izmailov et al. 2018: the width of two solutions, and what lies between weights.

Everywhere the statistics of BatchNorm, of a network that has them, are recomputed from the training set at each point.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import replace
from functools import partial
from typing import Any

import torch
from torch import Tensor

from scripts.runner.grid import Rows
from scripts.runner.site import Site
from sharpness.errors import InputError
from sharpness.landscapes import Interpolation, RandomRays, ThreePointPlane
from sharpness.landscapes.grid import PlaneResult
from sharpness.loss import Loss
from sharpness.vectors import norm

SGD, SWA, AVERAGE, START = "SGD", "SWA", "average", "start"


def along(site: Site, every: int) -> Rows:
    """Return loss and accuracy of weights at the ends of epochs of a run of SWA, and of the average up to each.

    All weights are averaged, and one of ``every`` is evaluated with the average.
    ``distance`` is that of the weights from the average of all of them.
    """
    loss, test = site.losses()
    points = list(kept(site).values())
    last, total, rows = mean_of(points), torch.zeros_like(points[0], dtype=torch.float64), list[dict[str, Any]]()
    for count, w in enumerate(points, 1):
        total += w.double()
        if count % every:
            continue
        averaged = evaluated(loss, test, (total / count).to(w.dtype))
        row = {"count": count, "distance": norm(w - last), "length": norm(w)} | evaluated(loss, test, w)
        rows.append(row | {f"average_{name}": value for name, value in averaged.items()})
        site.progress(count, len(points))
    return rows


def rays(site: Site, count: int, **knobs: Any) -> Rows:
    """Return the random rays from the weights of SGD and from those of SWA, the same directions from both."""
    loss, test, points = pair_of(site, count)
    probe, rows = RandomRays(**knobs), list[dict[str, Any]]()
    for number, (name, w) in enumerate(points.items()):
        result = probe(loss, w, test_loss=test, progress=partial(_half, site, number))
        rows.append({"net": name, "length": norm(w), "record": result.to_record().to_dict()})
    return rows


def _half(site: Site, number: int, done: int, total: int) -> None:
    """Report how far the first (0) or the second (1) of two equal parts is."""
    site.progress(number * total + done, 2 * total)


def line(site: Site, count: int, **knobs: Any) -> Rows:
    """Return loss and accuracy at ``w(t) = t w_SGD + (1 - t) w_SWA`` and the distance of the two."""
    loss, test, points = pair_of(site, count)
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
    result = plane_through(site, loss, test, points, knobs)
    # The average lies in the plane; its coordinates are the means of those of the three.
    place = {key: sum(mark[key] for mark in result.marks) / 3 for key in ("x", "y")}
    mark = {"name": AVERAGE, **place, "distance": 0.0} | evaluated(loss, test, with_average(points)[AVERAGE])
    return [{"record": replace(result, marks=[*result.marks, mark]).to_record(None).to_dict()}]


def basin(site: Site, count: int, **knobs: Any) -> Rows:
    """Return the plane through the weights from which SWA begins, those of SGD and those of SWA."""
    loss, test, points = pair_of(site, count)
    three = {START: site.weights("x0", site.runs[1]), **points}
    return [{"record": plane_through(site, loss, test, three, knobs).to_record(None).to_dict()}]


def plane_through(
    site: Site, loss: Loss, test: Loss, points: Mapping[str, Tensor], knobs: Mapping[str, Any]
) -> PlaneResult:
    """Return the plane through three named points."""
    options: dict[str, Any] = {"test_loss": test, "names": tuple(points), "progress": site.progress}
    return ThreePointPlane(**knobs)(loss, *points.values(), **options)


def pair_of(site: Site, count: int) -> tuple[Loss, Loss, Mapping[str, Tensor]]:
    """Return train and test loss, the final weights of the first run, and the average of so many kept of the second."""
    sgd, swa = site.runs
    own = list(kept(replace(site, runs=[swa])).values())
    if len(own) < count:
        raise InputError(f"expected {count} checkpoints in {swa.path}, got {len(own)}: set measure.keep_every")
    return *site.losses(), {SGD: site.weights(sgd.final_checkpoint(), sgd), SWA: mean_of(own[:count])}


def kept(site: Site) -> dict[str, Tensor]:
    """Return the weights of a run's kept checkpoints by name, oldest first."""
    return {checkpoint.name: site.weights(checkpoint.name) for checkpoint in site.checkpoints()}


def last_points(site: Site, count: int = 3) -> dict[str, Tensor]:
    """Return the weights of a run's last kept checkpoints, oldest first, as W1, W2 and so on.

    Raises :class:`InputError` where fewer were kept.
    """
    own = list(kept(site).values())
    if len(own) < count:
        raise InputError(f"expected {count} checkpoints in {site.run.path}, got {len(own)}: set measure.keep_every")
    return {f"W{i}": w for i, w in enumerate(own[-count:], 1)}


def with_average(points: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Return the points and after them their mean."""
    return {**points, AVERAGE: mean_of(list(points.values()))}


def mean_of(points: Sequence[Tensor]) -> Tensor:
    """Return the mean, taken in float64.

    >>> mean_of([torch.tensor([1.0]), torch.tensor([4.0])])
    tensor([2.5000])
    """
    return torch.stack([w.double() for w in points]).mean(0).to(points[0].dtype)


def evaluated(loss: Loss, test: Loss, w: Tensor) -> dict[str, float | None]:
    """Return loss and accuracy over both splits at one point, ``None`` for what is not finite."""
    sides = {"train": loss.evaluate(w), "test": test.evaluate(w)}
    values = {f"{split}_{kind}": getattr(at, kind) for split, at in sides.items() for kind in ("loss", "accuracy")}
    return {name: v if v is not None and math.isfinite(v) else None for name, v in values.items()}
