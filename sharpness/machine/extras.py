"""Optional libraries: imported where they are needed, never asked for the network."""

from __future__ import annotations

import contextlib
import importlib
import os
import warnings
from collections.abc import Iterator
from typing import Any

from sharpness.errors import InputError
from sharpness.machine.torchvision import cure, hidden_torchvision, load_torchvision

NEED_TORCHVISION = ("timm", "torchvision", "transformers")


def extra(module: str, name: str) -> Any:
    """Return an optional library; where it is missing, :class:`InputError` with the command that installs it.

    timm and transformers load torchvision, which :mod:`sharpness.machine.torchvision` makes the best of.
    """
    top = module.partition(".")[0]
    broken = load_torchvision() if top in NEED_TORCHVISION else ""
    if broken and top != "transformers":
        raise InputError(f"expected a torchvision that fits this torch, got an error as it loads ({broken}): {cure()}")
    try:
        with warnings.catch_warnings(), hidden_torchvision(broken):
            warnings.simplefilter("ignore")
            library: Any = importlib.import_module(module)
            if module == "transformers":
                library.logging.set_verbosity_error()  # it wonders aloud about losses and special tokens
            return library
    except ImportError as error:
        raise InputError(
            f"expected {top} to be installed, but it cannot be imported ({error}): pip install 'sharpness[{name}]'"
        ) from error
    except RuntimeError as error:
        text = " ".join(str(error).split())[:120]
        raise InputError(
            f"expected a {top} that fits this torch, got an error as it loads ({text}): "
            "install the release that belongs to it"
        ) from error


@contextlib.contextmanager
def offline() -> Iterator[None]:
    """Forbid Hugging Face's libraries the network while the context lasts, if they were not loaded before."""
    names = ("HF_HUB_OFFLINE", "TRANSFORMERS_OFFLINE", "HF_DATASETS_OFFLINE")
    before = {name: os.environ.get(name) for name in names}
    os.environ.update(dict.fromkeys(names, "1"))
    try:
        yield
    finally:
        for name, value in before.items():
            if value is None:
                os.environ.pop(name, None)
            else:
                os.environ[name] = value
