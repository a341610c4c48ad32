"""The values that a pickle makes, as far as their size matters, and the calls that checkpoints contain."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, NoReturn

import torch

from sharpness.errors import InputError


@dataclass(frozen=True)
class Name:
    """A class or a function that the pickle refers to."""

    full: str


@dataclass(frozen=True)
class Stored:
    """The bytes of one or more tensors, in entries of some size; a view of them has the number of its own entries."""

    numel: int
    itemsize: int


@dataclass(frozen=True)
class Group:
    """A tuple; the weight counts what is in it and in the tuples inside, which hashing it walks over."""

    items: tuple[Any, ...]
    weight: int


@dataclass
class Sized:
    """A container or bytes: only how much there is to copy is known."""

    length: int = 0


class Tensored:
    """A tensor that lies inside its storage."""


class Opaque:
    """An object of a class that the user must have allowed."""


NAMES_BY_SIZE = {
    1: ("torch.ByteStorage", "torch.BoolStorage", "torch.CharStorage", "torch.storage.UntypedStorage"),
    2: ("torch.HalfStorage", "torch.BFloat16Storage", "torch.ShortStorage"),
    4: ("torch.FloatStorage", "torch.IntStorage"),
    8: ("torch.DoubleStorage", "torch.LongStorage", "torch.ComplexFloatStorage"),
    16: ("torch.ComplexDoubleStorage",),
}
STORAGES = {name: size for size, names in NAMES_BY_SIZE.items() for name in names}
"""Bytes per entry of the classes of storages."""
TYPES = {"torch.Tensor", "torch.nn.parameter.Parameter"}
ENCODINGS = ("latin1", "latin-1")
"""Encodings of bytes in pickles of protocol 2. Others, such as hex, could double what they encode again and again."""
NO_WEIGHTS = {
    "torch._utils._rebuild_qtensor": "a quantised tensor",
    "torch._utils._rebuild_sparse_tensor": "a sparse tensor",
    "torch._utils._rebuild_meta_tensor_no_storage": "a tensor on the meta device, without entries",
    "torch._utils._rebuild_nested_tensor": "a nested tensor",
    "torch._utils._rebuild_wrapper_subclass": "a tensor around other tensors",
}


def is_plain(name: str) -> bool:
    """Whether a name may appear in every checkpoint: what makes tensors and plain values, dtypes and storages.

    >>> is_plain("torch.float16"), is_plain("collections.OrderedDict"), is_plain("torch.hub.load")
    (True, True, False)
    """
    return name in CALLS or name in NO_WEIGHTS or name in TYPES or _itemsize(Name(name)) is not None


def call(function: Name, arguments: Group) -> Any:
    """Return what a call of a plain name would make; :class:`InputError` for a call that no checkpoint contains."""
    if function.full in NO_WEIGHTS:
        raise InputError(
            f"expected dense tensors with their entries, got {NO_WEIGHTS[function.full]}: save the float weights"
        )
    if function.full not in CALLS:
        refuse(f"a call of {function.full}")
    return CALLS[function.full](*arguments.items)


def copied(arguments: Group) -> int:
    """Return how much a call with these arguments may copy."""
    return sum(_length(item) for item in arguments.items)


def storage_of(kind: Any, numel: Any) -> Stored:
    """Return a storage of some class and length."""
    itemsize = STORAGES.get(kind.full) if isinstance(kind, Name) else None
    if itemsize is None or not _is_length(numel):
        raise InputError("expected storages of numbers, got another kind: quantised or damaged, so save float weights")
    return Stored(numel, itemsize)


def view_of(storage: Stored, view: Any) -> Stored:
    """Return a part of a storage, described as torch did before version 1.6; ``None`` is the whole."""
    if view is None:
        return storage
    match view:
        case Group(items=(_, offset, numel)) if _is_length(offset) and _is_length(numel):
            if offset + numel <= storage.numel:
                return Stored(numel, storage.itemsize)
    refuse("a view that is not inside its storage")


def refuse(found: str) -> NoReturn:
    raise InputError(f"expected a pickle of tensors and plain values, got {found}: damaged or hostile")


def _length(value: Any) -> int:
    match value:
        case str():
            return 1 + len(value) // 64
        case Group():
            return value.weight
        case Sized():
            return 1 + value.length
    return 1


def _is_length(value: Any) -> bool:
    return type(value) is int and value >= 0


def _itemsize(dtype: Any) -> int | None:
    """Return the bytes per entry of a storage class or a dtype, ``None`` for anything else."""
    if not isinstance(dtype, Name):
        return None
    module, _, name = dtype.full.rpartition(".")
    found = getattr(torch, name, None) if module == "torch" else None
    return found.itemsize if isinstance(found, torch.dtype) else STORAGES.get(dtype.full)


def _rebuild(storage: Any, offset: Any, size: Any, stride: Any, *rest: Any) -> Tensored:
    """Check that a tensor lies inside its storage: torch would enlarge the storage, or repeat its entries."""
    if not (isinstance(storage, Stored) and isinstance(size, Group) and isinstance(stride, Group)):
        refuse("a tensor made of something else than a storage, a size and strides")
    if len(size.items) != len(stride.items) or not all(map(_is_length, (offset, *size.items, *stride.items))):
        refuse("a tensor of no possible shape")
    itemsize = (_itemsize(rest[2]) if len(rest) > 2 else None) or storage.itemsize
    numel = math.prod(size.items)
    last = offset + sum((n - 1) * step for n, step in zip(size.items, stride.items, strict=True))
    available = storage.numel * storage.itemsize // itemsize
    if numel and (last >= available or numel > available):
        raise InputError(
            f"expected tensors inside their storages, got {numel} entries of {available} stored: "
            "damaged, hostile or expanded, so save contiguous tensors"
        )
    return Tensored()


def _parameter(data: Any, *_: Any) -> Tensored:
    if not isinstance(data, Tensored):
        refuse("a parameter made of something else than a tensor")
    return data


def _typed(function: Any, _type: Any, arguments: Any, _state: Any) -> Tensored:
    if not (isinstance(function, Name) and function.full in REBUILDERS and isinstance(arguments, Group)):
        refuse("a tensor made by something else than torch")
    return call(function, arguments)


def _encode(text: Any, encoding: Any) -> Sized:
    if not isinstance(text, str) or encoding not in ENCODINGS:
        refuse("bytes that are not written as protocol 2 does")
    return Sized(_length(text))


def _bytearray(content: Any = "", *encoding: Any) -> Sized:
    if not isinstance(content, str | Sized) or any(name not in ENCODINGS for name in encoding):
        refuse("a bytearray of some length without content")
    return Sized(_length(content))


def _container(content: Any = None) -> Sized:
    if not (content is None or isinstance(content, Group | Sized)):
        refuse("a container of something that cannot be contained")
    return Sized(_length(content))


def _value(*content: Any) -> None:
    """Accept what makes a small constant of numbers and names."""
    if any(isinstance(item, Stored | Sized | Opaque) for item in content):
        refuse("a constant made of objects")


REBUILDERS: dict[str, Callable[..., Tensored]] = {
    "torch._utils._rebuild_tensor": _rebuild,
    "torch._utils._rebuild_tensor_v2": _rebuild,
    "torch._utils._rebuild_tensor_v3": _rebuild,
    "torch._utils._rebuild_parameter": _parameter,
    "torch._utils._rebuild_parameter_with_state": _parameter,
    "torch._utils._rebuild_device_tensor_from_cpu_tensor": _parameter,
}
CALLS: dict[str, Callable[..., Any]] = REBUILDERS | {
    "torch._tensor._rebuild_from_type_v2": _typed,
    "collections.OrderedDict": _container,
    "collections.Counter": _container,
    "builtins.set": _container,
    "torch.Size": _container,
    "builtins.bytearray": _bytearray,
    "_codecs.encode": _encode,
    "builtins.complex": _value,
    "torch.device": _value,
    "torch.serialization._get_layout": _value,
}
