"""Images in one folder per class: order, sizes, colours, and files that are damaged, hostile or elsewhere."""

from __future__ import annotations

import shutil
import struct
import zlib
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image, ImageFile

from sharpness.data import images, user_data
from tests.data_cases import load, random_array, refused, save_images


def pixels(text: str, **options: Any) -> torch.Tensor:
    """Return all inputs as bytes again."""
    x = torch.cat([x for x, _ in load(text, **options).batches])
    return (x * 255).round().to(torch.uint8)


def save(path: Path, array: np.ndarray[Any, Any], mode: str | None = None, **options: Any) -> Path:
    image = Image.fromarray(array)
    (image.convert(mode) if mode else image).save(path, **options)
    return path


def png(width: int, height: int) -> bytes:
    """A PNG whose header says this size, without pixels."""

    def chunk(name: bytes, content: bytes) -> bytes:
        return struct.pack(">I", len(content)) + name + content + struct.pack(">I", zlib.crc32(name + content))

    header = chunk(b"IHDR", struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0))
    return b"\x89PNG\r\n\x1a\n" + header + chunk(b"IDAT", zlib.compress(b"")) + chunk(b"IEND", b"")


# --- what is read ----------------------------------------------------------------------------------------------------


def test_classes_are_the_folders_by_name_and_images_keep_their_bytes(tmp_path: Path) -> None:
    text = save_images(tmp_path, {"b": 2, "a": 3, "c": 1}, 4, 5, 3)
    data = load(text)
    assert torch.cat([y for _, y in data.batches]).tolist() == [0, 0, 0, 1, 1, 2]
    expected = np.concatenate([random_array(n, 4, 5, 3, seed=seed) for n, seed in ((3, 1), (2, 0), (1, 2))])
    assert torch.equal(pixels(text), torch.from_numpy(expected).permute(0, 3, 1, 2))
    assert (data.num_classes, data.input_shape) == (3, (3, 4, 5))
    assert data.notes == (
        "3 classes by folder name: 0 a, 1 b, 2 c",
        "images decoded to 3 channels of 4 x 5",
        "bytes divided by 255",
    )


