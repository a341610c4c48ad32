"""The effects of a pickle, found by following its instructions without carrying any of them out.

Torch's weights-only unpickler is what keeps a pickle from running code. It still makes whatever plain objects it is
told to: ``bytearray(10**12)``, a tensor that reaches beyond its storage, one list copied a million times. The walk here
knows how large things get before they are made, lists every name that is referred to, and refuses what no checkpoint
contains.
"""

from __future__ import annotations

import _compat_pickle
import pickletools
from collections.abc import Callable
from typing import IO, Any

from sharpness.checkpoints.pickle_calls import (
    Group,
    Name,
    Opaque,
    Sized,
    Stored,
    Tensored,
    call,
    copied,
    is_plain,
    refuse,
    storage_of,
    view_of,
)
from sharpness.errors import InputError

MAX_WORK = 4_000_000
"""Instructions and entries copied by calls: room for some 100 000 tensors."""
MAX_WEIGHT = 10_000
"""Entries of a tuple and the tuples inside: the key of a dict is walked over in full each time."""
MODULE_FIELDS = frozenset({"_parameters", "_buffers", "_modules"})


class Walk:
    """The state of the walk through one or more pickles: what the unpickler's would be, without the objects.

    ``names`` are those referred to that not every checkpoint may hold, ``storages`` the bytes of each storage by its
    key, ``fields`` those of :data:`MODULE_FIELDS` that appear: all three do where a whole module was pickled.
    """

    def __init__(self) -> None:
        self.names: set[str] = set()
        self.storages: dict[str, int] = {}
        self.fields: set[str] = set()
        self.work = 0

    def through(self, stream: IO[bytes]) -> Any:
        """Follow one pickle to its end and return what it would make, as far as that is known."""
        self.stack: list[Any] = []
        self.marks: list[list[Any]] = []
        self.memo: dict[int, Any] = {}
        for opcode, argument, _ in pickletools.genops(stream):
            self.spend(1)
            if opcode.name not in STEPS:
                raise InputError(
                    f"expected a pickle of protocol 2, got the instruction {opcode.name}, which weights-only reading "
                    "does not know: save it again with torch.save(state_dict, path)"
                )
            STEPS[opcode.name](self, argument)
        return self.stack.pop()

    def spend(self, work: int) -> None:
        """Count work, and refuse a pickle that makes more than any checkpoint needs."""
        self.work += work
        if self.work > MAX_WORK:
            raise InputError(
                f"expected at most {MAX_WORK} objects in a pickle, got more: hostile, or not only weights, so save "
                "model.state_dict() by itself"
            )

    def constant(self, value: Any) -> None:
        """Push a number or a string."""
        if isinstance(value, str) and value in MODULE_FIELDS:
            self.fields.add(value)
        self.stack.append(value)

    def other_constant(self, _: Any) -> None:
        """Push ``None`` or a truth value."""
        self.stack.append(None)

    def empty(self, _: Any) -> None:
        """Push an empty list, dict or set."""
        self.stack.append(Sized())

    def mark(self, _: Any) -> None:
        """Begin a list of values."""
        self.marks.append(self.stack)
        self.stack = []

    def since_mark(self) -> list[Any]:
        """Return the values since the last mark."""
        values, self.stack = self.stack, self.marks.pop()
        return values

    def group(self, values: list[Any]) -> None:
        """Push a tuple."""
        weight = 1 + sum(value.weight if isinstance(value, Group) else 1 for value in values)
        if weight > MAX_WEIGHT:
            refuse(f"a tuple of more than {MAX_WEIGHT} entries")
        self.stack.append(Group(tuple(values), weight))

    def last(self, count: int) -> list[Any]:
        """Return the last values of the stack."""
        return [self.stack.pop() for _ in range(count)][::-1]

    def put_in(self, values: list[Any]) -> None:
        """Put values into the container below them, where tuples may be keys."""
        if isinstance(self.stack[-1], Sized):
            self.stack[-1].length += len(values)
        self.spend(sum(value.weight for value in values if isinstance(value, Group)))

    def name(self, argument: str) -> None:
        """Push a name, as Python 3 has it."""
        module, _, name = argument.partition(" ")
        if (module, name) in _compat_pickle.NAME_MAPPING:
            module, name = _compat_pickle.NAME_MAPPING[module, name]
        full = f"{_compat_pickle.IMPORT_MAPPING.get(module, module)}.{name}"
        if not is_plain(full):
            self.names.add(full)
        self.stack.append(Name(full))

    def storage(self, _: Any) -> None:
        """Push the storage that a persistent identifier describes."""
        match self.stack.pop():
            case Group(items=("storage", kind, str(key), _, numel, *view)) if len(view) <= 1:
                storage = storage_of(kind, numel)
                if self.storages.setdefault(key, numel * storage.itemsize) != numel * storage.itemsize:
                    refuse("one storage with two lengths")
                self.stack.append(view_of(storage, *view) if view else storage)
            case Group(items=("module", *_)):
                self.fields.update(MODULE_FIELDS)
                self.stack.append(Opaque())
            case _:
                refuse("a persistent identifier of no storage")

    def remember(self, index: int) -> None:
        """Give the value on top a number."""
        self.memo[index] = self.stack[-1]

    def recall(self, index: int) -> None:
        """Push the value of a number."""
        self.stack.append(self.memo[index])

    def call(self, _: Any) -> None:
        """Replace a function and its arguments by what the call makes."""
        function, arguments = self.last(2)
        if not isinstance(function, Name | Opaque) or not isinstance(arguments, Group):
            refuse("a call of something that is no function")
        self.spend(copied(arguments))
        if isinstance(function, Name) and is_plain(function.full):
            self.stack.append(call(function, arguments))
        else:
            self.stack.append(Opaque())

    def make(self, _: Any) -> None:
        """Replace a class and its arguments by an object, which only a class that the user allows has here."""
        kind, _arguments = self.last(2)
        if not isinstance(kind, Name | Opaque) or (isinstance(kind, Name) and is_plain(kind.full)):
            refuse("an object made in a way that no checkpoint needs")
        self.stack.append(Opaque())

    def fill(self, _: Any) -> None:
        """Set an object's state, which for a tensor could put it outside its storage."""
        self.stack.pop()
        if isinstance(self.stack[-1], Tensored | Stored | Name):
            refuse("a tensor whose state is set by hand")

    def nothing(self, _: Any) -> None:
        """Do nothing at the end."""

    def protocol(self, number: int) -> None:
        """Accept the protocol of ``torch.save``."""
        if number != 2:
            raise InputError(
                f"expected a pickle of protocol 2, got {number}, which weights-only reading does not know: "
                "save it again with torch.save(state_dict, path)"
            )


