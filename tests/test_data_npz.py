"""Data from ``.npz`` files: which arrays, what their types and axes mean, and files that are damaged or hostile."""

from __future__ import annotations

import io
import json
import os
import pickle
import struct
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from sharpness.data import user_data
from tests.data_cases import load, random_array, refused, save_npz

IMAGES = random_array(7, 5, 6)
CLASSES = np.array([0, 1, 2, 3, 0, 1, 2])


def whole(text: str) -> tuple[torch.Tensor, torch.Tensor]:
    """Return all inputs and all targets."""
    pairs = list(load(text).batches)
    return torch.cat([x for x, _ in pairs]), torch.cat([y for _, y in pairs])


# --- types and axes --------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("shape", "expected", "note"),
    [
        ((7, 5, 6), (7, 1, 5, 6), "N x H x W bytes"),
        ((7, 5, 6, 3), (7, 3, 5, 6), "N x H x W x C bytes"),
        ((7, 5, 6, 4), (7, 4, 5, 6), "N x H x W x C bytes"),
        ((7, 3, 5, 6), (7, 3, 5, 6), None),
        ((7, 3, 5, 3), (7, 3, 5, 3), None),  # either axis could be the channels: kept
        ((7, 30), (7, 30), None),
    ],
)
def test_bytes_become_images_in_0_to_1(
    tmp_path: Path, shape: tuple[int, ...], expected: tuple[int, ...], note: str | None
) -> None:
    pixels = random_array(*shape)
    text = save_npz(tmp_path / "a.npz", images=pixels, labels=CLASSES)
    inputs, targets = whole(text)
    moved = np.moveaxis(pixels, -1, 1) if note and len(shape) == 4 else pixels.reshape(expected)
    assert torch.equal(inputs, torch.from_numpy(moved.astype("float32") / np.float32(255)))
    assert torch.equal(targets, torch.from_numpy(CLASSES)) and targets.dtype == torch.int64
    data = load(text)
    assert (data.num_classes, data.input_shape) == (4, expected[1:])
    assert data.notes[-1] == "bytes divided by 255" and any(note in n for n in data.notes if note) == bool(note)


def test_scale_mean_and_std(tmp_path: Path) -> None:
    pixels = random_array(7, 3, 4, 4)
    text = save_npz(tmp_path / "a.npz", x=pixels, y=CLASSES)
    data = load(f"{text},mean=0.5/0.4/0.3,std=0.25/0.5/1")
    mean, std = torch.tensor([0.5, 0.4, 0.3]), torch.tensor([0.25, 0.5, 1.0])
    x = torch.cat([x for x, _ in data.batches])
    expected = (torch.from_numpy(pixels).double() / 255 - mean.view(3, 1, 1)) / std.view(3, 1, 1)
    assert x.dtype == torch.float32 and torch.allclose(x.double(), expected, atol=1e-6)
    assert data.notes == ("bytes divided by 255, mean 0.5/0.4/0.3 subtracted, divided by std 0.25/0.5/1",)
    raw = load(f"{text},scale=1")
    assert torch.equal(torch.cat([x for x, _ in raw.batches]), torch.from_numpy(pixels).float())
    assert raw.notes == ("bytes used as they are",)


@pytest.mark.parametrize("dtype", ["float16", "float32", "float64", ">f4", ">f8"])
def test_floats_stay_as_they_are_unless_they_are_to_be_scaled(tmp_path: Path, dtype: str) -> None:
    numbers = np.random.default_rng(0).normal(size=(7, 4)).astype(dtype)
    text = save_npz(tmp_path / "a.npz", x=numbers, y=CLASSES)
    inputs, _ = whole(text)
    assert inputs.numpy().dtype == numbers.dtype.newbyteorder("=") and (inputs.numpy() == numbers).all()
    assert load(text).notes == ()
    scaled, _ = whole(f"{text},scale=2,mean=1")
    assert torch.allclose(scaled.double(), inputs.double() / 2 - 1, atol=1e-6)
    assert scaled.dtype == (torch.float64 if "8" in dtype or "64" in dtype else torch.float32)


@pytest.mark.parametrize("dtype", ["int8", "int32", ">i4", "uint16", "int64"])
def test_whole_numbers_are_tokens_and_stay_whole(tmp_path: Path, dtype: str) -> None:
    tokens = np.arange(7 * 3).reshape(7, 3).astype(dtype)
    text = save_npz(tmp_path / "a.npz", data=tokens, y=CLASSES)
    inputs, _ = whole(text)
    assert inputs.dtype == torch.int64 and inputs.tolist() == tokens.tolist()
    assert whole(f"{text},scale=1")[0].dtype == torch.float32


