"""Probes before and after a rescaling that changes no output: which measures see the weights, not the function."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from torch import Tensor

from sharpness.errors import InputError
from sharpness.loss import Loss
from sharpness.machine.progress import Progress
from sharpness.records import ProbeRecord
from sharpness.records.rows import interval_text, value_text
from sharpness.records.tables import frame_of, grid_html
from sharpness.results import ProbeResult
from sharpness.symmetries.rescaling import PATTERNS, Rescaling, find_rescalings

TOLERANCE = 1e-5  # of the largest output, by which outputs may differ after a rescaling
RTOL = 1e-2  # by which a value without an interval and without an rtol of its own may differ and count as the same

Probe = Callable[..., ProbeResult]


@dataclass(frozen=True)
class StressRow:
    """One measure before and after one rescaling; ``moved`` is ``None`` where a value is missing."""

    name: str
    rescaling: str
    kind: str
    alpha: float
    before: ProbeResult
    after: ProbeResult
    moved: bool | None
    reason: str

    def __repr__(self) -> str:
        """Return the values before and after, and whether they moved."""
        quantity, before, after, *_ = stress_cells(self.before.to_record(), self.after.to_record(), self.moved)
        return f"<StressRow: {quantity} {before} -> {after}, {self.reason}>"

    def to_dict(self) -> dict[str, Any]:
        """Return what a table shows, as plain types."""
        numbers = {
            f"{name}_{when}": getattr(result, name)
            for when, result in (("before", self.before), ("after", self.after))
            for name in ("value", "lower", "upper")
        }
        plain = ("name", "rescaling", "kind", "alpha", "moved", "reason")
        return {name: getattr(self, name) for name in plain} | {"quantity": self.before.quantity} | numbers


STRESS_HEADS = ("quantity", "before", "after", "ratio", "moved")


def stress_cells(before: ProbeRecord, after: ProbeRecord, moved: bool | None) -> tuple[str, ...]:
    """Return the texts of a line of the table: the values before and after, their ratio, and whether they moved.

    >>> trace = ProbeRecord(probe="trace", quantity="trace", value=8.0)
    >>> stress_cells(trace, ProbeRecord(probe="trace", quantity="trace", value=12.0), True)
    ('trace', '8', '12', '1.5', 'moved')
    """
    values = [f"{value_text(record)} {interval_text(record)}".strip() for record in (before, after)]
    ratio = f"{after.value / before.value:.4g}" if before.value and after.value is not None else ""
    return before.quantity, *values, ratio, {True: "moved", False: "", None: "unknown"}[moved]


class StressRows(list[StressRow]):
    """The rows of a stress test, which a notebook shows as a table."""

    def __repr__(self) -> str:
        """Return how many of the measures moved."""
        return f"<StressRows: {sum(row.moved is True for row in self)} of {len(self)} measures moved>"

    def _repr_html_(self) -> str:
        """Return the table that notebooks show."""
        lines = [stress_cells(row.before.to_record(), row.after.to_record(), row.moved) for row in self]
        return grid_html(STRESS_HEADS, lines, f"{self[0].rescaling}, alpha = {self[0].alpha:g}" if self else "")

    def to_frame(self) -> Any:
        """Return a pandas table with a row for each measure."""
        return frame_of([row.to_dict() for row in self])


def stress_test(
    loss: Loss,
    probes: Mapping[str, Probe],
    alpha: float = 4.0,
    *,
    rescaling: Rescaling | None = None,
    w: Tensor | None = None,
    progress: Progress | None = None,
) -> StressRows:
    """Return every probe's result at ``w`` and after a function-preserving rescaling by ``alpha`` (Dinh et al. 2017).

    A probe is called as ``probe(loss, w)``. Without a ``rescaling`` it is the first that can be used, pairs before
    others. A power of two for ``alpha`` rescales without rounding. ``progress`` counts the probes done. Raises
    :class:`InputError` where there is no rescaling, or where it changes the outputs.

    >>> import torch
    >>> from sharpness.probes.trace import Trace
    >>> model = torch.nn.Sequential(torch.nn.Linear(1, 1), torch.nn.ReLU(), torch.nn.Linear(1, 1))
    >>> loss = Loss(model, torch.nn.functional.mse_loss, [(torch.ones(1, 1), torch.zeros(1, 1))])
    >>> w = torch.tensor([1.0, 0.0, 1.0, 0.0])                 # H = 2 J J^T, J = (1, 1, 1, 1)
    >>> row, = stress_test(loss, {"trace": Trace()}, 2.0, w=w)
    >>> round(row.before.value, 3), round(row.after.value, 3), row.moved        # J / f = (1/2, 1/2, 2, 1)
    (8.0, 11.0, True)
    """
    w = loss.point(loss.weights if w is None else w)
    if rescaling is None:
        other, rescaling = _first_usable(loss, alpha, w)
    else:
        other = rescaled(loss, rescaling, alpha, w)
    rows = StressRows()
    for name, probe in probes.items():
        before, after = probe(loss, w), probe(other, other.weights)
        moved, reason = has_moved(before, after)
        rows.append(StressRow(name, rescaling.name, rescaling.kind, alpha, before, after, moved, reason))
        if progress is not None:
            progress(len(rows), len(probes))
    return rows


def has_moved(before: ProbeResult, after: ProbeResult) -> tuple[bool | None, str]:
    """Return whether two results differ by more than they say of themselves, and in words by what that was judged.

    With intervals on both it is whether these are disjoint; else whether the values differ by more than the probe's
    knob ``rtol`` (:data:`RTOL` without one) of the larger.
    """
    if before.value is None or after.value is None:
        missing, when = (before, "before") if before.value is None else (after, "after")
        return None, f"no value {when}: {missing.reasons.get('value', 'it could not be measured')}"
    if None not in (ends := (before.lower, before.upper, after.lower, after.upper)):
        a, b, c, d = (float(end) for end in ends if end is not None)
        moved = b < c or d < a
        return (
            moved,
            f"intervals [{a:.4g}, {b:.4g}] and [{c:.4g}, {d:.4g}] are {'disjoint' if moved else 'not disjoint'}",
        )
    rtol = float(before.knobs.get("rtol", RTOL))
    larger = max(abs(before.value), abs(after.value))
    moved = abs(after.value - before.value) > rtol * larger
    return moved, f"values differ by {'more' if moved else 'no more'} than {rtol:g} of the larger"


def usable_rescalings(
    loss: Loss, alpha: float, w: Tensor | None = None
) -> tuple[Sequence[Rescaling], Mapping[str, str]]:
    """Return the rescalings of a loss that keep its outputs at ``w``, and by name why others cannot be used.

    Raises :class:`InputError` where none can be used, with the patterns that were looked for.
    """
    usable, refused = [], {}
    for rescaling in find_rescalings(loss.model):
        try:
            rescaled(loss, rescaling, alpha, w)
        except InputError as error:
            refused[rescaling.name] = str(error)
        else:
            usable.append(rescaling)
    if not usable:
        raise _none_usable(refused)
    return usable, refused


def _first_usable(loss: Loss, alpha: float, w: Tensor) -> tuple[Loss, Rescaling]:
    refused = {}
    for rescaling in find_rescalings(loss.model):
        try:
            return rescaled(loss, rescaling, alpha, w), rescaling
        except InputError as error:
            refused[rescaling.name] = str(error)
    raise _none_usable(refused)


def _none_usable(refused: Mapping[str, str]) -> InputError:
    failed = f" ({len(refused)} found, the first fails: {next(iter(refused.values()))})" if refused else ""
    return InputError(
        f"expected weights that can be rescaled without changing the outputs, got none{failed}: looked for {PATTERNS}"
    )


def rescaled(loss: Loss, rescaling: Rescaling, alpha: float, w: Tensor | None = None) -> Loss:
    """Return the loss with the tensors of a rescaling multiplied; its ``weights`` are the image of ``w``.

    Raises :class:`InputError` for an alpha that is not positive, where no trainable weight changes, and where the
    outputs on the first batch change by more than :data:`TOLERANCE` of the largest of them.
    """
    if not 0 < alpha < float("inf") or alpha == 1:
        raise InputError(f"expected a positive alpha other than 1, got {alpha}: 4 is usual")
    if not rescaling.powers.keys() & set(loss.layout.names):
        raise InputError(f"expected a rescaling of weights that are measured, {rescaling.name} has none: measure more")
    w = loss.point(loss.weights if w is None else w)
    tensors = loss.tensors(w)
    other = loss.with_tensors(tensors | rescaling.scaled(tensors, alpha))
    change = output_change(loss, w, other, other.weights)
    if not change <= TOLERANCE:
        raise InputError(
            f"expected {rescaling.name} to keep the outputs to {TOLERANCE:g}, they change by {change:.1g} of the "
            "largest: a normalisation's eps is not small there, or a layer is not what its type says; use another"
        )
    return other


def output_change(loss: Loss, w: Tensor, other: Loss, w_other: Tensor) -> float:
    """Return the largest difference of the outputs on the first batch, over the largest output."""
    first = [next(iter(loss.batches))]
    one, two = loss.over(first).outputs(w), other.over(first).outputs(w_other)
    largest = float(one.abs().max())
    difference = float((two - one).abs().max())
    return difference / largest if largest else difference
