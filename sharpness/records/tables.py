"""Records as tables that travel: tidy rows, HTML for notebooks and pages, Markdown."""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping, Sequence
from html import escape
from typing import TYPE_CHECKING, Any

from sharpness.records.rows import SAMPLING, Row, rows_of

if TYPE_CHECKING:  # a record shows itself by these tables
    from sharpness.records.probe_record import ProbeRecord

COSTS = ("num_hvps", "num_gradients", "num_forwards", "seconds")
SETTINGS = ("num_examples", "dtype", "norm", "weight_decay", "device", "seed", "data_sha256", "checkpoint_sha256")
FLOATS = ("value", "lower", "upper", "confidence", "residual", "seconds", "weight_decay")
FLOATS += ("sampling_lower", "sampling_upper", "sampling_confidence", "learning_rate", "beta2", "updates", "examples")
FLOATS += tuple(f"{name}_{when}" for name in ("value", "lower", "upper") for when in ("before", "after"))
WHOLE = ("num_hvps", "num_gradients", "num_forwards", "seed", "num_examples", "index", "batch_size", "warmup_updates")
TRUE_OR_FALSE = ("converged", "moved")
HEADS = ("measure", "value", "interval", "at", "HVPs", "s")


def tidy_rows(records: Iterable[ProbeRecord]) -> list[dict[str, Any]]:
    """Return a row for each number of each record: the number, its interval, what it cost and what it is of.

    ``index`` counts the numbers of one record, such as its eigenvalues; what the record cost and the interval over the
    choice of examples stand with the first of them. ``knobs`` are JSON.

    >>> from sharpness.records import ProbeRecord
    >>> rows = tidy_rows([ProbeRecord(probe="distance", quantity="distance_from_start", value=3.0)])
    >>> [(row["quantity"], row["value"]) for row in rows]
    [('distance_from_start', 3.0)]
    """
    return [row for record in records for row in _tidy(record)]


def _tidy(record: ProbeRecord) -> list[dict[str, Any]]:
    sampling = record.sampling or {}
    settings = {name: getattr(record, name) for name in SETTINGS}
    settings |= {"knobs": json.dumps(dict(record.knobs), sort_keys=True), "reason": record.reasons.get("value")}
    first = {name: getattr(record, name) for name in ("residual", *COSTS)}
    first |= {f"sampling_{name}": sampling.get(name) for name in ("lower", "upper", "confidence")}
    rows = []
    for index, row in enumerate(row for row in rows_of(record) if row.quantity != SAMPLING):
        number = {"probe": record.probe, "quantity": row.quantity, "index": index, "value": row.number}
        bounds = {"lower": row.lower, "upper": row.upper, "confidence": record.confidence}
        done = {"yes": True, "no": False}.get(row.converged, record.converged)
        own = first if index == 0 else dict.fromkeys(first)
        rows.append({**number, **bounds, "converged": done, **own, **settings})
    return rows


def frame_of(rows: Sequence[Mapping[str, Any]]) -> Any:
    """Return rows as a pandas table; whole numbers that may be missing are ``Int64``."""
    import pandas as pd  # takes half a second that nobody who reads records has to wait

    table = pd.DataFrame(rows)
    types = dict.fromkeys(WHOLE, "Int64") | dict.fromkeys(FLOATS, float) | dict.fromkeys(TRUE_OR_FALSE, "boolean")
    return table.astype({name: kind for name, kind in types.items() if name in table})


def cells_of(record: ProbeRecord) -> list[list[str]]:
    """Return the texts of the table of one record, a line for each number; costs stand in the first."""
    costs = [str(record.num_hvps or ""), "" if record.seconds is None else f"{record.seconds:.2g}"]
    lines = []
    for i, row in enumerate(rows_of(record)):
        value = _value(row)
        lines.append([row.quantity.strip(), value, row.interval, row.confidence, *(["", ""] if i else costs)])
    return lines


def _value(row: Row) -> str:
    if row.number is None:
        return "none" if row.value else ""
    return f"{row.value}*" if row.converged == "no" else row.value


def one_line(record: ProbeRecord) -> str:
    """Return the quantity, its value with the interval, and what it cost.

    >>> from sharpness.records import ProbeRecord
    >>> one_line(ProbeRecord(probe="trace", quantity="trace", value=9.0, lower=8.0, upper=10.0, num_hvps=20))
    'trace 9 [8, 10], 20 HVPs'
    """
    (quantity, value, interval, sure, products, seconds), *more = cells_of(record)
    text = " ".join(part for part in (quantity, value, interval, f"at {sure}" if sure else "") if part)
    numbers = [line for line in more if line[1]]
    text += f" and {len(numbers)} more" if numbers else ""
    return text + (f", {products} HVPs" if products else "") + (f", {seconds} s" if seconds else "")


def html_table(records: Iterable[ProbeRecord], caption: str = "") -> str:
    """Return an HTML table with a line for each number; what comes from records is escaped."""
    return grid_html(HEADS, [line for record in records for line in cells_of(record)], caption)


def grid_html(heads: Iterable[str], lines: Iterable[Sequence[str]], caption: str = "") -> str:
    """Return an HTML table of texts under their heads, all but the first column to the right.

    >>> grid_html(["of"], [["a<b"]])
    '<table><thead><tr><th>of</th></tr></thead><tbody><tr><td style="text-align:left">a&lt;b</td></tr></tbody></table>'
    """
    head = "".join(f"<th>{escape(name)}</th>" for name in heads)
    title = f"<caption>{escape(caption)}</caption>" if caption else ""
    return f"<table>{title}<thead><tr>{head}</tr></thead><tbody>{''.join(map(_html_line, lines))}</tbody></table>"


def _html_line(cells: Sequence[str]) -> str:
    first, *others = map(escape, cells)
    numbers = "".join(f'<td style="text-align:right">{cell}</td>' for cell in others)
    return f'<tr><td style="text-align:left">{first}</td>{numbers}</tr>'


def facts_html(facts: Mapping[str, Any], caption: str = "") -> str:
    """Return an HTML table of names and what they are.

    >>> facts_html({"a<b": 1})
    '<table><tbody><tr><th>a&lt;b</th><td>1</td></tr></tbody></table>'
    """
    lines = "".join(f"<tr><th>{escape(str(k))}</th><td>{escape(str(v))}</td></tr>" for k, v in facts.items())
    title = f"<caption>{escape(caption)}</caption>" if caption else ""
    return f"<table>{title}<tbody>{lines}</tbody></table>"


def markdown_table(records: Iterable[ProbeRecord]) -> str:
    """Return a table of Markdown with a line for each number."""
    lines = [f"| {' | '.join(HEADS)} |", f"| --- |{' ---: |' * (len(HEADS) - 1)}"]
    for record in records:
        lines += [f"| {' | '.join(_plain(cell) for cell in line)} |" for line in cells_of(record)]
    return "\n".join(lines)


def _plain(cell: str) -> str:
    return cell.replace("\\", "\\\\").replace("|", "\\|").replace("*", "\\*").replace("<", "&lt;").replace("\n", " ")
