"""What the study of Izmailov et al. 2018 measures itself: how wide two solutions are, and what lies between weights.

Everywhere the statistics of BatchNorm, of a network that has them, are recomputed from the training set at each point.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from sharpness.errors import InputError
from sharpness.landscapes import Interpolation, RandomRays, ThreePointPlane
from sharpness.loss import Loss
from sharpness.measure.runs import subject_of_run
from sharpness.runs import RunFolder
from sharpness.runs.networks import load_run_data, load_weights
from sharpness.vectors import norm

Rows = list[dict[str, Any]]
Progress = Callable[[int, int], None]
SGD, SWA, AVERAGE = "SGD", "SWA", "average"


def rays(
    folders: Sequence[Path], device: torch.device, data_dir: Path | None, progress: Progress, **knobs: Any
) -> Rows:
    """Return the random rays from the weights of SGD and from those of SWA, the same directions from both."""
    loss, test, points = pair_of(folders, device, data_dir)
    probe, rows = RandomRays(**knobs), list[dict[str, Any]]()
    for number, (name, w) in enumerate(points.items()):
        result = probe(loss, w, test_loss=test, progress=lambda done, of, n=number: progress(n * of + done, 2 * of))
        rows.append({"net": name, "length": norm(w), "record": result.to_record().to_dict()})
    return rows


def line(
    folders: Sequence[Path], device: torch.device, data_dir: Path | None, progress: Progress, **knobs: Any
) -> Rows:
    """Return loss and accuracy at ``w(t) = t w_SGD + (1 - t) w_SWA`` and the distance of the two."""
    loss, test, points = pair_of(folders, device, data_dir)
    result = Interpolation(**knobs)(loss, points[SWA], points[SGD], test_loss=test, progress=progress)
    names = ("train_loss", "train_accuracy", "test_loss", "test_accuracy")
    details = result.to_record().to_dict()["details"]  # without what is not finite
    values = zip(details["alphas"], *(details[name] for name in names), strict=True)
    return [dict(zip(("t", *names), row, strict=True)) | {"distance": result.length} for row in values]


def three_points(folders: Sequence[Path], device: torch.device, data_dir: Path | None, progress: Progress) -> Rows:
    """Return loss and accuracy of the weights at the ends of a run's last three cycles and of their average."""
    run = RunFolder.open(folders[0])
    loss, test = losses_of(run, device, data_dir)
    points = with_average(last_points(run, device, data_dir))
    rows: Rows = []
    for name, w in points.items():
        rows.append({"point": name} | evaluated(loss, test, w))
        progress(len(rows), len(points))
    return rows


def plane(
    folders: Sequence[Path], device: torch.device, data_dir: Path | None, progress: Progress, **knobs: Any
) -> Rows:
    """Return the plane through the weights of :func:`three_points`, their average marked with its own losses."""
    run = RunFolder.open(folders[0])
    loss, test = losses_of(run, device, data_dir)
    points = last_points(run, device, data_dir)
    first, second, third = points.values()
    names = tuple(points)
    result = ThreePointPlane(**knobs)(loss, first, second, third, test_loss=test, names=names, progress=progress)
    # The average lies in the plane; its coordinates are the means of those of the three.
    place = {key: sum(mark[key] for mark in result.marks) / 3 for key in ("x", "y")}
    mark = {"name": AVERAGE, **place, "distance": 0.0} | evaluated(loss, test, with_average(points)[AVERAGE])
    record = replace(result, marks=[*result.marks, mark]).to_record(None)
    return [{"record": record.to_dict()}]


def pair_of(
    folders: Sequence[Path], device: torch.device, data_dir: Path | None
) -> tuple[Loss, Loss, Mapping[str, Tensor]]:
    """Return train and test loss of the first of two runs, its final weights, and the average of the second's."""
    sgd, swa = (RunFolder.open(folder) for folder in folders)
    loss, test = losses_of(sgd, device, data_dir)
    dataset = load_run_data(swa.config(), data_dir).to(device)
    average = (swa.manifest() or {}).get("average")
    if average is None:
        raise InputError(f"expected a run with an average of its weights, got {swa.path}: set average.kind to 'swa'")
    points = {
        SGD: load_weights(sgd, sgd.final_checkpoint(), dataset, device),
        SWA: load_weights(swa, average["name"], dataset, device),
    }
    return loss, test, points


def losses_of(run: RunFolder, device: torch.device, data_dir: Path | None) -> tuple[Loss, Loss]:
    """Return the losses of a run's network over its whole training and its whole test set."""
    load = subject_of_run(run, device=device, data_dir=data_dir).split_losses
    losses = None if load is None else load()
    assert losses is not None and losses.test is not None  # a run has both
    return losses.loss, losses.test


def last_points(run: RunFolder, device: torch.device, data_dir: Path | None, count: int = 3) -> dict[str, Tensor]:
    """Return the weights of a run's last kept checkpoints by name, oldest first.

    Raises :class:`InputError` where fewer were kept.
    """
    names = {int(path.stem.partition("-")[2]): path.stem for path in run.path.glob("checkpoint-*.safetensors")}
    if len(names) < count:
        raise InputError(f"expected {count} checkpoints in {run.path}, got {len(names)}: set measure.keep_every")
    dataset = load_run_data(run.config(), data_dir).to(device)
    steps = sorted(names)[-count:]
    return {f"W{i}": load_weights(run, names[step], dataset, device) for i, step in enumerate(steps, 1)}


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
