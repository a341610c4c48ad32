"""The continuous three-piece line of slopes -1, free and 0, fitted to many curves at once by scanning its two kinks."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from analysis.statistics.resampling import Floats

NUM_KINKS = 97
DISTINCT = 0.05
"""A middle piece is one of its own where its slope is at least this far from both -1 and 0."""
CHUNK = 250


@dataclass(frozen=True)
class Candidates:
    """All places of the two kinks, (pairs,), with what least squares needs of each, for curves z = sqrt(weight) y.

    The model of a pair is D theta - o, theta = (a, c): ``bases`` (pairs, 2, points) are orthonormal and span the
    columns of D, ``offsets`` (pairs, points) are o, and the slope of the middle piece is slopes . z + slope_offsets.
    """

    first: Floats
    last: Floats
    bases: Floats
    offsets: Floats
    slopes: Floats
    slope_offsets: Floats


def kinks(x: Floats, curves: Floats, weights: Floats) -> Floats:
    """Return the kinks x_1 <= x_2, (2, curves), of the best line for each curve (curves, points) over ascending x.

    y = (1 - v)(a - min(x, x_1)) + v c,  v = clip((x - x_1) / (x_2 - x_1), 0, 1)

    Least squares over a and c in closed form for every pair of ``NUM_KINKS`` equally spaced places between the ends of
    x. A first kink at the first x means that no piece has slope -1, a last kink at the last x that no piece is flat.
    Where no middle piece has a slope clearly between the other two, both kinks are one.
    """
    root = np.sqrt(weights)
    model = _candidates(x, root)
    centred = curves - np.mean(curves, axis=1, keepdims=True)  # a and c absorb it, and no digits are lost
    parts = [_best(model, centred[start : start + CHUNK] * root) for start in range(0, len(curves), CHUNK)]
    best = np.concatenate(parts)
    return np.stack([model.first[best], model.last[best]])


def line(x: Floats, curve: Floats, weights: Floats, first: float, last: float) -> Floats:
    """Return the least-squares line with these kinks at each x."""
    share, falling = _shape(x, np.array([first]), np.array([last]))
    columns = np.stack([1 - share[0], share[0]], axis=1) if last > first else np.ones((len(x), 1))
    offset = (1 - share[0]) * falling[0]
    root = np.sqrt(weights)
    levels = np.linalg.lstsq(columns * root[:, None], (curve + offset) * root, rcond=None)[0]
    return columns @ levels - offset


def _shape(x: Floats, first: Floats, last: Floats) -> tuple[Floats, Floats]:
    """Return v and min(x, x_1) for each pair of kinks, (pairs, points); v = 0 for a single kink, whose c is a - x_1."""
    width = (last - first)[:, None]
    share = np.clip(np.divide(x - first[:, None], width, out=np.zeros((len(first), len(x))), where=width > 0), 0, 1)
    return share, np.minimum(x, first[:, None])


def _candidates(x: Floats, root: Floats) -> Candidates:
    """Return every pair x_1 < x_2 and after them every single kink, with a slope that always passes."""
    places = np.linspace(x[0], x[-1], NUM_KINKS)
    i, j = np.triu_indices(NUM_KINKS, k=1)
    first, last = places[i], places[j]
    share, falling = _shape(x, first, last)
    offsets = root * (1 - share) * falling
    bases, triangle = np.linalg.qr(np.stack([root * (1 - share), root * share], axis=2))
    rows = np.swapaxes(bases, 1, 2)
    levels = np.linalg.solve(triangle, rows)  # theta = levels . (z + o)
    slopes = (levels[:, 1] - levels[:, 0]) / (last - first)[:, None]
    constant = np.sum(slopes * offsets, axis=1) + first / (last - first)
    single = np.zeros((NUM_KINKS, 2, len(x)))
    single[:, 0] = root / np.linalg.norm(root)
    return Candidates(
        first=np.concatenate([first, places]),
        last=np.concatenate([last, places]),
        bases=np.concatenate([rows, single]),
        offsets=np.concatenate([offsets, root * np.minimum(x, places[:, None])]),
        slopes=np.concatenate([slopes, np.zeros((NUM_KINKS, len(x)))]),
        slope_offsets=np.concatenate([constant, np.full(NUM_KINKS, -0.5)]),
    )


def _best(model: Candidates, z: Floats) -> np.ndarray:
    """Return the index of the candidate with the least sum of squares for each curve, among the allowed slopes."""
    squares = 2 * z @ model.offsets.T + np.sum(model.offsets**2, axis=1)  # but for z . z, the same for all
    for k in range(2):
        basis = model.bases[:, k]
        squares -= (z @ basis.T + np.sum(basis * model.offsets, axis=1)) ** 2
    slope = z @ model.slopes.T + model.slope_offsets
    allowed = (slope >= DISTINCT - 1) & (slope <= -DISTINCT)
    return np.argmin(np.where(allowed, squares, np.inf), axis=1)
