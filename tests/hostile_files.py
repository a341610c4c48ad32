"""The table of files that no reader of checkpoints may trust: broken, mistaken for one, or made to do harm."""

from __future__ import annotations

import gzip
import pickle
from dataclasses import dataclass

import numpy as np
import torch
from torch.storage import _load_from_bytes

from tests.hostile_makers import (
    Calls,
    Maker,
    altered,
    copied_again,
    doubled_by_hex,
    encrypted,
    endless_module,
    entry,
    entry_twice,
    flip,
    folder_with,
    header,
    in_memory,
    linked_shard,
    live,
    live_hugging_face,
    live_plain_pickle,
    live_shard,
    nested_key,
    own_file_flipped,
    pickled,
    pipe,
    saved,
    sharded,
    state,
    tar_of_nothing,
    tensor,
    text,
    torchscript,
    without_checksums,
    write,
    zip_bomb,
    zipped,
)


@dataclass(frozen=True)
class Hostile:
    """A maker of a file, and a word that its error must say."""

    make: Maker
    says: str


@dataclass(frozen=True)
class Live:
    """A maker of a file that creates the marker when an ordinary unpickler reads it, and a name that stays inert."""

    make: Maker
    inert: str


LIVE: dict[str, Live] = {
    "os.system": Live(live("os.system"), "posix.system"),
    "eval": Live(live("eval"), "builtins.eval"),
    "exec": Live(live("exec"), "builtins.exec"),
    "getattr": Live(live("method"), "builtins.getattr"),
    "subprocess": Live(live("Popen"), "subprocess.check_call"),
    "resolve_name": Live(live("resolve_name"), "pkgutil.resolve_name"),
    "functools.partial": Live(live("partial"), "functools.partial"),
    "operator.methodcaller": Live(live("methodcaller"), "operator.methodcaller"),
    "shutil": Live(live("copy"), "shutil.copyfile"),
    "a class that opens files": Live(live("archive"), "zipfile.ZipFile"),
    "a parser": Live(live("parser"), "sympy.parsing.sympy_parser.parse_expr"),
    "a legacy file": Live(live("os.system", _use_new_zipfile_serialization=False), "posix.system"),
    "a later protocol": Live(live("os.system", pickle_protocol=4), "posix.system"),
    "named safetensors": Live(live("os.system", "model.safetensors"), "posix.system"),
    "a plain pickle": Live(live_plain_pickle, "posix.system"),
    "a hugging face folder": Live(live_hugging_face, "posix.system"),
}