def test_only_the_images_drawn_are_decoded(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    text, opened = save_images(tmp_path, {"a": 6, "b": 6}, 4, 4), []
    plain = Image.open
    monkeypatch.setattr(images.Image, "open", lambda stream, **o: opened.append(stream.name) or plain(stream, **o))
    data = load(text, examples=4)
    assert len(set(opened)) == data.facts["examples"] == 4 and data.num_classes == 2


def test_hidden_files_and_files_beside_the_classes_are_left_out(tmp_path: Path) -> None:
    text = save_images(tmp_path, {"a": 2, "b": 2}, 4, 4)
    for name in (".hidden", "a/.DS_Store", "labels.csv"):
        (tmp_path / name).write_bytes(b"text")
    (tmp_path / ".git").mkdir()
    data = load(text)
    assert data.facts["examples"] == 4 and "1 files beside the class folders left out" in data.notes


def test_mean_and_std_of_folders(tmp_path: Path) -> None:
    text = save_images(tmp_path, {"a": 2, "b": 2}, 4, 4)
    plain, scaled = (torch.cat([x for x, _ in load(t).batches]) for t in (text, f"{text},mean=0.5,std=0.25"))
    assert torch.allclose(scaled, (plain - 0.5) / 0.25)
    refused(f"{text},mean=0.5/0.5/0.5", str(tmp_path), "expected 1 or 1 numbers as mean")


# --- colours ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("mode", "channels"), [("1", 1), ("L", 1), ("LA", 1), ("P", 3), ("RGBA", 3), ("CMYK", 3)])
def test_channels_follow_the_images(tmp_path: Path, mode: str, channels: int) -> None:
    (tmp_path / "a").mkdir()
    form = "tiff" if mode == "CMYK" else "png"
    path = save(tmp_path / "a" / f"x.{form}", random_array(4, 4, 3), mode)
    expected = np.array(Image.open(path).convert("L" if channels == 1 else "RGB")).reshape(4, 4, channels)
    assert torch.equal(pixels(f"folder:{tmp_path}")[0], torch.from_numpy(expected).permute(2, 0, 1))


def test_channels_can_be_asked_for(tmp_path: Path) -> None:
    grey, colour = save_images(tmp_path / "g", {"a": 2}, 4, 4), save_images(tmp_path / "c", {"a": 2}, 4, 4, 3)
    assert torch.equal(pixels(f"{grey},channels=3"), pixels(grey).expand(2, 3, 4, 4))
    assert "colours turned to grey" in load(f"{colour},channels=1").notes
    refused(f"{grey},channels=2", "expected 1 (grey) or 3 (colour) channels, got 2")


def test_transparent_palettes_lose_their_transparency_only(tmp_path: Path) -> None:
    (tmp_path / "a").mkdir()
    image = Image.fromarray(random_array(4, 4, 3)).quantize(8)
    image.save(tmp_path / "a" / "x.png", transparency=bytes(range(8)))
    assert torch.equal(
        pixels(f"folder:{tmp_path}")[0].permute(1, 2, 0), torch.from_numpy(np.array(image.convert("RGB")))
    )


# --- sizes -----------------------------------------------------------------------------------------------------------


def test_images_of_several_sizes_need_a_size(tmp_path: Path) -> None:
    (tmp_path / "a").mkdir()
    for name, shape in {"0": (10, 21), "1": (16, 8), "2": (8, 8)}.items():
        save(tmp_path / "a" / f"{name}.png", random_array(*shape))
    refused(f"folder:{tmp_path}", "1.png: expected 10 x 21 pixels as in the first image, got 16 x 8", "size=N")
    data = load(f"folder:{tmp_path},size=8")
    assert data.input_shape == (1, 8, 8)
    assert "shorter sides brought to 8 (bilinear), centres of 8 x 8 cut out" in data.notes
    found = pixels(f"folder:{tmp_path},size=8")[:, 0].numpy()
    assert (found[2] == random_array(8, 8)).all()  # already of that size
    assert (found[1] == random_array(16, 8)[4:12]).all()
    wide = Image.fromarray(random_array(10, 21)).resize((16, 8), Image.Resampling.BILINEAR)  # 21 * 8 / 10 = 16.8
    assert (found[0] == np.array(wide)[:, 4:12]).all()
    for size in ("0", "big", "8.5", "true"):
        refused(f"folder:{tmp_path},size={size}", "expected a whole number of at least 1 as size")


# --- what is refused -------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("content", "part"),
    [
        (b"", "got an unreadable one"),
        (b"text", "got an unreadable one (UnidentifiedImageError"),
        (png(50000, 50000), "got a bomb"),
        (png(10000, 10000), "got a bomb"),  # of which Pillow only warns
        (png(4, 4), "got an unreadable one"),
        (b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 4 4\n", "got an unreadable one (UnidentifiedImageError"),
    ],
)
def test_files_that_are_no_images_are_named(tmp_path: Path, content: bytes, part: str) -> None:
    text = save_images(tmp_path, {"a": 2}, 4, 4, 3)
    (tmp_path / "a" / "0.png").write_bytes(content)
    refused(text, str(tmp_path / "a" / "0.png"), part)


def test_a_cut_image_is_named(tmp_path: Path) -> None:
    text = save_images(tmp_path, {"a": 2}, 40, 40, 3)
    path = tmp_path / "a" / "1.png"
    path.write_bytes(path.read_bytes()[:2000])
    refused(text, str(path), "got an unreadable one")


def test_more_than_8_bits_are_refused(tmp_path: Path) -> None:
    (tmp_path / "a").mkdir()
    path = save(tmp_path / "a" / "x.png", random_array(4, 4, dtype="uint16"))
    refused(f"folder:{tmp_path}", str(path), "at most 8 bits a channel, got mode I;16")


def test_folders_that_hold_no_classes_are_refused(tmp_path: Path) -> None:
    refused(f"folder:{tmp_path}", str(tmp_path), "one folder of images for each class, got no folder")
    text = save_images(tmp_path, {"a": 1, "b": 0}, 4, 4)
    refused(text, str(tmp_path / "b"), "got an empty folder")
    (tmp_path / "b" / "inner").mkdir()
    refused(text, str(tmp_path / "b" / "inner"), "got a folder")


def test_links_that_leave_the_folder_are_refused(tmp_path: Path) -> None:
    save_images(tmp_path / "outside", {"c": 1}, 4, 4)
    text = save_images(tmp_path / "inside", {"a": 1, "b": 1}, 4, 4)
    link = tmp_path / "inside" / "a" / "1.png"
    link.symlink_to(tmp_path / "inside" / "b" / "0.png")
    assert load(text).facts["examples"] == 3  # a link within
    link.unlink()
    link.symlink_to(tmp_path / "outside" / "c" / "0.png")
    refused(text, str(link), "got a link that leaves it")
    link.unlink()
    (tmp_path / "inside" / "c").symlink_to(tmp_path / "outside" / "c")
    refused(text, str(tmp_path / "inside" / "c"), "got a link that leaves it")
    (tmp_path / "inside" / "c").unlink()
    link.symlink_to(tmp_path / "inside" / "nothing")
    refused(text, str(link), "got something else")


def test_images_larger_than_memory_are_refused_before_they_are_decoded(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    text = save_images(tmp_path, {"a": 1}, 1024, 1024, 3)
    shutil.copy(tmp_path / "a" / "0.png", tmp_path / "a" / "1.png")
    monkeypatch.setattr(user_data, "free_memory", lambda device: 8 * 2**20)
    monkeypatch.setattr(ImageFile.ImageFile, "load", lambda *arguments: pytest.fail("an image was decoded"))
    refused(text, str(tmp_path), "expected data of at most 4 MiB, half of the free memory, got 6 MiB")
