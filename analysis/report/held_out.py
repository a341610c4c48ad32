"""Runs over a grid of learning rates: the rate is chosen on held-out text of the other seeds, and judged on test text.

``place`` is the place of a run's rate in its grid; a seed has no part in the choice of the rate that it is judged at.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np
import pandas as pd

from analysis.statistics.intervals import Interval, incomplete, paired_difference
from sharpness.plots.frames import floats, groups, rows_if, rows_where

CHANCE = math.log(256)
"""The loss of a guess among 256 bytes, in nats, which a run that diverged counts as, and any that is worse."""


def outcomes(runs: pd.DataFrame, names: Sequence[str]) -> pd.DataFrame:
    """Return these columns, both losses among them, of the runs that came to an end, losses at most that of a guess."""
    ended = rows_if(runs, [status != "missing" for status in runs["status"]])
    table = pd.DataFrame({name: ended[name] for name in names})
    losses = {name: np.nan_to_num(floats(table, name), nan=CHANCE) for name in ("validation_loss", "test_loss")}
    return table.assign(**{name: np.minimum(values, CHANCE) for name, values in losses.items()})


def best_place(rows: pd.DataFrame) -> int | None:
    """Return the place in the grid of the rate with the lowest mean held-out loss, of equals the smallest.

    >>> best_place(pd.DataFrame({"place": [0, 1, 1], "validation_loss": [2.0, 1.0, 2.0]}))
    1
    """
    means = [(float(floats(own, "validation_loss").mean()), place) for place, own in groups(rows, "place")]
    return min(means)[1] if means else None


def at_chosen_rate(rows: pd.DataFrame, choosing: pd.DataFrame) -> pd.DataFrame:
    """Return the runs of each seed at the best rate of the *other* seeds' runs in ``choosing``."""
    found = list[pd.DataFrame]()
    for seed, own in groups(rows, "seed"):
        place = best_place(rows_if(choosing, choosing["seed"] != seed))
        if place is not None:
            found.append(rows_where(own, place=place))
    return pd.concat(found) if found else rows.head(0)


def difference_of_seeds(first: pd.Series, second: pd.Series) -> Interval:
    """Return the mean of second - first, numbers by seed, over the seeds; none where a seed lacks one."""
    both = pd.DataFrame({"first": first, "second": second})
    pair = floats(both, "first"), floats(both, "second")
    return incomplete(*pair) or paired_difference(*pair)
