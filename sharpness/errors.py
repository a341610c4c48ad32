"""The ways a command can end early, and the sentence for an unknown name (standard library only)."""

from __future__ import annotations

import signal
from collections.abc import Iterable
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
