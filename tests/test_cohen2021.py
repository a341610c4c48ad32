"""The edge of stability: the edges themselves, and what the analysis finds in runs that are known."""

from __future__ import annotations

import itertools
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
import torch

from analysis.cohen2021 import report as cohen2021
from analysis.cohen2021.numbers import edge_of_stability, over_seeds, per_run, run_numbers
from analysis.runs import Tables
from sharpness.config import DataConfig, MeasureConfig, ModelConfig, RunConfig, TrainingConfig
from sharpness.errors import InputError
from sharpness.probes.eigenvalues import TopEigenvalues
from sharpness.runs import RunFolder
from sharpness.runs.networks import load_run_data, network_loss
from sharpness.training import check_config, train
from tests.drawings import faults
from tests.study_cases import first_steps, script, site, smoke_once

study: Any = script("cohen2021")
measures: Any = script("measures.cohen2021")
SETTINGS = {"fitted_accuracy": 0.99, "seeds": 5, "data": {"num_train": 100, "name": "made"}}
ARMS = {
    "GD, square": ("sgd", (0.05, 0.1, 0.2), 100),
    "GD": ("sgd", (0.1, 0.2, 0.3), 100),
    "GD, ReLU": ("sgd", (0.1,), 100),
    "Polyak": ("momentum", (0.1,), 100),
    "Nesterov": ("nesterov", (0.1,), 100),
    "SGD, 10": ("sgd", (0.1, 0.2), 10),
    "SGD, 40": ("sgd", (0.1, 0.2), 40),
}
CLAIMS = {
    "square rises": "square loss: the top eigenvalue rises until it reaches 2 / eta",
    "rises": "cross-entropy: the top eigenvalue rises until it reaches 2 / eta",
    "square": "square loss: the eigenvalue then stays at 2 / eta",
    "GD": "cross-entropy: the eigenvalue then stays at 2 / eta",
    "Polyak": "Polyak: the eigenvalue stays at (2 + 2b) / eta",
    "Nesterov": "Nesterov: the eigenvalue stays at (2 + 2b) / (eta (1 + 2b))",
    "often": "at the edge the loss rises at some updates, more often than before it",
    "falls": "at the edge the loss falls over many updates",
    "late": "cross-entropy: the eigenvalue falls again at the end of training",
    "batch": "SGD: batch sharpness stays at 2 / eta",
    "below": "SGD: the eigenvalue of the whole loss stays below 2 / eta",
    "lower": "SGD: the eigenvalue is lower for smaller batches",
}
"""A short name of each claim and how it begins."""


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
        labels | {"step": 10 * (i + 1), "epoch": 10.0 * (i + 1), "top_eigenvalue": edge * each * (1 + 0.01 * seed)}
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
    hover: float = 1.0,
    *,
    start: float = 0.3,
    late: float = 0.4,
    rises: bool = True,
    of: str = "",
    swing: float = 1.1,
    small: tuple[float, float] = (0.7, 0.85),
    batch: float = 1.0,
) -> Tables:
    """Return five seeds of every arm; ``hover`` is of the arm ``of`` alone if one is named.

    Iterates lie a factor ``swing`` above the midpoints; ``small`` are the eigenvalues of the smaller and the larger
    batches and ``batch`` is the batch sharpness of both.
    """
    runs, tracked, epochs, midpoints, batches = [], [], [], [], []
    for arm, (_, rates, size) in ARMS.items():
        share = history_of(hover if of in ("", arm) else 1.0, start, late)
        if size < 100:
            share = np.full(26, small[arm.endswith("40")])
        for rate, seed in itertools.product(rates, range(5)):
            run, measured, logged = run_of(arm, rate, seed, share, rises)
            runs.append(run)
            epochs += logged
            keys = ("arm", "learning_rate", "seed", "run_id", "step")
            if arm.startswith("GD"):
                rows = [{name: row[name] for name in keys} for row in measured]
                between = [{"midpoint_eigenvalue": row["top_eigenvalue"]} for row in measured]
                midpoints += [row | value for row, value in zip(rows, between, strict=True)]
                measured = [row | {"top_eigenvalue": swing * row["top_eigenvalue"]} for row in measured]
            elif size < 100:
                curved = {"batch_sharpness": batch * 2 / rate * (1 + 0.01 * seed)}
                batches += [{name: row[name] for name in keys} | curved for row in measured]
            tracked += measured
    runs.append(runs[0] | {"run_id": "lost", "seed": 5, "status": "missing"})
    runs.append(runs[0] | {"run_id": "burst", "seed": 6, "status": "diverged"})
    tables = [pd.DataFrame(each) for each in (runs, epochs, tracked)]
    made = {"midpoints": pd.DataFrame(midpoints), "batch_sharpness": pd.DataFrame(batches)}
    return Tables(tables[0], tables[1], tables[2], pd.DataFrame(), made)


