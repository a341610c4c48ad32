"""One measured number with its evidence, as a line of ``probes.jsonl`` holds it (standard library only)."""

from __future__ import annotations

import functools
import math
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from types import NoneType, UnionType
from typing import Any, get_args, get_origin, get_type_hints

from sharpness.errors import InputError
from sharpness.parsing import shown_value
from sharpness.records.tables import frame_of, html_table, one_line, tidy_rows

SCHEMA = 1


@dataclass(frozen=True, kw_only=True)
class ProbeRecord:
    """One number and everything needed to judge it: interval, residual, costs, seed, dtype, hashes of its inputs.

    ``data_sha256`` is the hash of the data as the loss saw them; ``peak_memory`` is the peak of the process so far (on
    CUDA, of what it allocated there); ``weight_decay`` is the factor of the L2 penalty in the loss. A field that could
    not be measured is ``None`` and ``reasons`` says why under the field's name; a record never holds NaN or infinity.
    Losses are in nats, shares and accuracies in [0, 1], times in seconds, memory in bytes. ``lower`` and ``upper`` are
    about the examples given; ``sampling`` is an interval over the choice of examples, where they are a random sample.
    ``checkpoint_sha256`` is the hash of the weights file that was probed; ``details`` holds what only this probe has.

    >>> ProbeRecord(probe="distance", quantity="distance_from_start", value=3.0).value
    3.0
    """

    probe: str
    quantity: str
    value: float | None
    lower: float | None = None
    upper: float | None = None
    confidence: float | None = None
    residual: float | None = None
    converged: bool | None = None
    knobs: Mapping[str, Any] = field(default_factory=dict)
    num_hvps: int = 0
    num_gradients: int = 0
    num_forwards: int = 0
    seconds: float | None = None
    peak_memory: int | None = None
    seed: int | None = None
    dtype: str | None = None
    device: str | None = None
    threads: int | None = None
    num_examples: int | None = None
    norm: str | None = None
    weight_decay: float = 0.0
    batch_sizes: tuple[int, ...] | None = None
    hvp_backend: str | None = None
    parameters: Mapping[str, Any] | None = None
    data_sha256: str | None = None
    self_check: Mapping[str, str] = field(default_factory=dict)
    checkpoint_sha256: str | None = None
    versions: Mapping[str, str] = field(default_factory=dict)
    sampling: Mapping[str, Any] | None = None
    details: Mapping[str, Any] = field(default_factory=dict)
    reasons: Mapping[str, str] = field(default_factory=dict)
    schema: int = SCHEMA

    def __repr__(self) -> str:
        """Return the quantity, its value with the interval, and what it cost, where all fields would fill a page."""
        return f"<{type(self).__name__}: {one_line(self)}>"

    def _repr_html_(self) -> str:
        """Return the table that notebooks show."""
        return html_table([self])

    def to_frame(self) -> Any:
        """Return a pandas table with a row for each number, as :func:`sharpness.records.tables.tidy_rows` has it."""
        return frame_of(tidy_rows([self]))

    def to_dict(self) -> dict[str, Any]:
        """Return the record as plain JSON types; a non-finite number becomes ``None`` with a reason.

        >>> ProbeRecord(probe="p", quantity="q", value=float("nan")).to_dict()["reasons"]
        {'value': 'nan is not finite'}
        """
        reasons = dict(self.reasons)
        row = {key: _finite(value, key, reasons) for key, value in asdict(self).items() if key != "reasons"}
        return row | {"reasons": reasons}

    @classmethod
    def from_dict(cls, row: Mapping[str, Any]) -> ProbeRecord:
        """Rebuild a record from a line of ``probes.jsonl``; :class:`InputError` for a newer schema or another type.

        >>> ProbeRecord.from_dict({"probe": "p", "quantity": "q", "value": "x"})
        Traceback (most recent call last):
        sharpness.errors.InputError: expected a number or null as value, got 'x': remove that line
        """
        known = checked_fields(row)
        if known.get("batch_sizes") is not None:
            known["batch_sizes"] = tuple(known["batch_sizes"])
        return cls(**known)


