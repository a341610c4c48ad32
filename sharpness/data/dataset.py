"""Images and labels as tensors, and the fixed ordered batches that losses and probes average over."""

from __future__ import annotations

import hashlib
import math
import os
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Self, overload

import torch
from torch import Tensor

from sharpness.data.label_noise import with_random_labels
from sharpness.data.scaling import BYTES, Scaling, normalise
from sharpness.errors import InputError


@dataclass(frozen=True, eq=False)
class Examples:
    """Inputs and targets of any shape and type in a fixed order, one row of each for every example.

    Raises :class:`InputError` unless there are as many of the one as of the other.

    >>> len(Examples(torch.zeros(3, 5), torch.zeros(3)))
    3
    """

    inputs: Tensor
    targets: Tensor

    def __post_init__(self) -> None:
        if self.inputs.dim() == 0 or self.inputs.shape[:1] != self.targets.shape[:1]:
            raise InputError(
                f"expected one row of inputs and one of targets for each example, "
                f"got the shapes {tuple(self.inputs.shape)} and {tuple(self.targets.shape)}: give as many of each"
            )

    def __len__(self) -> int:
        return len(self.targets)

    def rows(self, chosen: Tensor) -> Self:
        """Return the examples with these numbers (int64), in their order."""
        chosen = chosen.to(self.targets.device)
        return replace(self, inputs=self.inputs[chosen], targets=self.targets[chosen])


@dataclass(frozen=True, eq=False)
class Split(Examples):
    """Examples in a fixed order: ``inputs`` of N x C x H x W bytes (0 to 255), ``targets`` of N class numbers (int64).

    Of a text they are N x T class numbers, one for each of the T places of a window.

    Raises :class:`InputError` when the shapes or types are others.

    >>> len(Split(torch.zeros(3, 1, 2, 2, dtype=torch.uint8), torch.tensor([0, 1, 0])))
    3
    """

    def __post_init__(self) -> None:
        inputs, targets = self.inputs, self.targets
        if inputs.dtype != torch.uint8 or inputs.dim() != 4:
            raise InputError(
                f"expected inputs of N x C x H x W bytes (uint8), got {tuple(inputs.shape)} of {inputs.dtype}"
            )
        if targets.dtype != torch.int64 or targets.shape not in (inputs.shape[:1], (len(inputs), inputs.shape[3])):
            raise InputError(
                f"expected {len(inputs)} targets (int64), one for each input or one for each of its places, "
                f"got {tuple(targets.shape)} of {targets.dtype}"
            )

    def to(self, device: torch.device | str) -> Split:
        """Return the split with both tensors on ``device``."""
        return Split(self.inputs.to(device), self.targets.to(device))

    def first(self, n: int | None) -> Split:
        """Return the first ``n`` examples, all of them for ``None``; :class:`InputError` unless 1 <= n <= N."""
        return self if n is None else Split(self.inputs[: _checked_size(n, len(self))], self.targets[:n])

    def last(self, n: int) -> Split:
        """Return the last ``n`` examples; :class:`InputError` unless 1 <= n <= N."""
        return Split(self.inputs[-_checked_size(n, len(self)) :], self.targets[-n:])


@dataclass(frozen=True, eq=False)
class Dataset:
    """A training and a test split with the SHA-256 of the arrays really used and the place they came from.

    ``sha256`` covers the bytes of train inputs, train targets, test inputs and test targets (int64, little-endian), in
    this order; ``source`` is ``embedded``, or ``data-dir``, ``cache``, ``system folder`` or ``download`` with its path.
    ``held_out`` are examples taken from ``train`` to validate on, and ``label_noise`` are the share and the seed of
    training labels that were replaced at random.
    """

    name: str
    train: Split
    test: Split
    num_classes: int
    sha256: str
    source: str
    held_out: Split | None = None
    label_noise: tuple[float, int] | None = None

    @property
    def predictions_per_example(self) -> int:
        """The number of targets of an example: one, or of a text one for each byte of its window."""
        return self.train.targets[0].numel()

    @property
    def input_shape(self) -> tuple[int, int, int]:
        """Channels, height and width of one input."""
        channels, height, width = self.train.inputs.shape[1:]
        return channels, height, width

    def to(self, device: torch.device | str) -> Dataset:
        """Return the dataset with all tensors on ``device``, still as bytes."""
        held_out = None if self.held_out is None else self.held_out.to(device)
        return replace(self, train=self.train.to(device), test=self.test.to(device), held_out=held_out)

    def copy(self) -> Dataset:
        """Return the dataset with tensors of its own."""
        train, test = (Split(split.inputs.clone(), split.targets.clone()) for split in (self.train, self.test))
        return replace(self, train=train, test=test)

    def holding_out(self, n: int) -> Dataset:
        """Return the dataset with the last ``n`` training examples held out, unless they are so already.

        ``sha256`` stays that of all. Raises :class:`InputError` where another number is held out or none is left, and
        where the labels have noise: what is validated on keeps its own.
        """
        there = 0 if self.held_out is None else len(self.held_out)
        if there == n:
            return self
        if there or self.label_noise is not None:
            noise = "" if self.label_noise is None else " and label noise"
            raise InputError(f"expected {n} held-out examples, got a dataset with {there}{noise}: give the whole one")
        return replace(self, train=self.train.first(len(self.train) - n), held_out=self.train.last(n))

    def with_label_noise(self, share: float, seed: int) -> Dataset:
        """Return the dataset with a share of its training labels replaced at random, unless they are so already.

        Held-out and test labels stay; ``sha256`` becomes that of the new labels. :func:`with_random_labels` says which
        are replaced. Raises :class:`InputError` where the labels have other noise.
        """
        noise = (share, seed) if share else None
        if self.label_noise == noise:
            return self
        if self.label_noise is not None:
            there = "{:g} of seed {}".format(*self.label_noise)
            raise InputError(
                f"expected a dataset without label noise for {share:g} of seed {seed}, got {there}: give the clean one"
            )
        targets = with_random_labels(self.train.targets, self.num_classes, share, seed)
        train = replace(self.train, targets=targets)
        sha256 = hash_splits(train, self.test, self.held_out)
        return replace(self, train=train, sha256=sha256, label_noise=noise)