def verdicts(tables: Tables) -> dict[str, str]:
    found = {each.claim: each.verdict for each in cohen2021.findings(tables, per_run(tables, 0.99), SETTINGS)}
    assert len(found) == len(CLAIMS)
    starts = {name: [v for claim, v in found.items() if claim.startswith(words)] for name, words in CLAIMS.items()}
    return {name: verdict for name, (verdict,) in starts.items()}


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
    runs = per_run(planted(1.05, swing=1.0), 0.99)
    (row,) = runs.query("run_id == 'GD-0.1-0'").to_dict("records")
    assert row["edge"] == 20 and row["onset"] == 110 and row["fitted"] == 210
    assert row["first"] == pytest.approx(0.3 * 20) and row["growth"] == pytest.approx(1.15 / 0.3)
    assert row["hover"] == pytest.approx(1.15) and row["measured_after"] == 11  # six of the eleven are high
    assert row["late"] == pytest.approx(0.4 / 1.15) and row["peak"] == pytest.approx(1.15)
    assert row["rises_before"] == pytest.approx(5 / 110) and row["rises_after"] == 0.5  # from update 101 on
    assert row["loss_ratio"] == pytest.approx(np.exp(-1), rel=1e-6) and np.isnan(row["batch"])
    (row,) = runs.query("run_id == 'SGD, 40-0.2-1'").to_dict("records")
    assert row["settled"] == pytest.approx(0.85 * 1.01) and row["batch"] == pytest.approx(1.01)
    assert np.isnan(row["hover"]) and np.isnan(row["between"])


def test_between_iterates_and_at_them_the_eigenvalue_is_told_apart() -> None:
    tables = planted(1.05, swing=1.5)
    (row,) = per_run(tables, 0.99).query("run_id == 'GD-0.1-0'").to_dict("records")
    assert row["hover"] == pytest.approx(1.5 * row["between"])
    found = cohen2021.findings(tables, per_run(tables, 0.99), SETTINGS)
    for words, rates in ((CLAIMS["square"], (0.05, 0.1, 0.2)), (CLAIMS["GD"], (0.1, 0.2, 0.3))):
        (each,) = [finding for finding in found if finding.claim.startswith(words)]
        told = {variant.name: variant.verdict for variant in each.variants}
        assert told["mean over the rates, at the iterates"] == "contradicted" and each.verdict == "reproduced"
        assert all(told[name] == "reproduced" for name in told if name.endswith(tuple(f"eta {r:g}" for r in rates)))
    sentences = cohen2021.sentences(tables, per_run(tables, 0.99))
    assert any("square loss: 1.5" in each and "at eta 0.2" in each for each in sentences)


