"""The report on flatness and label noise: where SGD ends among minima of one function, and the verdicts.

The claims are those of the abstract of arXiv 2602.05065, as scripts/claims2026/label_noise2026.py names them.
"""

from __future__ import annotations

from collections.abc import Mapping
from functools import partial
from typing import Any

import pandas as pd

from analysis.claims2026.label_noise2026.figures import batches_figure, ends_figure, way_figure
from analysis.claims2026.label_noise2026.numbers import compared, ends_of, imbalances, over, read
from analysis.report.findings import Finding, over_all, variants
from analysis.report.numbers import ratio
from analysis.report.report import Drawings, Report, TextTable
from analysis.report.verdicts import Least, Range, judge, judge_within
from analysis.runs import Tables, counts
from analysis.statistics.intervals import Interval
from sharpness.plots.frames import floats, rows_where

SHARPER = Least(1.1, "a tenth; measured sharpness of small and large batches differs by factors", ratio=True)
SAME = Range(1 / 1.1, 1.1, "less than the smallest effect of interest on either side", ratio=True)
ONE_LOSS = Range(0.99, 1.01, "one part in a hundred", ratio=True)
"""Sizes, rates and lengths were chosen on seed 100, before the first of the study's seeds."""
rises, falls = (partial(judge, null=1.0, direction=side, least=SHARPER) for side in (1, -1))
agrees = partial(judge_within, allowed=SAME)


def report(tables: Tables, settings: Mapping[str, Any]) -> Report:
    """Return the figures, the table and the verdicts."""
    ways, ends = read(tables)
    note = counts(tables)
    drawings = {
        "ends": partial(ends_figure, ends, note),
        "way": partial(way_figure, ways, note),
        "batches": partial(batches_figure, ends, note),
    }
    if ends.empty:
        return Report(Drawings(drawings), [], ["No seed was measured: no number and no verdict is given."])
    return Report(Drawings(drawings), [ends_table(ends, note)], [], findings(ends, settings))


def findings(ends: pd.DataFrame, settings: Mapping[str, Any]) -> list[Finding]:
    """Return the verdict on each claim."""
    setting = describe(settings)
    return [*of_noise(ends, setting), *of_data_alone(ends, setting), *of_batches(ends, setting)]


def describe(settings: Mapping[str, Any]) -> str:
    """Say on what the claims were tested."""
    return (
        f"U W x with {settings['hidden']} hidden units on {settings['examples']} {settings['base']['data']['name']} "
        f"images as {settings['cells']} x {settings['cells']} cells, batch 1, rate {settings['rate']:g}, "
        f"{settings['steps']} updates, {settings['seeds']} seeds"
    )


def of_noise(ends: pd.DataFrame, setting: str) -> list[Finding]:
    """Return the verdicts on isotropic noise, on unequal noise, and on how sharp it makes the end."""
    equal, *_, most = imbalances(ends)
    own = ends_of(ends)
    starts = {name: over(rows_where(own, imbalance=equal, start=name), "trace", "flattest_trace") for name in STARTS}
    claim = "Isotropic noise: SGD ends at the flattest minimum, wherever it starts (trace over the least one)"
    found = [over_all(claim, setting, "ends", starts, ratio, agrees, log=True)]
    claim = "Isotropic noise flattens a sharp start (trace, end over start)"
    moved = over(rows_where(own, imbalance=equal, start="sharp"), "trace", "first_trace")
    found.append(Finding(claim, setting, "way", ratio(moved), *falls(moved)))
    claim = f"Noise {most:g} times as large in one output: SGD leaves the flattest minimum (trace, end over start)"
    flat = rows_where(own, start="flat")
    rose = {
        f"{each:g} times": over(rows_where(flat, imbalance=each), "trace", "first_trace") for each in imbalances(own)
    }
    last = rows_where(flat, imbalance=most)
    others = {name: each for name, each in rose.items() if name not in (f"{most:g} times", f"{equal:g} times")}
    others["lambda_max"] = over(last, "top_eigenvalue", "first_top_eigenvalue")
    main = rose[f"{most:g} times"]
    found.append(Finding(claim, setting, "ends", ratio(main), *rises(main), variants=variants(others, ratio, rises)))
    claim = "SGD ends where gradients fluctuate least, as computed (trace over that of this minimum)"
    known = {
        f"{each:g} times": over(rows_where(flat, imbalance=each), "trace", "quietest_trace") for each in imbalances(own)
    }
    found.append(over_all(claim, setting, "ends", known, ratio, agrees, log=True))
    steps = list(zip(imbalances(own), imbalances(own)[1:], strict=False))
    grown = {
        f"{b:g} over {a:g} times": compared(rows_where(flat, imbalance=a), rows_where(flat, imbalance=b), "trace")
        for a, b in reversed(steps)
    }
    first, *rest = grown
    claim = f"The more unequal the noise, the sharper the end (trace, {first})"
    more = variants({name: grown[name] for name in rest}, ratio, rises)
    return [*found, Finding(claim, setting, "ends", ratio(grown[first]), *rises(grown[first]), variants=more)]