HOSTILE: dict[str, Hostile] = {
    "payload in a shard": Hostile(live_shard, "named tensors only"),
    "plain pickle without tensors": Hostile(write(pickle.dumps({"epoch": 3})), "epoch"),
    "plain pickle with a hole": Hostile(write(pickle.dumps(Calls(_load_from_bytes, b"no file"))), "cannot be read"),
    "plain pickle cut off": Hostile(write(pickle.dumps({"w": torch.ones(9)})[:-40]), "cannot be read"),
    "live payload and no tensors": Hostile(pickled(b"cposix\nsystem\n" + text("true") + b"\x85R"), "Inert"),
    "module inside itself": Hostile(pickled(endless_module()), "at most"),
    "torchscript": Hostile(torchscript, "TorchScript"),
    "exported program": Hostile(lambda folder, _: zipped(folder, {"m/archive_format": b"pt2"}), ".pt2"),
    "torch.package": Hostile(lambda folder, _: zipped(folder, {"m/.data/extern_modules": b""}), "torch.package"),
    "bytearray bomb": Hostile(pickled(b"cbuiltins\nbytearray\n\x8a\x05\0\0\0\0\x20\x85R"), "bytearray"),
    "hex bomb": Hostile(pickled(doubled_by_hex()), "bytes"),
    "copies bomb": Hostile(pickled(copied_again()), "objects"),
    "hash bomb": Hostile(pickled(nested_key()), "tuple"),
    "storage call bomb": Hostile(pickled(b"ctorch.storage\nUntypedStorage\n\x8a\x05\0\0\0\0\x20\x85R"), "Inert"),
    "tensor beyond its storage": Hostile(pickled(tensor(4, 1 << 40, 1), {"0": bytes(16)}), "inside their storages"),
    "expanded tensor": Hostile(pickled(tensor(4, 1 << 40, 0), {"0": bytes(16)}), "expanded"),
    "storage beyond its entry": Hostile(pickled(tensor(1 << 38, 1 << 38, 1), {"0": bytes(16)}), "data/0"),
    "storage without entry": Hostile(pickled(tensor(4, 4, 1)), "no such entry"),
    "sparse tensor": Hostile(saved(lambda: {"w": torch.eye(3).to_sparse()}), "sparse"),
    "meta tensor": Hostile(saved(lambda: {"w": torch.empty(3, device="meta")}), "meta"),
    "other protocol": Hostile(pickled(b"\x80\x09}"), "protocol 9"),
    "unknown instruction": Hostile(pickled(b"\x82\x01"), "EXT1"),
    "state of a tensor": Hostile(pickled(tensor(4, 4, 1)[:-1] + b"}bs", {"0": bytes(16)}), "by hand"),
    "keys that are lists": Hostile(pickled(b"}]K\x01s"), "unhashable"),
    "pickle cut off": Hostile(lambda folder, _: zipped(folder, {"m/data.pkl": b"\x80\x02}("}), "cannot be read"),
    "no tensors": Hostile(saved(lambda: {"epoch": 3}), "epoch"),
    "one tensor without a name": Hostile(saved(lambda: torch.ones(3)), "Tensor"),
    "truncated zip": Hostile(altered(saved(state), lambda content: content[:-300]), "truncated"),
    "zip with something behind": Hostile(altered(saved(state), lambda content: content + b"more"), "behind"),
    "zip with something before": Hostile(altered(saved(state), lambda content: b"PK\x03\x04" + content), "damaged"),
    "zip with a flipped byte": Hostile(
        altered(saved(state), flip(lambda content: content.index(b"\0\0\xa0\x40"))), "checksums"
    ),
    "zip bomb": Hostile(zip_bomb, "compressed"),
    "overlapping entries": Hostile(altered(saved(state), entry_twice), "overlapping"),
    "encrypted entries": Hostile(altered(saved(state), encrypted), "encrypted"),
    "entries in several folders": Hostile(
        lambda folder, _: zipped(folder, {"a/data.pkl": b"\x80\x02}.", "b/data.pkl": b"\x80\x02}."}), "one folder"
    ),
    "entries that differ in case": Hostile(
        lambda folder, _: zipped(folder, {"a/data.pkl": b"\x80\x02}.", "a/DATA.pkl": b"\x80\x02}."}), "different names"
    ),
    "no checksums": Hostile(without_checksums, "set_crc32_options"),
    "zip of other things": Hostile(lambda folder, _: zipped(folder, {"readme.md": b"hello"}), "readme.md"),
    "legacy file cut off": Hostile(
        altered(saved(state, _use_new_zipfile_serialization=False), lambda content: content[:-12]), "truncated"
    ),
    "legacy file cut off in its pickle": Hostile(
        altered(saved(state, _use_new_zipfile_serialization=False), lambda content: content[:90]), "cannot be read"
    ),
    "header bomb": Hostile(header({"a": entry(0, 32)}, length=1 << 40), "header"),
    "header of 64 MiB": Hostile(header({"a": entry(0, 32)}, length=64 << 20), "header"),
    "header longer than the file": Hostile(header({"a": entry(0, 32)}, length=4096), "truncated"),
    "header length big-endian": Hostile(header({"a": entry(0, 32)}, order="big"), "big-endian"),
    "header that is no JSON": Hostile(header(b"{'a': 1}"), "JSON"),
    "header nested deeply": Hostile(header(b'{"a":' + b"[" * 100_000 + b"]" * 100_000 + b"}"), "JSON"),
    "header with a key twice": Hostile(header(b'{"a": 1, "a": 2}'), "twice"),
    "header with a line break in a name": Hostile(header({"a\nb": entry(0, 16, [3])}), "a\\nb"),
    "tensors that overlap": Hostile(header({"a": entry(0, 16), "b": entry(8, 32)}), "overlap"),
    "tensors with a gap": Hostile(header({"a": entry(0, 8), "b": entry(16, 32)}), "gap"),
    "tensors that end early": Hostile(header({"a": entry(0, 16)}), "truncated or damaged"),
    "tensors that end late": Hostile(header({"a": entry(0, 1 << 40)}), "truncated"),
    "shape that is too large": Hostile(header({"a": entry(0, 32, [1 << 62, 4])}), "entries"),
    "negative offsets": Hostile(header({"a": entry(-32, 0, [8])}), "data_offsets"),
    "unknown type": Hostile(header({"a": entry(0, 32, dtype="F4")}), "F4"),
    "description that is none": Hostile(header({"a": 3}), "dtype"),
    "safetensors cut off": Hostile(altered(header({"a": entry(0, 32)}), lambda content: content[:-1]), "truncated"),
    "empty file": Hostile(write(b""), "empty"),
    "one byte": Hostile(write(b"\xff"), "too short"),
    "html": Hostile(write(b"\n<!DOCTYPE html><html>Sign in</html>"), "HTML"),
    "git-lfs pointer": Hostile(write(b"version https://git-lfs.github.com/spec/v1\noid sha256:0\n"), "git lfs pull"),
    "text": Hostile(write("naïve text\n".encode() * 900), "text"),
    "json of an error": Hostile(write(b'{"error": "Repository not found"}'), "text"),
    "random bytes": Hostile(write(bytes(range(200, 256)) * 9), "begins with"),
    "hdf5": Hostile(write(b"\x89HDF\r\n\x1a\n" + bytes(99)), "HDF5"),
    "onnx": Hostile(write(b"\x08\x0a\x12\x07pytorch\x1a\x052.1.0:" + bytes([99]) + bytes(99)), "ONNX"),
    "gguf": Hostile(write(b"GGUF" + bytes(99)), "GGUF"),
    "gzip": Hostile(write(gzip.compress(b"weights")), "gzip"),
    "tar": Hostile(write(in_memory(tar_of_nothing)), "tar"),
    "npy": Hostile(write(in_memory(lambda buffer: np.save(buffer, np.ones(3)))), "numpy array"),
    "npz": Hostile(write(in_memory(lambda buffer: np.savez(buffer, w=np.ones(3)))), ".npz"),
    "distributed checkpoint": Hostile(folder_with(**{".metadata": b"", "__0_0.distcp": b""}), "dcp_to_torch_save"),
    "folder without weights": Hostile(folder_with(**{"readme.md": b""}), "readme.md"),
    "folder without config": Hostile(folder_with(**{"model.safetensors": b""}), "config.json"),
    "nothing": Hostile(lambda folder, _: folder / "model.pt", "nothing is"),
    "pipe": Hostile(pipe, "no file"),
    "shard that is not there": Hostile(sharded({"a": "1", "b": "2"}, {"1": ["a"]}), "beside it"),
    "shard above": Hostile(sharded({"a": "../1"}, {}), "leads out"),
    "shard of an absolute path": Hostile(sharded({"a": "/etc/passwd"}, {}), "leads out"),
    "shard on a drive": Hostile(sharded({"a": "c:part"}, {}), "leads out"),
    "shard that is the folder": Hostile(sharded({"a": ".."}, {}), "leads out"),
    "shard behind a link": Hostile(linked_shard, "leaves it"),
    "tensor in two shards": Hostile(sharded({"a": "1", "b": "2"}, {"1": ["a"], "2": ["a", "b"]}), "earlier one"),
    "tensor in no shard": Hostile(sharded({"a": "1", "b": "1"}, {"1": ["a"]}), "got none"),
    "tensor in no index": Hostile(sharded({"a": "1"}, {"1": ["a", "b"]}), "only the tensors"),
    "shards of another size": Hostile(sharded({"a": "1"}, {"1": ["a"]}, total_size=99), "99 bytes"),
    "index without places": Hostile(sharded({}, {}), "weight_map"),
    "index cut off": Hostile(altered(sharded({"a": "1"}, {}), lambda content: content[:-1]), "JSON"),
    "flipped byte in a run folder": Hostile(own_file_flipped, "SHA-256"),
}
