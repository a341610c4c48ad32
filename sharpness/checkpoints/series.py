"""The checkpoints of a training in their order: found in folders, with their steps and learning rates."""

from __future__ import annotations

import re
from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import pairwise
from pathlib import Path
from typing import Any

from sharpness.checkpoints import read_content
from sharpness.checkpoints.formats import recognise
from sharpness.config import RunConfig
from sharpness.curvature.edges import descent_edge
from sharpness.errors import InputError
from sharpness.parsing import read_object
from sharpness.runs import RunFolder

STEP = re.compile(r"(?:step|checkpoint|ckpt|iter|global_step)[-_=]?(\d+)", re.IGNORECASE)
EPOCH = re.compile(r"(?<![a-z])(?:epoch|ep)[-_=]?(\d+)", re.IGNORECASE)
NUMBER = re.compile(r"\d+")
DECIMAL = re.compile(r"\d+\.\d+")
SUFFIXES = (".safetensors", ".ckpt", ".pt", ".pth", ".bin")
DESCENT = ("sgd", "momentum", "nesterov")
"""Optimisers of the trainer whose edge of stability is known from the rate and the momentum alone."""
GROUP_OF_SGD = frozenset(
    [
        "lr",
        "momentum",
        "dampening",
        "weight_decay",
        "nesterov",
        "maximize",
        "foreach",
        "differentiable",
        "fused",
        "params",
        "initial_lr",
        "name",
    ]
)
"""What torch's SGD, its schedules and Lightning keep in a group: another key belongs to another optimiser."""


@dataclass(frozen=True)
class Snapshot:
    """One checkpoint of a training: its step, its learning rate where that is known, and where it lies.

    ``run`` is the run folder that says which network and data it is of. ``edge`` is that of gradient descent with its
    momentum, and ``None`` where the rate or the optimiser is not known, or the optimiser is no gradient descent.
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
    if not paths:
        raise InputError("expected checkpoints of a training, got none: name files or their folder")
    found = [snapshot for path in paths for snapshot in _at(path)]
    if not found:
        raise InputError(f"expected checkpoints of a training, got none in {paths[0]}: name files or their folder")
    ordered = sorted(_told_apart(found), key=lambda each: (each.series, each.step))
    for first, second in pairwise(ordered):
        if (first.series, first.step) == (second.series, second.step):
            raise InputError(
                f"expected one checkpoint for each step, got {first.path} and {second.path} for step {first.step}: "
                "name one of them"
            )
    return ordered


def _told_apart(found: Sequence[Snapshot]) -> Iterator[Snapshot]:
    """Yield the checkpoints with the name of their folder as series, and as much before it as tells folders apart."""
    folders = {each.series: Path(each.series).parts for each in found if each.run is None}
    names = {folder: _shortest(parts, folders.values()) for folder, parts in folders.items()}
    for each in found:
        yield replace(each, series=names.get(each.series, each.series))


def _shortest(parts: tuple[str, ...], folders: Collection[tuple[str, ...]]) -> str:
    """Return the fewest last parts of a path that no other folder ends with."""
    ends = (parts[-length:] for length in range(1, len(parts) + 1))
    alone = (end for end in ends if sum(other[-len(end) :] == end for other in folders) == 1)
    return "/".join(next(alone, parts))


def _at(path: Path) -> Iterator[Snapshot]:
    if path.is_dir() and (path / "config.toml").is_file():
        yield from _of_run(RunFolder.open(path))
    elif path.is_dir() and (of_trainer := _of_trainer(path)):
        yield from of_trainer
    elif path.is_dir() and not _is_checkpoint(path):
        inside = [each for each in sorted(path.iterdir()) if _may_be_one(each)]
        yield from (snapshot for each in inside for snapshot in _at(each))
    else:
        recognise(path)  # raises what says what it is
        yield _of_file(path)


def _of_trainer(folder: Path) -> list[Snapshot]:
    """Return the checkpoints of a Trainer that saved its last model beside them, and that one if its step is new."""
    if not _is_checkpoint(folder):
        return []
    inside = [each for each in sorted(folder.glob("checkpoint-*")) if each.is_dir() and _is_checkpoint(each)]
    found = [_of_file(each) for each in inside]
    step, rate = _in_trainer_state(folder)
    if found and step is not None and step not in {each.step for each in found}:
        found.append(Snapshot(found[0].series, step, folder, rate=rate))
    return found


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
    files = {step: run.path / f"checkpoint-{step}.safetensors" for step in run.kept_steps()}
    if (start := run.path / "x0.safetensors").is_file():
        files = {0: start, **files}
    for step, file in files.items():
        rate = next((rate for logged, rate in rates if logged >= step), None)
        yield Snapshot(config.run_id, step, file, run.path, rate, edge_of_run(rate, config))


def edge_of_run(rate: float | None, config: RunConfig) -> float | None:
    """Return where the run's gradient descent loses its stability, ``None`` where its gradient is changed before."""
    training = config.training
    changed = training.sam_rho is not None or training.proximal is not None or training.clip_norm is not None
    if not rate or changed or training.optimizer not in DESCENT:
        return None
    momentum = training.momentum if training.optimizer != "sgd" else 0.0
    return descent_edge(rate, momentum, nesterov=training.optimizer == "nesterov")


