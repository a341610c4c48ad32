"""Makers of files that no reader of checkpoints may trust: each fills a folder and returns the path to read.

The marker is a file that the payloads create when an ordinary unpickler reads them.
"""

from __future__ import annotations

import hashlib
import io
import json
import os
import pickle
import shutil
import struct
import subprocess
import tarfile
import zipfile
from collections.abc import Callable
from functools import partial
from operator import methodcaller
from pathlib import Path
from pkgutil import resolve_name
from typing import Any

import torch
from safetensors.torch import save_file
from torch import Tensor

Maker = Callable[[Path, Path], Path]


def state() -> dict[str, Tensor]:
    return {"weight": torch.arange(6.0).reshape(2, 3), "bias": torch.ones(2)}


def write(content: bytes, name: str = "model.pt") -> Maker:
    def make(folder: Path, marker: Path) -> Path:
        (folder / name).write_bytes(content)
        return folder / name

    return make


def saved(content: Callable[[], Any], name: str = "model.pt", **options: Any) -> Maker:
    def make(folder: Path, marker: Path) -> Path:
        torch.save(content(), folder / name, **options)
        return folder / name

    return make


class Calls:
    """An object whose unpickling calls a function."""

    def __init__(self, function: Callable[..., Any], *arguments: Any) -> None:
        self.function, self.arguments = function, arguments

    def __call__(self) -> None:
        """Do nothing; pickle asks that a function can be called."""

    def __reduce__(self) -> tuple[Callable[..., Any], tuple[Any, ...]]:
        return self.function, self.arguments


def evaluated(marker: Path) -> Calls:
    """Return a call of a parser of an installed library that evaluates what it parses."""
    from sympy.parsing.sympy_parser import parse_expr

    return Calls(parse_expr, f"__import__('pathlib').Path({str(marker)!r}).touch()")


PAYLOADS: dict[str, Callable[[Path], Calls]] = {
    "os.system": lambda marker: Calls(os.system, f"touch {marker}"),
    "eval": lambda marker: Calls(eval, f"open({str(marker)!r}, 'w').close()"),
    "exec": lambda marker: Calls(exec, f"open({str(marker)!r}, 'w').close()"),
    "method": lambda marker: Calls(Path.touch, marker),
    "Popen": lambda marker: Calls(subprocess.check_call, ["touch", str(marker)]),
    "resolve_name": lambda marker: Calls(Calls(resolve_name, "os:system"), f"touch {marker}"),
    "partial": lambda marker: Calls(partial(os.mknod, str(marker))),
    "methodcaller": lambda marker: Calls(methodcaller("touch"), marker),
    "copy": lambda marker: Calls(shutil.copyfile, __file__, str(marker)),
    "archive": lambda marker: Calls(zipfile.ZipFile, str(marker), "w"),
    "parser": evaluated,
}


def live(payload: str, name: str = "model.pt", **options: Any) -> Maker:
    """Return the maker of a state dict with a payload beside it."""

    def make(folder: Path, marker: Path) -> Path:
        content = {"state_dict": state(), "callbacks": PAYLOADS[payload](marker)}
        torch.save(content, folder / name, **options)
        return folder / name

    return make


def live_plain_pickle(folder: Path, marker: Path) -> Path:
    content = {"state_dict": state(), "more": PAYLOADS["os.system"](marker)}
    (folder / "model.pt").write_bytes(pickle.dumps(content))
    return folder / "model.pt"


def live_hugging_face(folder: Path, marker: Path) -> Path:
    (folder / "config.json").write_text("{}")
    live("os.system", "pytorch_model.bin")(folder, marker)
    return folder


def live_shard(folder: Path, marker: Path) -> Path:
    live("eval", "part-1.bin")(folder, marker)
    return index_of(folder, {"weight": "part-1.bin"})


def zipped(folder: Path, entries: dict[str, bytes], name: str = "model.pt", **options: Any) -> Path:
    with zipfile.ZipFile(folder / name, "w", **options) as archive:
        for entry, content in entries.items():
            archive.writestr(entry, content)
    return folder / name


def pickled(content: bytes, storages: dict[str, bytes] | None = None) -> Maker:
    """Return the maker of an archive as torch writes it, with a pickle given in its instructions."""

    def make(folder: Path, marker: Path) -> Path:
        entries = {
            "model/data.pkl": b"\x80\x02" + content + b".",
            "model/version": b"3\n",
            "model/byteorder": b"little",
        }
        return zipped(folder, entries | {f"model/data/{key}": data for key, data in (storages or {}).items()})

    return make


def text(value: str) -> bytes:
    return b"X" + struct.pack("<I", len(value)) + value.encode()


def tensor(numel: int, size: int, stride: int, stored: int = 16) -> bytes:
    """Return the instructions for a dict with one tensor of one dimension in a storage of floats."""
    number = lambda n: b"\x8a\x08" + struct.pack("<q", n)  # noqa: E731
    storage = b"(" + text("storage") + b"ctorch\nFloatStorage\n" + text("0") + text("cpu") + number(numel) + b"tQ"
    arguments = storage + number(0) + number(size) + b"\x85" + number(stride) + b"\x85\x89ccollections\nOrderedDict\n)R"
    return b"}" + text("weight") + b"ctorch._utils\n_rebuild_tensor_v2\n(" + arguments + b"tRs"


def doubled_by_hex(times: int = 40) -> bytes:
    """Return instructions that encode bytes as hexadecimal again and again: 1 TiB from 2 KiB."""
    start = b"c_codecs\nencode\n" + text("x") + text("latin1") + b"\x86R"
    again = b"q\x01c_codecs\nencode\nh\x01" + text("hex") + b"\x86R"
    return start + again * times


