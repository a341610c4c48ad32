"""The ``sharpness`` command: train a run, probe any checkpoint, compare two, track many, list what there is."""

from __future__ import annotations

import os
import sys

import tyro

from sharpness.cli.knobs import split_knobs
from sharpness.cli.options import (
    Advise,
    Collect,
    Command,
    Compare,
    Landscape,
    Predict,
    Probe,
    Report,
    Stress,
    Track,
    Train,
)
from sharpness.cli.output import bar_columns
from sharpness.errors import InputError, run_command

__all__ = ["bar_columns", "main", "run_command"]


def main() -> None:
    """Run the command line; bad input exits with code 2 and one line, a failed run with code 1."""
    run_command(_dispatch)


def _dispatch() -> None:
    """Parse the command line without torch, which only what the command asks for loads."""
    arguments, knobs = split_knobs(sys.argv[1:])
    description = "How flat or sharp is the minimum a network sits in?"
    command = tyro.cli(Command, prog="sharpness", description=description, args=arguments)  # type: ignore[arg-type]
    if knobs and not isinstance(command, Probe | Compare | Track | Stress | Landscape):
        raise InputError(f"expected knobs with the commands that measure only, got --{next(iter(knobs))}.…")
    if isinstance(command, Train):
        # Before its first tensor, torch reads here whether to ask Linux for memory pages of 2 MiB. The bits are the
        # same, and large batches of convolutions lose less time to page faults (figures/benchmark_training).
        os.environ.setdefault("THP_MEM_ALLOC_ENABLE", "1")
        from sharpness.cli.train import run_train

        run_train(command)
    elif isinstance(command, Probe):
        from sharpness.cli.probe import run_probe

        run_probe(command, knobs)
    elif isinstance(command, Predict):
        from sharpness.cli.predict import run_predict

        run_predict(command)
    elif isinstance(command, Advise):
        from sharpness.cli.advise import run_advise

        run_advise(command)
    elif isinstance(command, Compare):
        from sharpness.cli.compare import run_compare

        run_compare(command, knobs)
    elif isinstance(command, Track):
        from sharpness.cli.track import run_track

        run_track(command, knobs)
    elif isinstance(command, Stress):
        from sharpness.cli.stress import run_stress

        run_stress(command, knobs)
    elif isinstance(command, Landscape):
        from sharpness.cli.landscape import run_landscape

        run_landscape(command, knobs)
    elif isinstance(command, Collect):
        from sharpness.cli.collect import run_collect

        run_collect(command)
    elif isinstance(command, Report):
        from sharpness.cli.report import run_report

        run_report(command)
    else:
        from sharpness.cli.lists import run_list

        run_list(command)
