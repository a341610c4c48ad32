"""The batch size that noise scales advise, held against the steps and examples that trainings really took.

``python -m scripts.measures.advised_batch`` reads the committed tables of two studies. That of McCandlish et al. 2018
has the noise scale along its runs, and the steps to a training loss by batch size, each at its best learning rate. That
of Shallue et al. 2018 has six workloads, a transformer among them, with the noise scale where the best trial with
batches of 16 came to the goal, and the steps to the goal by batch size, rate and momentum searched at each. For the
batch advised it prints by how many more examples than the smallest batch the fitted curve says that training takes,
and, of Shallue's, the searches themselves, with the rate by the advisor's rule over the one that was found.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from analysis.mccandlish2018.numbers import front
from analysis.statistics.hyperbolas import hyperbolas
from sharpness.measure.batch_rules import EUCLIDEAN, PERFECT, Settings, advice
from sharpness.parsing import parse_json
from sharpness.plots.frames import floats, groups, rows_where
from sharpness.probes.methods.noise_statistics import Measured

FIGURES = Path(__file__).parents[2] / "figures"
FRONT, SEARCHES = FIGURES / "mccandlish2018" / "cpu-5-seeds", FIGURES / "shallue2018" / "cpu-5-seeds"
SCALES = ("B_simple at the initial weights", "B_simple, mean until the goal")
ENDS = ("value", "lower", "upper")
Row = Mapping[str, Any]


def main() -> None:
    """Print the advice of each noise scale, what the fitted curve says of its batch, and what was measured."""
    fewest, least, critical = fitted()
    print(f"fitted: {fewest:.0f} updates at least, {least:.0f} examples at least, B_crit {critical:.1f}")
    for row in compared():
        print(
            f"{row['scale']}: {row['noise_scale']:.0f} [{row['lower']:.0f}, {row['upper']:.0f}], advised batch "
            f"{row['batch_size']}, which costs {row['overhead']:.0%} more examples by the curve (10 % were allowed) "
            f"and {row['updates']:.1f} times the fewest updates"
        )
    for size, examples, predicted in measured_and_predicted():
        print(f"batch {size}: {examples:.0f} examples measured, {predicted:.0f} by the curve")
    for row in searched():
        print(
            f"{row['workload']}: noise scale {row['noise_scale']:.0f} [{row['lower']:.0f}, {row['upper']:.0f}], "
            f"advised batch {row['batch_size']}, which costs {row['overhead']:.0%} more examples by the curve, "
            f"{said(row['measured'], '.0%')} by the searches; rate by the rule over the one found: "
            f"{said(row['rate_advised'], '.2f')} up to the advised batch, {said(row['rate_noise'], '.2f')} up to the "
            "noise scale"
        )


def said(number: float | None, form: str) -> str:
    """Return a number in a form, and of none that it is below the batches tried.

    >>> said(0.5, ".0%"), said(None, ".0%")
    ('50%', 'not tried')
    """
    return "not tried" if number is None else format(number, form)


def advised(scale: Measured, optimizer: str) -> int:
    """Return the batch that is advised for a noise scale."""
    found = advice(Settings(optimizer=optimizer), {EUCLIDEAN: scale})
    return next(choice.batch_size for choice in found.choices if choice.name == PERFECT) or 1


def fitted(tables: Path = FRONT) -> tuple[float, float, float]:
    """Return S_min, E_min and B_crit of the steps to the goal, at the best learning rate of each batch size."""
    best = front(rows_where(pd.read_csv(tables / "runs.csv", low_memory=False), arm="front"))
    sizes, logs = floats(best, "batch_size"), np.log(floats(best, "steps_to_result"))
    found = np.exp(hyperbolas(sizes, logs[None], np.ones((1, len(sizes)))))
    (fewest,), (least,), (critical,) = found.tolist()
    return fewest, least, critical


def compared(tables: Path = FRONT) -> list[Row]:
    """Return for each noise scale its interval, the batch advised, and its costs by the fitted curve."""
    scales, (_, _, critical) = pd.read_csv(tables / "batch_sizes.csv"), fitted(tables)
    rows = list[Row]()
    for name in SCALES:
        found = rows_where(scales, quantity=name)
        value, lower, upper = (float(floats(found, end)[0]) for end in ENDS)
        size = advised(Measured(value, lower, upper), "sgd")
        costs = {"overhead": size / critical, "updates": 1 + critical / size}
        rows.append({"scale": name, "noise_scale": value, "lower": lower, "upper": upper, "batch_size": size, **costs})
    return rows


def measured_and_predicted(tables: Path = FRONT) -> list[tuple[int, float, float]]:
    """Return batch size, examples to the goal as measured, and as the fitted curve has them."""
    table, (fewest, least, _) = pd.read_csv(tables / "front.csv"), fitted(tables)
    each = zip(floats(table, "batch_size"), floats(table, "examples"), strict=True)
    return [(int(size), examples, least + fewest * size) for size, examples in each]


def searched(tables: Path = SEARCHES) -> list[Row]:
    """Return for each workload the noise scale with its interval, the batch advised, and what it costs.

    ``overhead`` is that by the critical batch of the fitted curve, ``measured`` that of the searches
    (:func:`overhead_of`). ``rate_advised`` and ``rate_noise`` are the rates that the rule makes of the one found at the
    smallest batch, over those found at the largest batch tried up to the advised one and up to the noise scale.
    """
    workloads, steps = pd.read_csv(tables / "workloads.csv"), pd.read_csv(tables / "steps.csv")
    of = parse_json((tables / "steps.json").read_bytes())["settings"]["workloads"]
    rows = list[Row]()
    for name, own in groups(workloads, "workload"):
        noise = rows_where(own, what="noise scale")
        value, lower, upper = (float(floats(noise, end)[0]) for end in ENDS)
        critical = float(floats(rows_where(own, what="critical batch"), "value")[0])
        optimizer, table = of[name]["optimizer"], rows_where(steps, workload=name)
        size = advised(Measured(value, lower, upper), optimizer)
        row = {"workload": name, "noise_scale": value, "lower": lower, "upper": upper, "batch_size": size}
        row |= {"overhead": size / critical, "measured": overhead_of(table, size)}
        row["rate_advised"] = rate_over_found(table, optimizer, size)
        rows.append(row | {"rate_noise": rate_over_found(table, optimizer, value)})
    return rows


def overhead_of(steps: pd.DataFrame, batch_size: float) -> float | None:
    """Return by which share a batch took more examples than the smallest one tried, between two on a log-log line.

    None where the batch is not between those tried.

    >>> steps = pd.DataFrame({"batch_size": [1, 4, 16], "steps": [64.0, 16.0, 8.0]})
    >>> [overhead_of(steps, size) for size in (4, 8, 16, 32)]
    [0.0, 0.41..., 1.0, None]
    """
    sizes = floats(steps, "batch_size")
    if not sizes.min() <= batch_size <= sizes.max():
        return None
    examples = np.log(sizes * floats(steps, "steps"))
    at = float(np.interp(np.log(batch_size), np.log(sizes), examples))
    return float(np.exp(at - examples[0]) - 1)


def rate_over_found(steps: pd.DataFrame, optimizer: str, largest: float) -> float | None:
    """Return the rate by the rule over the one found, at the largest batch tried up to ``largest``.

    The rule begins at the smallest batch; None where that is the only one. Rates are effective ones, ``lr / (1 - m)``.

    >>> steps = pd.DataFrame({"batch_size": [1, 4, 16], "effective_rate": [0.1, 0.4, 0.8]})
    >>> [rate_over_found(steps, "sgd", largest) for largest in (2, 8, 16)]
    [None, 1.0, 2.0]
    """
    sizes, rates = floats(steps, "batch_size"), floats(steps, "effective_rate")
    tried = int(np.sum(sizes <= largest)) - 1
    if tried < 1:
        return None
    first = Settings(optimizer=optimizer, batch_size=int(sizes[0]), learning_rate=float(rates[0]))
    return float(first.scaled_rate(sizes[tried]) / rates[tried])


if __name__ == "__main__":
    main()
