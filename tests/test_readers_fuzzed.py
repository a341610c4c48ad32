"""Whatever stands in a file or on the command line is read or refused in one line: no other error comes out."""

from __future__ import annotations

import contextlib
import errno
import io
import json
import tomllib
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import tomli_w
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from safetensors.torch import save

from analysis.runs import read_config, read_manifest
from sharpness.checkpoints import read_checkpoint
from sharpness.cli.knobs import apply_knobs, split_knobs
from sharpness.cli.landscape import part_of
from sharpness.cli.stress import rows_of
from sharpness.config import RunConfig, from_toml, to_toml
from sharpness.config.spec import literal, names_in, parse_spec
from sharpness.data.idx import encode_idx, read_idx
from sharpness.data.npz_files import array_names, read_arrays
from sharpness.data.sources import load_data
from sharpness.errors import BAD_PATH, InputError, RunError
from sharpness.landscapes.evaluations import Sampling, evaluate_points
from sharpness.linalg.operators import FunctionOperator
from sharpness.linalg.replay import Replayed
from sharpness.loss import Loss
from sharpness.models.user_model import load_model
from sharpness.probes import PROBES
from sharpness.records import ProbeRecord
from sharpness.runs import RecordFolder, RunFolder
from sharpness.training import check_config

QUICK = settings(
    max_examples=40,
    derandomize=True,
    database=None,
    deadline=None,
    suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow],
)
NUMBERS = st.sampled_from([0, -1, 1, True, 2**31, 2**63, 2**64, 10**30, -0.5, 1e300, 1e-300, None])
TEXTS = st.sampled_from(["", "x", "../x", "\0", "\n", "é", "a" * 300, "1e999", "[", "{"])
TREES = st.recursive(
    NUMBERS | TEXTS, lambda inner: st.lists(inner, max_size=3) | st.dictionaries(TEXTS, inner, max_size=3), max_leaves=6
)
DEEP = [
    b'{"a":' * 5000 + b"1" + b"}" * 5000,
    b"[" * 100_000,
    b"a = " + b"[" * 5000,
    b"a." * 1500 + b"a = 1",
    b"9" * 5000,
]


def damaged(whole: bytes) -> st.SearchStrategy[bytes]:
    """Bytes that are not those of the file: cut, a byte changed, doubled, deep, or any at all."""
    places = st.integers(0, max(len(whole) - 1, 0))
    return st.one_of(
        places.map(lambda place: whole[:place]),
        st.tuples(places, st.binary(min_size=1, max_size=1)).map(
            lambda at: whole[: at[0]] + at[1] + whole[at[0] + 1 :]
        ),
        places.map(lambda place: whole[:place] + whole),
        st.sampled_from([b"", *DEEP]),
        st.binary(max_size=200),
    )


def altered(whole: Mapping[str, Any]) -> st.SearchStrategy[dict[str, Any]]:
    """A tree with one entry, at the top or one below, of another kind or gone."""
    places = [(name,) for name in whole]
    places += [(name, inner) for name, value in whole.items() if isinstance(value, dict) for inner in value]

    def change(place: tuple[str, ...], value: Any, gone: bool) -> dict[str, Any]:
        tree = json.loads(json.dumps(whole))
        table = tree if len(place) == 1 else tree[place[0]]
        table.pop(place[-1]) if gone else table.update({place[-1]: value})
        return tree

    return st.builds(change, st.sampled_from(places), TREES, st.booleans())


def refused_in_one_line(read: Callable[[], Any], longest: int = 2000) -> None:
    """Read, or be refused as a user is told it; what the system says of a path has a line of its own."""
    said, number = "", errno.ENOENT
    try:
        read()
    except (InputError, RunError) as error:
        said = str(error)
    except OSError as error:
        number = error.errno
    assert "\n" not in said and len(said) < longest and number in BAD_PATH


