"""Plain sentences about records, each with the numbers that it rests on."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence

from sharpness.records.invariance import is_invariant
from sharpness.records.probe_record import ProbeRecord, deciding_knobs

Records = Mapping[str, ProbeRecord]
FLATTER = ("adaptive_radius", "pac_bayes")
"""Probes whose number is larger where the minimum is flatter."""
OTHER = ("distance", "gradient_noise", "interpolation", "norms", "pyhessian", "learning_coefficient")
OTHER += ("preconditioned_noise", "branches", "advice")
"""Probes whose number is no sharpness."""


def of_checkpoint(records: Records) -> list[str]:
    """Return sentences about one checkpoint.

    >>> top = ProbeRecord(probe="eigenvalues", quantity="top_eigenvalue", value=4.0, upper=4.5)
    >>> of_checkpoint({"eigenvalues": top})[0]
    'Plain gradient descent on these data is stable at this point up to a learning rate of 2 / λ_max = 0.5.'
    """
    return [*_edge(records), *_negative(records), *_noise(records), *_doubts(records)]


def _edge(records: Records) -> Iterator[str]:
    top, trace = records.get("eigenvalues"), records.get("trace")
    if top is None or not top.value or top.value <= 0 or top.knobs.get("which", "top") not in ("top", "both"):
        return
    if top.knobs.get("matrix", "hessian") != "hessian":
        return
    yield (
        "Plain gradient descent on these data is stable at this point up to a learning rate of 2 / λ_max = "
        f"{2 / top.value:.3g}."
    )
    if trace is not None and trace.value and trace.value > 0:
        yield (
            f"The largest eigenvalue is {top.value / trace.value:.0%} of the trace: the curvature is that of about "
            f"{max(trace.value / top.value, 1):.2g} directions as sharp as the sharpest one."
        )


def _negative(records: Records) -> Iterator[str]:
    density = records.get("density")
    smallest = None if density is None else density.details.get("smallest_node")
    largest = None if density is None else density.details.get("largest_node")
    if smallest is not None and largest and smallest < -1e-3 * abs(largest):
        yield (
            f"There is a direction of curvature {smallest:.3g} or less, so this point is no minimum of the loss on "
            "these data: a saddle, or a training that has not ended."
        )


def _noise(records: Records) -> Iterator[str]:
    noise = records.get("gradient_noise")
    if noise is None:
        return
    if noise.value is None or noise.upper is None:
        low = "" if noise.lower is None else f" beyond being at least {noise.lower:.3g} examples"
        yield f"The gradient cannot be told from its noise on these data, so the noise scale is not known{low}."
    else:
        yield (
            f"The gradient's noise scale is {noise.value:.3g} examples ({noise.lower or 0:.3g} to {noise.upper:.3g}): "
            "up to about there larger batches pay, far above it they do not (McCandlish et al. 2018)."
        )


def _doubts(records: Records) -> Iterator[str]:
    open_ones = [record.quantity for record in records.values() if record.converged is False]
    if open_ones:
        yield f"Not converged, so taken with care: {', '.join(open_ones)}."
    for record in records.values():
        if record.value is None:
            yield f"{record.quantity} has no value: {record.reasons.get('value', 'no reason given')}."
    warnings = [str(text) for record in records.values() for text in record.details.get("warnings") or ()]
    yield from (f"{text[:1].upper()}{text[1:]}{'' if text.endswith('?') else '.'}" for text in dict.fromkeys(warnings))


def of_comparison(first: tuple[str, Records], second: tuple[str, Records]) -> list[str]:
    """Return sentences about the second of two checkpoints beside the first, by the intervals of both."""
    counts = {kind: _judged(first[1], second[1], kind) for kind in (False, True)}
    kinds = {
        False: "measures that a rescaling of the weights moves, and that can be made as large as one likes",
        True: "measures that no such rescaling moves",
    }
    sentences = [
        f"By {kinds[kind]}, {second[0]} is sharper in {sharper}, flatter in {flatter}, and not told from {first[0]} in "
        f"{len(judged) - sharper - flatter} of {len(judged)}{_names(judged)}."
        for kind, judged in counts.items()
        if judged
        for sharper, flatter in [(_count(judged, 1), _count(judged, -1))]
    ]
    signs = {kind: _count(judged, 1) - _count(judged, -1) for kind, judged in counts.items()}
    if signs[False] * signs[True] < 0:
        sentences.append("The two kinds disagree: the difference is one of the scale of the weights at least in part.")
    if counts[False] and not counts[True]:
        sentences.append(
            "No measure was taken that a rescaling leaves alone, so nothing here is about the function alone: add "
            "worst_case, average_case or relative_flatness."
        )
    return sentences


def _judged(first: Records, second: Records, invariant: bool) -> dict[str, int]:
    """Return 1 where the second is sharper, -1 where it is flatter, and 0 where intervals leave it open."""
    judged = {}
    for name, record in second.items():
        base = first.get(name)
        if name in OTHER or base is None or base.value is None or record.value is None:
            continue
        if is_invariant(record) is not invariant or deciding_knobs(base.knobs) != deciding_knobs(record.knobs):
            continue
        sign = -1 if name in FLATTER else 1
        judged[record.quantity] = sign * (_above(record, base) - _above(base, record))
    return judged


def _above(one: ProbeRecord, other: ProbeRecord) -> int:
    """Return whether one number is surely above another; without intervals values are compared as they are."""
    assert one.value is not None and other.value is not None
    if {one.lower, one.upper, other.lower, other.upper} == {None}:
        return int(one.value > other.value)
    low, high = one.lower, other.upper
    return int(low is not None and high is not None and low > high)


def _count(judged: Mapping[str, int], sign: int) -> int:
    return sum(each == sign for each in judged.values())


def _names(judged: Mapping[str, int]) -> str:
    words = {1: "sharper", -1: "flatter"}
    told = [f"{name.replace('_', ' ')} {words[sign]}" for name, sign in judged.items() if sign]
    return f" ({', '.join(told)})" if told else ""


def common(records: Sequence[ProbeRecord]) -> dict[str, str]:
    """Return what is the same for all records: data, loss, precision, versions; what differs is said to."""
    facts = {
        "data": {_data(record) for record in records},
        "loss": {str(record.details.get("criterion", "not recorded")) for record in records},
        "BatchNorm": {record.norm or "" for record in records},
        "weight decay in the loss": {f"{record.weight_decay:g}" for record in records},
        "precision": {record.dtype or "" for record in records},
        "device": {record.device or "" for record in records},
        "versions": {", ".join(f"{k} {v}" for k, v in record.versions.items()) for record in records},
    }
    shown = {name: " or ".join(sorted(filter(None, values))) for name, values in facts.items()}
    return {name: text for name, text in shown.items() if text}


def _data(record: ProbeRecord) -> str:
    given = record.details.get("data") or {}
    total = given.get("examples_total")
    of = f" of {total:,}" if isinstance(total, int) and total != record.num_examples else ""
    count = "an unknown number" if record.num_examples is None else f"{record.num_examples:,}"
    named = f" of {given['spec']}" if given.get("spec") else ""
    return f"{count}{of} examples{named}"
