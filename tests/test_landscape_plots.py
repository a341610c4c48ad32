"""Figures of landscapes: do they show the records' numbers and nothing else, and can they be read?"""

from __future__ import annotations

import itertools
import json
import re
import sys
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import matplotlib as mpl
import numpy as np
import pandas as pd
import pytest
import torch
from matplotlib.axes import Axes
from matplotlib.collections import PathCollection
from matplotlib.contour import QuadContourSet
from matplotlib.figure import Figure
from PIL import Image

from sharpness.errors import InputError
from sharpness.landscapes.barrier import Barrier
from sharpness.landscapes.connectivity import ModeConnectivity
from sharpness.landscapes.planes import EigenPlane, ThreePointPlane, TrajectoryPlane
from sharpness.landscapes.rays import RandomRays
from sharpness.plots import Network, render_records
from sharpness.plots.frames import floats, rows_where
from sharpness.plots.grids import bands_of, edge_text, edge_texts, grid_of, percent_edges, rise_edges
from sharpness.plots.interactive import grids_of, require_library, save_interactive
from sharpness.plots.kinds import PLANES, SURFACES, kinds_of
from sharpness.plots.style import COLUMN, FULL, LOOKS, STYLE
from sharpness.plots.surface import cells
from sharpness.records import ProbeRecord
from tests.browser import needs_browser, visit
from tests.conftest import run_cold_python
from tests.drawings import faults, visible_texts
from tests.landscape_records import (
    LONG,
    barrier,
    bowl,
    connectivity,
    flat,
    heavy,
    mark,
    network,
    nowhere_finite,
    plane,
    rays,
    with_gaps,
)
from tests.probe_cases import small_network

pytestmark = pytest.mark.dear

QUANTITIES = ("train_loss", "test_loss", "train_accuracy", "test_accuracy")
TRAJECTORY = [mark(str(i), 0.9 - 0.2 * i, 0.1 * i, 0.5, train_loss=2.0 / (i + 1)) for i in range(5)]
THREE = [mark(LONG, -0.6, -0.3), mark("b.pt", 0.5, -0.3, 0.75, test_loss=None), mark("c", 2.0, 0.4)]
TOWARDS = [
    {"name": f"towards {LONG}", "unit": "distance in weight space"},
    {"name": f"towards {LONG}, at right angles", "unit": "distance in weight space"},
]


def drawn(name: str, networks: list[Network], probe: str = "random_plane") -> tuple[pd.DataFrame, Figure, str]:
    """Return the table, the figure and the caption of one of the figures of a probe."""
    kind = kinds_of(probe)[name]
    table = kind.table(networks)
    with mpl.rc_context(STYLE):
        figure = kind.draw(table, networks)
    return table, figure, kind.caption(table, networks)


def contours(record: ProbeRecord) -> tuple[pd.DataFrame, Figure, str]:
    return drawn("random_plane", [network(record)])


def surface(record: ProbeRecord) -> tuple[pd.DataFrame, Figure, str]:
    return drawn("random_plane_surface", [network(record)])


def contour_sets(ax: Axes) -> list[QuadContourSet]:
    return [artist for artist in ax.collections if isinstance(artist, QuadContourSet)]


def single_marks(ax: Axes, marker: str) -> list[tuple[float, float]]:
    lines = [line for line in ax.lines if line.get_marker() == marker and line.get_linestyle() == "None"]
    pairs = [np.column_stack([np.asarray(line.get_xdata()), np.asarray(line.get_ydata())]) for line in lines]
    return [(float(x), float(y)) for pair in pairs for x, y in pair]


def legend_texts(figure: Figure) -> list[str]:
    return [text.get_text().replace("\n", " ") for legend in figure.legends for text in legend.get_texts()]


def curve(line: Any) -> tuple[list[float], list[float]]:
    return np.asarray(line.get_xdata()).tolist(), np.asarray(line.get_ydata()).tolist()


# --- every figure ---


FIGURES: dict[str, tuple[str, Any]] = {
    "random_plane": ("random_plane", plane),
    "random_plane_surface": ("random_plane", plane),
    "rays": ("rays", rays),
    "barrier": ("barrier", barrier),
    "connectivity": ("connectivity", connectivity),
}


FOUR = ["A", "B", "checkpoint-12000", LONG]
SHOWN: dict[str, tuple[list[str], dict[str, bool]]] = {
    "all of one": (FOUR[:1], {}),
    "train of two": (FOUR[2:], {"test": False}),
    "all of four": (FOUR, {}),
    "loss of one": (FOUR[3:], {"test": False, "accuracy": False}),
}


