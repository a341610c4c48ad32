"""Sharpness against generalisation over a grid: the correlations, their verdicts on planted grids, and the measures."""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
import torch

from analysis.andriushchenko2023 import report as analysis
from analysis.andriushchenko2023.numbers import (
    MEASURES,
    SHARPNESS,
    all_taus,
    mean_contrast,
    measured_runs,
    settings_of,
    tau_of,
)
from analysis.andriushchenko2023.report import MAIN
from analysis.runs import Tables
from analysis.statistics import granulated, rank_correlation
from sharpness import Loss
from sharpness.config import DataConfig, ModelConfig, RunConfig, TrainingConfig
from sharpness.data.corruptions import corrupted
from sharpness.measure.subject import Point, Subject
from sharpness.runs import RunFolder
from sharpness.runs.networks import load_network, load_run_data
from sharpness.training import check_config, train
from tests.study_cases import first_steps, script, site, smoke_once

study: Any = script("andriushchenko2023")
measure: Any = script("measures.andriushchenko2023")
BUDGET = {"data": {"num_train": 100, "name": "made"}, "budget": {"train_loss": 0.1}}
SETTINGS = {"seeds": 2, "base": BUDGET}
PLAIN = [plain for _, plain in analysis.PAIRS]
AWARE = [aware for aware, _ in analysis.PAIRS]


@pytest.fixture(autouse=True)
def few_resamples(monkeypatch: pytest.MonkeyPatch) -> None:
    """Fewer resamples than the figures have: what is planted here is clear-cut."""
    for module in (granulated, rank_correlation):
        monkeypatch.setattr(module, "NUM_RESAMPLES", 300)


def grid() -> pd.DataFrame:
    """Return 24 settings with two seeds each, a gap of its own for each setting, and a run per kind of failure."""
    rng, rows = np.random.default_rng(0), []
    values = itertools.product((0.1, 0.2, 0.3), (16, 64), (0.0, 0.1), ("none", "varied"), ("narrow",))
    for rate, batch, decay, augmentation, network in values:
        gap = 0.1 + 0.05 * rng.random()
        for seed in range(2):
            run = {"learning_rate": rate, "batch_size": batch, "weight_decay": decay, "augmentation": augmentation}
            run |= {"network": network, "model": network, "seed": seed, "run_id": f"run-{len(rows)}"}
            run |= {"status": "finished", "ended_by": "train_loss", "train_accuracy": 0.95, "train_loss": 0.1}
            rows.append(run | {"test_accuracy": 0.95 - gap - 1e-4 * seed, "test_loss": 0.1 + 3 * gap})
    late = rows[0] | {"run_id": "late", "ended_by": "epochs", "seed": 2, "weight_decay": 0.1}
    lost = rows[0] | {"run_id": "lost", "status": "missing", "ended_by": None, "seed": 3}
    burst = rows[0] | {"run_id": "burst", "status": "diverged", "ended_by": None, "seed": 4}
    return pd.DataFrame([*rows, late, lost, burst])


