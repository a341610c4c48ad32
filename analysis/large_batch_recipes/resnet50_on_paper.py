"""ResNet-50 on ImageNet in 122 seconds, on paper: what each step may take, and what a model of the machine gives."""

from __future__ import annotations

import math

import pandas as pd

from analysis.large_batch_recipes.allreduce import ALLREDUCE, Cluster, step_seconds
from analysis.report.numbers import ABSENT, significant
from analysis.report.report import TextTable

PARAMETERS = 25_557_032
"""The parameters of ResNet-50 with its 1000 classes, as torchvision builds it."""
EXAMPLES, EPOCHS = 1_281_167, 90
"""Training images of ImageNet 2012, and the epochs of Goyal et al. 2017."""
CLUSTER = Cluster(seconds_per_example=1 / 500, seconds_per_step=2e-3, bandwidth=10e9, latency=5e-6, bytes_per_number=2)
"""Assumed, not measured: 500 images per second and worker, gradients in half precision, links of 10 GB/s."""
REPORTED = {"Goyal et al. 2017": (256, 8192, 3600.0)}
"""Workers, batch and seconds that a paper reports: 256 GPUs, one hour."""
SECONDS = 122.0
"""Mikami et al. 2018 (arXiv 1811.05233), abstract; workers and batch below are ours."""
PROJECTED = ((256, 8192), (1024, 32768), (2048, 32768), (4096, 32768), (4096, 65536))
"""Workers and batches that the model is asked for."""


def steps_of(batch: int, epochs: float = EPOCHS) -> int:
    """Return the number of steps in which ImageNet is seen so many times.

    >>> steps_of(8192), steps_of(32768)
    (14076, 3519)
    """
    return math.ceil(epochs * EXAMPLES / batch)


def paper_rows() -> pd.DataFrame:
    """Return the rows: what was reported, and for 122 s and others what the model gives for workers and batch."""
    rows = []
    for name, (workers, batch, seconds) in REPORTED.items():
        rows.append({"row": name, "workers": workers, "batch": batch, "seconds": seconds})
    for workers, batch in PROJECTED:
        steps = steps_of(batch)
        per_step = {name: step_seconds(name, batch, workers, PARAMETERS, CLUSTER) for name in ALLREDUCE}
        projected = {f"{name} seconds": steps * value for name, value in per_step.items()}
        rows.append({"row": f"{SECONDS:g} s", "workers": workers, "batch": batch, "seconds": SECONDS} | projected)
    table = pd.DataFrame(rows)
    table["steps"] = [steps_of(batch) for batch in table["batch"]]
    table["step_milliseconds"] = 1e3 * table["seconds"] / table["steps"]
    table["images_per_worker"] = EPOCHS * EXAMPLES / table["seconds"] / table["workers"]
    return table


def paper_table() -> TextTable:
    """Return the table of what a step may take for a reported time, and what the model projects."""
    table, text = paper_rows(), []
    for row in table.to_dict("records"):
        times = [row[f"{name} seconds"] for name in ALLREDUCE]
        text.append(
            [
                *(str(row[name]) for name in ("row", "workers", "batch", "steps")),
                *(significant(row[name], 3) for name in ("step_milliseconds", "images_per_worker")),
                *(ABSENT if math.isnan(seconds) else significant(seconds, 3) for seconds in times),
            ]
        )
    header = ["in", "workers", "batch", "steps", "ms per step", "images/s and worker", *(f"{n} (s)" for n in ALLREDUCE)]
    caption = (
        f"ResNet-50 ({PARAMETERS:,} parameters) on {EXAMPLES:,} images for {EPOCHS} epochs. First row: one hour as "
        f"Goyal et al. report it. Others: the {SECONDS:g} s of Mikami et al.'s abstract, on workers and batches of "
        "our choice with those epochs: what a step may then take and what each worker must do (left), and what the "
        f"model gives on so many (right): {CLUSTER}. Nothing here was run."
    )
    return TextTable("resnet50_on_paper", "ResNet-50 in 122 seconds, on paper", header, text, table, caption)