def readable_cases() -> list[Any]:
    """Return figures of several networks; the planes of one are looked at below, kind by kind."""
    cases = []
    for name, (what, shown) in itertools.product(FIGURES, SHOWN.items()):
        slow = what == "train of two" or (what == "all of one" and name.startswith("random_plane"))
        cases.append(pytest.param(name, *shown, id=f"{name}-{what}", marks=[pytest.mark.slow] if slow else []))
    return cases


@pytest.mark.parametrize(("name", "labels", "shown"), readable_cases())
def test_figures_are_readable(name: str, labels: list[str], shown: dict[str, bool]) -> None:
    probe, make = FIGURES[name]
    _, figure, caption = drawn(name, [network(make(**shown), label) for label in labels], probe)
    assert figure.get_figwidth() in (COLUMN, FULL) and figure.get_figheight() < 11
    assert faults(figure) == []
    assert "9 of 120 examples of npz:points.npz, drawn at random" in caption
    assert "nan" not in caption.lower() and "None" not in caption
    assert ("test" in " ".join(text.get_text().lower() for text in visible_texts(figure))) == (
        shown.get("test", True) and name != "random_plane_surface"
    )


@pytest.mark.parametrize("name", ["random_plane", "random_plane_surface"])
@pytest.mark.parametrize(
    "record",
    [
        pytest.param(plane(marks=THREE, axes=TOWARDS), id="names"),
        pytest.param(plane(heavy, trajectory=TRAJECTORY, test=False), id="trajectory"),
        pytest.param(plane(with_gaps, height=0.35, test=False), id="gaps"),
        pytest.param(plane(bowl, height=0.02), id="thin"),
        pytest.param(plane(flat, test=False), id="flat"),
        pytest.param(plane(lambda x, y: bowl(x, y) - 1), id="negative", marks=pytest.mark.slow),
        pytest.param(plane(lambda x, y: 1e-9 * bowl(x, y)), id="small", marks=pytest.mark.slow),
        pytest.param(plane(lambda x, y: 1e9 * heavy(x, y) + 1e6), id="large"),
    ],
)
def test_planes_of_every_kind_are_readable(name: str, record: ProbeRecord) -> None:
    assert faults(drawn(name, [network(record)])[1]) == []


def test_a_plane_has_two_figures_and_any_other_probe_one() -> None:
    assert set(SURFACES) == set(PLANES)
    assert list(kinds_of("eigen_plane")) == ["eigen_plane", "eigen_plane_surface"]
    assert list(kinds_of("rays")) == ["rays"] and list(kinds_of("unknown")) == []


def test_a_plane_is_written_with_its_surface_and_both_go_where_nothing_is_finite(tmp_path: Path) -> None:
    shown = [network(plane(with_gaps, test=False, accuracy=False, trajectory=TRAJECTORY))]
    rendered = render_records(shown, tmp_path, {"command": "landscape"})
    names = ["random_plane", "random_plane_surface"]
    assert rendered.refusals == [] and [path.stem for path in rendered.files[::4]] == names
    for name in names:
        content = json.loads((tmp_path / f"{name}.json").read_text(), parse_constant=pytest.fail)
        assert content["command"] == "landscape" and content["networks"][0]["label"] == "A"
    before = {path.name: path.read_bytes() for path in rendered.files}
    render_records(shown, tmp_path, {"command": "landscape"})
    assert {path.name: path.read_bytes() for path in tmp_path.iterdir()} == before
    refused = render_records([network(plane(nowhere_finite))], tmp_path, {})
    assert refused.files == [] and list(tmp_path.iterdir()) == []
    assert refused.refusals == [
        "random_plane is without A: its record has nothing to draw.",
        "random_plane was not drawn: no network has a value to draw.",
        "random_plane_surface was not drawn: no network has a value to draw.",
    ]


# --- the table ---


def test_the_table_of_a_plane_holds_every_number_of_its_record() -> None:
    record = plane(with_gaps, marks=THREE, trajectory=TRAJECTORY)
    table, *_ = contours(record)
    points = rows_where(table, part="grid")
    assert len(points) == 99
    for name in QUANTITIES:
        grid = np.array(record.details[name], dtype=float) * (100 if name.endswith("accuracy") else 1)
        np.testing.assert_array_equal(floats(points, name), grid.ravel())
    assert floats(points, "x")[:11].tolist() == record.details["xs"]
    assert floats(points, "y")[::11].tolist() == record.details["ys"]
    for part, rows in (("mark", THREE), ("trajectory", TRAJECTORY)):
        own = rows_where(table, part=part)
        assert list(own["name"]) == [row["name"] for row in rows]
        for name in ("x", "y", "distance", "train_loss", "test_loss"):
            np.testing.assert_array_equal(floats(own, name), np.array([row[name] for row in rows], dtype=float))
        np.testing.assert_array_equal(floats(own, "test_accuracy"), [100 * row["test_accuracy"] for row in rows])


