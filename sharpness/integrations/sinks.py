"""Places for a tracker's rows besides a file of JSON Lines: TensorBoard, Weights & Biases, Trackio, if installed."""

from __future__ import annotations

import importlib
from pathlib import Path
from typing import Any

from sharpness.errors import InputError
from sharpness.training.tracker import Sink

PREFIX = "sharpness/"


def tensorboard(folder: str | Path) -> Sink:
    """Return the sink that writes each number of a row as a scalar into TensorBoard's files in a folder."""
    writer = _library("torch.utils.tensorboard", "tensorboard").SummaryWriter(str(folder))

    def sink(row: dict[str, Any]) -> None:
        for name, value in numbers(row).items():
            writer.add_scalar(name, value, row["step"])
        writer.flush()

    return sink


def wandb(**settings: Any) -> Sink:
    """Return the sink that logs into Weights & Biases: into the run in progress, or one begun with these settings."""
    return _shaped_like_wandb("wandb", settings)


def trackio(**settings: Any) -> Sink:
    """Return the sink that logs into Trackio: into the run in progress, or one begun with these settings."""
    return _shaped_like_wandb("trackio", settings)


def _shaped_like_wandb(name: str, settings: dict[str, Any]) -> Sink:
    library = _library(name, name)
    if settings:
        library.init(**settings)
    # Without step=: the loop's own logs count those, and they may be ahead; sharpness/step is an axis.
    return lambda row: library.log(numbers(row))


def numbers(row: dict[str, Any]) -> dict[str, float]:
    """Return the numbers of a row with the prefix of the sinks; words and what could not be had are left out.

    >>> numbers({"step": 3, "top_eigenvalue": None, "top_eigenvalue_reason": "no memory"})
    {'sharpness/step': 3}
    """
    return {PREFIX + name: value for name, value in row.items() if isinstance(value, int | float)}


def _library(module: str, name: str) -> Any:
    try:
        return importlib.import_module(module)
    except ImportError as error:
        raise InputError(f"expected {name} to be installed, got {error}: pip install {name}") from error