def copied_again(times: int = 20_000, length: int = 1000) -> bytes:
    """Return instructions that make many sets of one long list."""
    items = b"]q\x00(" + b"".join(b"M" + struct.pack("<H", n) for n in range(length)) + b"e"
    return items + b"(" + b"cbuiltins\nset\nh\x00\x85R" * times + b"t"


def nested_key(depth: int = 60) -> bytes:
    """Return instructions for a dict whose key is a tuple of two tuples, and so on: hashing it takes 2**60 steps."""
    return b"}K\x01" + b"q\x00h\x00\x86" * depth + b"Ns"


def endless_module() -> bytes:
    """Return instructions for a module that is twice inside itself."""
    fields = text("_parameters") + b"}" + text("_buffers") + b"}" + text("_modules") + b"}"
    inside = b"(" + text("a") + b"h\x00" + text("b") + b"h\x00u"
    return b"cmy\nModule\n)\x81q\x00}(" + fields + inside + b"ub"


def torchscript(folder: Path, marker: Path) -> Path:
    return zipped(folder, {"m/data.pkl": b"\x80\x02}.", "m/code/__torch__.py": b"import os", "m/constants.pkl": b"."})


def altered(make: Maker, change: Callable[[bytearray], bytes | bytearray | None]) -> Maker:
    """Return the maker of a file whose bytes are changed afterwards."""

    def made(folder: Path, marker: Path) -> Path:
        path = make(folder, marker)
        content = bytearray(path.read_bytes())
        changed = change(content)
        path.write_bytes(content if changed is None else changed)
        return path

    return made


def flip(at: Callable[[bytearray], int]) -> Callable[[bytearray], None]:
    def change(content: bytearray) -> None:
        content[at(content)] ^= 0x40

    return change


def zip_bomb(folder: Path, marker: Path) -> Path:
    entries = {"m/data.pkl": b"\x80\x02}.", "m/data/0": bytes(1 << 28)}
    return zipped(folder, entries, compression=zipfile.ZIP_DEFLATED, compresslevel=1)


def entry_twice(content: bytearray) -> bytearray:
    """Let the second entry in the list of entries lie where the first one does."""
    first = content.index(b"PK\x01\x02")
    second = content.index(b"PK\x01\x02", first + 4)
    content[second + 42 : second + 46] = content[first + 42 : first + 46]
    return content


def encrypted(content: bytearray) -> bytearray:
    content[content.index(b"PK\x01\x02") + 8] |= 1
    return content


def without_checksums(folder: Path, marker: Path) -> Path:
    before = torch.serialization.get_crc32_options()
    torch.serialization.set_crc32_options(False)
    try:
        return saved(state)(folder, marker)
    finally:
        torch.serialization.set_crc32_options(before)


def header(described: Any, data: int = 32, length: int | None = None, order: Any = "little") -> Maker:
    """Return the maker of a safetensors file with any header."""
    content = described if isinstance(described, bytes) else json.dumps(described).encode()
    size = (len(content) if length is None else length).to_bytes(8, order)
    return write(size + content + bytes(data), "model.safetensors")


def entry(start: int, stop: int, shape: list[int] | None = None, dtype: str = "F32") -> dict[str, Any]:
    return {"dtype": dtype, "shape": shape or [(stop - start) // 4], "data_offsets": [start, stop]}


def index_of(folder: Path, places: dict[str, Any], name: str = "model.safetensors.index.json", **metadata: Any) -> Path:
    (folder / name).write_text(json.dumps({"metadata": metadata, "weight_map": places}))
    return folder / name


def sharded(places: dict[str, str], shards: dict[str, list[str]], **metadata: Any) -> Maker:
    """Return the maker of an index with any places, and files with any of the tensors a, b and c."""

    def make(folder: Path, marker: Path) -> Path:
        for name, keys in shards.items():
            save_file({key: torch.ones(2) for key in keys}, folder / name)
        return index_of(folder, places, **metadata)

    return make


def linked_shard(folder: Path, marker: Path) -> Path:
    elsewhere = folder.parent / "elsewhere.safetensors"
    save_file({"a": torch.ones(2)}, elsewhere)
    (folder / "part.safetensors").symlink_to(elsewhere)
    return index_of(folder, {"a": "part.safetensors"})


def own_file_flipped(folder: Path, marker: Path) -> Path:
    path = folder / "checkpoint-3.safetensors"
    save_file(state(), path)
    digest = hashlib.sha256(path.read_bytes()).hexdigest()
    (folder / "config.toml").write_text("")
    (folder / "manifest.json").write_text(json.dumps({"files": {path.name: digest}}))
    content = bytearray(path.read_bytes())
    content[-1] ^= 1
    path.write_bytes(content)
    return path


def in_memory(fill: Callable[[io.BytesIO], None]) -> bytes:
    buffer = io.BytesIO()
    fill(buffer)
    return buffer.getvalue()


def tar_of_nothing(buffer: io.BytesIO) -> None:
    with tarfile.open(fileobj=buffer, mode="w") as archive:
        archive.addfile(tarfile.TarInfo("storages"))


def folder_with(**files: bytes) -> Maker:
    def make(folder: Path, marker: Path) -> Path:
        for name, content in files.items():
            (folder / name).write_bytes(content)
        return folder

    return make


def pipe(folder: Path, marker: Path) -> Path:
    os.mkfifo(folder / "model.pt")
    return folder / "model.pt"
