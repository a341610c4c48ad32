"""SGD against its stochastic differential equation at one noise scale: numbers, figure, tables and verdicts."""

from __future__ import annotations

from collections.abc import Mapping
from functools import partial
from typing import Any

import numpy as np
import pandas as pd
from matplotlib.axes import Axes

from analysis.report.findings import Finding, over_all
from analysis.report.numbers import ABSENT, ratio
from analysis.report.report import Drawing, TextTable
from analysis.report.verdicts import Judged, Least, Range, judge, judge_within
from analysis.statistics.intervals import Interval, paired_ratio
from sharpness.plots.axes import log_axis
from sharpness.plots.frames import floats, groups, records, rows_if, rows_where
from sharpness.plots.style import COLUMN, LOOKS, new_figure

RIDGE = ("batch", "rate", "step", "theory", "seed", "excess")
NETWORK = ("kind", "batch", "step", "seed", "diverged", "loss", "accuracy", "top_eigenvalue")
SMALL, LARGE = 0.3, 1.0
"""Learning rates of a network are small and large up to and from these values of eps lambda_max: on ridge regression
SGD has parted from the equation by a tenth at the one and by more than a half at the other, by the closed forms."""
COMPUTED = Range(0.95, 1.05, "one in twenty, half of what counts as parted", ratio=True)
AGREE = Range(0.9, 1.1, "one in ten", ratio=True)
PARTED = Least(1.1, "one in ten", ratio=True)
NEAR = Range(1 / 1.2, 1.2, "a fifth, where noise changes these numbers by factors", ratio=True)
FAR = Least(1.2, "a fifth, where noise changes these numbers by factors", ratio=True)
LOSS, EQUATION, FLOW, SGD = "Late loss", LOOKS[1], LOOKS[2], LOOKS[0]


def ridge_ratios(rows: pd.DataFrame) -> pd.DataFrame:
    """Return for each batch size SGD's late excess loss over the equation's, measured and by the closed forms."""
    table, equation = [], rows_if(rows, np.isnan(floats(rows, "batch")))
    for batch, own in groups(rows, "batch"):
        found = _ratio(equation, own, "excess")
        row = {"batch": int(batch), "rate": float(floats(own, "rate")[0])}
        row["computed"] = float(floats(own, "theory")[0] / floats(equation, "theory")[0])
        table.append(row | _plain(found))
    return pd.DataFrame(table, columns=pd.Index(["batch", "rate", "computed", "value", "lower", "upper", "n"]))


def against_theory(rows: pd.DataFrame) -> dict[str, Interval]:
    """Return the measured over the computed excess loss of the equation and of SGD at each batch size."""
    equation = rows_if(rows, np.isnan(floats(rows, "batch")))
    parts = {"equation": equation, **{f"B = {batch:g}": own for batch, own in groups(rows, "batch")}}
    return {name: paired_ratio(floats(own, "theory"), floats(own, "excess")) for name, own in parts.items()}


def network_rates(rows: pd.DataFrame) -> pd.DataFrame:
    """Return the rows of SGD with ``rate``, the learning rate times the mean lambda_max at its end."""
    sgd = rows_where(rows, kind="sgd")
    top = {batch: float(np.nanmean(floats(own, "top_eigenvalue"))) for batch, own in groups(sgd, "batch")}
    return sgd.assign(rate=floats(sgd, "step") * np.array([top[batch] for batch in sgd["batch"]], dtype=float))


def pooled(rows: pd.DataFrame, name: str) -> dict[int, float]:
    """Return each seed's mean of a column, without the seeds of which a walk diverged."""
    means = {seed: float(np.mean(floats(own, name))) for seed, own in groups(rows.filter(["seed", name]), "seed")}
    return {seed: mean for seed, mean in means.items() if np.isfinite(mean)}


def _ratio(under: pd.DataFrame, over: pd.DataFrame, name: str) -> Interval:
    first, second = pooled(under, name), pooled(over, name)
    both = sorted(first.keys() & second.keys())
    if len(both) < 2:
        return Interval(None, None, None, len(both), "fewer than 2 seeds were measured without divergence")
    return paired_ratio([first[seed] for seed in both], [second[seed] for seed in both])


def equation_findings(ridge: pd.DataFrame, network: pd.DataFrame, settings: Mapping[str, Any]) -> list[Finding]:
    """Return the verdicts on the equation: closed forms, agreement at small rates, and where SGD parts from it."""
    return [*_on_ridge(ridge, settings), *_on_network(network, settings)]


