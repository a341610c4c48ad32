"""Runs over several seeds, drawn by seaborn: dots, a line for each seed, their mean, and its range."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np
import pandas as pd
import seaborn as sns
from matplotlib.axes import Axes
from scipy.stats import gmean

from sharpness.plots.frames import records, rows_if, rows_where
from sharpness.plots.style import Look

DASHED = (3.7, 1.6)
"""Matplotlib's pattern of ``--`` in widths of the line, as seaborn takes it."""
CROSS: dict[str, Any] = {"marker": "x", "markersize": 6, "markeredgewidth": 1.5, "linestyle": ""}
"""The end of a run that diverged."""


def hues(column: str, colors: Mapping[Any, Any]) -> dict[str, Any]:
    """Return the options of seaborn for a colour of each value of a column."""
    return {"hue": column, "hue_order": list(colors), "palette": dict(colors)}


def marks(column: str, looks: Mapping[Any, Look]) -> dict[str, Any]:
    """Return the options of seaborn for a colour and a marker of each value of a column."""
    markers = {each: look.marker for each, look in looks.items()}
    colors = hues(column, {each: look.color for each, look in looks.items()})
    return colors | {"style": column, "style_order": list(looks), "markers": markers}


def lines(column: str, looks: Mapping[Any, Look]) -> dict[str, Any]:
    """Return the options of seaborn for a colour, a marker and dashes of each value of a column."""
    dashes = {each: DASHED if look.linestyle == "--" else "" for each, look in looks.items()}
    return marks(column, looks) | {"dashes": dashes}


def scatter(ax: Axes, rows: pd.DataFrame, x: str, y: str, **style: Any) -> None:
    """Draw a small dot for each row."""
    _drawn_by(sns.scatterplot, ax, rows, x, y, **{"s": 9, "alpha": 0.6, "linewidth": 0} | style)


def each_seed(ax: Axes, rows: pd.DataFrame, x: str, y: str, **style: Any) -> None:
    """Draw a thin line for each ``seed``."""
    _drawn_by(sns.lineplot, ax, rows, x, y, units="seed", estimator=None, **{"linewidth": 0.5, "alpha": 0.5} | style)


def mean_of_seeds(ax: Axes, rows: pd.DataFrame, x: str, y: str, geometric: bool = False, **style: Any) -> None:
    """Draw the mean over the seeds, geometric for a logarithmic axis, without a band."""
    # The edges of marks are of their own colour, not white as seaborn has them.
    style = {"errorbar": None, "markeredgecolor": None, "markeredgewidth": 1.0} | style
    _drawn_by(sns.lineplot, ax, rows, x, y, estimator=_geometric if geometric else np.mean, **style)


def range_of_seeds(ax: Axes, rows: pd.DataFrame, x: str, y: str, geometric: bool = False, **style: Any) -> None:
    """Draw the mean over the seeds with a bar from the smallest value to the largest."""
    bars = {"errorbar": ("pi", 100), "err_style": "bars", "err_kws": {"elinewidth": 0.7}}
    mean_of_seeds(ax, rows, x, y, geometric, **bars, **style)


def dodged(rows: pd.DataFrame, x: str, by: str, values: Sequence[Any], apart: float = 1.08) -> pd.DataFrame:
    """Return rows with one of these values in a column, x moved by a factor for each: on a log axis bars stand apart.

    Two neighbours among the values are a factor of ``apart`` from each other, their middle is where x was.

    >>> moved = dodged(pd.DataFrame({"x": [10.0, 10.0], "way": ["a", "b"]}), "x", "way", ["a", "b"], apart=4)
    >>> list(moved["x"])
    [5.0, 20.0]
    """
    factors = {each: apart ** (place - (len(values) - 1) / 2) for place, each in enumerate(values)}
    own = rows_if(rows, rows[by].isin(list(values)))
    return own.assign(**{x: [at * factors[each] for at, each in zip(own[x], own[by], strict=True)]})


def without_offsets(rows: pd.DataFrame, column: str) -> pd.DataFrame:
    """Return rows in which a column is without what a ``seed`` shifts in all of them: its mean less that of all.

    What is left of the spread over seeds is that of differences within a seed, by which ways on the same seeds are
    compared (Cousineau 2005). Every seed must have the same rows.

    >>> shifted = pd.DataFrame({"seed": [0, 0, 1, 1], "loss": [1.0, 2.0, 5.0, 6.0]})
    >>> list(without_offsets(shifted, "loss")["loss"])
    [3.0, 4.0, 3.0, 4.0]
    """
    values = rows[column]
    return rows.assign(**{column: values - values.groupby(rows["seed"]).transform("mean") + values.mean()})


def runs_and_means(ax: Axes, table: pd.DataFrame, x: str, y: str, by: str, looks: Mapping[Any, Look]) -> None:
    """Draw the rows of line ``run`` thin, those of line ``mean`` bold, and a cross where a diverged run ends."""
    runs, means = rows_where(table, line="run"), rows_where(table, line="mean").dropna(subset=[y])
    each_seed(ax, runs, x, y, **hues(by, {each: look.color for each, look in looks.items()}), alpha=0.4)
    for row in records(rows_where(runs, status="diverged").dropna(subset=[y]).groupby([by, "seed"]).tail(1)):
        ax.plot(row[x], row[y], color=looks[row[by]].color, zorder=4, **CROSS)
    mean_of_seeds(ax, means, x, y, **lines(by, looks), markevery=max(1, len(set(means["epoch"])) // 6))


def _geometric(values: Any) -> float:
    """Return the geometric mean within the range of the values: rounding would take it out where they are equal.

    >>> bool(gmean([16.0] * 5) < 16), _geometric([16.0] * 5)
    (True, 16.0)
    """
    return float(np.clip(gmean(values), np.min(values), np.max(values)))


def _drawn_by(draw: Callable[..., Any], ax: Axes, rows: pd.DataFrame, x: str, y: str, **options: Any) -> None:
    labels = {"xlabel": ax.get_xlabel(), "ylabel": ax.get_ylabel()}
    draw(rows, x=x, y=y, legend=False, ax=ax, **options)
    ax.set(**labels)  # seaborn writes the names of the columns there
