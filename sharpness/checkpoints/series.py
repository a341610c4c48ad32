"""The checkpoints of a training in their order: found in folders, with their steps and learning rates."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path
from typing import Any

from sharpness.checkpoints import read_content
from sharpness.checkpoints.formats import recognise
from sharpness.config import RunConfig
from sharpness.errors import InputError
from sharpness.parsing import read_object
from sharpness.runs import RunFolder

STEP = re.compile(r"(?:step|checkpoint|ckpt|iter|global_step)[-_=]?(\d+)", re.IGNORECASE)
NUMBER = re.compile(r"\d+")
SUFFIXES = (".safetensors", ".ckpt", ".pt", ".pth", ".bin")
ADAPTIVE = ("adam",)
"""Optimisers of the trainer whose edge of stability is not at 2 over the rate."""


@dataclass(frozen=True)
class Snapshot:
    """One checkpoint of a training: its step, its learning rate where that is known, and where it lies.

    ``run`` is the run folder that says which network and data it is of. ``edge`` is 2 over the rate, and ``None`` where
    the rate is not known or the optimiser rescales the gradient.
    """

    series: str
    step: int
    path: Path
    run: Path | None = None
    rate: float | None = None
    edge: float | None = None


def find_snapshots(paths: Sequence[Path]) -> list[Snapshot]:
    """Return the checkpoints at these paths by series and step, those of folders among them.

    A path is a checkpoint, a run folder (its start and all checkpoints it kept), or a folder of any of these, such as
    one of the Trainer, of Lightning or of a sweep. Steps are those of ``trainer_state.json``, of ``global_step`` in a
    file of torch, or of the name. Raises :class:`InputError` where there is no checkpoint, no step, or one twice.
    """
    found = [snapshot for path in paths for snapshot in _at(path)]
    if not found:
        raise InputError(f"expected checkpoints of a training, got none in {paths[0]}: name files or their folder")
    ordered = sorted(found, key=lambda each: (each.series, each.step))
    for first, second in pairwise(ordered):
        if (first.series, first.step) == (second.series, second.step):
            raise InputError(
                f"expected one checkpoint for each step, got {first.path} and {second.path} for step {first.step}: "
                "name one of them"
            )
    return ordered


def _at(path: Path) -> Iterator[Snapshot]:
    if path.is_dir() and (path / "config.toml").is_file():
        yield from _of_run(RunFolder.open(path))
    elif path.is_dir() and not _is_checkpoint(path):
        inside = [each for each in sorted(path.iterdir()) if _may_be_one(each)]
        yield from (snapshot for each in inside for snapshot in _at(each))
    else:
        recognise(path)  # raises what says what it is
        yield _of_file(path)


def _is_checkpoint(folder: Path) -> bool:
    try:
        recognise(folder)
    except InputError:
        return False
    return True


def _may_be_one(path: Path) -> bool:
    """Say whether something in a folder is taken for a checkpoint: a file by its name, a folder by what is inside."""
    if path.is_dir():
        return not path.name.startswith(".") and (_is_checkpoint(path) or (path / "config.toml").is_file())
    return path.suffix in SUFFIXES and NUMBER.search(path.stem) is not None


def _of_run(run: RunFolder) -> Iterator[Snapshot]:
    config = run.config()
    rates = sorted((row["step"], row["learning_rate"]) for row in run.log() if row.get("learning_rate"))
    for file in sorted(run.path.glob("*.safetensors")):
        step = 0 if file.stem == "x0" else _in_name(file.stem)
        if step is not None:
            rate = next((rate for logged, rate in rates if logged >= step), None)
            yield Snapshot(config.run_id, step, file, run.path, rate, _edge(rate, config))


def _edge(rate: float | None, config: RunConfig) -> float | None:
    """Return 2 (1 + momentum) / rate, where gradient descent with heavy-ball momentum loses its stability."""
    training = config.training
    if not rate or training.optimizer in ADAPTIVE:
        return None
    momentum = training.momentum if training.optimizer != "sgd" else 0.0
    return 2 * (1 + momentum) / rate


def step_of(path: Path) -> int | None:
    """Return the step of a checkpoint as it or its name says, ``None`` where neither does."""
    return _step_and_rate(path)[0]


def _step_and_rate(path: Path) -> tuple[int | None, float | None]:
    step, rate = _in_trainer_state(path) if path.is_dir() else _in_torch_file(path)
    return _in_name(path.name) if step is None else step, rate


def _of_file(path: Path) -> Snapshot:
    step, rate = _step_and_rate(path)
    if step is None:
        raise InputError(
            f"expected a step in the name of {path} or in what it holds, got none: rename it to checkpoint-STEP"
        )
    return Snapshot(path.absolute().parent.name, step, path, None, rate, 2 / rate if rate else None)


def _in_name(name: str) -> int | None:
    """Return the step that a name says, else its last number.

    >>> _in_name("epoch=3-step=400.ckpt"), _in_name("checkpoint-120"), _in_name("w7"), _in_name("last.ckpt")
    (400, 120, 7, None)
    """
    found = STEP.findall(name) or NUMBER.findall(name)
    return int(found[-1]) if found else None


def _in_trainer_state(folder: Path) -> tuple[int | None, float | None]:
    """Return step and rate as the Trainer of Transformers wrote them beside the weights."""
    file = folder / "trainer_state.json"
    if not file.is_file():
        return None, None
    state = read_object(file, "what the Trainer wrote")
    if type(state.get("global_step")) is not int:
        raise InputError(f"expected global_step in {file}, got none: take the file as the Trainer wrote it")
    logged = state.get("log_history")
    rows = [row for row in logged if isinstance(row, Mapping)] if isinstance(logged, list) else []
    rates = [row["learning_rate"] for row in rows if isinstance(row.get("learning_rate"), int | float)]
    return state["global_step"], float(rates[-1]) if rates else None


def _in_torch_file(path: Path) -> tuple[int | None, float | None]:
    """Return step and rate as Lightning puts them beside the weights, in a file of torch."""
    if not recognise(path).startswith(("torch", "pickle")):
        return None, None
    content = read_content(path)
    if not isinstance(content, Mapping):
        return None, None
    step = content.get("global_step")
    return step if type(step) is int else None, _first_rate(content)


def _first_rate(content: Mapping[Any, Any]) -> float | None:
    """Return the rate of the first group of the first optimiser in a checkpoint of Lightning, if there is one."""
    try:
        rate = content["optimizer_states"][0]["param_groups"][0]["lr"]
    except (KeyError, IndexError, TypeError):
        return None
    return float(rate) if isinstance(rate, int | float) and rate > 0 else None
