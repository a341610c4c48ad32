"""Data of a user's own as fixed batches with what is known of them, and the part of it that is drawn."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from sharpness.data.batches import IGNORED, Batch
from sharpness.data.dataset import Examples, drawn_rows
from sharpness.data.scaling import Scaling
from sharpness.errors import InputError
from sharpness.machine.environment import derived_seed
from sharpness.machine.memory import free_memory

BYTES_PER_ROW = 24  # of the numbers of all examples, their order drawn at random, and the part taken
DATA_SHARE = 0.5  # of the free memory that data may take: the rest is for drawing from them and for what is measured


@dataclass(frozen=True, eq=False)
class UserData:
    """Batches in a fixed order that can be read again and again, and what is known of them.

    A batch is a pair (inputs, targets) or a dict of tensors. ``num_classes`` is ``None`` where the targets are no class
    numbers, ``input_shape`` (of one example) where the batches are no pairs of tensors. ``notes`` are short sentences
    about what was done to the data; ``facts`` are the plain numbers for a record.
    """

    spec: str
    batches: Sequence[Batch]
    num_classes: int | None
    input_shape: tuple[int, ...] | None
    notes: tuple[str, ...]
    facts: Mapping[str, Any]


@dataclass(frozen=True)
class DataRequest:
    """The request to a source beside its spec: the number of examples, the seed of their draw, and where to look."""

    spec: str
    batch_size: int
    examples: int | None = None
    seed: int = 0
    data_dir: Path | None = None
    tokenizer: Path | None = None
    freeze: bool = False
    model: Path | None = None

    def rows(self, total: int) -> Tensor:
        """Return the numbers of the examples to use out of ``total``, ascending; :class:`InputError` without enough.

        >>> DataRequest("npz:data.npz", 10).rows(3)
        tensor([0, 1, 2])
        >>> len(DataRequest("npz:data.npz", 10, examples=5).rows(100))
        5
        """
        if total == 0:
            raise InputError(f"{self.spec}: expected at least one example, got none: give data that hold some")
        require_memory(self.spec, BYTES_PER_ROW * total)
        if self.examples is None:
            return torch.arange(total)
        if not 1 <= self.examples <= total:
            raise InputError(
                f"{self.spec}: expected a number of examples from 1 to {total}, got {self.examples}: "
                "ask for that many or leave it out"
            )
        return drawn_rows(total, self.examples, derived_seed(self.seed, "examples"))

    def drawn(self, examples: Examples) -> Examples:
        """Return the examples to use, not copied where these are all."""
        rows = self.rows(len(examples))
        return examples if len(rows) == len(examples) else examples.rows(rows)


@dataclass(frozen=True, eq=False)
class Loaded:
    """The examples that a source was asked for, out of ``total``: pairs still to be cut, or a list of batches.

    ``own_batches`` says that the batches are of the data's own sizes, not of the size asked for.
    """

    data: Examples | list[Batch]
    total: int
    num_classes: int | None
    notes: tuple[str, ...] = ()
    scaling: Scaling | None = None
    own_batches: bool = False


def count_classes(targets: Tensor, where: str) -> int | None:
    """Return the largest class number plus 1, or ``None`` for targets that are floating point.

    Raises :class:`InputError` for a negative number other than -100, which losses leave out, and without any class.

    >>> count_classes(torch.tensor([0, 2, -100]), "npz:data.npz")
    3
    """
    if targets.is_floating_point():
        return None
    counted = targets[targets != IGNORED]
    if counted.numel() == 0 or int(counted.min()) < 0:
        got = f"the number {int(counted.min())}" if counted.numel() else f"nothing but {IGNORED}"
        raise InputError(
            f"{where}: expected targets that are class numbers from 0 (or {IGNORED}: left out), got {got}: "
            "number the classes from 0, or give floats for a regression"
        )
    return int(counted.max()) + 1


def require_memory(where: str, needed: int) -> None:
    """Raise :class:`InputError` before data are read that would take more than half of the free memory (bytes)."""
    available = int(DATA_SHARE * free_memory(torch.device("cpu")))
    if needed > available:
        raise InputError(
            f"{where}: expected data of at most {available / 2**20:.0f} MiB, half of the free memory, "
            f"got {needed / 2**20:.0f} MiB: take fewer or smaller examples, or a larger machine"
        )
