"""One process per GPU, or several on CPUs, as torchrun starts them."""

from __future__ import annotations

import contextlib
import gc
import os
from collections.abc import Iterator

import torch
import torch.distributed as dist

from sharpness.errors import InputError


@contextlib.contextmanager
def processes(device: torch.device) -> Iterator[torch.device]:
    """Join the other processes of torchrun, if it started this one, and give the device of this process.

    With ``cuda`` it is the GPU of the local rank, over NCCL; anything else talks over gloo. Without torchrun the
    device stays and nothing is joined. Raises :class:`InputError` for more processes than GPUs.

    >>> with processes(torch.device("cpu")) as device:
    ...     device
    device(type='cpu')
    """
    if "TORCHELASTIC_RUN_ID" not in os.environ or dist.is_initialized():
        yield device
        return
    if device.type == "cuda":
        local = int(os.environ["LOCAL_RANK"])
        if local >= torch.cuda.device_count():
            raise InputError(
                f"expected at most {torch.cuda.device_count()} processes on this machine, one for each GPU, got local "
                f"rank {local}: lower --nproc-per-node"
            )
        device = torch.device("cuda", local)
        torch.cuda.set_device(device)
    dist.init_process_group("nccl" if device.type == "cuda" else "gloo")
    try:
        yield device
    finally:
        # A network over several processes that outlives the group takes it along when it is freed: torch then waits for
        # the group's threads with the interpreter's lock in hand, which they may need to end, for ever.
        gc.collect()
        dist.destroy_process_group()
