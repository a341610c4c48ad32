"""The verdict on a loss's mean: what its batches count for and whether they may be cut, or why it is refused."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from sharpness.errors import InputError
from sharpness.loss.counts import Count
from sharpness.loss.mean_check import Cut, Cuts, examine, first_agreeing
from sharpness.loss.still_data import Scan
from sharpness.machine.distributed import from_all_ranks, on_all_ranks

if TYPE_CHECKING:
    from sharpness.loss.checked import CheckedLoss

DECLARED = "as declared"
CURES = "say what the mean divides by (count=, --count), or declare a loss of whole batches (coupled=True, --coupled)"


@dataclass(frozen=True)
class Mean:
    """The name of what a mean divides by, whether batches may be cut, and what a record says of it."""

    count: str
    divisible: bool
    said: str
    fixed_draw: bool = False  # the random numbers of the network are drawn once, as asked
    changes_inputs: bool = False


@dataclass(frozen=True)
class _Evidence:
    """The outcome of the cuts on all processes together."""

    network: list[str] | None  # the candidates that agree with every cut; None where nothing could be cut
    criterion: list[str] | None
    adds_up: bool | None
    cannot_cut: str | None
    random: str | None
    broadcasts: str | None
    changes_inputs: bool
    finite: bool
    example: Cut | None
    num_batches: int


def verdict_on_mean(
    loss: CheckedLoss, scan: Scan, candidates: Mapping[str, Count], *, coupled: bool, freeze: bool, summed: bool
) -> Mean:
    """Return what the batches of a loss count for, after a look at a few examples.

    Raises :class:`InputError` for a network or criterion that draws random numbers unless ``freeze``, for outputs and
    targets that are paired each with each, for a mean that no candidate explains over several batches, and for a
    declared count that is wrong.
    """
    cut = not coupled and loss.norm != "batch"
    found = on_all_ranks(lambda: examine(loss, scan.odd, candidates, cut=cut))
    evidence = _together(found, list(candidates), len(scan.sizes))
    if evidence.broadcasts:
        raise InputError(
            f"expected targets of the shape of the outputs, got {evidence.broadcasts}: torch pairs each with each; "
            "reshape one of them, as in output.squeeze(1), or use cross_entropy for class numbers"
        )
    if evidence.random and not freeze:
        raise InputError(
            f"expected equal outputs for equal inputs, but the network or its loss {evidence.random} in evaluation "
            "mode: switch off functional dropout, or have one draw measured with freeze=True (--freeze)"
        )
    count, divisible, said = _count(evidence, scan, list(candidates), coupled=coupled, summed=summed, norm=loss.norm)
    if evidence.random:
        divisible, said = False, f"{said}; one draw of its random numbers, as asked"
    return Mean(count, divisible, said, evidence.random is not None, evidence.changes_inputs)


def _together(found: Cuts, names: Sequence[str], num_batches: int) -> _Evidence:
    own: dict[str, Any] = {
        "network": first_agreeing(found.network, names) if found.network else None,
        "criterion": first_agreeing(found.criterion, names) if found.criterion else None,
        "adds_up": all(c.adds_up for c in found.network or found.criterion)
        if found.network + found.criterion
        else None,
        "cannot_cut": found.cannot_cut,
        "random": found.random,
        "broadcasts": found.broadcasts,
        "changes_inputs": found.changes_inputs,
        "finite": found.finite,
        "example": next(iter([*found.network, *found.criterion]), None),
        "num_batches": num_batches,
    }
    every = from_all_ranks(own)

    def common(key: str) -> list[str] | None:
        known = [set(one[key]) for one in every if one[key] is not None]
        return [name for name in names if all(name in one for one in known)] if known else None

    adding = [one["adds_up"] for one in every if one["adds_up"] is not None]
    return _Evidence(
        network=common("network"),
        criterion=common("criterion"),
        adds_up=all(adding) if adding else None,
        changes_inputs=any(one["changes_inputs"] for one in every),
        finite=all(one["finite"] for one in every),
        num_batches=sum(one["num_batches"] for one in every),
        **{
            key: next((one[key] for one in every if one[key] is not None), None)
            for key in ("cannot_cut", "random", "broadcasts", "example")
        },
    )


def _count(
    evidence: _Evidence, scan: Scan, names: list[str], *, coupled: bool, summed: bool, norm: str
) -> tuple[str, bool, str]:
    """Return the count to use, whether batches may be cut, and what a record says."""
    usual = names[0]
    if coupled:
        return (DECLARED if usual == DECLARED else "examples"), False, "a loss of whole batches, as declared"
    divisible = norm != "batch"
    if summed:
        if evidence.adds_up is False:
            return _one_batch_or_refused(evidence, usual)
        return usual, divisible and not evidence.cannot_cut, "a sum" + ("" if evidence.adds_up is None else ", tested")
    tested = [agreeing for agreeing in (evidence.network, evidence.criterion) if agreeing is not None]
    if not tested:
        return _untested(evidence, scan, names, divisible)
    agreeing = [name for name in names if all(name in one for one in tested)]
    if agreeing:
        how = "by cutting a batch" if evidence.network is not None else "on the criterion alone"
        said = f"a mean over {agreeing[0]}, tested {how}"
        if evidence.cannot_cut:
            said += f"; batches are not cut, because a part of one fails ({evidence.cannot_cut})"
        return agreeing[0], divisible and not evidence.cannot_cut, said
    return _one_batch_or_refused(evidence, usual)


def _one_batch_or_refused(evidence: _Evidence, usual: str) -> tuple[str, bool, str]:
    """Take one batch as the whole it is; several of a mean that cutting does not confirm are refused."""
    cut = evidence.example
    assert cut is not None
    if evidence.num_batches == 1 and usual != DECLARED:
        return usual, False, "a loss of the whole batch, which is never cut: its parts do not give the whole"
    *_, first, second = cut.counts[usual]
    parts = (first * cut.parts[0] + second * cut.parts[1]) / max(first + second, 1e-300)
    if evidence.adds_up and usual != DECLARED:
        raise InputError(
            f"expected a criterion that averages, got one that adds up ({cut.whole:.6g} for a few examples, "
            f"{cut.parts[0]:.6g} and {cut.parts[1]:.6g} for their parts): use reduction='mean', or reduction='sum' as "
            "an attribute or keyword"
        )
    raise InputError(
        f"expected a loss that is a mean over its examples or labels, got {cut.whole:.6g} for a few examples and "
        f"{parts:.6g} for their two parts put together: {CURES}"
    )


def _untested(evidence: _Evidence, scan: Scan, names: list[str], divisible: bool) -> tuple[str, bool, str]:
    """Accept what no cut could test where it makes no difference or was declared, else refuse."""
    usual = names[0]
    why = "random numbers" if evidence.random else "no example to spare" if evidence.finite else "no finite value"
    why = f"an error for a part of a batch ({evidence.cannot_cut})" if evidence.cannot_cut else why
    if usual == DECLARED:
        return usual, divisible and not evidence.cannot_cut, "a mean over the declared count, not tested"
    if evidence.num_batches == 1 or scan.relative_counts_agree(names) or evidence.random or not evidence.finite:
        return usual, divisible and not evidence.cannot_cut, f"a mean over {usual}, not tested: {why}"
    raise InputError(f"expected a loss whose mean can be tested by cutting a batch, but there is {why}: {CURES}")
