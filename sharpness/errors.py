"""The ways a command can end early, the line and code it then ends with, and the sentence for an unknown name.

It needs the standard library only.
"""

from __future__ import annotations

import contextlib
import errno
import os
import signal
import sys
import traceback
from collections.abc import Callable, Iterable
from difflib import get_close_matches
from pathlib import Path
from typing import TextIO

BAD_PATH = {
    errno.ENOENT,
    errno.ENOTDIR,
    errno.EISDIR,
    errno.EEXIST,
    errno.EACCES,
    errno.EPERM,
    errno.ENAMETOOLONG,
    errno.ELOOP,
}
"""Errors of the system that say that a path is none, as told from those of a disk or a device."""


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
    if not known:
        return InputError(f"unknown {kind} {name!r}: expected none, for there are none")
    closest = get_close_matches(name, known, n=len(known), cutoff=0.4)
    ordered = closest + [other for other in known if other not in closest]
    return InputError(f"unknown {kind} {name!r}: expected one of {', '.join(ordered)}")


def run_command(command: Callable[[], None]) -> None:
    """Call a command and turn whatever it raises into one line and a code, never a traceback.

    2 bad input, 1 failed run, 130 Ctrl-C, 143 SIGTERM. An error that nobody foresaw is told with the place where it
    came up, and is a failed run. Where standard output is closed, the next file that is opened would take its number
    and what libraries print, so nothing is done then.
    """
    try:
        if sys.stdout is None or sys.stderr is None:
            raise InputError("expected open standard output and error, got a closed one: redirect it to /dev/null")
        command()
        sys.stdout.flush()
    except SystemExit as error:
        if not isinstance(error, Terminated):
            raise
        _leave(error.message, 143)
    except KeyboardInterrupt:
        _leave("stopped; what is done is kept, and the same command goes on from there", 130)
    except BaseException as error:
        if not isinstance(error, Exception) and not is_panic(error):
            raise
        _leave(*_line_and_code(error))


def is_panic(error: BaseException) -> bool:
    """Say whether an error is the panic of a parser compiled from Rust, which is no ``Exception``."""
    return type(error).__name__ == "PanicException"


def says_out_of_memory(error: BaseException) -> bool:
    """Say whether an error means that memory ran out: torch's allocator on the CPU has no type of its own."""
    phrases = ("can't allocate memory", "not enough memory", "out of memory", "STATUS_ALLOC_FAILED")
    return isinstance(error, MemoryError) or (
        isinstance(error, RuntimeError) and any(phrase in str(error) for phrase in phrases)
    )


def place_of(error: BaseException) -> str:
    """Return the file and line where an error was raised, as ``name.py:12``."""
    frame = traceback.extract_tb(error.__traceback__)[-1]
    return f"{Path(frame.filename).name}:{frame.lineno}"


def reason_of(error: BaseException) -> str:
    """Return the kind of an error and its first words, on one line.

    >>> reason_of(KeyError("width"))
    "KeyError: 'width'"
    """
    return " ".join(f"{type(error).__name__}: {error}".split())[:240]


def _line_and_code(error: BaseException) -> tuple[str, int]:
    """Return what is said of an error, and the exit code."""
    match error:
        case InputError():
            return str(error), 2
        case RunError():
            return str(error), 1
        case BrokenPipeError():
            return "standard output was closed before the end; what was measured by then is kept", 1
        case OSError():
            where = "" if error.filename is None else f"{error.filename}: "
            return f"{where}{error.strerror or error}", 2 if error.errno in BAD_PATH else 1
        case UnicodeError():
            return f"expected names and texts in UTF-8, got {reason_of(error)}: rename the file or mend the text", 2
        case _ if says_out_of_memory(error):
            return f"expected enough memory, got {reason_of(error)} ({place_of(error)}): ask for less at once", 1
        case RecursionError():
            return f"expected data of few levels, got {reason_of(error)} ({place_of(error)}): mend the nested input", 2
    return f"expected nothing of the kind, got {reason_of(error)} ({place_of(error)}): report it with the command", 1


def _leave(message: str, code: int) -> None:
    if sys.stdout is not None:
        _flush_or_abandon(sys.stdout)
    print(f"error: {' '.join(message.splitlines())}", file=sys.stderr)
    sys.exit(code)


def _flush_or_abandon(stream: TextIO) -> None:
    """Write what waits in a stream; where nobody takes it, see that it does not fail again when the process ends."""
    try:
        stream.flush()
    except OSError:
        with contextlib.suppress(OSError, ValueError):
            os.dup2(os.open(os.devnull, os.O_WRONLY), stream.fileno())
