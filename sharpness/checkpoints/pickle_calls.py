"""The calls that checkpoints contain, done here after a check of their arguments: tensors, containers and bytes."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from typing import Any

import torch
from torch import Tensor

from sharpness.checkpoints.pickle_values import Group, Inert, Name, Stored, refuse, weight_of
from sharpness.errors import InputError

STORAGES: dict[str, torch.dtype] = {
    "torch.ByteStorage": torch.uint8,
    "torch.BoolStorage": torch.bool,
    "torch.CharStorage": torch.int8,
    "torch.ShortStorage": torch.int16,
    "torch.IntStorage": torch.int32,
    "torch.LongStorage": torch.int64,
    "torch.HalfStorage": torch.float16,
    "torch.BFloat16Storage": torch.bfloat16,
    "torch.FloatStorage": torch.float32,
    "torch.DoubleStorage": torch.float64,
    "torch.ComplexFloatStorage": torch.complex64,
    "torch.ComplexDoubleStorage": torch.complex128,
    "torch.storage.UntypedStorage": torch.uint8,
}
"""The type of the entries in each class of storages."""
ENCODINGS = ("latin1", "latin-1")
"""Encodings of bytes in pickles of protocol 2. Others, such as hex, could double what they encode again and again."""
NO_WEIGHTS = {
    "torch._utils._rebuild_qtensor": "a quantised tensor",
    "torch._utils._rebuild_sparse_tensor": "a sparse tensor",
    "torch._utils._rebuild_meta_tensor_no_storage": "a tensor on the meta device, without entries",
    "torch._utils._rebuild_nested_tensor": "a nested tensor",
    "torch._utils._rebuild_wrapper_subclass": "a tensor around other tensors",
}
FROM_BYTES = "torch.storage._load_from_bytes"
"""The call with which ``pickle.dump`` writes a storage: its argument is a file of ``torch.save`` before torch 1.6."""
CONSTANTS = frozenset(
    {"torch.Tensor", "torch.nn.parameter.Parameter", "torch.device", "torch.serialization._get_layout"}
    | {"builtins.complex"}
)
"""Names of harmless settings beside the tensors, which stay inert without a word."""


def is_plain(name: str) -> bool:
    """Say whether a name may appear in every checkpoint: makers of tensors and plain values, dtypes, storages.

    >>> is_plain("torch.float16"), is_plain("collections.OrderedDict"), is_plain("torch.hub.load")
    (True, True, False)
    """
    listed = name in CALLS or name in NO_WEIGHTS or name in CONSTANTS or name in STORAGES or name == FROM_BYTES
    return listed or _dtype(Name(name)) is not None


def call(function: Name | Inert, arguments: Group) -> Any:
    """Return what a call makes, for any name but those of :data:`CALLS` a stand-in that keeps the arguments.

    Raises :class:`InputError` for tensors without entries of their own, and for arguments that no checkpoint contains.
    """
    name = function.full if isinstance(function, Name) else function.name
    if name in NO_WEIGHTS:
        raise InputError(f"expected dense tensors with their entries, got {NO_WEIGHTS[name]}: save the float weights")
    if isinstance(function, Name) and name in CALLS:
        return CALLS[name](*arguments)
    return Inert(name, arguments)


def copied(arguments: Group) -> int:
    """Return how much a call with these arguments may copy and hash."""
    return sum(map(_length, arguments))


def dtype_of(kind: Any, numel: Any) -> torch.dtype:
    """Return the type of the entries of a storage of some class; :class:`InputError` for an impossible one."""
    dtype = STORAGES.get(kind.full) if isinstance(kind, Name) else None
    if dtype is None or not _is_length(numel):
        raise InputError("expected storages of numbers, got another kind: quantised or damaged, so save float weights")
    return dtype


def view_of(storage: Stored, view: Any) -> Stored:
    """Return a part of a storage, described as torch did before version 1.6; ``None`` is the whole."""
    if view is None:
        return storage
    match view:
        case (_, offset, numel) if _is_length(offset) and _is_length(numel) and offset + numel <= storage.numel:
            return Stored(storage.data, storage.dtype, numel, storage.start + offset)
    refuse("a view that is not inside its storage")


def _length(value: Any) -> int:
    match value:
        case str() | bytes() | bytearray():
            return 1 + len(value) // 64
        case list() | tuple():
            return 1 + sum(map(weight_of, value))
        case dict() | set() | frozenset():
            return 1 + len(value)
    return 1


def _is_length(value: Any) -> bool:
    return type(value) is int and value >= 0


def _dtype(name: Any) -> torch.dtype | None:
    """Return the dtype of a name such as ``torch.float16``, ``None`` for anything else."""
    module, _, last = name.full.rpartition(".") if isinstance(name, Name) else ("", "", "")
    found = getattr(torch, last, None) if module == "torch" else None
    return found if isinstance(found, torch.dtype) else None


def _rebuild(storage: Any, offset: Any, size: Any, stride: Any, *rest: Any) -> Tensor:
    """Return a tensor that lies inside its storage: torch would enlarge the storage, or repeat its entries."""
    if not (isinstance(storage, Stored) and isinstance(size, tuple) and isinstance(stride, tuple)):
        refuse("a tensor made of something else than a storage, a size and strides")
    if len(size) != len(stride) or not all(map(_is_length, (offset, *size, *stride))):
        refuse("a tensor of no possible shape")
    dtype = (_dtype(rest[2]) if len(rest) > 2 else None) or storage.dtype
    numel = math.prod(size)
    last = offset + sum((n - 1) * step for n, step in zip(size, stride, strict=True))
    available = storage.numel * storage.dtype.itemsize // dtype.itemsize
    if numel and (last >= available or numel > available):
        raise InputError(
            f"expected tensors inside their storages, got {numel} entries of {available} stored: "
            "damaged, hostile or expanded, so save contiguous tensors"
        )
    tensor = torch.empty(0, dtype=dtype)
    if storage.data is None:
        return tensor
    start = storage.start * storage.dtype.itemsize
    data = storage.data[start : start + storage.numel * storage.dtype.itemsize] if start else storage.data
    tensor.set_(data, offset if numel else 0, size, stride)  # pyright: ignore[reportCallIssue, reportArgumentType]
    return _with_marks(tensor, rest[-1] if rest and isinstance(rest[-1], dict) else {})


def _with_marks(tensor: Tensor, marks: Mapping[Any, Any]) -> Tensor:
    """Return a tensor with the signs that torch leaves for later: conjugated, negated."""
    tensor = tensor.conj() if marks.get("conj") is True else tensor
    negated = marks.get("neg") is True
    return torch._neg_view(tensor) if negated else tensor  # pyright: ignore[reportPrivateImportUsage]


def _parameter(data: Any, *_: Any) -> Tensor:
    if not isinstance(data, Tensor):
        refuse("a parameter made of something else than a tensor")
    return data


def _typed(function: Any, _type: Any, arguments: Any, _state: Any) -> Tensor:
    """Return a tensor of a class of its own as a plain one: what the class does with it stays out."""
    if not (isinstance(function, Name) and function.full in REBUILDERS | NO_WEIGHTS and isinstance(arguments, Group)):
        refuse("a tensor made by something else than torch")
    return call(function, arguments)


def _encode(text: Any, encoding: Any) -> bytes:
    if not isinstance(text, str) or encoding not in ENCODINGS:
        refuse("bytes that are not written as protocol 2 does")
    return text.encode("latin1")


def _bytearray(content: Any = "", *encoding: Any) -> bytes:
    if not isinstance(content, str | bytes | bytearray) or any(name not in ENCODINGS for name in encoding):
        refuse("a bytearray of some length without content")
    return content.encode("latin1") if isinstance(content, str) else bytes(content)


def _mapping(content: Any = ()) -> dict[Any, Any]:
    items = content.items() if isinstance(content, dict) else content
    if not (
        isinstance(content, dict | list | tuple) and all(type(i) in (list, Group, tuple) and len(i) == 2 for i in items)
    ):
        refuse("a dict of something else than pairs")
    return dict(items)


def _set(content: Any = ()) -> set[Any]:
    if not isinstance(content, list | tuple | set):
        refuse("a set of something that cannot be contained")
    return set(content)


def _size(content: Any = ()) -> Any:
    if not isinstance(content, Group):
        refuse("a size of something else than a tuple")
    return content


REBUILDERS: dict[str, Callable[..., Tensor]] = {
    "torch._utils._rebuild_tensor": _rebuild,
    "torch._utils._rebuild_tensor_v2": _rebuild,
    "torch._utils._rebuild_tensor_v3": _rebuild,
    "torch._utils._rebuild_parameter": _parameter,
    "torch._utils._rebuild_parameter_with_state": _parameter,
    "torch._utils._rebuild_device_tensor_from_cpu_tensor": _parameter,
}
CALLS: dict[str, Callable[..., Any]] = REBUILDERS | {
    "torch._tensor._rebuild_from_type_v2": _typed,
    "collections.OrderedDict": _mapping,
    "collections.Counter": _mapping,
    "builtins.set": _set,
    "torch.Size": _size,
    "builtins.bytearray": _bytearray,
    "_codecs.encode": _encode,
}
