"""How long `sharpness probe` takes to get going, and how often it copies the weights that it reads.

Times are of whole processes, medians of several. The network is ResNet-18 of torchvision or timm, whichever is
installed, with random weights, on made images. Reading is of a safetensors file into a network that is there already:
what its memory grows by beyond the network is copies.
"""

from __future__ import annotations

import os
import statistics
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
sys.path[:0] = [str(ROOT), str(ROOT / "scripts")]

import numpy as np
import torch
import tyro
from safetensors.torch import save_file
from torch import Tensor, nn

from scripts.benchmarks.tools import resident, seconds_of
from sharpness.checkpoints import load_into, read_checkpoint
from sharpness.cli import run_command
from sharpness.errors import InputError
from sharpness.models.user_model import load_model

GIB = 1 << 30
COMMAND = [sys.executable, "-c", "from sharpness.cli import main; main()"]
FIRST_PRODUCT = """
import os, time
from sharpness.kept_graphs import CurvatureOperator
matvec = CurvatureOperator.matvec
def first(self, v):
    matvec(self, v)
    os._exit(0)
CurvatureOperator.matvec = first
from sharpness.cli import main
main()
"""


@dataclass(frozen=True)
class Options:
    """Measure and print a table."""

    repeats: int = 5
    """Processes per time."""
    gibibytes: float = 1.0
    """Size of the file that is read."""
    network: str = "torchvision:resnet18,num_classes=10"
    """The network whose first product is waited for."""


def process_seconds(command: list[str], repeats: int) -> float:
    """Return the median wall time of a command; :class:`InputError` where it fails."""
    seconds = []
    for _ in range(repeats + 1):
        started = time.perf_counter()
        result = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
        seconds.append(time.perf_counter() - started)
        if result.returncode != 0:
            raise InputError(f"expected the command to end well, got: {result.stderr.strip().splitlines()[-1:]}")
    return statistics.median(seconds[1:])  # the first reads the libraries from disk


def first_product(options: Options, folder: Path) -> float:
    """Return the seconds from the command to the end of the first Hessian-vector product."""
    model = load_model(options.network).model
    torch.save(model.state_dict(), folder / "weights.pt")
    generator = np.random.default_rng(0)
    x = generator.standard_normal((100, 3, 32, 32)).astype(np.float32)
    np.savez(folder / "data.npz", x=x, y=np.arange(100) % 10)
    arguments = ["probe", str(folder / "weights.pt"), "--model", options.network]
    arguments += ["--data", f"npz:{folder / 'data.npz'}", "--out", str(folder / "out"), "--probes", "eigenvalues"]
    return process_seconds([sys.executable, "-c", FIRST_PRODUCT, *arguments], options.repeats)


@contextmanager
def peak_anonymous(peak: list[int]) -> Iterator[None]:
    """Put the growth of this process's own memory at its peak into ``peak``: pages of files are not its own."""
    before, done = resident("RssAnon") or 0, threading.Event()
    peak[:] = [0]

    def watch() -> None:
        while not done.wait(0.002):
            peak[0] = max(peak[0], (resident("RssAnon") or 0) - before)

    thread = threading.Thread(target=watch, daemon=True)
    thread.start()
    try:
        yield
    finally:
        done.set()
        thread.join()


def reading(gibibytes: float, folder: Path) -> dict[str, float]:
    """Return seconds and own memory, in sizes of the file, of reading a file into a network that is there."""
    pieces = 4
    numel = int(gibibytes * GIB / 4 / pieces)
    model = nn.ParameterDict({f"p{i}": nn.Parameter(torch.ones(numel)) for i in range(pieces)})
    path, size = folder / "large.safetensors", 4 * numel * pieces
    save_file({name: p.detach() + 1 for name, p in model.items()}, path)
    peak: list[int] = []

    def read() -> None:
        load_into(model, read_checkpoint(path))

    with peak_anonymous(peak):
        seconds = seconds_of(read)
    assert all(bool((p == 2).all()) for p in model.values())
    one: Tensor = model["p0"].detach()
    copy = seconds_of(lambda: one.clone()) * pieces
    return {"seconds": seconds, "copies": peak[0] / size, "copy_seconds": copy}


def main() -> None:
    """Measure and print."""
    options = tyro.cli(Options, description=__doc__)
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        help_seconds = process_seconds([*COMMAND, "--help"], options.repeats)
        product_seconds = first_product(options, folder)
        read = reading(options.gibibytes, folder)
    rows: list[tuple[str, str]] = [
        ("`sharpness --help`", f"{help_seconds:.2f} s"),
        (f"from the command to the first product, {options.network}, 100 images", f"{product_seconds:.2f} s"),
        (f"reading {options.gibibytes:g} GiB, its SHA-256 included", f"{read['seconds']:.2f} s"),
        ("memory of its own that reading took beside the network", f"{read['copies']:.3f} of the file's size"),
    ]
    print(f"| {os.cpu_count()} cores, torch {torch.__version__} | |\n| --- | --- |")
    for what, value in rows:
        print(f"| {what} | {value} |")


if __name__ == "__main__":
    run_command(main)
