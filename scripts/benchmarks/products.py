"""The cost of products where they are dear: BatchNorm, all layers, a large vocabulary, and whether compiling one pays.

Each number is a ratio within one process, on one thread, of processor time or of memory: the median of the turns, with
the smallest and the largest, which a busy machine moves little. C1 and a network of six linear layers, both with
BatchNorm; the Hessian of cross-entropy by its logits, of 512 predictions of a token.
"""

# python scripts/benchmarks/products.py --examples 200
# About six minutes of one core.

from __future__ import annotations

import copy
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from statistics import median

sys.path.insert(0, str(Path(__file__).resolve().parents[2]))  # scripts/ is not installed

import torch
import tyro
from torch import Tensor, nn
from torch.nn.functional import cross_entropy

from scripts.benchmarks.networks import images
from scripts.benchmarks.tools import measured
from sharpness.curvature import HessianOperator
from sharpness.curvature.likelihoods import criterion_hessian, hessian_by_outputs
from sharpness.loss import Loss
from sharpness.models.fully_connected import f1
from sharpness.models.keskar_conv import c1
from sharpness.probes import LayerEigenvalues, TopEigenvalues

KEEP_ALL = 1 << 40
SHAPE = (1, 28, 28)
PREDICTIONS, VOCABULARY = 512, 50_304
"""A tenth of a GB of logits, of GPT-2's vocabulary rounded up to a multiple of 64."""


@dataclass(frozen=True)
class Options:
    """Print the ratios."""

    examples: int = 200
    turns: int = 5


class Torchs(nn.Module):
    """BatchNorm on the parameters and statistics of a layer, called as torch's function."""

    def __init__(self, norm: nn.BatchNorm1d | nn.BatchNorm2d) -> None:
        super().__init__()
        self.norm = norm

    def forward(self, x: Tensor) -> Tensor:
        norm = self.norm
        training = norm.training
        statistics = (None, None) if training else (norm.running_mean, norm.running_var)
        return nn.functional.batch_norm(x, *statistics, norm.weight, norm.bias, training, 0.0, norm.eps)


def ratios(loss: Loss, turns: int) -> list[float]:
    """Return the processor time of a product on kept graphs over that of a gradient, turn by turn."""
    operator = HessianOperator(loss, cache=KEEP_ALL)
    v = torch.ones_like(loss.weights)
    operator.matvec(v)
    loss.grad(loss.weights)
    return [spent(lambda: operator.matvec(v)) / spent(lambda: loss.grad(loss.weights)) for _ in range(turns)]


def spent(work: Callable[[], object]) -> float:
    """Return the processor seconds of a call."""
    began = time.process_time()
    work()
    return time.process_time() - began


def both_c1() -> tuple[nn.Module, nn.Module]:
    """Return C1, and with the same weights one whose BatchNorm is not taken in closed form."""
    torch.manual_seed(0)
    ours = c1(SHAPE, 10, "running")
    layers = copy.deepcopy(ours).children()
    return ours, nn.Sequential(*(Torchs(m) if isinstance(m, nn.BatchNorm1d | nn.BatchNorm2d) else m for m in layers))


def norm_costs(options: Options) -> dict[str, list[float]]:
    """Return the ratios of C1 on batch and on running statistics, in closed form and by torch's own operations."""
    (ours, torchs), found = both_c1(), {}
    for norm in ("batch", "frozen"):
        for name, model in (("closed form", ours), ("torch's", torchs)):
            loss = Loss(model, cross_entropy, images(options.examples), norm=norm)
            found[f"C1, {norm} statistics, {name}"] = ratios(loss, options.turns)
    return found


def layer_costs(options: Options) -> dict[str, list[float]]:
    """Return the processor time of the eigenvalues of all layers over that of the whole matrix."""
    found = {}
    for label, build in (("F1", f1), ("C1", c1)):
        torch.manual_seed(0)
        model, data = build(SHAPE, 10, "running"), images(options.examples)
        optimizer = torch.optim.SGD(model.parameters(), lr=0.05, momentum=0.9)
        for x, y in [*data] * 15:
            optimizer.zero_grad()
            cross_entropy(model(x), y).backward()
            optimizer.step()
        for kept, cache in (("kept", KEEP_ALL), ("rebuilt", 0)):
            loss = Loss(model, cross_entropy, data, norm="batch")
            loss.self_check()
            whole = spent(lambda loss=loss, cache=cache: TopEigenvalues(cache=cache)(loss))
            layers = spent(lambda loss=loss, cache=cache: LayerEigenvalues(cache=cache)(loss))
            found[f"{label}, {len(loss.layout.layers())} layers, graphs {kept}"] = [layers / whole]
    return found


def vocabulary_costs(options: Options) -> dict[str, list[float]]:
    """Return the peak memory of a product with the Hessian by the logits over the memory of these."""
    generator = torch.Generator().manual_seed(0)
    z, t = torch.randn(2, PREDICTIONS, VOCABULARY, generator=generator)
    y = torch.randint(VOCABULARY, (PREDICTIONS,), generator=generator)
    found: dict[str, list[float]] = {}
    for name, by_outputs in (("closed form", hessian_by_outputs), ("by autograd", criterion_hessian)):
        for _ in range(options.turns):
            _, row = measured(lambda by_outputs=by_outputs: by_outputs(cross_entropy, z, y)(t))
            if row["peak_bytes"] is not None:
                found.setdefault(name, []).append(row["peak_bytes"] / (z.numel() * z.element_size()))
    return found


def compiled(options: Options) -> dict[str, str]:
    """Return what became of one compiled product of F1 and of C1, and the seconds until that was known."""
    found = {}
    for label, build in (("F1", f1), ("C1", c1)):
        torch.manual_seed(0)
        loss = Loss(build(SHAPE, 10, "running"), cross_entropy, images(options.examples))
        began = time.perf_counter()
        operator = HessianOperator(loss, backend="compiled")
        operator.matvec(torch.ones_like(loss.weights))
        found[label] = f"{operator.facts['compiled']}, known after {time.perf_counter() - began:.0f} s"
    return found


def show(title: str, found: Mapping[str, Sequence[float]]) -> None:
    """Print one line for each."""
    print(title)
    for name, values in found.items():
        print(f"  {name:<40} {median(values):5.2f} ({min(values):.2f} to {max(values):.2f})", flush=True)


def main(options: Options) -> None:
    """Measure and print."""
    torch.set_num_threads(1)
    show("a product on kept graphs, in gradients", norm_costs(options))
    show("eigenvalues of all layers, in solves of the whole matrix", layer_costs(options))
    show(f"memory of a product at {VOCABULARY:,} classes, in logits", vocabulary_costs(options))
    print("one compiled program of the whole product, used?")
    for name, text in compiled(options).items():
        print(f"  {name}: {text}", flush=True)


if __name__ == "__main__":
    main(tyro.cli(Options, description=__doc__))
