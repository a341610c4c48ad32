"""A reader of pickles that runs nothing: it follows the instructions and makes plain values, tensors and stand-ins.

An ordinary unpickler imports and calls what the file names. Here a name stays a name: the few calls that checkpoints
need are done by :mod:`sharpness.checkpoints.pickle_calls`, and every other object becomes an inert stand-in that keeps
what the file says of it. Nothing gets larger than the file: the work is counted, tensors lie inside their storages, and
what no checkpoint contains is refused. Source of the instructions: ``pickletools`` of the standard library.
"""

from __future__ import annotations

import _compat_pickle
import pickletools
from collections.abc import Callable
from typing import IO, Any

import torch

from sharpness.checkpoints.pickle_calls import FROM_BYTES, call, copied, dtype_of, is_plain, view_of
from sharpness.checkpoints.pickle_values import Group, Inert, Name, Stored, refuse, weight_of
from sharpness.errors import InputError

MAX_WORK = 4_000_000
"""Instructions and entries copied by calls: room for some 100 000 tensors."""
MAX_WEIGHT = 10_000
"""Entries of a tuple and the tuples inside: the key of a dict is walked over in full each time."""
PROTOCOLS = range(2, 6)

StorageReader = Callable[[str, int, torch.dtype], torch.UntypedStorage | None]
"""Returns the bytes of a storage by its key, the number of its entries and their type; ``None`` to count them only."""

BytesReader = Callable[["Machine", bytes], Stored]


class Machine:
    """The state of the reading of one or more pickles of a file.

    ``read_bytes`` returns the storage that bytes inside the pickle hold; without it there may be none. ``names`` are
    the classes and functions referred to that not every checkpoint has, ``storages`` those read so far.
    """

    def __init__(self, read_storage: StorageReader, read_bytes: BytesReader | None = None, work: int = 0) -> None:
        self.read_storage = read_storage
        self.read_bytes = read_bytes
        self.names: set[str] = set()
        self.storages: dict[str, Stored] = {}
        self.work = work

    def run(self, stream: IO[bytes]) -> Any:
        """Follow one pickle to its end and return what it makes."""
        self.stack: list[Any] = []
        self.marks: list[list[Any]] = []
        self.memo: dict[int, Any] = {}
        for opcode, argument, _ in pickletools.genops(stream):
            self.spend(1)
            if opcode.name not in STEPS:
                refuse(f"the instruction {opcode.name}, which none has")
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

    def push(self, value: Any) -> None:
        """Push a value."""
        self.stack.append(value)

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
        if 1 + sum(map(weight_of, values)) > MAX_WEIGHT:
            refuse(f"a tuple of more than {MAX_WEIGHT} entries")
        self.stack.append(Group(values))

    def last(self, count: int) -> list[Any]:
        """Return the last values of the stack."""
        return [self.stack.pop() for _ in range(count)][::-1]

    def append(self, values: list[Any]) -> None:
        """Put values into the list, or the set, below them."""
        self.spend(sum(map(weight_of, values)))
        match self.stack[-1]:
            case list() as container:
                container.extend(values)
            case Inert(items=container):
                container.extend(values)
            case set() as container:
                container.update(values)
            case _:
                refuse("values put into something that is no list")

    def set_items(self, values: list[Any]) -> None:
        """Put keys with their values into the dict below them; tuples may be keys."""
        self.spend(sum(map(weight_of, values)))
        match self.stack[-1]:
            case dict() as container:
                pass
            case Inert(entries=container):
                pass
            case _:
                refuse("keys put into something that is no dict")
        container.update(zip(values[::2], values[1::2], strict=True))

    def name(self, argument: str) -> None:
        """Push a name, as Python 3 has it."""
        self.push_name(*argument.split(" ", 1))

    def push_name(self, module: Any, name: Any) -> None:
        """Push the name of something in a module."""
        if not (isinstance(module, str) and isinstance(name, str)):
            refuse("a name that is no text")
        if (module, name) in _compat_pickle.NAME_MAPPING:
            module, name = _compat_pickle.NAME_MAPPING[module, name]
        full = f"{_compat_pickle.IMPORT_MAPPING.get(module, module)}.{name}"
        if not is_plain(full):
            self.names.add(full)
        self.stack.append(Name(full))

    def storage(self, _: Any) -> None:
        """Push the storage, or the class of a module, that a persistent identifier describes."""
        match self.stack.pop():
            case ("storage", kind, str(key), _, numel, *view) if len(view) <= 1:
                dtype = dtype_of(kind, numel)
                if key not in self.storages:
                    self.storages[key] = Stored(self.read_storage(key, numel, dtype), dtype, numel)
                storage = self.storages[key]
                if storage.numel * storage.dtype.itemsize != numel * dtype.itemsize:
                    refuse("one storage with two lengths")
                storage = Stored(storage.data, dtype, numel)
                self.stack.append(view_of(storage, view[0]) if view else storage)
            case ("module", Name() as kind, *_):
                self.stack.append(kind)
            case _:
                refuse("a persistent identifier of no storage")

    def remember(self, index: int | None) -> None:
        """Give the value on top a number, by default the next one."""
        self.memo[len(self.memo) if index is None else index] = self.stack[-1]

    def recall(self, index: int) -> None:
        """Push the value of a number."""
        self.stack.append(self.memo[index])

    def call(self, function: Any, arguments: Any) -> None:
        """Push what a call makes, or a stand-in for it."""
        if not isinstance(function, Name | Inert) or not isinstance(arguments, Group):
            refuse("a call of something that is no function")
        self.spend(copied(arguments))
        if isinstance(function, Name) and function.full == FROM_BYTES:
            if self.read_bytes is None or len(arguments) != 1 or not isinstance(arguments[0], bytes):
                refuse("a storage in bytes where none can be")
            self.stack.append(self.read_bytes(self, arguments[0]))
        else:
            self.stack.append(call(function, arguments))

    def make(self, kind: Any, arguments: Any, named: Any = None) -> None:
        """Push a stand-in for the object that a class would make of its arguments."""
        named = {} if named is None else named
        if not (isinstance(kind, Name | Inert) and isinstance(arguments, Group) and isinstance(named, dict)):
            refuse("an object of something that is no class")
        if isinstance(kind, Name) and is_plain(kind.full):
            refuse("an object made in a way that no checkpoint needs")
        self.stack.append(Inert(kind.full if isinstance(kind, Name) else kind.name, arguments, entries=dict(named)))

    def fill(self, state: Any) -> None:
        """Set an object's state, which for a tensor could put it outside its storage; a container keeps its own."""
        made = self.stack[-1]
        if isinstance(made, Inert):
            made.state = state
        elif not isinstance(made, dict | list | set):
            refuse("a tensor whose state is set by hand")

    def nothing(self, _: Any) -> None:
        """Do nothing."""

    def protocol(self, number: int) -> None:
        """Accept the protocols that ``torch.save`` can write."""
        if number not in PROTOCOLS:
            refuse(f"a pickle of protocol {number}")


