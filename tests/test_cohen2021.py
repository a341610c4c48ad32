"""The edge of stability: the edges themselves, and what the analysis finds in runs that are known."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
import torch

from analysis.cohen2021 import report as cohen2021
from analysis.cohen2021.numbers import edge_of_stability, over_seeds, per_run, run_numbers
from analysis.runs import Tables
from sharpness.training import check_config
from tests.study_cases import first_steps, script, smoke_once

study: Any = script("cohen2021")
SETTINGS = {"fitted_accuracy": 0.99, "seeds": 5, "data": {"num_train": 100, "name": "made"}}
ARMS = {
    "GD": ("sgd", (0.1, 0.2), 100),
    "GD, ReLU": ("sgd", (0.1,), 100),
    "Polyak": ("momentum", (0.1,), 100),
    "Nesterov": ("nesterov", (0.1,), 100),
    "SGD": ("sgd", (0.1,), 10),
}


def history_of(hover: float, start: float, late: float) -> np.ndarray:
    """Return eigenvalues in units of the edge: 10 while it rises, 11 at the edge, 5 after the data are fitted."""
    wiggle = np.tile([0.1, -0.1], 6)[:11]
    return np.concatenate([np.linspace(start, 0.9, 10), hover + wiggle, np.full(5, late)])


def run_of(arm: str, rate: float, seed: int, share: np.ndarray, rises: bool) -> tuple[dict, list[dict], list[dict]]:
    """Return the rows of one run: measured every 10 updates, its data fitted at update 210."""
    optimizer, _, batch = ARMS[arm]
    labels = {"arm": arm, "learning_rate": rate, "seed": seed, "run_id": f"{arm}-{rate}-{seed}", "status": "finished"}
    run = labels | {"optimizer": optimizer, "momentum": 0.5, "batch_size": batch, "num_train": 100, "model": "made"}
    edge = edge_of_stability(optimizer, rate, 0.5)
    tracked = [
        labels | {"step": 10 * (i + 1), "top_eigenvalue": edge * each * (1 + 0.01 * seed)}
        for i, each in enumerate(share)
    ]
    losses = np.exp(-0.01 * np.arange(261)) * np.where(
        rises & (np.arange(261) > 100), 1 + 0.1 * (np.arange(261) % 2), 1
    )
    epochs = [
        labels | {"step": step, "train_loss": losses[step - 1], "train_accuracy": 0.995 if step >= 210 else 0.8}
        for step in range(1, 261)
    ]
    return run, tracked, epochs


def planted(
    hover: float = 1.05, *, start: float = 0.3, late: float = 0.4, small: float = 0.8, rises: bool = True, of: str = ""
) -> Tables:
    """Return five seeds of every arm; ``hover`` is of the arm ``of`` alone if one is named."""
    runs, tracked, epochs = [], [], []
    for arm, (_, rates, _) in ARMS.items():
        share = history_of(hover if of in ("", arm) else 1.05, start, late)
        if arm == "SGD":
            share = share * small / share.max()
        for rate in rates:
            for seed in range(5):
                run, measured, logged = run_of(arm, rate, seed, share, rises)
                runs.append(run)
                tracked += measured
                epochs += logged
    runs.append(runs[0] | {"run_id": "lost", "seed": 5, "status": "missing"})
    runs.append(runs[0] | {"run_id": "burst", "seed": 6, "status": "diverged"})
    tables = [pd.DataFrame(each) for each in (runs, epochs, tracked)]
    return Tables(tables[0], tables[1], tables[2], pd.DataFrame(), {})


def verdicts(tables: Tables) -> dict[str, str]:
    found = cohen2021.findings(tables, per_run(tables, 0.99), SETTINGS)
    return {finding.claim.split(":")[0].split(" (")[0]: finding.verdict for finding in found}


@pytest.mark.parametrize("nesterov", [None, False, True])
def test_the_edge_is_where_pytorch_begins_to_diverge(nesterov: bool | None) -> None:
    name, momentum = {None: ("sgd", 0.0), False: ("momentum", 0.8), True: ("nesterov", 0.8)}[nesterov]
    edge = edge_of_stability(name, 0.1, momentum)
    ends = []
    for curvature in (0.99 * edge, 1.01 * edge):
        w = torch.tensor([1.0], dtype=torch.float64, requires_grad=True)
        optimizer = torch.optim.SGD([w], lr=0.1, momentum=momentum, nesterov=bool(nesterov))
        for _ in range(1500):
            optimizer.zero_grad()
            (curvature * w**2 / 2).sum().backward()
            optimizer.step()
        ends.append(abs(w.item()))
    assert ends[0] < 1e-3 and ends[1] > 1e2


def test_a_known_run_gives_its_numbers() -> None:
    tables = planted(rises=True)
    (row,) = per_run(tables, 0.99).query("run_id == 'GD-0.1-0'").to_dict("records")
    assert row["edge"] == 20 and row["onset"] == 110 and row["fitted"] == 210
    assert row["first"] == pytest.approx(0.3 * 20) and row["growth"] == pytest.approx(1.15 / 0.3)
    assert row["hover"] == pytest.approx(1.15) and row["measured_after"] == 11  # six of the eleven are high
    assert row["late"] == pytest.approx(0.4 / 1.15) and row["peak"] == pytest.approx(1.15)
    assert row["typical"] == pytest.approx(0.95)  # of 21, the lowest of the eleven at the edge
    assert row["rises_before"] == pytest.approx(5 / 110) and row["rises_after"] == 0.5  # from update 101 on
    assert row["loss_ratio"] == pytest.approx(np.exp(-1), rel=1e-6)


def test_what_a_run_did_not_do_is_not_a_number() -> None:
    tracked = pd.DataFrame({"step": [10, 20, 30], "share": [0.2, np.nan, 0.5], "edge": [20.0] * 3})
    epochs = pd.DataFrame({"step": [1, 30], "train_accuracy": [0.1, 0.5], "train_loss": [2.0, 1.0]})
    row = run_numbers(tracked, epochs, 0.99, full_batch=True)
    assert row["growth"] == 2.5 and row["peak"] == 0.5 and row["measured_after"] == 0
    assert all(np.isnan(row[name]) for name in ("onset", "fitted", "hover", "late", "rises_after", "loss_ratio"))
    unmeasured = run_numbers(tracked.iloc[:0], epochs, 0.4, full_batch=True)
    assert unmeasured["fitted"] == 30 and np.isnan(unmeasured["peak"])


def test_planted_claims_are_found_and_every_run_is_counted() -> None:
    tables = planted(1.0)
    report = cohen2021.report(tables, SETTINGS)
    assert set(verdicts(tables).values()) == {"reproduced", "not testable here"}
    assert "30 of 32 runs finished, 1 diverged, 1 missing." in report.sentences[0]
    assert "GD 10 of 10; GD, ReLU 5 of 5" in report.sentences[1] and "SGD 0 of 5" in report.sentences[1]
    for drawing in report.drawings.values():
        assert not isinstance(drawing, str) and "1 diverged, 1 missing" in drawing.caption
    assert len(report.tables[0].rows) == 6


@pytest.mark.parametrize(
    ("plant", "claim"),
    [
        ({"start": 1.05}, "the top eigenvalue rises until it reaches 2 / eta"),
        ({"hover": 1.7, "of": "GD"}, "GD"),
        ({"hover": 1.7, "of": "Polyak"}, "Polyak"),
        ({"hover": 1.7, "of": "Nesterov"}, "Nesterov"),
        ({"rises": False}, "at the edge the loss rises at some updates, more often than before it"),
        ({"small": 1.05}, "SGD in small batches stays below 2 / eta"),
        ({"late": 1.6}, "with cross-entropy the eigenvalue falls again at the end of training"),
    ],
)
def test_a_verdict_flips_with_its_plant_alone(plant: dict[str, Any], claim: str) -> None:
    found = verdicts(planted(**{"hover": 1.0, **plant}))
    assert found.pop(claim) == "contradicted"
    others = {name: verdict for name, verdict in found.items() if not plant.keys() & {"start"}}
    assert set(others.values()) <= {"reproduced", "not testable here"}


def test_sgd_that_is_mostly_above_is_found() -> None:
    found = verdicts(planted(1.0, small=1.4))
    assert found["SGD in small batches stays below 2 / eta"] == "contradicted"
    assert found["SGD in small batches is mostly below 2 / eta"] == "contradicted"


def test_learning_rates_and_relu_are_variants_and_other_ranges_are_shown() -> None:
    found = cohen2021.findings(tables := planted(1.7, of="GD, ReLU"), per_run(tables, 0.99), SETTINGS)
    (hover,) = [each for each in found if each.claim == "GD: the eigenvalue then stays at 2 / eta"]
    assert {each.name: each.verdict for each in hover.variants} == {
        "eta 0.1": "reproduced",
        "eta 0.2": "reproduced",
        "GD, ReLU": "contradicted",
    }
    assert hover.verdict == "reproduced" and hover.cutoffs == {
        "half as wide": "contradicted",  # the median of what is planted, 1.05 and a wiggle of 0.1, is 1.15
        "twice as wide": "reproduced",
    }


def test_a_mean_over_seeds_says_what_it_lacks() -> None:
    runs = pd.DataFrame({"seed": [0, 0, 1], "x": [1.0, 4.0, 8.0], "y": [np.nan] * 3, "z": [1.0, -1.0, 2.0]})
    assert over_seeds(runs, "x").value == pytest.approx(4)  # the geometric mean of 2 and 8
    assert over_seeds(runs, "y").reason == "no run has this number"
    assert over_seeds(runs, "z").reason == "a value is not positive"
    assert over_seeds(runs.iloc[:0], "x").reason == "no run finished"


def test_without_runs_nothing_is_drawn() -> None:
    tables = planted()
    none = tables.runs.assign(status="missing")
    empty = [frame.iloc[:0] for frame in (tables.epochs, tables.tracked)]
    report = cohen2021.report(Tables(none, empty[0], empty[1], pd.DataFrame(), {}), SETTINGS)
    assert all(isinstance(drawing, str) for drawing in report.drawings.values())
    assert {finding.verdict for finding in report.findings} == {"not testable here"}


@pytest.mark.study
def test_the_smoke_form_runs_once(tmp_path: Path) -> None:
    out, printed = smoke_once("cohen2021", tmp_path)
    names = {path.name for path in out.iterdir()}
    assert {"eigenvalue.png", "edge.pdf", "edge_table.md", "findings.json", "runs.csv"} <= names
    assert "4 of 4 runs finished." in printed


@pytest.mark.study
def test_the_paper_preset_can_be_trained(tmp_path: Path) -> None:
    preset = study.PRESETS["paper"]
    cells = study.cells_of(preset, preset.seeds)
    for cell in cells:
        check_config(cell.config)
    assert len({cell.config.run_id for cell in cells}) == len(cells) == 75
    manifests = first_steps([cell for cell in cells if cell.labels["arm"] in ("SGD, 8", "Nesterov")], tmp_path)
    assert [manifest["status"] for manifest in manifests] == ["finished"] * 2


def test_the_eigenvalue_is_measured_at_both_kinds_of_updates() -> None:
    """At the edge every second update is alike: an even interval would see one kind alone."""
    for preset in study.PRESETS.values():
        assert all(arm.every % 2 == 1 for arm in preset.arms if arm.batch_size is None)
