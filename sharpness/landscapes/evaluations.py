"""Loss and accuracy at many points of weight space, one line on disk per point: a killed grid loses nothing."""

from __future__ import annotations

import hashlib
import json
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from torch import Tensor

from sharpness.errors import InputError, RunError
from sharpness.files import append_jsonl, intact_rows, sealed_row
from sharpness.loss import Evaluation, Loss
from sharpness.machine.distributed import from_all_ranks, rank
from sharpness.machine.progress import Progress
from sharpness.results import facts_of
from sharpness.vectors import sha256_of

FILE = "cells-{part}-of-{parts}.jsonl"
SYNC_SECONDS = 1.0
"""A kill loses no point; a power loss takes those of so many seconds at most."""

MAX_POINTS = 1_000_000
"""More than a figure shows, and at 10 ms each three hours; what is beyond is a slip of the hand."""


@dataclass(frozen=True, kw_only=True)
class Sampling:
    """The options with which the points of a landscape are measured.

    ``names`` are those of the checkpoints. Part ``(i, n)`` is the points whose number is i modulo n. With ``resume``
    every point is appended there when it is done and read back when it is there already, whoever measured it.
    ``progress`` counts the points of the part. Raises :class:`InputError` for a part that there is not, and for one
    without a folder to share.
    """

    test_loss: Loss | None = None
    names: Sequence[str] = ()
    resume: Path | None = None
    part: tuple[int, int] = (0, 1)
    progress: Progress | None = None

    def __post_init__(self) -> None:
        """Refuse a part that there is not."""
        mine, parts = self.part
        if not 0 <= mine < parts:
            raise InputError(f"expected a part from 1 to {parts}, got {mine + 1}")
        if parts > 1 and self.resume is None:
            raise InputError("expected a folder that the parts of a grid share, got none: pass resume")

    def own(self, count: int) -> range:
        """Return the numbers of the points of this part, of so many in all."""
        mine, parts = self.part
        return range(mine, count, parts)


@dataclass(frozen=True)
class Evaluations:
    """Loss and accuracy at each point in order; ``test`` is ``None`` where there were no test data."""

    train: list[Evaluation]
    test: list[Evaluation] | None

    @property
    def num_forwards(self) -> int:
        """The number of points times the number of data sets."""
        return len(self.train) + len(self.test or ())

    def curves(self, start: int = 0, stop: int | None = None) -> dict[str, Any]:
        """Return ``train_loss``, ``train_accuracy``, ``test_loss`` and ``test_accuracy`` of a range of points."""
        sides = {"train": self.train, "test": self.test}
        return {
            f"{side}_{what}": None if points is None else [getattr(point, what) for point in points[start:stop]]
            for side, points in sides.items()
            for what in ("loss", "accuracy")
        }


class PointsMissing(RunError):
    """Raised where other processes have not done their share of the points yet."""


def evaluate_points(
    loss: Loss,
    points: Callable[[int], Tensor],
    count: int,
    sampling: Sampling,
    knobs: Mapping[str, Any] | None = None,
) -> Evaluations:
    """Return loss and accuracy at ``points(0), ..., points(count - 1)``, of which this process measures its share.

    Points of another landscape in the folder (other ``knobs``, losses or first, middle or last point) are left alone.
    Raises :class:`InputError` for more than :data:`MAX_POINTS`, and :class:`PointsMissing` where points of other parts
    are not there yet when the own ones are done.

    >>> import torch
    >>> model = torch.nn.Linear(1, 1, bias=False)
    >>> loss = Loss(model, torch.nn.functional.mse_loss, [(torch.ones(1, 1), torch.zeros(1, 1))])
    >>> evaluate_points(loss, lambda i: torch.tensor([float(i)]), 3, Sampling()).curves()["train_loss"]
    [0.0, 1.0, 4.0]
    """
    if count > MAX_POINTS:
        raise InputError(f"expected at most {MAX_POINTS} points, got {count}: take fewer along each axis")
    test_loss, resume = sampling.test_loss, sampling.resume
    own, (mine, parts) = sampling.own(count), sampling.part
    key = "" if resume is None else _key(loss, test_loss, points, count, knobs)
    known = from_all_ranks(_known(resume, key))[0]  # processes of torchrun measure each point together
    synced = time.monotonic()
    for done, number in enumerate(own, 1):
        if number not in known:
            w = points(number)
            known[number] = (loss.evaluate(w), None if test_loss is None else test_loss.evaluate(w))
            if resume is not None and rank() == 0:
                resume.mkdir(parents=True, exist_ok=True)
                train, test = map(_row, known[number])
                sync = done == len(own) or time.monotonic() - synced > SYNC_SECONDS
                row = {"of": key, "cell": number, "train": train, "test": test}
                append_jsonl(resume / FILE.format(part=mine + 1, parts=parts), sealed_row(row), sync=sync)
                synced = time.monotonic() if sync else synced
        if sampling.progress is not None:
            sampling.progress(done, len(own))
    known |= from_all_ranks(_known(resume, key))[0]
    if missing := count - len(known):
        raise PointsMissing(f"{missing} of {count} points are not there yet: run the other parts of {parts} too")
    pairs = [known[number] for number in range(count)]
    tests = None if test_loss is None else [test for _, test in pairs if test is not None]
    return Evaluations([train for train, _ in pairs], tests)


def _key(
    loss: Loss,
    test_loss: Loss | None,
    points: Callable[[int], Tensor],
    count: int,
    knobs: Mapping[str, Any] | None,
) -> str:
    """Return what tells the points of one landscape from those of another."""
    facts = [facts_of(side) for side in (loss, test_loss) if side is not None]
    weights = sha256_of(points(number) for number in (0, count // 2, count - 1))
    return hashlib.sha256(json.dumps([facts, count, knobs, weights]).encode()).hexdigest()[:16]


def _known(folder: Path | None, key: str) -> dict[int, tuple[Evaluation, Evaluation | None]]:
    """Return the points of this landscape that any process has written.

    One that was changed or damaged since is none: it is measured again.
    """
    if folder is None or not folder.exists():
        return {}
    known = {}
    for path in sorted(folder.glob(FILE.format(part="*", parts="*"))):
        for row in intact_rows(path):
            if row["of"] == key:
                test = row["test"]
                known[row["cell"]] = _evaluation(row["train"]), None if test is None else _evaluation(test)
    return known


def _row(point: Evaluation | None) -> dict[str, Any] | None:
    """Return a point as JSON has it: numbers in full, and infinity and NaN, which JSON has not, as words."""
    return None if point is None else {"loss": repr(point.loss), "accuracy": point.accuracy}


def _evaluation(row: Mapping[str, Any]) -> Evaluation:
    return Evaluation(float(row["loss"]), row["accuracy"])
