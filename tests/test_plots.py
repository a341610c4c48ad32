"""Figures of probe records: is every probe drawn, with the records' own numbers, readable, and gaps told?"""

from __future__ import annotations

import hashlib
import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import matplotlib as mpl
import numpy as np
import pandas as pd
import pytest
from matplotlib.axes import Axes
from matplotlib.collections import LineCollection
from matplotlib.figure import Figure
from scipy import stats

from analysis.keskar2017.arm_figures import interval_of_seeds
from sharpness import plots
from sharpness.errors import InputError
from sharpness.loss import Loss
from sharpness.measure.stress import StressRow
from sharpness.plots import Network, Rendered, render_records, seeds
from sharpness.plots.axes import number_axis
from sharpness.plots.frames import floats, rows_where
from sharpness.plots.kinds import KINDS, OVERVIEW, PAGE, Kind
from sharpness.plots.style import COLUMN, FULL, LOOKS, STYLE, new_figure
from sharpness.probes import (
    PROBES,
    DistanceFromStart,
    GradientNoise,
    Interpolation,
    KeskarSharpness,
    LayerEigenvalues,
    SpectralDensity,
    TopEigenvalues,
    Trace,
)
from sharpness.records import ProbeRecord
from sharpness.results import ProbeResult
from tests.cases import CASES
from tests.conftest import run_cold_python
from tests.drawings import faults
from tests.landscape_records import barrier, connectivity, plane, rays

SUFFIXES = (".pdf", ".png", ".csv", ".json")
DRAWN = (OVERVIEW, *(probe for probe in KINDS if probe in PROBES))
DATA = {"spec": "npz:points.npz", "examples": 9, "examples_total": 120}


def loss_of(seed: int) -> Loss:
    model, batches = CASES["mlp"].build(seed)
    return Loss(model, CASES["mlp"].criterion, batches, dtype=batches[0][0].dtype)


def records_of(seed: int) -> dict[str, ProbeRecord]:
    """Return what each probe really says of a small network, as if its data were named and its weights in a file."""
    loss, other = loss_of(seed), loss_of(seed + 1)
    results = {
        "eigenvalues": TopEigenvalues(k=2, which="both", num_hvps=43)(loss),
        "layers": LayerEigenvalues(which="both")(loss),
        "density": SpectralDensity(steps=8)(loss),
        "trace": Trace(rtol=1e-6)(loss),
        "keskar": KeskarSharpness()(loss),
        "distance": DistanceFromStart()(loss, loss.weights, other.weights),
        "interpolation": Interpolation(num_points=7)(loss, loss.weights, other.weights, test_loss=other),
        "gradient_noise": GradientNoise()(loss),
    }
    records = {name: result.to_record(f"weights {seed}") for name, result in results.items()}
    records = {name: ProbeRecord.from_dict(record.to_dict()) for name, record in records.items()}
    line = {"other_checkpoint_sha256": f"weights {seed + 1}", "other_run_id": "a run of a long name"}
    return {
        name: replace(
            record,
            data_sha256="points",
            details={**record.details, "data": DATA, **(line if name == "interpolation" else {})},
        )
        for name, record in records.items()
    }


@pytest.fixture(scope="module")
def networks() -> list[Network]:
    """Two networks, of which the first has the line to the second; the second has records of all other probes."""
    first, second = records_of(0), records_of(1)
    del second["interpolation"]
    return [Network("A", first, {"file": "a.pt"}), Network("B", second)]


def value_record(value: float | None = 2.0, **fields: Any) -> ProbeRecord:
    return ProbeRecord(**({"probe": "flatness", "quantity": "mean_flatness", "value": value} | fields))


def kind_of(name: str) -> Kind:
    return PAGE if name == OVERVIEW else KINDS[name]


def figure_of(probe: str, networks: list[Network]) -> Figure:
    kind = kind_of(probe)
    with mpl.rc_context(STYLE):
        return kind.draw(kind.table(networks), networks)


def caption_of(probe: str, networks: list[Network]) -> str:
    return kind_of(probe).caption(kind_of(probe).table(networks), networks)


def shown_numbers(ax: Axes, axis: str) -> list[float]:
    """Return the coordinates of all single marks on one axis."""
    lines = [line for line in ax.lines if line.get_linestyle() == "None" and line.get_marker() not in ("", "None")]
    return [float(value) for line in lines for value in np.asarray(getattr(line, f"get_{axis}data")())]


