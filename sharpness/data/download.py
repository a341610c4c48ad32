"""The search for a dataset's files: a folder of the caller's, the cache, a system folder, their home on the web."""

from __future__ import annotations

import hashlib
import os
import tempfile
from dataclasses import dataclass
from pathlib import Path

from sharpness.data.cifar import CIFAR10, CIFAR100, CifarLayout
from sharpness.errors import InputError

IDX_NAMES = ("train-images-idx3-ubyte", "train-labels-idx1-ubyte", "t10k-images-idx3-ubyte", "t10k-labels-idx1-ubyte")
"""Training images and labels, test images and labels, as MNIST and Fashion-MNIST name them."""


@dataclass(frozen=True)
class Home:
    """The place a dataset comes from, and the names under which a folder may hold it."""

    url: str
    """The address of the folder of the files, with a slash at the end."""
    sha256: dict[str, str]
    """The SHA-256 of each file at that address, in the order in which the reader wants the files."""
    file_sets: tuple[tuple[str, ...], ...]
    """Each a complete set of paths inside a local folder; the first complete one is read."""
    system_folder: Path | None = None
    package: str | None = None
    """The Debian package that fills the system folder."""


_IDX_SETS = (tuple(f"{name}.gz" for name in IDX_NAMES), IDX_NAMES)


def _cifar_sets(archive: str, layout: CifarLayout) -> tuple[tuple[str, ...], ...]:
    files = (*layout.train_files, layout.test_file)
    return (archive,), tuple(f"{layout.folder}/{name}" for name in files), files


# Every hash below is in the url_checksums folder of the tensorflow-datasets repository (mnist.txt, fashion_mnist.txt,
# cifar10.txt, cifar100.txt), taken from there and not from a download of ours. The two Fashion-MNIST label files were
# also hashed in a copy of the repository that the address below serves, and agree.
MNIST_HOME = Home(
    url="https://storage.googleapis.com/cvdf-datasets/mnist/",
    sha256={
        "train-images-idx3-ubyte.gz": "440fcabf73cc546fa21475e81ea370265605f56be210a4024d2ca8f203523609",
        "train-labels-idx1-ubyte.gz": "3552534a0a558bbed6aed32b30c495cca23d567ec52cac8be1a0730e8010255c",
        "t10k-images-idx3-ubyte.gz": "8d422c7b0a1c1c79245a5bcf07fe86e33eeafee792b84584aec276f5a2dbc4e6",
        "t10k-labels-idx1-ubyte.gz": "f7ae60f92e00ec6debd23a6088c31dbd2371eca3ffa0defaefb259924204aec6",
    },
    file_sets=_IDX_SETS,
)
FASHION_MNIST_HOME = Home(
    url="https://raw.githubusercontent.com/zalandoresearch/fashion-mnist/master/data/fashion/",
    sha256={
        "train-images-idx3-ubyte.gz": "3aede38d61863908ad78613f6a32ed271626dd12800ba2636569512369268a84",
        "train-labels-idx1-ubyte.gz": "a04f17134ac03560a47e3764e11b92fc97de4d1bfaf8ba1a3aa29af54cc90845",
        "t10k-images-idx3-ubyte.gz": "346e55b948d973a97e58d2351dde16a484bd415d4595297633bb08f03db6a073",
        "t10k-labels-idx1-ubyte.gz": "67da17c76eaffca5446c3361aaab5c3cd6d1c2608764d35dfb1850b086bf8dd5",
    },
    file_sets=_IDX_SETS,
    system_folder=Path("/usr/share/datasets/fashion-mnist"),
    package="dataset-fashion-mnist",
)
CIFAR10_HOME = Home(
    url="https://www.cs.toronto.edu/~kriz/",
    sha256={"cifar-10-binary.tar.gz": "c4a38c50a1bc5f3a1c5537f2155ab9d68f9f25eb1ed8d9ddda3db29a59bca1dd"},
    file_sets=_cifar_sets("cifar-10-binary.tar.gz", CIFAR10),
)
CIFAR100_HOME = Home(
    url="https://www.cs.toronto.edu/~kriz/",
    sha256={"cifar-100-binary.tar.gz": "58a81ae192c23a4be8b1804d68e518ed807d710a4eb253b1f2a199162a40d8ec"},
    file_sets=_cifar_sets("cifar-100-binary.tar.gz", CIFAR100),
)


def cache_folder() -> Path:
    """Return the folder of downloaded files: ``SHARPNESS_CACHE``, or ``sharpness`` in the user's cache folder."""
    import pooch  # here, for it imports the bar of tqdm, which warns in notebooks without ipywidgets

    return Path(os.path.expanduser(os.environ.get("SHARPNESS_CACHE") or pooch.os_cache("sharpness")))


