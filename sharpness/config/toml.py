"""Configs as TOML: written out in full, read back with every key and type checked."""

from __future__ import annotations

import math
import types
import typing
from collections.abc import Mapping
from dataclasses import asdict, fields, is_dataclass
from pathlib import Path
from typing import Any, TypeVar

import tomli_w

from sharpness.config.fields import RunConfig, TrainingConfig
from sharpness.errors import InputError, unknown_name
from sharpness.parsing import LONGEST, MAX_TOML, parse_toml, read_bounded, shown_value

T = TypeVar("T")
RETIRED: Mapping[type, Mapping[str, Any]] = {TrainingConfig: {"vectorised": False}}
"""Fields that are gone. Run folders were written with all fields, so one that holds its default is read past."""


def to_toml(config: Any) -> str:
    """Return the TOML text of a config; fields that are ``None`` are left out, which is how they are read back."""
    return tomli_w.dumps(_without_none(asdict(config)))


def _without_none(table: dict[str, Any]) -> dict[str, Any]:
    return {k: _without_none(v) if isinstance(v, dict) else v for k, v in table.items() if v is not None}


def from_toml(path: Path) -> RunConfig:
    """Read a run config, refusing with :class:`InputError` a missing file, bad TOML, an unknown key or a wrong type."""
    try:
        table = parse_toml(read_bounded(path, "a config", MAX_TOML).decode())
    except FileNotFoundError:
        raise InputError(f"expected a config file at {path}, found none: give the path of a .toml file") from None
    except InputError:
        raise
    except (OSError, ValueError) as error:
        raise InputError(f"expected TOML in {path}, got an error: {error}") from error
    return from_dict(RunConfig, table, str(path))


def from_dict(kind: type[T], table: Mapping[str, Any], where: str) -> T:
    """Build a config dataclass from nested tables, checking each key and type.

    >>> from sharpness.config.fields import TrainingConfig
    >>> from_dict(TrainingConfig, {"batch_sise": 32}, "my.toml")
    Traceback (most recent call last):
        ...
    sharpness.errors.InputError: my.toml: unknown key 'batch_sise': expected one of batch_size, ...
    """
    hints = typing.get_type_hints(kind)
    known = [f.name for f in fields(typing.cast(Any, kind))]
    retired = RETIRED.get(kind, {})
    values = {}
    for key, value in table.items():
        if key in retired and value is retired[key]:
            continue
        if key not in known:
            raise InputError(f"{where}: {unknown_name('key', key[:LONGEST], known)}")
        values[key] = _checked(hints[key], value, f"{where}: {key}")
    return kind(**values)


def _checked(hint: Any, value: Any, where: str) -> Any:
    """Return ``value`` as the annotated type (an int will do for a float), or raise the error that names the field."""
    if is_dataclass(hint):
        if not isinstance(value, Mapping):
            raise InputError(
                f"{where}: expected a table, got {shown_value(value)}: write [{where.rsplit(': ')[-1]}] and its keys "
                "below"
            )
        return from_dict(typing.cast(type, hint), value, where)
    if typing.get_origin(hint) is typing.Literal:
        if value not in (choices := typing.get_args(hint)):
            name = value if isinstance(value, str) else shown_value(value)
            raise InputError(f"{where}: {unknown_name('value', name[:LONGEST], map(str, choices))}")
        return value
    if typing.get_origin(hint) is tuple and isinstance(value, list | tuple):
        return tuple(_checked(typing.get_args(hint)[0], item, where) for item in value)
    options = typing.get_args(hint) if isinstance(hint, types.UnionType) else (hint,)
    if float in options and isinstance(value, int) and not isinstance(value, bool) and abs(value) < 2**53:
        return float(value)
    if type(value) in options and not _beyond(value):
        return value
    if typing.get_origin(hint) is tuple:
        options = (list,)
    names = " or ".join(option.__name__ for option in options if option is not type(None))
    raise InputError(f"{where}: expected {names}, got {shown_value(value)} ({type(value).__name__})")


def _beyond(value: Any) -> bool:
    """Say whether a number is none that a field can mean: infinite, not a number, or of more than 64 bits."""
    if type(value) is int:
        return abs(value) >= 2**63
    return isinstance(value, float) and not math.isfinite(value)


def differences(ours: RunConfig, theirs: RunConfig) -> list[str]:
    """List the fields in which two configs differ, as ``section.key: ours != theirs``.

    >>> from sharpness.config.fields import TrainingConfig
    >>> differences(RunConfig(), RunConfig(training=TrainingConfig(seed=1)))
    ['training.seed: 0 != 1']
    """
    others = asdict(theirs)
    return [
        f"{section}.{key}: {mine!r} != {other!r}"
        for section, keys in asdict(ours).items()
        for key, mine in keys.items()
        if (other := others[section][key]) != mine
    ]
