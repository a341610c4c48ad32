"""Synthetic runs with planted spectra: do the figures draw the records' numbers, cope with nulls, say what is shown?"""

from __future__ import annotations

import hashlib
import json
import re
import shutil
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import matplotlib as mpl
import numpy as np
import pandas as pd
import pytest
from matplotlib.figure import Figure
from scipy.integrate import trapezoid

from analysis.report.spectra import FIGURES, load_networks, render_spectra
from sharpness.errors import InputError
from sharpness.files import append_jsonl
from sharpness.plots.axes import asinh_axis
from sharpness.plots.density import common_threshold, density_figure, density_table
from sharpness.plots.eigenvalues import convergence_table
from sharpness.plots.frames import floats, rows_where
from sharpness.plots.layers import layers_table
from sharpness.plots.networks import Network
from sharpness.plots.style import STYLE, new_figure
from sharpness.probes import LayerEigenvalues, TopEigenvalues
from sharpness.records import ProbeRecord
from tests.conftest import run_python
from tests.drawings import faults

SIZE = 1_462_794
KNOBS: dict[str, dict[str, Any]] = {
    "density": {"steps": 40, "starts": 2, "seed": 0},
    "layers": {"k": 1, "which": "both", "rtol": 1e-2, "seed": 0},
    "eigenvalues": {"k": 3, "which": "both", "rtol": 1e-2, "confidence": 0.99, "seed": 0},
}
SUBSET = 2000


def marchenko_pastur(grid: np.ndarray, ratio: float, scale: float) -> np.ndarray:
    """Return the density of the bulk of a sample covariance matrix, per unit of lambda."""
    low, high = scale * (1 - ratio**0.5) ** 2, scale * (1 + ratio**0.5) ** 2
    inside = np.clip((high - grid) * (grid - low), 0, None)
    return np.sqrt(inside) / (2 * np.pi * ratio * scale * np.where(grid > 0, grid, 1))


def density_record(top: float, threshold: float = 1e-4, size: int = SIZE) -> ProbeRecord:
    """A spike at zero, a small negative part, a Marchenko-Pastur bulk and ten outliers up to ``top``."""
    u = np.linspace(-8, np.arcsinh(3 * top / threshold), 400)
    grid = threshold * np.sinh(u)
    width, per_unit = 0.25, np.sqrt(grid**2 + threshold**2)
    outliers = np.arcsinh(np.geomspace(top / 30, top, 10) / threshold)
    density = 0.9 * np.exp(-(u**2) / 2) / np.sqrt(2 * np.pi) + 0.1 * per_unit * marchenko_pastur(grid, 0.4, top / 300)
    density += 1e-3 * np.exp(-((u + 3.5) ** 2) / 0.6)
    density += np.exp(-((u[:, None] - outliers) ** 2) / (2 * width**2)).sum(1) / (width * np.sqrt(2 * np.pi)) / size
    spread = 0.15 + 0.5 * np.exp(-density * 1e5)
    details: dict[str, Any] = {
        "size": size,
        "steps": 40,
        "num_starts": 2,
        "confidence": 0.95,
        "linear_threshold": threshold,
    }
    details |= {"nodes": [[0.0, top]] * 2, "weights": [[1.0, 0.0]] * 2, "grid": grid.tolist()}
    details |= {"density": density.tolist(), "density_lower": (density * (1 - spread)).tolist()}
    details |= {"density_upper": (density * (1 + spread)).tolist(), "trace": 40 * top, "trace_standard_error": top}
    details |= {"num_negative": 0.12 * size, "num_negative_standard_error": 0.01 * size}
    details |= {"num_negative_bracket": [0.05 * size, 0.4 * size], "effective_rank": 21.0}
    details |= {"smallest_node": -0.01 * top, "largest_node": top}
    return _record("density", "spectral_density", None, details)


