"""Run every probe on a small network and print the records: in one process, or by torchrun with a shard in each."""

from __future__ import annotations

import json
import os
import sys

import torch
import torch.distributed as dist
from torch import nn
from torch.nn import functional as F

from sharpness.determinism import check_deterministic
from sharpness.loss import Loss
from sharpness.probes import PROBES

SHARDS = {"uneven": [[5], [2, 2]], "one empty": [[5, 2, 2], []]}


def main(name: str, dtype: torch.dtype = torch.float64) -> None:
    rank = int(os.environ.get("RANK", "-1"))
    if rank >= 0:
        dist.init_process_group("gloo")
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(4, 5), nn.BatchNorm1d(5), nn.Tanh(), nn.Linear(5, 3)).to(dtype)
    x, y = torch.randn(9, 4, dtype=dtype), torch.randint(3, (9,))
    sizes = SHARDS[name]
    every = [size for shard in sizes for size in shard]
    pairs = list(zip(x.split(every), y.split(every), strict=True))
    first = len(sizes[0])
    batches = pairs if rank < 0 else pairs[:first] if rank == 0 else pairs[first:]
    records = {}
    for probe_name, info in PROBES.items():
        norm = "recalibrate" if probe_name == "interpolation" else "frozen"
        loss = Loss(model, F.cross_entropy, batches, norm=norm, dtype=dtype)
        if probe_name == "layers":  # cross-entropy has eigenvalues at 0, where rounding decides when a solve ends
            loss = Loss(model, F.mse_loss, [(x, F.one_hot(y, 3).to(dtype)) for x, y in batches], dtype=dtype)
        check_deterministic(loss)
        others = [loss.weights + 0.1 * (i + 1) for i in range(len(info.points) - 1)]
        records[probe_name] = info.probe()(loss, loss.weights, *others).to_record().to_dict()
    if rank <= 0:
        print(json.dumps(records))
    if rank >= 0:
        dist.destroy_process_group()


if __name__ == "__main__":
    main(sys.argv[1])
