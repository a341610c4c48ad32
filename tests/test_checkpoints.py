"""Checkpoints of every kind load into a model: the right tensors, under any wrapper, copied once."""

from __future__ import annotations

import hashlib
import json
import pickle
import warnings
import zipfile
from argparse import Namespace
from collections import OrderedDict, defaultdict
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import save_file
from torch import nn

from sharpness.checkpoints import load_into, read_checkpoint
from sharpness.errors import InputError
from tests.checkpoint_cases import (
    AVERAGED,
    OTHER,
    S,
    State,
    averaging,
    cast,
    compiled,
    compiled_in_part,
    holds,
    inside,
    lightning,
    network,
    prefixed,
    trained,
    without_counts,
)
from tests.conftest import run_cold_python


@dataclass(frozen=True)
class Good:
    """A saved file, how it is asked for, what the report has to say, and what the model holds afterwards."""

    content: Any
    options: Mapping[str, Any] = field(default_factory=dict)
    reading: str = ""
    prefix: str = ""
    ema: bool = False
    expected: State = field(default_factory=lambda: S)


WRAPPERS = ("state_dict", "model", "model_state_dict", "net", "network", "module", "params", "weights")
EMA = {"ema": True}
AVERAGES = prefixed("ema_model.", AVERAGED)
GOOD: dict[str, Good] = {
    "plain": Good(S),
    **{f"wrapped as {name}": Good({name: S, "epoch": 3}, reading=name) for name in WRAPPERS},
    "wrapped twice": Good({"checkpoint": {"model": S}}, reading="checkpoint.model"),
    "Lightning": Good(lightning(S), {}, "state_dict", "net."),
    "Lightning averaging weights": Good(lightning(OTHER, "", **averaging(S)), reading="current_model_state"),
    "Lightning's averages": Good(lightning(S, "", **averaging(OTHER)), EMA, "state_dict", ema=True),
    "DataParallel": Good(nn.DataParallel(trained()).state_dict(), prefix="module."),
    "torch.compile": Good(compiled(trained()).state_dict(), prefix="_orig_mod."),
    "DDP around torch.compile": Good(prefixed("module._orig_mod.", S), prefix="module._orig_mod."),
    "torch.compile around DDP": Good({"net": prefixed("_orig_mod.module.", S)}, {}, "net", "_orig_mod.module."),
    "FSDP": Good(prefixed("_fsdp_wrapped_module.", S), prefix="_fsdp_wrapped_module."),
    "FSDP inside": Good(inside("_fsdp_wrapped_module._checkpoint_wrapped_module", S)),
    "torch.compile inside": Good(compiled_in_part()),
    "Lightning around torch.compile inside": Good(prefixed("net.", compiled_in_part()), prefix="net."),
    "DataParallel inside": Good(inside("module", S)),
    "AveragedModel": Good(AVERAGED, {}, prefix="module.", ema=True),
    "AveragedModel, asked for": Good(AVERAGED, EMA, prefix="module.", ema=True),
    "weights beside averages": Good({"state_dict": S, "state_dict_ema": OTHER}, reading="state_dict"),
    "averages beside weights": Good({"model": OTHER, "model_ema": S}, EMA, "model_ema", ema=True),
    "weights beside an AveragedModel": Good({"model": S, "other": AVERAGED}, reading="model"),
    "averages in the same mapping": Good({"s": prefixed("net.", S) | AVERAGES}, {}, "s", "net."),
    "averages of the same mapping": Good(
        {"s": prefixed("net.", OTHER) | AVERAGES}, EMA, "s", "ema_model.module.", ema=True
    ),
    "student beside teacher": Good(
        {"s": prefixed("student.", S) | prefixed("teacher.", OTHER)}, {"key": "s:student."}, "s", "student."
    ),
    "one of two": Good({"first": OTHER, "second": S}, {"key": "second"}, "second"),
    "parameters": Good(dict(trained().named_parameters()) | dict(trained().named_buffers())),
    "batch counts left out": Good(without_counts(S), expected=without_counts(S)),
    "half precision": Good(cast(S, torch.float16), expected=cast(cast(S, torch.float16), torch.float32)),
    "brain floats": Good(cast(S, torch.bfloat16), expected=cast(cast(S, torch.bfloat16), torch.float32)),
    "double precision": Good(cast(S, torch.float64)),
    "not contiguous": Good(S | {"fc.weight": S["fc.weight"].t().contiguous().t()}),
}