def _on_ridge(rows: pd.DataFrame, settings: Mapping[str, Any]) -> list[Finding]:
    knobs = settings["ridge"]
    setting = (
        f"ridge regression on {knobs['examples']} images as {knobs['cells']} x {knobs['cells']} cells, penalty "
        f"{knobs['penalty']:g} lambda_max, {settings['seeds']} walks of the time {knobs['time']:g} / lambda_max"
    )
    claims = (
        "The integrated equation ends at the excess loss of its closed form (ridge regression, measured over computed)",
        "SGD ends at the excess loss of its own (ridge regression, measured over computed, mean over batch sizes)",
        "On ridge regression SGD and its equation agree at small learning rates (late excess loss, SGD over equation)",
        "On ridge regression they part at large ones (the same, at the largest rate)",
    )
    if rows.empty:
        return [_none(claim, setting) for claim in claims]
    own, (first, *_, last) = against_theory(rows), ridge_ratios(rows).to_dict("records")
    at_first, at_last = _interval(first), _interval(last)
    within = partial(judge_within, allowed=COMPUTED)
    equation = own.pop("equation")
    return [
        Finding(claims[0], setting, "equation", ratio(equation), *within(equation)),
        over_all(claims[1], setting, "equation", own, ratio, within, log=True),
        _at(claims[2], setting, first["rate"], at_first, judge_within(at_first, AGREE)),
        _at(claims[3], setting, last["rate"], at_last, judge(at_last, 1, 1, PARTED)),
    ]


def _on_network(rows: pd.DataFrame, settings: Mapping[str, Any]) -> list[Finding]:
    knobs = settings["diffusion"]
    setting = (
        f"{settings['hidden']} hidden units, {knobs['images']} images, {100 * settings['noise']:g} % random labels, "
        f"noise scale {knobs['noise_scale']:g}, time {knobs['time']:g}, {settings['seeds']} seeds"
    )
    small, large = f"eps lambda_max up to {SMALL:g}", f"eps lambda_max from {LARGE:g}"
    claims = (
        "On a network noise keeps the late training loss up (equation over gradient flow)",
        f"On a network SGD and its equation agree at small learning rates (late training loss, {small})",
        f"On a network they part at large ones (late training loss, {large})",
        "Noise leads to flatter places (lambda_max, equation over gradient flow)",
        f"SGD and its equation end equally flat at small learning rates (lambda_max, {small})",
    )
    if rows.empty:
        return [_none(claim, setting) for claim in claims]
    flow, equation, sgd = rows_where(rows, kind="flow"), rows_where(rows, kind="equation"), network_rates(rows)
    slow, fast = rows_if(sgd, floats(sgd, "rate") <= SMALL), rows_if(sgd, floats(sgd, "rate") >= LARGE)
    near, far = partial(judge_within, allowed=NEAR), partial(judge, null=1, direction=1, least=FAR)
    tried = (
        (_ratio(flow, equation, "loss"), far),
        (_ratio(equation, slow, "loss"), near),
        (_ratio(equation, fast, "loss"), far),
        (_ratio(flow, equation, "top_eigenvalue"), partial(judge, null=1, direction=-1, least=FAR)),
        (_ratio(equation, slow, "top_eigenvalue"), near),
    )
    return [
        Finding(claim, setting, "equation", ratio(found), *rule(found))
        for claim, (found, rule) in zip(claims, tried, strict=True)
    ]


def _none(claim: str, setting: str) -> Finding:
    found = Interval(None, None, None, 0, "no walk was measured")
    return Finding(claim, setting, "equation", ABSENT, *judge_within(found, AGREE))


def _at(claim: str, setting: str, rate: float, found: Interval, judged: Judged) -> Finding:
    return Finding(claim, setting, "equation", f"{ratio(found)} at eps lambda_max = {rate:.2g}", *judged)


def draw_equation(ridge: pd.DataFrame, network: pd.DataFrame, ended: str) -> Drawing | str:
    """Draw SGD against the learning rate beside its equation: on ridge regression, and loss and lambda_max of a net."""
    if ridge.empty or network.empty:
        return "the equation was not integrated"
    figure, axes = new_figure(COLUMN, 6.0, 3, 1)
    ratios, sgd = ridge_ratios(ridge), network_rates(network)
    _ridge(axes[0, 0], ratios)
    for ax, name, label in ((axes[1, 0], "loss", "Late train loss (nats)"), (axes[2, 0], "top_eigenvalue", LAMBDA)):
        _network(ax, network, sgd, name)
        ax.set(ylabel=label)
    rates = [*floats(ratios, "rate"), *floats(sgd, "rate")]
    for ax in axes[:, 0]:
        log_axis(ax.xaxis, rates)
        ax.set(xlabel=r"Learning rate, $\epsilon\,\lambda_{\max}$")
    axes[0, 0].set_title("ridge regression")
    axes[1, 0].set_title("network")
    handles = [
        SGD.handle("SGD", linestyle=""),
        EQUATION.handle("equation", marker=""),
        FLOW.handle("no noise", marker=""),
    ]
    figure.legend(handles=handles, loc="outside upper center", ncols=3)
    caption = (
        "SGD against its learning rate at one noise scale, to which one stochastic differential equation belongs (mean "
        "and 95 % interval over seeds). Top: excess loss of ridge regression in the end, over that of the equation "
        "(log); line: by the closed forms. Middle: train loss of a network, mean over the last quarter of the time. "
        "Bottom: top eigenvalue of its Hessian in the end. Dashed with band: the equation, integrated in steps much "
        "smaller than the rates that it is compared with; the lowest line in the middle and the highest one below: "
        f"gradient flow, without noise. {ended}"
    )
    numbers = pd.concat([ratios.assign(problem="ridge"), _summary(network, sgd).assign(problem="network")])
    return Drawing(figure, numbers, caption)


