"""Axes for numbers of any size: logarithmic, linear near zero and logarithmic beyond, or plain; with readable ticks."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence

import numpy as np
from matplotlib.axis import XAxis, YAxis
from matplotlib.ticker import FixedLocator, FuncFormatter, MaxNLocator, NullFormatter, NullLocator
from numpy.typing import NDArray

Axis = XAxis | YAxis
WIDE = 10.0
"""Positive values above this ratio of the largest to the smallest get a logarithmic axis."""
FEWEST_DECADES = 1e-5
"""An axis is linear below this share of the largest value: smaller eigenvalues count as zero in float32."""


def log_axis(axis: Axis, values: Iterable[float], padding: float = 1.25, steps: Sequence[float] = (1, 2, 5)) -> None:
    """Make an axis logarithmic around the positive values, with ticks that are readable over any range.

    Up to two and a half decades get ticks at these ``steps`` of each; more get decades, thinned to about six.
    """
    positive = np.array([v for v in values if np.isfinite(v) and v > 0])
    low, high = (positive.min(), positive.max()) if len(positive) else (0.1, 10.0)
    padding = max(padding, 2.0) if high / low < 1.5 else padding
    low, high = low / padding, high * padding
    decades = np.arange(np.floor(np.log10(low)), np.ceil(np.log10(high)) + 1)
    if high / low <= 300:
        ticks = np.outer(10.0**decades, steps).ravel()
    else:
        ticks = 10.0 ** decades[:: int(np.ceil(len(decades) / 7))]
    axis.axes.set(**{f"{axis.axis_name}scale": "log", f"{axis.axis_name}lim": (low, high)})
    fixed_ticks(axis, ticks[(ticks >= low) & (ticks <= high)], _log_label)


def asinh_axis(axis: Axis, values: NDArray[np.float64], threshold: float, max_labels: int = 8) -> None:
    """Make an axis linear within +-threshold and logarithmic beyond, around the values.

    Ticks are at powers of ten, also at their double and fivefold where there are few, with minor ones between them.
    """
    inside = np.arcsinh(values[np.isfinite(values)] / threshold)
    low, high = (inside.min(), inside.max()) if len(inside) else (-1.0, 1.0)
    padding = 0.05 * (high - low) or 1.0
    low, high = low - padding, high + padding
    gap = (high - low) / max_labels
    ticks = [0.0, *_powers(threshold, high, gap), *(-power for power in _powers(threshold, -low, gap))]
    axis.axes.set(**{f"{axis.axis_name}lim": threshold * np.sinh([low, high])})
    getattr(axis.axes, f"set_{axis.axis_name}scale")("asinh", linear_width=threshold)
    shown = [tick for tick in ticks if low <= np.arcsinh(tick / threshold) <= high]
    decades = _decades(shown)
    if len(decades) < 3:  # one or two powers of ten do not say what lies between them
        shown += [s * d for s in (2, 5) for d in decades if low <= np.arcsinh(s * d / threshold) <= high]
    fixed_ticks(axis, shown, _asinh_label)
    thinned = len(decades) >= len(shown)  # then some powers of ten have no label
    between = np.outer(decades, (1, 2, 5) if thinned else np.arange(2, 10)).ravel()
    inside = np.arcsinh(between / threshold)
    minor = between[(inside >= low) & (inside <= high) & ~np.isin(between, shown)]
    axis.set_minor_locator(FixedLocator(list(minor)))
    axis.set_minor_formatter(NullFormatter())


def number_axis(axis: Axis, values: NDArray[np.float64], max_labels: int = 5) -> None:
    """Make an axis around any values: plain where they are of one size, otherwise logarithmic, and linear near zero."""
    finite = values[np.isfinite(values)]
    sizes = np.abs(finite[finite != 0])
    # Linear near zero there are ticks at powers of ten only, of which two decades are the least that helps.
    if len(sizes) and sizes.max() > (WIDE if finite.min() > 0 else WIDE**2) * sizes.min():
        if finite.min() > 0:
            log_axis(axis, finite, padding=1.6)
        else:
            asinh_axis(axis, finite, linear_share(finite))
        return
    low, high = (finite.min(), finite.max()) if len(finite) else (-1.0, 1.0)
    # A single number gets a wide axis; no axis is so narrow that its ticks differ beyond the digits of their labels.
    size = max(abs(low), abs(high))
    margin = max(0.08 * (high - low), (1e-3 if high > low else 0.5) * size) or 1.0
    axis.axes.set(**{f"{axis.axis_name}lim": (low - margin, high + margin)})
    axis.set_major_locator(MaxNLocator(max_labels))
    axis.set_major_formatter(FuncFormatter(lambda value, _: _plain_label(value)))


def fixed_ticks(axis: Axis, ticks: Iterable[float], text: Callable[[float], str] = "{:g}".format) -> None:
    """Put ticks at these places, each with its text, and none between them."""
    axis.set_major_locator(FixedLocator(list(ticks)))
    axis.set_minor_locator(NullLocator())
    axis.set_major_formatter(FuncFormatter(lambda value, _: text(value)))


def linear_share(values: NDArray[np.float64]) -> float:
    """Return the size up to which an asinh axis of these values is linear: the smallest of them that is worth a decade.

    >>> linear_share(np.array([-1e-2, 0.0, 50.0])), linear_share(np.array([1e-9, 1.0])), linear_share(np.zeros(2))
    (0.01, 1e-05, 1.0)
    """
    sizes = np.abs(values[values != 0])
    return max(float(sizes.min()), FEWEST_DECADES * float(sizes.max())) if len(sizes) else 1.0


def _decades(ticks: Iterable[float]) -> list[float]:
    """Return the powers of ten from the smallest to the largest of these, on each side of 0.

    >>> _decades([-1.0, 0.0, 0.1, 10.0])
    [-1.0, 0.1, 1.0, 10.0]
    """
    found = list[float]()
    for sign in (-1, 1):
        sizes = [round(np.log10(abs(tick))) for tick in ticks if tick * sign > 0]
        found += [sign * 10.0**k for k in range(min(sizes, default=0), max(sizes, default=-1) + 1)]
    return found


def _powers(threshold: float, end: float, gap: float) -> list[float]:
    """Return every s-th power of ten that lies between ``gap`` and ``end`` in units of asinh(x / threshold)."""
    if end < gap:
        return []
    step = max(1, int(np.ceil(gap / np.log(10))))
    last = int(np.floor(np.log10(threshold * np.sinh(end))))
    first = int(np.ceil(np.log10(threshold * np.sinh(gap))))
    return [float(10.0**k) for k in range(first, last + 1) if k % step == 0]


def _log_label(value: float) -> str:
    """Return a plain number near 1 and a power of ten far from it.

    >>> _log_label(0.05), _log_label(1e-5)
    ('0.05', '$10^{-5}$')
    """
    exponent = np.log10(value)
    if abs(exponent) <= 3 or abs(exponent - round(exponent)) > 1e-9:
        return f"{value:g}"
    return f"$10^{{{round(exponent)}}}$"


def _asinh_label(value: float) -> str:
    """Return a plain number near 1 and a power of ten far from it, with a real minus sign.

    >>> _asinh_label(0.0), _asinh_label(0.1), _asinh_label(-1e-4)
    ('0', '0.1', '$-10^{-4}$')
    """
    if value == 0 or 0.05 < abs(value) < 200:
        return f"{value:g}".replace("-", "\N{MINUS SIGN}")
    return f"${'-' if value < 0 else ''}10^{{{round(np.log10(abs(value)))}}}$"


def _plain_label(value: float) -> str:
    r"""Return a number with at most six digits, with a power of ten where it is far from 1.

    >>> _plain_label(1.765), _plain_label(-25000.0), _plain_label(2.5e-7)
    ('1.765', '−25000', '$2.5\\cdot 10^{-7}$')
    """
    mantissa, _, exponent = f"{value:.6g}".partition("e")
    if not exponent:
        return mantissa.replace("-", "\N{MINUS SIGN}")
    return f"${mantissa}\\cdot 10^{{{int(exponent)}}}$"