def test_a_grid_comes_back_from_the_table_as_it_was_measured() -> None:
    record = plane(heavy, accuracy=False)
    table, *_ = contours(record)
    grid = grid_of(table, "A")
    assert list(grid.values) == ["train_loss", "test_loss"]
    assert grid.xs.tolist() == record.details["xs"] and grid.ys.tolist() == record.details["ys"]
    assert grid.values["test_loss"].tolist() == record.details["test_loss"]


# --- contours ---


def test_contours_lie_where_the_measured_points_put_them() -> None:
    """On every edge of the grid a contour cuts the straight line between two measured values: nothing is smoothed."""
    record = plane(heavy, test=False, accuracy=False)
    _, figure, _ = contours(record)
    xs, ys, losses = (np.array(record.details[name]) for name in ("xs", "ys", "train_loss"))
    rises, checked = losses - losses.min(), 0
    (lines,) = [found for found in contour_sets(figure.axes[0]) if not found.filled]
    for level, path in zip(np.asarray(lines.levels), lines.get_paths(), strict=True):
        for x, y in np.asarray(path.vertices):
            on_row, on_column = np.isclose(ys, y, atol=1e-12), np.isclose(xs, x, atol=1e-12)
            assert on_row.any() or on_column.any()
            value = np.interp(x, xs, rises[on_row][0]) if on_row.any() else np.interp(y, ys, rises[:, on_column][:, 0])
            assert value == pytest.approx(level, rel=1e-9)
            checked += 1
    assert checked > 100


def test_every_panel_has_the_colours_of_its_bar_and_every_point_its_band() -> None:
    _, figure, caption = contours(plane(heavy))
    assert len(figure.axes) == 4
    for ax, name in zip(figure.axes, QUANTITIES, strict=True):
        filled = next(found for found in contour_sets(ax) if found.filled)
        values = np.array(plane(heavy).details[name])
        values = values - values.min() if name.endswith("loss") else 100 * values
        levels = np.asarray(filled.levels)
        assert levels[0] <= values.min() and values.max() <= levels[-1]
        bar = ax.child_axes[0]
        words = bar.get_ylabel().replace("\n", " ")
        if name.endswith("loss"):
            minimum = np.array(plane(heavy).details[name]).min()
            assert words == f"{name.replace('_', ' ').capitalize()} above its minimum of {minimum:.4g} (nats)"
            assert levels[0] == 0 and [text.get_text() for text in bar.get_yticklabels()][:2] == ["0", f"{levels[1]:g}"]
        else:
            assert words == f"{name.replace('_', ' ').capitalize()} (%)"
    assert "Bands: how far a loss is above the smallest of its points, by decades" in caption


def test_bands_of_a_heavy_tail_begin_at_its_floor() -> None:
    for scale in (1e-12, 1.0, 1e12):
        rises = scale * np.concatenate([np.linspace(0, 1, 60) ** 2, np.logspace(0, 6, 40)])
        edges = rise_edges(rises)
        inside = np.sum(rises <= edges[1])
        assert 1 <= inside <= 10 and edges[-1] >= rises.max() > edges[-2]
        assert np.all(np.diff(edges) > 0) and len(edges) <= 16
    close = rise_edges(np.array([0.0, 0.7, 1.0, 2.0]))
    assert len(close) >= 4 and close[-1] >= 2
    assert rise_edges(np.array([0.0, 3.0])).tolist() == [0, 3]


@pytest.mark.parametrize("digits", [3, 6])
@pytest.mark.parametrize(
    ("edges", "needed"),
    [
        (13.26 + np.array([0.0, 0.05, 0.1, 5.0]), 4),  # 13.31 and 13.36 are told apart by four digits
        (np.array([13.26, 13.8, 15.0]), 3),
        (percent_edges(np.array([99.9998, 100.0])), 8),
        (1e6 + np.array([0.0, 1e-3, 2e-3]), 10),
        (1 + np.arange(3) * np.finfo(float).eps, 17),
        (np.array([-2.1e-9, 0.0, 2.1e-9]), 1),
    ],
)
def test_edges_that_differ_have_texts_that_differ(edges: np.ndarray, needed: int, digits: int) -> None:
    texts = edge_texts(edges, digits)
    assert len({*texts}) == len(edges), "no two alike"
    assert texts == [edge_text(edge, max(digits, needed)) for edge in edges], "and no more digits than that takes"