STEPS: dict[str, Callable[[Walk, Any], None]] = {
    **dict.fromkeys(("BININT", "BININT1", "BININT2", "BINFLOAT", "BINUNICODE", "LONG1"), Walk.constant),
    "SHORT_BINSTRING": Walk.constant,
    **dict.fromkeys(("NONE", "NEWTRUE", "NEWFALSE"), Walk.other_constant),
    **dict.fromkeys(("EMPTY_LIST", "EMPTY_DICT", "EMPTY_SET"), Walk.empty),
    "EMPTY_TUPLE": lambda walk, _: walk.group([]),
    "TUPLE1": lambda walk, _: walk.group(walk.last(1)),
    "TUPLE2": lambda walk, _: walk.group(walk.last(2)),
    "TUPLE3": lambda walk, _: walk.group(walk.last(3)),
    "TUPLE": lambda walk, _: walk.group(walk.since_mark()),
    "MARK": Walk.mark,
    "APPEND": lambda walk, _: walk.put_in(walk.last(1)),
    "APPENDS": lambda walk, _: walk.put_in(walk.since_mark()),
    "SETITEM": lambda walk, _: walk.put_in(walk.last(2)),
    "SETITEMS": lambda walk, _: walk.put_in(walk.since_mark()),
    "GLOBAL": Walk.name,
    "BINPERSID": Walk.storage,
    **dict.fromkeys(("BINPUT", "LONG_BINPUT"), Walk.remember),
    **dict.fromkeys(("BINGET", "LONG_BINGET"), Walk.recall),
    "REDUCE": Walk.call,
    "NEWOBJ": Walk.make,
    "BUILD": Walk.fill,
    "PROTO": Walk.protocol,
    "STOP": Walk.nothing,
}