@pytest.mark.parametrize("options", [{}, {"_use_new_zipfile_serialization": False}], ids=["zip", "legacy"])
@pytest.mark.parametrize("name", GOOD)
def test_what_torch_saves_loads(name: str, options: dict[str, Any], tmp_path: Path) -> None:
    good, path, model = GOOD[name], tmp_path / "weights.anything", network()
    torch.save(good.content, path, **options)
    report = load_into(model, read_checkpoint(path), **good.options)
    state = model.state_dict()
    assert all(torch.equal(state[own], tensor) for own, tensor in good.expected.items())
    assert (report.reading, report.prefix, report.ema) == (good.reading, good.prefix, good.ema)
    assert report.fits and set(report.used) == state.keys() & good.expected.keys()
    json.dumps(report.details(), allow_nan=False)


def big_endian(state: State, path: Path) -> Path:
    """Write floats as a machine of the other byte order does."""
    torch.save(dict(state), path)
    with zipfile.ZipFile(path) as archive:
        entries = {name: archive.read(name) for name in archive.namelist()}
    with zipfile.ZipFile(path, "w") as archive:
        for name, content in entries.items():
            if "/data/" in name:
                content = np.frombuffer(content, "<f4").astype(">f4").tobytes()
            archive.writestr(name, b"big" if name.endswith("byteorder") else content)
    return path


def test_the_other_byte_order_loads(tmp_path: Path) -> None:
    state = {name: tensor for name, tensor in S.items() if tensor.is_floating_point()}
    model = network()
    path = big_endian(state, tmp_path / "model.pt")
    before = path.read_bytes()
    load_into(model, read_checkpoint(path))
    assert all(torch.equal(model.state_dict()[name], tensor) for name, tensor in state.items())
    assert path.read_bytes() == before


@pytest.mark.parametrize("suffix", ["safetensors", "pt"])
def test_content_decides_and_not_the_name(suffix: str, tmp_path: Path) -> None:
    torch.save(S, tmp_path / "a.safetensors")
    save_file(dict(S), tmp_path / "a.pt")
    model = network()
    checkpoint = read_checkpoint(tmp_path / f"a.{suffix}")
    assert load_into(model, checkpoint).fits
    assert holds(model, S)
    assert checkpoint.kind == {"safetensors": "torch", "pt": "safetensors"}[suffix]
    assert checkpoint.sha256 == hashlib.sha256(checkpoint.path.read_bytes()).hexdigest()


def test_casts_are_reported(tmp_path: Path) -> None:
    save_file(cast(S, torch.bfloat16), tmp_path / "model.safetensors")
    report = load_into(network(), read_checkpoint(tmp_path / "model.safetensors"))
    assert report.casts == {"bfloat16 to float32": 8} and report.dtypes == {"bfloat16": 8, "int64": 1}
    assert "8 cast from bfloat16 to float32" in str(report)


@dataclass
class Box:
    """A class of some training code that a pickle may hold a network in."""

    net: nn.Module
    lr: float = 0.1


class Attributes(dict[str, Any]):
    """A dict of a class of its own."""


FOREIGN: dict[str, tuple[Any, tuple[str, ...]]] = {
    "namespace": ({"state_dict": S, "args": Namespace(lr=0.1)}, ("argparse.Namespace",)),
    "path": ({"state_dict": S, "path": Path("runs/1")}, (f"{type(Path()).__module__}.PosixPath",)),
    "numpy scalar": ({"state_dict": S, "best": np.float64(0.5)}, ("numpy.dtype",)),
    "a class of layers": ({"state_dict": S, "activation": nn.ReLU}, ("torch.nn.modules.activation.ReLU",)),
    "a whole module": (trained(), ("torch.nn.modules.container.Sequential", "torch.nn.modules.conv.Conv2d")),
    "a module in a dict": ({"model": trained(), "epoch": 3}, ("torch.nn.modules.linear.Linear",)),
    "a module in an object": (Box(trained()), (f"{__name__}.Box",)),
    "a state dict in an object": ({"best": Namespace(weights=S)}, ("argparse.Namespace",)),
    "a dict of its own class": (Attributes(S), (f"{__name__}.Attributes",)),
    "a dict with a default": (defaultdict(list, S), ("collections.defaultdict", "builtins.list")),
}


