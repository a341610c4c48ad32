"""Everything that differs by device, in one command: is it right there, how fast is it, and how much memory it takes.

products: Hessian-vector products on the device against float64 ones on the CPU, with graphs kept and made anew, inside
autocast, with TF32 switched on outside, by differences, and as one compiled program; for networks with convolutions,
BatchNorm on the statistics of its batches, cuDNN's recurrent layers, and attention. eigenvalue: ResNet-50 and GPT-2
medium, with random weights, against PyHessian and curvlinops where they are installed, with peak memory. loop: our
updates against the barest loop, on a GPU with the peak memory of both. study: the main job of keskar2017 on the device.

On a large GPU at most 8 minutes; nothing is downloaded. --size small does the same on networks that a CPU measures in
four minutes. Each row is kept as it finishes, so the same command goes on after a stop of any kind.
"""

# python scripts/benchmarks/device.py
# It has not been run on a GPU yet: on a CPU it compares the CPU with itself.

from __future__ import annotations

import contextlib
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any, TypeVar

sys.path.insert(0, str(Path(__file__).resolve().parents[2]))  # scripts/ is not installed

import torch
import tyro
from torch import Tensor, nn
from torch.nn.functional import cross_entropy

from scripts.benchmarks.curvature_peers import as_pairs
from scripts.benchmarks.device_networks import BIG, NETWORKS, Size
from scripts.benchmarks.networks import Problem
from scripts.benchmarks.report import Part, lines_of, provenance_of, write_report
from scripts.benchmarks.rows import Benchmark, Job, Row, SharedOptions
from scripts.benchmarks.tools import interleaved, measured, peer, seconds_of
from scripts.benchmarks.training_peers import bare_updates, config_of, our_updates, session_of
from sharpness.curvature import HessianOperator
from sharpness.data import load_dataset
from sharpness.data.batches import Batch
from sharpness.errors import InputError
from sharpness.loss import Loss
from sharpness.machine.environment import choose_device
from sharpness.machine.precision import tensor_float_32
from sharpness.probes import TopEigenvalues
from sharpness.vectors import norm, random_unit_vector

Result = TypeVar("Result")
ROOT = Path(__file__).resolve().parents[2]
PATHS = ("kept", "rebuilt", "autocast outside", "TF32 outside", "differences", "compiled")
ALLOWED = {"differences": 2e-2}
"""Relative error of a product by differences in float32; other paths are within ``ROUNDING``."""
ROUNDING = 1e-3
LOOPS = {"large": (32, 500, 5000), "small": (32,)}
ROUNDS = 5


@dataclass(frozen=True, kw_only=True)
class Options(SharedOptions):
    """Measure what is missing, then render the tables."""

    size: Size = "large"
    """small: networks that a CPU measures in four minutes."""
    device: Annotated[str, tyro.conf.arg(metavar="NAME")] = "auto"
    """auto, cpu, cuda, cuda:1 or mps."""
    examples: tyro.conf.Suppress[int] = 10_000
    runs: tyro.conf.Suppress[Path] = Path("runs")  # no trained network is read
    figures: Path = Path("figures/benchmark_device")

    def jobs(self) -> Iterator[Job]:
        """Yield the jobs; the tool of a job names what is measured, and where."""
        where = f"{self.size} on {choose_device(self.device)}"
        for network in NETWORKS:
            yield Job("products", network, where, 24, self.threads)
        for network in BIG:
            for tool in TOOLS:
                yield Job("eigenvalue", network, f"{tool}, {where}", 0, self.threads)
        for batch in LOOPS[self.size]:
            yield Job("loop", "f1", f"batch {batch}, {where}", self.examples, self.threads)
        yield Job("study", "keskar2017", where, 0, self.threads)


def place_of(job: Job) -> tuple[Size, torch.device]:
    """Return the size and the device of a job.

    >>> place_of(Job("loop", "f1", "batch 32, small on cpu", 1, 1))
    ('small', device(type='cpu'))
    """
    size, _, device = job.tool.rpartition(", ")[2].partition(" on ")
    return ("large" if size == "large" else "small"), torch.device(device)


# Products.


