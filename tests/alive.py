"""The tensors that live, for tests of how much memory something holds."""

from __future__ import annotations

import gc
from collections.abc import Callable

from torch import Tensor


def tensors_from_here() -> Callable[[], list[Tensor]]:
    """Return a function that lists the tensors made from here on that still live.

    What lives by now is frozen: the collector lists it no more, and a list of all there is would take long.
    """
    gc.collect()
    gc.freeze()
    return lambda: [each for each in gc.get_objects() if isinstance(each, Tensor)]
