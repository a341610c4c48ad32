"""GPT-2 medium on a small machine: memory and time of measuring a LoRA adapter on sequences of 1,024 tokens.

The base, 355 million random weights, lies on disk in bfloat16, and an adapter of rank 8 for its attention beside it, as
PEFT saves one. Both are read as ``sharpness probe`` reads them; only the adapter's matrices are measured. Sequences,
bytes of the King James Bible, go through one by one, each a micro-batch. Products with the Hessian are differences of
gradients with fused attention, or autograd's, whose graph holds all matrices of attention. The eigenvalue is taken both
ways at a length at which autograd's graph fits, and by differences at the full length, over several sequences.

To begin: --size small takes a few seconds. Each row is kept as it finishes, in a process of its own that fails beyond
the memory allowed, so the same command goes on after a stop of any kind.
"""

# python scripts/benchmarks/big_models.py
# About an hour and a half on two cores beside other work, a third of it the eigenvalue at the full length, and 2 GB of
# disk in --runs.

from __future__ import annotations

import json
import resource
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any, Literal

sys.path.insert(0, str(Path(__file__).resolve().parents[2]))  # scripts/ is not installed

import torch
import tyro
from safetensors.torch import save_file
from torch import Tensor

from scripts.benchmarks.networks import gpt2
from scripts.benchmarks.report import Part, lines_of, provenance_of, write_report
from scripts.benchmarks.rows import Benchmark, Job, Row, SharedOptions
from scripts.benchmarks.tools import measured, resident
from sharpness.curvature import HessianOperator
from sharpness.data import load_dataset
from sharpness.errors import InputError
from sharpness.files import write_atomically
from sharpness.loss import Loss
from sharpness.measure.request import Request
from sharpness.measure.user_checkpoint import load_user_checkpoint
from sharpness.probes import TopEigenvalues
from sharpness.vectors import norm, random_unit_vector

RANK, ALPHA = 8, 16
ALLOWED = 8 << 30


@dataclass(frozen=True)
class Size:
    """Layers, heads, width, vocabulary and positions of a GPT-2, and the length at which autograd's graph fits."""

    layers: int
    heads: int
    width: int
    vocabulary: int
    positions: int
    short: int


SIZES = {"medium": Size(24, 16, 1024, 50_257, 1024, 128), "small": Size(2, 2, 32, 300, 64, 32)}


@dataclass(frozen=True, kw_only=True)
class Options(SharedOptions):
    """Measure what is missing, then render the tables."""

    size: Literal["medium", "small"] = "medium"
    """small: a network that takes seconds."""
    examples: Annotated[int, tyro.conf.arg(metavar="N")] = 2
    """Sequences of the full length, each a micro-batch; one alone is measured too."""
    runs: Path = Path("runs")
    """The network and the adapter are written to big_models/ in it."""
    figures: Path = Path("figures/benchmark_big_models")

    def check(self) -> None:
        """Raise :class:`InputError` for what would fail later."""
        super().check()
        if self.examples < 1:
            raise InputError(f"expected at least 1 sequence, got {self.examples}: two is usual")

    def jobs(self) -> Iterator[Job]:
        """Yield the jobs; the tool of a job names what is done, and at which length."""
        size = SIZES[self.size]
        long = f"fused, {size.positions} tokens"
        yield Job("prepare", self.size, "writing", 1, self.threads)
        passes = [("fused", size.positions), ("plain", size.positions), ("fused", size.short), ("autograd", size.short)]
        for way, length in [*passes, ("autograd", size.positions)]:  # the last one does not fit
            yield Job("passes", self.size, f"{way}, {length} tokens", 1, self.threads)
        yield Job("passes", self.size, long, self.examples, self.threads)
        for way in ("fused", "autograd"):
            yield Job("eigenvalue", self.size, f"{way}, {size.short} tokens", 1, self.threads)
        yield Job("eigenvalue", self.size, long, self.examples, self.threads)


