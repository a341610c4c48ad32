"""Izmailov et al. 2018: widths and differences that are planted, points between runs that are known, and the script."""

from __future__ import annotations

import json
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
import safetensors.torch
import torch

from analysis.izmailov2018.numbers import distance_at, gain, outcomes, rises, stationarity, width_ratio, widths
from analysis.izmailov2018.planes import SHOWN, plane_drawing
from analysis.izmailov2018.report import report
from analysis.runs import Tables
from sharpness.errors import InputError
from sharpness.plots.frames import rows_where
from sharpness.records import ProbeRecord
from sharpness.runs import RunFolder
from sharpness.training import check_config
from sharpness.training.schedules import learning_rate
from tests.drawings import faults
from tests.landscape_records import mark as marked_at
from tests.landscape_records import plane
from tests.study_cases import first_steps, script, site, smoke_once

measure: Any = script("measures.izmailov2018")
main: Any = script("izmailov2018")
SETTINGS = {"error_rise": 0.05, "loss_rise": 0.5, "budgets": [1.0, 1.25, 1.5], "budget": 16, "pretrained": 12}
TRAINED = ("SGD", "SWA", "cyclical SWA")
ARMS = ("SGD", "SWA", "SWA 1.25", "SWA 1.5", "cyclical SWA")
T = np.linspace(-2, 3, 21)


def rays_record(width: float, length: float = 10.0, num_rays: int = 3) -> dict[str, Any]:
    """Return rays on which train loss and test error rise as ``(distance / width)^2`` times what is stated."""
    distances = np.linspace(0, length, 201)
    rise = [(distances / (width * (1 + 0.1 * ray))) ** 2 for ray in range(num_rays)]
    curves = {"train_loss": [0.2 + 0.5 * r for r in rise], "test_loss": [0.4 + 0.5 * r for r in rise]}
    curves |= {"train_accuracy": [1 - 0.05 * r for r in rise], "test_accuracy": [0.9 - 0.05 * r for r in rise]}
    details: dict[str, Any] = {name: [c.tolist() for c in curve] for name, curve in curves.items()}
    details |= {"distances": distances.tolist(), "norm_of_weights": 5.0, "normalisation": "none"}
    record = ProbeRecord(probe="rays", quantity="mean_rise", value=1.0, num_examples=10, details=details)
    return record.to_dict() | {"details": details}


def planted(
    gains: dict[str, float] | None = None,
    wider: float = 1.5,
    lower: float = 0.8,
    wall: float = 1.0,
    average: float = -1.0,
    own: float = 2.0,
    fall: float = 1.0,
) -> Tables:
    """Return five seeds: arms that gain so many points on SGD, SWA so many times wider, SGD's loss so much lower.

    ``wall`` is the loss beyond SGD, 0.4 that as far beyond SWA, ``average`` the test error of the average of three less
    that of the best, in points, ``own`` that of SWA's weights less SGD's, and ``fall`` the ratio of their train losses
    in both halves. A diverged and a missing run stand beside them.
    """
    rng = np.random.default_rng(0)
    gains = {"SWA": -1.0, "SWA 1.25": -1.2, "SWA 1.5": -1.4, "cyclical SWA": -1.0} if gains is None else gains
    runs, along, rays, line, points = [], [], [], [], []
    for seed in range(5):
        base = 20 + rng.normal()

        def shown(more: float, base: float = base) -> dict[str, float]:
            error = base + more + 0.05 * rng.normal()
            return {"test_accuracy": 1 - error / 100, "train_loss": 0.3, "test_loss": 0.5}

        for arm in TRAINED:
            row = {"arm": arm, "seed": seed, "status": "finished", "model": "cnn", "num_train": None, "batch_size": 64}
            average_of = {f"average_{name}": value for name, value in shown(gains.get(arm, 0.0)).items()}
            runs.append(row | shown(0.0) | (dict.fromkeys(average_of) if arm == "SGD" else average_of))
        for count in range(1, 13):
            arm = "SWA" if count < 8 else "SWA 1.25" if count < 12 else "SWA 1.5"
            average_of = {f"average_{name}": value for name, value in shown(gains.get(arm, 0.0)).items()}
            loss = 0.3 * (fall if count > 6 else 1.0)
            row = {"seed": seed, "count": count, "distance": 2.0, "length": 5.0}
            along.append(row | shown(own) | {"train_loss": loss} | average_of)
        for net, width in (("SGD", 2.0), ("SWA", 2.0 * wider)):
            record = rays_record(width * (1 + 0.01 * rng.normal()))
            rays.append({"seed": seed, "net": net, "length": 5.0, "record": record})
        for t in T:
            loss = np.interp(t, [-2, -1, 0, 1, 2, 3], [0.8, 0.4, 0.3, 0.3 * lower, wall, 2 * wall])
            row = {"seed": seed, "t": t, "train_loss": loss, "train_accuracy": 0.9, "test_loss": 0.6, "distance": 2.0}
            line.append(row | {"test_accuracy": 1 - (base - 1 + t**2) / 100})
        for name, more in (("W1", 1.0), ("W2", 0.0), ("W3", 0.5), ("average", average)):
            accuracy = 1 - (base + more + 0.01 * rng.normal()) / 100
            points.append({"seed": seed, "point": name, "test_accuracy": accuracy})
    ended = [{"arm": "SGD", "seed": 5, "status": status, "reason": "planted"} for status in ("diverged", "missing")]
    tables = {"along": along, "rays": rays, "line": line, "three_points": points}
    measured = {name: pd.DataFrame(rows) for name, rows in tables.items()}
    return Tables(pd.DataFrame([*runs, *ended]), measured=measured)


