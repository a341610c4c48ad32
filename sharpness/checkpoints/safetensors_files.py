"""Safetensors files: the header checked in full before the library reads it, the tensors left in the mapped file."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any, NoReturn

from safetensors import safe_open
from torch import Tensor

from sharpness.checkpoints.wording import about, shown
from sharpness.errors import InputError
from sharpness.parsing import parse_object

MAX_HEADER = 16 << 20
"""Bytes of the header: room for more than 100 000 tensors."""
NAMES_BY_SIZE = {
    1: ("BOOL", "I8", "U8", "F8_E4M3", "F8_E5M2", "F8_E4M3FNUZ", "F8_E5M2FNUZ"),
    2: ("F16", "BF16", "I16", "U16"),
    4: ("F32", "I32", "U32"),
    8: ("F64", "I64", "U64", "C64"),
}
ITEMSIZE = {name: size for size, names in NAMES_BY_SIZE.items() for name in names}
AGAIN = "fetch or save it again"


def read_safetensors(path: Path) -> dict[str, Tensor]:
    """Return the tensors of a file by name, as views of the mapped file: nothing is copied.

    Raises :class:`InputError` for a file whose header is too long, no JSON, or describes anything but tensors of known
    types that lie one behind the other and fill the file.
    """
    with about(path, "a safetensors file"):
        header, end = _read_header(path)
        header.pop("__metadata__", None)
        places = sorted((*_place(name, entry), name) for name, entry in header.items())
        reached = 0
        for start, stop, name in places:
            if start != reached:
                kind = "a gap before" if start > reached else "an overlap at"
                raise InputError(f"expected tensors one behind the other, got {kind} {shown([name])}: {AGAIN}")
            reached = stop
        if reached != (rest := path.stat().st_size - end):
            raise InputError(f"expected {reached} bytes of tensors, got {rest}: truncated or damaged, so {AGAIN}")
        with safe_open(path, framework="pt", device="cpu") as file:
            return {name: file.get_tensor(name) for name in header}


def _read_header(path: Path) -> tuple[dict[str, Any], int]:
    """Return the description of each tensor by its name, and the position in the file where the header ends."""
    size = path.stat().st_size
    with open(path, "rb") as stream:
        length = int.from_bytes(stream.read(8), "little")
        if length > MAX_HEADER:
            raise InputError(
                f"expected a safetensors header of at most {MAX_HEADER >> 20} MiB, got a length of {length} bytes: "
                f"damaged or hostile, so {AGAIN}"
            )
        if length > size - 8:
            raise InputError(f"expected a header of {length} bytes, got a file of {size}: truncated, so {AGAIN}")
        return parse_object(stream.read(length), "a safetensors header"), 8 + length


def _place(name: str, entry: Any) -> tuple[int, int]:
    """Return where a tensor's bytes begin and end; :class:`InputError` unless its type and shape need just those."""
    match entry:
        case {"dtype": str(dtype), "shape": list(shape), "data_offsets": [int(start), int(stop)], **others} if (
            not others and len(shape) <= 64 and all(type(n) is int and 0 <= n < 1 << 63 for n in [start, stop, *shape])
        ):
            pass
        case _:
            _refuse(name, "its dtype, shape and two data_offsets", f"{str(entry)[:80]!r}")
    if dtype not in ITEMSIZE:
        _refuse(name, f"one of the types {', '.join(ITEMSIZE)}", f"{dtype[:20]!r}, which may be newer or quantised")
    if stop - start != math.prod(shape) * ITEMSIZE[dtype]:
        _refuse(name, f"{math.prod(shape)} entries of {ITEMSIZE[dtype]} bytes", f"the {stop - start} bytes it has")
    return start, stop


def _refuse(name: str, expected: str, found: str) -> NoReturn:
    raise InputError(f"expected for the tensor {shown([name])} {expected}, got {found}: {AGAIN}")