def eigenvalues_record(top: float, num_products: int = 23, converged: bool = True) -> ProbeRecord:
    values = [top, 0.7 * top, 0.5 * top, -0.006 * top, -0.008 * top, -0.01 * top]
    details: dict[str, Any] = {"eigenvalues": values, "residuals": [1e-3 * top] * 6, "defect": 1e-6}
    details |= {"lowers": [v - 0.003 * top for v in values], "uppers": [values[0] * 1.008, *[None] * 5]}
    history = []
    for m in range(1, num_products + 1):
        rate = 9.6 / num_products
        ritz = top * (1 - 0.98 * np.exp(-2 * rate * (m - 1)))
        upper = None if m < 3 else ritz + top * 60 * np.exp(-rate * m)
        history.append([m, float(ritz), float(ritz - 1e-6 * top), upper])
    details["history"] = [*history[:-1], [num_products, top, top * (1 - 1e-6), history[-1][3]]]
    record = _record("eigenvalues", "top_eigenvalue", top, details)
    return replace(record, lower=top * (1 - 1e-6), upper=history[-1][3], confidence=0.99, converged=converged)


def layers_record(top: float, num_layers: int = 6) -> ProbeRecord:
    layers = []
    for i in range(num_layers):
        high, low = top * 0.9 * np.exp(-0.8 * i), -top * 0.004 * np.exp(-0.5 * i)
        layer: dict[str, Any] = {"name": str(3 * i + 1), "kind": "Linear", "size": 512 * (784 if i == 0 else 512)}
        layer |= {"eigenvalues": [high, low], "lowers": [0.99 * high, 1.3 * low], "uppers": [1.01 * high, None]}
        layers.append(layer | {"residuals": [1e-3, 1e-3], "num_hvps": 20, "converged": i != 2})
    return _record("layers", "layer_eigenvalues", top * 0.9, {"layers": layers})


def _record(probe: str, quantity: str, value: float | None, details: dict[str, Any]) -> ProbeRecord:
    return ProbeRecord(
        num_hvps=80,
        probe=probe,
        quantity=quantity,
        value=value,
        knobs=KNOBS[probe],
        converged=True,
        num_examples=SUBSET,
        norm="batch",
        dtype="float32",
        checkpoint_sha256="weights",
        details=details | {"subset": SUBSET},
    )


def records_of(top: float) -> list[ProbeRecord]:
    return [density_record(top), eigenvalues_record(top, round(14 + top)), layers_record(top)]


def make_run(root: Path, batch_size: int, records: list[ProbeRecord], seed: int = 0) -> Path:
    folder = root / f"f1-b{batch_size}-s{seed}"
    folder.mkdir(parents=True)
    (folder / "config.toml").write_text(f"[training]\nbatch_size = {batch_size}\nseed = {seed}\n")
    manifest = {"schema": 1, "run_id": folder.name, "status": "finished", "step": 300, "git_commit": "c0ffee"}
    files = {"checkpoint-0.safetensors": "start", "checkpoint-300.safetensors": "weights"}
    (folder / "manifest.json").write_text(json.dumps(manifest | {"files": files}))
    for record in records:
        append_jsonl(folder / "probes.jsonl", record.to_dict())
    return folder


@pytest.fixture(scope="module")
def two(tmp_path_factory: pytest.TempPathFactory) -> list[Path]:
    root = tmp_path_factory.mktemp("runs")
    return [make_run(root, batch_size, records_of(top)) for batch_size, top in ((64, 1.9), (1000, 18.0))]


