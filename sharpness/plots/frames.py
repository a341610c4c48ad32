"""Five small typed doors to a pandas table, so that the rest deals with rows, arrays and plain values."""

from __future__ import annotations

from typing import Any, cast

import numpy as np
import pandas as pd
from numpy.typing import ArrayLike, NDArray


def rows_where(table: pd.DataFrame, **equal: object) -> pd.DataFrame:
    """Return the rows whose columns have these values.

    >>> len(rows_where(pd.DataFrame({"role": ["SB", "LB", "SB"], "seed": [0, 0, 1]}), role="SB", seed=1))
    1
    """
    mask = np.ones(len(table), dtype=bool)
    for name, value in equal.items():
        mask &= np.asarray(table[name] == value, dtype=bool)
    return rows_if(table, mask)


def rows_if(table: pd.DataFrame, mask: ArrayLike) -> pd.DataFrame:
    """Return the rows for which a mask, one truth value per row, is true.

    >>> len(rows_if(pd.DataFrame({"seed": [0, 1, 2]}), [True, False, True]))
    2
    """
    return cast(pd.DataFrame, table.loc[np.asarray(mask, dtype=bool)])


def floats(table: pd.DataFrame, name: str) -> NDArray[np.float64]:
    """Return a column as floats, NaN where it is empty."""
    return np.asarray(table[name], dtype=float)


def groups(table: pd.DataFrame, name: str) -> list[tuple[Any, pd.DataFrame]]:
    """Return each value of a column, sorted, with its rows."""
    return list(table.groupby(name, sort=True))


def records(table: pd.DataFrame) -> list[dict[str, Any]]:
    """Return the rows as dictionaries, with ``None`` for what is empty.

    >>> records(pd.DataFrame({"value": [1.5, float("nan")]}))
    [{'value': 1.5}, {'value': None}]
    """
    names = [str(name) for name in table.columns]
    columns = [_plain_values(table.iloc[:, place]) for place in range(len(names))]
    return [dict(zip(names, row, strict=True)) for row in zip(*columns, strict=True)]


def _plain_values(column: pd.Series) -> list[Any]:
    empty = column.isna()
    values = [value.item() if isinstance(value, np.generic) else value for value in column.tolist()]
    return [None if gone else value for value, gone in zip(values, empty, strict=True)] if empty.any() else values
