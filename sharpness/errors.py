"""The ways a command can end early, the line and code it then ends with, and the sentence for an unknown name.

It needs the standard library only.
"""

from __future__ import annotations

import signal
import sys
from collections.abc import Callable, Iterable
from difflib import get_close_matches


class InputError(ValueError):
    """The caller gave something unusable: one line saying what was expected, what came and the cure (exit code 2)."""


class RunError(RuntimeError):
    """The input was fine and the work failed all the same: one line (exit code 1)."""


class Terminated(SystemExit):
    """SIGTERM came and the state was saved: the process ends with one line and code 143, as shells have it."""

    def __init__(self, message: str) -> None:
        super().__init__(128 + signal.SIGTERM)
        self.message = message


def unknown_name(kind: str, name: str, known: Iterable[str]) -> InputError:
    """Return the error for a name that is not in a registry, listing the known names with the closest first.

    >>> print(unknown_name("probe", "eigenvalue", ["distance", "eigenvalues", "keskar"]))
    unknown probe 'eigenvalue': expected one of eigenvalues, distance, keskar
    """
    known = sorted(known)
    closest = get_close_matches(name, known, n=len(known), cutoff=0.4)
    ordered = closest + [other for other in known if other not in closest]
    return InputError(f"unknown {kind} {name!r}: expected one of {', '.join(ordered)}")


def run_command(command: Callable[[], None]) -> None:
    """Call a command and turn its errors into a line and a code: 2 bad input, 1 failed run, 130 Ctrl-C, 143 SIGTERM."""
    try:
        command()
    except InputError as error:
        _leave(str(error), 2)
    except RunError as error:
        _leave(str(error), 1)
    except OSError as error:
        bad_path = (NotADirectoryError, IsADirectoryError, FileExistsError, FileNotFoundError, PermissionError)
        _leave(f"{error.filename or ''}: {error.strerror or error}", 2 if isinstance(error, bad_path) else 1)
    except Terminated as error:
        _leave(error.message, 143)
    except KeyboardInterrupt:
        _leave("stopped; what is done is kept, and the same command goes on from there", 130)


def _leave(message: str, code: int) -> None:
    print(f"error: {message}", file=sys.stderr)
    sys.exit(code)
