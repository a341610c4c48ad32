"""The density of all eigenvalues, above the extreme ones with their intervals."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import FixedLocator, NullLocator
from numpy.typing import NDArray

from sharpness.plots.artists import legend_above, shown_in
from sharpness.plots.axes import asinh_axis
from sharpness.plots.caption_text import (
    Pairs,
    data,
    drawn_records,
    each,
    eigenvalues_of,
    intervals,
    matrices,
    missing,
    number,
    plural,
    unit,
)
from sharpness.plots.frames import floats, rows_where
from sharpness.plots.networks import Network, companion, with_record
from sharpness.plots.spectra import (
    CURVE,
    EIGENVALUE,
    eigenvalue_rows,
    numbers_of,
    spectra_frame,
    spectrum_label,
    strips,
)
from sharpness.plots.style import COLUMN, Look
from sharpness.records import ProbeRecord

DENSITY_NUMBERS = ("eigenvalue", "density", "density_lower", "density_upper", "lower", "upper")
LINE = 12
"""Points from one largest eigenvalue to the next, of which each is written in one line."""


def density_table(networks: Sequence[Network]) -> pd.DataFrame:
    """Return the density curves (mark ``curve``) and the extreme eigenvalues (mark ``eigenvalue``), in nats.

    ``density`` is the share of eigenvalues per unit of asinh(lambda / lambda_0) with the lambda_0 of
    :func:`common_threshold`. A network of another threshold is converted by the change of variables, which is exact:
    rho' = rho sqrt((lambda^2 + lambda_0'^2) / (lambda^2 + lambda_0^2)). Eigenvalues are listed for networks with a
    curve only, where they are of the same matrix.
    """
    rows, threshold = [], common_threshold(networks)
    for network, record in with_record(networks, "density"):
        grid = numbers_of(record.details.get("grid"))
        factor = np.hypot(grid, threshold) / np.hypot(grid, record.details["linear_threshold"])
        curves = {name: factor * numbers_of(record.details.get(name), len(grid)) for name in DENSITY_NUMBERS[1:4]}
        if not np.any(curves["density"] > 0):
            continue
        for i, value in enumerate(grid):
            shared = {"network": network.label, "mark": CURVE, "eigenvalue": value}
            rows.append(shared | {name: curve[i] for name, curve in curves.items()})
        extremes = companion(network, record, "eigenvalues")
        if extremes is not None:
            shared = {"network": network.label, "mark": EIGENVALUE}
            rows += [shared | row for row in eigenvalue_rows(extremes.details, extremes, extremes.converged)]
    return spectra_frame(rows, ("network", "mark", *DENSITY_NUMBERS, "converged"), DENSITY_NUMBERS)


def common_threshold(networks: Sequence[Network]) -> float:
    """Return the smallest lambda_0 of the densities, so that no network's bulk at zero is squeezed; 1 without any."""
    return min((record.details["linear_threshold"] for _, record in with_record(networks, "density")), default=1.0)


def density_figure(table: pd.DataFrame, networks: Sequence[Network]) -> Figure:
    """Draw the densities of :func:`density_table`, below them the extreme eigenvalues.

    The density axis is logarithmic and reaches a decade below 1 / size (dotted), a single eigenvalue per unit.
    """
    extremes = rows_where(table, mark=EIGENVALUE)
    shown = shown_in(table, networks)
    num_rows = len(shown) if len(extremes) else 0
    figure = Figure(figsize=(COLUMN, 2.6 + 0.16 * num_rows), layout="constrained")
    figure.get_layout_engine().set(hspace=0.0, h_pad=0.03)  # type: ignore[union-attr]
    ratios = [1.0, 0.03 + 0.09 * num_rows] if num_rows else [1.0]
    axes = figure.subplots(len(ratios), 1, sharex=True, squeeze=False, height_ratios=ratios)[:, 0]
    draw_density(axes[0], table, networks)
    if num_rows:
        axes[0].set_xlabel("")
        strips(axes[1], extremes, shown)
        _eigenvalue_axis(axes[1], table, networks)
    legend_above(figure, shown, marked=bool(num_rows))
    return figure


