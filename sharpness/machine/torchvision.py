"""A torchvision whose compiled operators do not fit this torch, as a CUDA build beside a torch for CPUs alone.

Then ``import torchvision`` fails, and with it timm and what transformers loads, although few networks use an operator
of torchvision. Its Python parts are loaded all the same where that goes, and it is hidden from transformers where not.
"""

from __future__ import annotations

import contextlib
import importlib
import importlib.metadata
import importlib.util
import logging
import sys
from collections.abc import Callable, Iterator
from typing import Any

logger = logging.getLogger(__name__)


def load_torchvision() -> str:
    """Load torchvision as far as that goes, and return why it cannot be used: nothing where it can or is not there.

    Where only its operators are missing a warning says so, with the cure; a network that uses one fails where it does.
    """
    if sys.modules.get("torchvision") is not None or importlib.util.find_spec("torchvision") is None:
        return ""
    if not (reason := _failure()):
        return ""
    with _without_operators():
        if _failure():
            return reason
    logger.warning("torchvision does not fit this torch (%s), its operators are left out: %s", reason, cure())
    return ""


def cure() -> str:
    """Return what makes torchvision fit: both libraries from one index, in releases that belong together.

    >>> cure()
    "pip install --force-reinstall 'torch==...' torchvision"
    """
    release = importlib.metadata.version("torch").partition("+")[0]
    return f"pip install --force-reinstall 'torch=={release}' torchvision"


@contextlib.contextmanager
def hidden_torchvision(reason: str) -> Iterator[None]:
    """Hide torchvision while the context lasts, and warn why, unless the reason is empty.

    transformers asks once whether it is there, as the context begins; only its readers of images need it.
    """
    if not reason:
        yield
        return
    logger.warning("torchvision cannot be used (%s), transformers goes without: %s", reason, cure())
    modules: dict[str, Any] = sys.modules
    modules["torchvision"] = None
    try:
        importlib.import_module("transformers.utils").is_torchvision_available()
        yield
    finally:
        del modules["torchvision"]


def _failure() -> str:
    """Import torchvision; where that fails take its parts away again and return the error on one line."""
    try:
        importlib.import_module("torchvision")
    except Exception as error:  # of the linker, of torch, of its own
        for name in [name for name in sys.modules if name.partition(".")[0] == "torchvision"]:
            del sys.modules[name]
        return " ".join(str(error).split())[:120] or type(error).__name__
    return ""


@contextlib.contextmanager
def _without_operators() -> Iterator[None]:
    """Let torchvision say the shapes of operators that are not there, for which torch has an error."""
    library: Any = importlib.import_module("torch.library")
    register: Callable[..., Any] = library.register_fake

    def tolerant(operator: Any, *arguments: Any, **options: Any) -> Any:
        if isinstance(operator, str) and operator.startswith("torchvision::"):
            return lambda function: function
        return register(operator, *arguments, **options)

    library.register_fake = tolerant
    try:
        yield
    finally:
        library.register_fake = register