def verdicts(tables: Tables) -> list[str]:
    return [finding.verdict for finding in report(tables, SETTINGS).findings]


def test_planted_differences_and_widths_are_recovered() -> None:
    tables = planted()
    ends = outcomes(tables.runs, tables.rows("along"), SETTINGS)
    found = gain(ends, "SGD", "SWA")
    assert found.n == 5 and found.value == pytest.approx(-1.0, abs=0.1)
    assert gain(ends, "SWA", "SWA 1.5").value == pytest.approx(-0.4, abs=0.1)
    wide = widths(tables.rows("rays"), 0.05, 0.5)
    for kind in ("error", "loss"):
        ratio, facts = width_ratio(wide, kind)
        assert ratio.value == pytest.approx(1.5, rel=0.02) and ratio.n == 5
        assert facts == {"rays": 15, "sgd_reached": 15, "swa_reached": 15}
    ray = wide.loc[(wide["ray"] == 3) & (wide["kind"] == "loss")]
    np.testing.assert_allclose(ray["SGD"], 2.0 * 1.2, rtol=0.05)
    assert verdicts(tables) == ["reproduced"] * 8


def test_the_difference_of_rays_is_that_of_their_mean_rises() -> None:
    table = rises(
        pd.DataFrame([{"seed": 0, "net": net, "record": rays_record(w)} for net, w in (("SGD", 2), ("SWA", 4))])
    )
    own = rows_where(table, kind="loss", distance=2.0)
    expected = 0.5 * np.mean([1 / (1 + 0.1 * ray) ** 2 for ray in range(3)]) * np.array([1, 0.25])
    np.testing.assert_allclose(own[["SGD", "SWA"]].to_numpy()[0], expected)
    assert float(own["difference"].iloc[0]) == pytest.approx(expected[1] - expected[0])


def test_stationarity_compares_both_halves() -> None:
    found = stationarity(planted(fall=0.5).rows("along"))
    assert found.value == pytest.approx(0.5) and found.n == 5


@pytest.mark.parametrize(
    ("plant", "flipped"),
    [
        ({"gains": {"SWA": 1.0, "SWA 1.5": 0.5}}, [0]),
        ({"gains": {"SWA": -1.0, "SWA 1.5": -0.5}}, [1]),
        ({"own": -2.0}, [2]),
        ({"wider": 0.8}, [3]),
        ({"lower": 1.3}, [4]),
        ({"wall": 0.35}, [5]),
        ({"average": 0.3}, [6]),
        ({"fall": 0.5}, [7]),
    ],
)
def test_verdicts_flip_with_what_is_planted(plant: dict[str, Any], flipped: list[int]) -> None:
    found = verdicts(planted(**plant))
    assert [i for i, verdict in enumerate(found) if verdict == "contradicted"] == flipped