def test_what_a_run_did_not_do_is_not_a_number() -> None:
    tracked = pd.DataFrame({"step": [10, 20, 30], "share": [0.2, np.nan, 0.5], "edge": [20.0] * 3})
    tracked = tracked.assign(midpoint_share=np.nan, batch_share=np.nan)
    epochs = pd.DataFrame({"step": [1, 30], "train_accuracy": [0.1, 0.5], "train_loss": [2.0, 1.0]})
    row = run_numbers(tracked, epochs, 0.99, full_batch=True)
    assert row["growth"] == 2.5 and row["peak"] == 0.5 and row["measured_after"] == 0
    assert all(np.isnan(row[name]) for name in ("onset", "fitted", "hover", "late", "rises_after", "loss_ratio"))
    unmeasured = run_numbers(tracked.iloc[:0], epochs, 0.4, full_batch=True)
    assert unmeasured["fitted"] == 30 and np.isnan(unmeasured["peak"])


def test_planted_claims_are_found_and_every_run_is_counted() -> None:
    tables = planted()
    report = cohen2021.report(tables, SETTINGS)
    assert set(verdicts(tables).values()) == {"reproduced"}
    assert "65 of 67 runs finished, 1 diverged, 1 missing." in report.sentences[0]
    assert "GD, square 15 of 15; GD 15 of 15; GD, ReLU 5 of 5" in report.sentences[1]
    assert "SGD, 10 0 of 10" in report.sentences[1]
    for drawing in report.drawings.values():
        assert not isinstance(drawing, str) and "1 diverged, 1 missing" in drawing.caption
        assert faults(drawing.figure) == []
    assert len(report.tables[0].rows) == 13


@pytest.mark.parametrize(
    ("plant", "claims"),
    [
        ({"start": 1.05}, ("square rises", "rises")),
        ({"hover": 1.7, "of": "GD, square"}, ("square",)),
        ({"hover": 1.7, "of": "GD"}, ("GD",)),
        ({"hover": 1.7, "of": "Polyak"}, ("Polyak",)),
        ({"hover": 1.7, "of": "Nesterov"}, ("Nesterov",)),
        ({"rises": False}, ("often",)),
        ({"late": 1.6}, ("late",)),
        ({"batch": 0.6}, ("batch",)),
        ({"small": (1.2, 1.4)}, ("below",)),
        ({"small": (0.7, 0.7)}, ("lower",)),
    ],
)
def test_a_verdict_flips_with_its_plant_alone(plant: dict[str, Any], claims: tuple[str, ...]) -> None:
    found = verdicts(planted(**plant))
    assert {found.pop(claim) for claim in claims} == {"contradicted"}
    others = {verdict for name, verdict in found.items() if "start" not in plant or name not in ("often", "falls")}
    assert others <= {"reproduced", "not testable here"}


def test_relu_is_a_variant_and_other_ranges_are_shown() -> None:
    found = cohen2021.findings(tables := planted(1.7, of="GD, ReLU", swing=1.0), per_run(tables, 0.99), SETTINGS)
    (hover,) = [each for each in found if each.claim.startswith(CLAIMS["GD"])]
    told = {each.name: each.verdict for each in hover.variants}
    assert told["GD, eta 0.1"] == "reproduced" and told["GD, ReLU, eta 0.1"] == "contradicted"
    assert hover.verdict == "reproduced" and hover.cutoffs == {
        "0.84 to 1.19": "reproduced",
        "0.95 to 1.05": "contradicted",  # the median of what is planted, 1.0 and a wiggle of 0.1, is 1.1
        "0.9 to 1.1": "contradicted",
        "0.9 to 1.2": "reproduced",
        "0.7 to 1.4": "reproduced",
    }


def test_a_mean_over_seeds_says_what_it_lacks() -> None:
    runs = pd.DataFrame({"seed": [0, 1, 2], "x": [1.0, 8.0, np.nan], "y": [np.nan] * 3, "z": [1.0, -1.0, 2.0]})
    assert over_seeds(runs, "x").value == pytest.approx(8**0.5) and over_seeds(runs, "x").n == 2
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