RECORD = ProbeRecord(probe="p", quantity="q", value=1.0, batch_sizes=(2,), versions={"torch": "2"}, knobs={"k": 1})
MANIFEST = {"schema": 1, "status": "finished", "step": 1, "files": {"checkpoint-1.safetensors": "a"}, "final": {}}
CONFIG = {
    "architectures": ["GPT2LMHeadModel"],
    "model_type": "gpt2",
    "n_embd": 8,
    "n_layer": 1,
    "n_head": 1,
    "vocab_size": 9,
}
LOGGED = {"epoch": 1, "train_loss": 0.5}
STRESS = {"key": {"probe": "p"}, "kind": "pair", "moved": True, "before": RECORD.to_dict(), "after": RECORD.to_dict()}


def line(row: Mapping[str, Any]) -> bytes:
    return (json.dumps(row, sort_keys=True) + "\n").encode()


def npz() -> bytes:
    buffer = io.BytesIO()
    np.savez(buffer, x=np.ones((3, 2), np.float32), y=np.arange(3))
    return buffer.getvalue()


def run_folder(folder: Path) -> None:
    refused_in_one_line(RunFolder(folder).manifest)
    refused_in_one_line(RunFolder(folder).final_checkpoint)
    refused_in_one_line(lambda: read_manifest(folder))


def configs(folder: Path) -> None:
    refused_in_one_line(lambda: check_config(from_toml(folder / "config.toml")))
    refused_in_one_line(lambda: read_config(folder))


def records(folder: Path) -> None:
    index = RecordFolder(folder)
    refused_in_one_line(index.records)
    refused_in_one_line(lambda: list(index.index.candidates("p", {"k": 1}, None)))


FILES: dict[str, tuple[str, bytes, Callable[[Path], None]]] = {
    "config": ("config.toml", to_toml(RunConfig()).encode(), configs),
    "manifest": ("manifest.json", json.dumps(MANIFEST).encode(), run_folder),
    "records": ("probes.jsonl", line(RECORD.to_dict()), records),
    "log": ("train.jsonl", line(LOGGED), lambda folder: refused_in_one_line(RunFolder(folder).log)),
    "stress": ("stress.jsonl", line(STRESS), lambda f: refused_in_one_line(lambda: list(rows_of(f / "stress.jsonl")))),
    "idx": (
        "i.idx",
        encode_idx(torch.ones(2, 3, 3, dtype=torch.uint8)),
        lambda f: refused_in_one_line(lambda: read_idx(f / "i.idx", 3)),
    ),
    "npz": ("d.npz", npz(), lambda f: refused_in_one_line(lambda: read_arrays(f / "d.npz", array_names(f / "d.npz")))),
    "safetensors": (
        "w.safetensors",
        save({"w": torch.ones(3)}),
        lambda f: refused_in_one_line(lambda: read_checkpoint(f / "w.safetensors")),
    ),
}
"""The name of a file, its bytes when it is whole, and the readers that meet it."""


@pytest.mark.parametrize("name", FILES)
def test_a_damaged_file_is_read_or_refused_in_one_line(name: str, tmp_path: Path) -> None:
    file, whole, read = FILES[name]

    @QUICK
    @given(damaged(whole))
    def check(content: bytes) -> None:
        (tmp_path / file).write_bytes(content)
        read(tmp_path)

    check()


ROWS: dict[str, Mapping[str, Any]] = {
    "manifest": MANIFEST,
    "records": RECORD.to_dict(),
    "stress": STRESS,
    "log": LOGGED,
    "config": tomllib.loads(to_toml(RunConfig())),
}


@pytest.mark.parametrize("name", ROWS)
def test_values_of_odd_types_are_read_or_refused_in_one_line(name: str, tmp_path: Path) -> None:
    file, _, read = FILES[name]

    @QUICK
    @given(altered(ROWS[name]))
    def check(row: dict[str, Any]) -> None:
        if name != "config":
            (tmp_path / file).write_bytes(line(row))
        else:
            with contextlib.suppress(TypeError):  # TOML has no null
                (tmp_path / file).write_text(tomli_w.dumps(row))
        read(tmp_path)

    check()