LAMBDA = r"$\lambda_{\max}$ in the end"


def _ridge(ax: Axes, ratios: pd.DataFrame) -> None:
    x, y = floats(ratios, "rate"), floats(ratios, "value")
    ax.axhline(1, color=EQUATION.color, linestyle=EQUATION.linestyle)
    ax.plot(x, floats(ratios, "computed"), color=SGD.color, linewidth=0.9)
    bars = np.stack([y - floats(ratios, "lower"), floats(ratios, "upper") - y])
    ax.errorbar(x, y, bars, color=SGD.color, marker=SGD.marker, linestyle="", capsize=2, elinewidth=0.8)
    log_axis(ax.yaxis, [*y, *floats(ratios, "computed")])
    ax.set(ylabel="Excess loss,\nSGD over equation")


def _network(ax: Axes, rows: pd.DataFrame, sgd: pd.DataFrame, name: str) -> None:
    table = _summary(rows, sgd)
    for kind, look in (("equation", EQUATION), ("flow", FLOW)):
        (own,) = rows_where(table, kind=kind, quantity=name).to_dict("records")
        ax.axhline(own["value"], color=look.color, linestyle=look.linestyle, linewidth=1.0)
        ax.axhspan(own["lower"], own["upper"], color=look.color, alpha=0.15, linewidth=0)
    own = rows_where(table, kind="sgd", quantity=name)
    y = floats(own, "value")
    bars = np.stack([y - floats(own, "lower"), floats(own, "upper") - y])
    ax.errorbar(
        floats(own, "rate"), y, bars, color=SGD.color, marker=SGD.marker, linestyle="", capsize=2, elinewidth=0.8
    )


def _summary(rows: pd.DataFrame, sgd: pd.DataFrame) -> pd.DataFrame:
    """Return geometric means over seeds of loss and lambda_max: of SGD by batch size, of the equation, and of flow."""
    parts = [
        ("flow", None, None, rows_where(rows, kind="flow")),
        ("equation", None, None, rows_where(rows, kind="equation")),
    ]
    parts += [("sgd", int(batch), float(floats(own, "rate")[0]), own) for batch, own in groups(sgd, "batch")]
    table = []
    for kind, batch, rate, own in parts:
        for name in ("loss", "top_eigenvalue"):
            values = pooled(own, name)
            found = paired_ratio(np.ones(len(values)), list(values.values()))
            table.append({"kind": kind, "batch": batch, "rate": rate, "quantity": name} | _plain(found))
    return pd.DataFrame(table)


def _plain(found: Interval) -> dict[str, Any]:
    return {"value": found.value, "lower": found.lower, "upper": found.upper, "n": found.n}


def equation_text(network: pd.DataFrame, ended: str) -> TextTable:
    """Return the table of the network: late loss and lambda_max of gradient flow, of the equation and of SGD."""
    table, rows = _summary(network, network_rates(network)), []
    names = {"flow": "gradient flow", "equation": "equation"}
    every = records(table)
    for loss, top in zip(every[::2], every[1::2], strict=True):
        name = names.get(loss["kind"]) or f"SGD, B = {loss['batch']:g}"
        rate = ABSENT if loss["rate"] is None else f"{loss['rate']:.2g}"
        rows.append([name, rate, ratio(_interval(loss)), ratio(_interval(top)), str(min(loss["n"], top["n"]))])
    header = ["Walk", "eps lambda_max", "Late train loss (nats)", "lambda_max", "Seeds"]
    caption = (
        "SGD on a network at one noise scale beside its stochastic differential equation: geometric means over the "
        f"seeds of which no walk diverged, with 95 % intervals. {ended}"
    )
    return TextTable("equation_table", "SGD and its equation on a network", header, rows, table, caption)


def _interval(row: Mapping[Any, Any]) -> Interval:
    free = int(row["n"]) - 1  # Student's t over seeds made it
    return Interval(row["value"], row["lower"], row["upper"], free + 1, free=free)
