"""Readers of a data spec's options, which arrive as numbers or text."""

from __future__ import annotations

import math
from pathlib import Path

from sharpness.config.spec import Spec
from sharpness.data.scaling import Scaling
from sharpness.errors import InputError


def whole_number(spec: Spec, name: str, minimum: int) -> int | None:
    """Return an option that counts something, ``None`` where it is left out.

    >>> whole_number(Spec("text:a.txt,length=8", "text", "a.txt", {"length": 8}), "length", 2)
    8
    """
    value = spec.options.get(name)
    if value is not None and (not isinstance(value, int) or isinstance(value, bool) or value < minimum):
        raise InputError(
            f"{spec.text}: expected a whole number of at least {minimum} as {name}, got {value!r}: "
            f"write {name}={max(minimum, 1)} or more"
        )
    return value


def numbers(spec: Spec, name: str) -> tuple[float, ...] | None:
    """Return an option of one number or of several with slashes between them, ``None`` where it is left out.

    >>> numbers(Spec("folder:d,mean=0.5/0.4/0.3", "folder", "d", {"mean": "0.5/0.4/0.3"}), "mean")
    (0.5, 0.4, 0.3)
    """
    value = spec.options.get(name)
    if value is None:
        return None
    try:
        values = tuple(float(piece) for piece in str(value).split("/"))
    except ValueError:
        values = (math.nan,)
    if not all(math.isfinite(number) for number in values):
        raise InputError(
            f"{spec.text}: expected {name} as one number or as one for each channel, got {value!r}: "
            f"write {name}=0.5 or {name}=0.5/0.4/0.3"
        )
    return values


def scaling_of(spec: Spec, default_scale: float) -> Scaling | None:
    """Return what the options scale, mean and std ask for, ``None`` without any of them and a scale of 1.

    >>> scaling_of(Spec("npz:a.npz,mean=0.5", "npz", "a.npz", {"mean": 0.5}), 255)
    Scaling(scale=255, mean=(0.5,), std=(1.0,))
    """
    scale, mean, std = (numbers(spec, name) for name in ("scale", "mean", "std"))
    if scale is None and mean is None and std is None and default_scale == 1:
        return None
    if scale is not None and len(scale) != 1:
        raise InputError(f"{spec.text}: expected one number as scale, got {len(scale)}: write scale=255")
    try:
        return Scaling(scale[0] if scale else default_scale, mean or (0.0,), std or (1.0,))
    except InputError as error:
        raise InputError(f"{spec.text}: {error}") from error


def channels_of(spec: Spec) -> int | None:
    """Return the option ``channels``, 1 or 3, ``None`` where it is left out."""
    channels = spec.options.get("channels")
    if channels is not None and (type(channels) is not int or channels not in (1, 3)):
        raise InputError(f"{spec.text}: expected 1 (grey) or 3 (colour) channels, got {channels!r}: write channels=3")
    return channels


def file_of(spec: Spec) -> Path:
    """Return the file that a spec names; :class:`InputError` where there is none."""
    path = Path(spec.name).expanduser()
    if not path.is_file():
        got = "a folder" if path.is_dir() else "nothing of that name"
        raise InputError(f"{path}: expected a file, got {got}: correct the path after {spec.kind}:")
    return path


def folder_of(spec: Spec) -> Path:
    """Return the folder that a spec names; :class:`InputError` where there is none."""
    path = Path(spec.name).expanduser()
    if not path.is_dir():
        got = "a file" if path.exists() else "nothing of that name"
        raise InputError(f"{path}: expected a folder, got {got}: correct the path after {spec.kind}:")
    return path
