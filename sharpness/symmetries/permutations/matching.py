"""The order of one network's hidden units in which its weights are most like another's (Ainsworth et al. 2023)."""

from __future__ import annotations

import math
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from scipy.optimize import linear_sum_assignment
from torch import Tensor

from sharpness.errors import InputError
from sharpness.symmetries.permutations.groups import Group, permuted

GAIN = 1e-12  # of the product of the norms, the largest that the objective can be; the authors' is absolute
MAX_SWEEPS = 100


@dataclass(frozen=True)
class Match:
    """The second network's tensors in the order that fits the first, one permutation per group, and what it took.

    ``before`` and ``after`` are the objective, the inner product of the two networks' tensors; ``moved`` is the number
    of units that are not where they were; ``converged`` says whether the last sweep changed nothing.
    """

    tensors: dict[str, Tensor]
    permutations: tuple[Tensor, ...]
    before: float
    after: float
    sweeps: int
    moved: int
    converged: bool


def match_weights(
    first: Mapping[str, Tensor], second: Mapping[str, Tensor], groups: Sequence[Group], *, seed: int = 0
) -> Match:
    """Return the second network's tensors with the units of each group permuted to be most like the first's.

    Weight matching of Ainsworth et al. 2023 (arXiv 2209.04836), section 3.2: ``sum <A, pi(B)>`` over the tensors that
    both have grows by coordinate descent, one group after the other in a random order of ``seed``, each a linear
    assignment problem that is solved exactly, until a sweep over all groups changes nothing, at most 100 times. With
    one group that is the best order there is; with more it is one that no change of a single group improves. Unlike
    theirs it starts twice, from the units as they are and from each group matched by the weights that come from inputs
    or from groups matched before, which puts a permuted copy in order at once, and the better end counts. Sums are
    float64. Raises :class:`InputError` for tensors of unequal shapes and for those that are not finite.

    >>> from sharpness.symmetries.permutations.groups import Entry
    >>> a, b = {"0.weight": torch.tensor([[1.0], [2.0]])}, {"0.weight": torch.tensor([[2.0], [1.0]])}
    >>> match = match_weights(a, b, [Group(2, (Entry("0.weight", 0),))])
    >>> match.tensors, match.before, match.after, match.moved
    ({'0.weight': tensor([[1.], [2.]])}, 4.0, 5.0, 2)
    """
    _check(first, second)
    # On the CPU, where the assignments are solved and where there is always float64.
    target = {name: tensor.detach().to("cpu", torch.float64) for name, tensor in first.items()}
    current = {name: tensor.detach().to("cpu", torch.float64) for name, tensor in second.items()}
    before, least = _inner(target, current), GAIN * math.sqrt(_inner(target, target) * _inner(current, current))
    as_they_are = [torch.arange(group.size) for group in groups]
    ends = []
    for start in (as_they_are, _from_the_inputs_on(target, current, groups)):
        orders, sweeps, converged = _descend(target, current, groups, start, least, seed)
        ends.append((_inner(target, _reordered(current, groups, orders)), orders, sweeps, converged))
    after, orders, sweeps, converged = max(ends, key=lambda end: end[0])
    return Match(
        tensors=_reordered(second, groups, orders),
        permutations=tuple(orders),
        before=before,
        after=after,
        sweeps=sweeps,
        moved=sum(int((order != start).sum()) for order, start in zip(orders, as_they_are, strict=True)),
        converged=converged,
    )


def _descend(
    target: Mapping[str, Tensor],
    second: Mapping[str, Tensor],
    groups: Sequence[Group],
    start: Sequence[Tensor],
    least: float,
    seed: int,
) -> tuple[list[Tensor], int, bool]:
    """Return the orders that no change of a single group improves, the sweeps, and whether the last changed nothing."""
    orders, current = list(start), _reordered(second, groups, start)
    random, sweeps, changed = np.random.default_rng(seed), 0, bool(groups)
    while changed and sweeps < MAX_SWEEPS:
        changed, sweeps = False, sweeps + 1
        for number in random.permutation(len(groups)):
            group = groups[number]
            better = _best_order(_similarity(target, current, group, current.keys()))
            moved = permuted(current, group, better)
            # Taken from the tensors, as the similarities count a tensor with the group on both axes twice.
            if sum(float((target[name] * (moved[name] - current[name])).sum()) for name in moved) > least:
                current |= moved
                orders[number], changed = orders[number][better], True
    return orders, sweeps, not changed


def _from_the_inputs_on(
    target: Mapping[str, Tensor], second: Mapping[str, Tensor], groups: Sequence[Group]
) -> list[Tensor]:
    """Return each group's best order by the tensors that no group further on has a part in."""
    current, orders = dict(second), []
    further = [{entry.tensor for later in groups[i + 1 :] for entry in later.entries} for i in range(len(groups))]
    for group, later in zip(groups, further, strict=True):
        orders.append(_best_order(_similarity(target, current, group, current.keys() - later)))
        current |= permuted(current, group, orders[-1])
    return orders


def _reordered(tensors: Mapping[str, Tensor], groups: Sequence[Group], orders: Sequence[Tensor]) -> dict[str, Tensor]:
    changed = dict(tensors)
    for group, order in zip(groups, orders, strict=True):
        changed |= permuted(changed, group, order)
    return changed


def _check(first: Mapping[str, Tensor], second: Mapping[str, Tensor]) -> None:
    shapes = [{name: tuple(tensor.shape) for name, tensor in tensors.items()} for tensors in (first, second)]
    if shapes[0] != shapes[1]:
        odd = next(name for name in shapes[0] | shapes[1] if shapes[0].get(name) != shapes[1].get(name))
        raise InputError(
            f"expected the same tensors in both networks, got {odd} of {shapes[0].get(odd)} and {shapes[1].get(odd)}: "
            "give checkpoints of one network"
        )
    for tensors in (first, second):
        for name, tensor in tensors.items():
            if not torch.isfinite(tensor).all():
                raise InputError(f"expected finite weights to match, got NaN or infinity in {name}: train again")


def _similarity(
    target: Mapping[str, Tensor], current: Mapping[str, Tensor], group: Group, names: Collection[str]
) -> Tensor:
    """Return the inner products of the first network's units (rows) with the second's, shape (size, size)."""
    similarity = torch.zeros(group.size, group.size, dtype=torch.float64)
    for entry in group.entries:
        if entry.tensor in names:
            ours, theirs = (
                tensors[entry.tensor]
                .unflatten(entry.axis, (entry.repeat, group.size, entry.block))
                .movedim(entry.axis + 1, 0)
                .flatten(1)
                for tensors in (target, current)
            )
            similarity += ours @ theirs.T
    return similarity


def _best_order(similarity: Tensor) -> Tensor:
    """Return which of the second network's units goes to each place."""
    return torch.from_numpy(linear_sum_assignment(similarity.numpy(), maximize=True)[1]).long()


def _inner(first: Mapping[str, Tensor], second: Mapping[str, Tensor]) -> float:
    return math.fsum(float((tensor * second[name]).sum()) for name, tensor in first.items())