# What one process measures.


def sequences(count: int, length: int) -> dict[str, Tensor]:
    """Return so many windows of the King James Bible as tokens, a byte each, for a causal model's own loss."""
    dataset = load_dataset("kjv", context=length, num_train=count, num_test=1)
    tokens = dataset.train.inputs.flatten(1).long()
    return {"input_ids": tokens, "labels": tokens.clone()}


def prepare(job: Job, runs: Path) -> Row:
    """Write the base in bfloat16 and the adapter, unless they are there; return their sizes."""
    size, base, adapter = SIZES[job.network], *folders(job, runs)

    def write() -> None:
        torch.manual_seed(0)
        model = gpt2(size.layers, size.heads, size.width, size.vocabulary, size.positions)
        model.to(torch.bfloat16).save_pretrained(base)  # type: ignore[operator]
        adapter.mkdir(parents=True, exist_ok=True)
        tensors = dict[str, Tensor]()
        for layer in range(size.layers):
            name = f"base_model.model.transformer.h.{layer}.attn.c_attn"
            tensors[f"{name}.lora_A.weight"] = torch.randn(RANK, size.width) / size.width**0.5
            tensors[f"{name}.lora_B.weight"] = torch.randn(3 * size.width, RANK) / size.width**0.5
        save_file(tensors, adapter / "adapter_model.safetensors")
        settings = {"peft_type": "LORA", "base_model_name_or_path": str(base.resolve()), "r": RANK}
        settings |= {"lora_alpha": ALPHA, "target_modules": ["c_attn"], "fan_in_fan_out": True}
        write_atomically(adapter / "adapter_config.json", json.dumps(settings).encode())

    if not (adapter / "adapter_config.json").is_file():
        write()
    written = {"base_bytes": base / "model.safetensors", "adapter_bytes": adapter / "adapter_model.safetensors"}
    return {name: path.stat().st_size for name, path in written.items()} | {"dtype": "bfloat16"}


def folders(job: Job, runs: Path) -> tuple[Path, Path]:
    """Return where base and adapter of a job's size lie."""
    return runs / "big_models" / f"gpt2-{job.network}", runs / "big_models" / f"adapter-{job.network}"


def place_of(job: Job) -> tuple[str, int]:
    """Return the way of a job and its length in tokens.

    >>> place_of(Job("passes", "small", "fused, 64 tokens", 2, 1))
    ('fused', 64)
    """
    way, _, length = job.tool.partition(", ")
    return way, int(length.removesuffix(" tokens"))


def loss_of(job: Job, runs: Path) -> Loss:
    """Return the loss of the adapter, read and looked at as the command line does, a sequence in each micro-batch."""
    way, length = place_of(job)
    _, adapter = folders(job, runs)
    data = f"scripts.benchmarks.big_models:sequences,count={job.examples},length={length}"
    request = Request(data=data, batch_size=1, fused=way == "fused")
    return load_user_checkpoint(request, adapter, torch.device("cpu")).subject.loss


def passes(job: Job, runs: Path) -> Row:
    """Return what reading, one gradient and one product take, each with the peak of the whole process."""
    way, _ = place_of(job)
    loss, reading = step("reading and looking", lambda: loss_of(job, runs))
    found = {"num_parameters": loss.layout.size, "entries": [reading]}
    quiet = loss.without_checks_of_derivatives()
    v = random_unit_vector(loss.layout.size, 0, loss.dtype, loss.device)
    if way != "autograd":
        found["entries"].append(step("gradient", lambda: quiet.grad(quiet.weights))[1])
    if way == "fused":
        operator = HessianOperator(quiet, backend="finite_difference")
        h = torch.finfo(loss.dtype).eps ** (1 / 3) * (1 + norm(loss.weights))
        found["entries"].append(step("product by differences", lambda: operator.quotient(v, h))[1])
    if way == "autograd":
        exact = HessianOperator(quiet, cache=0, backend="exact")
        found["entries"].append(step("product by autograd", lambda: exact.matvec(v))[1])
    return found


