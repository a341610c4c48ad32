"""The mean is what is claimed: what a loss divides by, tested by cutting a few examples in two.

A criterion's mean over a batch is the mean of the means of its parts, weighted by what each divides by. That holds for
the right count and fails for wrong ones, for losses of whole batches and for networks whose examples see each other.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode

from sharpness.data.batches import Batch, batch_length, cast, copied, named_tensors, taken, targets_of
from sharpness.loss.calls import tensor_in
from sharpness.loss.counts import Count
from sharpness.loss.criteria import is_known
from sharpness.loss.double import few, first_that_works, takes_parts
from sharpness.loss.fit import check_inputs, check_labels, check_targets
from sharpness.machine.memory import is_out_of_memory
from sharpness.machine.random_states import seed_everything
from sharpness.machine.users_code import users_own

if TYPE_CHECKING:
    from sharpness.loss.checked import CheckedLoss

RELATIVE = {torch.float64: 1e-6}  # of the terms: networks that compute partly in float32 in any case reach 1e-7
OWN_PRECISION = 2e-3


@dataclass(frozen=True)
class Cut:
    """The values of a few examples together and in two parts, and what each candidate says that they count."""

    whole: float
    parts: tuple[float, ...]
    counts: Mapping[str, tuple[float, ...]]  # of the whole and then of the parts
    tolerance: float

    def agrees(self, name: str) -> bool:
        """Return whether the parts, weighted by this candidate, give the whole."""
        whole, *parts = self.counts[name]
        if not (whole > 0 and all(math.isfinite(count) for count in parts)):
            return False
        terms = [count * value for count, value in zip(parts, self.parts, strict=True) if count > 0]
        scale = sum(map(abs, terms)) + abs(whole * self.whole)
        wrong_total = abs(sum(parts) - whole) > 1e-6 * whole
        return not wrong_total and abs(sum(terms) - whole * self.whole) <= self.tolerance * scale

    @property
    def adds_up(self) -> bool:
        """Say whether the parts add up to the whole, as those of a sum do."""
        scale = sum(map(abs, self.parts)) + abs(self.whole)
        return abs(sum(self.parts) - self.whole) <= self.tolerance * scale


@dataclass(frozen=True)
class Cuts:
    """The cuts of a few examples, through the network and of the criterion alone, and what speaks against them."""

    network: tuple[Cut, ...] = ()
    criterion: tuple[Cut, ...] = ()
    cannot_cut: str | None = None  # what the network raised for a part of a batch
    random: str | None = None  # what draws random numbers
    changes_inputs: bool = False
    broadcasts: str | None = None
    finite: bool = True  # every value that was looked at
    outputs: Tensor | None = None  # of the last batch looked at


def examine(loss: CheckedLoss, odd: Sequence[Batch], candidates: Mapping[str, Count], *, cut: bool) -> Cuts:
    """Return what a few examples of the odd batches show; :class:`InputError` with its place for what they raise.

    Without ``cut`` only the determinism is looked at, and the criterion apart from the network. What torch's own
    criteria divide by is in their definition, so one batch is enough for those.
    """
    found = Cuts()
    for batch in odd:
        check_inputs(loss.model, batch)
        if found.outputs is not None and found.network + found.criterion and is_known(loss.criterion):
            check_labels(loss.criterion, found.outputs, batch)  # batches may be of several lengths
            continue

        def look(dtype: torch.dtype, most: int, batch: Batch = batch, found: Cuts = found) -> Cuts:
            part = few(batch, most) if takes_parts(loss) else batch
            return _examined(loss.in_precision(dtype), part, candidates, found, cut)

        try:
            with users_own("measuring", "data that fit this network and its loss", "check model, data and loss"):
                found = first_that_works(loss, look)
        except (RuntimeError, MemoryError) as error:
            if not is_out_of_memory(error):
                raise
    return found


def _examined(loss: CheckedLoss, batch: Batch, candidates: Mapping[str, Count], found: Cuts, cut: bool) -> Cuts:
    batch = cast(batch, loss.device, loss.dtype)
    with loss.evaluating(loss.weights) as forward:
        work = _Work(loss, forward)
        given = copied(batch)
        versions = _versions(given)
        output, whole = work.value(given, seed=1)
        found = replace(
            found,
            outputs=tensor_in(output),
            changes_inputs=found.changes_inputs or versions != _versions(given),
            random=found.random or _random_draws(work, batch, output, whole),
        )
        if not math.isfinite(whole):
            return replace(found, finite=False)
        if found.random is not None or batch_length(batch) < 2:
            return found
        return _with_cuts(work, batch, whole, candidates, found, cut)


def _versions(batch: Batch) -> list[int]:
    """Return how often each tensor of a batch was changed in place."""
    return [tensor._version for _, tensor in named_tensors(batch)]


@dataclass(frozen=True)
class _Work:
    """The loss with its network held ready at its own weights."""

    loss: CheckedLoss
    forward: Callable[[Batch], Any]

    def value(self, batch: Batch, seed: int) -> tuple[Any, float]:
        """Return output and value of one batch, with random numbers from a seed."""
        seed_everything(seed)
        output = self.forward(batch)
        check_targets(self.loss.criterion, tensor_in(output), batch)
        return output, self.of_output(output, batch)

    def of_output(self, output: Any, batch: Batch) -> float:
        """Return the criterion's value."""
        return float(self.loss.criterion_value(output, batch).detach())


