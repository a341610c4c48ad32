"""Broken and hostile checkpoints: refused in one line, within little memory, with nothing run and nothing written."""

from __future__ import annotations

import contextlib
import json
import pickle
import pickletools
import random
import sys
from collections import OrderedDict
from fractions import Fraction
from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file

from sharpness.checkpoints import read_checkpoint
from sharpness.errors import InputError
from tests.conftest import run_cold_python
from tests.hostile_files import HOSTILE, LIVE
from tests.hostile_makers import Maker, pickled, saved, state

READ_ALL = """
import json, resource, sys
from pathlib import Path
from sharpness.checkpoints import read_checkpoint
from sharpness.errors import InputError
resource.setrlimit(resource.RLIMIT_AS, (4 << 30, 4 << 30))
peak = lambda: resource.getrusage(resource.RUSAGE_SELF).ru_maxrss >> 10
for name, path in json.loads(Path(sys.argv[1]).read_text()):
    before = peak()
    try:
        read_checkpoint(Path(path))
    except InputError as error:
        said = str(error)
    print(json.dumps([name, said, peak() - before]))
"""

MIXED = {"a": [1, 2.5, None, True, {"b", "c"}], "d": (1, (2, "e")), "f": Fraction(1, 2), "g": OrderedDict(h=b"i")}


def contents(folder: Path) -> dict[str, tuple[int, int]]:
    facts = {path: path.lstat() for path in sorted(folder.rglob("*"))}
    return {str(path): (fact.st_size, fact.st_mtime_ns) for path, fact in facts.items()}


@pytest.mark.parametrize("name", HOSTILE)
def test_a_hostile_file_is_refused_in_one_line_and_does_nothing(
    name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    hostile, folder, marker = HOSTILE[name], tmp_path / "files", tmp_path / "marker"
    folder.mkdir()
    monkeypatch.chdir(tmp_path)
    path = hostile.make(folder, marker)
    before = contents(tmp_path)
    with pytest.raises(InputError) as caught:
        read_checkpoint(path)
    message = str(caught.value)
    assert hostile.says in message and message.startswith(str(folder)) and "\n" not in message and len(message) < 800
    assert not marker.exists() and contents(tmp_path) == before


@pytest.mark.parametrize("allowed", [False, True], ids=["unasked", "allowed"])
@pytest.mark.parametrize("name", LIVE)
def test_what_a_pickle_names_stays_inert_and_its_tensors_are_read(
    name: str, allowed: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    live, folder, marker = LIVE[name], tmp_path / "files", tmp_path / "marker"
    folder.mkdir()
    monkeypatch.chdir(tmp_path)
    path = live.make(folder, marker)
    before, modules = contents(tmp_path), set(sys.modules)
    checkpoint = read_checkpoint(path, (live.inert,) if allowed else ())
    (reading,) = checkpoint.readings
    assert all(torch.equal(tensor, state()[name]) for name, tensor in reading.tensors.items())
    assert reading.tensors.keys() == state().keys() and (live.inert in checkpoint.inert) != allowed
    assert not marker.exists() and contents(tmp_path) == before and set(sys.modules) == modules
    pickled = next(file for file in sorted(folder.iterdir()) if file.suffix in (".pt", ".bin", ".safetensors"))
    for load in (lambda stream: torch.load(stream, weights_only=False), pickle.load):  # the payload is one
        with contextlib.suppress(Exception), open(pickled, "rb") as stream:
            load(stream)
    assert marker.exists()


@pytest.mark.dear
def test_hostile_files_take_little_memory(tmp_path: Path) -> None:
    files = []
    for number, (name, hostile) in enumerate(HOSTILE.items()):
        folder = tmp_path / str(number)
        folder.mkdir()
        files.append((name, str(hostile.make(folder, tmp_path / "marker"))))
    (tmp_path / "files.json").write_text(json.dumps(files))
    result = run_cold_python("-c", READ_ALL, str(tmp_path / "files.json"))
    assert result.returncode == 0, result.stderr
    rows = [json.loads(line) for line in result.stdout.splitlines()]
    assert len(rows) == len(HOSTILE) >= 40
    for name, said, mebibytes in rows:
        assert HOSTILE[name].says in said and mebibytes < 100, name
    assert not (tmp_path / "marker").exists()


def as_safetensors(folder: Path, marker: Path) -> Path:
    save_file(state(), folder / "model.safetensors")
    return folder / "model.safetensors"


MAKERS: dict[str, Maker] = {
    "zip": saved(state),
    "legacy": saved(state, _use_new_zipfile_serialization=False),
    "safetensors": as_safetensors,
}


@pytest.mark.parametrize("kind", MAKERS)
def test_a_file_cut_off_anywhere_is_refused(kind: str, tmp_path: Path) -> None:
    path = MAKERS[kind](tmp_path, tmp_path / "marker")
    content = path.read_bytes()
    for length in range(0, len(content), max(1, len(content) // 100)):
        path.write_bytes(content[:length])
        with pytest.raises(InputError, match=path.name):
            read_checkpoint(path)


@pytest.mark.parametrize("kind", MAKERS)
def test_a_file_with_flipped_bits_is_refused_or_holds_tensors(kind: str, tmp_path: Path) -> None:
    path = MAKERS[kind](tmp_path, tmp_path / "marker")
    content, draw, refused = path.read_bytes(), random.Random(0), 0
    for _ in range(150):
        flipped = bytearray(content)
        flipped[draw.randrange(len(content))] ^= 1 << draw.randrange(8)
        path.write_bytes(flipped)
        try:
            (reading,) = read_checkpoint(path).readings
        except InputError:
            refused += 1
            continue
        if kind == "zip":  # the others have no checksums
            assert all(torch.equal(tensor, state()[name]) for name, tensor in reading.tensors.items())
    assert refused > 20


def test_names_found_in_a_pickle_are_those_that_torch_finds_unsafe(tmp_path: Path) -> None:
    for name in ("os.system", "functools.partial", "operator.methodcaller"):
        path = LIVE[name].make(tmp_path, tmp_path / "marker")
        assert set(read_checkpoint(path).inert) == set(torch.serialization.get_unsafe_globals_in_checkpoint(str(path)))


def test_random_instructions_are_refused_or_make_plain_values(tmp_path: Path) -> None:
    draw, plain = random.Random(0), pickle.dumps(MIXED, 2)
    opcodes = [ord(opcode.code) for opcode in pickletools.opcodes]
    for _ in range(150):
        content = bytearray(plain)
        for _ in range(draw.randrange(1, 6)):
            content[draw.randrange(2, len(content))] = draw.choice(opcodes)
        path = pickled(bytes(content[2:-1]))(tmp_path, tmp_path / "marker")
        with pytest.raises(InputError) as caught:
            read_checkpoint(path)
        assert "\n" not in str(caught.value)
