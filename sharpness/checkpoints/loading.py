"""Weights go from a checkpoint into a model: one reading is chosen, all is checked, each tensor is copied once."""

from __future__ import annotations

import shlex
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import torch
from torch import Tensor, nn

from sharpness.checkpoints.matching import MatchReport, match, refuse_differences, refuse_other_kinds
from sharpness.checkpoints.readings import Reading
from sharpness.checkpoints.views import Target, View, views_of
from sharpness.checkpoints.wording import naming, shown
from sharpness.errors import InputError, unknown_name
from sharpness.vectors import is_finite, refuse_non_finite

Matched = tuple[View, MatchReport]
PIECE = 1 << 20
"""Entries looked at together, so that no second copy of a large tensor is made."""


@dataclass(frozen=True, eq=False)
class Checkpoint:
    """The content of a file or a folder: sets of named tensors, still in the mapped files where the format allows it.

    ``kind`` is one of :func:`sharpness.checkpoints.formats.recognise`. ``sha256`` is the hash of the file, and
    of several files the hash of the lines ``name digest`` in the order of their names. ``inert`` are the classes and
    functions that a pickle names and that stayed stand-ins, without those that were expected.
    """

    path: Path
    kind: str
    sha256: str
    readings: tuple[Reading, ...]
    inert: tuple[str, ...] = ()


def load_into(
    model: nn.Module, checkpoint: Checkpoint, *, key: str | None = None, ema: bool = False, strict: bool = True
) -> MatchReport:
    """Copy the weights of a checkpoint into a model and return what was used of both.

    Of several readings it takes the one that fits the model, or that named ``key``; weights averaged over the training
    only with ``ema``. Raises :class:`InputError`, and leaves the model as it is, when several fit or none does, when a
    tensor is missing or unexpected (unless ``strict`` is false) or has another shape or kind, and when a weight is NaN
    or infinite.

    >>> reading = Reading("state_dict", {"module.weight": torch.ones(1, 2), "module.bias": torch.zeros(1)})
    >>> model = nn.Linear(2, 1)
    >>> print(load_into(model, Checkpoint(Path("a.pt"), "torch", "", (reading,))))
    a.pt: 2 tensors used ('state_dict', without module.)
    >>> model.weight.tolist()
    [[1.0, 1.0]]
    """
    with naming(checkpoint.path):
        target = Target.of(model)
        view, report = _matched(target, checkpoint, key, ema, strict)
        given = {own: view.reading.tensors[name] for own, name in view.names.items()}
        refuse_non_finite("weights", _non_finite(given.items(), target), "the training diverged: take an earlier file")
        for name, tensor in given.items():
            twins = [twin for twin in target.twins.get(name, ()) if twin in given]
            if twins and not torch.equal(tensor, given[twins[0]]):
                raise InputError(
                    f"expected one tensor for {shown(sorted(twins))}, which are tied in the model, got different ones: "
                    "untie them in the model's configuration"
                )
    with torch.no_grad():
        for name, tensor in given.items():
            target.tensors[name].copy_(tensor)
    return report


def check_fit(
    model: nn.Module, checkpoint: Checkpoint, *, key: str | None = None, ema: bool = False, strict: bool = True
) -> None:
    """Raise what :func:`load_into` does for names, shapes and kinds, which a model on the meta device has too.

    >>> reading = Reading("", {"weight": torch.ones(1, 2)})
    >>> check_fit(nn.Linear(3, 1, False, device="meta"), Checkpoint(Path("a.pt"), "torch", "", (reading,)))
    Traceback (most recent call last):
    sharpness.checkpoints.matching.MismatchError: a.pt: expected tensors of the model's shapes in the file...
    """
    with naming(checkpoint.path):
        _matched(Target.of(model), checkpoint, key, ema, strict)


def _matched(target: Target, checkpoint: Checkpoint, key: str | None, ema: bool, strict: bool) -> Matched:
    """Return the view of a checkpoint that fits; :class:`InputError` without just one and for other shapes or kinds."""
    matched = [
        (view, match(checkpoint.path, view, target))
        for reading in checkpoint.readings
        for view in views_of(reading, target)
    ]
    view, report = _choose(_named(matched, key), ema, strict)
    refuse_differences(report, strict)
    refuse_other_kinds(view, target)
    return view, replace(report, inert=checkpoint.inert)


def _named(matched: list[Matched], key: str | None) -> list[Matched]:
    if key is None:
        return matched
    chosen = [(view, report) for view, report in matched if key in (view.label, view.reading.name)]
    if not chosen:
        known = {view.label for view, _ in matched} | {view.reading.name for view, _ in matched}
        raise unknown_name("--key", key, [shown([label]) for label in known])
    return chosen


def _choose(matched: list[Matched], ema: bool, strict: bool) -> Matched:
    """Return the one view that fits, or the nearest one where none does."""
    averaged = [(view, report) for view, report in matched if view.ema or view.average]
    if ema:
        if not averaged:
            raise InputError(f"expected averaged weights, got only {_labels(matched)}: leave out --ema")
        return _only(averaged, strict)
    # A file that is nothing but an AveragedModel was asked for by its name; one that is called EMA never is.
    plain = [(view, report) for view, report in matched if not view.ema]
    if any(report.fits and not view.average for view, report in plain):
        plain = [(view, report) for view, report in plain if not view.average]
    if not any(report.fits for _, report in plain) and _most(averaged) > _most(plain):
        raise InputError(
            f"expected weights at the end of the training, got averages only ({_labels(averaged)}): add --ema"
        )
    return _only(plain, strict)


def _only(matched: list[Matched], strict: bool) -> Matched:
    fitting = [(view, report) for view, report in matched if report.fits]
    if not fitting:
        best = _most(matched)
        nearest = [(view, report) for view, report in matched if len(report.used) == best]
        fitting = nearest[:1] if strict or best == 0 else nearest
    if len(fitting) > 1:
        raise InputError(
            f"expected one set of weights that fits, got several: choose one with --key {_labels(fitting, ' or ')}"
        )
    return fitting[0]


def _most(matched: list[Matched]) -> int:
    """Return the largest number of the model's tensors that one of the views gives, -1 without any view."""
    return max((len(report.used) for _, report in matched), default=-1)


def _labels(matched: Sequence[Matched], separator: str = ", ") -> str:
    labels = [view.label for view, _ in matched[:8]]
    return separator.join(shlex.quote(label) if label.isprintable() else repr(label) for label in labels)


def _non_finite(given: Iterable[tuple[str, Tensor]], target: Target) -> Iterator[tuple[str, Tensor]]:
    """Yield the tensors that hold NaN or infinity once they have the model's type."""
    for name, tensor in given:
        dtype = target.tensors[name].dtype
        if not all(is_finite(piece.to(dtype)) for piece in tensor.reshape(-1).split(PIECE)):
            yield name, tensor.to(dtype)