def products(job: Job) -> Row:
    """Return the relative error of a product along each path, against float64 on the CPU."""
    _, device = place_of(job)
    torch.manual_seed(0)
    model = NETWORKS[job.network]()
    batches = [(torch.randn(n, 1, 28, 28), torch.randint(10, (n,))) for n in (17, 7)]
    mode = "batch" if job.network.startswith("BatchNorm") else "frozen"
    truth = HessianOperator(Loss(model, cross_entropy, batches, norm=mode, dtype=torch.float64))
    v = random_unit_vector(truth.size, 0, torch.float64, torch.device("cpu"))
    wanted = truth.matvec(v)
    loss = Loss(model.to(device), cross_entropy, _to(batches, device), norm=mode)
    own = v.to(device=device, dtype=torch.float32)
    entries = []
    for path in PATHS:
        if path == "compiled" and job.network == "LSTM":
            continue  # two minutes of compiling on two cores
        found, note = _product(loss, own, path, device)
        error = norm(found.cpu().double() - wanted) / norm(wanted)
        allowed = ALLOWED.get(path, ROUNDING)
        right = {"allowed": allowed, "right": error <= allowed}
        entries.append({"path": path, "relative error": error, **right, "note": note})
    return {"entries": entries}


BACKENDS: dict[str, dict[str, Any]] = {
    "rebuilt": {"cache": 0},
    "differences": {"backend": "finite_difference"},
    "compiled": {"backend": "compiled"},
}


def _product(loss: Loss, v: Tensor, path: str, device: torch.device) -> tuple[Tensor, str | None]:
    """Return a product, and what became of the compiled program: autograd's is taken where that is faster."""
    low = torch.bfloat16 if device.type == "cpu" else torch.float16
    outside = torch.autocast(device.type, dtype=low) if path == "autocast outside" else contextlib.nullcontext()
    with outside, tensor_float_32(path == "TF32 outside"):
        operator = HessianOperator(loss, **BACKENDS.get(path, {}))
        operator.matvec(v)
        # The second one takes the graphs that the first one kept.
        return operator.matvec(v), operator.facts.get("compiled")


def _to(batches: Sequence[Batch], device: torch.device) -> list[Any]:
    return [
        {name: each.to(device) for name, each in batch.items()}
        if isinstance(batch, dict)
        else tuple(each.to(device) for each in batch)
        for batch in batches
    ]


# Eigenvalues.


def ours(problem: Problem, device: torch.device) -> Row:
    result = TopEigenvalues()(problem.loss())
    ends = {"lower": result.lower, "upper": result.upper}
    return {"eigenvalue": result.value, **ends, "products": result.num_hvps, "backend": result.hvp_backend}


def by_pyhessian(problem: Problem, device: torch.device) -> Row:
    if device.type == "mps":
        raise InputError("expected a CPU or CUDA for PyHessian, got mps: it knows no other")
    model, criterion, batches = as_pairs(problem)
    measure = peer("pyhessian").hessian(model, criterion, dataloader=batches, cuda=device.type == "cuda")
    values, _ = measure.eigenvalues(maxIter=100, tol=1e-3, top_n=1)
    return {"eigenvalue": float(values[0])}


def by_curvlinops(problem: Problem, device: torch.device) -> Row:
    import numpy as np
    from scipy.sparse.linalg import eigsh

    model, _, batches = as_pairs(problem)
    parameters = [each for each in model.parameters() if each.requires_grad]
    operator = peer("curvlinops").HessianLinearOperator(model, nn.CrossEntropyLoss(), parameters, batches)
    start = np.random.default_rng(0).standard_normal(operator.shape[0]).astype(np.float32)
    solve: Any = eigsh
    values = solve(operator.to_scipy(dtype=np.float32), k=1, which="LA", tol=1e-2, v0=start, return_eigenvectors=False)
    return {"eigenvalue": float(values[0])}


TOOLS: dict[str, Callable[[Problem, torch.device], Row]] = {
    "ours": ours,
    "PyHessian": by_pyhessian,
    "curvlinops with eigsh": by_curvlinops,
}


def eigenvalue(job: Job) -> Row:
    """Return the largest eigenvalue by one tool, with seconds and peak memory of the device."""
    size, device = place_of(job)
    problem = BIG[job.network](size)
    problem = Problem(problem.model.to(device), problem.criterion, _to(problem.batches, device), problem.norm)
    tool = TOOLS[job.tool.partition(", ")[0]]
    if device.type != "cuda":
        found, cost = measured(lambda: tool(problem, device))
        return found | cost
    began = time.perf_counter()
    found, peak = on_device(lambda: tool(problem, device), device)
    return found | {"seconds": time.perf_counter() - began, "peak_bytes": peak}


