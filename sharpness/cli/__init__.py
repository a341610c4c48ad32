"""The ``sharpness`` command: train a run, probe any checkpoint, compare two, track many, list what there is.

It may import all of the library, and nothing imports it.
"""

from __future__ import annotations

import os
import sys
from importlib import import_module

import tyro

from sharpness.cli.knobs import split_knobs
from sharpness.cli.options import Command
from sharpness.cli.output import bar_columns
from sharpness.errors import InputError, run_command

__all__ = ["bar_columns", "main", "run_command"]

MEASURING = ("probe", "compare", "track", "stress", "landscape")
"""The commands that take the knobs of what they measure with."""
LISTS = ("landscapes", "probes", "models", "datasets")
"""The commands that list what there is; each other one has a module of its name here."""


def main() -> None:
    """Run the command line; bad input exits with code 2 and one line, a failed run with code 1."""
    run_command(_dispatch)


def _dispatch() -> None:
    """Parse the command line without torch, which only what the command asks for loads."""
    arguments, knobs = split_knobs(sys.argv[1:])
    description = "How flat or sharp is the minimum a network sits in?"
    command = tyro.cli(Command, prog="sharpness", description=description, args=arguments)  # type: ignore[arg-type]
    name = type(command).__name__.lower()
    if knobs and name not in MEASURING:
        raise InputError(f"expected knobs with the commands that measure only, got --{next(iter(knobs))}.…")
    if name == "train":
        # Before its first tensor, torch reads here whether to ask Linux for memory pages of 2 MiB. The bits are the
        # same, and large batches of convolutions lose less time to page faults (figures/benchmark_training).
        os.environ.setdefault("THP_MEM_ALLOC_ENABLE", "1")
    name = "list" if name in LISTS else name
    run = getattr(import_module(f"sharpness.cli.{name}"), f"run_{name}")
    run(command, *([knobs] if name in MEASURING else []))
