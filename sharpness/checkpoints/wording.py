"""Names and foreign errors as the one line of a message holds them: files decide what they say."""

from __future__ import annotations

import contextlib
from collections.abc import Collection, Iterator
from itertools import islice
from pathlib import Path

from sharpness.errors import InputError

LONGEST = 80


def shown(names: Collection[object], limit: int = 3) -> str:
    r"""Return the first names, short and on one line, with the number of the others.

    >>> shown(["fc.weight", "fc.bias\n", "a", "b", "c"])
    "fc.weight, 'fc.bias\\n', a and 2 more"
    """
    first = ", ".join(_printable(str(name)) for name in islice(names, limit))
    return first + (f" and {len(names) - limit} more" if len(names) > limit else "")


def _printable(name: str) -> str:
    short = name if len(name) <= LONGEST else f"{name[:LONGEST]}..."
    return short if short.isprintable() and short else repr(short)


@contextlib.contextmanager
def naming(path: Path) -> Iterator[None]:
    """Put the path in front of every :class:`InputError` raised inside."""
    try:
        yield
    except InputError as error:
        error.args = (f"{path}: {error}",)
        raise


@contextlib.contextmanager
def about(path: Path, what: str) -> Iterator[None]:
    """Do as :func:`naming` does, and turn the errors of other libraries that read the file into one line.

    ``what`` is what the file was expected to be. Everything that comes out is an :class:`InputError`.
    """
    try:
        with naming(path):
            yield
    except InputError:
        raise
    except Exception as error:  # zipfile, torch and safetensors raise many kinds for a damaged file
        reason = _printable(" ".join(f"{type(error).__name__}: {error}".split())[:200])
        raise InputError(
            f"{path}: expected {what}, got a file that cannot be read as one ({reason}): fetch or save it again"
        ) from error