# --- every probe ---


@pytest.fixture(scope="module")
def rendered(networks: list[Network], tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Rendered]:
    out = tmp_path_factory.mktemp("rendered")
    return out, render_records(networks, out, {"command": "sharpness compare"})


def test_every_kind_of_figure_is_of_a_probe() -> None:
    assert {*DRAWN} - {OVERVIEW} <= PROBES.keys()


def test_every_figure_comes_with_its_numbers_and_origin(
    networks: list[Network], rendered: tuple[Path, Rendered]
) -> None:
    out, result = rendered
    assert result.refusals == []  # B has no line of its own, but it is the far end of A's
    assert {path.name for path in result.files} == {f"{probe}{suffix}" for probe in DRAWN for suffix in SUFFIXES}
    assert sorted(path.name for path in out.iterdir()) == sorted(path.name for path in result.files)
    for probe in DRAWN:
        content = json.loads((out / f"{probe}.json").read_text(), parse_constant=pytest.fail)
        assert content["csv_sha256"] == hashlib.sha256((out / f"{probe}.csv").read_bytes()).hexdigest()
        assert content["command"] == "sharpness compare"
        first = content["networks"][0]
        assert (first["label"], first["file"]) == ("A", "a.pt")
        assert '"checkpoint_sha256": "weights 0"' in json.dumps(first)
        if probe == OVERVIEW:
            values = {name: record["value"] for name, record in first["records"].items()}
            assert values == {name: record.value for name, record in networks[0].records.items()}
        else:
            assert first["record"]["value"] == networks[0].records[probe].value
        assert "9 of 120 examples of npz:points.npz, drawn at random" in content["caption"]
        assert "nan" not in content["caption"].lower() and "None" not in content["caption"]


def test_a_second_render_gives_the_same_bytes(
    networks: list[Network], rendered: tuple[Path, Rendered], tmp_path: Path
) -> None:
    probes = ("density", "eigenvalues", "gradient_noise")  # the rest takes as long and the same way
    some = [replace(n, records={probe: n.records[probe] for probe in probes}) for n in networks]
    again = render_records(some, tmp_path, {"command": "sharpness compare"})
    assert len(again.files) == 16  # the first four are the page, of fewer numbers
    assert [path.read_bytes() for path in again.files[4:]] == [
        (rendered[0] / path.name).read_bytes() for path in again.files[4:]
    ]


@pytest.mark.parametrize("num_networks", [1, pytest.param(2, marks=pytest.mark.slow), 4])
@pytest.mark.parametrize("probe", DRAWN)
def test_figures_are_readable(networks: list[Network], probe: str, num_networks: int) -> None:
    labels = ("A", "B", "checkpoint-12000", "runs/pair/of_$_long/names/checkpoint-12000.safetensors")
    shown = []
    for i, label in enumerate(labels[:num_networks]):
        record = value_record(10.0**i, lower=0.5 * 10**i, converged=i != 1)
        shown.append(Network(label, {**networks[i % 2].records, "flatness": record}))
    figure = figure_of(probe, shown)
    assert figure.get_figwidth() in (COLUMN, FULL)
    assert faults(figure) == []
    # The right axis of a pair shares the x axis of the left one, and the density that of the eigenvalues below it.
    below = figure.axes[0] if probe == "interpolation" else figure.axes[-1]
    assert below.get_xlabel()


# --- the numbers are those of the records ---


def test_eigenvalues_are_all_drawn_above_the_course_of_the_first(networks: list[Network]) -> None:
    record = networks[0].records["eigenvalues"]
    above, below = figure_of("eigenvalues", networks[:1]).axes
    assert shown_numbers(above, "x") == record.details["eigenvalues"]
    table = kind_of("eigenvalues").table(networks[:1])
    values, curve = rows_where(table, mark="eigenvalue"), rows_where(table, mark="curve")
    assert floats(values, "lower").tolist() == record.details["lowers"]
    assert floats(values, "upper").tolist() == record.details["uppers"]
    history = np.array(record.details["history"], dtype=float)[: len(curve)]
    drawn = np.column_stack([floats(curve, name) for name in ("products", "ritz", "lower")])
    np.testing.assert_array_equal(drawn, history[:, :3])
    assert max(line.get_xdata()[-1] for line in below.lines[:2]) == history[-1, 0]  # type: ignore[index]


