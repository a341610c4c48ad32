"""Encoded images as one tensor of bytes: headers first, then memory, then pixels."""

from __future__ import annotations

import contextlib
import os
import warnings
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import IO

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from sharpness.data.user_data import require_memory
from sharpness.errors import InputError

# Pillow would start other programs for some formats, such as EPS: these are decoded in the process.
FORMATS = ("BMP", "GIF", "JPEG", "PNG", "PPM", "TIFF", "WEBP")
GREY_MODES = ("1", "L", "LA")
COLOUR_MODES = ("P", "PA", "RGB", "RGBA", "CMYK", "YCbCr")


@dataclass(frozen=True)
class Picture:
    """An encoded image: the name for messages, and the function that opens its bytes."""

    name: str | os.PathLike[str]
    open: Callable[[], IO[bytes]]


def decode_images(
    where: str, pictures: Sequence[Picture], size: int | None, channels: int | None
) -> tuple[Tensor, tuple[str, ...]]:
    """Return images as N x C x H x W bytes (uint8) with short sentences about what was done to them.

    With ``size`` the shorter side is brought to that length and the centre cut out, as the usual evaluation of ImageNet
    does; otherwise all must be of one size. ``channels`` is 1 or 3, by default 1 if all images are grey. Raises
    :class:`InputError` naming the image for another size, unreadable or oversized ones and more than 8 bits a channel,
    and for more pixels than half of the free memory holds.
    """
    headers = [_header(picture) for picture in pictures]
    height, width = (size, size) if size else _common_size(pictures, [shape for shape, _ in headers])
    all_grey = all(mode in GREY_MODES for _, mode in headers)
    depth = channels or (1 if all_grey else 3)
    largest = max((_bytes_at_size(shape, size) for shape, _ in headers), default=0) if size else 0
    require_memory(where, len(pictures) * depth * height * width + largest)
    images = torch.empty(len(pictures), depth, height, width, dtype=torch.uint8)
    for row, picture in zip(images, pictures, strict=True):
        row.copy_(_pixels(picture, size, depth))
    notes = [f"images decoded to {depth} channel{'s' if depth > 1 else ''} of {height} x {width}"]
    if size:
        notes.append(f"shorter sides brought to {size} (bilinear), centres of {size} x {size} cut out")
    if depth == 1 and not all_grey:
        notes.append("colours turned to grey")
    return images, tuple(notes)


def _header(picture: Picture) -> tuple[tuple[int, int], str]:
    """Return height, width and mode of an image without decoding it."""
    with _opened(picture) as image:
        width, height, mode = image.width, image.height, image.mode
    if mode not in (*GREY_MODES, *COLOUR_MODES):
        raise InputError(f"{picture.name}: expected at most 8 bits a channel, got mode {mode}: convert it to 8 bits")
    return (height, width), mode


def _bytes_at_size(shape: tuple[int, int], size: int) -> int:
    """Return the bytes of an image whose shorter side has that length, in up to four channels, before it is cut.

    >>> _bytes_at_size((1, 50_000), 224)
    10035200000
    """
    return 4 * size * (size * max(shape) // min(shape))


def _common_size(pictures: Sequence[Picture], sizes: Sequence[tuple[int, int]]) -> tuple[int, int]:
    for picture, size in zip(pictures, sizes, strict=True):
        if size != sizes[0]:
            raise InputError(
                f"{picture.name}: expected {sizes[0][0]} x {sizes[0][1]} pixels as in the first image, "
                f"got {size[0]} x {size[1]}: add ,size=N to bring all to one size"
            )
    return sizes[0]


def _pixels(picture: Picture, size: int | None, channels: int) -> Tensor:
    """Decode one image to C x H x W."""
    with _opened(picture) as image:
        if "transparency" in image.info:
            image = image.convert("RGBA")  # else Pillow warns of what the next line drops
        image = image.convert("L" if channels == 1 else "RGB")
        if size:
            image = _resized(image, size)
        pixels = np.array(image)
    return torch.from_numpy(pixels).view(*pixels.shape[:2], channels).permute(2, 0, 1)


def _resized(image: Image.Image, size: int) -> Image.Image:
    """Bring the shorter side to ``size`` and cut out the centre, rounding as torchvision's Resize and CenterCrop do."""
    short, long = sorted(image.size)
    if short != size:
        longer = int(size * long / short)
        shape = (size, longer) if image.width <= image.height else (longer, size)
        image = image.resize(shape, Image.Resampling.BILINEAR)
    left, top = round((image.width - size) / 2), round((image.height - size) / 2)
    return image.crop((left, top, left + size, top + size))


@contextlib.contextmanager
def _opened(picture: Picture) -> Iterator[Image.Image]:
    """Open an image; whatever Pillow says against it, warnings included, is one line."""
    try:
        with warnings.catch_warnings(), picture.open() as stream:
            warnings.simplefilter("error", Image.DecompressionBombWarning)
            with Image.open(stream, formats=FORMATS) as image:
                yield image
    except InputError:
        raise
    except (Image.DecompressionBombError, Image.DecompressionBombWarning) as error:
        raise InputError(f"{picture.name}: expected an image of usual size, got a bomb: {error}: remove it") from error
    except Exception as error:  # decoders raise whatever they meet in damaged files
        problem = " ".join(str(error).split())[:160]
        raise InputError(
            f"{picture.name}: expected an image ({', '.join(FORMATS)}), got an unreadable one "
            f"({type(error).__name__}: {problem}): replace or remove it"
        ) from error
