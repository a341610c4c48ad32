"""The memory that a network needs, known before any is taken: it is built without entries first."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator
from typing import NoReturn

import torch
from torch import Tensor, nn
from torch.nn.parameter import is_lazy

from sharpness.errors import InputError
from sharpness.machine.memory import bounded_memory, free_memory, is_out_of_memory

MAX_MODULES = 30_000
"""Modules of one network, where the largest have some thousands."""
NETWORK_SHARE = 0.5  # of the free memory: a measurement has all weights once more, as one vector
CPU = torch.device("cpu")


def build_within_memory(
    where: str, create: Callable[[], nn.Module], fits: Callable[[nn.Module], None] | None = None, *, twice: bool = True
) -> nn.Module:
    """Return the network that ``create`` makes, if half of the free memory holds it.

    It is made on the meta device first, where tensors have shapes and no entries; ``fits`` gets that skeleton and
    raises where it is not the network wanted. Without ``twice``, as for code of a user's own, there is no skeleton.
    Raises :class:`InputError` with the size needed and what is free, before the entries are written.

    >>> build_within_memory("a layer", lambda: nn.Linear(10**7, 10**7))
    Traceback (most recent call last):
    sharpness.errors.InputError: a layer: expected a network of at most ... MiB, half of the free memory, got one of ...
    """
    skeleton = _skeleton(where, create) if twice else None
    if skeleton is not None:
        require_free(where, size_of(skeleton))
        if fits is not None:
            fits(skeleton)
    try:
        with bounded_memory() if twice else contextlib.nullcontext(), bounded_size(where, within=_available()):
            return create()
    except Exception as error:
        if not is_out_of_memory(error):
            raise
        _refuse(where, "a larger one")


def size_of(model: nn.Module) -> int:
    """Return the bytes of the parameters and buffers of a network, each counted once.

    >>> size_of(nn.Linear(3, 2))
    32
    """
    tensors = {id(tensor): tensor for tensor in (*model.parameters(), *model.buffers())}
    return sum(tensor.numel() * tensor.itemsize for tensor in tensors.values())


def require_free(where: str, needed: int) -> None:
    """Raise :class:`InputError` for a network that takes more bytes than half of those free."""
    if needed > _available():
        _refuse(where, f"one of {needed / 2**20:.0f} MiB")


def _available() -> int:
    return int(NETWORK_SHARE * free_memory(CPU))


def _refuse(where: str, found: str) -> NoReturn:
    raise InputError(
        f"{where}: expected a network of at most {_available() / 2**20:.0f} MiB, half of the free memory, got {found}: "
        "check the shape of the data, the number of classes and the options, or take a larger machine"
    ) from None


def _skeleton(where: str, create: Callable[[], nn.Module]) -> nn.Module | None:
    """Return the network without entries; ``None`` where its code needs numbers while it builds."""
    try:
        with bounded_memory(), bounded_size(where), torch.device("meta"), torch.random.fork_rng(devices=[]):
            return create()
    except InputError:
        raise
    except Exception as error:  # of a library's own, whatever it does with tensors that have no entries
        if is_out_of_memory(error):
            _refuse(where, "settings that make a larger one")
        return None


@contextlib.contextmanager
def bounded_size(where: str, within: int | None = None) -> Iterator[None]:
    """Raise as soon as the modules made are too many, or their tensors have more than so many bytes."""
    modules, total, sizes = 0, 0, dict[int, int]()

    def module_added(*_: object) -> None:
        nonlocal modules
        modules += 1
        if modules > MAX_MODULES:
            raise InputError(f"{where}: expected a network of at most {MAX_MODULES} modules, got more: check its depth")

    def tensor_added(_module: nn.Module, _name: str, tensor: Tensor | None) -> None:
        nonlocal total
        if tensor is None or within is None or is_lazy(tensor):
            return
        size = tensor.numel() * tensor.itemsize
        total += size - sizes.get(id(tensor), 0)
        sizes[id(tensor)] = size
        if total > within:
            _refuse(where, f"one of {total / 2**20:.0f} MiB or more")

    hooks = torch.nn.modules.module
    handles = (
        hooks.register_module_module_registration_hook(module_added),
        hooks.register_module_parameter_registration_hook(tensor_added),
        hooks.register_module_buffer_registration_hook(tensor_added),
    )
    try:
        yield
    finally:
        for handle in handles:
            handle.remove()