def test_a_bottom_eigenvalue_is_approached_from_above() -> None:
    result = TopEigenvalues(which="bottom", num_hvps=43)(loss_of(0)).to_record("weights 0")
    network = Network("A", {"eigenvalues": result})
    (ax,) = figure_of("eigenvalues", [network]).axes  # a single eigenvalue has its course alone
    table = rows_where(kind_of("eigenvalues").table([network]), mark="curve")
    assert np.all(floats(table, "ritz_percent") >= 0) and np.nanmin(floats(table, "lower_percent")) < -1
    assert [line.get_ydata()[0] for line in ax.lines if line.get_linestyle() == ":"] == [-1.0]  # type: ignore[index]
    assert r"\lambda_{\min}" in ax.get_ylabel()
    assert "Ritz value (above) and lower bound (99 % confidence) of the bottom" in caption_of("eigenvalues", [network])


def test_eigenvalues_without_a_course_stand_alone(networks: list[Network]) -> None:
    record = networks[0].records["eigenvalues"]
    warm = Network("A", {"eigenvalues": replace(record, details={**record.details, "history": []})})
    assert len(figure_of("eigenvalues", [warm]).axes) == 1
    assert "Below" not in caption_of("eigenvalues", [warm])


def test_trace_is_drawn_look_by_look(networks: list[Network]) -> None:
    record = networks[0].records["trace"]
    looks = np.array(record.details["looks"])
    assert len(looks) > 1
    table = kind_of("trace").table(networks[:1])
    np.testing.assert_allclose(np.column_stack([floats(table, n) for n in ("products", "estimate")]), looks[:, :2])
    np.testing.assert_allclose(floats(table, "upper") - floats(table, "estimate"), looks[:, 2], atol=1e-12)
    assert shown_numbers(figure_of("trace", networks[:1]).axes[0], "y") == [record.value]


def test_a_trace_of_one_look_has_no_figure(networks: list[Network]) -> None:
    record = networks[0].records["trace"]
    once = replace(record, details={**record.details, "looks": record.details["looks"][-1:]})
    assert kind_of("trace").table([Network("A", {"trace": once})]).empty


def test_the_noise_meets_the_gradient_at_the_noise_scale() -> None:
    numbers = {"noise_trace": {"value": 8.0, "lower": 4.0, "upper": None}, "gradient_square": {"value": 0.5}}
    fields = {"probe": "gradient_noise", "quantity": "simple_noise_scale", "details": numbers}
    shown = [Network("A", {"gradient_noise": ProbeRecord(**fields, value=16.0)})]
    table = kind_of("gradient_noise").table(shown)
    noise = rows_where(table, mark="noise")
    np.testing.assert_allclose(floats(noise, "value") * floats(noise, "batch_size"), 8.0)
    np.testing.assert_allclose(floats(noise, "lower") * floats(noise, "batch_size"), 4.0)
    ax = figure_of("gradient_noise", shown).axes[0]
    assert shown_numbers(ax, "x") == [16.0] and shown_numbers(ax, "y") == pytest.approx([0.5])
    unknown = Network("B", {"gradient_noise": ProbeRecord(**fields, value=None, reasons={"value": "it is 0"})})
    assert "B_simple: B: none (it is 0)" in caption_of("gradient_noise", [unknown])
    none = replace(unknown.records["gradient_noise"], details={"noise_trace": {"value": None}})
    assert kind_of("gradient_noise").table([Network("B", {"gradient_noise": none})]).empty


def test_the_line_names_its_ends_and_draws_what_was_measured(networks: list[Network]) -> None:
    details = networks[0].records["interpolation"].details
    left, right = figure_of("interpolation", networks).axes
    assert [(text.get_text(), text.get_position()[0]) for text in left.texts] == [("A", 0), ("B", 1)]
    assert np.asarray(left.lines[0].get_ydata()).tolist() == details["train_loss"]
    np.testing.assert_allclose(
        np.asarray(right.lines[1].get_ydata(), dtype=float), 100 * np.array(details["test_accuracy"])
    )
    assert "through A (alpha = 0) and B (alpha = 1)" in caption_of("interpolation", networks)
    assert "Without a record" not in caption_of("interpolation", networks)
    alone = figure_of("interpolation", networks[:1]).axes[0]
    assert [text.get_text() for text in alone.texts] == ["$w_0$", "$w_1$"]
    assert "and a run of a long name (alpha = 1)" in caption_of("interpolation", networks[:1])


