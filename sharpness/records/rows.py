"""Rows of a table from a record: one for each number, with both ends or the error of each."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:  # a record shows itself by these rows
    from sharpness.records.probe_record import ProbeRecord

ERRORS = ("standard_error", "trace_standard_error")
SAMPLING = "  choice of examples"
"""The name of the row of an interval over other examples."""


@dataclass(frozen=True)
class Row:
    """One number: its name, value, interval or error, and whether it converged, as text; then the numbers."""

    quantity: str
    value: str
    interval: str
    confidence: str
    converged: str
    number: float | None
    lower: float | None = None
    upper: float | None = None


def rows_of(record: ProbeRecord) -> list[Row]:
    """Return a row for each eigenvalue of a record, or for its value, and one for an interval over other examples.

    >>> from sharpness.records import ProbeRecord
    >>> record = ProbeRecord(probe="eigenvalues", quantity="top_eigenvalue", value=3.0, lower=3.0, upper=3.1,
    ...                      converged=True, details={"eigenvalues": [3.0, 1.0], "lowers": [3.0, 1.0]})
    >>> [(row.quantity, row.interval) for row in rows_of(record)]
    [('top_eigenvalue 1', '[3, 3.1]'), ('top_eigenvalue 2', '[1, ?]')]
    """
    return [*(list(_eigenvalues(record)) or [_of_value(record)]), *_of_sampling(record)]


def value_text(record: ProbeRecord) -> str:
    """Return the value with five digits, or that there is none and why."""
    if record.value is None:
        return f"null ({record.reasons.get('value', 'no reason recorded')})"
    return f"{record.value:.5g}"


def interval_text(record: ProbeRecord) -> str:
    """Return the interval, the standard error, and whether the value is exact, as far as they are known.

    >>> from sharpness.records import ProbeRecord
    >>> interval_text(ProbeRecord(probe="trace", quantity="trace", value=9.0, lower=8.0, upper=10.0))
    '[8, 10]'
    """
    error = next((record.details[name] for name in ERRORS if record.details.get(name)), None)
    shown = [bracket] if (bracket := _bracket(record.lower, record.upper)) else []
    shown += [] if error is None else [f"± {error:.2g}"]
    exact = record.details.get("exact") is True or (not shown and "exact" in record.reasons.get("lower", ""))
    return " ".join(["exact", *shown] if exact else shown)


def warnings_of(record: ProbeRecord) -> Sequence[str]:
    """Return what a record warns of, one sentence each."""
    found = record.details.get("warnings")
    return [str(each) for each in found] if isinstance(found, list | tuple) else []


def _bracket(lower: Any, upper: Any) -> str:
    ends = ["?" if bound is None else f"{bound:.5g}" for bound in (lower, upper)]
    return "" if lower is None and upper is None else f"[{ends[0]}, {ends[1]}]"


def _of_value(record: ProbeRecord) -> Row:
    interval = interval_text(record)
    sure = _percent(record.confidence) if "[" in interval else ""
    converged = _converged(record, interval)
    numbers = record.value, record.lower, record.upper
    return Row(record.quantity, value_text(record), interval, sure, converged, *numbers)


def _percent(confidence: float | None) -> str:
    return "" if confidence is None else f"{100 * confidence:.4g} %"


def _converged(record: ProbeRecord, interval: str) -> str:
    """Return yes or no, and nothing where no interval shows what converged."""
    if record.converged is False:
        return "no"
    return "yes" if record.converged and interval and "?" not in interval else ""


def _eigenvalues(record: ProbeRecord) -> Iterator[Row]:
    """Yield a row for each eigenvalue, those of layers under the names of the layers."""
    layers = record.details.get("layers")
    if isinstance(layers, list) and layers and all("eigenvalues" in layer for layer in layers):
        for layer in layers:
            yield from _of_solve(layer, f"{layer['name']}: {layer.get('which', '')}", record, alone=True)
    elif record.details.get("eigenvalues"):
        yield from _of_solve(record.details, record.quantity, record, alone=False)


def _of_solve(solve: Mapping[str, Any], name: str, record: ProbeRecord, *, alone: bool) -> Iterator[Row]:
    """Yield the rows of one solve; the first eigenvalue of a record that stands ``alone`` has its interval from it."""
    values = solve["eigenvalues"]
    lowers, uppers = (solve.get(end) or [None] * len(values) for end in ("lowers", "uppers"))
    lowers, uppers = ([*ends, *[None] * (len(values) - len(ends))] for ends in (lowers, uppers))
    if not alone:
        lowers[0], uppers[0] = record.lower, record.upper  # these have more in them where targets were drawn
    number_top = (len(values) + 1) // 2 if "both" in name else len(values)
    allowed = record.knobs.get("rtol") or 0.0
    for i, (value, lower, upper) in enumerate(zip(values, lowers, uppers, strict=True)):
        end = name.replace("both", "top" if i < number_top else "bottom")
        rank = (i if i < number_top else i - number_top) + 1
        many = number_top > 1 or (len(values) > 1 and "both" not in name)
        bracket = _bracket(lower, upper)
        width = None if lower is None or upper is None else upper - lower
        narrow = width is not None and width <= allowed * abs(value)
        done = narrow or solve.get("converged", record.converged)
        converged = "no" if not done else "yes" if width is not None else _residual(solve, i)
        sure = _percent(record.confidence) if bracket else ""
        yield Row(f"{end} {rank}" if many else end, f"{value:.5g}", bracket, sure, converged, value, lower, upper)


def _residual(solve: Mapping[str, Any], i: int) -> str:
    """Return the residual that the solve stopped on where it proved no interval."""
    residuals = solve.get("residuals")
    return f"residual {residuals[i]:.1g}" if residuals else ""


def _of_sampling(record: ProbeRecord) -> Iterator[Row]:
    sampling = record.sampling
    if sampling:
        bracket = _bracket(sampling.get("lower"), sampling.get("upper"))
        yield Row(SAMPLING, "", bracket, _percent(sampling.get("confidence")), "", None)
