"""Build the embedded data: the first 10,000 training images and the test set of Fashion-MNIST, from its Debian package.

Run it only to check or renew what is committed: the same package and the same zlib give the same bytes.
"""

from __future__ import annotations

import gzip
import hashlib
import sys
from pathlib import Path

import torch

from sharpness.data.download import FASHION_MNIST_HOME, IDX_NAMES
from sharpness.data.idx import encode_idx, gzip_bytes, read_idx
from sharpness.errors import InputError
from sharpness.files import write_atomically

TARGET = Path(__file__).resolve().parents[2] / "sharpness" / "data" / "fashion_mnist_10k"
NUM_EXAMPLES = 10_000

# SHA-256 of the unpacked files: the package packs them anew, so its .gz files are not the published ones byte by byte.
# Measured on dataset-fashion-mnist 0.0~git20200523.55506a9-1, in the order of IDX_NAMES.
PAYLOADS = (
    "c59f468a2f672dc815687fe0f83887768d799fd8a3f3276145d20f83aa44d888",
    "bad3541b69d912435c50bb6ba87bec294ff4f6a2e1246121d8633921760443d9",
    "5b4141f0afbad91edebe8549f8fcffe087ea10ca49f1dbef5c9a5cd8815ce37b",
    "0402a96d92fd2663957122ceb108a494c5af83dab82d92729df917d7dec38c34",
)


def read_source(path: Path, payload_sha256: str) -> torch.Tensor:
    """Return the array of one packaged file after checking its content; raises :class:`InputError` naming the file."""
    if not path.is_file():
        raise InputError(
            f"expected {path}, found none: install the data with apt-get install {FASHION_MNIST_HOME.package}"
        )
    array = read_idx(path, num_dimensions=3 if "images" in path.name else 1)
    found = hashlib.sha256(encode_idx(array)).hexdigest()
    if found != payload_sha256:
        raise InputError(f"{path}: expected unpacked content with SHA-256 {payload_sha256}, got {found}: reinstall it")
    return array


def main() -> int:
    """Write the four files, print the SHA-256 of each and of its content, and return the exit code."""
    folder = FASHION_MNIST_HOME.system_folder
    assert folder is not None
    try:
        arrays = [read_source(folder / f"{name}.gz", sha) for name, sha in zip(IDX_NAMES, PAYLOADS, strict=True)]
    except InputError as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    TARGET.mkdir(exist_ok=True)
    for name, array in zip(IDX_NAMES, arrays, strict=True):
        content = encode_idx(array[:NUM_EXAMPLES])
        packed = gzip_bytes(content)
        assert gzip.decompress(packed) == content
        write_atomically(TARGET / f"{name}.gz", packed)
        print(f"{name}.gz: {len(packed)} bytes, SHA-256 {hashlib.sha256(packed).hexdigest()}, ", end="")
        print(f"unpacked {hashlib.sha256(content).hexdigest()}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
