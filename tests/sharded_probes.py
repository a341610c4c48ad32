"""Run every probe on a small network and print the records: in one process, or by torchrun with a shard in each."""

from __future__ import annotations

import json
import os
import sys
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.nn import functional as F

from sharpness.errors import InputError, RunError
from sharpness.landscapes import LANDSCAPES
from sharpness.loss import Loss
from sharpness.measure.subject import MEASURABLE
from sharpness.probes import TopEigenvalues, Trace

SHARDS = {"uneven": [[5], [2, 2]], "one empty": [[5, 2, 2], []]}


class Hungry:
    """A criterion that runs out of memory for more than three examples, on the first process only."""

    def __call__(self, output: Tensor, target: Tensor) -> Tensor:
        if len(target) > 3 and int(os.environ.get("RANK", "0")) == 0:
            raise torch.OutOfMemoryError("CUDA out of memory")
        return F.cross_entropy(output, target)


class Broken:
    """A criterion that fails where there are five examples."""

    def __call__(self, output: Tensor, target: Tensor) -> Tensor:
        value = F.cross_entropy(output, target)
        return value * float("nan") if len(target) == 5 else value


ONE_PROCESS = {"gradient_noise", "batch_sharpness", "learning_coefficient", "preconditioned_sharpness", "connectivity"}
ONE_PROCESS |= {"interaction", "geodesic_sharpness", "preconditioned_noise"}
"""Probes of single examples or random batches, which are refused in several processes, and that of attention."""

SMALL = {
    "adaptive_radius": {"num_gradients": 4},
    "average_case": {"num_pairs": 6},
    "density": {"steps": 10, "starts": 2},
    "diagonal": {"exact_up_to": 0, "num_hvps": 8},
    "drift": {"num_hvps": 6, "num_measured": 2},
    "eigen_plane": {"num_points": 3, "rtol": 0.1},
    "generalised_sharpness": {"num_starts": 2},
    "keskar_maximum": {"num_starts": 2, "num_gradients": 60},
    "occam": {"steps": 10, "starts": 2},
    "pac_bayes": {"num_pairs": 2, "rtol": 0.3},
    "rays": {"num_rays": 3, "num_points": 4},
    "relative_flatness": {"num_hvps": 20},
    "rounding": {"bits": (8, 3), "num_hvps": 6},
    "trace": {"num_hvps": 24},
    "worst_case": {"steps": 4},
}
"""Few questions of the probes that ask the other process most often: each one wakes both."""


def measure(batches: list[Any], model: nn.Module, folder: Path) -> dict[str, Any]:
    """Return the records of all probes, and of some with other knobs."""
    records: dict[str, Any] = {}
    for name, info in MEASURABLE.items():
        if name in ONE_PROCESS:
            continue
        norm = "recalibrate" if name in LANDSCAPES else "frozen"
        loss = Loss(model, F.cross_entropy, batches, norm=norm, dtype=torch.float64)
        if name == "layers":  # cross-entropy has eigenvalues at 0, where rounding decides when a solve ends
            targets = [(x, F.one_hot(y, 3).to(x)) for x, y in batches]
            loss = Loss(model, F.mse_loss, targets, dtype=torch.float64)
        small = SMALL.get(name, {"num_points": 4} if name in LANDSCAPES else {})
        others = [(1.1 + i) * loss.weights + 0.1 * (i + 1) for i in range(len(info.points) - 1)]
        others += [2 * others[0] + 0.2] if "trajectory" in info.points else []
        records[name] = info.probe(**small)(loss, loss.weights, *others).to_record().to_dict()
    loss = Loss(model, F.cross_entropy, batches, dtype=torch.float64)
    for matrix in ("gauss_newton", "fisher", "empirical_fisher"):
        records[matrix] = TopEigenvalues(matrix=matrix)(loss).to_record().to_dict()
    decayed = Loss(model, F.cross_entropy, batches, weight_decay=0.5, dtype=torch.float64)
    records["penalised"] = TopEigenvalues()(decayed).to_record().to_dict()
    value, gradient = decayed.value_and_grad(decayed.weights)
    records["penalised"]["at"] = [value, decayed.value(decayed.weights), *gradient.tolist()]
    by_batch = Loss(model, F.cross_entropy, batches, norm="batch", dtype=torch.float64)
    records["batch statistics"] = TopEigenvalues()(by_batch).to_record().to_dict()
    small = Loss(model, Hungry(), batches, dtype=torch.float64)
    records["halved"] = TopEigenvalues()(small).to_record().to_dict()
    kinked = nn.Sequential(model, nn.Softplus(), nn.Hardsigmoid()).double()
    fallback = Trace(method="hutchinson", num_hvps=20)(Loss(kinked, F.cross_entropy, batches, dtype=torch.float64))
    records["fallback"] = {"backend": fallback.hvp_backend}
    records["resumed"] = resumed(loss, folder)
    try:
        TopEigenvalues()(Loss(model, Broken(), batches, dtype=torch.float64))
    except (InputError, RunError) as error:
        records["failed"] = "finite loss" in str(error)
    return records


def resumed(loss: Loss, folder: Path) -> dict[str, Any]:
    """Return a record of a solve that went on after its last product was lost, on the first process only."""
    TopEigenvalues()(loss, resume=folder)
    if int(os.environ.get("RANK", "0")) == 0:
        max(folder.rglob("product_*.safetensors")).unlink()
    if dist.is_initialized():
        dist.barrier()
    return TopEigenvalues()(loss, resume=folder).to_record().to_dict()


def main(name: str, folder: Path) -> None:
    rank = int(os.environ.get("RANK", "-1"))
    if rank >= 0:
        dist.init_process_group("gloo")
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(4, 5), nn.BatchNorm1d(5), nn.Tanh(), nn.Linear(5, 3)).double()
    x, y = torch.randn(9, 4, dtype=torch.float64), torch.randint(3, (9,))
    sizes = SHARDS[name]
    every = [size for shard in sizes for size in shard]
    pairs = list(zip(x.split(every), y.split(every), strict=True))
    first = len(sizes[0])
    batches = pairs if rank < 0 else pairs[:first] if rank == 0 else pairs[first:]
    records = measure(batches, model, folder)
    if rank <= 0:
        print(json.dumps(records))
    if rank >= 0:
        dist.destroy_process_group()


if __name__ == "__main__":
    main(sys.argv[1], Path(sys.argv[2]))