def test_networks_share_the_bands_of_their_rises() -> None:
    steep = plane(lambda x, y: 0.5 + 100 * (bowl(x, y) - 0.25))
    _, figure, caption = drawn("random_plane", [network(plane()), network(steep, "B")])
    assert [ax.get_title() for ax in figure.axes] == ["A", "A", "B", "B"]  # the losses only
    levels = [np.asarray(contour_sets(ax)[0].levels).tolist() for ax in figure.axes]
    assert levels[0] == levels[2] != levels[1] and levels[0][-1] >= 350
    assert "the same for every network" in caption and "accuracy" not in caption
    assert "0.25" in figure.axes[0].child_axes[0].get_ylabel() and "0.5" in figure.axes[2].child_axes[0].get_ylabel()


@pytest.mark.parametrize(("name", "panels"), [("random_plane", 2), ("random_plane_surface", 1)])
def test_marks_of_several_networks_have_their_looks(name: str, panels: int) -> None:
    def looks(lines: Iterable[Any]) -> list[tuple[str, str]]:
        return [
            (line.get_marker(), line.get_markerfacecolor()) for line in lines if line.get_marker() not in ("None", "")
        ]

    _, figure, _ = drawn(name, [network(plane()), network(plane(), "B")])
    own = [(look.marker, look.color) for look in LOOKS[:2]]
    assert [looks(ax.lines) for ax in figure.axes] == [[look] for look in own for _ in range(panels)]
    assert looks(figure.legends[0].legend_handles) == own
    _, alone, _ = drawn(name, [network(plane(marks=[mark("a", 0.2, 0.5), mark("b", 0.0, 0.1)]))])
    assert looks(alone.axes[0].lines) == [("o", "white"), ("s", "white")]


@pytest.mark.parametrize(("units", "aspect"), [(("a", "a"), 1.0), (("a", "b"), "auto")])
def test_a_circle_is_one_where_both_axes_have_one_unit(units: tuple[str, str], aspect: object) -> None:
    axes = [{"name": "direction", "unit": unit} for unit in units]
    _, figure, _ = contours(plane(axes=axes))
    assert {ax.get_aspect() for ax in figure.axes} == {aspect}
    thin, wide = (contours(plane(height=height, test=False, accuracy=False)) for height in (0.3, 0.4))
    assert thin[1].axes[0].get_aspect() == "auto" and "points, not to one scale" in thin[2]
    assert wide[1].axes[0].get_aspect() == 1 and "scale" not in wide[2]
    assert [ax.get_xlabel() for ax in figure.axes] == ["", "", *[f"Direction\n({units[0]})"] * 2]
    assert figure.axes[0].get_ylabel() == f"Direction\n({units[1]})"


def test_what_is_not_finite_is_crossed_on_grey_and_counted() -> None:
    record = plane(with_gaps, test=False, accuracy=False)
    table, figure, caption = contours(record)
    (ax,) = figure.axes
    x, y = np.meshgrid(record.details["xs"], record.details["ys"])
    bad = ~np.isfinite(np.array(record.details["train_loss"], dtype=float))
    assert sorted(single_marks(ax, "x")) == sorted(zip(x[bad].tolist(), y[bad].tolist(), strict=True))
    assert bad.sum() == 6 and "Crossed on grey: points that are not finite (6 of 99 of the train loss)" in caption
    (grey,) = ax.patches
    assert grey.get_hatch() and grey.get_zorder() == 0
    (alone,) = [found for found in ax.collections if isinstance(found, PathCollection)]
    assert np.asarray(alone.get_offsets()).tolist() == [[1.0, 1.0]]  # finite, but no contour reaches it
    bands = bands_of("train_loss", [grid_of(table, "A")])
    rise = 7.0 - np.nanmin(np.array(record.details["train_loss"], dtype=float))
    assert np.asarray(alone.to_rgba(np.asarray(alone.get_array()))).tolist() == [list(bands.colors(bands.norm(rise)))]
    _, whole, text = contours(plane(test=False, accuracy=False))
    assert not whole.axes[0].patches and "not finite" not in text


def test_a_flat_plane_has_one_band() -> None:
    _, figure, _ = contours(plane(flat, accuracy=False, test=False))
    (filled,) = contour_sets(figure.axes[0])
    assert np.asarray(filled.levels).tolist() == [0, 1]
    assert figure.axes[0].child_axes[0].get_ylabel().endswith("minimum of 0.5 (nats)")


