"""The time that `sharpness probe` takes to get going and to a first answer, and the copies of the weights it reads.

Times are those of whole processes. The first product is of ResNet-18 with random weights, of torchvision or timm,
whichever is installed, on made images. A first answer, the probes that are taken where none is named, is of F1 after
its training, on 10,000 images, and of the same ResNet-18 after a brief training, on 500 images in 32 x 32 and three
channels. A safetensors file is read into a network that is there already: the memory that this takes beyond the network
is copies.
"""

# python scripts/benchmarks/probe.py
# About five minutes on two cores, of which the first answers take four.
# 0.23 s for `--help`, 12 s to the first Hessian-vector product of ResNet-18 on 100 images, 49 and 148 s to the first
# answers, and 1.2 s for reading 1 GiB with its SHA-256, which is copied once, into the network.

from __future__ import annotations

import os
import re
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
sys.path.insert(0, str(ROOT))  # scripts/ is not installed

import numpy as np
import torch
import tyro
from safetensors.torch import save_file
from torch import nn
from torch.nn.functional import cross_entropy, pad

from scripts.benchmarks.networks import BATCH_OF, trained
from scripts.benchmarks.report import markdown
from scripts.benchmarks.rows import Row
from scripts.benchmarks.tools import resident, seconds_of
from sharpness.checkpoints import load_into, read_checkpoint
from sharpness.cli import run_command
from sharpness.config import RunConfig, TrainingConfig
from sharpness.data import Batches, load_dataset
from sharpness.errors import InputError
from sharpness.models.user_model import load_model
from sharpness.runs import RecordFolder

GIB = 1 << 30
COMMAND = "from sharpness.cli import main; main()"
FIRST_PRODUCT = """
import os
from sharpness.curvature.kept_graphs import CurvatureOperator
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
    """Processes per time, and readings."""
    gibibytes: float = 1.0
    """Size of the file that is read."""
    network: str = "torchvision:resnet18,num_classes=10"
    """The network whose first product and first answer are waited for."""
    answers: int = 1
    """Processes per first answer; 0 for none."""
    runs: Path = Path("runs")
    """Folder in which the network of the first answer is trained, if it is not there."""


def trained_f1(runs: Path) -> tuple[str, ...]:
    """Return the arguments that measure F1 on 10,000 images after its training of a few minutes."""
    return (str(trained(RunConfig(training=TrainingConfig(batch_size=BATCH_OF["SB"])), runs).path),)


def trained_resnet(network: str, folder: Path) -> tuple[str, ...]:
    """Return the arguments that measure a network for 32 x 32 images on 500, after 30 steps of Adam on them."""
    x, y = next(iter(Batches(load_dataset("fashion_mnist_10k").train.first(500), 500)))
    x = pad(x, (2, 2, 2, 2)).expand(-1, 3, -1, -1)
    torch.manual_seed(0)
    model = load_model(network).model.train()
    optimizer = torch.optim.Adam(model.parameters(), lr=1e-3)
    for start in [*range(0, 500, 50)] * 3:
        optimizer.zero_grad()
        cross_entropy(model(x[start : start + 50]), y[start : start + 50]).backward()
        optimizer.step()
    torch.save(model.state_dict(), folder / "resnet.pt")
    np.savez(folder / "images.npz", x=x.numpy(), y=y.numpy())
    return (str(folder / "resnet.pt"), "--model", network, "--data", f"npz:{folder / 'images.npz'}")


def first_answers(options: Options, folder: Path) -> dict[str, tuple[list[float], str]]:
    """Return the seconds of whole commands without named probes, each into a folder of its own.

    What a command announces is of its measures, so it is divided by the seconds in their records.
    """
    if options.answers < 1:
        return {}
    named = {
        "`sharpness probe`, F1, 10,000 images": trained_f1(options.runs),
        f"`sharpness probe`, {options.network}, 500 images": trained_resnet(options.network, folder),
    }
    found: dict[str, tuple[list[float], str]] = {}
    for name, arguments in named.items():
        times, shares = found.setdefault(name, ([], "s"))[0], list[float]()
        for i in range(options.answers):
            out = folder / f"answer-{len(found)}-{i}"
            began = time.perf_counter()
            said = run_process(COMMAND, "probe", *arguments, "--out", str(out))
            times.append(time.perf_counter() - began)
            shares.append(
                announced_seconds(said) / sum(record.seconds or 0.0 for record in RecordFolder(out).records())
            )
        found[f"announced, {name}"] = shares, "of what its measures took"
    return found


def announced_seconds(said: str) -> float:
    """Return the time that a command announced.

    >>> announced_seconds("8 measures will take about 1.5 min here: 40 gradients over the data")
    90.0
    """
    found = re.search(r"will take about ([0-9.]+) (s|min|h) here", said)
    if found is None:
        raise InputError(f"expected a command that says how long it will take, got: {said.splitlines()[:9]}")
    return float(found[1]) * {"s": 1, "min": 60, "h": 3600}[found[2]]


def run_process(code: str, *arguments: str) -> str:
    """Run some Python in a process and return what it printed; :class:`InputError` where it fails."""
    command = [sys.executable, "-c", code, *arguments]
    result = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
    if result.returncode != 0:
        raise InputError(f"expected the command to end well, got: {result.stderr.strip().splitlines()[-1:]}")
    return result.stdout


def process_seconds(code: str, *arguments: str, repeats: int) -> list[float]:
    """Return the wall times of processes that run some Python."""
    run_process(code, *arguments)  # reads the libraries from disk
    return [seconds_of(lambda: run_process(code, *arguments)) for _ in range(repeats)]


def first_product(options: Options, folder: Path) -> list[float]:
    """Return the seconds from the command to the end of the first Hessian-vector product."""
    weights, data = folder / "weights.pt", folder / "data.npz"
    torch.save(load_model(options.network).model.state_dict(), weights)
    x = np.random.default_rng(0).standard_normal((100, 3, 32, 32)).astype(np.float32)
    np.savez(data, x=x, y=np.arange(100) % 10)
    arguments = ["probe", str(weights), "--model", options.network, "--data", f"npz:{data}"]
    arguments += ["--out", str(folder / "out"), "--probes", "eigenvalues"]
    return process_seconds(FIRST_PRODUCT, *arguments, repeats=options.repeats)


def growth_of(call: Callable[[], object]) -> int:
    """Return the bytes by which a call raises this process's own memory at its peak: pages of files are not its own."""
    before, peak, done = resident("RssAnon") or 0, 0, threading.Event()

    def watch() -> None:
        nonlocal peak
        while not done.wait(0.002):
            peak = max(peak, (resident("RssAnon") or 0) - before)

    thread = threading.Thread(target=watch, daemon=True)
    thread.start()
    try:
        call()
    finally:
        done.set()
        thread.join()
    return peak