def is_offline() -> bool:
    """Return whether ``SHARPNESS_OFFLINE`` forbids every network access (any value but empty and 0 does)."""
    return os.environ.get("SHARPNESS_OFFLINE", "") not in ("", "0")


def find_files(name: str, home: Home, data_dir: Path | None) -> tuple[list[Path], str]:
    """Return the files of one dataset, in the reader's order, and the name of the place where they were.

    Looked at in this order: ``data_dir``, the cache, the system folder, the web. Only what was downloaded is held to
    the published SHA-256: a file of the caller or of the system may be packed differently and is checked by its reader.
    Raises :class:`InputError` for a ``data_dir`` that is missing or lacks part of the files, for a cache that cannot be
    written, for a download of another hash, and, naming all four places, when no place has the files.
    """
    if data_dir is not None:
        if not os.path.isdir(data_dir):
            raise InputError(f"expected a folder as --data-dir, got {data_dir}: give the folder that holds the files")
        if files := _complete_set(name, home, data_dir):
            return files, f"data-dir {data_dir}"
    cache = cache_folder() / name
    if all(_has_hash(cache / file, sha256) for file, sha256 in home.sha256.items()):
        return [cache / file for file in home.sha256], f"cache {cache}"
    if home.system_folder is not None and (files := _complete_set(name, home, home.system_folder)):
        return files, f"system folder {home.system_folder}"
    if is_offline():
        raise _not_found(name, home, data_dir, "not tried because SHARPNESS_OFFLINE is set")
    _require_writable(cache)
    return [_download(name, home, data_dir, cache, file) for file in home.sha256], f"download {home.url}"


def _complete_set(name: str, home: Home, folder: Path) -> list[Path]:
    """Return the first set of which the folder has every file, or nothing; refuse a folder that has only a part."""
    missing = {names: [file for file in names if not os.path.isfile(folder / file)] for names in home.file_sets}
    for names, absent in missing.items():
        if not absent:
            return [folder / file for file in names]
    closest = min(missing, key=lambda names: len(missing[names]) / len(names))
    if len(missing[closest]) < len(closest):
        raise InputError(
            f"{folder}: expected all files of {name}, got none named {', '.join(missing[closest])}: "
            "add them or remove the rest"
        )
    return []


def _has_hash(path: Path, sha256: str) -> bool:
    if not os.path.isfile(path):
        return False
    try:
        with path.open("rb") as file:
            return hashlib.file_digest(file, "sha256").hexdigest() == sha256
    except OSError:
        return False


def _require_writable(cache: Path) -> None:
    """Try the cache before the network, so that a full download is not lost to a folder without write permission."""
    try:
        if str(cache).startswith("~"):
            raise OSError("there is no home folder")
        cache.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryFile(dir=cache):
            pass
    except OSError as error:
        raise InputError(
            f"expected a cache folder that can be written, got {cache} ({error.strerror or error}): "
            "set SHARPNESS_CACHE to a folder that can, or give the files' folder as --data-dir"
        ) from error


def _download(name: str, home: Home, data_dir: Path | None, cache: Path, file: str) -> Path:
    """Fetch one file into the cache; pooch gives it its name only once its hash is right, and removes it otherwise."""
    import pooch

    url = home.url + file
    try:
        return Path(pooch.retrieve(url, known_hash=f"sha256:{home.sha256[file]}", fname=file, path=cache))
    except OSError as error:
        # The error of an HTTP status holds an open connection, which pooch leaves to the garbage collector.
        if (response := getattr(error, "response", None)) is not None:
            response.close()
        raise _not_found(name, home, data_dir, f"{url} failed with {_one_line(error)}") from error
    except ValueError as error:
        raise InputError(
            f"{url}: {_one_line(error)} Cure: try again later, or give the files' folder as --data-dir"
        ) from error


def _not_found(name: str, home: Home, data_dir: Path | None, web: str) -> InputError:
    """Return the one line that names the four places and the cures."""
    cache = cache_folder() / name
    bad = [file for file, sha256 in home.sha256.items() if not _has_hash(cache / file, sha256)]
    places = (
        f"--data-dir ({data_dir or 'not given'})",
        f"the cache ({cache}: missing or damaged {', '.join(bad)})",
        f"the system folder ({home.system_folder or 'none for this dataset'})",
        f"the web ({web})",
    )
    package = f"run apt-get install {home.package}, or " if home.package else ""
    return InputError(
        f"expected the files of {name} in one of four places, got them in none of {', '.join(places)}: {package}"
        f"get {', '.join(home.sha256)} from {home.url} on a machine that is online and give their folder as --data-dir"
    )


def _one_line(error: Exception) -> str:
    return " ".join(f"{type(error).__name__}: {error}".split())