def test_a_line_without_accuracies_has_one_axis_and_no_legend(networks: list[Network]) -> None:
    record = networks[0].records["interpolation"]
    bare = {"train_accuracy": [None] * 7, "test_accuracy": None, "test_loss": None}
    losses = [-0.5, *record.details["train_loss"][1:]]  # a loss of the user's own may be negative
    record = replace(
        record, value=None, details={**record.details, **bare, "train_loss": losses}, reasons={"value": "why"}
    )
    figure = figure_of("interpolation", [Network("A", {"interpolation": record})])
    (ax,) = figure.axes
    assert figure.legends == [] and ax.get_ylim()[0] < -0.5
    assert "unknown (why)" in caption_of("interpolation", [Network("A", {"interpolation": record})])


def test_a_single_number_has_no_figure_and_all_of_them_have_a_page(tmp_path: Path) -> None:
    record = value_record(2.0, lower=1.5, upper=2.5, confidence=0.9)
    assert render_records([Network("A", {"flatness": record})], tmp_path, {}).files == []
    adaptive = {"probe": "worst_case", "quantity": "rise", "knobs": {"scaling": "adaptive"}, "converged": False}
    shown = [Network("A", {"worst": value_record(-4.0, upper=-3.0, **adaptive), "flatness": record})]
    table = kind_of(OVERVIEW).table(shown)
    assert table["invariant"].tolist() == [False, True] and table["quantity"].tolist() == ["mean_flatness", "rise"]
    assert floats(table, "lower_percent")[0] == -25 and floats(table, "upper_percent").tolist() == [25, 25]
    shown = [Network("A", {"worst_case": shown[0].records["worst"], "flatness": record})]
    ax = figure_of(OVERVIEW, shown).axes[0]
    texts = [text.get_text() for text in ax.texts]
    assert texts[:2] == ["2 [1.5, 2.5]", "−4 [?, −3]"] and "not moved by it" in texts
    assert [label.get_text() for label in ax.get_yticklabels()] == ["Mean flatness", "Rise"]
    assert [line.get_markerfacecolor() for line in ax.lines if line.get_marker() == "o"] == [LOOKS[0].color, "white"]
    assert faults(figure_of(OVERVIEW, shown)) == []


def test_ratios_are_those_of_the_values_with_bounds_that_hold_wherever_both_do() -> None:
    first = {
        "flatness": value_record(2.0, lower=1.0, upper=4.0),
        "distance": value_record(3.0, probe="distance"),
        "trace": value_record(-1.0, probe="trace"),
        "rise": value_record(1.0, probe="rise", knobs={"rho": 1.0}),
    }
    second = {
        "flatness": value_record(8.0, lower=6.0, upper=9.0),
        "distance": value_record(6.0, probe="distance"),
        "trace": value_record(1.0, probe="trace"),
        "rise": value_record(1.0, probe="rise", knobs={"rho": 2.0}),
    }
    shown = [Network("A", first), Network("B", second)]
    table = kind_of(OVERVIEW).table(shown)
    assert table["probe"].tolist() == ["flatness", "distance"]  # no ratio of other signs, none of other knobs
    drawn = table[["ratio", "lower", "upper"]].to_numpy(dtype=float)
    np.testing.assert_array_equal(drawn, [[4.0, 1.5, 9.0], [2.0, np.nan, np.nan]])
    ax = figure_of(OVERVIEW, shown).axes[0]
    assert shown_numbers(ax, "x") == [4.0, 2.0] and ax.get_xlabel() == "Ratio to A"
    half = {**second, "distance": value_record(6.0, probe="distance", lower=5.0)}
    assert kind_of(OVERVIEW).table([shown[0], Network("B", half)])["apart"].tolist() == [True, False]


# --- one by one, into axes of one's own ---


def moved(name: str, before: float, after: float) -> StressRow:
    """Return a row of a stress test as if a probe had said these values."""
    first, second = (ProbeResult(value=value, probe="p", quantity="worst_case_sharpness") for value in (before, after))
    return StressRow(name, "1 -> 3", "units", 4.0, first, second, moved=before != after, reason="")