def test_marks_stand_at_their_projections_with_their_own_losses() -> None:
    _, figure, caption = contours(plane(marks=THREE))
    for ax in figure.axes:
        assert single_marks(ax, "o") == [(-0.6, -0.3)] and single_marks(ax, "s") == [(0.5, -0.3)]
        assert single_marks(ax, "^") == []  # outside the grid
    first, second, third = legend_texts(figure)
    own = "train loss 0.2512 nats, test loss 0.3125 nats, train accuracy 99\N{NO-BREAK SPACE}%, "
    assert own + "test accuracy 91.5\N{NO-BREAK SPACE}%" in first and first.startswith("runs/pair/of_\\$_lon")
    assert second.startswith("b.pt: train loss 0.2512 nats, test loss not known") and "0.75 off the plane" in second
    assert third.startswith("c: ") and third.endswith("outside the grid")
    assert "off the plane" not in first and "losses measured at the checkpoints themselves" in caption


def test_only_what_has_a_panel_is_in_the_legend() -> None:
    (text,) = legend_texts(contours(plane(test=False, accuracy=False))[1])
    assert text == "checkpoint: train loss 0.2512 nats"
    (text,) = legend_texts(contours(plane(test=False, accuracy=False, criterion="mse"))[1])
    assert text == "checkpoint: train loss 0.2512"


def test_a_trajectory_is_a_line_through_its_projections() -> None:
    _, figure, caption = contours(plane(trajectory=TRAJECTORY, eigenvalues=[4.0, 3.0]))
    for ax in figure.axes:
        (line,) = [line for line in ax.lines if line.get_linestyle() == "-"]
        assert curve(line) == ([p["x"] for p in TRAJECTORY], [p["y"] for p in TRAJECTORY])
    assert legend_texts(figure)[-1] == "trajectory from 0 to 4"
    assert "projections of the 5 checkpoints of a trajectory, up to 0.5 off the plane" in caption
    assert "eigenvalues 4 and 3" in caption


def test_the_caption_tells_the_axes_the_grid_and_the_rise() -> None:
    _, _, caption = contours(plane(normalisation="filter"))
    assert caption.startswith("Train loss, test loss, train accuracy and test accuracy in a plane of weight space: ")
    assert "first random direction to the right and second random direction upwards" in caption
    assert "in units of distance in weight space, 11 x 9 points, directions normalised by filters" in caption
    assert "above that of the first mark: 3.25 nats." in caption


# --- surface ---


def test_the_surface_goes_through_every_measured_point() -> None:
    record = plane(test=False, accuracy=False)
    table, figure, caption = surface(record)
    corners = cells(grid_of(table, "A"))
    assert corners.shape == (80, 4, 3)
    x, y = np.meshgrid(record.details["xs"], record.details["ys"])
    measured = set(zip(x.ravel(), y.ravel(), np.array(record.details["train_loss"]).ravel(), strict=True))
    assert set(map(tuple, corners.reshape(-1, 3))) == measured
    ax: Any = figure.axes[0]
    (polygons,) = ax.collections
    heights = np.log10([loss for *_, loss in measured])  # 0.25 to 3.75: more than a factor of ten
    assert np.nanmin(polygons._faces[..., 2]) == heights.min() and np.nanmax(polygons._faces[..., 2]) == heights.max()
    assert "logarithmic axis" in caption
    labels = [ax.zaxis.get_major_formatter()(tick, 0) for tick in ax.zaxis.get_majorticklocs()]
    assert labels == ["0.5", "1", "2"]


def test_a_surface_of_one_size_or_below_zero_has_an_even_axis() -> None:
    for loss in (lambda x, y: bowl(x, y) + 5, lambda x, y: bowl(x, y) - 1):
        record = plane(loss, test=False, accuracy=False)
        _, figure, caption = surface(record)
        ax: Any = figure.axes[0]
        assert np.nanmax(ax.collections[0]._faces[..., 2]) == np.max(record.details["train_loss"])
        assert "even axis" in caption


def test_the_surface_has_holes_where_a_corner_is_not_finite() -> None:
    table, figure, caption = surface(plane(with_gaps))
    assert len(cells(grid_of(table, "A"))) == 70
    assert len(figure.axes[0].collections[0].get_facecolor()) == 70  # pyright: ignore[reportArgumentType]
    assert "Holes: points that are not finite (6 of 99 of the train loss)" in caption


