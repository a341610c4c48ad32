"""Parsers compiled from Rust (tokenizers, safetensors): their panics as ordinary errors."""

from __future__ import annotations

import contextlib
import os
import sys
import tempfile
from collections.abc import Iterator

from sharpness.errors import is_panic


@contextlib.contextmanager
def contained_panics() -> Iterator[None]:
    """Turn a panic into a ``RuntimeError``, and keep the stack that the parser prints of it off standard error.

    What else is printed there meanwhile comes out at the end.
    """
    sys.stderr.flush()
    panicked, shown = False, os.dup(2)
    with tempfile.TemporaryFile() as printed:
        os.dup2(printed.fileno(), 2)
        try:
            yield
        except BaseException as error:
            panicked = is_panic(error)
            if not panicked:
                raise
            raise RuntimeError(f"the parser panicked: {error}") from error
        finally:
            sys.stderr.flush()
            os.dup2(shown, 2)
            os.close(shown)
            printed.seek(0)
            if not panicked:
                os.write(2, printed.read())