@pytest.mark.parametrize(
    ("targets", "dtype", "num_classes"),
    [
        (CLASSES.astype(">i2"), torch.int64, 4),
        (CLASSES == 9, torch.int64, 2),
        (np.where(CLASSES == 3, -100, CLASSES), torch.int64, 3),
        (CLASSES[:, None].astype("uint8"), torch.int64, 4),
        (CLASSES / 2, torch.float64, None),
        (np.zeros((7, 2), "float32"), torch.float32, None),
    ],
)
def test_targets_are_classes_or_a_regression(
    tmp_path: Path, targets: np.ndarray[Any, Any], dtype: torch.dtype, num_classes: int | None
) -> None:
    text = save_npz(tmp_path / "a.npz", x=IMAGES, y=targets)
    _, found = whole(text)
    assert found.dtype == dtype and load(text).num_classes == num_classes
    column = targets.shape[1:] == (1,)
    assert found.tolist() == (targets[:, 0] if column else targets).tolist()
    assert any("N x 1" in note for note in load(text).notes) == column


def test_the_number_of_classes_does_not_depend_on_the_subset(tmp_path: Path) -> None:
    text = save_npz(tmp_path / "a.npz", x=IMAGES, y=np.array([9, 0, 0, 0, 0, 0, 0]))
    assert {load(text, examples=1, seed=seed).num_classes for seed in range(5)} == {10}


# --- which arrays ----------------------------------------------------------------------------------------------------


def test_arrays_are_found_by_usual_names_or_named(tmp_path: Path) -> None:
    keras = save_npz(tmp_path / "k.npz", x_train=IMAGES, y_train=CLASSES, x_test=IMAGES[:2], y_test=CLASSES[:2])
    assert load(keras).facts["examples_total"] == 7
    assert load(f"{keras},inputs=x_test,targets=y_test").facts["examples_total"] == 2
    odd = save_npz(tmp_path / "a,b.npz", pixels=IMAGES, y=CLASSES, labels=CLASSES)
    refused(odd, "usual name for the inputs", "none among pixels, y, labels", "add ,inputs=NAME")
    refused(f"{odd},inputs=pixels", "usual name for the targets", "several, y, labels", "add ,targets=NAME")
    assert load(f"{odd},inputs=pixels,targets=y").num_classes == 4
    refused(f"{odd},inputs=pixel,targets=y", "a,b.npz", "unknown array 'pixel': expected one of pixels")


# --- arrays that are no examples -------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("inputs", "targets", "part"),
    [
        (IMAGES, CLASSES[:5], "got the shapes (7, 5, 6) and (5,)"),
        (np.float32(3), CLASSES, "got the shapes () and (7,)"),
        (IMAGES[:0], CLASSES[:0], "expected at least one example, got none"),
        (np.full((7, 2), np.nan), CLASSES, "got 14 NaN or infinite ones in the inputs"),
        (np.where(np.eye(7) == 1, np.inf, 0), CLASSES, "got 7 NaN or infinite ones in the inputs"),
        (IMAGES, CLASSES * np.nan, "got 7 NaN or infinite ones in the targets"),
        (IMAGES, CLASSES - 1, "class numbers from 0 (or -100: left out), got the number -1"),
        (IMAGES, np.full(7, -100), "got nothing but -100"),
        (IMAGES, np.array(list("abcdefg")), "class numbers or floats up to 64 bits, got <U1"),
        (np.ones((7, 2), complex), CLASSES, "floats up to 64 bits, got complex128"),
        (np.ones((7, 2), bool), CLASSES, "floats up to 64 bits, got bool"),
        (np.ones((7, 2), np.longdouble), CLASSES, "floats up to 64 bits, got float128"),
    ],
)
def test_arrays_that_are_no_examples_are_refused(tmp_path: Path, inputs: Any, targets: Any, part: str) -> None:
    text = save_npz(tmp_path / "a.npz", x=inputs, y=targets)
    refused(text, str(tmp_path / "a.npz"), part)


@pytest.mark.parametrize(
    ("options", "part"),
    [
        ("mean=0.5/0.5", "expected 1 or 3 numbers as mean"),
        ("std=1/2/3/4", "expected 1 or 3 numbers as std"),
        ("mean=a/b/c", "expected mean as one number or as one for each channel, got 'a/b/c'"),
        ("mean=nan", "expected mean as one number"),
        ("std=0", "expected scale and std above 0"),
        ("scale=0", "expected scale and std above 0"),
        ("scale=-1", "expected scale and std above 0"),
        ("scale=1/2", "expected one number as scale, got 2"),
    ],
)
def test_bad_scalings_are_refused(tmp_path: Path, options: str, part: str) -> None:
    text = save_npz(tmp_path / "a.npz", x=random_array(7, 3, 4, 4), y=CLASSES)
    refused(f"{text},{options}", str(tmp_path), part)


# --- damaged and hostile files ---------------------------------------------------------------------------------------


class Marker:
    """Makes a folder when it is unpickled."""

    def __init__(self, path: Path) -> None:
        self.path = str(path)

    def __reduce__(self) -> Any:
        return os.mkdir, (self.path,)


