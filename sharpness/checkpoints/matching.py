"""The match of the tensors of a file and of a model: which are used, missing, too many, of another shape or type."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from sharpness.checkpoints.views import Target, View
from sharpness.checkpoints.wording import shown
from sharpness.errors import InputError

Shape = tuple[int, ...]


@dataclass(frozen=True)
class MatchReport:
    """The fate of every tensor of a reading and of a model.

    ``reading`` is the place in the file, ``prefix`` what was taken off each name, ``wrappers`` the names of wrappers
    taken out of them. ``ema`` says that these are weights averaged over the training. ``used`` (in the order of the
    file) and ``missing`` are names in the model, ``unexpected`` names in the file, ``wrong_shape`` the model's name
    with the shapes in file and model. ``dtypes`` counts the types in the file, ``casts`` those that are not the
    model's, as ``float16 to float32``. ``inert`` are classes and functions that the file names, of which nothing was
    imported or called; ``frozen`` counts what the file of an adapter leaves out.
    """

    path: str
    reading: str
    ema: bool
    prefix: str
    wrappers: tuple[str, ...]
    used: tuple[str, ...]
    missing: tuple[str, ...]
    unexpected: tuple[str, ...]
    wrong_shape: tuple[tuple[str, Shape, Shape], ...]
    dtypes: Mapping[str, int]
    casts: Mapping[str, int]
    frozen: int = 0
    inert: tuple[str, ...] = ()

    @property
    def fits(self) -> bool:
        """Say whether file and model have the same tensors."""
        return not (self.missing or self.unexpected or self.wrong_shape)

    def details(self) -> dict[str, Any]:
        """Return the report as plain types for a record, with the number of the used tensors instead of their names."""
        return asdict(self) | {"used": len(self.used)}

    def __str__(self) -> str:
        taken = [f"{self.reading!r}" if self.reading else "", "averaged over the training" if self.ema else ""]
        taken += [f"without {shown([self.prefix])}" if self.prefix else ""]
        taken += [f"without {shown(self.wrappers)} inside" if self.wrappers else ""]
        taken += [f"{count} cast from {cast}" for cast, count in self.casts.items()]
        taken += [f"missing: {shown(self.missing)}" if self.missing else ""]
        taken += [f"not used: {shown(self.unexpected)}" if self.unexpected else ""]
        taken += [f"an adapter, beside {self.frozen} frozen tensors that stay as they are" if self.frozen else ""]
        taken += [f"kept inert, neither imported nor called: {shown(self.inert)}" if self.inert else ""]
        notes = ", ".join(note for note in taken if note)
        return f"{self.path}: {len(self.used)} tensors used" + (f" ({notes})" if notes else "")


def match(path: Path, view: View, target: Target) -> MatchReport:
    """Return how one view of a file fits a model."""
    given = {own: view.reading.tensors[name] for own, name in view.names.items()}
    wrong = tuple(
        (own, tuple(tensor.shape), tuple(target.tensors[own].shape))
        for own, tensor in given.items()
        if tensor.shape != target.tensors[own].shape
    )
    dtypes = Counter(_name(tensor.dtype) for tensor in given.values())
    casts = Counter(
        f"{_name(tensor.dtype)} to {_name(target.tensors[own].dtype)}"
        for own, tensor in given.items()
        if tensor.dtype != target.tensors[own].dtype
    )
    bad = {own for own, *_ in wrong}
    return MatchReport(
        path=str(path),
        reading=view.reading.name,
        ema=view.ema or view.average,
        prefix=view.prefix,
        wrappers=view.pieces,
        used=tuple(own for own in given if own not in bad),
        missing=target.missing(given),
        unexpected=view.others,
        wrong_shape=wrong,
        dtypes=dict(sorted(dtypes.items())),
        casts=dict(sorted(casts.items())),
        frozen=len(target.frozen) if target.is_adapters(given) else 0,
    )


class MismatchError(InputError):
    """The tensors of a file are not those of the model; ``report`` says which."""

    def __init__(self, report: MatchReport, message: str) -> None:
        super().__init__(message)
        self.report = report


def refuse_differences(report: MatchReport, strict: bool) -> None:
    """Raise :class:`MismatchError` for tensors of other shapes, and with ``strict`` for missing and unexpected ones."""
    where = f"in {report.reading!r}" if report.reading else "in the file"
    if report.wrong_shape:
        more = f" and {len(report.wrong_shape) - 3} more" if len(report.wrong_shape) > 3 else ""
        shapes = ", ".join(_difference(*entry) for entry in report.wrong_shape[:3])
        raise MismatchError(
            report, f"expected tensors of the model's shapes {where}, got {shapes}{more}: {_cure(report)}"
        )
    if not report.used:
        raise MismatchError(
            report,
            f"expected tensors of the model {where}, got others ({shown(report.unexpected) or 'none'} instead of "
            f"{shown(report.missing)}): choose the model that the file was made with",
        )
    if strict and not report.fits:
        lists = {"missing": report.missing, "unexpected": report.unexpected}
        found = ", ".join(f"{len(names)} {kind} ({shown(names)})" for kind, names in lists.items() if names)
        raise MismatchError(
            report,
            f"expected the model's tensors and no others {where}, got {len(report.used)} of them, {found}: choose the "
            "model that the file was made with, or read what fits with --no-strict (strict=False)",
        )


def _difference(name: str, file: Shape, model: Shape) -> str:
    if len(file) == len(model) and file and file[1:] == model[1:]:
        return f"{name} has {file[0]} rows in the file and {model[0]} in the model"
    return f"{name} is {file} in the file and {model} in the model"


def _cure(report: MatchReport) -> str:
    """Say how many classes or channels the file's model has, where one layer differs in just that."""
    layers = {name.rpartition(".")[0] for name, _, _ in report.wrong_shape}
    if len(layers) == 1:
        name, file, model = report.wrong_shape[0]
        if report.used and len({entry[1][:1] for entry in report.wrong_shape}) == 1 and file[1:] == model[1:]:
            return f"wrong number of classes? use num_classes={file[0]}"
        if len(file) == len(model) > 1 and (file[:1], file[2:]) == (model[:1], model[2:]):
            return f"wrong number of inputs? {name} takes {file[1]} of them in the file"
    return "choose the model that the file was made with, with the same sizes"


def refuse_other_kinds(view: View, target: Target) -> None:
    """Raise :class:`InputError` where the file has integers, quantised or complex numbers for the model's floats."""
    for own, name in view.names.items():
        tensor, wanted = view.reading.tensors[name], target.tensors[own]
        if _kind(tensor) != _kind(wanted):
            raise InputError(
                f"expected {own} in {_kind(wanted)} such as {_name(wanted.dtype)}, got {_name(tensor.dtype)}: "
                "quantised or other weights cannot be measured, so take those that they were made from"
            )


def _kind(tensor: Tensor) -> str:
    if tensor.is_complex():
        return "complex numbers"
    if tensor.is_floating_point():
        return "floating point" if tensor.itemsize > 1 else "floating point of 8 bits"
    return "integers"


def _name(dtype: torch.dtype) -> str:
    return str(dtype).removeprefix("torch.")
