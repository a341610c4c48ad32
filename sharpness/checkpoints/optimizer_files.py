"""The place of the optimiser's state: in a checkpoint's file, or in a file of its own beside it."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from sharpness.checkpoints import read_content
from sharpness.checkpoints.formats import ADAPTER_FILES, WEIGHTS_FILES, recognise
from sharpness.checkpoints.optimizer_states import AdamState, find_adam_states
from sharpness.checkpoints.wording import about

STATE_FILES = ("optimizer.pt", "optimizer.bin")
"""What the Trainer of Transformers and Accelerate write beside the weights."""


@dataclass(frozen=True, eq=False)
class FoundStates:
    """The states of optimisers of Adam's kind that belong to a checkpoint, and their file; without any, the reason."""

    states: tuple[AdamState, ...]
    file: Path
    reason: str


def find_states(path: Path) -> FoundStates:
    """Return the states of Adam that belong to the checkpoint at ``path``, a file of weights or a folder.

    A file of torch may hold them itself. For a Hugging Face folder, or for a file with the name of the weights in one,
    they lie in a file beside: other files beside others may belong to other weights. Raises what reading raises.
    """
    kind, found = recognise(path), FoundStates((), path, "it has no state of an optimiser")
    if kind in ("torch", "torch legacy", "pickle"):
        found = _states_in(path)
    if not found.states and (path.is_dir() or path.name in (*WEIGHTS_FILES, *ADAPTER_FILES)):
        folder = path if path.is_dir() else path.parent
        beside = next((folder / name for name in STATE_FILES if (folder / name).is_file()), None)
        return found if beside is None else _states_in(beside)
    return found


def _states_in(file: Path) -> FoundStates:
    content = read_content(file)
    with about(file, "a file with an optimiser's state"):
        states, reason = find_adam_states(content)
    return FoundStates(states, file, reason)