def test_marks_stand_over_the_surface_at_their_own_losses() -> None:
    marks = [mark("a", 0.2, 0.5, train_loss=2.0), mark("b", 5.0, 0.0), mark("c", 0.0, 0.1, train_loss=None)]
    _, figure, _ = surface(plane(marks=marks, trajectory=TRAJECTORY, test=False))
    ax: Any = figure.axes[0]
    lines = [np.array(line.get_data_3d()) for line in ax.lines]
    path, stem, point = lines
    np.testing.assert_allclose(path[2], np.log10([p["train_loss"] for p in TRAJECTORY]))
    np.testing.assert_allclose(point[:, 0], [0.2, 0.5, np.log10(2.0)])
    np.testing.assert_allclose(stem[:, 1], point[:, 0])
    texts = legend_texts(figure)
    assert texts[0] == "a: train loss 2 nats" and "accuracy" not in texts[0]
    assert texts[-2:] == [
        "$x$: First random direction (distance in weight space)",
        "$y$: Second random direction (distance in weight space)",
    ]


def test_a_plane_without_a_whole_cell_has_no_surface(tmp_path: Path) -> None:
    def stripes(x: np.ndarray, y: np.ndarray) -> np.ndarray:
        return np.where(np.arange(11) % 2 == 0, bowl(x, y), np.nan)

    rendered = render_records([network(plane(stripes, test=False, accuracy=False))], tmp_path, {})
    assert {path.stem for path in rendered.files} == {"random_plane"}
    assert rendered.refusals == ["random_plane_surface was not drawn: no network has a value to draw."]


# --- rays ---


def test_rays_are_thin_and_their_mean_bold() -> None:
    record = rays()
    table, figure, caption = drawn("rays", [network(record)], "rays")
    assert [ax.get_ylabel() for ax in figure.axes] == [
        "Train loss (nats)",
        "Test loss (nats)",
        "Train accuracy (%)",
        "Test accuracy (%)",
    ]
    for ax, name in zip(figure.axes, QUANTITIES, strict=True):
        scale = 100 if name.endswith("accuracy") else 1
        *thin, bold = ax.lines
        values = scale * np.array(record.details[name])
        assert [curve(line)[1] for line in thin] == values.tolist()
        np.testing.assert_allclose(curve(bold)[1], values.mean(axis=0))
        assert curve(bold)[0] == record.details["distances"]
        assert bold.get_linewidth() > 3 * thin[0].get_linewidth()
    assert list(dict.fromkeys(table["ray"])) == ["1", "2", "3", "4", "mean"]
    assert "4 rays, 6 distances, directions of length 1, norm of the weights 51.2" in caption
    assert "largest distance: A: 1.5 nats (standard error 0.25)" in caption
    assert figure.axes[-1].get_xlabel() == "Distance in weight space"


def test_the_mean_of_rays_ends_where_one_is_not_finite() -> None:
    _, figure, caption = drawn("rays", [network(rays(bad=True))], "rays")
    *_, bold = figure.axes[0].lines
    assert np.isfinite(curve(bold)[1]).tolist() == [True] * 4 + [False] * 2
    assert "2 of 24 train losses are not finite and not drawn" in caption
    assert "unknown (the loss is not finite at the end of every ray)" in caption


def test_networks_have_their_colours_in_the_figure_of_rays() -> None:
    _, figure, _ = drawn("rays", [network(rays()), network(rays(0.1), "B")], "rays")
    for ax in figure.axes:
        assert [line.get_color() for line in ax.lines] == [LOOKS[0].color, LOOKS[1].color]
        bands = [band.get_paths()[0].get_extents() for band in ax.collections]  # from the smallest ray to the largest
        for band, scale in zip(bands, (1.0, 0.1), strict=True):
            if ax.get_ylabel().startswith("Train loss"):
                assert (band.y0, band.y1) == pytest.approx((0.02, 0.02 + 3 * scale))
    assert legend_texts(figure) == ["A", "B"]


# --- two paths ---


@pytest.mark.parametrize(
    ("record", "first", "second"),
    [
        (barrier(), barrier().details["plain"], barrier().details["matched"]),
        (connectivity(), connectivity().details["line"], connectivity().details),
    ],
    ids=["barrier", "connectivity"],
)
def test_both_paths_are_drawn_with_their_largest_rises(
    record: ProbeRecord, first: dict[str, Any], second: dict[str, Any]
) -> None:
    _, figure, caption = drawn(record.probe, [network(record)], record.probe)
    losses, accuracies = figure.axes
    ts = np.linspace(0, 1, 9)
    for path, look, top in ((first, LOOKS[0], 2.0), (second, LOOKS[1], record.details.get("line_barrier") and 0.125)):
        own = [line for line in losses.lines if line.get_color() == look.color]
        train, test, rise = own
        assert curve(train) == (ts.tolist(), path["train_loss"]) and train.get_linestyle() == "-"
        assert curve(test) == (ts.tolist(), path["test_loss"]) and test.get_linestyle() == "--"
        (x, _), (low, high) = curve(rise)
        assert x == 0.5 and high - low == pytest.approx(top or 0.5)
        shares = [line for line in accuracies.lines if line.get_color() == look.color]
        np.testing.assert_allclose(curve(shares[0])[1], 100 * np.array(path["train_accuracy"]))
    chords = [line for line in losses.lines if line.get_linestyle() == ":"]
    for chord in chords:
        np.testing.assert_allclose(curve(chord)[1], 0.02 + 0.03 * ts)
    assert losses.get_title(loc="left") == "0: A\n1: b.pt"
    assert "From A (" in caption and "to b.pt (" in caption


