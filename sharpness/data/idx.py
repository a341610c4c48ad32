"""The IDX format of MNIST and Fashion-MNIST, plain or gzip: every length is checked before memory is taken.

Layout (big-endian): two zero bytes, a type byte (0x08 is unsigned byte), the number of dimensions, one 32-bit length
per dimension, then the elements with the last dimension fastest. Source: the description on the MNIST home page.
"""

from __future__ import annotations

import gzip
import io
import math
import os
import struct
import zlib
from pathlib import Path
from typing import BinaryIO

import torch
from torch import Tensor

from sharpness.data.dataset import Split, check_labels
from sharpness.data.user_data import require_memory
from sharpness.errors import InputError

MAX_BYTES = 2**28
"""The largest payload read: five times the largest IDX file of the datasets here, and little enough to take at once."""

AGAIN = "get the file again from where it came from"
_UNSIGNED_BYTE = 0x08


def encode_idx(array: Tensor) -> bytes:
    """Return a uint8 tensor of any shape as the bytes of a plain IDX file.

    >>> encode_idx(torch.tensor([7, 9], dtype=torch.uint8)).hex()
    '00000801000000020709'
    """
    header = struct.pack(f">HBB{array.dim()}I", 0, _UNSIGNED_BYTE, array.dim(), *array.shape)
    return header + array.contiguous().numpy().tobytes()


def read_idx(path: Path, num_dimensions: int) -> Tensor:
    """Read an IDX file of unsigned bytes, plain or gzip, as a uint8 tensor with ``num_dimensions`` dimensions.

    Raises :class:`InputError` naming the path when the file is missing or is anything but a whole file of that form.
    """
    try:
        with open(path, "rb") as raw:
            head = raw.read(2)
            raw.seek(0)
            if head == b"\x1f\x8b":
                with gzip.GzipFile(fileobj=raw, mode="rb") as unpacked:
                    return _read_stream(unpacked, path, num_dimensions, None)
            return _read_stream(raw, path, num_dimensions, os.fstat(raw.fileno()).st_size)
    except (EOFError, zlib.error, gzip.BadGzipFile) as error:
        raise InputError(f"{path}: expected a whole gzip file, got a damaged one ({error}): {AGAIN}") from error
    except OSError as error:
        raise InputError(f"{path}: expected a readable file, got: {error.strerror or error}") from error


def _read_stream(stream: BinaryIO | gzip.GzipFile, path: Path, num_dimensions: int, size: int | None) -> Tensor:
    """Read header and payload; ``size`` is that of the whole file where it is known without unpacking."""
    header = stream.read(4)
    expected = bytes([0, 0, _UNSIGNED_BYTE, num_dimensions])
    if header != expected:
        raise InputError(
            f"{path}: expected an IDX file of bytes in {num_dimensions} dimensions (it starts with {expected.hex()}), "
            f"got {_describe(header)}: {AGAIN}"
        )
    lengths = stream.read(4 * num_dimensions)
    if len(lengths) < 4 * num_dimensions:
        raise InputError(f"{path}: expected {num_dimensions} lengths after the first 4 bytes, got the end: {AGAIN}")
    shape = struct.unpack(f">{num_dimensions}I", lengths)
    count = math.prod(shape)
    if not 1 <= count <= MAX_BYTES:
        raise InputError(f"{path}: expected 1 to {MAX_BYTES} elements, got a header that says {shape}: {AGAIN}")
    total = 4 + 4 * num_dimensions + count
    if size is not None and size != total:
        raise InputError(f"{path}: expected {total} bytes for {shape}, got {size}: {AGAIN}")
    require_memory(str(path), 2 * count)
    payload = stream.read(count)
    # Reading on past the payload is also what makes gzip compare its checksum.
    surplus = stream.read(1)
    if len(payload) < count or surplus:
        got = "more" if surplus else f"{len(payload)}"
        raise InputError(f"{path}: expected {count} bytes after the header for {shape}, got {got}: {AGAIN}")
    return torch.frombuffer(bytearray(payload), dtype=torch.uint8).reshape(shape)


def _describe(header: bytes) -> str:
    """Name what people most often have under a data file's name instead of the data."""
    if not header:
        return "an empty file"
    if header[:1] == b"<":
        return f"a web page (it starts with {header!r})"
    if header == b"vers":
        return "a Git LFS pointer"
    return f"{header.hex()}"


def read_idx_split(
    images: Path, labels: Path, num_examples: int, shape: tuple[int, int, int], num_classes: int
) -> Split:
    """Read images and their labels as a :class:`Split` of ``num_examples`` inputs of ``shape`` (1, H, W).

    Raises :class:`InputError` for a damaged file, other counts or shapes than these, or a label that is no class.
    """
    pixels, targets = read_idx(images, 3), read_idx(labels, 1)
    if len(pixels) != len(targets):
        raise InputError(
            f"{labels}: expected {len(pixels)} labels, as many as images in {images}, got {len(targets)}: "
            "take both files from one place"
        )
    if pixels.shape != (num_examples, *shape[1:]):
        raise InputError(
            f"{images}: expected {num_examples} images of {shape[1]} x {shape[2]}, "
            f"got the shape {tuple(pixels.shape)}: use the whole files of this dataset"
        )
    check_labels(targets, num_classes, labels)
    return Split(pixels.unsqueeze(1), targets.to(torch.int64))


def gzip_bytes(content: bytes) -> bytes:
    """Return content as a gzip file without name or time, so that the same content gives the same file.

    >>> gzip.decompress(gzip_bytes(b"abc"))
    b'abc'
    """
    buffer = io.BytesIO()
    with gzip.GzipFile(filename="", mode="wb", compresslevel=9, fileobj=buffer, mtime=0) as stream:
        stream.write(content)
    return buffer.getvalue()
