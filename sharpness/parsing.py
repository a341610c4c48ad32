"""JSON and TOML that nobody vouches for: of bounded size and depth, what is wrong in one line.

It needs the standard library only.
"""

from __future__ import annotations

import json
import tomllib
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any, NoReturn

from sharpness.errors import InputError

MAX_BYTES = 16 << 20
"""The largest file that is read as one JSON object; what is written here is far smaller."""
MAX_TOML = 64 << 10
"""Bytes of TOML: its parser takes time that grows with the square of the dots in a key."""
MAX_DEPTH = 100
"""Levels of lists and tables: what is deeper is no data, and whoever walks through it runs out of stack."""
LONGEST = 80


def read_bounded(path: Path, what: str, most: int = MAX_BYTES) -> bytes:
    """Return the bytes of a small file; :class:`InputError` where it has more than ``most`` or, like a device, no end.

    Raises ``OSError`` for a file that cannot be read.
    """
    with open(path, "rb") as stream:
        content = stream.read(most + 1)
    if len(content) > most:
        raise InputError(f"{path}: expected {what} of at most {most} bytes, got more: name another file")
    return content


def read_object(path: Path, what: str) -> dict[str, Any]:
    """Return the one JSON object of a small file; :class:`InputError` that names it for anything else."""
    content = read_bounded(path, what)
    try:
        return parse_object(content, what)
    except InputError as error:
        raise InputError(f"{path}: {error}") from error


def parse_toml(text: str) -> dict[str, Any]:
    """Return the tables of a text in TOML; ``ValueError`` with the reason for any other text.

    >>> parse_toml("a = [1, 2]")
    {'a': [1, 2]}
    >>> parse_toml("a = " + 5000 * "[")
    Traceback (most recent call last):
    ValueError: it is nested too deeply
    """
    if len(text) > MAX_TOML:
        raise ValueError(f"it has more than {MAX_TOML} characters")
    return _shallow(lambda: tomllib.loads(text), text.count("[") + text.count("{") + text.count("."))


def parse_json(
    content: bytes, hook: Callable[[list[tuple[str, Any]]], Any] | None = None, *, finite: bool = True
) -> Any:
    """Return what a text in JSON says; ``ValueError`` with the reason for any other text.

    With ``finite`` the words NaN and Infinity, which Python writes but JSON has not, are refused too.

    >>> parse_json(b'{"a": NaN}')
    Traceback (most recent call last):
    ValueError: it holds NaN, which is no number of JSON
    """

    def parse() -> Any:
        constant = _refuse_constant if finite else None
        return json.loads(content.decode(), object_pairs_hook=hook, parse_constant=constant)

    return _shallow(parse, content.count(b"[") + content.count(b"{"))


def parse_object(content: bytes, what: str) -> dict[str, Any]:
    """Return the one JSON object of a file; :class:`InputError` for anything else, or a key that is there twice.

    >>> parse_object(b'{"a": 1, "a": 2}', "an index")
    Traceback (most recent call last):
    sharpness.errors.InputError: expected each key of an index once, got 'a' twice: save it again
    """

    def once(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
        found = dict(pairs)
        if len(found) < len(pairs):
            twice = Counter(name for name, _ in pairs).most_common(1)[0][0]
            raise InputError(f"expected each key of {what} once, got {twice[:LONGEST]!r} twice: save it again")
        return found

    try:
        parsed = parse_json(content, once, finite=False)  # Hugging Face's configs hold Infinity
    except InputError:
        raise
    except ValueError as error:
        raise InputError(f"expected {what} in JSON, got: {error}: fetch or save it again") from error
    if not isinstance(parsed, dict):
        raise InputError(f"expected {what} as a JSON object, got a {type(parsed).__name__}: fetch or save it again")
    return parsed


def shown_value(value: object) -> str:
    """Return a value as code has it, short and on one line, whatever it is.

    >>> shown_value([1, "a"]), len(shown_value("a" * 5000)), shown_value(16**5000)
    ("[1, 'a']", 83, 'an int too long to print')
    """
    try:
        text = repr(value)
    except (ValueError, RecursionError):
        return f"an {type(value).__name__} too long to print"
    return text if len(text) <= LONGEST else f"{text[:LONGEST]}..."


def _refuse_constant(name: str) -> NoReturn:
    raise ValueError(f"it holds {name}, which is no number of JSON")


def _shallow(parse: Callable[[], Any], most: int) -> Any:
    """Return what is parsed, which is at most so many levels deep; ``ValueError`` where it is too many."""
    try:
        parsed = parse()
    except RecursionError:
        raise ValueError("it is nested too deeply") from None
    if most > MAX_DEPTH:
        level = [parsed]
        for _ in range(MAX_DEPTH + 1):
            inner = [each.values() if isinstance(each, dict) else each for each in level]
            level = [each for children in inner for each in children if isinstance(each, dict | list)]
            if not level:
                return parsed
        raise ValueError("it is nested too deeply")
    return parsed