def checked_fields(row: Mapping[str, Any]) -> dict[str, Any]:
    """Return the fields of a record in a line of ``probes.jsonl``, each of the type it has there.

    Raises :class:`InputError` for a newer schema, a field that is missing and one of another type.
    """
    schema = row.get("schema", 0)
    if type(schema) is not int or schema > SCHEMA:
        raise InputError(
            f"expected a record of schema {SCHEMA} or older, got {shown_value(schema)}: update the package to read it, "
            "or remove that line"
        )
    if missing := {"probe", "quantity", "value"} - row.keys():
        raise InputError(f"expected a probe record, got a line without {', '.join(sorted(missing))}: remove that line")
    kinds, known = _kinds(), dict[str, Any]()
    for name, value in row.items():
        if (kind := kinds.get(name)) is None:
            continue
        if not (type(value) in kind.types if type(value) in PLAIN and not kind.inner else kind.fits(value)):
            raise InputError(f"expected {kind.words} as {name}, got {shown_value(value)}: remove that line")
        known[name] = value
    return known


def field_words() -> dict[str, str]:
    """Return for each field what it may hold, in words.

    >>> field_words()["value"], field_words()["batch_sizes"]
    ('a number or null', 'a list of whole numbers or null')
    """
    return {name: kind.words for name, kind in _kinds().items()}


def deciding_knobs(knobs: Mapping[str, Any]) -> dict[str, Any]:
    """Return the knobs that decide a number: not how long it may take, nor what is left out.

    >>> deciding_knobs({"k": 1, "seconds": 60.0, "parameters": None})
    {'k': 1}
    """
    return {name: value for name, value in knobs.items() if name != "seconds" and value is not None}


@dataclass(frozen=True)
class Kind:
    """The types that a field of a record may have in JSON, those of what it holds, and the words for them."""

    types: frozenset[type]
    inner: frozenset[type]
    words: str

    def fits(self, value: Any) -> bool:
        """Say whether a value may stand in the field: of these types, and a number that is one of 64 bits."""
        kind = type(value)
        if kind not in self.types:
            return False
        if kind is int:
            return abs(value) < 2**63
        if kind is float:
            return math.isfinite(value)
        if not self.inner or value is None or kind is str:
            return True
        return all(type(each) in self.inner for each in (value.values() if kind is dict else value))


PLAIN = frozenset({str, bool, NoneType, dict})
"""The types of values that need no further look where what they hold is of any kind."""
WORDS = {float: "a number", int: "a whole number", bool: "true or false", str: "a text"}


@functools.cache
def _kinds() -> dict[str, Kind]:
    """Return what each field of a record may hold, as its annotation says."""
    return {name: _kind_of(hint) for name, hint in get_type_hints(ProbeRecord).items()}


def _kind_of(hint: Any) -> Kind:
    options = get_args(hint) if isinstance(hint, UnionType) else (hint,)
    null = " or null" if NoneType in options else ""
    (option,) = (option for option in options if option is not NoneType)
    inner = frozenset[type]()
    if get_origin(option) is Mapping:
        types, words = {dict}, "an object"
        inner = frozenset({str}) if get_args(option)[1] is str else inner
    elif get_origin(option) is tuple:
        types, words, inner = {list, tuple}, "a list of whole numbers", frozenset({int})
    else:
        types, words = {option, int} if option is float else {option}, WORDS[option]
    return Kind(frozenset(types | ({NoneType} if null else set())), inner, words + null)


def _finite(value: Any, path: str, reasons: dict[str, str]) -> Any:
    """Replace every non-finite float in a tree of plain types by ``None``, noting where and what it was."""
    if isinstance(value, float) and not math.isfinite(value):
        reasons.setdefault(path, f"{value} is not finite")
        return None
    if isinstance(value, Mapping):
        return {str(key): _finite(item, f"{path}.{key}", reasons) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [_finite(item, f"{path}[{i}]", reasons) for i, item in enumerate(value)]
    return value