@pytest.mark.parametrize("options", [{}, {"_use_new_zipfile_serialization": False}], ids=["zip", "legacy"])
@pytest.mark.parametrize("name", FOREIGN)
def test_tensors_are_read_out_of_pickles_with_classes_of_other_code(
    name: str, options: dict[str, Any], tmp_path: Path
) -> None:
    content, names = FOREIGN[name]
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # torch finds no source beside some classes
        torch.save(content, tmp_path / "model.ckpt", **options)
    model = network()
    report = load_into(model, read_checkpoint(tmp_path / "model.ckpt"))
    assert holds(model, S) and report.inert == tuple(sorted(report.inert)) and set(names) <= set(report.inert)
    assert "kept inert, neither imported nor called: " in str(report)
    expected = read_checkpoint(tmp_path / "model.ckpt", report.inert)
    assert expected.inert == () and "inert" not in str(load_into(model, expected))


@pytest.mark.parametrize("protocol", range(2, 6))
def test_what_pickle_itself_wrote_is_read_too(protocol: int, tmp_path: Path) -> None:
    for content in (dict(S), {"best": Box(trained())}, OrderedDict(S), {"weights": cast(S, torch.float64)}):
        (tmp_path / "model.pkl").write_bytes(pickle.dumps(content, protocol))
        model, checkpoint = network(), read_checkpoint(tmp_path / "model.pkl")
        assert load_into(model, checkpoint).fits and holds(model, S) and checkpoint.kind == "pickle"
    torch.save(S, tmp_path / "model.pt", _use_new_zipfile_serialization=False, pickle_protocol=protocol)
    assert read_checkpoint(tmp_path / "model.pt").kind == "torch legacy"


def test_types_and_signs_of_pickled_tensors_are_kept(tmp_path: Path) -> None:
    content = {
        "view": torch.arange(10).to(torch.uint16)[2:8].view(3, 2),
        "conjugated": torch.tensor([1 + 2j, 3 - 4j]).conj(),
        "negated": torch.tensor([1 + 2j]).conj().imag,
        "part": nn.Parameter(torch.arange(3.0)[1:]),
        "empty": torch.zeros(0, 4),
        "scalar": torch.tensor(True),
    }
    torch.save(content, tmp_path / "model.pt")
    (reading,) = read_checkpoint(tmp_path / "model.pt").readings
    for name, tensor in content.items():
        assert reading.tensors[name].dtype == tensor.dtype and torch.equal(reading.tensors[name], tensor), name


def test_a_file_of_a_run_folder_is_checked_against_its_manifest(tmp_path: Path) -> None:
    path = tmp_path / "checkpoint-3.safetensors"
    save_file(dict(S), path)
    (tmp_path / "config.toml").write_text("")
    manifest = {"files": {path.name: hashlib.sha256(path.read_bytes()).hexdigest()}}
    (tmp_path / "manifest.json").write_text(json.dumps(manifest))
    assert load_into(network(), read_checkpoint(path)).fits
    with pytest.raises(InputError, match="run folder: give one of its files"):
        read_checkpoint(tmp_path)
    (tmp_path / "manifest.json").write_text(json.dumps(manifest)[:-1])
    with pytest.raises(InputError, match=r"manifest.json: expected a manifest in JSON"):
        read_checkpoint(path)


ONE_COPY = """
import sys, torch
from pathlib import Path
from sharpness.checkpoints import load_into, read_checkpoint

def anonymous() -> int:
    status = Path("/proc/self/status").read_text()
    return int(status.split("RssAnon:")[1].split()[0]) >> 10

model = torch.nn.Module()
model.weight = torch.nn.Parameter(torch.ones(1 << 25))  # 128 MiB, as the file has
before = anonymous()
for path in sys.argv[1:]:
    checkpoint = read_checkpoint(Path(path))
    read = anonymous()
    load_into(model, checkpoint)
    assert model.weight[-1] == 0
    print(read - before, anonymous() - before)
"""


@pytest.mark.dear
def test_a_large_file_is_copied_once(tmp_path: Path) -> None:
    torch.save({"weight": torch.zeros(1 << 25)}, tmp_path / "model.pt")
    header = json.dumps({"weight": {"dtype": "F32", "shape": [1 << 25], "data_offsets": [0, 1 << 27]}}).encode()
    with open(tmp_path / "model.safetensors", "wb") as stream:
        stream.write(len(header).to_bytes(8, "little") + header)
        stream.truncate(8 + len(header) + (1 << 27))
    result = run_cold_python("-c", ONE_COPY, str(tmp_path / "model.safetensors"), str(tmp_path / "model.pt"))
    assert result.returncode == 0, result.stderr
    for line in result.stdout.splitlines():
        reading, loading = map(int, line.split())
        assert reading < 30 and loading < 30  # MiB beside the model's own 128
