"""The embedded texts as bytes: documents apart for training and test, cut into windows with the bytes that follow."""

from __future__ import annotations

import lzma
from pathlib import Path

import torch
from torch import Tensor

from sharpness.data.dataset import Split
from sharpness.errors import InputError

FILE = "text.xz"
END_OF_DOCUMENT = b"\f"
TOKENS = 256
CONTEXT = 128
"""Bytes in a window where no other number is asked for."""
TEST_EVERY = 10
"""Each tenth chapter or entry is kept for testing."""


def read_text(path: Path, context: int) -> tuple[Split, Split]:
    """Read the training and the test windows of an embedded text, of ``context`` bytes each.

    Each tenth document (a chapter, an entry) is for testing alone; the others, joined by empty lines, are for
    training. Raises :class:`InputError` for a damaged file.
    """
    try:
        documents = lzma.decompress(path.read_bytes()).split(END_OF_DOCUMENT)
    except (OSError, lzma.LZMAError) as error:
        raise InputError(f"{path}: expected the text that this package came with, got {error}: reinstall it") from error
    test = documents[TEST_EVERY - 1 :: TEST_EVERY]
    train = [text for number, text in enumerate(documents, 1) if number % TEST_EVERY]
    return windows(b"\n".join(train), context), windows(b"\n".join(test), context)


def windows(text: bytes, context: int) -> Split:
    """Return consecutive windows of a text (N x 1 x 1 x T bytes) and for each byte the one that follows it (N x T).

    What is left over at the end is dropped.

    >>> split = windows(b"abcdefg", 3)
    >>> [bytes(window.flatten().tolist()) for window in split.inputs], [bytes(row.tolist()) for row in split.targets]
    ([b'abc', b'def'], [b'bcd', b'efg'])
    """
    tokens = torch.frombuffer(bytearray(text), dtype=torch.uint8)
    number = num_windows(len(text), context)

    def cut(first: int) -> Tensor:
        return tokens[first : first + number * context].view(number, context)

    return Split(cut(0)[:, None, None].clone(), cut(1).long())


def num_windows(length: int, context: int) -> int:
    """Return how many windows a text of so many bytes gives: each byte of one has another byte after it.

    >>> num_windows(7, 3), num_windows(6, 3)
    (2, 1)
    """
    return (length - 1) // context
