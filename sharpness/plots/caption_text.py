"""The words that the captions share: on which examples, of which matrix, what the bars mean, what is missing."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np
import pandas as pd

from sharpness.plots.frames import floats
from sharpness.plots.networks import Network, far_end, matrix_of, with_record
from sharpness.records import ProbeRecord

MATRICES = {"gauss_newton": "Gauss-Newton", "fisher": "Fisher", "empirical_fisher": "empirical Fisher"}
WHICH = {
    "top": "top eigenvalues",
    "bottom": "bottom eigenvalues",
    "both": "top and bottom eigenvalues",
    "magnitude": "eigenvalues of largest magnitude",
}
NAMES = {name: name.capitalize() for name in ("bayes", "fisher", "gauss", "keskar", "newton", "occam", "rao")}
NAMES |= {name: name.upper() for name in ("gni", "ias", "pac", "sam")}
"""Words of quantities that are names."""

Pairs = Sequence[tuple[Network, ProbeRecord]]


def drawn_records(networks: Sequence[Network], probe: str, table: pd.DataFrame) -> list[tuple[Network, ProbeRecord]]:
    """Return the networks that are in the table, each with its record of the probe."""
    drawn = set(table["network"])
    return [(network, record) for network, record in with_record(networks, probe) if network.label in drawn]


def matrices(pairs: Pairs) -> str:
    """Return the name of the matrix that the records are of, or of each where they are of different ones.

    >>> matrices([(Network("A"), ProbeRecord(probe="trace", quantity="trace", value=1.0))])
    'Hessian'
    """
    names = [matrix_of(record) for _, record in pairs]
    return " or ".join(dict.fromkeys(MATRICES.get(name, name.capitalize()) for name in names))


def unit(pairs: Pairs) -> str:
    """Return the unit of the losses, and so of their curvature: nats for cross-entropy, otherwise nothing is known.

    >>> unit([(Network("A"), ProbeRecord(probe="trace", quantity="trace", value=1.0, details={"criterion": "mse"}))])
    ''
    """
    names = {record.details.get("criterion", "cross_entropy") for _, record in pairs}
    return " nats" if names == {"cross_entropy"} else ""


def rise_text(record: ProbeRecord, rise: float | None) -> str:
    """Return a rise of the loss with its unit, or ``unknown``."""
    return "unknown" if rise is None else number(rise) + unit([(Network(""), record)])


def with_unit(label: str, pairs: Pairs) -> str:
    """Return the label of an axis of losses or curvature, with the unit in parentheses if it has one."""
    return f"{label} ({unit(pairs).strip()})" if unit(pairs) else label


def eigenvalues_of(record: ProbeRecord) -> str:
    """Say which eigenvalues a record was asked for."""
    return WHICH[record.knobs["which"]]


def data(shown: Pairs) -> str:
    """Say on which examples the records were measured, in which precision, and what BatchNorm did."""
    return "Measured on " + each(shown, measured_on)


def measured_on(record: ProbeRecord) -> str:
    """Return the examples of one record, of the data that it names or else of the training set, and the precision.

    >>> given = {"data": {"spec": "npz:digits.npz", "examples": 200, "examples_total": 1797}}
    >>> measured_on(ProbeRecord(probe="trace", quantity="trace", value=1.0, num_examples=200, details=given))
    '200 of 1,797 examples of npz:digits.npz, drawn at random'
    """
    count = "an unknown number of" if record.num_examples is None else f"{record.num_examples:,}"
    given = record.details.get("data") or {}
    if "spec" in given:
        total, drawn = given.get("examples_total"), given.get("examples")
        examples = f"{count} examples of {given['spec']}"
        if total is not None and drawn is not None and drawn < total:
            examples = f"{count} of {total:,} examples of {given['spec']}, drawn at random"
    elif record.details.get("subset") is not None:
        examples = f"{count} training examples drawn at random, as one batch"
    else:
        examples = f"all {count} training examples"
    penalty = f", with the penalty {record.weight_decay:g}/2 |w|^2" if record.weight_decay else ""
    parts = (f", norm {record.norm}" if record.norm else "", f", {record.dtype}" if record.dtype else "", penalty)
    return examples + "".join(parts)


def each(shown: Pairs, describe: Callable[[ProbeRecord], str]) -> str:
    """Return one description if all records share it, otherwise one per network."""
    texts = {network.label: describe(record) for network, record in shown}
    if len(set(texts.values())) == 1:
        return next(iter(texts.values()))
    return "; ".join(f"{label}: {text}" for label, text in texts.items())


def plural(count: int | None, noun: str) -> str:
    """Return a count with its noun.

    >>> plural(1, "start"), plural(2, "start")
    ('1 start', '2 starts')
    """
    return f"{count} {noun}{'' if count == 1 else 's'}"


def number(value: float, digits: int = 3) -> str:
    """Return significant digits, in full for large numbers.

    >>> number(175535.3), number(0.001234)
    ('176,000', '0.00123')
    """
    rounded = float(f"{value:.{digits}g}")
    return f"{rounded:,.0f}" if abs(rounded) >= 1000 else f"{rounded:g}"


def intervals(rows: pd.DataFrame) -> str:
    """Say what the bars and marks of eigenvalues mean, and how many have no bound or are not converged."""
    one_sided = int(np.sum(~np.isfinite(floats(rows, "lower")) | ~np.isfinite(floats(rows, "upper"))))
    unconverged = int(np.sum([flag is False for flag in rows["converged"]]))
    text = "; bars: their intervals, mostly smaller than the marks"
    text += f" ({one_sided} of {len(rows)} have a bound on one side or none)" if one_sided else ""
    return text + (f"; open marks: not as narrow as asked ({unconverged})" if unconverged else "")


def missing(table: pd.DataFrame, networks: Sequence[Network], pairs: Pairs = ()) -> str:
    """Name the networks that are not in the table and are not the far end of a record of a pair."""
    there = {*table["network"], *(far.label for _, record in pairs if (far := far_end(networks, record)) is not None)}
    absent = [network.label for network in networks if network.label not in there]
    return f"Without a record to draw: {', '.join(absent)}." if absent else ""


def title(quantity: str) -> str:
    """Return the name of a quantity as words.

    >>> title("distance_from_start"), title("sam_sharpness")
    ('Distance from start', 'SAM sharpness')
    """
    words = " ".join(NAMES.get(word, word) for word in quantity.replace("_", " ").split())
    return words[:1].upper() + words[1:]


def value_text(record: ProbeRecord) -> str:
    """Return a value with its interval as far as it is known, each with four digits.

    >>> value_text(ProbeRecord(probe="trace", quantity="trace", value=20.0, lower=19.5, upper=20.5))
    '20 [19.5, 20.5]'
    """
    ends = ["" if bound is None else f"{bound:.4g}" for bound in (record.lower, record.upper)]
    interval = f" [{ends[0] or '?'}, {ends[1] or '?'}]" if any(ends) else ""
    return f"{record.value:.4g}{interval}".replace("-", "\N{MINUS SIGN}")