def test_a_gain_too_small_to_matter_and_one_lost_in_noise_are_told_apart() -> None:
    assert verdicts(planted(gains={"SWA": -0.15, "SWA 1.5": -0.5}))[0] == "reproduced in sign only"
    tables = planted(gains={"SWA": -0.3, "SWA 1.5": -0.5})
    along = tables.rows("along")
    noisy = along.assign(average_test_accuracy=along["average_test_accuracy"] + 0.01 * (-1) ** along["seed"])
    assert verdicts(replace(tables, measured={**tables.measured, "along": noisy}))[0] == "inconclusive"


def test_what_is_one_run_seen_in_several_ways_is_a_variant() -> None:
    first, _, _, wider, _, wall, *_ = report(planted(), SETTINGS).findings
    assert [each.name for each in first.variants] == ["at 1.25 of the budget", "at 1.5 of the budget"]
    (by_loss,), (far,) = wider.variants, wall.variants
    assert by_loss.name.startswith("train loss by") and by_loss.verdict == "reproduced"
    assert far.name == "twice as far" and far.number.startswith("2.5")


def test_rays_that_do_not_rise_enough_are_counted() -> None:
    rows = [
        {"seed": seed, "net": net, "record": rays_record(width)}
        for seed, (sgd, swa) in enumerate([(2.0, 20.0), (20.0, 2.0), (2.0, 3.0)])
        for net, width in (("SGD", sgd), ("SWA", swa))
    ]
    ratio, facts = width_ratio(widths(pd.DataFrame(rows), 0.05, 0.5), "loss")
    assert facts == {"rays": 9, "sgd_reached": 6, "swa_reached": 6}
    # Seed 0 counts with the length of 10 for SWA, seed 1 not at all.
    expected = np.mean([np.mean(np.log(10 / (2.0 * np.array([1.0, 1.1, 1.2])))), np.log(1.5)])
    assert ratio.n == 2 and np.log(ratio.value or 0) == pytest.approx(expected, rel=1e-3)


def test_a_distance_is_none_where_the_rise_is_not_seen() -> None:
    assert np.isnan(distance_at([0.0, 1.0], [1.0, 1.1], 0.5))
    assert np.isnan(distance_at([0.0, 1.0, 2.0], [1.0, float("nan"), 2.0], 0.5))
    assert distance_at([0.0, 1.0, 2.0], [1.0, 0.5, 2.0], 0.5) == pytest.approx(1 + 1.0 / 1.5)


def test_every_run_is_counted_and_figures_are_legible() -> None:
    result = report(planted(), SETTINGS)
    for name in ("accuracy", "along", "rays", "line"):
        drawing = result.drawings[name]
        assert not isinstance(drawing, str)
        assert drawing.caption.endswith("15 of 17 runs finished, 1 diverged, 1 missing.")
        assert faults(drawing.figure) == []
    assert result.drawings["plane"] == result.drawings["basin"] == "no run was measured"
    accuracy, width = result.tables
    assert [row[0] for row in accuracy.rows] == list(ARMS) and accuracy.rows[1][-1] == "5"
    assert width.rows[0][-1] == "15, 15 of 15"


def test_without_finished_runs_nothing_is_claimed() -> None:
    runs = pd.DataFrame([{"arm": "SGD", "seed": 0, "status": "missing", "reason": "there is no run folder"}])
    result = report(Tables(runs), SETTINGS)
    assert all(isinstance(drawing, str) for drawing in result.drawings.values())
    assert {finding.verdict for finding in result.findings} == {"not testable here"}


