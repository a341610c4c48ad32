"""Weights from files: our run folders, and the checkpoints of other programs, whoever made them."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from sharpness.checkpoints.formats import recognise, weights_file
from sharpness.checkpoints.loading import Checkpoint, load_into
from sharpness.checkpoints.matching import MatchReport, MismatchError
from sharpness.checkpoints.pickle_globals import refuse_denied
from sharpness.checkpoints.pickles import read_torch_legacy, read_torch_zip
from sharpness.checkpoints.readings import Reading, find_readings
from sharpness.checkpoints.safetensors_files import read_safetensors
from sharpness.checkpoints.shards import file_beside, read_shards
from sharpness.checkpoints.wording import naming
from sharpness.errors import InputError
from sharpness.parsing import parse_object
from sharpness.runs import sha256_file

__all__ = ["Checkpoint", "MatchReport", "MismatchError", "Reading", "load_into", "read_checkpoint", "recognise"]


def read_checkpoint(path: Path, allow: Sequence[str] = ()) -> Checkpoint:
    """Read a checkpoint of any kind but a run folder; nothing in it is executed, and nothing is written.

    ``allow`` names classes that a pickle may hold besides tensors and plain values, such as ``argparse.Namespace``.
    Raises :class:`InputError` for files that are no checkpoint, damaged or hostile, and for a file of a run folder
    whose SHA-256 is not the one in the folder's manifest.
    """
    with naming(path):
        refuse_denied(allow)
    kind = recognise(path)
    if kind == "run folder":
        raise InputError(
            f"{path}: expected a checkpoint file, got a run folder: give one of its files, or read it with "
            "sharpness.runs.networks"
        )
    file = path
    if kind == "hugging face folder":
        with naming(path):
            file = file_beside(path, weights_file(path) or "")
    if file.is_file():
        _check_manifest(file)
    content, files = _read(file, allow)
    with naming(path):
        readings = find_readings(content)
    return Checkpoint(path, kind, _sha256(files), readings)


def _read(path: Path, allow: Sequence[str]) -> tuple[Any, tuple[Path, ...]]:
    """Return the content of a file, and the files that it lies in."""
    if recognise(path) == "sharded":
        return read_shards(path, lambda shard: _read_one(shard, allow))
    return _read_one(path, allow), (path,)


def _read_one(path: Path, allow: Sequence[str]) -> Any:
    kind = recognise(path)
    if kind == "safetensors":
        return read_safetensors(path)
    if kind == "torch":
        return read_torch_zip(path, allow)
    if kind == "torch legacy":
        return read_torch_legacy(path, allow)
    raise InputError(f"{path}: expected a file of tensors, got a checkpoint of the kind {kind!r}: give its files")


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
    with naming(manifest):
        files = parse_object(manifest.read_bytes(), "a manifest").get("files")
    recorded = files.get(file.name) if isinstance(files, dict) else None
    if recorded is not None and recorded != sha256_file(file):
        raise InputError(
            f"{file}: expected the SHA-256 in {manifest.name}, got another: the file is damaged, so take it from a "
            "copy or train again"
        )
