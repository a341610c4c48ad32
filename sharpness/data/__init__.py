"""Datasets by name: images and texts embedded, the others found on this machine or downloaded.

The loss and all above it import from here; this folder imports configs and the machine.
"""

from __future__ import annotations

import functools
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from sharpness.data.byte_texts import CONTEXT, FILE, TOKENS, num_windows, read_text
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

__all__ = [
    "DATASETS",
    "Batches",
    "Dataset",
    "DatasetInfo",
    "Split",
    "check_context",
    "load_dataset",
    "normalise",
    "random_subset",
]


@dataclass(frozen=True)
class DatasetInfo:
    """A dataset as it is known before any file is opened: ``shape`` is channels, height, width.

    Of a text, an example is a window of bytes and ``num_train`` and ``num_test`` are bytes.
    """

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
    text: bool = False
    """Whether it is an embedded text: windows of bytes, each byte's target being the one that follows."""

    def num_examples(self, context: int | None = None) -> tuple[int, int]:
        """Return how many training and test examples there are, of a text in windows of ``context`` bytes.

        >>> DATASETS["mnist"].num_examples(), DATASETS["kjv"].num_examples(1024)
        ((60000, 10000), (2432, 267))
        """
        if not self.text:
            return self.num_train, self.num_test
        context = CONTEXT if context is None else context
        return num_windows(self.num_train, context), num_windows(self.num_test, context)


DATASETS: dict[str, DatasetInfo] = {
    "fashion_mnist_10k": DatasetInfo(
        "first 10,000 training images and the whole test set of Fashion-MNIST, part of this package (no download)",
        num_train=10000,
        num_test=10000,
        shape=(1, 28, 28),
        num_classes=10,
        home=None,
    ),
    "kjv": DatasetInfo(
        "Genesis to Lamentations of the King James Bible (1611) as bytes, part of this package (no download)",
        num_train=2490896,
        num_test=273696,
        shape=(1, 1, CONTEXT),
        num_classes=TOKENS,
        home=None,
        text=True,
    ),
    "jargon": DatasetInfo(
        "entries of the Jargon File 4.4.7 (2003) as bytes, part of this package (no download)",
        num_train=1076675,
        num_test=116418,
        shape=(1, 1, CONTEXT),
        num_classes=TOKENS,
        home=None,
        text=True,
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
    name: str,
    *,
    data_dir: Path | None = None,
    num_train: int | None = None,
    num_test: int | None = None,
    context: int | None = None,
) -> Dataset:
    """Load a dataset of :data:`DATASETS`, or the first ``num_train`` and ``num_test`` examples of it, on the CPU.

    ``data_dir`` is the folder looked at before all others; the embedded datasets need none and ignore it. A text is cut
    into windows of ``context`` bytes (128 where it is left out). Environment: ``SHARPNESS_CACHE`` moves the download
    cache, ``SHARPNESS_OFFLINE=1`` forbids the network. Raises :class:`InputError` for an unknown name, a number of
    examples below 1 or above what there is, a context where there is no text, files found nowhere, and damaged files.

    >>> data = load_dataset("fashion_mnist_10k", num_train=1000)
    >>> len(data.train), len(data.test), data.input_shape, data.source
    (1000, 10000, (1, 28, 28), 'embedded')
    """
    if name not in DATASETS:
        raise unknown_name("dataset", name, DATASETS)
    info = DATASETS[name]
    # Before any file is opened or downloaded: a bad number must not cost a download first.
    check_context(name, context)
    for option, number, available in zip(
        ("num_train", "num_test"), (num_train, num_test), info.num_examples(context), strict=True
    ):
        _check_number(name, option, number, available)
    if info.own_file is not None:
        if data_dir is None:
            raise InputError(f"expected --data-dir with {info.own_file} for {name}, got none: it is licensed, not here")
        splits = read_timit(data_dir / info.own_file, info.shape, info.num_classes)
        return _dataset(name, info, splits, (num_train, num_test), f"data-dir {data_dir}")
    if info.home is None:
        return _dataset(name, info, _embedded(name, context), (num_train, num_test), "embedded").copy()
    paths, source = find_files(name, info.home, data_dir)
    return _dataset(name, info, _read(info, paths), (num_train, num_test), source)


@functools.lru_cache(maxsize=2)
def _embedded(name: str, context: int | None) -> tuple[Split, Split]:
    """Return the splits of embedded images, or of a text, unpacked once: a study of many runs asks for them again."""
    folder = Path(__file__).parent / name
    if DATASETS[name].text:
        return read_text(folder / FILE, CONTEXT if context is None else context)
    return _read(DATASETS[name], [folder / f"{file}.gz" for file in IDX_NAMES])


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


def check_context(name: str, context: int | None) -> None:
    """Raise :class:`InputError` for a ``context`` of data that are no text, and of one that leaves no window."""
    info = DATASETS[name]
    if context is None:
        return
    if not info.text:
        texts = ", ".join(text for text, info in DATASETS.items() if info.text)
        raise InputError(f"expected a context with a text ({texts}) alone, got {context} with {name}: leave it out")
    most = min(info.num_train, info.num_test) - 1
    if not 1 <= context <= most:
        raise InputError(f"expected a context from 1 to {most} bytes for {name}, got {context}: {CONTEXT} is usual")


def _check_number(name: str, option: str, number: int | None, available: int) -> None:
    if number is not None and not 1 <= number <= available:
        raise InputError(
            f"expected {option} from 1 to {available} for {name}, got {number}: "
            "give a number in that range or leave it out"
        )
