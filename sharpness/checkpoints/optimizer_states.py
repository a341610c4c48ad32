"""The state that an optimiser of Adam's kind left in a checkpoint: its second moments, parameter by parameter."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from torch import Tensor

from sharpness.checkpoints.wording import shown
from sharpness.errors import InputError

MAX_DEPTH = 3
MAX_ENTRIES = 1_000_000
"""Parameters of one optimiser, of which the largest networks have some thousands."""


@dataclass(frozen=True, eq=False)
class Moments:
    """Adam's state of one parameter: the second moment as it lies in the file, and what its correction needs.

    ``second`` is the largest one so far where the optimiser has ``amsgrad``. ``corrected`` says that the optimiser
    divides by ``1 - beta^step``, as all of torch do.
    """

    second: Tensor
    step: int
    beta1: float
    beta2: float
    eps: float
    corrected: bool


@dataclass(frozen=True, eq=False)
class Entry:
    """One parameter of a group: the name that the file has for it, if any, and its moments, if it was ever updated."""

    name: str | None
    moments: Moments | None


@dataclass(frozen=True, eq=False)
class AdamState:
    """An optimiser's state: where it lies in the file, such as ``optimizer``, and its groups in their order."""

    place: str
    groups: tuple[tuple[Entry, ...], ...]

    @property
    def entries(self) -> list[Entry]:
        """All parameters, group by group."""
        return [entry for group in self.groups for entry in group]

    @property
    def step(self) -> int:
        """The largest number of steps of a parameter."""
        return max(entry.moments.step for entry in self.entries if entry.moments is not None)


def find_adam_states(content: Any) -> tuple[tuple[AdamState, ...], str]:
    """Return the states of optimisers of Adam's kind in a file's content, or none and the reason.

    Found are ``optimizer.state_dict()`` under any name down to the third level, in lists too, as Lightning has them,
    and as the file itself. Raises :class:`InputError` for states that are damaged.

    >>> import torch
    >>> w = torch.nn.Parameter(torch.ones(2))
    >>> optimizer = torch.optim.Adam([w]); w.grad = torch.ones(2); optimizer.step()
    >>> (state,), _ = find_adam_states({"model": {"w": w}, "optimizer": optimizer.state_dict()})
    >>> state.place, state.step, state.entries[0].moments.second
    ('optimizer', 1, tensor([0.0010, 0.0010]))
    """
    states, others = list[AdamState](), list[str]()
    for place, raw in _states(content, (), set()):
        if reason := _other_kind(raw):
            others.append(reason)
            continue
        state = AdamState(place, _groups(raw))
        if any(entry.moments is not None for entry in state.entries):
            states.append(state)
        else:
            others.append("has not made a step")
    if not states and others:
        return (), f"its optimiser {others[0]}"
    return tuple(states), "" if states else "it has no state of an optimiser"


def _states(content: Any, path: tuple[str, ...], seen: set[int]) -> Iterator[tuple[str, Mapping[Any, Any]]]:
    """Yield each mapping that has the form of ``optimizer.state_dict()``, with its place."""
    if len(path) > MAX_DEPTH or id(content) in seen:
        return
    seen.add(id(content))
    if isinstance(content, Mapping):
        if isinstance(content.get("state"), Mapping) and isinstance(content.get("param_groups"), list):
            yield ".".join(path), content
            return
        items = [(key, value) for key, value in content.items() if isinstance(key, str)]
    elif isinstance(content, list | tuple) and len(content) <= 64:
        items = [(str(number), value) for number, value in enumerate(content)]
    else:
        return
    for key, value in items:
        yield from _states(value, (*path, key), seen)


def _other_kind(raw: Mapping[Any, Any]) -> str | None:
    """Return what says that a state is not of Adam's kind, ``None`` where it is.

    ``amsgrad`` is what torch's Adam and AdamW have and its others with second moments (NAdam, RAdam, LAMB) have not;
    ``correct_bias`` is that of the AdamW that Transformers had.
    """
    groups = [group for group in raw["param_groups"] if isinstance(group, Mapping) and group.get("params")]
    kept = {str(key) for values in raw["state"].values() if isinstance(values, Mapping) for key in values}
    known = all("betas" in group and "eps" in group and {"amsgrad", "correct_bias"} & group.keys() for group in groups)
    if groups and known and ("exp_avg_sq" in kept or not kept):
        return None
    return f"is not Adam or AdamW (it keeps {shown(sorted(kept)) or 'nothing'})"


def _groups(raw: Mapping[Any, Any]) -> tuple[tuple[Entry, ...], ...]:
    groups = list[tuple[Entry, ...]]()
    for group in raw["param_groups"]:
        labels, names = group["params"], group.get("param_names")
        if not isinstance(labels, list) or sum(map(len, groups)) + len(labels) > MAX_ENTRIES:
            raise InputError("expected a list of parameters in each group of the optimiser, got another thing: damaged")
        if names is None:
            names = [label if isinstance(label, str) else None for label in labels]
        if not isinstance(names, list) or len(names) != len(labels):
            raise InputError("expected as many names as parameters in each group of the optimiser, got others: damaged")
        entries = [Entry(n, _moments(raw["state"].get(label), group)) for label, n in zip(labels, names, strict=True)]
        groups.append(tuple(entries))
    listed = {str(label) for group in raw["param_groups"] for label in group["params"]}
    if strange := [str(label) for label in raw["state"] if str(label) not in listed]:
        raise InputError(f"expected states of the parameters in the groups, got one of {shown(strange)}: damaged")
    return tuple(groups)


def _moments(values: Any, group: Mapping[str, Any]) -> Moments | None:
    """Return the moments of one parameter; ``None`` where it was never updated."""
    if not values:
        return None
    largest = group.get("amsgrad") is True
    second, step = values.get("max_exp_avg_sq" if largest else "exp_avg_sq"), values.get("step", group.get("step"))
    if not isinstance(second, Tensor) or not second.is_floating_point():
        raise InputError("expected exp_avg_sq of every parameter that Adam has updated, got none: damaged")
    count = int(step.item() if isinstance(step, Tensor) else step)
    (beta1, beta2), eps = (float(beta) for beta in group["betas"]), float(group["eps"])
    if not (count >= 1 and 0 <= beta1 < 1 and 0 <= beta2 < 1 and eps >= 0):
        found = f"step {count}, betas {beta1:g} and {beta2:g}, eps {eps:g}"
        raise InputError(f"expected at least one step of Adam with betas from 0 to below 1, got {found}: damaged")
    return Moments(second, count, beta1, beta2, eps, bool(group.get("correct_bias", True)))
