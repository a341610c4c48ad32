"""A surface that can be turned in a browser, without a network: one HTML file with all that it needs."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np

from sharpness.errors import InputError
from sharpness.files import write_atomically
from sharpness.machine.extras import extra
from sharpness.records import ProbeRecord

QUANTITIES = ("train_loss", "test_loss", "train_accuracy", "test_accuracy")
WIDE = 10.0
"""Positive losses above this ratio of the largest to the smallest get a logarithmic axis, as in the printed surface."""


def require_library() -> None:
    """Raise :class:`InputError` with the command that installs plotly where it is missing, before anything is done."""
    _graph_objects()


def _graph_objects() -> Any:
    return extra("plotly.graph_objects", "interactive")


def save_interactive(record: ProbeRecord, path: Path) -> None:
    """Write the surface of a plane as one HTML file of about 5 MB that loads nothing else.

    A menu changes between loss and accuracy, train and test, as far as they are in the record. The surface goes through
    the points of the grid; cells with a point that is not finite are holes. Marks and trajectory stand at their own
    losses. The same record gives the same bytes. Raises :class:`InputError` for a record that is not of a plane or has
    no finite value, and without plotly.
    """
    go = _graph_objects()
    grids = grids_of(record)
    traces, shares = [], []
    for name, grid in grids.items():
        added = [_surface(go, record, name, grid), *_checkpoints(go, record, name)]
        traces += added
        shares += [name] * len(added)
    for trace, name in zip(traces, shares, strict=True):
        trace.visible = name == shares[0]
    figure = go.Figure(traces)
    figure.update_layout(**_layout(record, grids, shares))
    html = figure.to_html(include_plotlyjs=True, full_html=True, div_id=record.probe, config={"displaylogo": False})
    write_atomically(path, html.encode())


def grids_of(record: ProbeRecord) -> dict[str, np.ndarray]:
    """Return the quantities of a plane with a finite value, accuracies in per cent, shape (ys, xs), NaN for gaps.

    Raises :class:`InputError` where there is none.
    """
    if "xs" not in record.details or "ys" not in record.details:
        raise InputError(
            f"expected the record of a plane, got one of {record.probe!r}: measure a landscape that is one"
        )
    found = {}
    for name in QUANTITIES:
        if record.details.get(name) is not None:
            grid = np.array(record.details[name], dtype=float) * (100 if name.endswith("accuracy") else 1)
            found |= {name: grid} if np.isfinite(grid).any() else {}
    if not found:
        raise InputError(f"expected a finite loss in the plane of {record.probe!r}, got none: measure a smaller one")
    return found


def is_logarithmic(name: str, grid: np.ndarray) -> bool:
    """Return whether a quantity has a logarithmic axis: a loss that is positive and of several sizes."""
    low, high = np.nanmin(grid), np.nanmax(grid)
    return bool(name.endswith("loss") and low > 0 and high > WIDE * low)


def _surface(go: Any, record: ProbeRecord, name: str, grid: np.ndarray) -> Any:
    color = np.log10(grid) if is_logarithmic(name, grid) else grid
    title, details = _title(record, name), record.details
    return go.Surface(
        x=details["xs"],
        y=details["ys"],
        z=_plain(grid),
        surfacecolor=_plain(color),
        colorscale="Cividis" if name.endswith("accuracy") else "Viridis",
        showscale=False,
        connectgaps=False,
        name=title,
        hovertemplate=f"x %{{x:.4g}}<br>y %{{y:.4g}}<br>{title} %{{z:.4g}}<extra></extra>",
    )


def _plain(grid: np.ndarray) -> list[list[float | None]]:
    """Return a grid as JSON has it: a gap is ``None``."""
    return [[float(value) if np.isfinite(value) else None for value in row] for row in grid]


def _checkpoints(go: Any, record: ProbeRecord, name: str) -> list[Any]:
    """Return marks, and a trajectory as a line, at their own values of one quantity."""
    traces, scale = [], 100 if name.endswith("accuracy") else 1
    looks = (("trajectory", "lines+markers", 3), ("marks", "markers", 6))
    for key, mode, size in looks:
        points = [p for p in record.details.get(key) or () if p.get(name) is not None]
        if points:
            traces.append(
                go.Scatter3d(
                    x=[point["x"] for point in points],
                    y=[point["y"] for point in points],
                    z=[scale * point[name] for point in points],
                    text=[_hover(record, point, name, scale) for point in points],
                    mode=mode,
                    line={"color": "black", "width": 3},
                    marker={"size": size, "color": "white", "line": {"color": "black", "width": 2}},
                    hovertemplate="%{text}<extra></extra>",
                    name=key,
                )
            )
    return traces


def _hover(record: ProbeRecord, point: dict[str, Any], name: str, scale: int) -> str:
    own = f"{_title(record, name)} {scale * point[name]:.4g}"
    return f"{_escaped(str(point['name']))}<br>{own}<br>{point['distance']:.3g} off the plane"


def _layout(record: ProbeRecord, grids: dict[str, np.ndarray], shares: list[str]) -> dict[str, Any]:
    buttons = [
        {
            "label": _title(record, name),
            "method": "update",
            "args": [{"visible": [share == name for share in shares]}, {"scene.zaxis": _height(record, name, grid)}],
        }
        for name, grid in grids.items()
    ]
    x, y = (f"{_escaped(axis['name'])}<br>({_escaped(axis['unit'])})" for axis in record.details["axes"])
    sides = [float(np.ptp(record.details[key])) for key in ("xs", "ys")]
    same = len({axis["unit"] for axis in record.details["axes"]}) == 1
    ratio = {"x": 1, "y": float(np.clip(sides[1] / sides[0], 0.25, 4)) if same else 1, "z": 0.7}
    name, grid = next(iter(grids.items()))
    return {
        "title": {"text": f"{record.probe.replace('_', ' ').capitalize()}: marks at their own losses"},
        "scene": {
            "xaxis": {"title": {"text": x}},
            "yaxis": {"title": {"text": y}},
            "zaxis": _height(record, name, grid),
            "aspectmode": "manual",
            "aspectratio": ratio,
        },
        "updatemenus": [{"buttons": buttons, "x": 0, "y": 1, "xanchor": "left"}] if len(buttons) > 1 else [],
        "showlegend": False,
        "margin": {"l": 0, "r": 0, "b": 0, "t": 60},  # the default ones cut the axes' titles off in a low window
    }


def _height(record: ProbeRecord, name: str, grid: np.ndarray) -> dict[str, Any]:
    kind = "log" if is_logarithmic(name, grid) else "linear"
    return {"type": kind, "title": {"text": _title(record, name)}, "autorange": True}


def _title(record: ProbeRecord, name: str) -> str:
    if name.endswith("accuracy"):
        unit = " (%)"
    else:
        unit = " (nats)" if record.details.get("criterion", "cross_entropy") == "cross_entropy" else ""
    return name.replace("_", " ").capitalize() + unit


def _escaped(text: str) -> str:
    """Return a text of the user's as HTML shows it unchanged."""
    return text.replace("&", "&amp;").replace("<", "&lt;").replace(">", "&gt;")