def measured_for(panel: str, networks: list[Network]) -> Any:
    """Return what a panel draws, of the kind that it is made for."""
    if panel == "track":
        tops = [each.records["eigenvalues"] for each in networks]
        return {"rate 0.1": dict(enumerate(tops)), "rate 0.2": {0: tops[1], 2: tops[0]}}
    if panel == "stress":
        return [moved("plain", 2.0, 8.0), moved("adaptive", 3.0, 3.0)]
    by_hand = {"plane": plane, "surface": plane, "rays": rays, "barrier": barrier, "connectivity": connectivity}
    return by_hand[panel]() if panel in by_hand else networks


@pytest.mark.parametrize("panel", plots.PANELS)
def test_a_panel_is_drawn_into_given_axes_and_no_setting_changes(networks: list[Network], panel: str) -> None:
    before = dict(mpl.rcParams)
    draw, measured = getattr(plots, f"draw_{panel}"), measured_for(panel, networks)
    page = Figure(layout="constrained")
    ax = page.add_subplot(1, 2, 1, projection="3d" if panel == "surface" else None)
    other = page.add_subplot(1, 2, 2)
    assert draw(measured, ax) is ax and ax.get_xlabel()
    assert page.legends == [] and not other.has_data()  # nothing of it is beside its axes
    figure = draw(measured, width=5.5).get_figure()
    assert isinstance(figure, Figure) and figure.get_figwidth() == 5.5 and faults(figure) == []
    assert dict(mpl.rcParams) == before


def test_a_page_is_of_one_network_or_of_a_comparison_and_no_setting_changes(networks: list[Network]) -> None:
    before = dict(mpl.rcParams)
    one = plots.draw_overview({"A": list(networks[0].records.values())}, width=3.5)
    assert one.get_figwidth() == 3.5 and "%" in one.axes[0].get_xlabel()
    both = plots.draw_overview({n.label: list(n.records.values()) for n in networks})
    assert both.get_figwidth() == FULL and both.axes[0].get_xlabel() == "Ratio to A"
    first, second = (n.records["trace"].value or 0.0 for n in networks)
    assert pytest.approx(second / first) in shown_numbers(both.axes[0], "x")
    assert [text.get_text() for text in both.legends[0].get_texts()] == ["A", "B"]
    assert dict(mpl.rcParams) == before


def test_a_panel_names_its_networks_in_its_own_axes(networks: list[Network]) -> None:
    legend = plots.draw_density(networks, Figure().subplots(1, 2)[0]).get_legend()
    assert legend is not None and [text.get_text() for text in legend.get_texts()] == ["A", "B"]


def test_an_eigenvalue_alone_is_drawn_where_it_is_asked_for(networks: list[Network]) -> None:
    record = networks[0].records["eigenvalues"]
    alone = {name: record.details[name][:1] for name in ("eigenvalues", "lowers", "uppers")}
    ax = plots.draw_eigenvalues(replace(record, details={**record.details, **alone, "history": []}))
    assert shown_numbers(ax, "x") == [record.value]


@pytest.mark.parametrize("name", ["barrier", "connectivity"])
def test_two_paths_are_drawn_by_loss_or_by_accuracy(name: str) -> None:
    draw, make = getattr(plots, f"draw_{name}"), {"barrier": barrier, "connectivity": connectivity}[name]
    record = make()
    path = record.details["plain" if name == "barrier" else "line"]
    loss, accuracy = draw(record), draw({"A": record, "B": record}, quantity="accuracy")
    np.testing.assert_array_equal(loss.lines[0].get_ydata(), path["train_loss"])
    np.testing.assert_allclose(accuracy.lines[0].get_ydata(), 100 * np.array(path["train_accuracy"]))
    words = [[text.get_text() for text in ax.get_figure().legends[0].get_texts()] for ax in (loss, accuracy)]
    assert words[0][-1] == "chord" and words[1] == words[0][:-1]
    with pytest.raises(InputError, match="unknown quantity of the paths 'train_loss': expected one of loss, accuracy"):
        draw(record, quantity="train_loss")
    with pytest.raises(InputError, match=r"unknown quantity of the paths 'accuracy': expected one of loss$"):
        draw(make(accuracy=False), quantity="accuracy")


def test_a_surface_stands_in_three_dimensions() -> None:
    with pytest.raises(InputError, match='got flat ones: give them projection="3d"'):
        plots.draw_surface(plane(), Figure().subplots())
    ax: Any = plots.draw_surface(plane())
    (faces,) = ax.collections
    assert len(faces.get_facecolor()) == 10 * 8 and ax.get_zlabel() == "Train loss (nats)"
    assert ax.get_figure().legends[0].get_texts()[0].get_text().startswith("$x$: First random direction")


