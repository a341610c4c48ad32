"""Embedded data, the two file formats and every kind of damage to them, batches, and the places files come from."""

from __future__ import annotations

import contextlib
import gzip
import hashlib
import io
import os
import socket
import struct
import tarfile
import threading
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from scripts.embedded import fashion_mnist_10k
from sharpness import data
from sharpness.data import DATASETS, Batches, Dataset, Split, load_dataset, normalise, random_subset
from sharpness.data.cifar import CIFAR10, CIFAR100, CifarLayout, read_cifar
from sharpness.data.dataset import hash_splits
from sharpness.data.download import FASHION_MNIST_HOME, IDX_NAMES, Home, cache_folder
from sharpness.data.idx import encode_idx, read_idx, read_idx_split
from sharpness.errors import InputError

SYSTEM_FOLDER = Path("/usr/share/datasets/fashion-mnist")
EMBEDDED = Path(data.__file__).parent / "fashion_mnist_10k"
PAYLOADS = (
    "ed2e37ed5a3a57d212141a69fe0a0de5a7126ffba14ac3f7e76f5f52cc04b1f0",
    "a69f2dad024ca220a8c4d85f621fdf929042d40c444abde2868903e9220ad517",
    "5b4141f0afbad91edebe8549f8fcffe087ea10ca49f1dbef5c9a5cd8815ce37b",
    "0402a96d92fd2663957122ceb108a494c5af83dab82d92729df917d7dec38c34",
)


def random_bytes(*shape: int, high: int = 256, seed: int = 0) -> Tensor:
    return torch.randint(high, shape, generator=torch.Generator().manual_seed(seed), dtype=torch.uint8)


def one_line(error: pytest.ExceptionInfo[InputError], *parts: str) -> None:
    """The message is one line and holds every part."""
    message = str(error.value)
    assert "\n" not in message
    for part in parts:
        assert part in message


# --- embedded data ---------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def embedded() -> Dataset:
    return load_dataset("fashion_mnist_10k")


def test_embedded_files_have_their_fixed_content() -> None:
    found = [hashlib.sha256(gzip.decompress((EMBEDDED / f"{name}.gz").read_bytes())).hexdigest() for name in IDX_NAMES]
    assert tuple(found) == PAYLOADS
    assert "Zalando" in (EMBEDDED / "LICENSE").read_text(encoding="utf-8")
    assert sum(path.stat().st_size for path in EMBEDDED.iterdir()) < 10e6