@pytest.fixture(scope="module")
def drawn(two: list[Path], tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return the folder of the figures of both runs."""
    out = tmp_path_factory.mktemp("drawn")
    render_spectra(two, out, KNOBS, SUBSET)
    return out


def drawn_figures(networks: list[Network]) -> list[Figure]:
    with mpl.rc_context(STYLE):
        return [kind.draw(kind.table(networks), networks) for _, kind in FIGURES.values()]


# --- the numbers drawn are those of the records ---


def test_csv_of_the_density_holds_the_record(drawn: Path) -> None:
    table = pd.read_csv(drawn / "density.csv")
    for label, top in (("batch 64", 1.9), ("batch 1000", 18.0)):
        details = density_record(top).details
        curve = rows_where(table, network=label, mark="curve")
        for column, key in (("eigenvalue", "grid"), ("density", "density"), ("density_lower", "density_lower")):
            np.testing.assert_allclose(floats(curve, column), details[key], rtol=1e-12)
        extremes = rows_where(table, network=label, mark="eigenvalue")
        np.testing.assert_allclose(
            floats(extremes, "eigenvalue"), eigenvalues_record(top).details["eigenvalues"], rtol=1e-12
        )
        assert np.isnan(floats(extremes, "upper")).tolist() == [False, *[True] * 5]


def test_csv_of_layers_and_convergence_hold_the_records(drawn: Path) -> None:
    table = pd.read_csv(drawn / "layers.csv", dtype={"layer": str})
    own = rows_where(table, network="batch 1000")
    layers = layers_record(18.0).details["layers"]
    expected = [value for layer in layers for value in layer["eigenvalues"]]
    # The last row is the whole network's top. Releases of pandas read the last bit differently.
    np.testing.assert_allclose(floats(own, "eigenvalue"), [*expected, 18.0], rtol=1e-12)
    assert own["layer"].isna().tolist() == [False] * 12 + [True]
    assert own["layer"].tolist()[:-1:2] == [layer["name"] for layer in layers]
    history = pd.read_csv(drawn / "convergence.csv")
    own, record = rows_where(history, network="batch 64"), eigenvalues_record(1.9, 16)
    raw = np.array(record.details["history"], dtype=float)
    raw = raw[
        : 1 + int(np.argmax(raw[:, 3] - raw[:, 2] <= 1e-2 * raw[:, 1]))
    ]  # to the first interval as narrow as asked
    assert own["converged"].tolist() == [False] * (len(raw) - 1) + [True]
    for column, expected in zip(("products", "ritz", "lower", "upper"), raw.T, strict=True):
        np.testing.assert_allclose(floats(own, column), expected, rtol=1e-12)
    np.testing.assert_allclose(floats(own, "upper_percent"), 100 * (raw[:, 3] / 1.9 - 1), rtol=1e-9)
    assert -0.1 < floats(own, "ritz_percent")[-1] <= 0


def test_another_threshold_changes_the_unit_and_not_the_share_of_eigenvalues() -> None:
    fine, coarse = density_record(1.9, 1e-4), density_record(1.9, 3e-4)
    networks = [Network("fine", records={"density": fine}), Network("coarse", records={"density": coarse})]
    assert common_threshold(networks) == 1e-4
    rows = rows_where(density_table(networks), network="coarse")
    # The integral over any stretch of the axis is a number of eigenvalues and must not depend on the unit.
    x, y = floats(rows, "eigenvalue"), floats(rows, "density")
    before = np.array(coarse.details["density"])
    for cut in (-1e-3, 0.0, 1e-3, 1.0):
        inside = x <= cut
        ours = trapezoid(y[inside], np.arcsinh(x[inside] / 1e-4))
        theirs = trapezoid(before[inside], np.arcsinh(x[inside] / 3e-4))
        assert ours == pytest.approx(theirs, rel=5e-3)  # the trapezoidal rule on 400 points
    assert not np.allclose(y, before, rtol=0.5)


# --- gaps in the records ---


def with_nulls() -> list[ProbeRecord]:
    """No band, no trace, an eigenvalue that failed, a warm start that voided the bound, a ceiling that was reached."""
    density, top, layers = records_of(1.9)
    nothing = dict.fromkeys(("density_lower", "density_upper", "trace", "num_negative", "effective_rank"))
    nothing |= {"num_starts": 1}
    top_details: dict[str, Any] = {**top.details, "lowers": [None] * 6, "uppers": [None] * 6}
    top_details["eigenvalues"] = [1.9, None, *top.details["eigenvalues"][2:]]
    top_details["history"] = [[m, ritz, None, None] for m, ritz, _, _ in top.details["history"]]
    rows = [{**layer, "uppers": None, "lowers": None, "converged": None} for layer in layers.details["layers"]]
    void = {"upper": "a warm start voids the bound"}
    return [
        replace(density, details={**density.details, **nothing}),
        replace(top, upper=None, lower=None, converged=False, details=top_details, reasons=void),
        replace(layers, details={"layers": rows, "subset": SUBSET}),
    ]


def test_nulls_leave_gaps_and_are_told(tmp_path: Path) -> None:
    run = make_run(tmp_path, 64, with_nulls())
    rendered = render_spectra([run], tmp_path / "out", KNOBS, SUBSET)
    assert rendered.refusals == [] and len(rendered.files) == 12
    captions = {name: json.loads((tmp_path / "out" / f"{name}.json").read_text())["caption"] for name in FIGURES}
    assert "No band is drawn" in captions["density"] and "open marks: not as narrow as asked (5)" in captions["density"]
    assert "a warm start voids the bound" in captions["convergence"]
    assert not any("nan" in caption.lower() or "None" in caption for caption in captions.values())
    table = pd.read_csv(tmp_path / "out" / "density.csv")
    assert len(rows_where(table, mark="eigenvalue")) == 5
    assert np.isnan(floats(pd.read_csv(tmp_path / "out" / "convergence.csv"), "upper_percent")).all()


def test_open_marks_are_the_unconverged_ones(two: list[Path]) -> None:
    networks = load_networks(two, KNOBS, SUBSET)
    ax = drawn_figures(networks)[1].axes[0]
    faces = [line.get_markerfacecolor() for line in ax.lines if line.get_marker() in ("o", "s")]
    assert len(faces) == 24 and faces.count("white") == 4  # one layer of six, two eigenvalues, two networks


def test_an_eigenvalue_with_a_narrow_interval_is_converged_whatever_the_others() -> None:
    details = {"eigenvalues": [2.0, -0.5, -0.1], "lowers": [1.999, -0.6, None], "uppers": [2.001, -0.5, None]}
    layers = [{"name": "a", "size": 9, "converged": False, **details}]
    record = replace(layers_record(2.0), details={"layers": layers})
    assert layers_table([Network("n", records={"layers": record})])["converged"].tolist() == [True, False, False]


def test_missing_probes_skip_the_figure_and_remove_an_older_one(two: list[Path], drawn: Path, tmp_path: Path) -> None:
    out = tmp_path / "out"
    shutil.copytree(drawn, out)
    bare = make_run(tmp_path / "bare", 256, [eigenvalues_record(3.0)])
    rendered = render_spectra([bare], out, KNOBS, SUBSET)
    assert rendered.refusals == [
        "density was not drawn: no run has a record of the probe 'density'.",
        "layers was not drawn: no run has a record of the probe 'layers'.",
    ]
    assert sorted(path.name for path in out.iterdir()) == [f"convergence.{s}" for s in ("csv", "json", "pdf", "png")]
    mixed = render_spectra([two[0], bare], out, KNOBS, SUBSET)
    assert mixed.refusals == [f"{name} is without batch 256: nothing to draw." for name in ("density", "layers")]
    assert json.loads((out / "density.json").read_text())["caption"].endswith("Without a record to draw: batch 256.")


@pytest.mark.parametrize(
    "change",
    [{"knobs": {"steps": 41}}, {"checkpoint_sha256": "start"}, {"details": {"subset": None}}],
    ids=["other knobs", "other weights", "other examples"],
)
def test_records_of_something_else_are_not_drawn(tmp_path: Path, change: dict[str, Any]) -> None:
    right, other = density_record(1.9), density_record(18.0)
    wrong = replace(other, **(change | {"details": {**other.details, **change.get("details", {})}}))
    run = make_run(tmp_path, 64, [right, wrong])
    (network,) = load_networks([run], KNOBS, SUBSET)
    assert network.records["density"].to_dict() == right.to_dict()


def test_a_value_of_zero_has_no_relative_distance() -> None:
    record = replace(eigenvalues_record(1.0), value=0.0)
    assert convergence_table([Network("flat", records={"eigenvalues": record})]).empty


# --- which runs ---


def test_labels_tell_the_runs_apart(tmp_path: Path) -> None:
    a, b = (make_run(tmp_path, 64, [], seed) for seed in (0, 1))
    c = make_run(tmp_path, 1000, [])
    assert [n.label for n in load_networks([a, c], KNOBS, SUBSET)] == ["batch 64", "batch 1000"]
    assert [n.label for n in load_networks([a, b], KNOBS, SUBSET)] == ["batch 64, seed 0", "batch 64, seed 1"]


def test_bad_runs_are_refused(tmp_path: Path) -> None:
    run = make_run(tmp_path, 64, [])
    with pytest.raises(InputError, match="1 to 4 runs, got 0"):
        load_networks([], KNOBS, SUBSET)
    with pytest.raises(InputError, match="each run once"):
        load_networks([run, run], KNOBS, SUBSET)
    with pytest.raises(InputError, match=r"without a manifest\.json"):
        load_networks([tmp_path], KNOBS, SUBSET)
    (run / "manifest.json").write_text('{"status": "diverged"}')
    with pytest.raises(InputError, match="got status 'diverged'"):
        load_networks([run], KNOBS, SUBSET)


def test_provenance_names_records_runs_and_numbers(two: list[Path], drawn: Path, tmp_path: Path) -> None:
    first = {path.name: path.read_bytes() for path in drawn.iterdir()}
    content = json.loads(first["layers.json"])
    assert [run["run_id"] for run in content["runs"]] == ["f1-b64-s0", "f1-b1000-s0"]
    assert content["runs"][1]["checkpoint_sha256"] == "weights" and content["runs"][0]["git_commit"] == "c0ffee"
    record = content["runs"][0]["records"]["density"]
    assert (record["knobs"], record["subset"], record["num_examples"]) == (KNOBS["density"], SUBSET, 2000)
    assert content["csv_sha256"] == hashlib.sha256(first["layers.csv"]).hexdigest()
    for words in ("40 steps from 2 random starts", "2,000 training examples drawn at random", "1,462,794"):
        assert words in json.loads(first["density.json"])["caption"]
    again = render_spectra(two, tmp_path / "again", KNOBS, SUBSET)
    assert {path.name: path.read_bytes() for path in again.files} == first


# --- how it looks ---


@pytest.mark.parametrize("num_networks", [1, pytest.param(2, marks=pytest.mark.slow), 4])
def test_every_axis_is_labelled_and_no_text_overlaps(tmp_path: Path, num_networks: int) -> None:
    runs = [make_run(tmp_path, 4 ** (i + 2), records_of(1.9 * 3**i)) for i in range(num_networks)]
    for figure in drawn_figures(load_networks(runs, KNOBS, SUBSET)):
        assert all(ax.get_xlabel() for ax in figure.axes[-1:]) and figure.axes[0].get_ylabel()
        assert faults(figure) == []


@pytest.mark.parametrize("values", [[-1e-3, 2e4], [0.0, 0.0], [1e-9, 3e-9], [-40.0, -2e-5], [float("nan")], []])
@pytest.mark.parametrize("threshold", [1e-6, 1e-2])
def test_asinh_axis_shows_every_value_and_few_round_ticks(values: list[float], threshold: float) -> None:
    _, axes = new_figure(3.25, 2.0)
    ax = axes[0, 0]
    asinh_axis(ax.xaxis, np.array(values, dtype=float), threshold)
    low, high = ax.get_xlim()
    assert all(low < value < high for value in values if np.isfinite(value))
    ticks = np.array([tick for tick in ax.get_xticks() if tick != 0])
    assert len(ticks) <= 8
    assert {f"{abs(tick):.3e}"[:5] for tick in ticks} <= {"1.000", "2.000", "5.000"}


FURTHER_TOPS = [pytest.param(top, marks=pytest.mark.slow) for top in (1.9, 18.0, 95.0, 300.0)]
"""Between the smallest, one that ends just below a label, and the largest."""


@pytest.mark.parametrize("top", [0.6, 9.5, 2.1e4, *FURTHER_TOPS])
@pytest.mark.parametrize("threshold", [1e-4, 1e-2])
def test_the_largest_eigenvalue_can_be_read_off_the_density(top: float, threshold: float) -> None:
    record = density_record(top, threshold)
    network = Network("A", {"density": record, "eigenvalues": eigenvalues_record(top)})
    with mpl.rc_context(STYLE):
        figure = density_figure(density_table([network]), [network])
    axis = figure.axes[-1].xaxis
    low, high = axis.get_view_interval()
    labelled = [x for x in axis.get_majorticklocs() if low <= x <= high and axis.get_major_formatter()(x)]
    below, above = max(x for x in labelled if 0 < x <= top), min(x for x in labelled if x > top)
    assert len(labelled) <= 9 and above / below <= 1000
    between = [x for x in axis.get_minorticklocs() if below < x < above]
    assert len(between) >= 2 and faults(figure) == []


def test_the_density_axis_reaches_below_one_eigenvalue(two: list[Path]) -> None:
    ax = drawn_figures(load_networks(two, KNOBS, SUBSET))[0].axes[0]
    assert ax.get_yscale() == "log"
    assert ax.get_ylim()[0] == pytest.approx(0.1 / SIZE)
    assert ax.get_ylim()[1] > max(density_record(1.9).details["density_upper"])


def test_no_layer_is_left_out_and_order_is_the_networks(two: list[Path]) -> None:
    networks = load_networks(two, KNOBS, SUBSET)
    ax = drawn_figures(networks)[1].axes[0]
    labels = [label.get_text() for label in ax.get_yticklabels()]
    assert labels == ["Linear 1 (401k)", *(f"Linear {3 * i + 1} (262k)" for i in range(1, 6))]
    assert np.all(np.diff(ax.get_yticks()) < 0)
    lines = [
        float(np.asarray(line.get_xdata())[0])
        for line in ax.lines
        if len(set(np.asarray(line.get_ydata()).tolist())) == 2
    ]
    assert {1.9, 18.0} <= set(lines)
    assert len(rows_where(layers_table(networks), network="batch 64")) == 13


# --- the script ---

RUN = (
    "[data]\nnum_train = 60\nnum_test = 20\nevaluation_batch_size = 60\n"
    "[model]\nname = 'f1_small'\n[training]\nbatch_size = 30\nepochs = 1\n"
)


@pytest.mark.study
def test_the_script_measures_what_is_missing_and_draws(tmp_path: Path) -> None:
    (tmp_path / "run.toml").write_text(RUN)
    run, out = tmp_path / "run", tmp_path / "out"
    train = ("train", str(tmp_path / "run.toml"), "--out", str(run))
    assert run_python("-c", "from sharpness.cli import main; main()", *train).returncode == 0
    manifest = json.loads((run / "manifest.json").read_text())
    weights = manifest["files"][f"checkpoint-{manifest['step']}.safetensors"]
    probes = {
        "eigenvalues": TopEigenvalues(k=1, which="both"),
        "layers": LayerEigenvalues(k=1, which="both", num_hvps=30),
    }
    for record in (eigenvalues_record(2.0), layers_record(2.0)):
        details = dict(record.details) | {"subset": 4}
        knobs = asdict(probes[record.probe])
        record = replace(record, knobs=knobs, checkpoint_sha256=weights, details=details)
        append_jsonl(run / "probes.jsonl", record.to_dict())
    options = ("--examples", "4", "--steps", "2", "--starts", "1", "--k", "1", "--workers", "1")
    first = run_python("scripts/spectra.py", str(run), "--out", str(out), *options)
    assert first.returncode == 0, first.stderr
    assert "probe: density" in first.stdout and "probe: layers" not in first.stdout
    assert re.fullmatch(r"probe \d+ s, render \d+ s; \d+ s in all", first.stdout.splitlines()[-1])
    assert sorted(path.name for path in out.glob("*.pdf")) == ["convergence.pdf", "density.pdf", "layers.pdf"]
    assert "2 steps from 1 random start" in json.loads((out / "density.json").read_text())["caption"]


def test_the_script_refuses_bad_input_in_one_line(tmp_path: Path) -> None:
    for arguments, words in (([], "got none"), ([str(tmp_path)], "no config.toml")):
        result = run_python("scripts/spectra.py", *arguments, "--out", str(tmp_path / "out"))
        assert result.returncode == 2 and words in result.stderr and result.stderr.count("\n") == 1
    assert not (tmp_path / "out").exists()
