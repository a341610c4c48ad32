"""JSON from files nobody vouches for: one object, each key once."""

from __future__ import annotations

import json
from collections import Counter
from typing import Any

from sharpness.errors import InputError


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
            raise InputError(f"expected each key of {what} once, got {twice[:80]!r} twice: save it again")
        return found

    try:
        parsed = json.loads(content.decode(), object_pairs_hook=once)
    except InputError:
        raise
    except (ValueError, RecursionError) as error:
        raise InputError(f"expected {what} in JSON, got: {error}: fetch or save it again") from error
    if not isinstance(parsed, dict):
        raise InputError(f"expected {what} as a JSON object, got a {type(parsed).__name__}: fetch or save it again")
    return parsed
