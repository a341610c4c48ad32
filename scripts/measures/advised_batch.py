"""The batch size that noise scales advise, held against the steps and examples that trainings really took.

``python -m scripts.measures.advised_batch`` reads the committed tables of the study of McCandlish et al. 2018: the
noise scale along its runs, and the steps to a training loss by batch size, each at its best learning rate. For the
batch advised it prints by how many more examples than the smallest batch the fitted curve says that training takes.
"""

from __future__ import annotations

import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from analysis.mccandlish2018.numbers import front
from analysis.statistics.hyperbolas import hyperbolas
from sharpness.measure.batch_rules import PERFECT, Settings, advice
from sharpness.plots.frames import floats, rows_where
from sharpness.probes.methods.noise_statistics import Measured

TABLES = Path(__file__).parents[2] / "figures" / "mccandlish2018" / "cpu-5-seeds"
SCALES = ("B_simple at the initial weights", "B_simple, mean until the goal")


def main(tables: Path = TABLES) -> None:
    """Print the advice of each noise scale and what the fitted curve says of its batch."""
    fewest, least, critical = fitted(tables)
    print(f"fitted: {fewest:.0f} updates at least, {least:.0f} examples at least, B_crit {critical:.1f}")
    for row in compared(tables):
        print(
            f"{row['scale']}: {row['noise_scale']:.0f} [{row['lower']:.0f}, {row['upper']:.0f}], advised batch "
            f"{row['batch_size']}, which costs {row['overhead']:.0%} more examples by the curve (10 % were allowed) "
            f"and {row['updates']:.1f} times the fewest updates"
        )
    for size, examples, predicted in measured_and_predicted(tables):
        print(f"batch {size}: {examples:.0f} examples measured, {predicted:.0f} by the curve")


def fitted(tables: Path = TABLES) -> tuple[float, float, float]:
    """Return S_min, E_min and B_crit of the steps to the goal, at the best learning rate of each batch size."""
    best = front(rows_where(pd.read_csv(tables / "runs.csv", low_memory=False), arm="front"))
    sizes, logs = floats(best, "batch_size"), np.log(floats(best, "steps_to_result"))
    found = np.exp(hyperbolas(sizes, logs[None], np.ones((1, len(sizes)))))
    (fewest,), (least,), (critical,) = found.tolist()
    return fewest, least, critical


def compared(tables: Path = TABLES) -> list[Mapping[str, Any]]:
    """Return for each noise scale its interval, the batch advised, and its costs by the fitted curve."""
    scales, (_, _, critical) = pd.read_csv(tables / "batch_sizes.csv"), fitted(tables)
    rows = list[Mapping[str, Any]]()
    for name in SCALES:
        value, lower, upper = (float(floats(rows_where(scales, quantity=name), end)[0]) for end in ENDS)
        found = advice(Settings(optimizer="sgd"), {"Euclidean": Measured(value, lower, upper)})
        size = next(choice.batch_size for choice in found.choices if choice.name == PERFECT) or 1
        costs = {"overhead": size / critical, "updates": 1 + critical / size}
        rows.append({"scale": name, "noise_scale": value, "lower": lower, "upper": upper, "batch_size": size, **costs})
    return rows


ENDS = ("value", "lower", "upper")


def measured_and_predicted(tables: Path = TABLES) -> list[tuple[int, float, float]]:
    """Return batch size, examples to the goal as measured, and as the fitted curve has them."""
    table, (fewest, least, _) = pd.read_csv(tables / "front.csv"), fitted(tables)
    each = zip(floats(table, "batch_size"), floats(table, "examples"), strict=True)
    return [(int(size), examples, least + fewest * size) for size, examples in each]


if __name__ == "__main__":
    main(*map(Path, sys.argv[1:]))