def _with_cuts(
    work: _Work, batch: Batch, whole: float, candidates: Mapping[str, Count], found: Cuts, cut: bool
) -> Cuts:
    """Return what was found with the cuts of this batch, through the network and of the criterion alone."""
    length = batch_length(batch)
    middle = math.ceil(length / 3) if length > 3 else 1
    parts = [range(middle), range(middle, length)]
    pieces = [taken(batch, rows) for rows in parts]
    counts = {name: tuple(float(count(piece)) for piece in (batch, *pieces)) for name, count in candidates.items()}
    tolerance = RELATIVE.get(work.loss.dtype, OWN_PRECISION)
    if cut:
        try:
            values = tuple(work.value(copied(piece), seed=1)[1] for piece in pieces)
            found = replace(found, network=(*found.network, Cut(whole, values, counts, tolerance)))
        except Exception as error:
            if is_out_of_memory(error):
                raise
            found = replace(found, cannot_cut=f"{type(error).__name__}: {error}".partition("\n")[0][:160])
    tensor = found.outputs
    if work.loss.criterion is not None and tensor is not None and tensor.ndim and len(tensor) == length:
        seed_everything(1)
        values = tuple(work.of_output(tensor[list(rows)], piece) for rows, piece in zip(parts, pieces, strict=True))
        found = replace(found, criterion=(*found.criterion, Cut(whole, values, counts, tolerance)))
    return replace(found, broadcasts=found.broadcasts or _broadcasting(work, tensor, batch, whole, tolerance))


def _random_draws(work: _Work, batch: Batch, output: Any, value: float) -> str | None:
    """Return what draws random numbers where the same batch gives another output or value the second time."""
    other, again = work.value(copied(batch), seed=2)
    tolerance = 1e-9 if work.loss.dtype == torch.float64 else 1e-5
    pairs = [(torch.tensor(value), torch.tensor(again))]
    pairs += [(a, b) for (_, a), (_, b) in zip(named_tensors(output), named_tensors(other), strict=False)]
    if all(_close(a, b, tolerance) for a, b in pairs):
        return None
    names = _RandomOperations()
    with names:
        work.value(copied(batch), seed=2)
    return f"draws random numbers ({', '.join(sorted(names.found))})" if names.found else "changes between two passes"


def _close(a: Tensor, b: Tensor, tolerance: float) -> bool:
    if a.shape != b.shape:
        return False
    if not (a.is_floating_point() or a.is_complex()):
        return torch.equal(a, b)
    a, b = a.detach(), b.detach()
    return bool(
        torch.isclose(
            a,
            b,
            rtol=tolerance,
            atol=tolerance * float(a.abs().nan_to_num(0, 0, 0).max() if a.numel() else 0),
            equal_nan=True,
        ).all()
    )


class _RandomOperations(TorchDispatchMode):
    """Collects the names of the operations that draw random numbers."""

    def __init__(self) -> None:
        super().__init__()
        self.found = set[str]()

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        if torch.Tag.nondeterministic_seeded in func.tags:
            self.found.add(func.name().removeprefix("aten::"))
        return func(*args, **(kwargs or {}))


def _broadcasting(work: _Work, output: Tensor | None, batch: Batch, value: float, tolerance: float) -> str | None:
    """Return the two shapes where a criterion pairs each output with each target, because one has a dimension of 1."""
    targets = targets_of(batch)
    if (
        work.loss.criterion is None
        or output is None
        or not isinstance(targets, Tensor)
        or not output.is_floating_point()
    ):
        return None
    if output.shape == targets.shape or output.numel() != targets.numel() or not output.ndim or len(output) < 2:
        return None
    paired = output.reshape(targets.shape)
    try:
        again = work.of_output(paired, batch)
    except Exception:  # it takes no such outputs: class numbers against logits
        return None
    if abs(again - value) <= tolerance * (abs(again) + abs(value)):
        return None
    return f"outputs of shape {_shape(output)} and targets of shape {_shape(targets)}"


def _shape(tensor: Tensor) -> str:
    return f"(N{''.join(f', {size}' for size in tensor.shape[1:])})" if tensor.ndim > 1 else "(N,)"


def first_agreeing(cuts: Sequence[Cut], names: Sequence[str]) -> list[str]:
    """Return the candidates that agree with all the cuts, in their order."""
    return [name for name in names if all(cut.agrees(name) for cut in cuts)]