def hash_splits(train: Split, test: Split, held_out: Split | None = None) -> str:
    """Return the SHA-256 (hexadecimal) of the four arrays of two splits, as :class:`Dataset` defines it.

    Held-out examples are hashed as the last ones of ``train``.
    """
    digest = hashlib.sha256()
    for pieces in ([train] if held_out is None else [train, held_out], [test]):
        for split in pieces:
            digest.update(split.inputs.cpu().contiguous().numpy().data)
        for split in pieces:
            digest.update(split.targets.cpu().numpy().astype("<i8").data)
    return digest.hexdigest()


@dataclass(frozen=True, eq=False)
class Batches(Sequence[tuple[Tensor, Tensor]]):
    """A split cut into batches in its own order, the last one smaller when the size does not divide N.

    ``batches[i]`` is the pair of normalised inputs (B x C x H x W, of ``dtype``) and targets (B). The data stay bytes
    on their device; a batch is normalised there when it is asked for, so only that batch is held as floating point.
    Other examples are cut in the same way; their inputs stay as they are, type included, where ``scaling`` is ``None``.
    Raises :class:`InputError` for no examples, a batch size below 1, a ``dtype`` that is not floating point, and a
    ``scaling`` for another number of channels.

    >>> split = Split(torch.zeros(5, 1, 2, 2, dtype=torch.uint8), torch.arange(5))
    >>> Batches(split, 2).batch_sizes
    (2, 2, 1)
    """

    split: Examples
    batch_size: int
    dtype: torch.dtype = torch.float32
    scaling: Scaling | None = BYTES

    def __post_init__(self) -> None:
        if len(self.split) == 0:
            raise InputError("expected at least one example to make batches of, got an empty split")
        if self.batch_size < 1:
            raise InputError(f"expected a batch size of at least 1, got {self.batch_size}")
        self._normalised(slice(0))

    @property
    def num_examples(self) -> int:
        """Number of examples in all batches together."""
        return len(self.split)

    @property
    def batch_sizes(self) -> tuple[int, ...]:
        """Number of examples in each batch."""
        return tuple(min(self.batch_size, self.num_examples - i * self.batch_size) for i in range(len(self)))

    def __len__(self) -> int:
        return math.ceil(self.num_examples / self.batch_size)

    @overload
    def __getitem__(self, index: int) -> tuple[Tensor, Tensor]: ...
    @overload
    def __getitem__(self, index: slice) -> list[tuple[Tensor, Tensor]]: ...
    def __getitem__(self, index: int | slice) -> tuple[Tensor, Tensor] | list[tuple[Tensor, Tensor]]:
        if isinstance(index, slice):
            return [self[i] for i in range(len(self))[index]]
        start = range(len(self))[index] * self.batch_size
        rows = slice(start, start + self.batch_size)
        return self._normalised(rows), self.split.targets[rows]

    def _normalised(self, rows: slice) -> Tensor:
        inputs = self.split.inputs[rows]
        return inputs if self.scaling is None else normalise(inputs, self.dtype, self.scaling)


def drawn_rows(total: int, n: int, seed: int) -> Tensor:
    """Return ``n`` different numbers below ``total`` (int64), drawn uniformly with a generator of their own, ascending.

    Raises :class:`InputError` unless 1 <= n <= total.

    >>> drawn_rows(3, 3, seed=0)
    tensor([0, 1, 2])
    """
    generator = torch.Generator().manual_seed(seed)
    return torch.randperm(total, generator=generator)[: _checked_size(n, total)].sort().values


def random_subset(split: Split, n: int, seed: int) -> Split:
    """Return ``n`` different examples drawn uniformly with a generator of their own, in the order of the split.

    The global random state is neither read nor changed. Raises :class:`InputError` unless 1 <= n <= N.

    >>> split = Split(torch.zeros(5, 1, 2, 2, dtype=torch.uint8), torch.arange(5))
    >>> len(random_subset(split, 3, seed=0))
    3
    """
    return split.rows(drawn_rows(len(split), n, seed))


def check_labels(targets: Tensor, num_classes: int, path: str | os.PathLike[str]) -> None:
    """Raise :class:`InputError` naming the file when a label is not a class number.

    Checked here because on a GPU such a label aborts the process long after the file is forgotten.
    """
    if int(targets.max()) >= num_classes:
        row = int((targets >= num_classes).nonzero()[0])
        raise InputError(
            f"{path}: expected labels from 0 to {num_classes - 1}, got {int(targets[row])} in row {row}: "
            "use the labels that belong to this dataset"
        )


def _checked_size(n: int, total: int) -> int:
    if not 1 <= n <= total:
        raise InputError(f"expected a number of examples from 1 to {total}, got {n}: ask for that many or leave it out")
    return n