@settings(QUICK, max_examples=8)
@given(altered(CONFIG) | damaged(json.dumps(CONFIG).encode()))
def test_the_config_of_a_hugging_face_folder_is_read_or_refused_in_one_line(tmp_path: Path, content: Any) -> None:
    pytest.importorskip("transformers")
    (tmp_path / "config.json").write_bytes(content if isinstance(content, bytes) else json.dumps(content).encode())
    refused_in_one_line(lambda: load_model(f"hf:{tmp_path}"))


@settings(QUICK, max_examples=40)
@given(damaged(b"x" * 300), st.integers(0, 3))
def test_a_damaged_product_is_computed_again(tmp_path: Path, content: bytes, number: int) -> None:
    def solve() -> tuple[list[float], int]:
        operator = Replayed(FunctionOperator(lambda v: 2 * v, 2, torch.float64), tmp_path, "one")
        vectors = [torch.tensor([1.0, float(i)], dtype=torch.float64) for i in range(4)]
        return [float(operator.matvec(v).sum()) for v in vectors], operator.num_replayed

    products = [2.0, 4.0, 6.0, 8.0]
    assert solve()[0] == products
    file = tmp_path / f"product_{number:06d}.safetensors"
    place = len(content) % file.stat().st_size
    whole = file.read_bytes()
    file.write_bytes(content if number % 2 else whole[:place] + bytes([whole[place] ^ 1]) + whole[place + 1 :])
    assert solve() == (products, number) and solve() == (products, 4)


POINTS = Loss(torch.nn.Linear(1, 1, bias=False), torch.nn.functional.mse_loss, [(torch.ones(1, 1), torch.zeros(1, 1))])


@settings(QUICK, max_examples=40)
@given(st.data())
def test_a_damaged_point_is_measured_again(tmp_path: Path, data: st.DataObject) -> None:
    def sampled() -> list[float]:
        found = evaluate_points(POINTS, lambda number: torch.tensor([float(number)]), 3, Sampling(resume=tmp_path))
        return [point.loss for point in found.train]

    for old in tmp_path.iterdir():
        old.unlink()
    assert sampled() == [0, 1, 4]
    (file,) = tmp_path.glob("cells-*")
    lines = file.read_bytes().splitlines(keepends=True)[:3]
    number = data.draw(st.integers(0, 2))
    lines[number] = data.draw(damaged(lines[number]) | altered(json.loads(lines[number])).map(line))
    file.write_bytes(b"".join(lines))
    assert sampled() == [0, 1, 4]


ARGUMENTS = st.text("a1.,=:-_[]{}\"'/\0 é", max_size=30) | st.sampled_from(
    ["[" * 3000, "{a=" * 900, "0x" + "f" * 5000, "1" * 5000]
)
PARSERS: list[Callable[[str], Any]] = [
    literal,
    lambda text: parse_spec(text, ["npz", "timm"]).checked(["a"]),
    lambda text: names_in(text, "probes"),
    part_of,
    lambda text: load_data(f"fashion_mnist_10k,{text}", batch_size=2),
    lambda text: load_data(f"npz:{text}", batch_size=2),
    lambda text: load_model(f"f1_narrow,{text}", (1, 28, 28), 10),
]


@settings(QUICK, max_examples=40)
@given(ARGUMENTS)
def test_specs_and_options_are_read_or_refused_in_one_line(text: str) -> None:
    for parse in PARSERS:
        refused_in_one_line(lambda parse=parse: parse(text), 20_000)  # it says what was typed


@QUICK
@given(st.sampled_from(sorted(PROBES)), st.data())
def test_knobs_are_set_or_refused_in_one_line(name: str, data: st.DataObject) -> None:
    probe = PROBES[name].probe()
    knob = data.draw(st.sampled_from([*vars(probe), "k", "x"]))
    value = data.draw(TREES.map(json.dumps) | ARGUMENTS)
    refused_in_one_line(lambda: apply_knobs({name: probe}, split_knobs([f"--{name}.{knob}={value}"])[1]), 20_000)
