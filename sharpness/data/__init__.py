"""Datasets by name: one embedded, the others found on this machine or downloaded."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from sharpness.data.cifar import CIFAR10, CIFAR100, SHAPE, CifarLayout, read_cifar
from sharpness.data.dataset import Batches, Dataset, Split, hash_splits, normalise, random_subset
from sharpness.data.download import (
    CIFAR10_HOME,
    CIFAR100_HOME,
    FASHION_MNIST_HOME,
    IDX_NAMES,
    MNIST_HOME,
    Home,
    find_files,
)
from sharpness.data.idx import read_idx_split
from sharpness.data.timit import read_timit
from sharpness.errors import InputError, unknown_name

__all__ = ["DATASETS", "Batches", "Dataset", "DatasetInfo", "Split", "load_dataset", "normalise", "random_subset"]


@dataclass(frozen=True)
class DatasetInfo:
    """A dataset as it is known before any file is opened: ``shape`` is channels, height, width."""

    description: str
    num_train: int
    num_test: int
    shape: tuple[int, int, int]
    num_classes: int
    home: Home | None
    """Where its files are looked for; ``None`` when they are part of this package, or come from the user alone."""
    cifar: CifarLayout | None = None
    """Its layout in the CIFAR binary format; ``None`` when it is in the IDX format."""
    own_file: str | None = None
    """The user's file that holds it where nothing can be downloaded; the numbers of examples are then the file's."""


DATASETS: dict[str, DatasetInfo] = {
    "fashion_mnist_10k": DatasetInfo(
        "first 10,000 training images and the whole test set of Fashion-MNIST, part of this package (no download)",
        num_train=10000,
        num_test=10000,
        shape=(1, 28, 28),
        num_classes=10,
        home=None,
    ),
    "fashion_mnist": DatasetInfo(
        "Fashion-MNIST: 28 x 28 grey images of 10 kinds of clothing (Xiao, Rasul, Vollgraf 2017)",
        num_train=60000,
        num_test=10000,
        shape=(1, 28, 28),
        num_classes=10,
        home=FASHION_MNIST_HOME,
    ),
    "mnist": DatasetInfo(
        "MNIST: 28 x 28 grey images of the 10 digits (LeCun, Cortes, Burges 1998)",
        num_train=60000,
        num_test=10000,
        shape=(1, 28, 28),
        num_classes=10,
        home=MNIST_HOME,
    ),
    "cifar10": DatasetInfo(
        "CIFAR-10: 32 x 32 colour photographs of 10 classes (Krizhevsky 2009)",
        num_train=50000,
        num_test=10000,
        shape=SHAPE,
        num_classes=10,
        home=CIFAR10_HOME,
        cifar=CIFAR10,
    ),
    "cifar100": DatasetInfo(
        "CIFAR-100: 32 x 32 colour photographs of 100 classes, fine labels (Krizhevsky 2009)",
        num_train=50000,
        num_test=10000,
        shape=SHAPE,
        num_classes=100,
        home=CIFAR100_HOME,
        cifar=CIFAR100,
    ),
    "timit": DatasetInfo(
        "TIMIT: your own 360 features of frames of speech, 1973 classes, in timit.npz in --data-dir (licensed)",
        num_train=721329,
        num_test=310621,
        shape=(1, 1, 360),
        num_classes=1973,
        home=None,
        own_file="timit.npz",
    ),
}


def load_dataset(
    name: str, *, data_dir: Path | None = None, num_train: int | None = None, num_test: int | None = None
) -> Dataset:
    """Load a dataset of :data:`DATASETS`, or the first ``num_train`` and ``num_test`` examples of it, on the CPU.

    ``data_dir`` is the folder looked at before all others; the embedded dataset needs none and ignores it. Environment:
    ``SHARPNESS_CACHE`` moves the download cache, ``SHARPNESS_OFFLINE=1`` forbids the network. Raises
    :class:`InputError` for an unknown name, a number of examples below 1 or above what there is, files found nowhere,
    and damaged files.

    >>> data = load_dataset("fashion_mnist_10k", num_train=1000)
    >>> len(data.train), len(data.test), data.input_shape, data.source
    (1000, 10000, (1, 28, 28), 'embedded')
    """
    if name not in DATASETS:
        raise unknown_name("dataset", name, DATASETS)
    info = DATASETS[name]
    # Before any file is opened or downloaded: a bad number must not cost a download first.
    _check_number(name, "num_train", num_train, info.num_train)
    _check_number(name, "num_test", num_test, info.num_test)
    if info.own_file is not None:
        if data_dir is None:
            raise InputError(f"expected --data-dir with {info.own_file} for {name}, got none: it is licensed, not here")
        splits = read_timit(data_dir / info.own_file, info.shape, info.num_classes)
        return _dataset(name, info, splits, (num_train, num_test), f"data-dir {data_dir}")
    if info.home is None:
        folder = Path(__file__).parent / name
        paths, source = [folder / f"{file}.gz" for file in IDX_NAMES], "embedded"
    else:
        paths, source = find_files(name, info.home, data_dir)
    return _dataset(name, info, _read(info, paths), (num_train, num_test), source)


def _dataset(
    name: str, info: DatasetInfo, splits: tuple[Split, Split], numbers: tuple[int | None, int | None], source: str
) -> Dataset:
    train, test = (split.first(number) for split, number in zip(splits, numbers, strict=True))
    return Dataset(name, train, test, info.num_classes, hash_splits(train, test), source)


def _read(info: DatasetInfo, paths: Sequence[Path]) -> tuple[Split, Split]:
    if info.cifar is not None:
        return read_cifar(paths, info.cifar, info.num_train, info.num_test, info.num_classes)
    train_images, train_labels, test_images, test_labels = paths
    return (
        read_idx_split(train_images, train_labels, info.num_train, info.shape, info.num_classes),
        read_idx_split(test_images, test_labels, info.num_test, info.shape, info.num_classes),
    )


def _check_number(name: str, option: str, number: int | None, available: int) -> None:
    if number is not None and not 1 <= number <= available:
        raise InputError(
            f"expected {option} from 1 to {available} for {name}, got {number}: "
            "give a number in that range or leave it out"
        )
