"""Weights from files: our run folders, and the checkpoints of other programs, whoever made them.

Measurements and the command line import from here; this folder stands on run folders, configs and vectors.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from sharpness.checkpoints.formats import adapter_file, recognise, weights_file
from sharpness.checkpoints.loading import Checkpoint, check_fit, load_into
from sharpness.checkpoints.matching import MatchReport, MismatchError
from sharpness.checkpoints.pickles import Pickled, read_pickle, read_torch_legacy, read_torch_zip
from sharpness.checkpoints.readings import Reading, find_readings
from sharpness.checkpoints.safetensors_files import read_safetensors
from sharpness.checkpoints.shards import file_beside, read_shards
from sharpness.checkpoints.views import plain_name
from sharpness.checkpoints.wording import naming
from sharpness.errors import InputError
from sharpness.parsing import read_object
from sharpness.runs import sha256_file

__all__ = [
    "Checkpoint",
    "MatchReport",
    "MismatchError",
    "Reading",
    "check_fit",
    "file_sha256",
    "load_into",
    "read_checkpoint",
    "read_content",
    "recognise",
]

PICKLES: dict[str, Callable[[Path], Pickled]] = {
    "torch": read_torch_zip,
    "torch legacy": read_torch_legacy,
    "pickle": read_pickle,
}


def read_checkpoint(path: Path, allow: Sequence[str] = ()) -> Checkpoint:
    """Read a checkpoint of any kind but a run folder; nothing in it is executed, and nothing is written.

    Objects of classes that a pickle names become inert stand-ins, in which tensors are looked for too: nothing of the
    file's choosing is imported or called. ``inert`` of the checkpoint lists those names but for the expected ones,
    which ``allow`` gives, such as ``argparse.Namespace``. Raises :class:`InputError` for files that are no checkpoint,
    damaged or hostile, and for a file of a run folder whose SHA-256 is not the one in the folder's manifest.
    """
    kind = recognise(path)
    if kind == "run folder":
        raise InputError(
            f"{path}: expected a checkpoint file, got a run folder: give one of its files, or read it with "
            "sharpness.runs.networks"
        )
    file = _file_of(path)
    if file.is_file():
        _check_manifest(file)
    names = set[str]()
    content, files = _read(file, names)
    with naming(path):
        readings = find_readings(content)
    if kind == "adapter folder":  # other programs leave the adapter's name in
        readings = tuple(replace(r, tensors={plain_name(n): t for n, t in r.tensors.items()}) for r in readings)
    return Checkpoint(path, kind, _sha256(files), readings, tuple(sorted(names.difference(allow))))


def _file_of(path: Path) -> Path:
    """Return the file of weights, or their index, in a folder of another program; other paths as they are."""
    names = {"hugging face folder": weights_file, "adapter folder": adapter_file}
    if (find := names.get(recognise(path))) is None:
        return path
    with naming(path):
        return file_beside(path, find(path) or "")


def file_sha256(path: Path) -> str | None:
    """Return the SHA-256 that :func:`read_checkpoint` would have, without reading tensors; ``None`` for several files.

    Raises :class:`InputError` where there is no checkpoint.
    """
    file = _file_of(path)
    return None if recognise(file) == "sharded" else sha256_file(file)


def _read(path: Path, names: set[str]) -> tuple[Any, tuple[Path, ...]]:
    """Return the content of a file, and the files that it lies in; the names of what stayed inert go into ``names``."""
    if recognise(path) == "sharded":
        return read_shards(path, lambda shard: read_content(shard, names))
    return read_content(path, names), (path,)


def read_content(path: Path, names: set[str] | None = None) -> Any:
    """Return what one file holds, tensors and what is beside them; errors are those of :func:`read_checkpoint`.

    The names of classes and functions that stayed inert go into ``names``.
    """
    kind = recognise(path)
    if kind == "safetensors":
        return read_safetensors(path)
    if kind not in PICKLES:
        raise InputError(f"{path}: expected a file of tensors, got a checkpoint of the kind {kind!r}: give its files")
    pickled = PICKLES[kind](path)
    if names is not None:
        names.update(pickled.names)
    return pickled.content


def _sha256(files: Sequence[Path]) -> str:
    if len(files) == 1:
        return sha256_file(files[0])
    lines = "".join(f"{file.name} {sha256_file(file)}\n" for file in files)
    return hashlib.sha256(lines.encode()).hexdigest()


def _check_manifest(file: Path) -> None:
    """Raise if a file lies in a run folder whose manifest lists it with another SHA-256."""
    manifest = file.parent / "manifest.json"
    if not ((file.parent / "config.toml").is_file() and manifest.is_file()):
        return
    files = read_object(manifest, "a manifest").get("files")
    recorded = files.get(file.name) if isinstance(files, dict) else None
    if recorded is not None and recorded != sha256_file(file):
        raise InputError(
            f"{file}: expected the SHA-256 in {manifest.name}, got another: the file is damaged, so take it from a "
            "copy or train again"
        )