STARTS = ("flat", "sharp", "random")


def of_data_alone(ends: pd.DataFrame, setting: str) -> list[Finding]:
    """Return the verdicts on what should not matter for the end: start, rate and batch size."""
    own, found = ends_of(ends), list[Finding]()
    larger, batch = floats(ends, "rate").max(), sorted(set(ends["batch"]))[1]
    faster = ends_of(ends, rate=larger)
    others = {
        "start does not matter for the end (trace, sharp over flattest start)": rows_where(own, start="sharp"),
        "learning rate does not (trace, twice the rate over the rate)": faster,
        f"batch size does not (trace, batch {batch} at the larger rate over batch 1)": ends_of(
            ends, rate=larger, batch=batch
        ),
    }
    for words, rows in others.items():
        each: dict[str, Interval] = {}
        for imbalance in imbalances(rows):
            first, second = (rows_where(of, imbalance=imbalance) for of in (rows_where(own, start="flat"), rows))
            each[f"{imbalance:g} times"] = compared(first, second, "trace")
        claim = f"The data alone decide how sharp the end is: the {words}"
        found.append(over_all(claim, setting, "ends", each, ratio, agrees, log=True))
    return found


def of_batches(ends: pd.DataFrame, setting: str) -> list[Finding]:
    """Return the verdicts on small against full batches, and on the network that is not linear."""
    equal, *_, most = imbalances(ends)
    ends = rows_where(ends, start="random")

    def at(imbalance: float, activation: str, full: bool) -> pd.DataFrame:
        rows = rows_where(ends, imbalance=imbalance, activation=activation)
        return rows_where(rows, batch=rows["batch"].max() if full else rows["batch"].min())

    sharper = {name: compared(at(most, name, True), at(most, name, False), "trace") for name in ("linear", "tanh")}
    sharper["isotropic"] = compared(at(equal, "linear", True), at(equal, "linear", False), "trace")
    claim = (
        "Against Keskar et al.: small batches end in a sharper minimum than the full batch from random weights "
        f"(trace, batch 1 over full, noise {most:g} times as large in one output)"
    )
    main = sharper.pop("linear")
    more = variants(sharper, ratio, rises)
    found = [Finding(claim, setting, "batches", ratio(main), *rises(main), variants=more)]
    loss = compared(at(most, "linear", True), at(most, "linear", False), "test_loss")
    claim = "The two minima generalise alike: they are one function (test loss, batch 1 over full)"
    found.append(Finding(claim, setting, "batches", ratio(loss), *judge_within(loss, ONE_LOSS)))
    unequal = {name: compared(at(equal, "tanh", False), at(most, "tanh", False), name) for name in MEASURED}
    claim = f"A tanh network ends sharper with noise {most:g} times as large in one output (trace, over isotropic)"
    main = unequal.pop("trace")
    more = variants(unequal, ratio, rises)
    return [*found, Finding(claim, setting, "batches", ratio(main), *rises(main), variants=more)]


MEASURED = ("trace", "top_eigenvalue")


def ends_table(ends: pd.DataFrame, note: str) -> TextTable:
    """Return for each imbalance the sharpness of the minima known and of those where SGD ended."""
    own, text, plain = ends_of(ends), list[list[str]](), list[dict[str, Any]]()
    for imbalance in imbalances(own):
        here = rows_where(own, imbalance=imbalance, start="flat")
        numbers = {
            "computed": over(here, "quietest_trace", "flattest_trace"),
            "flattest start": over(here, "trace", "flattest_trace"),
            "sharp start": over(rows_where(own, imbalance=imbalance, start="sharp"), "trace", "flattest_trace"),
            "computed, top": over(here, "quietest_top", "flattest_top"),
            "flattest start, top": over(here, "top_eigenvalue", "flattest_top"),
        }
        text.append([f"{imbalance:g}", *map(ratio, numbers.values())])
        for name, each in numbers.items():
            bounds = {"value": each.value, "lower": each.lower, "upper": each.upper, "n": each.n}
            plain.append({"imbalance": imbalance, "quantity": name} | bounds)
    header = ["noise", "trace: computed", "flattest start", "sharp start", "λ_max: computed", "flattest start"]
    caption = (
        "Trace and top eigenvalue of the Hessian at the minima where SGD ended, over those of the flattest minimum of "
        "the same function, by the ratio of the noise's variances in the two outputs; computed: the minimum with the "
        f"least fluctuation of the gradient. Geometric means over seeds with 95 % intervals. {note}"
    )
    return TextTable("ends_table", "Where SGD ends", header, text, pd.DataFrame(plain), caption)
