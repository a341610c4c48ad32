"""The run folder: config, weights at the start and the end, log, records, and a manifest that closes it."""

from __future__ import annotations

import contextlib
import hashlib
import io
import json
import logging
import os
import platform
from collections.abc import Iterator, Mapping
from dataclasses import asdict, dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, NoReturn

import safetensors
import safetensors.torch
import torch
from filelock import FileLock, Timeout
from torch import Tensor

from sharpness.config import RunConfig, differences, from_dict, from_toml, to_toml
from sharpness.errors import InputError, RunError
from sharpness.files import append_jsonl, read_jsonl, read_sealed, write_atomically
from sharpness.parsing import parse_json, read_bounded
from sharpness.records import ProbeRecord
from sharpness.records.stored import records_in
from sharpness.runs.record_index import RecordIndex

LOCK_SECONDS = 1.0
"""A killed command's child processes take up to a second to notice and let go of a run."""
HOLDER = ".lock-holder"
RESUME, PREVIOUS = "resume.pt", "resume-previous.pt"
logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class RecordFolder:
    """A folder with a ``probes.jsonl``, one :class:`ProbeRecord` per line; ``index`` finds them again."""

    path: Path
    index: RecordIndex = field(init=False, repr=False, compare=False)

    def __post_init__(self) -> None:
        """Begin with an empty index."""
        object.__setattr__(self, "index", RecordIndex(self.path / "probes.jsonl"))

    @contextlib.contextmanager
    def lock(self) -> Iterator[None]:
        """Hold the folder against other processes; :class:`RunError` that names the one that keeps it, if one does.

        The system frees the lock of a process that is gone, however it went.
        """
        lock = FileLock(self.path / ".lock", timeout=LOCK_SECONDS)
        try:
            lock.acquire()
        except Timeout:
            raise RunError(
                f"another process ({self._holder()}) is working on {self.path}: wait for it or stop it, then run this "
                "again"
            ) from None
        try:
            since = datetime.now(UTC).isoformat(timespec="seconds")
            facts = {"pid": os.getpid(), "host": platform.node(), "since": since}
            write_atomically(self.path / HOLDER, json.dumps(facts).encode())
            yield
        finally:
            (self.path / HOLDER).unlink(missing_ok=True)
            lock.release()

    def _holder(self) -> str:
        try:
            facts = parse_json(read_bounded(self.path / HOLDER, "a note"))
            return f"{facts['pid']} on {facts['host']}, since {facts['since']}"[:200]
        except (OSError, ValueError, KeyError, TypeError):
            return "which left no name"

    def records(self) -> list[ProbeRecord]:
        """Return the records of ``probes.jsonl``; :class:`InputError` that names the line for what is none."""
        return records_in(self.index.path)

    def append_record(self, record: ProbeRecord) -> None:
        """Append one record to ``probes.jsonl``."""
        append_jsonl(self.index.path, record.to_dict())