def test_a_stress_test_names_its_measures_and_fills_those_that_moved() -> None:
    ax = plots.draw_stress([moved("worst case, plain", 2.0, 8.0), moved("worst case, adaptive", 3.0, 3.0)])
    assert [label.get_text() for label in ax.get_yticklabels()] == ["Worst case, plain", "Worst case, adaptive"]
    marks = [line for line in ax.lines if line.get_linestyle() == "None"]
    assert shown_numbers(ax, "x") == [4.0, 1.0]
    assert [line.get_markerfacecolor() == "white" for line in marks] == [False, True]


def test_a_training_is_drawn_from_results_by_their_steps_or_from_its_table() -> None:
    records = {
        step: value_record(value, quantity="top_eigenvalue", probe="eigenvalues", lower=value - 1)
        for step, value in ((0, 4.0), (10, 9.0))
    }
    ax = plots.draw_track({"slow": records, "fast": {0: records[10]}}, edge={"slow": 20.0})
    drawn = {line.get_label(): np.asarray(line.get_ydata(), dtype=float).tolist() for line in ax.lines}
    assert drawn["slow"] == [4.0, 9.0] and drawn["fast"] == [9.0] and drawn["edge of stability"] == [20.0, 20.0]
    rows = [{"series": "a", "step": 0, "quantity": name, "value": 2.0, "lower": 1.0} for name in ("trace", "rise")]
    table = pd.DataFrame(rows).assign(upper=3.0, edge=np.nan)
    assert [plots.draw_track(table, quantity=name).get_ylabel() for name in (None, "rise")] == ["Trace", "Rise"]
    with pytest.raises(InputError, match="unknown quantity of the training 'loss': expected one of"):
        plots.draw_track(table, quantity="loss")
    with pytest.raises(InputError, match="expected results by their steps to draw, got none"):
        plots.draw_track({})


def test_results_are_drawn_as_their_records_are() -> None:
    result = SpectralDensity(steps=4)(loss_of(0))
    ours, theirs = (plots.draw_density(each).lines[0].get_ydata() for each in (result, [result.to_record()]))
    np.testing.assert_array_equal(ours, theirs)
    with pytest.raises(InputError, match="expected something for draw_layers to draw, got none"):
        plots.draw_layers(result)
    with pytest.raises(InputError, match="expected results or records to draw, got int"):
        plots.draw_layers(3)
    with pytest.raises(InputError, match="unknown quantity of the plane 'loss'"):
        plots.draw_plane(plane(), quantity="loss")
    with pytest.raises(InputError, match="unknown quantity of the rays 'loss'"):
        plots.draw_rays(rays(), quantity="loss")
    assert plots.draw_rays(rays(), quantity="test_loss").get_ylabel().startswith("Test loss")


# --- only what belongs together ---


@pytest.mark.parametrize(
    "change",
    [{"knobs": {"matrix": "fisher", "which": "top", "rtol": 1e-2}}, {"data_sha256": "other"}, {"norm": "batch"}],
    ids=["another matrix", "other data", "another loss"],
)
def test_eigenvalues_of_something_else_are_not_drawn_into_density_and_layers(
    networks: list[Network], change: dict[str, Any]
) -> None:
    own = networks[0].records
    other = Network("A", {**own, "eigenvalues": replace(own["eigenvalues"], **change)})
    for probe, mark in (("density", {"mark": "eigenvalue"}), ("layers", {"layer": None})):
        with_own, without = (kind_of(probe).table([network]) for network in (networks[0], other))
        assert len(with_own) > len(without)
        assert len(rows_where(without, **mark)) == 0
    assert "Vertical lines" in caption_of("layers", networks[:1]) and "Vertical" not in caption_of("layers", [other])


def test_figures_name_the_matrix() -> None:
    record = TopEigenvalues(matrix="gauss_newton")(loss_of(0)).to_record("weights 0")
    shown = [Network("A", {"eigenvalues": record})]
    assert figure_of("eigenvalues", shown).axes[0].get_xlabel() == "Gauss-Newton-vector products"
    assert "of the top Gauss-Newton eigenvalue after" in caption_of("eigenvalues", shown)


