"""The binary version of CIFAR-10 and CIFAR-100, from the .bin files or straight from the .tar.gz; nothing is unpacked.

A record is one label byte (CIFAR-10) or a coarse and a fine label byte (CIFAR-100), then 3072 pixels: the red, green
and blue planes of 32 x 32. Source: the CIFAR home page. The pickled "python version" is never read: loading it runs
code.
"""

from __future__ import annotations

import gzip
import os
import tarfile
import zlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch

from sharpness.data.dataset import Split, check_labels
from sharpness.errors import InputError

SHAPE = (3, 32, 32)
_PIXELS = 3 * 32 * 32
_AGAIN = "get the binary version again from the CIFAR home page"


@dataclass(frozen=True)
class CifarLayout:
    """The files of one of the two datasets; the fine label is the last of ``label_bytes``."""

    folder: str
    """The folder inside the archive."""
    train_files: tuple[str, ...]
    test_file: str
    label_bytes: int

    def expected_sizes(self, num_train: int, num_test: int) -> dict[str, int]:
        """Return each file's exact length in bytes, in the order in which the files are joined.

        >>> CIFAR100.expected_sizes(50000, 10000)
        {'train.bin': 153700000, 'test.bin': 30740000}
        """
        record = self.label_bytes + _PIXELS
        sizes = dict.fromkeys(self.train_files, num_train // len(self.train_files) * record)
        return sizes | {self.test_file: num_test * record}


CIFAR10 = CifarLayout("cifar-10-batches-bin", tuple(f"data_batch_{i}.bin" for i in range(1, 6)), "test_batch.bin", 1)
CIFAR100 = CifarLayout("cifar-100-binary", ("train.bin",), "test.bin", 2)


def read_cifar(
    paths: Sequence[Path], layout: CifarLayout, num_train: int, num_test: int, num_classes: int
) -> tuple[Split, Split]:
    """Read the training and the test split (N x 3 x 32 x 32) from the one archive or all the .bin files in ``paths``.

    Raises :class:`InputError` naming the file when one is missing, is not a regular file, has another length than
    these counts ask for, or holds a label that is no class.
    """
    sizes = layout.expected_sizes(num_train, num_test)
    contents = _read_archive(paths[0], layout.folder, sizes) if len(paths) == 1 else _read_files(paths, sizes)
    where = {name: f"{paths[0]}:{layout.folder}/{name}" for name in sizes} if len(paths) == 1 else _by_name(paths)
    train = [_split(contents[name], layout.label_bytes, num_classes, where[name]) for name in layout.train_files]
    test = _split(contents[layout.test_file], layout.label_bytes, num_classes, where[layout.test_file])
    return Split(torch.cat([s.inputs for s in train]), torch.cat([s.targets for s in train])), test


def _by_name(paths: Sequence[Path]) -> dict[str, Path]:
    return {path.name: path for path in paths}


def _split(content: bytes, label_bytes: int, num_classes: int, where: str | Path) -> Split:
    records = np.frombuffer(content, dtype=np.uint8).reshape(-1, label_bytes + _PIXELS)
    targets = torch.from_numpy(records[:, label_bytes - 1].astype(np.int64))
    check_labels(targets, num_classes, where)
    return Split(torch.from_numpy(records[:, label_bytes:].reshape(-1, *SHAPE).copy()), targets)


def _check_size(where: str | Path, expected: int, got: int) -> None:
    if got != expected:
        raise InputError(f"{where}: expected {expected} bytes, got {got}: {_AGAIN}")


def _read_files(paths: Sequence[Path], sizes: Mapping[str, int]) -> dict[str, bytes]:
    contents = {}
    for name, path in _by_name(paths).items():
        try:
            with open(path, "rb") as stream:
                _check_size(path, sizes[name], os.fstat(stream.fileno()).st_size)
                contents[name] = stream.read(sizes[name])
        except OSError as error:
            raise InputError(f"{path}: expected a readable file, got: {error.strerror or error}") from error
        _check_size(path, sizes[name], len(contents[name]))
    return contents


def _read_archive(path: Path, folder: str, sizes: Mapping[str, int]) -> dict[str, bytes]:
    """Read the members with exactly the expected names into memory; whatever else the archive holds is passed over."""
    wanted = {f"{folder}/{name}": name for name in sizes}
    contents: dict[str, bytes] = {}
    try:
        with gzip.open(path, "rb") as unpacked, tarfile.open(fileobj=unpacked, mode="r:") as archive:
            for member in archive:
                if member.name in wanted:
                    name = wanted[member.name]
                    if name in contents:
                        raise InputError(f"{path}: expected {member.name} once, got it twice: {_AGAIN}")
                    contents[name] = _read_member(archive, member, path, sizes[name])
            # gzip compares its checksum only at the end of the stream.
            while unpacked.read(2**20):
                pass
    except (tarfile.TarError, EOFError, zlib.error, gzip.BadGzipFile) as error:
        raise InputError(f"{path}: expected a whole .tar.gz archive, got a damaged one ({error}): {_AGAIN}") from error
    except OSError as error:
        raise InputError(f"{path}: expected a readable file, got: {error.strerror or error}") from error
    if missing := [member for member, name in wanted.items() if name not in contents]:
        raise InputError(
            f"{path}: expected the members {', '.join(wanted)}, got none of {', '.join(missing)}: {_AGAIN}"
        )
    return contents


def _read_member(archive: tarfile.TarFile, member: tarfile.TarInfo, path: Path, size: int) -> bytes:
    where = f"{path}:{member.name}"
    if not member.isreg():
        raise InputError(f"{where}: expected a regular file, got a link or another special member: {_AGAIN}")
    _check_size(where, size, member.size)
    stream = archive.extractfile(member)
    content = stream.read(size) if stream else b""
    _check_size(where, size, len(content))
    return content