@pytest.fixture(scope="module")
def done(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The study in its smoke form, run once."""
    folder = tmp_path_factory.mktemp("izmailov2018")
    smoke_once("izmailov2018", folder)
    return folder


def arm(done: Path, name: str, seed: int = 0) -> RunFolder:
    cells = main.cells_of(main.PRESETS["smoke"], 1)
    config = next(c.config for c in cells if c.labels == {"arm": name, "seed": seed})
    return RunFolder.open(done / "runs" / config.run_id)


def rows_of(done: Path, name: str, seed: int = 0) -> list[dict[str, Any]]:
    files = [json.loads(path.read_text()) for path in (done / "runs" / "measured" / name).glob("*.json")]
    return next(content["rows"] for content in files if content["labels"]["seed"] == seed)


@pytest.mark.study
def test_smoke_form_writes_everything_and_does_nothing_again(done: Path) -> None:
    out = done / "figures" / "smoke-1-seeds"
    figures = {f"{name}.pdf" for name in ("accuracy", "along", "rays", "line", "plane", "basin")}
    assert figures | {"accuracy_table.tex", "width_table.md", "findings.json", "runs.csv"} <= {
        path.name for path in out.iterdir()
    }
    assert len(json.loads((out / "findings.json").read_text())) == 8


@pytest.mark.study
def test_swa_begins_where_sgd_was(done: Path) -> None:
    sgd, swa = arm(done, "SGD"), arm(done, "SWA")
    preset = main.PRESETS["smoke"]
    kept = safetensors.torch.load_file(sgd.path / f"checkpoint-{preset.pretrained * 4}.safetensors")
    begun = swa.load_weights("x0")
    assert all(torch.equal(kept[name], begun[name]) for name in kept)
    assert swa.config().training.seed != sgd.config().training.seed


@pytest.mark.study
def test_the_average_of_a_cyclical_run_is_that_of_the_ends_of_its_cycles(done: Path) -> None:
    run = arm(done, "cyclical SWA")
    manifest = run.manifest()
    assert manifest is not None and manifest["average"]["averaged"] == 3
    points = measure.with_average(measure.last_points(site(run.path)))
    own = site(run.path).weights(manifest["average"]["name"])
    torch.testing.assert_close(points["average"], own, rtol=1e-6, atol=1e-8)
    # Three cycles, three points: what is measured at their average is what the trainer says of its own.
    average = next(row for row in rows_of(done, "three_points") if row["point"] == "average")
    for name in ("train_loss", "test_loss", "train_accuracy", "test_accuracy"):
        assert average[name] == pytest.approx(manifest["average"][name], rel=1e-4), name


@pytest.mark.study
def test_the_running_average_ends_at_the_trainers_own(done: Path) -> None:
    run = arm(done, "SWA")
    manifest = run.manifest() or {}
    rows = rows_of(done, "along")
    assert [row["count"] for row in rows] == list(range(1, manifest["average"]["averaged"] + 1))
    for name in ("train_loss", "test_loss", "train_accuracy", "test_accuracy"):
        assert rows[-1][f"average_{name}"] == pytest.approx(manifest["average"][name], rel=1e-4), name
        assert rows[0][name] == rows[0][f"average_{name}"]
    own = measure.mean_of(list(measure.kept(site(run.path)).values()))
    torch.testing.assert_close(own, site(run.path).weights(manifest["average"]["name"]), rtol=1e-6, atol=1e-8)


@pytest.mark.study
def test_the_line_and_the_rays_begin_at_the_average_within_the_budget(done: Path) -> None:
    preset = main.PRESETS["smoke"]
    average = next(row for row in rows_of(done, "along") if row["count"] == preset.averaged())
    at = {row["t"]: row for row in rows_of(done, "line")}
    assert {0.0, 1.0, -1.0, 2.0} <= at.keys()
    rays = {row["net"]: row["record"]["details"] for row in rows_of(done, "rays")}
    for name in ("train_loss", "test_loss", "train_accuracy", "test_accuracy"):
        assert at[0.0][name] == pytest.approx(average[f"average_{name}"], rel=1e-4), name
        assert rays["SWA"][name][0][0] == pytest.approx(at[0.0][name], rel=1e-4), name
        assert rays["SGD"][name][0][0] == pytest.approx(at[1.0][name], rel=1e-4), name


@pytest.mark.study
def test_the_basin_is_that_of_the_start_sgd_and_swa(done: Path) -> None:
    (row,) = rows_of(done, "basin")
    marks = {mark["name"]: mark for mark in row["record"]["details"]["marks"]}
    assert list(marks) == ["start", "SGD", "SWA"]
    at = {each["t"]: each for each in rows_of(done, "line")}
    for name, t in (("SGD", 1.0), ("SWA", 0.0)):
        assert marks[name]["test_accuracy"] == pytest.approx(at[t]["test_accuracy"])
    apart = np.hypot(*(marks["SGD"][axis] - marks["SWA"][axis] for axis in ("x", "y")))
    assert apart == pytest.approx(at[0.0]["distance"], rel=1e-4)


def test_no_two_levels_of_a_plane_have_one_label() -> None:
    """The error begins at 13.26 % and rises by hundredths of a point in the middle and by points at the corners."""
    marks = [marked_at(f"W{nth}", x) for nth, x in enumerate((-0.5, 0.0, 0.5), 1)]
    record = plane(lambda x, y: 0.0377 + 0.01 * (x**2 + y**2) ** 2, "three_point_plane", marks=marks)
    drawn = plane_drawing("plane", pd.DataFrame({"seed": [0], "record": [record.to_dict()]}), "")
    assert not isinstance(drawn, str)
    bars = [ax.child_axes[0] for ax in drawn.figure.axes]
    assert [bar.get_ylabel() for bar in bars] == list(SHOWN.values())
    for bar in bars:
        labels = [text.get_text() for text in bar.get_yticklabels()]
        assert len({*labels}) == len(labels) == len(bar.get_yticks()) > 4
        np.testing.assert_allclose([float(label) for label in labels], bar.get_yticks(), rtol=5e-3)


@pytest.mark.study
def test_the_plane_holds_the_average_with_its_own_losses(done: Path) -> None:
    (row,) = rows_of(done, "plane")
    marks = {mark["name"]: mark for mark in row["record"]["details"]["marks"]}
    assert list(marks) == ["W1", "W2", "W3", "average"]
    for axis in ("x", "y"):
        assert marks["average"][axis] == pytest.approx(np.mean([marks[f"W{i}"][axis] for i in (1, 2, 3)]))
    rows = {each["point"]: each for each in rows_of(done, "three_points")}
    for name, mark in marks.items():
        assert mark["test_accuracy"] == rows[name]["test_accuracy"] and mark["distance"] < 1e-5


@pytest.mark.study
def test_runs_without_an_average_or_kept_weights_are_refused(done: Path) -> None:
    sgd = arm(done, "SGD")
    with pytest.raises(InputError, match="keep_every"):
        measure.pair_of(site(sgd.path, arm(done, "SWA").path), 4)
    with pytest.raises(InputError, match="keep_every"):
        measure.last_points(site(sgd.path))


def test_rates_are_those_of_the_paper() -> None:
    preset = main.PRESETS["paper"]
    sgd, swa, cyclical = main.cells_of(preset, 1)
    at = [learning_rate(sgd.config, epoch, 200.0, 391.0) for epoch in (0.0, 99.9, 150.0, 200.0)]
    np.testing.assert_allclose(at, [0.05, 0.05, 0.05 * 0.505, 0.0005], rtol=1e-9)
    assert learning_rate(swa.config, 3.7, 140.0, 391.0) == 0.01 and swa.config.training.epochs == 140
    assert [preset.averaged(budget) for budget in preset.budgets] == [40, 90, 140]
    assert swa.config.training.start == f"{sgd.config.run_id}/checkpoint-{160 * 391}.safetensors"
    # alpha(i) = (1 - t) alpha_1 + t alpha_2 with t = (mod(i - 1, c) + 1) / c, c updates a cycle
    c = 20 * 391
    for i in (1, c // 2, c, c + 1):
        t = ((i - 1) % c + 1) / c
        expected = (1 - t) * 0.05 + t * 0.0005
        assert learning_rate(cyclical.config, (i - 1) / 391, 140.0, 391.0) == pytest.approx(expected)


@pytest.mark.study
def test_presets_are_valid() -> None:
    for preset in main.PRESETS.values():
        for cell in main.cells_of(preset, preset.seeds):
            check_config(cell.config)
        assert {-1.0, 0.0, 1.0, 2.0} <= set(preset.line.grid())
        json.dumps(asdict(preset))
    assert "never run" in main.PRESETS["paper"].about


@pytest.mark.slow  # training and the network are tested in small
def test_the_paper_preset_can_be_trained(tmp_path: Path) -> None:
    cell = main.cells_of(main.PRESETS["paper"], 1)[0]
    few = replace(cell.config, training=replace(cell.config.training, batch_size=2))  # VGG-16 takes its time here
    (manifest,) = first_steps([replace(cell, config=few)], tmp_path)
    assert manifest["status"] == "finished" and manifest["step"] == 1
