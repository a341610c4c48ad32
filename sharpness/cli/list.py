"""``sharpness probes``, ``landscapes``, ``models`` and ``datasets``: what there is, one line each."""

from __future__ import annotations

import inspect
from collections.abc import Mapping
from dataclasses import fields
from typing import TYPE_CHECKING

from rich.console import Console

from sharpness.cli.options import Datasets, Landscapes, Models, Probes
from sharpness.cli.output import make_console, say
from sharpness.errors import unknown_name

if TYPE_CHECKING:  # it loads torch
    from sharpness.results import ProbeInfo


def run_list(command: Probes | Landscapes | Models | Datasets) -> None:
    """Print the list that was asked for."""
    console = make_console()
    if isinstance(command, Probes | Landscapes):
        rows = _registry(command)
        if command.name is not None:
            _explain(console, command.name, rows, type(command).__name__.lower().removesuffix("s"))
        else:
            _rows(console, {name: info.description for name, info in rows.items()})
    elif isinstance(command, Models):
        from sharpness.models import MODELS
        from sharpness.models.user_model import MODEL_SOURCES

        sources = {source.usage: source.description for source in MODEL_SOURCES.values()}
        own = {"package.module:factory": "a function of yours, called with the options behind the name"}
        _rows(console, {name: info.description for name, info in MODELS.items()} | sources | own)
    else:
        from sharpness.data import DATASETS
        from sharpness.data.sources import SOURCES

        _rows(
            console,
            {name: info.description for name, info in DATASETS.items()}
            | {source.usage: source.description for source in SOURCES.values()}
            | {"package.module:factory": "a function of yours that returns tensors, a Dataset or batches"},
        )


def _rows(console: Console, rows: dict[str, str]) -> None:
    width = max(map(len, rows))
    for name, description in rows.items():
        say(console, f"{name:<{width}}  {description}")


def _registry(command: Probes | Landscapes) -> Mapping[str, ProbeInfo]:
    if isinstance(command, Probes):
        from sharpness.probes import PROBES

        return PROBES
    from sharpness.landscapes import LANDSCAPES

    return LANDSCAPES


def _explain(console: Console, name: str, rows: Mapping[str, ProbeInfo], what: str) -> None:
    """Print what one measures, with its source, and its knobs with their defaults."""
    if name not in rows:
        raise unknown_name(what, name, rows)
    kind = rows[name].probe
    text = inspect.getdoc(kind) or rows[name].description
    say(console, text.partition("\n>>> ")[0].rstrip())
    say(console, "\nKnobs:")
    for knob in fields(kind):
        say(console, f"  --{name}.{knob.name}  {knob.default}  ({knob.type})")