STEPS: dict[str, Callable[[Machine, Any], None]] = {
    **dict.fromkeys(("BININT", "BININT1", "BININT2", "BINFLOAT", "LONG1"), Machine.push),
    **dict.fromkeys(("BINUNICODE", "SHORT_BINUNICODE", "BINUNICODE8", "SHORT_BINSTRING"), Machine.push),
    **dict.fromkeys(("BINBYTES", "SHORT_BINBYTES", "BINBYTES8", "BYTEARRAY8"), Machine.push),
    "NONE": lambda machine, _: machine.push(None),
    "NEWTRUE": lambda machine, _: machine.push(True),
    "NEWFALSE": lambda machine, _: machine.push(False),
    "EMPTY_LIST": lambda machine, _: machine.push([]),
    "EMPTY_DICT": lambda machine, _: machine.push({}),
    "EMPTY_SET": lambda machine, _: machine.push(set()),
    "EMPTY_TUPLE": lambda machine, _: machine.group([]),
    "TUPLE1": lambda machine, _: machine.group(machine.last(1)),
    "TUPLE2": lambda machine, _: machine.group(machine.last(2)),
    "TUPLE3": lambda machine, _: machine.group(machine.last(3)),
    "TUPLE": lambda machine, _: machine.group(machine.since_mark()),
    "FROZENSET": lambda machine, _: machine.push(frozenset(machine.since_mark())),
    "MARK": Machine.mark,
    "APPEND": lambda machine, _: machine.append(machine.last(1)),
    "APPENDS": lambda machine, _: machine.append(machine.since_mark()),
    "ADDITEMS": lambda machine, _: machine.append(machine.since_mark()),
    "SETITEM": lambda machine, _: machine.set_items(machine.last(2)),
    "SETITEMS": lambda machine, _: machine.set_items(machine.since_mark()),
    "GLOBAL": Machine.name,
    "STACK_GLOBAL": lambda machine, _: machine.push_name(*machine.last(2)),
    "BINPERSID": Machine.storage,
    **dict.fromkeys(("BINPUT", "LONG_BINPUT", "MEMOIZE"), Machine.remember),
    **dict.fromkeys(("BINGET", "LONG_BINGET"), Machine.recall),
    "REDUCE": lambda machine, _: machine.call(*machine.last(2)),
    "NEWOBJ": lambda machine, _: machine.make(*machine.last(2)),
    "NEWOBJ_EX": lambda machine, _: machine.make(*machine.last(3)),
    "BUILD": lambda machine, _: machine.fill(machine.stack.pop()),
    "PROTO": Machine.protocol,
    **dict.fromkeys(("STOP", "FRAME"), Machine.nothing),
}