def step(name: str, call: Callable[[], Any]) -> tuple[Any, Row]:
    """Return the result of a call, and its wall and processor seconds and the peak of the process in it."""
    began = time.process_time()
    result, cost = measured(call)
    used = time.process_time() - began
    return result, {
        "step": name,
        "seconds": cost["seconds"],
        "processor (s)": used,
        "peak_bytes": resident("VmHWM"),
        "reasons": {name: reason for name, reason in cost["reasons"].items() if resident("VmHWM") is None},
    }


PRODUCTS = 6


def eigenvalue(job: Job, runs: Path) -> Row:
    """Return the largest eigenvalue after so many products with its interval, wider by the error of differences."""
    way, _ = place_of(job)
    loss = loss_of(job, runs)
    backend = "finite_difference" if way == "fused" else "exact"
    probe = TopEigenvalues(backend=backend, cache=0, num_hvps=PRODUCTS)
    result, cost = step("eigenvalue", lambda: probe(loss))
    facts = {"eigenvalue": result.value, "lower": result.lower, "upper": result.upper, "products": result.num_hvps}
    return facts | {"error": result.details()["hvp_error"], "backend": result.hvp_backend, **cost}


MEASURES: dict[str, Callable[[Job, Path], Row]] = {"prepare": prepare, "passes": passes, "eigenvalue": eigenvalue}


def measure(job: Job, runs: Path) -> Row:
    """Return the numbers of one job; what takes more memory than is allowed fails."""
    soft, hard = resource.getrlimit(resource.RLIMIT_DATA)
    resource.setrlimit(resource.RLIMIT_DATA, (ALLOWED, hard))
    try:
        return MEASURES[job.part](job, runs)
    finally:
        resource.setrlimit(resource.RLIMIT_DATA, (soft, hard))


# The report.


PARTS = {
    "prepare": Part(
        prepare,
        "What lies on disk",
        f"GPT-2 with random weights, and a LoRA adapter of rank {RANK} for the matrix of its attention in each layer.",
        "network | dtype | base (MiB): base_bytes | adapter (MiB): adapter_bytes",
    ),
    "passes": Part(
        passes,
        "Reading, a gradient and a product with the Hessian",
        "Sequences go through one at a time; peak: the most that the process had resident in this step, of "
        f"{ALLOWED >> 30} GiB of data that it may take. Reading is that of the command line: base and adapter, the "
        "data, loss at the checkpoint, and the check of the mean. A product by differences is two gradients with fused "
        "attention; by autograd the graph of the gradient is kept and differentiated again, with plain attention.",
        "network | attention and length: tool | sequences: examples | step | parameters: num_parameters | seconds | "
        "processor (s) | peak (MiB): peak_bytes",
    ),
    "eigenvalue": Part(
        eigenvalue,
        f"The largest eigenvalue after at most {PRODUCTS} products",
        "At a length at which autograd's graph fits, and at the full one by differences. The interval, at 99 %, is "
        "wider by the error of the differences, which is the change of a product from the next larger step; choosing "
        "the step takes four more differences at products 1, 2 and 4. Seconds are with the check of the derivatives.",
        "network | attention and length: tool | sequences: examples | backend | eigenvalue | interval | error | "
        "products | seconds | processor (s) | peak (MiB): peak_bytes",
    ),
}


def render(rows: Sequence[Row], out: Path) -> list[Path]:
    """Write the tables of all rows."""
    lines = {part: lines_of(rows, part) for part in PARTS}
    provenance = provenance_of(rows, rank=RANK, allowed_bytes=ALLOWED)
    return write_report("Big models on a small machine", PARTS, lines, provenance, out)


BENCHMARK = Benchmark(__file__, __doc__, Options, measure, render)

if __name__ == "__main__":
    BENCHMARK.main()