def step_of(path: Path) -> int | None:
    """Return the step of a checkpoint as it or its name says, ``None`` where neither does."""
    return _step_and_rates(path)[0]


def _step_and_rates(path: Path) -> tuple[int | None, float | None, float | None]:
    """Return step, learning rate and edge, each where it is known: the Trainer's state does not name its optimiser."""
    if path.is_dir():
        (step, rate), edge = _in_trainer_state(path), None
    else:
        step, rate, edge = _in_torch_file(path)
    return _in_name(path.name) if step is None else step, rate, edge


def _of_file(path: Path) -> Snapshot:
    step, rate, edge = _step_and_rates(path)
    if step is None:
        raise InputError(
            f"expected a step in the name of {path} or in what it holds, got none: rename it to checkpoint-STEP"
        )
    return Snapshot(str(path.absolute().parent), step, path, None, rate, edge)


def _in_name(name: str) -> int | None:
    """Return the step that a name says, else its epoch, else its last whole number; a loss in a name is no step.

    >>> _in_name("epoch=3-step=400.ckpt"), _in_name("checkpoint-120"), _in_name("w7"), _in_name("last.ckpt")
    (400, 120, 7, None)
    >>> _in_name("epoch_3_loss_0.41.pt"), _in_name("w7-acc0.98.pt")
    (3, 7)
    """
    found = STEP.findall(name) or EPOCH.findall(name) or NUMBER.findall(DECIMAL.sub("", name))
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


def _in_torch_file(path: Path) -> tuple[int | None, float | None, float | None]:
    """Return step, rate and edge as Lightning puts them beside the weights, in a file of torch."""
    if not recognise(path).startswith(("torch", "pickle")):
        return None, None, None
    content = read_content(path)
    if not isinstance(content, Mapping):
        return None, None, None
    step, group = content.get("global_step"), _first_group(content)
    rate = _number(group, "lr")
    return step if type(step) is int else None, rate, _edge_of_group(group, rate)


def _first_group(content: Mapping[Any, Any]) -> Mapping[Any, Any]:
    """Return the first group of the first optimiser in a checkpoint of Lightning, an empty one where there is none."""
    try:
        group = content["optimizer_states"][0]["param_groups"][0]
    except (KeyError, IndexError, TypeError):
        return {}
    return group if isinstance(group, Mapping) else {}


def _number(group: Mapping[Any, Any], name: str) -> float | None:
    value = group.get(name)
    return float(value) if isinstance(value, int | float) and value > 0 else None


def _edge_of_group(group: Mapping[Any, Any], rate: float | None) -> float | None:
    """Return the edge of torch's SGD as its group says, ``None`` for every other optimiser."""
    if rate is None or "dampening" not in group or not set(group) <= GROUP_OF_SGD:
        return None
    momentum, dampening = (_number(group, name) or 0.0 for name in ("momentum", "dampening"))
    return descent_edge(rate, momentum, nesterov=group.get("nesterov") is True, dampening=dampening)
