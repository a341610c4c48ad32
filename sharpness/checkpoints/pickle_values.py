"""The values that a pickle makes here: plain ones, tensors, and stand-ins for whatever else it names."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any, NoReturn

import torch

from sharpness.errors import InputError


@dataclass(frozen=True)
class Name:
    """A class or a function that the pickle refers to, which stays a name: it is neither imported nor called."""

    full: str


@dataclass(frozen=True, eq=False)
class Stored:
    """The bytes of one or more tensors, from entry ``start`` on; ``data`` is ``None`` where they are only counted."""

    data: torch.UntypedStorage | None
    dtype: torch.dtype
    numel: int
    start: int = 0


class Group(tuple[Any, ...]):
    """A tuple; its weight counts what is in it and in the tuples inside, which hashing it walks over."""

    weight: int

    def __new__(cls, items: Iterable[Any]) -> Group:
        """Return the items as a tuple that knows its weight."""
        group = super().__new__(cls, items)
        group.weight = 1 + sum(map(weight_of, group))
        return group


@dataclass(eq=False, repr=False)
class Inert:
    """A stand-in for an object of a class that the file names: it keeps what the object was made of and does nothing.

    ``arguments`` are those of the call that would have made it, ``state`` is what would have been set, ``entries`` and
    ``items`` what would have been put into it as into a dict or a list.
    """

    name: str
    arguments: tuple[Any, ...] = ()
    state: Any = None
    entries: dict[Any, Any] = field(default_factory=dict)
    items: list[Any] = field(default_factory=list)

    def parts(self) -> dict[Any, Any]:
        """Return all that it keeps by attribute, key or position.

        >>> Inert("my.Config", ("cpu",), {"lr": 0.1}).parts()
        {'0': 'cpu', 'lr': 0.1}
        """
        found = {str(position): value for position, value in enumerate((*self.arguments, *self.items))}
        states = self.state if isinstance(self.state, tuple) else (self.state,)  # of slots behind that of attributes
        for state in states:
            found |= state if isinstance(state, Mapping) else {}
        return found | self.entries


def weight_of(value: Any) -> int:
    """Return how many values hashing this one walks over."""
    return value.weight if isinstance(value, Group) else 1


def refuse(found: str) -> NoReturn:
    """Raise :class:`InputError` for what no checkpoint contains."""
    raise InputError(f"expected a pickle of tensors and plain values, got {found}: damaged or hostile")
