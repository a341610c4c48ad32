"""A search through a network's graph for hidden units that can change places."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack, contextmanager
from typing import Any

import torch
from torch import fx, nn

from sharpness.data.batches import Batch
from sharpness.loss.eval_mode import measuring
from sharpness.symmetries.permutations.groups import Group, Ties
from sharpness.symmetries.permutations.operations import plain_kind
from sharpness.symmetries.permutations.walk import UnitWalk
from sharpness.symmetries.tracing import SHALLOW, Tracer

PATTERNS = (
    "hidden units of linear and convolution layers followed by activations, dropout, pooling, BatchNorm, InstanceNorm, "
    "LayerNorm or RMSNorm, sums, products, reshapes and depthwise convolutions until linear or convolution layers read "
    "them; not through grouped convolutions, GroupNorm, concatenations, attention or recurrent layers"
)
"""What :func:`find_groups` looks for, in words."""

Calls = Mapping[int, tuple[tuple[Any, ...], dict[str, Any]]]
"""What each module was called with, by its identity."""


def find_groups(model: nn.Module, batch: Batch) -> list[Group]:
    """Return the groups of hidden units whose order does not change what a network computes; empty where none is found.

    The network runs once on a batch, which two examples are enough for, and its graph as traced by ``torch.fx`` runs
    again while the units are followed: what a layer puts out and all that reads it belong together, a sum makes one
    group of two, and units that reach the output, or an operation that is not known, stay in their places. A tensor
    that several layers share belongs to the groups of all its uses. Where a forward cannot be traced (control flow that
    depends on the data), its children are taken as black boxes and then one by one. The module is left as it was.

    >>> model = nn.Sequential(nn.Linear(2, 3), nn.ReLU(), nn.Linear(3, 1))
    >>> [(group.size, [entry.tensor for entry in group.entries]) for group in find_groups(model, (torch.ones(1, 2),))]
    [(3, ['0.weight', '0.bias', '2.weight'])]
    """
    device = next((parameter.device for parameter in model.parameters()), torch.device("cpu"))
    names = {id(tensor): name for name, tensor in (*model.named_parameters(), *model.named_buffers())}
    with torch.no_grad(), measuring(model, device, batch_statistics=False), _unchanged_buffers(model):
        calls = _calls(model, batch)
        ties = _search(model, calls, names, Ties())
    return ties.groups()


@contextmanager
def _unchanged_buffers(model: nn.Module) -> Iterator[None]:
    before = [(buffer, buffer.clone()) for buffer in model.buffers()]
    try:
        yield
    finally:
        for buffer, value in before:
            if not torch.equal(buffer, value):
                buffer.copy_(value)


def _calls(model: nn.Module, batch: Batch) -> Calls:
    """Run a network, and return what each of its modules was first called with."""
    calls: dict[int, tuple[tuple[Any, ...], dict[str, Any]]] = {}

    def remember(module: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
        calls.setdefault(id(module), (args, kwargs))

    with ExitStack() as stack:
        for module in model.modules():
            stack.callback(module.register_forward_pre_hook(remember, with_kwargs=True).remove)
        if isinstance(batch, Mapping):
            model(**batch)
        else:
            model(batch[0])
    return calls


def _search(part: nn.Module, calls: Calls, names: Mapping[int, str], ties: Ties) -> Ties:
    """Return the ties with those of a part: of its whole graph, or else of its own forward and of its children."""
    if id(part) not in calls or plain_kind(part) is not None:
        return ties  # never called, or a layer whose graph is that of what calls it
    whole = _walked(Tracer(lambda module: plain_kind(module) is not None), part, calls, names, ties)
    if whole is not None:
        return whole
    own = _walked(SHALLOW, part, calls, names, ties)
    if own is None:
        own = ties
        for name, tensor in (*part.named_parameters(recurse=False), *part.named_buffers(recurse=False)):
            for axis in range(tensor.ndim):
                own.fix((names.get(id(tensor), name), axis))
    for child in part.children():
        own = _search(child, calls, names, own)
    return own


def _walked(tracer: fx.Tracer, part: nn.Module, calls: Calls, names: Mapping[int, str], ties: Ties) -> Ties | None:
    """Return a copy of the ties with those of a part's graph, ``None`` where it cannot be traced or run."""
    args, kwargs = calls[id(part)]
    trial = ties.copy()
    try:
        forward: Callable[..., Any] = part.forward
        signature = inspect.signature(forward)
        given = signature.bind(*args, **kwargs).arguments
        absent = {name: p.default for name, p in signature.parameters.items() if name not in given}
        graph = tracer.trace(part, concrete_args=absent)
        values = given | absent
        UnitWalk(part, graph, names, trial).run(
            *(values[str(node.target)] for node in graph.nodes if node.op == "placeholder"), enable_io_processing=False
        )
    except Exception:  # a forward that meets a proxy may fail in any way
        return None
    return trial