def test_the_caption_of_a_barrier_tells_what_matching_did() -> None:
    _, _, caption = drawn("barrier", [network(barrier())], "barrier")
    assert "barrier 2 nats as they are, 0.5 nats after matching, which moved 1,022 of 1,200 units" in caption
    _, figure, caption = drawn("barrier", [network(barrier(matched=False))], "barrier")
    assert "no line after matching: no hidden units were found that can be permuted." in caption
    assert "after matching" not in legend_texts(figure)


def test_the_far_end_has_the_name_of_a_network_of_the_figure() -> None:
    record = barrier(other_checkpoint_sha256="weights B")
    other = ProbeRecord(probe="trace", quantity="trace", value=1.0, checkpoint_sha256="weights B")
    _, figure, caption = drawn("barrier", [network(record), network(other, "B")], "barrier")
    assert figure.axes[0].get_title(loc="left") == "0: A\n1: B" and "Without a record" not in caption


def test_a_curve_whose_training_broke_off_says_why() -> None:
    record = connectivity()
    broken = ProbeRecord(**{**vars(record), "value": None, "reasons": {"value": "the loss overflowed at step 7"}})
    _, _, caption = drawn("connectivity", [network(broken)], "connectivity")
    assert "Bezier curve with 1 bend after 2,000 steps, largest rise unknown (the loss overflowed at step 7)" in caption
    assert "on the line 2 nats" in caption


def test_gaps_of_a_path_are_counted_and_a_path_without_an_end_has_no_chord() -> None:
    line = {**connectivity(test=False).details["line"]}
    line["train_loss"] = [None, *line["train_loss"][1:4], None, *line["train_loss"][5:]]
    _, figure, caption = drawn("connectivity", [network(connectivity(test=False, line=line))], "connectivity")
    assert "2 of 18 losses are not finite and not drawn" in caption
    blue, orange = ([line for line in figure.axes[0].lines if line.get_color() == look.color] for look in LOOKS[:2])
    assert len(blue) == 1 and len(orange) == 2
    assert np.isnan(curve(blue[0])[1]).sum() == 2


@pytest.mark.parametrize("probe", ["rays", "barrier", "connectivity"])
def test_nothing_finite_is_refused_with_a_sentence(probe: str, tmp_path: Path) -> None:
    def emptied(value: Any) -> Any:
        if isinstance(value, dict):
            return {k: emptied(v) if k in (*QUANTITIES, "plain", "matched", "line") else v for k, v in value.items()}
        return [emptied(v) for v in value] if isinstance(value, list) else None

    record = FIGURES[probe][1]()
    empty = ProbeRecord(**{**vars(record), "details": emptied(dict(record.details))})
    refused = render_records([network(empty)], tmp_path, {})
    assert refused.files == [] and refused.refusals == [
        f"{probe} is without A: its record has nothing to draw.",
        f"{probe} was not drawn: no network has a value to draw.",
    ]


# --- in a browser ---


def data_of(html: str) -> list[dict[str, Any]]:
    """Return the traces that a page draws."""
    start = re.search(r"Plotly\.newPlot\(\s*\"random_plane\",\s*", html)
    assert start is not None
    return json.JSONDecoder().raw_decode(html[start.end() :])[0]