def npy(header: dict[str, Any], content: bytes, version: tuple[int, int] = (1, 0)) -> bytes:
    text = repr(header).encode()
    return b"\x93NUMPY" + bytes(version) + struct.pack("<H", len(text)) + text + content


def zipped(entries: list[tuple[str, bytes]], method: int = zipfile.ZIP_STORED) -> bytes:
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w", method) as archive:
        for name, content in entries:
            archive.writestr(name, content)
    return buffer.getvalue()


def saved(**arrays: Any) -> bytes:
    buffer = io.BytesIO()
    np.savez(buffer, **arrays)
    return buffer.getvalue()


def with_inputs(content: bytes) -> bytes:
    targets = npy({"descr": "|u1", "fortran_order": False, "shape": (7,)}, bytes(7))
    return zipped([("x.npy", content), ("y.npy", targets)])


BYTES_7 = {"descr": "|u1", "fortran_order": False, "shape": (7, 2)}
SOUND = saved(x=IMAGES, y=CLASSES)
HOSTILE: dict[str, tuple[Callable[[], bytes], str]] = {
    "empty": (lambda: b"", "got an empty file"),
    "page": (lambda: b"<!DOCTYPE html>", "got a web page"),
    "lfs": (lambda: b"version https://git-lfs.github.com/spec/v1\n", "got a Git LFS pointer"),
    "npy": (lambda: npy(BYTES_7, bytes(14)), "got a single array (.npy)"),
    "text": (lambda: json.dumps([1]).encode(), "got a file that starts with b'[1]'"),
    "truncated": (lambda: SOUND[: len(SOUND) // 2], "damaged or truncated"),
    "flipped": (lambda: SOUND[:200] + bytes([SOUND[200] ^ 1]) + SOUND[201:], "damaged or truncated"),
    "no arrays": (lambda: zipped([("a.txt", b"abc")]), "none among nothing"),
    "twice": (lambda: with_inputs(npy(BYTES_7, bytes(14))).replace(b"y.npy", b"x.npy"), "expected each array once"),
    "not npy": (lambda: with_inputs(b"abc"), "expected an .npz file"),
    "version": (lambda: with_inputs(npy(BYTES_7, bytes(14), (3, 0))), "got .npy version (3, 0)"),
    "header": (lambda: with_inputs(npy({"descr": "|u1"}, bytes(14))), "expected an .npz file"),
    "code": (lambda: with_inputs(npy({"descr": "|u1"}, b"").replace(b"'|u1'", b"print")), "expected an .npz file"),
    "short": (lambda: with_inputs(npy(BYTES_7, bytes(13))), "for x of shape (7, 2) and uint8"),
    "long": (lambda: with_inputs(npy(BYTES_7, bytes(15))), "for x of shape (7, 2) and uint8"),
    "huge": (lambda: with_inputs(npy(BYTES_7 | {"shape": (7, 2**60)}, bytes(14))), "for x of shape (7, 11529215"),
    "negative": (lambda: with_inputs(npy(BYTES_7 | {"shape": (-7, -2)}, bytes(14))), "expected an .npz file"),
}


@pytest.mark.filterwarnings("ignore:Duplicate name:UserWarning")
@pytest.mark.parametrize("kind", HOSTILE)
def test_damaged_and_hostile_files_are_refused(tmp_path: Path, kind: str) -> None:
    make, part = HOSTILE[kind]
    path = tmp_path / f"{kind}.npz"
    path.write_bytes(make())
    refused(f"npz:{path}", str(path), part)
    assert list(tmp_path.iterdir()) == [path]


def test_python_objects_are_refused_without_reading_them(tmp_path: Path) -> None:
    marker = tmp_path / "marker"
    text = save_npz(tmp_path / "a.npz", x=np.array([Marker(marker)] * 7, dtype=object), y=CLASSES)
    refused(text, str(tmp_path / "a.npz"), "got Python objects")
    pickled = pickle.dumps(Marker(marker))
    (tmp_path / "b.npz").write_bytes(pickled)
    refused(f"npz:{tmp_path / 'b.npz'}", "expected an .npz file")
    (tmp_path / "c.npz").write_bytes(with_inputs(pickled))
    refused(f"npz:{tmp_path / 'c.npz'}", "expected an .npz file")
    assert not marker.exists()


def test_an_array_larger_than_memory_is_refused_before_it_is_read(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    zeros = np.zeros((7, 2**20), "uint8")  # 7 MiB, packed into a few kilobytes
    np.savez_compressed(tmp_path / "a.npz", x=zeros, y=CLASSES)
    text = f"npz:{tmp_path / 'a.npz'}"
    assert load(text).facts["examples"] == 7
    monkeypatch.setattr(user_data, "free_memory", lambda device: 12 * 2**20)
    monkeypatch.setattr(np, "load", lambda *arguments, **options: pytest.fail("the array was read"))
    refused(text, str(tmp_path / "a.npz"), "expected data of at most 6 MiB, half of the free memory, got 7 MiB")