def draw_density(ax: Axes, table: pd.DataFrame, networks: Sequence[Network]) -> None:
    """Draw the curves of :func:`density_table` into axes, and write the largest eigenvalues that are known."""
    shown, extremes = shown_in(table, networks), rows_where(table, mark=EIGENVALUE)
    shares = {1 / network.records["density"].details["size"] for network, _ in shown}
    floor = min(shares) / 10
    for number_of_it, (network, look) in enumerate(shown):
        _density_curve(ax, rows_where(table, network=network.label, mark=CURVE), look, floor)
        own = floats(rows_where(extremes, network=network.label), "eigenvalue")
        if len(own) and own.max() > 0:
            text = rf"$\lambda_{{\max}}$ = {own.max():.4g}"
            ax.annotate(
                text,
                (0.99, 0.98),
                xycoords="axes fraction",
                xytext=(
                    0,
                    -LINE * number_of_it,
                ),  # not a share of the axes, which are lower the more networks there are
                textcoords="offset points",
                color=look.color,
                ha="right",
                va="top",
                fontsize=7,
            )
    for share in shares:
        ax.axhline(share, color="0.35", linestyle=":", linewidth=0.9, zorder=1)
    ax.text(1.01, max(shares), "$1/n$", transform=ax.get_yaxis_transform(), va="center", fontsize=7)
    _density_axis(ax, floor, np.concatenate([floats(table, "density"), floats(table, "density_upper")]))
    _eigenvalue_axis(ax, table, networks)


def _eigenvalue_axis(ax: Axes, table: pd.DataFrame, networks: Sequence[Network]) -> None:
    """Make the axis of eigenvalues around what is seen of the curves and the extreme ones with their bounds.

    It reaches a power of ten with a label beyond the largest, which can then be read off between two labels.
    """
    shown, extremes = shown_in(table, networks), rows_where(table, mark=EIGENVALUE)
    floor = min(1 / network.records["density"].details["size"] for network, _ in shown) / 10
    visible = floats(table, "eigenvalue")[(floats(table, "density") > floor) | np.isnan(floats(table, "density"))]
    bounds = np.concatenate([visible, floats(extremes, "lower"), floats(extremes, "upper")])
    largest = np.nanmax(bounds, initial=0.0)
    beyond = [float(10 ** np.ceil(np.log10(largest)))] if largest > 0 else []
    asinh_axis(ax.xaxis, np.append(bounds, beyond), common_threshold(networks))
    ax.xaxis.set_major_locator(FixedLocator(sorted({*ax.get_xticks(), *beyond})))
    ax.set_xlabel(spectrum_label(shown, "density"))


def _density_axis(ax: Axes, floor: float, values: NDArray[np.float64]) -> None:
    top = 2 * max(values[np.isfinite(values)].max(), 10 * floor)
    decades = range(int(np.ceil(np.log10(floor))), int(np.floor(np.log10(top))) + 1)
    ax.set(yscale="log", ylim=(floor, top), ylabel=r"Density (per unit of $\mathrm{asinh}\,\lambda/\lambda_0$)")
    ax.yaxis.set_major_locator(FixedLocator([10.0**k for k in decades if k % 2 == 0 or len(decades) < 5]))
    ax.yaxis.set_minor_locator(NullLocator())


def _density_curve(ax: Axes, rows: pd.DataFrame, look: Look, floor: float) -> None:
    x, y = floats(rows, "eigenvalue"), floats(rows, "density")
    lower, upper = (np.clip(floats(rows, f"density_{side}"), floor / 10, None) for side in ("lower", "upper"))
    ax.fill_between(x, lower, upper, color=look.color, alpha=0.2, linewidth=0)
    # Clipped far below the axis: a kernel's tail underflows to 0, which has no logarithm.
    ax.plot(x, np.clip(y, floor / 10, None), color=look.color, linestyle=look.linestyle, linewidth=1.1)


