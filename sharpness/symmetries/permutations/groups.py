"""Groups of hidden units that change places together, and the bookkeeping that finds what belongs together."""

from __future__ import annotations

import copy
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Self

from torch import Tensor

Key = tuple[str, int]
"""One axis of one tensor, by the tensor's name."""

FIXED: Key = ("", 0)
"""What everything is tied to that has to stay in its place."""


@dataclass(frozen=True)
class Entry:
    """An axis along which a tensor has the units of a group: of length ``repeat * size * block``, in this order.

    After a flattened convolution a channel is a ``block`` of neighbouring columns; where the channels came last before
    the flattening they come ``repeat`` times.
    """

    tensor: str
    axis: int
    repeat: int = 1
    block: int = 1


@dataclass(frozen=True)
class Group:
    """Hidden units or channels that can be permuted, and every parameter and buffer that is permuted with them."""

    size: int
    entries: tuple[Entry, ...]


def permuted(tensors: Mapping[str, Tensor], group: Group, permutation: Tensor) -> dict[str, Tensor]:
    """Return the group's tensors with the units in another order: unit i is the old ``permutation[i]``.

    Tensors of the group that are not given, buffers for instance, are left out; those not of the group too.

    >>> import torch
    >>> group = Group(2, (Entry("0.weight", 0), Entry("2.weight", 1, block=2)))
    >>> tensors = {"0.weight": torch.tensor([[1.0], [2.0]]), "2.weight": torch.tensor([[1.0, 2.0, 3.0, 4.0]])}
    >>> permuted(tensors, group, torch.tensor([1, 0]))
    {'0.weight': tensor([[2.], [1.]]), '2.weight': tensor([[3., 4., 1., 2.]])}
    """
    changed: dict[str, Tensor] = {}
    for entry in group.entries:
        if entry.tensor in tensors:
            tensor = changed.get(entry.tensor, tensors[entry.tensor])
            parts = tensor.unflatten(entry.axis, (entry.repeat, group.size, entry.block))
            chosen = parts.index_select(entry.axis + 1, permutation.to(tensor.device))
            changed[entry.tensor] = chosen.reshape(tensor.shape)
    return changed


@dataclass(frozen=True)
class Slot:
    """The place of a group's units in a tensor between two layers: ``shape[dim] = repeat * size * block``."""

    key: Key
    dim: int
    size: int
    repeat: int = 1
    block: int = 1

    @property
    def length(self) -> int:
        """Length of the dimension."""
        return self.repeat * self.size * self.block


class Ties:
    """The axes of tensors that have to be permuted together: union-find, with everything fixed in one set.

    >>> ties = Ties()
    >>> ties.enter(Slot(("0.weight", 0), 1, 3), ("0.bias", 0), 3)
    >>> ties.enter(Slot(("0.weight", 0), 1, 3), ("0.weight", 0), 3)
    >>> ties.groups()
    [Group(size=3, entries=(Entry(tensor='0.bias', axis=0, repeat=1, block=1),
                            Entry(tensor='0.weight', axis=0, repeat=1, block=1)))]
    >>> ties.enter(None, ("0.bias", 0), 3)
    >>> ties.groups()
    []
    """

    def __init__(self) -> None:
        self._parents: dict[Key, Key] = {}
        self._found: dict[Key, tuple[int, Entry]] = {}

    def copy(self) -> Self:
        """Return a copy that can be thrown away."""
        return copy.deepcopy(self)

    def enter(self, slot: Slot | None, key: Key, length: int) -> None:
        """Say that an axis of a tensor has the units of a slot, or fixed ones (``None``, or where it does not fit)."""
        if slot is None or slot.length != length:
            self.fix(key)
            self.fix_slot(slot)
            return
        entry = Entry(*key, slot.repeat, slot.block)
        if self._found.setdefault(key, (slot.size, entry)) != (slot.size, entry):
            self.fix(key)
        self._tie(slot.key, key)

    def join(self, first: Slot, second: Slot) -> None:
        """Say that the units of two slots are the same ones, as in a sum; fix both if they do not lie alike."""
        if (first.size, first.repeat, first.block) == (second.size, second.repeat, second.block):
            self._tie(first.key, second.key)
        else:
            self.fix_slot(first)
            self.fix_slot(second)

    def fix(self, key: Key) -> None:
        """Say that what is along this axis has to stay in its place."""
        self._tie(FIXED, key)

    def fix_slot(self, slot: Slot | None) -> None:
        """Say that the units of a slot have to stay in their places."""
        if slot is not None:
            self.fix(slot.key)

    def groups(self) -> list[Group]:
        """Return what can be permuted, in the order in which it was met."""
        sets: dict[Key, list[tuple[int, Entry]]] = {}
        for key, found in self._found.items():
            sets.setdefault(self._root(key), []).append(found)
        sets.pop(self._root(FIXED), None)
        return [Group(found[0][0], tuple(entry for _, entry in found)) for found in sets.values()]

    def _root(self, key: Key) -> Key:
        while (parent := self._parents.get(key, key)) != key:
            self._parents[key] = self._parents.get(parent, parent)
            key = parent
        return key

    def _tie(self, first: Key, second: Key) -> None:
        self._parents[self._root(second)] = self._root(first)