def test_only_cross_entropy_is_in_nats(networks: list[Network]) -> None:
    for probe, axis in (("eigenvalues", "x"), ("trace", "y"), ("interpolation", "y"), ("layers", "x")):
        record = networks[0].records[probe]
        for criterion, expected in (("cross_entropy", True), ("mse", False)):
            changed = replace(record, details={**record.details, "criterion": criterion})
            ax = figure_of(probe, [Network("A", {probe: changed})]).axes[0]
            assert ("(nats)" in getattr(ax, f"get_{axis}label")()) == expected


def test_many_layers_go_on_in_further_panels(networks: list[Network]) -> None:
    record = networks[0].records["layers"]
    layer = record.details["layers"][0]
    for count, num_panels in ((41, 2), (101, 3)):
        many = [layer | {"name": f"blocks.{i}.weight"} for i in range(count)]
        figure = figure_of("layers", [Network("A", {"layers": replace(record, details={"layers": many})})])
        labels = [label.get_text() for ax in figure.axes for label in ax.get_yticklabels()]
        assert [label.split(" ")[0] for label in labels] == [layer["name"] for layer in many]
        assert len(figure.axes) == num_panels
        assert faults(figure) == []


# --- what is missing ---


def test_a_null_value_draws_no_mark_and_its_reason_is_told(tmp_path: Path) -> None:
    shown = [
        Network(
            "A", {"flatness": value_record(1.0), "rays": value_record(1.0, probe="rays", details={"distances": []})}
        )
    ]
    shown.append(Network("B", {"flatness": value_record(None, reasons={"value": "the loss overflowed"})}))
    shown.append(Network("C", {}))
    rendered = render_records(shown, tmp_path, {})
    assert rendered.refusals[:2] == [
        "flatness of B has no value: the loss overflowed.",
        "flatness is without C: there is no record of it.",
    ]
    assert rendered.refusals[-1] == "rays was not drawn: no network has a value to draw."
    one = [Network("A", {"flatness": value_record(1.0), "norms": value_record(2.0, probe="norms")})]
    assert len(render_records(one, tmp_path, {}).files) == 4
    assert render_records(shown[1:2], tmp_path, {}).files == []
    assert list(tmp_path.iterdir()) == []  # an older figure is not taken for it


@pytest.mark.parametrize("probe", ["trace"])
def test_null_values_of_known_probes_leave_an_empty_table(networks: list[Network], probe: str) -> None:
    record = replace(networks[0].records[probe], value=None)
    assert kind_of(probe).table([Network("A", {probe: record})]).empty


def test_bad_networks_are_refused_and_nothing_is_written(tmp_path: Path) -> None:
    one = Network("A", {"flatness": value_record()})
    for shown, words in (
        ([], "expected 1 to 4 networks, got 0"),
        ([replace(one, label=str(i)) for i in range(5)], "expected 1 to 4 networks, got 5"),
        ([one, one], "a label of its own for each network, got 'A' twice"),
        (
            [Network("A", {"flatness": value_record(), "../up": value_record()})],
            r"expected a probe's name .* got '\.\./up'",
        ),
    ):
        with pytest.raises(InputError, match=words):
            render_records(shown, tmp_path / "out", {})
    assert list(tmp_path.iterdir()) == []


# --- axes and imports ---


@pytest.mark.parametrize(
    ("values", "scale"),
    [
        ([3.0], "linear"),
        ([0.0], "linear"),
        ([], "linear"),
        ([1.7635, 1.7796], "linear"),
        ([2.0, float("nan"), 19.0], "linear"),
        ([2.0, 21.0], "log"),
        ([-3.0, 50.0], "linear"),
        ([-0.06, -0.006], "linear"),
        ([-1e-3, 0.0, 50.0], "asinh"),
    ],
)
def test_number_axis_shows_every_value_with_ticks(values: list[float], scale: str) -> None:
    _, axes = new_figure(COLUMN, 1.0)
    ax = axes[0, 0]
    number_axis(ax.xaxis, np.array(values, dtype=float))
    low, high = ax.get_xlim()
    assert all(low < value < high for value in values if np.isfinite(value))
    labels = [ax.xaxis.get_major_formatter()(x, None) for x in ax.get_xticks() if low <= x <= high]
    assert ax.get_xscale() == scale and 2 <= len(labels) == len(set(labels)) <= 9


# --- runs over several seeds ---