def planted(
    kinds: dict[str, str], absent: tuple[str, str] | None = None, shifted: Sequence[float] | None = None
) -> Tables:
    """Return a grid whose measures follow the ``gap``, its ``opposite``, minus the ``rate``, or ``nothing``.

    Each follows it strictly, but for its own small noise, which is the same for the seeds of a setting. ``shifted``
    are factors from the gap to the error on corrupted images, a row each.
    """
    runs, rows = grid(), []
    finished = runs.loc[runs["status"] == "finished"]
    for number, name in enumerate(MEASURES):
        noise = np.random.default_rng(number + 1).random(len(finished) // 2 + 1).repeat(2)[: len(finished)]
        gap = 0.95 - finished["test_accuracy"].to_numpy()
        follows = {"gap": gap, "opposite": -gap, "rate": -finished["learning_rate"].to_numpy(), "nothing": 0 * gap}
        values = 100 * follows[kinds.get(name, "nothing")] + noise * (1e-3 if name in kinds else 1)
        rows += [
            {"run_id": run, "measure": name, "value": None if (run, name) == absent else float(value)}
            for run, value in zip(finished["run_id"], values, strict=True)
        ]
    gaps = zip(finished["run_id"], 0.95 - finished["test_accuracy"], strict=True)
    tests = [{"run_id": run, "accuracy": 0.5 - factor * gap} for run, gap in gaps for factor in shifted or ()]
    measured = {"measures": pd.DataFrame(rows), "shifted": pd.DataFrame(tests)}
    return Tables(runs, measured=measured)


def verdicts(kinds: dict[str, str], shifted: Sequence[float] | None = None) -> dict[str, str]:
    tables = planted(kinds, shifted=shifted)
    runs = measured_runs(tables)
    return verdicts_of(tables, runs, all_taus(runs))


def verdicts_of(tables: Tables, runs: pd.DataFrame, taus: pd.DataFrame) -> dict[str, str]:
    found = analysis.findings(runs, taus, analysis.describe(tables, SETTINGS))
    names = ("weak", "none strong", "falls with rate", "rather rate", "aware", "norms", "shifted")
    return {name: finding.verdict for name, finding in zip(names, found, strict=True)}


def test_what_contrasts_share_cancels() -> None:
    rng = np.random.default_rng(1)
    table = pd.DataFrame({"gap": rng.random(30), "noise": rng.random(30)})
    table["up"], table["down"] = 2 * table["gap"], -table["gap"]
    none = mean_contrast(table, [(("up", "gap"), ("gap", "gap"))])
    assert (none.value, none.lower, none.upper) == (0, 0, 0)
    assert mean_contrast(table, [(("up", "gap"), ("down", "gap"))]).lower == 2
    assert mean_contrast(table, [(("up", "gap"), ("down", "gap"))], sizes=True).upper == 0
    both = mean_contrast(table.assign(flat=1.0), [(("up", "gap"), ("noise", "gap")), (("flat", "gap"), ("up", "gap"))])
    assert both.reason == "1 of 2 pairs" and both.lower is not None and both.lower > 0
    assert mean_contrast(table.iloc[:2], [(("up", "gap"), ("up", "gap"))]).reason == "needs at least 3 settings"


def test_seeds_are_averaged_and_runs_that_missed_the_loss_are_counted() -> None:
    tables = planted({"eigenvalue": "gap"}, absent=("run-0", "trace"))
    runs = measured_runs(tables)
    assert len(runs) == 48 and len(settings_of(runs)) == 24
    report = analysis.report(tables, SETTINGS)
    assert report.sentences[0] == (
        "1 of 49 finished runs missed the training loss and are left out (learning rate 0.1 (1); batch size 16 (1); "
        "weight decay 0.1 (1); augmentation none (1); network narrow (1)). "
        "49 of 51 runs finished, 1 diverged, 1 missing."
    )
    assert report.sentences[1] == "Runs without a value: trace 1."
    for drawing in report.drawings.values():
        assert not isinstance(drawing, str) and "1 of 49 finished runs missed" in drawing.caption
    taus = report.tables[0].numbers
    assert len(report.tables[0].rows) == len(MEASURES)
    for over in ("all", "learning_rate", "batch_size", "weight_decay", "augmentation", "mean"):
        assert tau_of(taus, "eigenvalue", "accuracy_gap", over).value == pytest.approx(1, abs=0.02)
    assert tau_of(taus, "eigenvalue", "loss_gap").value == pytest.approx(1, abs=0.02)
    assert tau_of(taus, "eigenvalue", "test_error").value == pytest.approx(1, abs=0.02)
    assert abs(tau_of(taus, "keskar", "accuracy_gap").value or 1) < 0.4


def test_sharpness_that_follows_the_rate_bears_the_claims_out() -> None:
    found = verdicts(dict.fromkeys(SHARPNESS, "rate") | {"spectral_product": "opposite"})
    assert found.pop("shifted") == "not testable here" and found.pop("aware") == "contradicted"
    assert set(found.values()) == {"reproduced"}


def test_sharpness_that_follows_the_gap_refutes_them() -> None:
    found = verdicts(dict.fromkeys([*SHARPNESS, "spectral_product"], "gap"))
    assert found.pop("shifted") == "not testable here"
    assert found.pop("falls with rate") == "inconclusive"  # the gap is planted without regard to the rate
    assert set(found.values()) == {"contradicted"}


@pytest.mark.parametrize(("better", "verdict"), [(AWARE, "reproduced"), (PLAIN, "contradicted")])
def test_the_better_kind_of_measure_is_found(better: list[str], verdict: str) -> None:
    found = verdicts(dict.fromkeys(better, "gap"))
    assert found["aware"] == verdict and found["none strong"] == "contradicted" and found["weak"] == "reproduced"


def test_shifted_errors_are_averaged_over_corruptions_and_judged() -> None:
    tables = planted({MAIN: "gap"}, shifted=(-3.0, 1.0))  # -1 on average: sharper is better on shifted data
    runs = measured_runs(tables)
    gaps = 0.95 - runs["test_accuracy"].to_numpy()
    np.testing.assert_allclose(runs["shifted_error"].to_numpy(dtype=float), 0.5 - gaps, rtol=1e-12)
    taus = all_taus(runs)
    assert tau_of(taus, MAIN, "shifted_error").value == pytest.approx(-1, abs=0.02)
    assert verdicts_of(tables, runs, taus)["shifted"] == "reproduced"
    assert verdicts({MAIN: "gap"}, shifted=(3.0, -1.0))["shifted"] not in ("reproduced", "not testable here")


def test_few_settings_give_no_verdict() -> None:
    tables = planted(dict.fromkeys(SHARPNESS, "gap"))
    runs = measured_runs(tables).iloc[:16]
    found = analysis.findings(runs, all_taus(runs), "few")
    assert {finding.verdict for finding in found} == {"not testable here"}
    assert found[0].why == "a verdict needs at least 10 settings"


def test_without_runs_nothing_is_drawn() -> None:
    tables = planted({})
    none = Tables(tables.runs.assign(ended_by="epochs"), tables.epochs, tables.tracked, tables.probes, {})
    report = analysis.report(none, SETTINGS)
    assert all(isinstance(drawing, str) for drawing in report.drawings.values())
    assert {finding.verdict for finding in report.findings} == {"not testable here"}


def quadratic(curvature: float) -> Subject:
    """Return ``curvature / 2 |w - 1|^2`` of six weights at w = (1, ..., 1), with a loss of its own at w = 0."""
    model = torch.nn.Linear(6, 1, bias=False)
    torch.nn.init.ones_(model.weight)

    def criterion(outputs: torch.Tensor, targets: torch.Tensor) -> torch.Tensor:
        return curvature * (outputs - targets).square().sum(1).mean() * 3  # mean over six rows of identity

    batch = (torch.eye(6, dtype=torch.float64), torch.ones(6, 1, dtype=torch.float64))
    loss = Loss(model, criterion, [batch], dtype=torch.float64)
    return Subject(loss=loss, checkpoint_sha256="", start=lambda: Point(weights=torch.zeros(6, dtype=torch.float64)))


def test_every_measure_has_its_closed_form_on_a_quadratic() -> None:
    """H = h I at its minimum, w = 1, n = 6, a rise of 0.1: E = h sigma^2 n / 2, box: h alpha^2 n / 2."""
    measures, h, n = measure.all_measures(100), 3.0, 6
    assert set(measures) == set(MEASURES)  # script and analysis agree
    subject = quadratic(h)
    shared = {
        **{"eigenvalue": h, "trace": n * h, "pac_bayes_plain": n * h / 0.2, "radius_adaptive": n * h / 0.2},
        **{
            "relative_flatness": n * h * n,
            "distance": n**0.5,
            "weight_norm": n**0.5,
            "spectral_product": np.log(n) / 2,
        },
        **{"average_plain": n * h * 1e-4 / 2, "average_adaptive": n * h * 1e-2 / 2, "fisher_trace": 0.0},
    }
    # At the minimum the gradient is zero and an ascent that starts there stays: away from it they climb.
    for name, expected in shared.items():
        row = measure.row_of(measures[name], subject)
        rtol = 0.15 if name.startswith(("average", "pac", "relative")) else 0.03
        assert row["value"] == pytest.approx(expected, rel=rtol, abs=1e-12), name


def test_larger_is_sharper_for_every_sharpness() -> None:
    values = []
    of_one_logit = {name: m for name, m in measure.all_measures(10).items() if not name.endswith("normalised")}
    for curvature in (1.0, 4.0):
        subject = quadratic(curvature)
        moved = Loss(subject.loss.model, subject.loss.criterion, subject.loss.batches, dtype=torch.float64)
        moved.weights.add_(0.01)
        each = Subject(loss=moved, checkpoint_sha256="", start=subject.start)
        rows = {name: measure.row_of(m, each)["value"] for name, m in of_one_logit.items()}
        values.append(rows)
    for name in of_one_logit.keys() & SHARPNESS:
        assert values[1][name] > 1.5 * values[0][name] > 0, name


def test_a_measure_that_fails_has_a_reason() -> None:
    row = measure.row_of(
        measure.Measure(lambda loss, w: (_ for _ in ()).throw(measure.RunError("too far"))), quadratic(1.0)
    )
    assert row == {"value": None, "reason": "too far", "converged": None, "seconds": None}


def test_shifted_tests_are_the_final_network_on_corrupted_images(tmp_path: Path) -> None:
    data = DataConfig(num_train=60, num_test=70, evaluation_batch_size=40)
    model, training = ModelConfig("fc_128_128_128", norm="none"), TrainingConfig(batch_size=20, epochs=2)
    config = RunConfig(data, model, training)
    folder = RunFolder.create(tmp_path / "run", config)
    train(config, load_run_data(config), folder, torch.device("cpu"))
    rows = measure.shifted_tests(site(folder.path), severities=[2, 5])
    assert [(row["corruption"], row["severity"]) for row in rows] == [
        (name, severity) for name in ("gaussian_noise", "gaussian_blur", "contrast") for severity in (2, 5)
    ]
    test = load_run_data(config).test
    network = load_network(folder, folder.final_checkpoint(), load_run_data(config), torch.device("cpu"))
    for row in rows:
        images = corrupted(test, row["corruption"], row["severity"]).inputs
        with torch.no_grad():
            outputs = network(images / 255)
        assert row["accuracy"] == pytest.approx(float((outputs.argmax(1) == test.targets).double().mean()))
        loss = torch.nn.functional.cross_entropy(outputs, test.targets)
        assert row["loss"] == pytest.approx(float(loss), rel=1e-5)
    assert len({row["loss"] for row in rows}) == len(rows)


@pytest.mark.study
def test_the_smoke_form_runs_once(tmp_path: Path) -> None:
    out, printed = smoke_once("andriushchenko2023", tmp_path)
    names = {path.name for path in out.iterdir()}
    assert {"tau.png", "scatter.pdf", "tau_table.md", "findings.json", "runs.csv"} <= names
    assert "All 3 finished runs ended at the training loss. 3 of 3 runs finished." in printed
    assert "error on corrupted test images" in (out / "tau_table.md").read_text(encoding="utf-8")


def test_the_presets_can_be_trained(tmp_path: Path) -> None:
    for name, number in (("cpu", 240), ("paper", 216)):
        preset = study.PRESETS[name]
        cells = study.cells_of(preset, preset.seeds)
        for cell in cells:
            check_config(cell.config)
        assert len({cell.config.run_id for cell in cells}) == len(cells) == number
        assert len(list(study.measurements(preset, cells))) == 2 * number
    resnet8 = [cell for cell in cells if cell.labels["network"] == "resnet8"]
    assert [manifest["status"] for manifest in first_steps(resnet8, tmp_path)] == ["finished"]