def reading(options: Options, folder: Path) -> tuple[list[float], list[float]]:
    """Return seconds and own memory, in sizes of the file, of reading a file into a network that is there."""
    pieces = 4
    numel = int(options.gibibytes * GIB / 4 / pieces)
    model = nn.ParameterDict({f"p{i}": nn.Parameter(torch.ones(numel)) for i in range(pieces)})
    path, size = folder / "large.safetensors", 4 * numel * pieces
    save_file({name: p.detach() + 1 for name, p in model.items()}, path)
    seconds: list[float] = []

    def read() -> None:
        seconds.append(seconds_of(lambda: load_into(model, read_checkpoint(path))))

    copies = [growth_of(read) / size for _ in range(options.repeats)]
    assert all(bool((p == 2).all()) for p in model.values())
    return seconds, copies


def measure(options: Options) -> list[Row]:
    """Return the lines of the table, each a list of measurements and their unit."""
    machine = f"{os.cpu_count()} cores, torch {torch.__version__}"
    with tempfile.TemporaryDirectory() as name:
        seconds, copies = reading(options, Path(name))
        waited = first_product(options, Path(name))
        answers = first_answers(options, Path(name))
    first = f"from the command to the first product, {options.network}, 100 images"
    shown = {
        "`sharpness --help`": (process_seconds(COMMAND, "--help", repeats=options.repeats), "s"),
        first: (waited, "s"),
        **answers,
        f"reading {options.gibibytes:g} GiB, its SHA-256 included": (seconds, "s"),
        "memory of its own that reading took beside the network": (copies, "of the file's size"),
    }
    return [{machine: what, "median": values, "unit": unit} for what, (values, unit) in shown.items()]


def main() -> None:
    """Measure and print."""
    print(markdown(measure(tyro.cli(Options, description=__doc__))))


if __name__ == "__main__":
    run_command(main)
