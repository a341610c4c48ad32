"""Images in one folder per class, ``folder:DIR``."""

from __future__ import annotations

import os
from functools import partial
from pathlib import Path

import torch

from sharpness.config.spec import Spec
from sharpness.data.dataset import Split
from sharpness.data.images import Picture, decode_images
from sharpness.data.options import channels_of, folder_of, scaling_of, whole_number
from sharpness.data.user_data import DataRequest, Loaded
from sharpness.errors import InputError

OPTIONS = ("size", "channels", "mean", "std")
SHOWN = 5  # classes that a note names


def load_folder(spec: Spec, request: DataRequest) -> Loaded:
    """Read ``folder:DIR``: the folders in it, sorted by name, are the classes 0, 1, ..., their files the images.

    Only the images drawn are decoded. Hidden files are left out. Raises :class:`InputError` for no or empty class
    folders, links that leave the folder, and images that cannot be used.
    """
    root, size, channels = folder_of(spec), whole_number(spec, "size", 1), channels_of(spec)
    folders, beside = _class_folders(root)
    files = [(number, path) for number, folder in enumerate(folders) for path in _images_in(root, folder)]
    rows = request.rows(len(files)).tolist()
    pictures = [Picture(files[row][1], partial(open, files[row][1], "rb")) for row in rows]
    images, notes = decode_images(str(root), pictures, size, channels)
    targets = torch.tensor([files[row][0] for row in rows])
    named = ", ".join(f"{number} {folder.name}" for number, folder in enumerate(folders[:SHOWN]))
    classes = f"{len(folders)} classes by folder name: {named}{', ...' if len(folders) > SHOWN else ''}"
    left_out = (f"{beside} files beside the class folders left out",) if beside else ()
    scaling = scaling_of(spec, 255.0)
    return Loaded(Split(images, targets), len(files), len(folders), (classes, *left_out, *notes), scaling)


def _class_folders(root: Path) -> tuple[list[Path], int]:
    """Return the class folders, sorted by name, and the number of files beside them."""
    visible = _visible(root)
    folders = [path for path in visible if path.is_dir()]
    if not folders:
        raise InputError(f"{root}: expected one folder of images for each class, got no folder: sort the images so")
    return folders, len(visible) - len(folders)


def _images_in(root: Path, folder: Path) -> list[Path]:
    """Return the files of one class, sorted by name."""
    _refuse_escape(root, folder)
    paths = _visible(folder)
    if not paths:
        raise InputError(f"{folder}: expected at least one image of this class, got an empty folder: fill or remove it")
    for path in paths:
        if path.is_symlink():
            _refuse_escape(root, path)
        if not path.is_file():
            got = "a folder" if path.is_dir() else "something else"
            raise InputError(f"{path}: expected an image, got {got}: keep nothing but images in a class's folder")
    return paths


def _visible(folder: Path) -> list[Path]:
    return sorted(Path(entry.path) for entry in os.scandir(folder) if not entry.name.startswith("."))


def _refuse_escape(root: Path, path: Path) -> None:
    if not path.resolve().is_relative_to(root.resolve()):
        raise InputError(f"{path}: expected files inside {root}, got a link that leaves it: copy them there")