def test_the_page_holds_the_numbers_of_the_record_and_asks_for_nothing_else(tmp_path: Path) -> None:
    record = plane(with_gaps, marks=THREE, trajectory=TRAJECTORY)
    save_interactive(record, tmp_path / "plane.html")
    html = (tmp_path / "plane.html").read_text()
    assert not re.findall(r"<(?:script|link|img|iframe)[^>]*(?:src|href)=", html) and 3e6 < len(html) < 8e6
    traces = data_of(html)
    surfaces = [trace for trace in traces if trace["type"] == "surface"]
    for trace, name in zip(surfaces, QUANTITIES, strict=True):
        scale = 100 if name.endswith("accuracy") else 1
        grid = [[None if v is None else scale * v for v in row] for row in record.details[name]]
        assert (trace["x"], trace["y"], trace["z"]) == (record.details["xs"], record.details["ys"], grid)
        assert trace["connectgaps"] is False and trace["visible"] is (name == "train_loss")
    path, marks = traces[1:3]
    assert path["z"] == [p["train_loss"] for p in TRAJECTORY] and marks["z"] == [0.2512] * 3
    assert marks["text"][1] == "b.pt<br>Train loss (nats) 0.2512<br>0.75 off the plane"
    assert traces[5]["text"][1].startswith("c<br>Test loss")  # b.pt has none
    save_interactive(record, tmp_path / "again.html")
    assert (tmp_path / "again.html").read_text() == html


def test_names_do_not_become_a_part_of_the_page(tmp_path: Path) -> None:
    save_interactive(plane(marks=[mark("</script><script>alert(1)</script>")]), tmp_path / "plane.html")
    html = (tmp_path / "plane.html").read_text()
    assert "<script>alert" not in html and html.count("</script>") == html.count("<script")
    assert data_of(html)[1]["text"][0].startswith("&lt;/script&gt;&lt;script&gt;alert(1)&lt;/script&gt;<br>Train")


def test_a_page_of_no_plane_or_nothing_finite_is_refused(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="expected the record of a plane, got one of 'rays'"):
        save_interactive(rays(), tmp_path / "x.html")
    with pytest.raises(InputError, match="expected a finite loss in the plane of 'random_plane', got none"):
        save_interactive(plane(nowhere_finite, test=False, accuracy=False), tmp_path / "x.html")
    assert list(grids_of(plane(test=False, accuracy=False))) == ["train_loss"]
    assert list(tmp_path.iterdir()) == []


def test_a_missing_plotly_is_told_with_its_cure(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "plotly.graph_objects", None)
    with pytest.raises(InputError, match=r"expected plotly to be installed.*pip install 'sharpness\[interactive\]'"):
        require_library()


def test_no_figure_of_a_landscape_loads_torch_and_no_page_matplotlib(tmp_path: Path) -> None:
    code = f"""
import sys
from pathlib import Path
from sharpness.plots import render_records
from sharpness.plots.interactive import save_interactive
from tests.landscape_records import network, plane
save_interactive(plane(), Path({str(tmp_path)!r}) / "x.html")
assert not sys.modules.keys() & {{"torch", "matplotlib"}}
assert len(render_records([network(plane(test=False, accuracy=False))], Path({str(tmp_path)!r}), {{}}).files) == 8
assert "torch" not in sys.modules and "matplotlib.pyplot" not in sys.modules and "plotly" in sys.modules
"""
    result = run_cold_python("-c", code)
    assert result.returncode == 0, result.stderr


# --- what is really measured ---


def test_the_figures_take_what_the_landscapes_report() -> None:
    loss = small_network()
    steps = torch.linspace(-1, 1, len(loss.weights)).to(loss.weights)
    points = [loss.weights + 0.1 * steps**power for power in (1, 2, 3)]
    results = [
        RandomRays(num_rays=2, num_points=3)(loss, loss.weights, test_loss=loss),
        EigenPlane(num_points=3)(loss, loss.weights),
        ThreePointPlane(num_points=3)(loss, *points, test_loss=loss),
        TrajectoryPlane(num_points=3)(loss, loss.weights, *points),
        Barrier(num_points=3)(loss, *points[:2]),
        ModeConnectivity(num_steps=2, num_points=3)(loss, *points[:2], test_loss=loss),
    ]
    records = {r.probe: ProbeRecord.from_dict(r.to_record("weights").to_dict()) for r in results}
    for probe in records:
        for name in kinds_of(probe):
            table, figure, caption = drawn(name, [Network("A", records)], probe)
            assert not table.empty and faults(figure) == [] and "None" not in caption


@needs_browser
@pytest.mark.slow
def test_a_browser_draws_the_surface_that_can_be_turned(tmp_path: Path) -> None:
    page, shot = tmp_path / "plane.html", tmp_path / "shot.png"
    save_interactive(plane(), page)
    _, said = visit(page, "--window-size=900,900", "--virtual-time-budget=5000", f"--screenshot={shot}")
    assert said == []
    with Image.open(shot) as opened:
        rgb = np.asarray(opened.convert("RGB")).astype(int)
    vivid = np.ptp(rgb, axis=2) > 90  # the colours of the surface: text, grid and frame are greyer
    assert vivid.sum() > 5000 and len(np.unique(rgb[vivid], axis=0)) > 50
