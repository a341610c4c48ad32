"""The format of a checkpoint, told from its content: the name of a file says nothing."""

from __future__ import annotations

from itertools import islice
from pathlib import Path
from typing import NoReturn

from sharpness.checkpoints.wording import about, shown
from sharpness.checkpoints.zips import open_zip
from sharpness.errors import InputError

HEAD = 4096
LEGACY = b"\x8a\x0al\xfc\x9cF\xf9 j\xa8P\x19."
"""The first pickle of ``torch.save`` before torch 1.6, its magic number, without the bytes of the protocol."""
MAX_INDEX = 64 << 20
"""Bytes of a JSON index, where the largest networks have some MiB."""
WEIGHTS_FILES = (
    "model.safetensors",
    "model.safetensors.index.json",
    "pytorch_model.bin",
    "pytorch_model.bin.index.json",
)
"""The weights that a Hugging Face folder may hold, in the order in which its own library looks."""
ADAPTER_CONFIG = "adapter_config.json"
ADAPTER_FILES = ("adapter_model.safetensors", "adapter_model.bin")
"""The weights of an adapter in a folder of PEFT."""
SAVE_AGAIN = "save model.state_dict() as safetensors"
ONNX_CURE = "give the checkpoint that it was exported from, as the export may have merged and renamed its weights"
ONNX_FIELDS = {1: 0, 2: 2, 3: 2, 4: 2, 5: 0, 6: 2, 7: 2, 8: 2, 14: 2, 20: 2, 25: 2, 26: 2}
"""The fields of ONNX's ModelProto with the wire type of each (onnx.proto)."""
ONNX_GRAPH = 7
OTHERS: tuple[tuple[int, bytes, str, str], ...] = (
    (0, b"version https://git-lfs", "a git-lfs pointer instead of the file it stands for", "run git lfs pull"),
    (0, b"\x89HDF\r\n", "an HDF5 file", "load it in the program that wrote it, and save the weights as safetensors"),
    (0, b"\x93NUMPY", "one numpy array", "weights need names: save them as safetensors"),
    (0, b"\x1f\x8b", "a gzip file", "unpack it first"),
    (0, b"BZh", "a bzip2 file", "unpack it first"),
    (0, b"\xfd7zXZ", "an xz file", "unpack it first"),
    (0, b"\x28\xb5\x2f\xfd", "a zstd file", "unpack it first"),
    (257, b"ustar", "a tar archive", "unpack it first"),
    (0, b"GGUF", "a GGUF file", "its weights are quantised: take those that it was made from"),
    (0, b"PK\x05\x06", "an empty zip archive", "fetch or save it again"),
)
EXPECTED = "expected a checkpoint (safetensors, torch.save, a Hugging Face folder or a run folder)"


def recognise(path: Path) -> str:
    """Return which kind of checkpoint lies at a path.

    One of ``run folder``, ``adapter folder`` (of PEFT), ``hugging face folder``, ``safetensors``, ``sharded`` (a JSON
    index of several files), ``torch`` (a zip archive of ``torch.save``), ``torch legacy`` (the same before torch 1.6)
    and ``pickle`` (of Python's ``pickle.dump``). Raises :class:`InputError` saying what anything else is and how to
    come from there to a checkpoint.
    """
    with about(path, "a checkpoint"):
        if path.is_dir():
            return _recognise_folder(path)
        if not path.is_file():
            _refuse("something that is no file" if path.exists() else "a path where nothing is", "check the path")
        return _recognise_file(path)


def weights_file(folder: Path) -> str | None:
    """Return the name of the file of weights, or of the index of several, that a Hugging Face folder holds."""
    return next((name for name in WEIGHTS_FILES if (folder / name).is_file()), None)


def adapter_file(folder: Path) -> str | None:
    """Return the name of the file of weights that an adapter folder holds."""
    return next((name for name in ADAPTER_FILES if (folder / name).is_file()), None)


def _refuse(found: str, cure: str) -> NoReturn:
    raise InputError(f"{EXPECTED}, got {found}: {cure}")


def _recognise_folder(path: Path) -> str:
    if (path / "config.toml").is_file():
        return "run folder"
    if (path / ADAPTER_CONFIG).is_file() and adapter_file(path) is not None:
        return "adapter folder"
    weights = weights_file(path)
    if weights is not None and (path / "config.json").is_file():
        return "hugging face folder"
    if weights is not None:
        _refuse(f"a folder without config.json, but with {weights}", "give that file itself")
    names = sorted(entry.name for entry in islice(path.iterdir(), 1000))
    if ".metadata" in names or any(name.endswith(".distcp") for name in names):
        _refuse(
            "a folder of torch.distributed.checkpoint",
            "make one file of it with torch.distributed.checkpoint.format_utils.dcp_to_torch_save",
        )
    _refuse(
        f"a folder without weights ({shown(names) or 'empty'})", f"give a file, or a folder with {WEIGHTS_FILES[0]}"
    )


