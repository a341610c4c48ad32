"""The global random states of torch, NumPy and Python, which data and networks may draw from."""

from __future__ import annotations

import contextlib
import random
from collections.abc import Iterator

import numpy as np
import torch


@contextlib.contextmanager
def random_states_kept(device: torch.device) -> Iterator[None]:
    """Put the global random states back afterwards.

    >>> with random_states_kept(torch.device("cpu")):
    ...     seed_everything(0)
    """
    states = np.random.get_state(), random.getstate()  # noqa: NPY002  (the legacy state is what others draw from)
    try:
        with torch.random.fork_rng(devices=[device] if device.type == "cuda" else []):
            yield
    finally:
        np.random.set_state(states[0])  # noqa: NPY002
        random.setstate(states[1])


def seed_everything(seed: int) -> None:
    """Seed the global random states."""
    # torch.manual_seed takes a trace of the stack for each kind of accelerator that is not there.
    (torch.manual_seed if torch.accelerator.is_available() else torch.default_generator.manual_seed)(seed)
    np.random.seed(seed % (1 << 32))  # noqa: NPY002
    random.seed(seed)