# Training.


def loop(job: Job) -> Row:
    """Return the images per second of our loop and of the barest one, in turns."""
    _, device = place_of(job)
    batch = int(job.tool.partition(", ")[0].removeprefix("batch "))
    dataset = load_dataset("fashion_mnist_10k", num_train=job.examples).to(device)
    config, count = config_of(job.network, batch), max(2, 2000 // batch)
    with tempfile.TemporaryDirectory() as folder:
        contenders = {
            "ours": our_updates(session_of(config, dataset, Path(folder) / "run", device), count),
            "bare": bare_updates(config, dataset, count, device=device),
        }
        waiting = {name: lambda call=call: on_device(call, device) for name, call in contenders.items()}
        peaks = {f"{name}_peak_bytes": call()[1] for name, call in waiting.items()}
        seconds = interleaved(waiting, ROUNDS)
    speeds = {f"{name} (images/s)": [count * batch / each for each in times] for name, times in seconds.items()}
    ratios = [bare / own for own, bare in zip(seconds["ours"], seconds["bare"], strict=True)]
    return speeds | peaks | {"ours / bare": ratios, "batch": batch}


def on_device(call: Callable[[], Result], device: torch.device) -> tuple[Result, int | None]:
    """Return what a call returns once the device has finished it, and its peak memory there; ``None`` for a CPU.

    The memory is what the device held above that before the call.
    """
    if device.type != "cuda":
        return call(), None
    torch.cuda.reset_peak_memory_stats(device)
    before = torch.cuda.memory_allocated(device)
    found = call()
    torch.cuda.synchronize(device)
    return found, torch.cuda.max_memory_allocated(device) - before


def study(job: Job) -> Row:
    """Return the seconds of the main job on the device, or of its smoke form."""
    size, device = place_of(job)
    preset = "cpu" if size == "large" else "smoke"
    with tempfile.TemporaryDirectory() as folder:
        where = ["--runs", f"{folder}/runs", "--figures", f"{folder}/figures"]
        command = [sys.executable, "scripts/keskar2017.py", "--preset", preset, "--device", str(device), *where]

        def run() -> None:
            subprocess.run(command, cwd=ROOT, check=True, capture_output=True, text=True)

        return {"preset": preset, "seconds": seconds_of(run)}


# The report.


PARTS = {
    "products": Part(
        products,
        "Products on the device against float64 on the CPU",
        "One random direction; the second product of each operator, which takes the graphs that the first one kept.",
        "network | path | relative error | allowed | right",
    ),
    "eigenvalue": Part(
        eigenvalue,
        "The largest eigenvalue of large networks with random weights",
        "ours: certified to 1 % at 99 %; PyHessian: power iteration, tol 1e-3; curvlinops: SciPy's eigsh, tol 1e-2. "
        "Memory is that of the device above what network and data take; on a CPU, that of the process.",
        "network | tool | eigenvalue | interval | products | seconds | peak (MiB): peak_bytes",
    ),
    "loop": Part(
        loop,
        "The training loop against the barest one",
        f"f1 with Adam; {ROUNDS} rounds in turns. Memory is all that is taken on a GPU, data included.",
        "network | batch | ours (images/s) | bare (images/s) | ours / bare | ours (MiB): ours_peak_bytes"
        " | bare (MiB): bare_peak_bytes",
    ),
    "study": Part(study, "The main job", "Training, measuring and drawing.", "network | preset | seconds"),
}


def measure(job: Job, runs: Path) -> Row:
    """Return the numbers of one job, and which device it was."""
    _, device = place_of(job)
    name = torch.cuda.get_device_name(device) if device.type == "cuda" else device.type
    return {"device": name} | PARTS[job.part].measure(job)


def render(rows: Sequence[Row], out: Path) -> list[Path]:
    """Write the tables of all rows."""
    lines = {part: lines_of(rows, part) for part in PARTS}
    devices = ", ".join(dict.fromkeys(row["device"] for row in rows if "device" in row))
    return write_report(f"Device benchmark: {devices}", PARTS, lines, provenance_of(rows, rounds=ROUNDS), out)


BENCHMARK = Benchmark(__file__, __doc__, Options, measure, render)
if __name__ == "__main__":
    BENCHMARK.main()