def _recognise_file(path: Path) -> str:
    with open(path, "rb") as stream:
        head = stream.read(HEAD)
    size = path.stat().st_size
    if not head:
        _refuse("an empty file", "fetch or save it again")
    if head.startswith(b"PK\x03\x04"):
        return _recognise_zip(path)
    if LEGACY in head[:64] and head[0] == 0x80:
        return "torch legacy"
    if head[8:9] == b"{" and not _is_text(head[:8]):
        return _recognise_safetensors(head, size)
    for offset, magic, found, cure in OTHERS:
        if head[offset:].startswith(magic):
            _refuse(found, cure)
    if head[0] == 0x80 and head[1:2] <= b"\x05":
        return "pickle"
    if _is_onnx(head):
        _refuse("an ONNX file, a program with its weights folded in", ONNX_CURE)
    if head.lstrip().startswith(b"{") and size <= MAX_INDEX and b'"weight_map"' in path.read_bytes():
        return "sharded"
    if head.lstrip().lower().startswith((b"<!doctype", b"<html", b"<head", b"<?xml")):
        _refuse("an HTML page, perhaps of a login or an error", "download the file itself")
    if _is_text(head):
        _refuse(f"text ({head[:40]!r})", "download the file itself")
    if size < 16:
        _refuse(f"a file of {size} bytes, too short for any", "fetch or save it again")
    _refuse(f"an unknown file that begins with {head[:12]!r}", SAVE_AGAIN)


def _recognise_safetensors(head: bytes, size: int) -> str:
    """Tell the length of the header, which comes first, from the same bytes read the wrong way round."""
    little, big = (int.from_bytes(head[:8], order) for order in ("little", "big"))
    if little > size - 8 >= big:
        _refuse("a safetensors file whose header length is big-endian", "write it little-endian, as the format says")
    return "safetensors"


def _recognise_zip(path: Path) -> str:
    with open_zip(path) as archive:
        listed = archive.namelist()
    names = {*listed, *(name.partition("/")[2] for name in listed)}
    if "constants.pkl" in names or any(name.startswith("code/") for name in names):
        _refuse("a TorchScript archive, which is a program", SAVE_AGAIN)
    if names & {"archive_format", "serialized_exported_program.json"} or any(n.startswith("models/") for n in names):
        _refuse("an exported program (.pt2)", SAVE_AGAIN)
    if ".data/extern_modules" in names:
        _refuse("a torch.package archive, which is a program", SAVE_AGAIN)
    if "data.pkl" in names:
        return "torch"
    if all(name.endswith(".npy") for name in listed):
        _refuse("a numpy archive (.npz)", "save its arrays as safetensors")
    _refuse(f"a zip archive of other things ({shown(sorted(listed))})", "unpack it, or save the weights as safetensors")


def _is_onnx(head: bytes) -> bool:
    """Say whether the bytes begin a protocol buffer with ONNX's fields: its version first, then on to the graph."""
    at, fields = 0, list[int]()
    while at < len(head) and ONNX_GRAPH not in fields:
        key, at = _varint(head, at)
        number, at = _varint(head, at)
        if ONNX_FIELDS.get(key >> 3) != key & 7 or (not fields and (key >> 3 != 1 or not 1 <= number < 100)):
            return False
        fields.append(key >> 3)
        at += number if key & 7 else 0
    return len(fields) > 1


def _varint(content: bytes, at: int) -> tuple[int, int]:
    """Return a whole number of a protocol buffer, seven bits a byte, and where it ends."""
    value, shift = 0, 0
    while at < len(content) and shift < 64:
        value |= (content[at] & 0x7F) << shift
        at, shift = at + 1, shift + 7
        if content[at - 1] < 0x80:
            break
    return value, at


def _is_text(head: bytes) -> bool:
    """Say whether bytes, perhaps cut off inside a character, are UTF-8 of printable characters and white space."""
    try:
        text = head[:-3].decode() if len(head) == HEAD else head.decode()
    except UnicodeDecodeError:
        return False
    return all(character.isprintable() or character.isspace() for character in text)