def runs_of() -> pd.DataFrame:
    """Return two roles with three seeds each, at two epochs, of which the last run diverged."""
    rows = [
        {"role": role, "seed": seed, "epoch": epoch, "loss": (1 + seed) * 4.0**epoch * (2 if role == "LB" else 1)}
        for role in ("SB", "LB")
        for seed in (0, 1, 3)
        for epoch in (0, 1)
    ]
    return pd.DataFrame(rows).assign(line="run", status=["finished"] * 10 + ["diverged"] * 2)


@pytest.mark.parametrize(("geometric", "means"), [(False, [7 / 3, 28 / 3]), (True, [2.0, 8.0])])
def test_means_and_ranges_over_seeds_are_those_of_the_numbers(geometric: bool, means: list[float]) -> None:
    figure, axes = new_figure(COLUMN, 2)
    ax = axes[0, 0]
    ax.set(xlabel="Epoch", ylabel="Loss")
    seeds.range_of_seeds(ax, rows_where(runs_of(), role="SB"), "epoch", "loss", geometric, **LOOKS[1].artist)
    np.testing.assert_allclose(np.asarray(ax.lines[0].get_ydata()), means)
    (bars,) = ax.collections
    assert isinstance(bars, LineCollection)
    assert [[y for _, y in np.asarray(segment).tolist()] for segment in bars.get_segments()] == [[1, 4], [4, 16]]
    assert (ax.lines[0].get_marker(), ax.lines[0].get_linestyle()) == ("s", "--")
    assert (ax.get_xlabel(), ax.get_ylabel(), figure.legends) == ("Epoch", "Loss", [])


@pytest.mark.parametrize("geometric", [False, True])
def test_intervals_over_seeds_are_those_of_student(geometric: bool) -> None:
    _, axes = new_figure(COLUMN, 2)
    rows = rows_where(runs_of(), role="SB")
    interval_of_seeds(axes[0, 0], rows, "epoch", "loss", geometric, **LOOKS[0].artist)
    ends = [[y for _, y in np.asarray(segment).tolist()] for segment in axes[0, 0].collections[0].get_segments()]
    for (_, at), found in zip(rows.groupby("epoch"), ends, strict=True):
        values = np.log(at["loss"]) if geometric else np.asarray(at["loss"])
        wanted = stats.t.interval(0.95, len(values) - 1, values.mean(), stats.sem(values))
        np.testing.assert_allclose(found, np.exp(wanted) if geometric else wanted)


def test_runs_are_thin_their_means_bold_and_a_diverged_run_ends_in_a_cross() -> None:
    looks, runs = dict(zip(("SB", "LB"), LOOKS, strict=False)), runs_of()
    heights = {"SB": (7 / 3, 28 / 3), "LB": (14 / 3, 56 / 3)}
    means = [
        {"line": "mean", "role": role, "epoch": epoch, "loss": heights[role][epoch]}
        for role in looks
        for epoch in (0, 1)
    ]
    _, axes = new_figure(COLUMN, 2)
    ax = axes[0, 0]
    seeds.runs_and_means(ax, pd.concat([runs, pd.DataFrame(means)]), "epoch", "loss", "role", looks)
    drawn: list[Any] = list(ax.lines)
    thin, (cross, *bold) = drawn[:6], drawn[6:]
    assert all(line.get_linewidth() == 0.5 for line in thin)
    assert [list(line.get_ydata()) for line in thin] == [[1, 4], [2, 8], [4, 16], [2, 8], [4, 16], [8, 32]]
    assert (cross.get_marker(), cross.get_xdata(), cross.get_ydata()) == ("x", [1], [32])
    assert [line.get_marker() for line in bold] == ["o", "s"]
    for line, role in zip(bold, looks, strict=True):
        np.testing.assert_allclose(line.get_ydata(), heights[role])


@pytest.mark.dear
def test_importing_loads_no_plotting_library_and_rendering_no_torch(tmp_path: Path) -> None:
    code = f"""
import sys
from pathlib import Path
from sharpness.plots import Network, Rendered, render_records
from sharpness.records import ProbeRecord
assert not sys.modules.keys() & {{"torch", "matplotlib", "pandas"}}
record = ProbeRecord(probe="distance", quantity="distance_from_start", value=3.0)
network = Network("A", {{"distance": record, "norms": record}})
assert len(render_records([network], Path({str(tmp_path)!r}), {{}}).files) == 4
assert "matplotlib" in sys.modules and "torch" not in sys.modules and "matplotlib.pyplot" not in sys.modules
"""
    result = run_cold_python("-c", code)
    assert result.returncode == 0, result.stderr