def density_caption(table: pd.DataFrame, networks: Sequence[Network]) -> str:
    """Return the caption of the spectral densities, with what each record says of the whole spectrum."""
    shown = drawn_records(networks, "density", rows_where(table, mark=CURVE))
    sizes = " and ".join(f"{size:,}" for size in sorted({record.details["size"] for _, record in shown}))
    draws = each(shown, _draws)
    converted = len({record.details["linear_threshold"] for _, record in shown}) > 1
    unit = ", the smallest of the networks', to which the others' densities are converted" if converted else ""
    widths = sorted({str(record.details["kernel_width"]) for _, record in shown if "kernel_width" in record.details})
    width = f" of standard deviation {', '.join(widths)} in s, or more where nodes lie farther apart" if widths else ""
    text = (
        f"Density of the {matrices(shown)}'s eigenvalues by stochastic Lanczos quadrature ({draws}), smoothed by "
        f"Gaussian kernels{width}, as the share of eigenvalues per unit of s = asinh(lambda / lambda_0), lambda_0 = "
        f"{common_threshold(networks):.2g}{unit}: the axis is linear within ±lambda_0 and logarithmic beyond. "
        f"{data(shown)}. {_band(table, shown)} Where the quadrature has few nodes the mass between them is meaningful, "
        "its shape is not; more steps resolve more. "
        f"Dotted: 1/n for n = {sizes} parameters, one eigenvalue per unit; bumps near that height are single "
        "eigenvalues, whose height one start estimates to no better than its own size. "
    )
    extremes = rows_where(table, mark=EIGENVALUE)
    if len(extremes):
        ends = each(drawn_records(networks, "eigenvalues", extremes), eigenvalues_of)
        text += f"Below: the {ends} by Lanczos on the same loss{intervals(extremes)}. "
    return f"{text}{' '.join(_spectrum(*pair) for pair in shown)} {missing(table, networks)}".strip()


def _draws(record: ProbeRecord) -> str:
    return f"{record.details['steps']} steps from {plural(record.details['num_starts'], 'random start')}"


def _band(table: pd.DataFrame, shown: Pairs) -> str:
    finite = np.isfinite(floats(table, "density_lower")) & np.isfinite(floats(table, "density_upper"))
    if not finite.any():
        return "No band is drawn: one start shows no spread."
    levels = sorted({f"{100 * r.details['confidence']:g} % " for _, r in shown if r.details.get("confidence")})
    few = min(record.details["num_starts"] for _, record in shown) < 5
    return f"Band: {' or '.join(levels)}bootstrap interval over the starts{', coarse for so few' if few else ''}."


def _spectrum(network: Network, record: ProbeRecord) -> str:
    """Say trace, effective rank and number of negative eigenvalues, each with what is known of its error."""
    details = record.details
    facts = []
    if details.get("trace") is not None:
        facts.append(
            f"trace {number(details['trace'])}{_error(details.get('trace_standard_error'))}{unit([(network, record)])}"
        )
    if details.get("effective_rank") is not None:
        facts.append(f"effective rank (sum |lambda|)^2 / sum lambda^2 = {number(details['effective_rank'])}")
    if details.get("num_negative") is not None:
        facts.append(_negatives(details))
    return f"{network.label}: {', '.join(facts)}." if facts else f"{network.label}: nothing else was estimated."


def _negatives(details: Mapping[str, Any]) -> str:
    """Give the proven bracket first: the sign of a spike at zero is beyond the quadrature, whatever its count."""
    count, bracket = number(details["num_negative"]), details.get("num_negative_bracket")
    if bracket is None or None in bracket:
        return f"{count}{_error(details.get('num_negative_standard_error'))} negative eigenvalues"
    ends = " to ".join(map(number, bracket))
    return f"{ends} negative eigenvalues (all that these starts leave open; the quadrature counts {count})"


def _error(value: float | None) -> str:
    return "" if value is None else f" ± {number(value, 2)} (standard error)"