@pytest.mark.skipif(not SYSTEM_FOLDER.is_dir(), reason="needs the Debian package dataset-fashion-mnist")
def test_embedded_data_are_the_first_examples_of_the_system_files(
    embedded: Dataset, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setenv("SHARPNESS_CACHE", str(tmp_path))
    whole = load_dataset("fashion_mnist")
    assert (len(whole.train), whole.source) == (60000, f"system folder {SYSTEM_FOLDER}")
    cut = load_dataset("fashion_mnist", num_train=10000)
    assert torch.equal(cut.train.inputs, embedded.train.inputs)
    assert torch.equal(cut.test.targets, embedded.test.targets)
    assert cut.sha256 == embedded.sha256 != whole.sha256


def test_embedded_data_have_the_described_form(embedded: Dataset) -> None:
    assert (len(embedded.train), len(embedded.test)) == (10000, 10000)
    assert (embedded.input_shape, embedded.num_classes, embedded.source) == ((1, 28, 28), 10, "embedded")
    assert embedded.train.targets.unique().tolist() == list(range(10))
    assert embedded.test.targets.bincount().tolist() == [1000] * 10
    assert embedded.sha256 == "5a089eac187da7b613150a2620bd6f54c3f18a4637cc958839ca89997aced4ed"
    assert embedded.to("cpu").sha256 == embedded.sha256


def test_cutting_takes_the_first_examples_and_changes_the_hash(embedded: Dataset) -> None:
    cut = load_dataset("fashion_mnist_10k", num_train=70, num_test=30)
    assert torch.equal(cut.train.inputs, embedded.train.inputs[:70])
    assert torch.equal(cut.test.targets, embedded.test.targets[:30])
    assert cut.sha256 == hash_splits(cut.train, cut.test) != embedded.sha256


@pytest.mark.parametrize("numbers", [{"num_train": 0}, {"num_train": -3}, {"num_train": 10001}, {"num_test": 10001}])
def test_impossible_numbers_of_examples_are_refused(numbers: dict[str, Any]) -> None:
    with pytest.raises(InputError) as error:
        load_dataset("fashion_mnist_10k", **numbers)
    one_line(error, next(iter(numbers)), "from 1 to 10000", str(next(iter(numbers.values()))))


def test_unknown_dataset_lists_the_closest_first() -> None:
    with pytest.raises(InputError) as error:
        load_dataset("cifar-10")
    one_line(error, "unknown dataset 'cifar-10': expected one of cifar10, cifar100")


def test_build_script_says_what_is_missing_or_wrong(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    script = fashion_mnist_10k
    monkeypatch.setattr(script, "FASHION_MNIST_HOME", replace(FASHION_MNIST_HOME, system_folder=tmp_path))
    monkeypatch.setattr(script, "TARGET", tmp_path / "out")
    assert script.main() == 2
    assert "apt-get install dataset-fashion-mnist" in capsys.readouterr().err
    for name in IDX_NAMES:
        shape = (2, 28, 28) if "images" in name else (2,)
        (tmp_path / f"{name}.gz").write_bytes(gzip.compress(encode_idx(random_bytes(*shape, high=10))))
    assert script.main() == 2
    assert script.PAYLOADS[0] in (message := capsys.readouterr().err)
    assert message.count("\n") == 1
    assert not (tmp_path / "out").exists()


# --- IDX -------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("pack", [bytes, gzip.compress], ids=["plain", "gzip"])
def test_idx_round_trip(tmp_path: Path, pack: Callable[[bytes], bytes]) -> None:
    array = random_bytes(5, 4, 3)
    (tmp_path / "a").write_bytes(pack(encode_idx(array)))
    assert torch.equal(read_idx(tmp_path / "a", 3), array)


IDX = encode_idx(random_bytes(5, 4, 3))
DAMAGED = {
    "empty": (b"", "an empty file"),
    "truncated": (IDX[:-1], "got 75"),
    "truncated header": (IDX[:9], "got the end"),
    "trailing bytes": (IDX + b"x", "got 77"),
    "wrong magic": (b"\x01" + IDX[1:], "01000803"),
    "float elements": (IDX[:2] + b"\x0d" + IDX[3:], "00000d03"),
    "other dimension count": (encode_idx(random_bytes(5)), "00000801"),
    "2^40 elements": (struct.pack(">I3I", 0x803, 2**14, 2**13, 2**13), "(16384, 8192, 8192)"),
    "2^96 elements": (struct.pack(">I3I", 0x803, *[2**32 - 1] * 3) + bytes(60), "4294967295"),
    "no elements": (encode_idx(torch.zeros(0, 4, 3, dtype=torch.uint8)), "(0, 4, 3)"),
    "web page": (b"<!DOCTYPE html><html>log in</html>", "a web page"),
    "Git LFS pointer": (b"version https://git-lfs.github.com/spec/v1\n", "a Git LFS pointer"),
    "no gzip": (b"\x1f\x8bnot gzip at all", "damaged"),
    "truncated gzip": (gzip.compress(IDX)[:-12], "damaged"),
    "gzip checksum": (gzip.compress(IDX)[:-8] + bytes(8), "damaged"),
    "gzip with trailing bytes": (gzip.compress(IDX) + b"junk", "damaged"),
    "gzip, truncated inside": (gzip.compress(IDX[:-1]), "got 59"),
    "gzip, trailing inside": (gzip.compress(IDX + b"x"), "got more"),
    "gzip, 2^40 elements": (gzip.compress(struct.pack(">I3I", 0x803, 2**14, 2**13, 2**13)), "(16384, 8192, 8192)"),
}


@pytest.mark.parametrize(("content", "got"), DAMAGED.values(), ids=DAMAGED)
def test_damaged_idx_is_refused(tmp_path: Path, content: bytes, got: str) -> None:
    (tmp_path / "images.gz").write_bytes(content)
    with pytest.raises(InputError) as error:
        read_idx(tmp_path / "images.gz", 3)
    one_line(error, str(tmp_path / "images.gz"), "expected", got)


def test_any_flipped_byte_of_a_gzip_idx_is_refused_or_harmless(tmp_path: Path) -> None:
    packed = gzip.compress(IDX, mtime=0)
    for position in range(len(packed)):
        (tmp_path / "a").write_bytes(packed[:position] + bytes([packed[position] ^ 0x55]) + packed[position + 1 :])
        with contextlib.suppress(InputError):
            assert torch.equal(read_idx(tmp_path / "a", 3), random_bytes(5, 4, 3))


def test_missing_idx_and_folder_are_refused(tmp_path: Path) -> None:
    for path in (tmp_path / "none", tmp_path):
        with pytest.raises(InputError) as error:
            read_idx(path, 1)
        one_line(error, str(path))


def test_images_and_labels_must_fit(tmp_path: Path) -> None:
    images, labels = tmp_path / "images", tmp_path / "labels"
    images.write_bytes(encode_idx(random_bytes(5, 4, 3)))
    labels.write_bytes(encode_idx(torch.tensor([0, 1, 2, 3, 9], dtype=torch.uint8)))
    assert read_idx_split(images, labels, 5, (1, 4, 3), 10).targets.tolist() == [0, 1, 2, 3, 9]
    for arguments, parts in (((5, (1, 4, 3), 9), ("0 to 8, got 9 in row 4",)), ((6, (1, 4, 3), 10), ("expected 6",))):
        with pytest.raises(InputError) as error:
            read_idx_split(images, labels, *arguments)
        one_line(error, *parts)
    labels.write_bytes(encode_idx(random_bytes(4, high=10)))
    with pytest.raises(InputError) as error:
        read_idx_split(images, labels, 5, (1, 4, 3), 10)
    one_line(error, str(labels), "expected 5 labels", "got 4")


# --- CIFAR -----------------------------------------------------------------------------------------------------------


def cifar_files(layout: CifarLayout, records: int, num_classes: int) -> dict[str, bytes]:
    """Files in the exact record format: label bytes (coarse 0 first where there are two), then 3072 pixels."""
    contents = {}
    for seed, name in enumerate((*layout.train_files, layout.test_file)):
        rows = random_bytes(records, layout.label_bytes + 3072, seed=seed)
        rows[:, 0] = 0
        rows[:, layout.label_bytes - 1] = torch.arange(records) % num_classes
        contents[name] = rows.numpy().tobytes()
    return contents


def write_tar(path: Path, members: list[tuple[tarfile.TarInfo, bytes]]) -> Path:
    with tarfile.open(path, "w:gz") as archive:
        for info, content in members:
            info.size = len(content)
            archive.addfile(info, io.BytesIO(content))
    return path


def cifar_members(layout: CifarLayout, contents: dict[str, bytes]) -> list[tuple[tarfile.TarInfo, bytes]]:
    return [(tarfile.TarInfo(f"{layout.folder}/{name}"), content) for name, content in contents.items()]


@pytest.mark.parametrize(("layout", "num_classes"), [(CIFAR10, 10), (CIFAR100, 100)], ids=["cifar10", "cifar100"])
def test_cifar_folder_and_archive_agree(tmp_path: Path, layout: CifarLayout, num_classes: int) -> None:
    contents = cifar_files(layout, 7, num_classes)
    for name, content in contents.items():
        (tmp_path / name).write_bytes(content)
    numbers = (7 * len(layout.train_files), 7, num_classes)
    train, test = read_cifar([tmp_path / name for name in contents], layout, *numbers)
    assert train.inputs.shape == (numbers[0], 3, 32, 32)
    assert test.targets.tolist() == list(range(7))
    # Pixel (channel 2, row 1, column 3) of record 4 of the test file, counted by hand.
    position = 4 * (layout.label_bytes + 3072) + layout.label_bytes + 2 * 1024 + 1 * 32 + 3
    assert int(test.inputs[4, 2, 1, 3]) == contents[layout.test_file][position]
    # Around the data: a member that climbs out, an absolute one and a link, none of which may be written anywhere.
    link = tarfile.TarInfo("innocent")
    link.type, link.linkname = tarfile.SYMTYPE, "/etc/passwd"
    hostile = [(tarfile.TarInfo(name), b"x") for name in ("../escaped", f"{tmp_path}/absolute")] + [(link, b"")]
    archive = write_tar(tmp_path / "a.tar.gz", [*hostile, *reversed(cifar_members(layout, contents))])
    before = sorted(tmp_path.parent.rglob("*"))
    again = read_cifar([archive], layout, *numbers)
    assert hash_splits(*again) == hash_splits(train, test)
    assert sorted(tmp_path.parent.rglob("*")) == before


def test_damaged_cifar_archives_are_refused(tmp_path: Path) -> None:
    contents = cifar_files(CIFAR100, 7, 100)
    members = cifar_members(CIFAR100, contents)
    link = tarfile.TarInfo("cifar-100-binary/test.bin")
    link.type, link.linkname = tarfile.SYMTYPE, "train.bin"
    whole = write_tar(tmp_path / "whole", members).read_bytes()
    cases = {
        "symlink": (write_tar(tmp_path / "l", [members[0], (link, b"")]), "expected a regular file"),
        "absent": (write_tar(tmp_path / "m", members[:1]), "got none of cifar-100-binary/test.bin"),
        "twice": (write_tar(tmp_path / "t", [*members, members[0]]), "got it twice"),
        "longer": (write_tar(tmp_path / "s", [(i, c + b"x") for i, c in cifar_members(CIFAR100, contents)]), "21518 b"),
        "cut": (tmp_path / "cut", "damaged"),
        "page": (tmp_path / "page", "damaged"),
        "checksum": (tmp_path / "checksum", "damaged"),
    }
    cases["cut"][0].write_bytes(whole[: len(whole) // 2])
    cases["page"][0].write_bytes(b"<!DOCTYPE html>")
    cases["checksum"][0].write_bytes(whole[:-8] + bytes(8))
    for path, part in cases.values():
        with pytest.raises(InputError) as error:
            read_cifar([path], CIFAR100, 7, 7, 100)
        one_line(error, str(path), "expected", part)
    with pytest.raises(InputError) as error:
        read_cifar([tmp_path / "whole"], CIFAR100, 7, 7, 6)
    one_line(error, "labels from 0 to 5, got 6 in row 6")


def test_full_size_cifar10_folder(tmp_path: Path) -> None:
    folder = tmp_path / "cifar-10-batches-bin"
    folder.mkdir()
    for name in (*CIFAR10.train_files, CIFAR10.test_file):
        (folder / name).touch()
        os.truncate(folder / name, 10000 * 3073)
    full = load_dataset("cifar10", data_dir=tmp_path)
    assert (len(full.train), len(full.test), full.input_shape) == (50000, 10000, (3, 32, 32))
    os.truncate(folder / "data_batch_3.bin", 10000 * 3073 - 1)
    with pytest.raises(InputError) as error:
        load_dataset("cifar10", data_dir=tmp_path)
    one_line(error, str(folder / "data_batch_3.bin"), "expected 30730000 bytes, got 30729999")
    (folder / "data_batch_3.bin").unlink()
    with pytest.raises(InputError) as error:
        load_dataset("cifar10", data_dir=tmp_path)
    one_line(error, str(tmp_path), "data_batch_3.bin")


# --- batches and subsets ---------------------------------------------------------------------------------------------


@pytest.mark.parametrize("batch_size", [1, 3, 5, 11, 12, 50])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_batches_together_are_the_whole_split(batch_size: int, dtype: torch.dtype) -> None:
    split = Split(random_bytes(11, 1, 2, 3), torch.arange(11))
    batches = Batches(split, batch_size, dtype)
    assert torch.equal(torch.cat([x for x, _ in batches]), split.inputs.to(dtype) / 255)
    assert torch.equal(torch.cat([y for _, y in batches]), split.targets)
    assert batches.batch_sizes == tuple(len(y) for _, y in batches)
    assert (sum(batches.batch_sizes), len(batches)) == (batches.num_examples, -(-11 // batch_size))
    assert {x.dtype for x, _ in batches} == {dtype}


def test_batches_are_a_sequence() -> None:
    batches = Batches(Split(random_bytes(11, 1, 2, 3), torch.arange(11)), 4)
    assert batches[-1][1].tolist() == [8, 9, 10]
    assert [y.tolist() for _, y in batches[::2]] == [[0, 1, 2, 3], [8, 9, 10]]
    for index in (3, -4):
        with pytest.raises(IndexError):
            batches[index]


def test_unusable_splits_and_batches_are_refused() -> None:
    split = Split(random_bytes(3, 1, 2, 3), torch.arange(3))
    empty = Split(split.inputs[:0], split.targets[:0])
    for make in (
        lambda: Batches(split, 0),
        lambda: Batches(empty, 2),
        lambda: Batches(split, 2, torch.int32),
        lambda: Split(split.inputs, split.targets[:2]),
        lambda: Split(split.inputs.float(), split.targets),
        lambda: normalise(split.inputs, torch.uint8),
    ):
        with pytest.raises(InputError, match="expected"):
            make()


def test_random_subset_is_seeded_sorted_and_leaves_the_global_generator_alone() -> None:
    split = Split(random_bytes(100, 1, 1, 1), torch.arange(100))
    state = torch.get_rng_state()
    first, same, other = (random_subset(split, 20, seed).targets for seed in (1, 1, 2))
    assert torch.equal(torch.get_rng_state(), state)
    assert torch.equal(first, same)
    assert not torch.equal(first, other)
    assert (first.diff() > 0).all()
    assert torch.equal(random_subset(split, 100, 3).inputs, split.inputs)
    for n in (0, 101):
        with pytest.raises(InputError, match="from 1 to 100"):
            random_subset(split, n, 0)


# --- the four places -------------------------------------------------------------------------------------------------


class Server(ThreadingHTTPServer):
    """Serves ``files`` on the loopback, in the way ``mode`` says, and notes the paths asked for."""

    daemon_threads = False
    files: dict[str, bytes]
    mode = "right"
    asked: list[str]


class Handler(BaseHTTPRequestHandler):
    server: Server  # pyright: ignore[reportIncompatibleVariableOverride]

    def do_GET(self) -> None:
        self.server.asked.append(self.path)
        content = self.server.files[self.path.lstrip("/")]
        if self.server.mode == "page":
            content = b"<!DOCTYPE html>"
        self.send_response(500 if self.server.mode == "500" else 200)
        self.send_header("Content-Length", str(len(content)))
        self.end_headers()
        self.wfile.write(content[: len(content) // 2] if self.server.mode == "cut" else content)

    def log_message(self, format: str, *args: object) -> None:
        pass


@pytest.fixture
def server() -> Iterator[Server]:
    with Server(("127.0.0.1", 0), Handler) as server:
        server.asked = []
        thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
        thread.start()
        yield server
        server.shutdown()
        thread.join()


def tiny_files(seed: int) -> dict[str, bytes]:
    """MNIST's four files with 6 training and 4 test images of 4 x 4."""
    contents = {}
    for name in IDX_NAMES:
        n = 6 if name.startswith("train") else 4
        array = random_bytes(n, 4, 4, seed=seed) if "images" in name else random_bytes(n, high=10, seed=seed)
        contents[f"{name}.gz"] = gzip.compress(encode_idx(array), mtime=0)
    return contents


def fill(folder: Path, contents: dict[str, bytes]) -> Path:
    folder.mkdir(parents=True)
    for name, content in contents.items():
        (folder / name).write_bytes(content)
    return folder


@pytest.fixture
def cache(server: Server, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Make ``mnist`` a tiny dataset whose home is the local server, and return its folder in an empty cache."""
    server.files = tiny_files(seed=0)
    hashes = {name: hashlib.sha256(content).hexdigest() for name, content in server.files.items()}
    old = DATASETS["mnist"]
    assert isinstance(old.home, Home)
    home = replace(old.home, url=f"http://127.0.0.1:{server.server_port}/", sha256=hashes)
    monkeypatch.setitem(DATASETS, "mnist", replace(old, num_train=6, num_test=4, shape=(1, 4, 4), home=home))
    monkeypatch.setenv("SHARPNESS_CACHE", str(tmp_path / "cache"))
    for variable in ("NO_PROXY", "no_proxy"):
        monkeypatch.setenv(variable, "127.0.0.1")
    monkeypatch.delenv("SHARPNESS_OFFLINE", raising=False)
    return tmp_path / "cache" / "mnist"


def test_download_once_then_the_cache(server: Server, cache: Path) -> None:
    first = load_dataset("mnist")
    assert first.source == f"download http://127.0.0.1:{server.server_port}/"
    assert sorted(server.asked) == sorted(f"/{name}" for name in server.files)
    again = load_dataset("mnist")
    assert (again.source, again.sha256, len(server.asked)) == (f"cache {cache}", first.sha256, 4)
    assert sorted(path.name for path in cache.iterdir()) == sorted(server.files)


def test_a_damaged_cache_is_fetched_once_more(server: Server, cache: Path) -> None:
    fill(cache, server.files)
    (cache / "t10k-images-idx3-ubyte.gz").write_bytes(b"half")
    load_dataset("mnist")
    assert server.asked == ["/t10k-images-idx3-ubyte.gz"]


def test_a_damaged_cache_is_named_when_offline(server: Server, cache: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    fill(cache, server.files)
    (cache / "t10k-images-idx3-ubyte.gz").write_bytes(b"half")
    monkeypatch.setenv("SHARPNESS_OFFLINE", "1")
    with pytest.raises(InputError) as error:
        load_dataset("mnist")
    one_line(error, f"the cache ({cache}: missing or damaged t10k-images-idx3-ubyte.gz)")
    assert server.asked == []


def test_two_downloads_at_once_agree(server: Server, cache: Path) -> None:
    with ThreadPoolExecutor(4) as pool:
        hashes = {found.sha256 for found in pool.map(lambda _: load_dataset("mnist"), range(4))}
    assert len(hashes) == 1
    assert sorted(path.name for path in cache.iterdir()) == sorted(server.files)


@pytest.mark.parametrize(("mode", "part"), [("cut", "the web"), ("500", "500"), ("page", "expected"), ("hash", "got")])
def test_a_failed_download_leaves_nothing(server: Server, cache: Path, mode: str, part: str) -> None:
    server.mode = mode
    name = "train-images-idx3-ubyte.gz"
    expected = hashlib.sha256(server.files[name]).hexdigest()
    if mode == "hash":
        server.files[name] += b"x"
    with pytest.raises(InputError) as error:
        load_dataset("mnist")
    one_line(error, f"http://127.0.0.1:{server.server_port}/{name}", part)
    if mode == "hash":
        one_line(error, expected, hashlib.sha256(server.files[name]).hexdigest())
    assert list(cache.iterdir()) == []


def test_places_are_tried_in_order(
    server: Server, cache: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    ours, system = fill(tmp_path / "ours", tiny_files(seed=1)), fill(tmp_path / "system", tiny_files(seed=2))
    home = DATASETS["mnist"].home
    assert home is not None
    info = replace(DATASETS["mnist"], home=replace(home, system_folder=system))
    monkeypatch.setitem(DATASETS, "mnist", info)
    assert load_dataset("mnist").source == f"system folder {system}"
    fill(cache, server.files)
    assert load_dataset("mnist").source == f"cache {cache}"
    assert load_dataset("mnist", data_dir=ours).source == f"data-dir {ours}"
    assert len({load_dataset("mnist", data_dir=folder).sha256 for folder in (ours, system, cache)}) == 3
    (tmp_path / "nothing").mkdir()
    assert load_dataset("mnist", data_dir=tmp_path / "nothing").source == f"cache {cache}"
    assert server.asked == []


def test_a_bad_data_dir_is_an_error_and_no_other_place_is_tried(server: Server, cache: Path, tmp_path: Path) -> None:
    fill(cache, server.files)
    folder = fill(tmp_path / "ours", server.files | {"t10k-labels-idx1-ubyte.gz": b"<html>"})
    with pytest.raises(InputError) as error:
        load_dataset("mnist", data_dir=folder)
    one_line(error, str(folder / "t10k-labels-idx1-ubyte.gz"), "a web page")
    (folder / "t10k-labels-idx1-ubyte.gz").unlink()
    with pytest.raises(InputError) as error:
        load_dataset("mnist", data_dir=folder)
    one_line(error, str(folder), "got none named t10k-labels-idx1-ubyte.gz")
    with pytest.raises(InputError) as error:
        load_dataset("mnist", data_dir=tmp_path / "typo")
    one_line(error, "--data-dir", str(tmp_path / "typo"))


def test_plain_files_in_a_data_dir_are_read(server: Server, cache: Path, tmp_path: Path) -> None:
    plain = {name.removesuffix(".gz"): gzip.decompress(content) for name, content in server.files.items()}
    fill(cache, server.files)
    assert load_dataset("mnist", data_dir=fill(tmp_path / "p", plain)).sha256 == load_dataset("mnist").sha256


def test_offline_opens_no_socket_and_names_the_four_places(
    cache: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(*arguments: object) -> None:
        raise AssertionError("a socket was used")

    for name in ("connect", "connect_ex", "__init__"):
        monkeypatch.setattr(socket.socket, name, refuse)
    monkeypatch.setattr(socket, "getaddrinfo", refuse)
    monkeypatch.setenv("SHARPNESS_OFFLINE", "1")
    home = replace(FASHION_MNIST_HOME, system_folder=tmp_path / "system")
    monkeypatch.setitem(DATASETS, "fashion_mnist", replace(DATASETS["fashion_mnist"], home=home))
    with pytest.raises(InputError) as error:
        load_dataset("fashion_mnist")
    one_line(error, "--data-dir (not given)", str(tmp_path / "cache"), str(tmp_path / "system"), "SHARPNESS_OFFLINE")
    one_line(error, "apt-get install dataset-fashion-mnist")
    with pytest.raises(InputError) as error:
        load_dataset("mnist", data_dir=tmp_path)
    one_line(error, f"--data-dir ({tmp_path})", str(cache), "none for this dataset", "SHARPNESS_OFFLINE")
    assert not cache.exists()


def test_no_server_names_the_four_places(server: Server, cache: Path) -> None:
    server.server_close()
    with pytest.raises(InputError) as error:
        load_dataset("mnist")
    one_line(error, "--data-dir", str(cache), "system folder", f"http://127.0.0.1:{server.server_port}/", "failed")


def test_an_unwritable_cache_is_one_clear_line(
    server: Server, cache: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "file").write_bytes(b"")
    # The second is what the cache folder becomes where there is no home folder.
    for place in (tmp_path / "file", Path("~nobody-of-that-name/cache")):
        monkeypatch.setenv("SHARPNESS_CACHE", str(place))
        with pytest.raises(InputError) as error:
            load_dataset("mnist")
        one_line(error, "expected a cache folder that can be written", str(place), "SHARPNESS_CACHE")
    assert server.asked == []


@pytest.mark.skipif(not hasattr(os, "geteuid") or os.geteuid() == 0, reason="root may write anywhere")
def test_a_read_only_cache_is_one_clear_line(cache: Path) -> None:
    cache.mkdir(parents=True)
    cache.chmod(0o500)
    with pytest.raises(InputError) as error:
        load_dataset("mnist")
    one_line(error, "expected a cache folder that can be written", str(cache))


def test_the_cache_follows_the_environment(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("SHARPNESS_CACHE", raising=False)
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    assert cache_folder() == tmp_path / "sharpness"
    monkeypatch.setenv("SHARPNESS_CACHE", str(tmp_path / "x"))
    assert cache_folder() == tmp_path / "x"
