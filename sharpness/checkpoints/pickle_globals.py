"""Names that a pickle may refer to only if the user allows them, and names that nobody may allow."""

from __future__ import annotations

import importlib
import inspect
import sys
from collections.abc import Callable, Iterable
from typing import Any

from sharpness.errors import InputError

DENIED_BY_KIND = {
    "the system and its processes": "os posix nt sys subprocess _posixsubprocess signal resource platform pty tty "
    "fcntl multiprocessing _multiprocessing concurrent threading _thread asyncio sched select selectors atexit gc",
    "files": "io _io _pyio shutil tempfile mmap posixpath ntpath glob fileinput linecache logging tarfile zipfile gzip "
    "bz2 lzma sqlite3 dbm shelve argparse.FileType mailbox readline",
    "the network": "socket _socket ssl socketserver http urllib urllib3 requests ftplib smtplib poplib imaplib xmlrpc "
    "wsgiref webbrowser antigravity",
    "code": "importlib _frozen_importlib _frozen_importlib_external imp pkgutil runpy zipimport zipapp code codeop cmd "
    "ast compileall py_compile symtable inspect types ctypes _ctypes cffi pdb bdb profile cProfile trace traceback "
    "timeit doctest unittest test pytest pydoc idlelib turtle tkinter rlcompleter site sitecustomize usercustomize "
    "sysconfig venv ensurepip pip setuptools distutils pkg_resources",
    "other pickles": "pickle _pickle pickletools copyreg marshal dill cloudpickle joblib codecs _codecs",
    "what calls or fetches whatever it is given": "builtins operator _operator functools _functools contextlib weakref "
    "_weakref numpy torch sharpness",
}
DENIED = frozenset(name for names in DENIED_BY_KIND.values() for name in names.split())
"""Modules, and names in them, that are refused whoever asks, with everything below them but ``HARMLESS``."""
HARMLESS_BY_MODULE = {
    "builtins": "bool bytearray bytes complex dict float frozenset int list range set slice str tuple",
    "types": "SimpleNamespace",
    "numpy": "dtype dtypes ndarray bool bool_ float16 float32 float64 int8 int16 int32 int64 uint8 uint16 uint32 "
    "uint64 str_ core.multiarray.scalar _core.multiarray.scalar core.multiarray._reconstruct "
    "_core.multiarray._reconstruct",
    "torch.nn.modules": "activation batchnorm conv linear loss normalization",
    "torch": "optim torch_version.TorchVersion",
}
HARMLESS = frozenset(f"{module}.{name}" for module, names in HARMLESS_BY_MODULE.items() for name in names.split())
"""Names below a denied one that only hold data, or are classes that checkpoints name among their settings."""


def is_denied(name: str) -> bool:
    """Whether a name may never be allowed: the longest of its beginnings that is listed decides.

    >>> [name for name in ("os.path.join", "builtins.eval", "builtins.int", "argparse.Namespace") if is_denied(name)]
    ['os.path.join', 'builtins.eval']
    """
    parts = name.split(".")
    for length in range(len(parts), 0, -1):
        beginning = ".".join(parts[:length])
        if beginning in HARMLESS or beginning in DENIED:
            return beginning in DENIED
    return False


def refuse_denied(names: Iterable[str]) -> None:
    """Raise :class:`InputError` for a name that may not be allowed, before anything is imported."""
    for name in names:
        if is_denied(name):
            _refuse(name)


def _refuse(name: str) -> None:
    raise InputError(
        f"expected names of plain data classes to allow, got {name}, which is never allowed: "
        "save the model's state_dict() as safetensors where the file was made"
    )


def import_allowed(names: Iterable[str]) -> list[Callable[..., Any] | tuple[Callable[..., Any], str]]:
    """Return what the names stand for, as :class:`torch.serialization.safe_globals` takes it.

    Only ever call it with names that the user typed. Raises :class:`InputError` for a name that is denied, that cannot
    be found, that is no class and no function of a module, or that is another name for something denied.
    """
    names = list(names)
    refuse_denied(names)
    allowed: list[Callable[..., Any] | tuple[Callable[..., Any], str]] = [(_find(name), name) for name in names]
    if "numpy.dtype" in names:  # each dtype is built as an instance of a class of its own, which no file names
        import numpy.dtypes as kinds

        allowed += [(getattr(kinds, kind), f"numpy.dtypes.{kind}") for kind in dir(kinds) if kind.endswith("DType")]
    return allowed


def _find(name: str) -> Any:
    parts = name.split(".")
    for length in range(len(parts) - 1, 0, -1):
        try:
            found: Any = importlib.import_module(".".join(parts[:length]))
        except ImportError:
            continue
        for part in parts[length:]:
            found = getattr(found, part, None)
        # A function inside a class is a method, and methods do things: Path.unlink.
        if not inspect.isclass(found) and (not callable(found) or length < len(parts) - 1):
            break
        real = f"{getattr(found, '__module__', None) or '.'.join(parts[:length])}.{getattr(found, '__qualname__', '')}"
        # The functions of the standard library do things too; its data are classes.
        if is_denied(real) or (not inspect.isclass(found) and real.partition(".")[0] in sys.stdlib_module_names):
            _refuse(name)
        return found
    raise InputError(f"expected a class or a function that can be imported to allow, got {name!r}: check its name")
