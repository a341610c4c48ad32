"""Code of the user's own: imported by the name that was typed, its errors told in one line."""

from __future__ import annotations

import contextlib
import hashlib
import importlib
import os
import sys
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType
from typing import Any

from sharpness.config.spec import IMPORTABLE
from sharpness.errors import InputError, RunError, is_panic, place_of, reason_of, unknown_name
from sharpness.machine.memory import is_out_of_memory


def import_object(path: str, what: str) -> Any:
    """Return what ``package.module:object`` names, looked for in the working folder too, behind all that is installed.

    A ``json.py`` or ``scipy.py`` that lies in the working folder, which may have been downloaded, is so never taken for
    the library. This runs the module's code: only ever call it with what the user typed, never with the contents of a
    file.
    Raises :class:`InputError` where there is no such module or object.
    """
    if IMPORTABLE.fullmatch(path) is None:
        raise InputError(f"expected {what} as package.module:object, got {path!r}")
    module_name, _, name = path.partition(":")
    if os.getcwd() not in sys.path:  # a console script has its own folder there instead
        sys.path.append(os.getcwd())
    with users_own(path):
        try:
            module = importlib.import_module(module_name)
        except ImportError as error:
            raise InputError(f"expected {what} in {path}, but {module_name} cannot be imported: {error}") from error
    if not hasattr(module, name):
        names = [n for n in vars(module) if not n.startswith("_")]
        hidden = _hidden_file(module_name, module)
        raise InputError(f"{path}: {unknown_name('object', name, names)}{hidden}")
    return getattr(module, name)


def source_sha256(spec: str) -> str | None:
    """Return the SHA-256 of the file that ``package.module:object,option=...`` was imported from, ``None`` without one.

    >>> source_sha256("hf:folder"), source_sha256("sharpness.errors:InputError,a=1") is not None
    (None, True)
    """
    path = spec.partition(",")[0]
    module = sys.modules.get(path.partition(":")[0]) if IMPORTABLE.fullmatch(path) else None
    file = getattr(module, "__file__", None)
    return hashlib.sha256(Path(file).read_bytes()).hexdigest() if file and Path(file).is_file() else None


def _hidden_file(module_name: str, module: ModuleType) -> str:
    """Say where the working folder has a file for the module too, which an installed one of its name comes before."""
    own, found = Path(f"{module_name.replace('.', '/')}.py").absolute(), getattr(module, "__file__", None)
    if not own.is_file() or (found is not None and Path(found).resolve() == own.resolve()):
        return ""
    return f" (an installed module has the name of {own.name} here and comes first: rename the file)"


@contextlib.contextmanager
def users_own(text: str, expected: str = "code that runs", cure: str = "mend it there") -> Iterator[None]:
    """Turn whatever the code that a user named raises into one line with its place, unless memory ran out.

    >>> with users_own("my.models:make"):
    ...     raise KeyError("width")
    Traceback (most recent call last):
    sharpness.errors.InputError: my.models:make: expected code that runs, got KeyError: 'width' (...): mend it there
    """
    try:
        yield
    except (InputError, RunError):
        raise
    except BaseException as error:
        if is_out_of_memory(error) or not (isinstance(error, Exception) or is_panic(error)):
            raise
        raise InputError(f"{text}: expected {expected}, got {reason_of(error)} ({place_of(error)}): {cure}") from error
