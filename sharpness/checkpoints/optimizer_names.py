"""The parameters of a network among an optimiser's: by the names it saved, else by the order of its groups."""

from __future__ import annotations

import itertools
import re
from collections.abc import Callable, Iterator, Mapping, Sequence

from torch import nn

from sharpness.checkpoints.matching import MatchReport
from sharpness.checkpoints.optimizer_states import AdamState, Moments
from sharpness.checkpoints.wording import shown
from sharpness.errors import InputError

Names = tuple[tuple[str, ...], ...]
Decays = Callable[[str, nn.Parameter, nn.Module], bool]

NORMS = re.compile(r"bias|layernorm|rmsnorm|(?:^|\.)norm(?:$|\.)|_norm(?:$|\.)")
"""The names that the Trainer of Transformers leaves without decay since its version 4.46."""
MOST_BLOCKS = 4
"""Groups whose order is tried in every permutation."""
BY_GRADIENTS = "or take P from gradients with the knob source=gradients"


def _is_norm(module: nn.Module) -> bool:
    return "norm" in type(module).__name__.lower()


DECAYS: dict[str, Decays] = {
    "Trainer": lambda n, p, m: not (isinstance(m, nn.LayerNorm) or NORMS.search(n.lower())),
    "Trainer before 4.46": lambda n, p, m: not (_is_norm(m) or "bias" in n),
    "matrices": lambda n, p, m: p.ndim >= 2,
    "not biases": lambda n, p, m: not n.endswith("bias"),
}
"""What decides whether a parameter is in the group with weight decay or in the one without, by whose rule it is."""


def moments_by_name(
    states: Sequence[AdamState], model: nn.Module, report: MatchReport | None, wanted: Sequence[str]
) -> tuple[AdamState, dict[str, Moments]]:
    """Return the state that fits a network and the moments of each of its parameters that has some, by its name.

    Names that the file has (``param_names``, or a state by names) count. Without, the parameters of the groups are
    those of the network in its order, all or the trainable or the ``wanted`` ones: group after group, the groups as
    blocks in any order, or one group with and one without decay (:data:`DECAYS`); every shape has to agree. ``report``
    is how the weights of the same file fit: its order and prefixes are those of the training.

    Raises :class:`InputError` where no state fits, where several do or one in two ways, and where a ``wanted``
    parameter has no moments.
    """
    fitting = list[tuple[AdamState, dict[str, Moments]]]()
    for state in states:
        for found in _assignments(state, model, report, wanted):
            if all(found != other for _, other in fitting):
                fitting.append((state, found))
    if not fitting:
        shapes = [tuple(e.moments.second.shape) for e in states[0].entries if e.moments is not None]
        raise InputError(
            f"expected an optimiser's state of this network's parameters, got one of {len(states[0].entries)} with the "
            f"shapes {shown(shapes)}: give the model that was trained, {BY_GRADIENTS}"
        )
    if len(fitting) > 1:
        raise InputError(
            f"expected one way to read the optimiser's groups as this network's parameters, got {len(fitting)}: build "
            f"the optimiser from named_parameters(), which saves the names, {BY_GRADIENTS}"
        )
    ((state, found),) = fitting
    if missing := [name for name in wanted if name not in found]:
        raise InputError(
            f"expected second moments of every parameter that is measured, got none for {shown(missing)}, which the "
            f"optimiser never updated: measure the others with --parameters, {BY_GRADIENTS}"
        )
    return state, found


def _assignments(
    state: AdamState, model: nn.Module, report: MatchReport | None, wanted: Sequence[str]
) -> Iterator[dict[str, Moments]]:
    """Yield each way to give the moments of a state to the parameters of a network that agrees in every shape."""
    parameters = dict(model.named_parameters())
    groups = [list(group) for group in state.groups if group]
    if all(entry.name is not None for entry in state.entries):
        names = _own_names([str(entry.name) for entry in state.entries], model, report)
        kept = [(name, e) for name, e in zip(names, state.entries, strict=True) if name in parameters]
        orders, groups = iter([(tuple(name for name, _ in kept),)]), [[entry for _, entry in kept]]
    else:
        orders = _orders([len(group) for group in groups], model, report, wanted)
    for order in orders:
        pairs = [pair for names, group in zip(order, groups, strict=True) for pair in zip(names, group, strict=True)]
        moments = {name: entry.moments for name, entry in pairs if entry.moments is not None}
        if moments and all(m.second.shape == parameters[n].shape for n, m in moments.items()):
            yield moments


def _own_names(names: Sequence[str], model: nn.Module, report: MatchReport | None) -> list[str]:
    """Return names that an optimiser saved as the network's own: without the prefix and wrappers of the weights."""
    first = {id(parameter): name for name, parameter in model.named_parameters()}
    own = {name: first[id(p)] for name, p in model.named_parameters(remove_duplicate=False)}
    if report is None or all(name in own for name in names):
        return [own.get(name, name) for name in names]
    pieces = set(report.wrappers)
    bare = [".".join(part for part in name.split(".") if part not in pieces) for name in names]
    bare = [name.removeprefix(report.prefix) for name in bare]
    return [own.get(name, name) for name in bare]


def _orders(
    sizes: Sequence[int], model: nn.Module, report: MatchReport | None, wanted: Sequence[str]
) -> Iterator[Names]:
    """Yield the names of each group, for every way in which optimisers are given their parameters."""
    parameters = dict(model.named_parameters())
    everything = _in_order_of_file(model, report)
    trainable = tuple(name for name in everything if parameters[name].requires_grad)
    for names in dict.fromkeys((everything, trainable, tuple(n for n in everything if n in set(wanted)))):
        if len(names) != sum(sizes):
            continue
        yield from _blocks(names, sizes)
        if len(sizes) == 2:
            yield from _two_kinds(names, sizes, model, parameters)


def _in_order_of_file(model: nn.Module, report: MatchReport | None) -> tuple[str, ...]:
    """Return the names of all parameters in the order of the file, where it has them all and keeps an order."""
    first = {id(parameter): name for name, parameter in model.named_parameters()}
    own = {name: first[id(p)] for name, p in model.named_parameters(remove_duplicate=False)}
    used = () if report is None else report.used
    filed = tuple(dict.fromkeys(own[name] for name in used if name in own))
    return filed if len(filed) == len(first) else tuple(first.values())


def _blocks(names: tuple[str, ...], sizes: Sequence[int]) -> Iterator[Names]:
    """Yield the groups as blocks of consecutive parameters, in every order of the blocks."""
    positions = range(len(sizes))
    for places in itertools.permutations(positions) if len(sizes) <= MOST_BLOCKS else [tuple(positions)]:
        rest, blocks = names, dict[int, tuple[str, ...]]()
        for group in places:
            blocks[group], rest = rest[: sizes[group]], rest[sizes[group] :]
        yield tuple(blocks[group] for group in positions)


def _two_kinds(
    names: tuple[str, ...], sizes: Sequence[int], model: nn.Module, parameters: Mapping[str, nn.Parameter]
) -> Iterator[Names]:
    """Yield a group with weight decay and one without, either first, by each rule that gives groups of these sizes."""
    for decays in DECAYS.values():
        kinds: tuple[list[str], list[str]] = [], []
        for name in names:
            owner = model.get_submodule(name.rpartition(".")[0])
            kinds[0 if decays(name, parameters[name], owner) else 1].append(name)
        for one, two in (kinds, kinds[::-1]):
            if [len(one), len(two)] == list(sizes):
                yield tuple(one), tuple(two)