def trained(folder: Path, optimizer: str, batch_size: int, images: int = 40, epochs: int = 3) -> Any:
    """Return the site of a run that keeps the weights of every epoch."""
    training = TrainingConfig(optimizer, 0.05, batch_size=batch_size, epochs=epochs, loss="square")
    data = DataConfig(num_train=images, num_test=10, evaluation_batch_size=images)
    config = RunConfig(data, ModelConfig("f1_small", "none"), training, measure=MeasureConfig(keep_every=1))
    train(config, load_run_data(config), RunFolder.create(folder, config), torch.device("cpu"))
    return site(folder)


def test_the_midpoint_is_halfway_to_the_next_checkpoint(tmp_path: Path) -> None:
    place = trained(tmp_path / "run", "sgd", 40)
    rows, ends = measures.midpoints(place), [each.name for each in place.checkpoints()]
    assert [row["step"] for row in rows] == [1, 2, 3]
    for row, before, after in zip(rows, ends, ends[1:], strict=False):
        loss = network_loss(place.config, place.network(before), place.batches(place.dataset.train))
        halfway = (place.weights(before) + place.weights(after)) / 2
        found = TopEigenvalues(rtol=1e-3)(loss, halfway)
        assert row["midpoint_eigenvalue"] == pytest.approx(found.value, rel=0.02)
    with pytest.raises(InputError, match="expected full-batch gradient descent at one rate"):
        measures.midpoints(trained(tmp_path / "momentum", "momentum", 40))
    with pytest.raises(InputError, match="measure its iterates"):
        measures.midpoints(trained(tmp_path / "small", "sgd", 20))


def test_batch_sharpness_is_of_the_batches_of_training(tmp_path: Path) -> None:
    """Of single examples it is the mean over all of them of ``g^T H g / g^T g``, here by central differences of g."""
    place = trained(tmp_path / "run", "sgd", 1, images=4, epochs=1)
    rows = measures.batch_sharpness(place, rtol=0.02, num_batches=400)
    assert [row["step"] for row in rows] == [4]
    (whole,) = place.batches(place.dataset.train)
    name = place.checkpoints()[-1].name
    ratios, squares = [], []
    for x, y in zip(*whole, strict=True):
        loss = network_loss(place.config, place.network(name), [(x[None], y[None])], dtype=torch.float64)
        w = loss.weights
        g = loss.grad(w)
        step = 1e-4 / float(g.norm())
        squares.append(float(g @ g))
        ratios.append(float(g @ (loss.grad(w + step * g) - loss.grad(w - step * g)) / (2 * step) / (g @ g)))
    assert rows[-1]["batch_sharpness"] == pytest.approx(np.mean(ratios), rel=0.06)
    assert rows[-1]["mean_over_means"] == pytest.approx(np.average(ratios, weights=squares), rel=0.12)


@pytest.mark.study
def test_the_smoke_form_runs_once(tmp_path: Path) -> None:
    out, printed = smoke_once("cohen2021", tmp_path)
    names = {path.name for path in out.iterdir()}
    assert {"eigenvalue.png", "batch_sharpness.png", "edge.pdf", "edge_table.md", "findings.json", "runs.csv"} <= names
    assert "4 of 4 runs finished." in printed


@pytest.mark.study
def test_the_paper_preset_is_valid() -> None:
    preset = study.PRESETS["paper"]
    cells = study.cells_of(preset, preset.seeds)
    for cell in cells:
        check_config(cell.config)
    assert len({cell.config.run_id for cell in cells}) == len(cells) == 75


@pytest.mark.slow  # training and the network are tested in small
def test_the_paper_preset_can_be_trained(tmp_path: Path) -> None:
    cells = study.cells_of(study.PRESETS["paper"], study.PRESETS["paper"].seeds)
    manifests = first_steps([cell for cell in cells if cell.labels["arm"] in ("SGD, 8", "Nesterov")], tmp_path)
    assert [manifest["status"] for manifest in manifests] == ["finished"] * 2


def test_the_eigenvalue_is_measured_at_both_kinds_of_updates() -> None:
    """At the edge every second update is alike: an even interval would see one kind alone."""
    for preset in study.PRESETS.values():
        assert all(arm.every % 2 == 1 for arm in preset.arms if arm.batch_size is None)