@dataclass(frozen=True)
class RunFolder(RecordFolder):
    """One run on disk.

    ``config.toml`` (resolved), ``x0.safetensors`` and ``checkpoint-<step>.safetensors`` (each with a ``.json`` beside),
    ``optimizer-<step>.pt`` where it is kept, ``train.jsonl`` (one row per epoch), ``probes.jsonl`` (one
    :class:`ProbeRecord` per line), ``resume.pt`` and the one before it, ``resume-previous.pt``, while the run is
    unfinished, and ``manifest.json``, whose appearance means that training is over.
    """

    @classmethod
    def create(cls, path: Path, config: RunConfig) -> RunFolder:
        """Make the folder, or take the existing one if it holds the same config.

        Raises :class:`InputError` with the differences when the folder belongs to another config.
        """
        run, file = cls(path), path / "config.toml"
        if not file.exists():
            _check_empty(path)
            path.mkdir(parents=True, exist_ok=True)
            with run.lock():
                if not file.exists():  # another command may have begun at the same time
                    write_atomically(file, to_toml(config).encode())
        if changed := differences(run.config(), config):
            raise InputError(
                f"{path} holds a run of another config ({'; '.join(changed)}): choose another --out or that config"
            )
        return run

    @classmethod
    def open(cls, path: Path) -> RunFolder:
        """Return an existing run folder; :class:`InputError` if there is none at ``path``."""
        if not (path / "config.toml").is_file():
            raise InputError(
                f"expected a run folder at {path}, found no config.toml there: give the --out of a training run"
            )
        return cls(path)

    def config(self) -> RunConfig:
        """Return the resolved config that the folder was made for."""
        return from_toml(self.path / "config.toml")

    def manifest(self) -> dict[str, Any] | None:
        """Return the manifest, or ``None`` while training is not over."""
        path = self.path / "manifest.json"
        if not path.exists():
            return None
        try:
            manifest = parse_json(read_bounded(path, "a manifest"))
        except (InputError, ValueError) as error:
            return self._damaged_manifest(str(error))
        match manifest:
            case {"status": str(), "step": int(), "files": dict(files)} if all(
                isinstance(digest, str) for digest in files.values()
            ):
                return manifest
        return self._damaged_manifest("keys are missing, or what stands there is of another kind")

    def _damaged_manifest(self, reason: str) -> NoReturn:
        path = self.path / "manifest.json"
        raise RunError(f"{path} is damaged ({reason}): delete it, and training goes on or starts again")

    def write_manifest(self, facts: Mapping[str, Any]) -> dict[str, Any]:
        """Close the run: hash every file that will not change any more, write the manifest, drop the resume state."""
        names = sorted(p.name for p in self.path.iterdir() if p.suffix in {".safetensors", ".json", ".toml"})
        logs = [p.name for p in (self.path / "train.jsonl", self.path / "measures.jsonl") if p.exists()]
        files = {name: sha256_file(self.path / name) for name in [*names, *logs]}
        identity = {"schema": 1, "run_id": self.config().run_id, "config_sha256": files["config.toml"]}
        manifest = identity | dict(facts) | {"files": files}
        content = json.dumps(manifest, indent=2, allow_nan=False) + "\n"
        write_atomically(self.path / "manifest.json", content.encode())
        return manifest

    def save_weights(self, name: str, state: Mapping[str, Tensor], facts: Mapping[str, Any]) -> None:
        """Write ``<name>.json`` and then ``<name>.safetensors``, each whole or not at all."""
        tensors = {key: value.detach().cpu().contiguous() for key, value in state.items()}
        write_atomically(self.path / f"{name}.json", (json.dumps(facts, allow_nan=False) + "\n").encode())
        write_atomically(self.path / f"{name}.safetensors", safetensors.torch.save(tensors))

    def save_optimizer(self, step: int, state: Mapping[str, Any]) -> None:
        """Write the optimiser's state at a checkpoint as ``optimizer-<step>.pt``, whole or not at all."""
        buffer = io.BytesIO()
        torch.save({"optimizer": dict(state)}, buffer)
        write_atomically(self.optimizer_file(step), buffer.getbuffer())

    def optimizer_file(self, step: int | str) -> Path:
        """Return where the optimiser's state at a checkpoint lies, if it was kept."""
        return self.path / f"optimizer-{step}.pt"

    def load_optimizer(self, step: int | str) -> dict[str, Any] | None:
        """Return the optimiser's state at a checkpoint, ``None`` where none was kept; :class:`RunError` if damaged."""
        path = self.optimizer_file(step)
        if not path.is_file():
            return None
        try:
            return torch.load(path, weights_only=True, map_location="cpu")["optimizer"]
        except Exception as error:  # torch raises many kinds for what is no state
            reason = " ".join(str(error).split())[:200]
            raise RunError(f"expected an optimiser's state in {path}, got: {reason}: delete that file") from error

    def load_weights(self, name: str) -> dict[str, Tensor]:
        """Read weights after checking their SHA-256 against the manifest; :class:`RunError` if they were changed."""
        path = self.path / f"{name}.safetensors"
        recorded = (self.manifest() or {}).get("files", {}).get(path.name)
        try:
            content = path.read_bytes()
            if recorded is not None and hashlib.sha256(content).hexdigest() != recorded:
                raise RunError(
                    f"{path} is damaged (its SHA-256 is not the manifest's): delete the run folder and train again"
                )
            return safetensors.torch.load(content)
        except (OSError, safetensors.SafetensorError) as error:
            raise RunError(
                f"expected weights in {path}, got: {error}: delete the run folder and train again"
            ) from error

    def kept_steps(self) -> list[int]:
        """Return the updates whose weights were kept as ``checkpoint-<step>``, in order; ``x0`` is none of them."""
        names = [path.stem.removeprefix("checkpoint-") for path in self.path.glob("checkpoint-*.safetensors")]
        return sorted(int(name) for name in names if name.isdecimal())

    def final_checkpoint(self) -> str:
        """Return the name of the final checkpoint; :class:`InputError` if the run is unfinished or diverged."""
        manifest = self.manifest()
        if manifest is None:
            raise InputError(f"expected a finished run at {self.path}, got an unfinished one: train it first")
        if manifest["status"] != "finished":
            raise InputError(
                f"expected a finished run at {self.path}, got a {manifest['status']} one: it has no final weights"
            )
        return f"checkpoint-{manifest['step']}"

    def final_sha256(self) -> str:
        """Return the SHA-256 of the final checkpoint as the manifest has it; raises as :meth:`final_checkpoint`."""
        name, manifest = self.final_checkpoint(), self.manifest()
        assert manifest is not None  # final_checkpoint has read it
        return manifest["files"][f"{name}.safetensors"]

    def save_resume_state(self, state: Mapping[str, Any]) -> None:
        """Write the state that training continues from, its SHA-256 at its end, and keep the one before it."""
        buffer = io.BytesIO()
        torch.save({**state, "config": asdict(self.config())}, buffer)
        write_atomically(self.path / RESUME, buffer.getbuffer(), keep=self.path / PREVIOUS, seal=True)

    def load_resume_state(self) -> dict[str, Any] | None:
        """Return the state to continue from, or ``None`` at the very start; call it under the lock.

        Where the newest is damaged, the one before it takes its place and a warning is logged that names both. Raises
        :class:`RunError` when none is whole, :class:`InputError` with the differences when the config was changed.
        """
        damaged = []
        for path in (self.path / RESUME, self.path / PREVIOUS):
            if not path.exists():
                continue
            try:
                state = torch.load(io.BytesIO(read_sealed(path)), weights_only=True, map_location="cpu")
            except Exception as error:  # torch raises many kinds for what is no state
                damaged.append(f"{path} is damaged ({' '.join(str(error).split())[:200]})")
                continue
            self._check_same_config(state.pop("config"))
            if damaged:
                logger.warning("%s: training goes on from the state before it, %s", damaged[0], path)
                os.replace(path, self.path / RESUME)
            return state
        if damaged:
            raise RunError(f"{'; '.join(damaged)}: delete the file, and training starts again")
        return None

    def _check_same_config(self, table: Mapping[str, Any]) -> None:
        if changed := differences(from_dict(RunConfig, table, RESUME), self.config()):
            raise InputError(
                f"{self.path / 'config.toml'} was changed under an unfinished run ({'; '.join(changed)}): put it back, "
                "or choose another --out"
            )

    def log(self) -> list[dict[str, Any]]:
        """Return the rows of ``train.jsonl``."""
        return read_jsonl(self.path / "train.jsonl")

    def append_log(self, row: Mapping[str, Any]) -> None:
        """Append one row to ``train.jsonl``."""
        append_jsonl(self.path / "train.jsonl", row)

    def measures(self) -> list[dict[str, Any]]:
        """Return the rows of ``measures.jsonl``: what was measured while the weights moved."""
        return read_jsonl(self.path / "measures.jsonl")

    def append_measure(self, row: Mapping[str, Any]) -> None:
        """Append one row to ``measures.jsonl``."""
        append_jsonl(self.path / "measures.jsonl", row)

    def truncate_log(self, num_rows: int, name: str = "train.jsonl") -> None:
        """Keep the first rows of ``train.jsonl`` or another log: those the resume state knows of.

        Raises :class:`RunError` if there are fewer.
        """
        rows = read_jsonl(self.path / name)
        if len(rows) < num_rows:
            raise RunError(
                f"expected at least {num_rows} rows in {self.path / name}, got {len(rows)}: put them back, or delete "
                f"{RESUME} and {PREVIOUS}, and training starts again"
            )
        if len(rows) > num_rows:
            content = "".join(json.dumps(row, allow_nan=False, sort_keys=True) + "\n" for row in rows[:num_rows])
            write_atomically(self.path / name, content.encode())


def sha256_file(path: Path) -> str:
    """Return the SHA-256 of a file's bytes."""
    with open(path, "rb") as stream:
        return hashlib.file_digest(stream, "sha256").hexdigest()


def _check_empty(path: Path) -> None:
    """Refuse a place for a new run that holds anything but what a killed command leaves before its config."""
    ours = (".lock", HOLDER)
    if path.exists() and (
        not path.is_dir() or any(not p.match(".*.tmp") and p.name not in ours for p in path.iterdir())
    ):
        raise InputError(f"expected a run folder or an empty one at {path}, got other files: choose another --out")


def remove_leftovers(run: RunFolder) -> None:
    """Delete what a killed process left behind, and the resume states of a closed run; call it under the lock."""
    closed = [run.path / RESUME, run.path / PREVIOUS] if run.manifest() is not None else []
    for path in [*run.path.glob(".*.tmp"), *closed]:
        with contextlib.suppress(FileNotFoundError):
            os.unlink(path)
