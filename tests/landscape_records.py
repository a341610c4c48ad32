"""Records of landscapes made by hand, as the figures get them from a file."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
from numpy.typing import NDArray

from sharpness.plots import Network
from sharpness.records import ProbeRecord

Loss = Callable[[NDArray[np.float64], NDArray[np.float64]], NDArray[np.float64]]
DATA = {"criterion": "cross_entropy", "data": {"spec": "npz:points.npz", "examples": 9, "examples_total": 120}}
DISTANCE = "distance in weight space"
LONG = "runs/pair/of_$_long/names/checkpoint-12000.safetensors"


def as_read(record: ProbeRecord) -> ProbeRecord:
    """Return a record as it comes from a file: what is not finite is ``None`` with a reason."""
    return ProbeRecord.from_dict(record.to_dict())


def record_of(probe: str, value: float | None, details: dict[str, Any], **fields: Any) -> ProbeRecord:
    common: dict[str, Any] = {"quantity": "rise", "num_examples": 9, "norm": "frozen", "dtype": "float32"}
    return as_read(ProbeRecord(probe=probe, value=value, details={**DATA, **details}, **common | fields))


def network(record: ProbeRecord, label: str = "A") -> Network:
    return Network(label, {record.probe: record})


def bowl(x: NDArray[np.float64], y: NDArray[np.float64]) -> NDArray[np.float64]:
    return 0.25 + 3 * x**2 + 0.5 * y**2


def flat(x: NDArray[np.float64], y: NDArray[np.float64]) -> NDArray[np.float64]:
    return np.full(x.shape, 0.5)


def with_gaps(x: NDArray[np.float64], y: NDArray[np.float64]) -> NDArray[np.float64]:
    """A bowl with a corner of NaN, of which one point in it is finite, and one infinite point in the middle."""
    values = np.where((x > 0.5) & (y > 0.5), np.nan, bowl(x, y))
    values[(np.abs(x) < 1e-9) & (np.abs(y) < 1e-9)] = np.inf
    values[-1, -1] = 7.0
    return values


def heavy(x: NDArray[np.float64], y: NDArray[np.float64]) -> NDArray[np.float64]:
    return 0.0123 + 3 * x**2 + 0.4 * y**2 + 40 * np.maximum(0, x + y) ** 6


def nowhere_finite(x: NDArray[np.float64], y: NDArray[np.float64]) -> NDArray[np.float64]:
    return np.full(x.shape, np.nan)


def mark(name: str = "checkpoint", x: float = 0.0, y: float = 0.0, distance: float = 0.0, **own: Any) -> dict[str, Any]:
    values = {"train_loss": 0.2512, "train_accuracy": 0.99, "test_loss": 0.3125, "test_accuracy": 0.915}
    return {"name": name, "x": x, "y": y, "distance": distance} | values | own


def plane(
    loss: Loss = bowl,
    probe: str = "random_plane",
    test: bool = True,
    accuracy: bool = True,
    height: float = 1.0,
    **details: Any,
) -> ProbeRecord:
    """Return the record of an 11 x 9 plane on [-1, 1] x [-height, height]."""
    xs, ys = np.linspace(-1, 1, 11), height * np.linspace(-1, 1, 9)
    xs[5] = ys[4] = 0.0
    values = loss(*np.meshgrid(xs, ys))
    share = 1 / (1 + values)
    nothing = [[None] * 11] * 9
    grids = {
        "train_loss": values.tolist(),
        "train_accuracy": share.tolist() if accuracy else nothing,
        "test_loss": (0.1 + 1.5 * values).tolist() if test else None,
        "test_accuracy": ((0.9 * share).tolist() if accuracy else nothing) if test else None,
    }
    axes = [{"name": f"{nth} random direction", "unit": DISTANCE} for nth in ("first", "second")]
    more = {"axes": axes, "marks": [mark()], "trajectory": None, "normalisation": "none"}
    return record_of(probe, 3.25, {"xs": xs.tolist(), "ys": ys.tolist(), **grids, **more, **details})


def rays(scale: float = 1.0, test: bool = True, accuracy: bool = True, bad: bool = False) -> ProbeRecord:
    """Return the record of four rays of six points; with ``bad`` the third ends in NaN."""
    distances = np.linspace(0, 10, 6)
    losses = 0.02 + scale * np.array([[0.5], [1.0], [1.5], [3.0]]) * (distances / 10) ** 2
    if bad:
        losses[2, 4:] = np.nan
    share = 1 / (1 + losses)
    curves = {
        "train_loss": losses.tolist(),
        "train_accuracy": share.tolist() if accuracy else [[None] * 6] * 4,
        "test_loss": (0.1 + losses).tolist() if test else None,
        "test_accuracy": ((0.9 * share).tolist() if accuracy else [[None] * 6] * 4) if test else None,
    }
    facts = {"norm_of_weights": 51.25, "normalisation": "none", "standard_error": None if bad else 0.25}
    value = None if bad else 1.5 * scale
    reasons = {"value": "the loss is not finite at the end of every ray"} if bad else {}
    return record_of("rays", value, {"distances": distances.tolist(), **curves, **facts}, reasons=reasons)


def curves_over(ts: NDArray[np.float64], height: float, test: bool, accuracy: bool) -> dict[str, Any]:
    losses = 0.02 + 0.03 * ts + height * np.sin(np.pi * ts) ** 2
    share = 1 / (1 + losses)
    return {
        "train_loss": losses.tolist(),
        "train_accuracy": share.tolist() if accuracy else [None] * len(ts),
        "test_loss": (0.1 + losses).tolist() if test else None,
        "test_accuracy": ((0.9 * share).tolist() if accuracy else [None] * len(ts)) if test else None,
    }


def barrier(matched: bool = True, test: bool = True, accuracy: bool = True, **details: Any) -> ProbeRecord:
    """Return the record of a barrier of 2 that matching lowers to 0.5, at nine points."""
    ts = np.linspace(0, 1, 9)
    lines = {
        name: {"alphas": ts.tolist(), **curves_over(ts, top, test, accuracy), "barrier": top, "length": 9.0}
        for name, top in (("plain", 2.0), ("matched", 0.5))
    }
    facts = {"groups": 2, "units": 1200, "moved": 1022, "sweeps": 4}
    shown = {"plain": lines["plain"], "matched": lines["matched"] if matched else None}
    reasons = {} if matched else {"matched": "no hidden units were found that can be permuted"}
    more = {"matching": facts if matched else None, "other_checkpoint": "b.pt", **details}
    return record_of("barrier", 2.0, shown | more, reasons=reasons)


def connectivity(test: bool = True, accuracy: bool = True, **details: Any) -> ProbeRecord:
    """Return the record of a curve that rises by 0.125 where the line rises by 2, at nine points."""
    ts = np.linspace(0, 1, 9)
    line, curve = (curves_over(ts, top, test, accuracy) for top in (2.0, 0.125))
    facts = {"line_barrier": 2.0, "curve": "bezier", "bends": 1, "steps": 2000, "other_checkpoint": "b.pt"}
    return record_of("connectivity", 0.125, {"ts": ts.tolist(), "line": line, **curve, **facts, **details})
