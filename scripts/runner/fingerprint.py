"""Hash what a change of the code's layout must leave alone: weights, logs, records, tables and figures.

    python -m scripts.runner.fingerprint FOLDER                   one line a file: hash and path
    python -m scripts.runner.fingerprint FOLDER --against OTHER   what differs, and how many files are the same

Make a tree of runs and figures before the change and one after it, with the same presets, and compare them. Times,
memory, versions, commits, commands and places are left out of every record, because two runs of one program differ in
them too. It takes seconds; the presets ``smoke`` of all studies take about three minutes on two cores.
"""

from __future__ import annotations

import hashlib
import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import tyro

from sharpness.cli import run_command
from sharpness.errors import InputError, RunError

VOLATILE = frozenset(
    {"seconds", "peak_memory", "versions", "git_commit", "command", "threads", "files", "rendered_with", "identity"}
)
"""Fields that differ between two runs of one program; the files that a manifest hashes are hashed here themselves."""
WHOLE = {".csv", ".png", ".md", ".tex", ".toml", ".safetensors"}


@dataclass(frozen=True)
class Options:
    """Hash a tree of runs and figures, or compare two."""

    folder: tyro.conf.Positional[Path]
    """A folder of run folders, of figures, or of both."""
    against: Path | None = None
    """The same of the other code."""


def fingerprints(folder: Path) -> dict[str, str]:
    """Return the SHA-256 of every weights file, log, record, table and figure below a folder by its relative path.

    Raises :class:`InputError` where there is none.
    """
    found = {}
    for path in sorted(path for path in folder.rglob("*") if path.is_file()):
        if path.suffix in WHOLE:
            content = path.read_bytes()
        elif path.suffix in {".json", ".jsonl"}:
            content = stable_text(path.read_text()).encode()
        else:
            continue
        found[str(path.relative_to(folder))] = hashlib.sha256(content).hexdigest()
    if not found:
        raise InputError(f"expected runs or figures below {folder}, got none: name the folder of --runs or --figures")
    return found


def stable_text(text: str) -> str:
    """Return JSON, whole or by lines, without what differs between two runs; lines are sorted, as workers race.

    >>> stable_text('{"value": 2, "seconds": 0.1}')
    '{"value": 2}'
    """
    try:
        rows = [json.loads(text)]
    except json.JSONDecodeError:
        rows = [json.loads(line) for line in text.splitlines()]
    return "\n".join(sorted(json.dumps(_stable(row), sort_keys=True) for row in rows))


def _stable(thing: Any) -> Any:
    if isinstance(thing, dict):
        return {key: _stable(value) for key, value in thing.items() if key not in VOLATILE}
    return [_stable(each) for each in thing] if isinstance(thing, list) else thing


def main() -> None:
    """Print the hashes of one folder, or what differs between two; :class:`RunError` where anything does."""
    options = tyro.cli(Options, prog="python -m scripts.runner.fingerprint", description=__doc__)
    ours = fingerprints(options.folder)
    if options.against is None:
        print("\n".join(f"{digest}  {path}" for path, digest in ours.items()))
        return
    theirs = fingerprints(options.against)
    wrong = [path for path in sorted(ours.keys() | theirs.keys()) if ours.get(path) != theirs.get(path)]
    for path in wrong:
        print(f"{'only in one' if path not in ours or path not in theirs else 'differs'}: {path}")
    print(f"{len(ours.keys() & theirs.keys()) - sum(p in ours and p in theirs for p in wrong)} files are the same")
    if wrong:
        raise RunError(f"{len(wrong)} files differ between {options.folder} and {options.against}")


if __name__ == "__main__":
    run_command(main)
