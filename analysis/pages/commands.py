"""How the commands of the analysis end: one line and a code, as the commands of the library do, without loading it."""

from __future__ import annotations

import sys
from collections.abc import Callable

from sharpness.errors import InputError, RunError


def run_pages(command: Callable[[], None]) -> None:
    """Call a command and turn its errors into a line and a code: 2 for bad input and paths, 1 for a failed run."""
    try:
        command()
    except InputError as error:
        _leave(str(error), 2)
    except RunError as error:
        _leave(str(error), 1)
    except OSError as error:
        _leave(f"{error.filename or ''}: {error.strerror or error}", 2)


def _leave(message: str, code: int) -> None:
    print(f"error: {message}", file=sys.stderr)
    sys.exit(code)
